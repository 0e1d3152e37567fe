use super::*;

fn class(text: &str) -> Option<Class> {
    Class::of(text.parse().unwrap())
}

fn policy(networks: &[&str]) -> AddressPolicy {
    AddressPolicy::new(networks.iter().map(|text| text.parse().unwrap()).collect())
}

#[test]
fn the_edges_of_every_special_block_are_where_the_registries_say() {
    for (first, last, expected) in [
        ("0.0.0.0", "0.255.255.255", Class::Unspecified),
        ("10.0.0.0", "10.255.255.255", Class::Private),
        ("100.64.0.0", "100.127.255.255", Class::SharedNat),
        ("127.0.0.0", "127.255.255.255", Class::Loopback),
        ("169.254.0.0", "169.254.255.255", Class::LinkLocal),
        ("172.16.0.0", "172.31.255.255", Class::Private),
        ("192.0.0.0", "192.0.0.255", Class::Protocol),
        ("192.0.2.0", "192.0.2.255", Class::Documentation),
        ("192.88.99.0", "192.88.99.255", Class::SixToFour),
        ("192.168.0.0", "192.168.255.255", Class::Private),
        ("198.18.0.0", "198.19.255.255", Class::Benchmarking),
        ("198.51.100.0", "198.51.100.255", Class::Documentation),
        ("203.0.113.0", "203.0.113.255", Class::Documentation),
        ("224.0.0.0", "239.255.255.255", Class::Multicast),
        ("240.0.0.0", "255.255.255.254", Class::Reserved),
        ("255.255.255.255", "255.255.255.255", Class::Broadcast),
        ("168.63.129.16", "168.63.129.16", Class::Platform),
        ("64:ff9b::", "64:ff9b::ffff:ffff", Class::Nat64),
        ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Class::Nat64),
        ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", Class::Teredo),
        ("2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", Class::Benchmarking),
        ("2001:10::", "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff", Class::Protocol),
        ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Class::Documentation),
        ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Class::SixToFour),
        ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", Class::Documentation),
        ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Class::UniqueLocal),
        ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Class::LinkLocal),
        ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Class::SiteLocal),
        ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Class::Multicast),
        ("::ffff:0.0.0.0", "::ffff:255.255.255.255", Class::Mapped),
        ("::ffff:0:8.8.8.8", "::ffff:0:8.8.8.8", Class::Mapped),
        ("::2", "::255.255.255.255", Class::Mapped),
        ("100::", "100::ffff:ffff:ffff:ffff", Class::Reserved),
        ("4000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Class::Reserved),
        ("::", "::", Class::Unspecified),
        ("::1", "::1", Class::Loopback),
    ] {
        assert_eq!(class(first), Some(expected), "{first}");
        assert_eq!(class(last), Some(expected), "{last}");
    }
}

#[test]
fn what_lies_beside_a_special_block_is_public() {
    for public in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "168.63.129.15",
        "2001:200::",
        "2001:db7:ffff::",
        "2001:db9::",
        "2003::",
        "2606:4700::1111",
        "3ffe:ffff::",
        "3fff:1000::",
    ] {
        assert_eq!(class(public), None, "{public}");
    }
}

#[test]
fn a_network_in_the_entry_lets_its_own_addresses_through_and_no_others() {
    let policy = policy(&["10.1.0.0/16", "fd00:1::/32", "192.168.7.7"]);
    for good in ["10.1.2.3", "fd00:1::5", "192.168.7.7", "8.8.8.8"] {
        assert_eq!(policy.check(good.parse().unwrap()), Ok(()), "{good}");
    }
    for (bad, class) in [
        ("10.2.0.1", Class::Private),
        ("192.168.7.8", Class::Private),
        ("fd00:2::1", Class::UniqueLocal),
        ("::ffff:10.1.2.3", Class::Mapped),
        ("127.0.0.1", Class::Loopback),
    ] {
        assert_eq!(policy.check(bad.parse().unwrap()), Err(class), "{bad}");
    }
}

#[test]
fn a_network_of_translators_does_not_lead_to_what_is_refused_by_itself() {
    let translators = policy(&["64:ff9b::/96", "::ffff:0:0/96"]);
    assert_eq!(translators.check("64:ff9b::8.8.8.8".parse().unwrap()), Ok(()));
    for (bad, class) in [
        ("64:ff9b::10.0.0.1", Class::Private),
        ("64:ff9b::169.254.169.254", Class::LinkLocal),
        ("::ffff:127.0.0.1", Class::Loopback),
    ] {
        assert_eq!(translators.check(bad.parse().unwrap()), Err(class), "{bad}");
    }
}

