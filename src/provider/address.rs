//! Which addresses the broker calls. Owns the classes of addresses that are never meant by a provider's public name, and
//! the exceptions that a provider's entry makes. Knows no DNS and no socket.
//!
//! Invariant: what is not known to be public is not called: an address is refused by its class unless a network written in
//! the entry covers it, and an IPv4 address inside an IPv6 one is looked at as well.

mod class;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

pub use class::Class;
use class::Inner;

/// The addresses at which one provider's hosts may be.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    networks: Vec<Network>,
    /// Names of this machine that are written in the entry.
    local_names: BTreeSet<String>,
    /// Addresses that are written in the entry in the place of a name.
    literals: BTreeSet<IpAddr>,
}

impl AddressPolicy {
    /// Public addresses, and those in `networks`.
    pub fn new(networks: Vec<Network>) -> Self {
        Self { networks, ..Self::default() }
    }

    /// The same, and loopback for those names among `hosts` that RFC 6761 keeps on this machine: an entry that says
    /// `localhost` means it.
    #[must_use]
    pub fn with_written(mut self, hosts: &mut dyn Iterator<Item = &str>) -> Self {
        self.local_names.extend(
            hosts.filter(|host| *host == "localhost" || host.ends_with(".localhost")).map(str::to_owned),
        );
        self
    }

    /// The same, and these very addresses where they stand in a URL themselves: no name server can change what was written.
    #[must_use]
    pub fn with_literals(mut self, literals: impl IntoIterator<Item = IpAddr>) -> Self {
        self.literals.extend(literals);
        self
    }

    /// Whether an address may be called that stands in a URL in the place of a name, so that no resolver is asked.
    ///
    /// # Errors
    /// The class for which it may not.
    pub fn check_literal(&self, address: IpAddr) -> Result<(), Class> {
        if self.literals.contains(&address) { Ok(()) } else { self.check(address) }
    }

    /// Whether an address may be called.
    ///
    /// # Errors
    /// The class for which it may not.
    pub fn check(&self, address: IpAddr) -> Result<(), Class> {
        let Some(class) = Class::of(address) else { return Ok(()) };
        // The entry does not allow it, unless a network of it does.
        let mut refused = class;
        for network in self.networks.iter().filter(|network| network.covers(address)) {
            let inner = match class::inner(address, network.0.prefix_len()) {
                Inner::Nothing => return Ok(()),
                Inner::Hidden => continue,
                Inner::Reached(inner) => inner,
            };
            // Translators and tunnels lead to whatever is written inside.
            match inner.into_iter().try_for_each(|inner| self.check(inner)) {
                Ok(()) => return Ok(()),
                Err(class) => refused = class,
            }
        }
        Err(refused)
    }

    /// Whether an address that `host` resolved to may be called.
    ///
    /// # Errors
    /// The class for which it may not.
    pub fn check_resolved(&self, host: &str, address: IpAddr) -> Result<(), Class> {
        if address.is_loopback() && self.local_names.contains(host) {
            return Ok(());
        }
        self.check(address)
    }
}

/// A network in an entry: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether it holds an address.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

/// The text is no network. Displays as a sentence fragment that says how to write one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It does not parse.
    #[error("is not a network; write 10.0.0.0/8, fd00::/8 or one address")]
    NotANetwork,
    /// It holds more than a network.
    #[error("has bits behind its prefix; write {0}")]
    HostBits(IpNet),
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.into()));
        }
        let network: IpNet = text.parse().map_err(|_| NetworkError::NotANetwork)?;
        if network.trunc() != network {
            return Err(NetworkError::HostBits(network.trunc()));
        }
        Ok(Self(network))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
