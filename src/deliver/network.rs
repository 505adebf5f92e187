//! Which addresses an endpoint may live at: none that is private, unless the operator allows its network.
//!
//! The check happens on the addresses that a name resolves to, in the resolver that the connection uses: a name that
//! pointed elsewhere when it was entered gains nothing. An address written in a URL never meets a resolver, so it is
//! checked before the request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// The address, or every address of the name, is one that endpoints may not live at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {network}; deliver.allow_networks can allow it")]
pub(crate) struct RefusedAddress {
    address: IpAddr,
    network: &'static str,
}

/// The name could not be turned into an address.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unresolved(std::io::Error);

/// The rule, with the networks that `deliver.allow_networks` adds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    allowed: Arc<[IpNet]>,
}

impl Policy {
    pub(crate) fn new(allowed: impl Into<Arc<[IpNet]>>) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Refuses an address that is not on the public Internet, nor in an allowed network.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), RefusedAddress> {
        let allows = |ip: &IpAddr| self.allowed.iter().any(|network| network.contains(ip));
        // An IPv4 address inside an IPv6 one is where the packets end up: both must pass.
        let (inner, outer) = match address {
            IpAddr::V4(_) => (address, None),
            IpAddr::V6(v6) => match embedded(v6) {
                Some(v4) => (IpAddr::V4(v4), Some(v6)),
                None => (address, None),
            },
        };
        if allows(&address) || allows(&inner) {
            return Ok(());
        }
        let network = match inner {
            IpAddr::V4(v4) => special_v4(v4),
            IpAddr::V6(v6) => special_v6(v6),
        };
        match network.or_else(|| outer.and_then(special_v6)) {
            Some(network) => Err(RefusedAddress { address, network }),
            None => Ok(()),
        }
    }

    /// Refuses a URL whose host is written as an address that `check` refuses. Names pass: the resolver checks them.
    pub(crate) fn check_url(&self, url: &Url) -> Result<(), RefusedAddress> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(address.into()),
            Some(Host::Ipv6(address)) => self.check(address.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    /// The addresses of a name that may be connected to; refused if there is none.
    fn admit(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, RefusedAddress> {
        let mut admitted = Vec::with_capacity(addresses.len());
        let mut refused = None;
        for address in addresses {
            match self.check(address.ip()) {
                Ok(()) => admitted.push(address),
                Err(reason) => refused = Some(reason),
            }
        }
        match refused {
            Some(reason) if admitted.is_empty() => Err(reason),
            _ => Ok(admitted),
        }
    }
}

/// Resolves as the system does, and drops what the policy refuses.
impl Resolve for Policy {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await.map_err(Unresolved)?.collect();
            let admitted = policy.admit(found)?;
            Ok::<Addrs, Box<dyn std::error::Error + Send + Sync>>(Box::new(admitted.into_iter()))
        })
    }
}

/// The IPv4 address inside an IPv6 one: mapped and compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

/// What an IPv4 address is, if it is not a public one (IANA IPv4 Special-Purpose Address Registry).
fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (0, ..) => Some("unspecified"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Some("private"),
        (127, ..) => Some("loopback"),
        (169, 254, _) => Some("link-local (cloud metadata lives there)"),
        (100, 64..=127, _) => Some("shared by a carrier (CGNAT)"),
        (192, 0, 0) => Some("reserved for protocols"),
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Some("reserved for documentation"),
        (198, 18..=19, _) => Some("reserved for benchmarks"),
        (168, 63, 129) if address == Ipv4Addr::new(168, 63, 129, 16) => Some("a cloud's metadata address"),
        (224..=239, ..) => Some("multicast"),
        (240..=255, ..) => Some("reserved"),
        _ => None,
    }
}

/// What an IPv6 address is, if it is not a public one (IANA IPv6 Special-Purpose Address Registry).
fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let s = address.segments();
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        [0x64, 0xff9b, 1, ..] => Some("a private NAT64"),
        [0x2001, 0, ..] => Some("a Teredo tunnel"),
        [0x2001, 0xdb8, ..] => Some("reserved for documentation"),
        [first, ..] if first & 0xfe00 == 0xfc00 => Some("unique-local"),
        [first, ..] if first & 0xffc0 == 0xfe80 => Some("link-local"),
        [first, ..] if first & 0xffc0 == 0xfec0 => Some("site-local"),
        [first, ..] if first & 0xff00 == 0xff00 => Some("multicast"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(policy: &Policy, address: &str) -> bool {
        policy.check(address.parse().expect(address)).is_err()
    }

    #[test]
    fn private_addresses_are_refused_however_they_are_written() {
        let policy = Policy::default();
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
        ] {
            assert!(refused(&policy, address), "{address}");
        }
    }

    #[test]
    fn public_addresses_pass() {
        let policy = Policy::default();
        for address in [
            "8.8.8.8",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "192.167.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::",
        ] {
            assert!(!refused(&policy, address), "{address}");
        }
    }

    #[test]
    fn an_allowed_network_passes_and_nothing_beside_it() {
        let policy = Policy::new(vec!["127.0.0.0/8".parse().expect("cidr"), "fd00::/8".parse().expect("cidr")]);
        assert!(!refused(&policy, "127.0.0.1"));
        assert!(!refused(&policy, "::ffff:127.0.0.1"));
        assert!(!refused(&policy, "fd12::1"));
        assert!(refused(&policy, "10.0.0.1"));
        assert!(refused(&policy, "::1"));
    }

    #[test]
    fn an_address_in_a_url_is_checked_in_every_spelling() {
        for url in
            ["http://127.0.0.1/", "http://2130706433/", "http://0x7f.1/", "http://[::1]/", "http://[::ffff:a00:1]/"]
        {
            assert!(Policy::default().check_url(&Url::parse(url).expect(url)).is_err(), "{url}");
        }
    }

    #[test]
    fn a_name_with_one_public_address_is_reached_there_only() {
        let [private, public] = ["10.0.0.1:443", "8.8.8.8:443"].map(|text| text.parse::<SocketAddr>().expect(text));
        assert_eq!(Policy::default().admit(vec![private, public]), Ok(vec![public]));
        assert!(Policy::default().admit(vec![private]).is_err());
    }
}