#[test]
fn a_local_network_of_translators_leads_to_no_more_than_the_well_known_one() {
    // RFC 6052 section 2.2: where the IPv4 address stands goes by the prefix's length.
    let wide = policy(&["64:ff9b:1::/48"]);
    let middle = policy(&["64:ff9b:1:aa00::/56"]);
    let narrow = policy(&["64:ff9b:1:aabb::/64"]);
    let full = policy(&["64:ff9b:1::/96"]);
    for (policy, good) in [
        (&wide, "64:ff9b:1:808:8:800::"),
        (&middle, "64:ff9b:1:aa08:8:808::"),
        (&narrow, "64:ff9b:1:aabb:8:808:800:0"),
        (&full, "64:ff9b:1::8.8.8.8"),
    ] {
        assert_eq!(policy.check(good.parse().unwrap()), Ok(()), "{good}");
    }
    for (policy, bad, class) in [
        (&wide, "64:ff9b:1:7f00:0:100::", Class::Loopback),
        (&wide, "64:ff9b:1:a9fe:a9:fe00::", Class::LinkLocal),
        (&middle, "64:ff9b:1:aa7f:0:1::", Class::Loopback),
        (&narrow, "64:ff9b:1:aabb:a9:fea9:fe00:0", Class::LinkLocal),
        (&full, "64:ff9b:1::169.254.169.254", Class::LinkLocal),
        (&policy(&["64:ff9b:1::7f00:1"]), "64:ff9b:1::127.0.0.1", Class::Loopback),
        // Such a network does not say where to look.
        (&policy(&["64:ff9b::/32"]), "64:ff9b:1::8.8.8.8", Class::Nat64),
        (&policy(&["::/0"]), "64:ff9b:1::8.8.8.8", Class::Nat64),
    ] {
        assert_eq!(policy.check(bad.parse().unwrap()), Err(class), "{bad}");
    }
}

#[test]
fn a_tunnel_leads_to_nothing_that_is_refused_by_itself() {
    let tunnels = policy(&["2002::/16", "2001::/32", "::/96"]);
    for good in ["2002:808:808::1", "2001:0:808:808:0:0:f7f7:f7f7", "::8.8.8.8"] {
        assert_eq!(tunnels.check(good.parse().unwrap()), Ok(()), "{good}");
    }
    for (bad, class) in [
        ("2002:7f00:1::1", Class::Loopback),
        ("2002:a9fe:a9fe::1", Class::LinkLocal),
        // Of Teredo its server and, with every bit inverted, its client (RFC 4380 section 4).
        ("2001:0:a00:1:0:0:f7f7:f7f7", Class::Private),
        ("2001:0:808:808:0:0:5601:5601", Class::LinkLocal),
        ("::127.0.0.1", Class::Loopback),
    ] {
        assert_eq!(tunnels.check(bad.parse().unwrap()), Err(class), "{bad}");
    }
}

#[test]
fn loopback_is_for_the_names_of_this_machine_that_the_entry_writes() {
    let written = policy(&[]).with_written(&mut ["api.acme.example", "localhost"].into_iter());
    let here = "127.0.0.1".parse().unwrap();
    assert_eq!(written.check_resolved("localhost", here), Ok(()));
    assert_eq!(written.check_resolved("localhost", "10.0.0.1".parse().unwrap()), Err(Class::Private));
    assert_eq!(written.check_resolved("api.acme.example", here), Err(Class::Loopback));
    assert_eq!(policy(&[]).check_resolved("localhost", here), Err(Class::Loopback));
}

#[test]
fn a_network_is_written_without_bits_behind_its_prefix() {
    for good in ["10.0.0.0/8", "10.1.2.3", "fd00::/8", "::1"] {
        assert!(good.parse::<Network>().is_ok(), "{good}");
    }
    for (bad, hint) in [
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("10.0.0.0/33", "is not a network"),
        ("10/8", "is not a network"),
        ("cluster.local", "is not a network"),
        ("", "is not a network"),
    ] {
        let error = bad.parse::<Network>().unwrap_err().to_string();
        assert!(error.contains(hint), "{bad}: {error}");
    }
}
