//! What kind of address an address is, after IANA's special-purpose registries (RFC 6890 and its successors).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident = $words:literal),+ $(,)?) => {
        /// Why an address is not a public one. Displays as what it is, with an article.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Class {
            $($(#[$doc])* $name),+
        }

        impl fmt::Display for Class {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $words),+
                })
            }
        }
    };
}

classes! {
    /// `0.0.0.0/8`, `::`.
    Unspecified = "an unspecified address",
    /// `127.0.0.0/8`, `::1`.
    Loopback = "a loopback address",
    /// RFC 1918.
    Private = "a private address",
    /// `169.254.0.0/16`, `fe80::/10`: metadata services of clouds live here.
    LinkLocal = "a link-local address",
    /// `100.64.0.0/10` (RFC 6598).
    SharedNat = "an address behind a carrier's NAT",
    /// `fc00::/7` (RFC 4193).
    UniqueLocal = "a unique local address",
    /// `fec0::/10`, deprecated (RFC 3879).
    SiteLocal = "a site-local address",
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast = "a multicast address",
    /// `255.255.255.255`.
    Broadcast = "the broadcast address",
    /// RFC 5737, RFC 3849, RFC 9637.
    Documentation = "an address for documentation",
    /// RFC 2544, RFC 5180.
    Benchmarking = "an address for benchmarks",
    /// `192.0.0.0/24`, `2001::/23`.
    Protocol = "an address for protocols",
    /// An IPv4 address inside `::ffff:0:0/96` or `::/96`.
    Mapped = "an IPv4 address written as IPv6",
    /// `64:ff9b::/96` and `64:ff9b:1::/48` (RFC 6052, RFC 8215).
    Nat64 = "an address that is translated to IPv4",
    /// `2002::/16`, `192.88.99.0/24`.
    SixToFour = "a 6to4 address",
    /// `2001::/32`.
    Teredo = "a Teredo address",
    /// `168.63.129.16`, where a cloud answers its own machines.
    Platform = "an address of a cloud's own platform",
    /// Everything else that is not global unicast.
    Reserved = "a reserved address",
}

impl Class {
    /// The class of an address; `None` for a public one.
    pub fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Option<Class> {
    Some(match address.octets() {
        [0, ..] => Class::Unspecified,
        [127, ..] => Class::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Class::Private,
        [169, 254, ..] => Class::LinkLocal,
        [100, 64..=127, ..] => Class::SharedNat,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Class::Documentation,
        [192, 0, 0, _] => Class::Protocol,
        [192, 88, 99, _] => Class::SixToFour,
        [198, 18..=19, ..] => Class::Benchmarking,
        [168, 63, 129, 16] => Class::Platform,
        [224..=239, ..] => Class::Multicast,
        [255, 255, 255, 255] => Class::Broadcast,
        [240..=255, ..] => Class::Reserved,
        _ => return None,
    })
}

fn of_v6(address: Ipv6Addr) -> Option<Class> {
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Class::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Loopback,
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Class::Mapped,
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => Class::Nat64,
        [0x2001, 0, ..] => Class::Teredo,
        [0x2001, 2, 0, ..] => Class::Benchmarking,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Class::Documentation,
        [0x2001, 0..=0x1ff, ..] => Class::Protocol,
        [0x2002, ..] => Class::SixToFour,
        [0xfc00..=0xfdff, ..] => Class::UniqueLocal,
        [0xfe80..=0xfebf, ..] => Class::LinkLocal,
        [0xfec0..=0xfeff, ..] => Class::SiteLocal,
        [0xff00..=0xffff, ..] => Class::Multicast,
        // Global unicast is 2000::/3 so far (RFC 4291 section 2.4, IANA).
        [0x2000..=0x3fff, ..] => return None,
        _ => Class::Reserved,
    })
}

/// What an IPv6 address leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inner {
    /// To itself.
    Nothing,
    /// To these.
    Reached(Vec<IpAddr>),
    /// To an IPv4 address that stands where cannot be known.
    Hidden,
}

/// The IPv4 addresses that are reached through an IPv6 address, or that it merely spells. Where a translator's stands
/// goes by the length of its own prefix (RFC 6052 section 2.2), which is taken to be that of the network in the entry.
pub(super) fn inner(address: IpAddr, prefix: u8) -> Inner {
    let IpAddr::V6(address) = address else { return Inner::Nothing };
    let octets = address.octets();
    let at = |places: [usize; 4]| IpAddr::V4(Ipv4Addr::from(places.map(|place| octets[place])));
    let last = at([12, 13, 14, 15]);
    let reached = match of_v6(address) {
        Some(Class::Mapped) => vec![last],
        // The network of the well-known prefix has one length.
        Some(Class::Nat64) if address.segments()[2] == 0 => vec![last],
        Some(Class::Nat64) => match prefix {
            48 => vec![at([6, 7, 9, 10])],
            56 => vec![at([7, 9, 10, 11])],
            64 => vec![at([9, 10, 11, 12])],
            96.. => vec![last],
            _ => return Inner::Hidden,
        },
        Some(Class::SixToFour) => vec![at([2, 3, 4, 5])],
        Some(Class::Teredo) => {
            let client = [12, 13, 14, 15].map(|place: usize| !octets[place]);
            vec![at([4, 5, 6, 7]), IpAddr::V4(Ipv4Addr::from(client))]
        }
        _ => return Inner::Nothing,
    };
    Inner::Reached(reached)
}
