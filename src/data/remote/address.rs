//! Which addresses a job's URL must not lead to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::LocalAddresses;

/// How an address got into a URL's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// A name resolved to it.
    ByName,
    /// It stands in the URL itself, and hence in the list of allowed hosts.
    ByAddress,
}

/// Why `address` is refused; `None` where it is not.
pub(super) fn refused(address: IpAddr, named: Named, local: LocalAddresses) -> Option<&'static str> {
    let kind = kind(address)?;
    let allowed = match (kind, local, named) {
        (_, LocalAddresses::Refused, _) | (Kind::Never(_), _, _) => false,
        (Kind::Local(_), LocalAddresses::Allowed, _) => true,
        (Kind::Link(_), LocalAddresses::Allowed, named) => named == Named::ByAddress,
    };
    let (Kind::Local(what) | Kind::Link(what) | Kind::Never(what)) = kind;
    (!allowed).then_some(what)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of this machine or a private network.
    Local(&'static str),
    /// Of a link, or where clouds tell machines their secrets.
    Link(&'static str),
    /// Of no single host.
    Never(&'static str),
}

/// What is special about `address`; `None` for those of the public internet.
fn kind(address: IpAddr) -> Option<Kind> {
    match address {
        IpAddr::V4(address) => kind_of_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => kind_of_v4(inner),
            None => kind_of_v6(address),
        },
    }
}

/// The IPv4 address that a connection to `address` may end at: mapped, compatible, NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(v4(g, h)),
        [0, 0, 0, 0, 0, 0] if (g, h) != (0, 0) && (g, h) != (0, 1) => Some(v4(g, h)),
        [0x64, 0xff9b, 1, ..] => Some(v4(g, h)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

fn kind_of_v4(address: Ipv4Addr) -> Option<Kind> {
    match address.octets() {
        // Of Alibaba, Azure and Oracle; that of all others is one of the link.
        [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => {
            Some(Kind::Link("an address of cloud metadata"))
        }
        [169, 254, ..] => Some(Kind::Link("a link-local address")),
        [127, ..] => Some(Kind::Local("a loopback address")),
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => {
            Some(Kind::Local("an address of a private network"))
        }
        [0, ..] => Some(Kind::Never("no address of a host")),
        [192, 0, 0, _] | [198, 18..=19, ..] => Some(Kind::Local("an address of a private network")),
        [224..=255, ..] => Some(Kind::Never("a multicast or reserved address")),
        _ => None,
    }
}

fn kind_of_v6(address: Ipv6Addr) -> Option<Kind> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Kind::Local("a loopback address")),
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Kind::Never("no address of a host")),
        [0xfd00, 0x0ec2, ..] => Some(Kind::Link("an address of cloud metadata")),
        [0xfe80..=0xfebf, ..] => Some(Kind::Link("a link-local address")),
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Some(Kind::Local("an address of a private network")),
        [0xff00..=0xffff, ..] => Some(Kind::Never("a multicast or reserved address")),
        // Teredo: its address of a client is an IPv4 one in disguise.
        [0x2001, 0, ..] => Some(Kind::Never("an address of a tunnel")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_by(address: &str, named: Named, local: LocalAddresses) -> bool {
        refused(address.parse().unwrap(), named, local).is_some()
    }

    #[test]
    fn only_public_addresses_are_open_by_default() {
        for address in
            ["93.184.216.34", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1"]
        {
            assert!(!refused_by(address, Named::ByName, LocalAddresses::Refused), "{address}");
        }
        for address in [
            "127.0.0.1",
            "127.255.1.2",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a00:1",
            "2002:7f00:1::",
            "2001:0:1::1",
            "fe80::1",
            "fd00:ec2::254",
            "fc00::1",
            "ff02::1",
        ] {
            for named in [Named::ByName, Named::ByAddress] {
                assert!(refused_by(address, named, LocalAddresses::Refused), "{address}");
            }
        }
    }

    #[test]
    fn those_of_a_link_are_open_only_by_their_own_name() {
        let local = LocalAddresses::Allowed;
        for address in ["127.0.0.1", "10.0.0.1", "::1", "fd12::1", "::ffff:192.168.0.1"] {
            assert!(!refused_by(address, Named::ByName, local), "{address}");
        }
        for address in ["169.254.169.254", "fe80::1", "fd00:ec2::254", "::ffff:169.254.169.254"] {
            assert!(refused_by(address, Named::ByName, local), "{address}");
            assert!(!refused_by(address, Named::ByAddress, local), "{address}");
        }
        for address in ["0.0.0.0", "224.0.0.1", "ff02::1"] {
            assert!(refused_by(address, Named::ByAddress, local), "{address}");
        }
    }
}
