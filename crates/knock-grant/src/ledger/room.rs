//! How much of `limits.grants` is used up: by all grants to an IP version, and by each network.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network whose addresses may all be one host's: an IPv6 /64, which is what a link has, or an IPv4 /24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl Network {
    fn of(address: IpAddr) -> Network {
        Network(match address {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & !0xff)),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, if self.0.is_ipv4() { 24 } else { 64 })
    }
}

/// Why there is no room for a grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// All grants to the IP version take as much as they may.
    #[error(
        "the set is full: the grants to {} addresses have the {limit} elements that `limits.grants` allows; raise it, or \
         end grants with `knockctl revoke`",
        if *.v4 { "IPv4" } else { "IPv6" }
    )]
    Version {
        /// Whether it is IPv4.
        v4: bool,
        /// `limits.grants`.
        limit: usize,
    },
    /// They take so much that what is left is for grants that were made here.
    #[error(
        "the grants to {} addresses have the {most} elements beyond which `limits.grants` is for knocks at this node; raise it, or \
         end grants with `knockctl revoke`",
        if *.v4 { "IPv4" } else { "IPv6" }
    )]
    Vouched {
        /// Whether it is IPv4.
        v4: bool,
        /// Three quarters of `limits.grants`.
        most: usize,
    },
    /// The grants to the network do.
    #[error(
        "the grants to addresses of {network} have the {share} elements that one network may have where `limits.grants` \
         is {limit}; raise it, or end grants with `knockctl revoke`"
    )]
    Network {
        /// The network.
        network: Network,
        /// What it may have.
        share: usize,
        /// `limits.grants`.
        limit: usize,
    },
}

/// What one network may have of `limit`: a sixteenth, but 256 elements or half of a limit that is small.
fn share(limit: usize) -> usize {
    (limit / 16).max(limit.div_ceil(2).min(256))
}

/// The elements that grants take.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    v4: usize,
    v6: usize,
    networks: HashMap<Network, usize>,
}

impl Usage {
    fn version(&mut self, address: IpAddr) -> &mut usize {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    pub(super) fn add(&mut self, address: IpAddr, elements: usize) {
        *self.version(address) += elements;
        *self.networks.entry(Network::of(address)).or_default() += elements;
    }

    pub(super) fn remove(&mut self, address: IpAddr, elements: usize) {
        let version = self.version(address);
        *version = version.saturating_sub(elements);
        let network = Network::of(address);
        if let Some(used) = self.networks.get_mut(&network) {
            *used = used.saturating_sub(elements);
            if *used == 0 {
                self.networks.remove(&network);
            }
        }
    }

    /// Whether a grant of so many elements has room under `limit` beside what is there.
    pub(super) fn check(&self, limit: usize, address: IpAddr, elements: usize) -> Result<(), Full> {
        self.check_version(limit, address, elements).and_then(|()| self.check_network(limit, address, elements))
    }

    /// The same, as to the IP version.
    pub(super) fn check_version(&self, limit: usize, address: IpAddr, elements: usize) -> Result<(), Full> {
        let v4 = address.is_ipv4();
        let used = if v4 { self.v4 } else { self.v6 };
        if used + elements > limit { Err(Full::Version { v4, limit }) } else { Ok(()) }
    }

    /// Whether a grant that rests on the word of another node has room. It leaves a quarter for what is knocked here: a node that was
    /// broken into must lock nobody out elsewhere.
    pub(super) fn check_vouched(&self, limit: usize, address: IpAddr, elements: usize) -> Result<(), Full> {
        let v4 = address.is_ipv4();
        let most = limit - limit / 4;
        self.check_version(most, address, elements).map_err(|_| Full::Vouched { v4, most })
    }

    /// The same, as to the network.
    pub(super) fn check_network(&self, limit: usize, address: IpAddr, elements: usize) -> Result<(), Full> {
        let (network, share) = (Network::of(address), share(limit));
        // A rule may have more ports than that: a network without a grant may have one.
        match self.networks.get(&network) {
            Some(used) if used + elements > share => Err(Full::Network { network, share, limit }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_leaves_room_for_others_whatever_the_limit() {
        for limit in [2, 3, 16, 100, 512, 4096, 65_536, 1 << 20] {
            assert!(share(limit) >= 1 && share(limit) < limit, "{limit}: {}", share(limit));
        }
        assert_eq!((share(1), share(3), share(65_536)), (1, 2, 4096));
    }

    #[test]
    fn the_error_names_the_full_set_and_the_remedy() {
        let mut usage = Usage::default();
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        usage.add(address("2001:db8::1"), 2);
        let text = |limit, elements, of| usage.check(limit, address(of), elements).expect_err("full").to_string();
        assert_eq!(
            text(4, 1, "2001:db8::ffff:1"),
            "the grants to addresses of 2001:db8::/64 have the 2 elements that one network may have where \
             `limits.grants` is 4; raise it, or end grants with `knockctl revoke`"
        );
        assert_eq!(
            text(4, 3, "2001:db8:0:1::1"),
            "the set is full: the grants to IPv6 addresses have the 4 elements that `limits.grants` allows; raise it, \
             or end grants with `knockctl revoke`"
        );
        assert_eq!(usage.check(4, address("2001:db8:0:1::1"), 2), Ok(()));
        assert_eq!(
            usage.check(4, address("192.0.2.1"), 4),
            Ok(()),
            "another version, and the only grant of its network"
        );
    }
}
