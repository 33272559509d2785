//! Local routes: the addresses that the kernel takes for its own, whatever the interfaces have. No I/O.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A route of type `RTN_LOCAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LocalRoute {
    pub(super) prefix: Prefix,
    /// The routing table.
    pub(super) table: u32,
    /// The metric.
    pub(super) priority: u32,
    /// The index of the interface; 0 where it has none.
    pub(super) interface: u32,
}

/// The addresses that begin with these bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Prefix {
    /// The other bits are 0.
    pub(super) network: IpAddr,
    pub(super) length: u8,
}

impl Prefix {
    fn of(address: IpAddr, length: u8) -> Prefix {
        let network = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        };
        Prefix { network, length }
    }
}

/// All local routes.
#[derive(Debug, Default)]
pub(super) struct LocalRoutes {
    routes: HashSet<LocalRoute>,
    /// How many routes each prefix has.
    prefixes: HashMap<Prefix, usize>,
    /// How many prefixes of IPv4 and of IPv6 have each length.
    lengths: [BTreeMap<u8, usize>; 2],
}

impl LocalRoutes {
    /// Whether a local route is for the address. Costs a hash look-up for each length of a prefix that there is.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let lengths = self.lengths[usize::from(address.is_ipv6())].keys();
        !address.is_multicast() && lengths.rev().any(|&length| self.prefixes.contains_key(&Prefix::of(address, length)))
    }

    pub(super) fn insert(&mut self, route: LocalRoute) {
        if !route.counts() || !self.routes.insert(route) {
            return;
        }
        let prefix = Prefix::of(route.prefix.network, route.prefix.length);
        let count = self.prefixes.entry(prefix).or_default();
        *count += 1;
        if *count == 1 {
            *self.lengths[usize::from(prefix.network.is_ipv6())].entry(prefix.length).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, route: &LocalRoute) {
        if !self.routes.remove(route) {
            return;
        }
        let prefix = Prefix::of(route.prefix.network, route.prefix.length);
        if !decrease(&mut self.prefixes, prefix) {
            return;
        }
        let lengths = &mut self.lengths[usize::from(prefix.network.is_ipv6())];
        if let Some(count) = lengths.get_mut(&prefix.length) {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&prefix.length);
            }
        }
    }

    /// Another route takes the place of those with the same prefix, table and metric.
    pub(super) fn replace(&mut self, route: &LocalRoute) {
        self.remove_where(|old| (old.prefix, old.table, old.priority) == (route.prefix, route.table, route.priority));
    }

    /// The interface is gone. The kernel does not report the routes that go with it.
    pub(super) fn remove_interface(&mut self, index: u32) {
        self.remove_where(|route| route.interface == index);
    }

    /// Makes these the routes.
    pub(super) fn set(&mut self, routes: Vec<LocalRoute>) {
        *self = LocalRoutes::default();
        routes.into_iter().for_each(|route| self.insert(route));
    }

    fn remove_where(&mut self, which: impl Fn(&LocalRoute) -> bool) {
        let gone: Vec<LocalRoute> = self.routes.iter().filter(|route| which(route)).copied().collect();
        gone.iter().for_each(|route| self.remove(route));
    }
}

/// Returns whether there is none left.
fn decrease(counts: &mut HashMap<Prefix, usize>, prefix: Prefix) -> bool {
    let Some(count) = counts.get_mut(&prefix) else { return false };
    *count -= 1;
    let none = *count == 0;
    if none {
        counts.remove(&prefix);
    }
    none
}

impl LocalRoute {
    /// A local default route outside the table `local` is how a transparent proxy gets what is routed through
    /// (Documentation/networking/tproxy.rst). The addresses in these packets are not those of this host.
    fn counts(&self) -> bool {
        self.prefix.length > 0 || self.table == u32::from(libc::RT_TABLE_LOCAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, table: u32, interface: u32) -> LocalRoute {
        let (network, length) = prefix.split_once('/').expect("a prefix");
        let prefix =
            Prefix { network: network.parse().expect("an address"), length: length.parse().expect("a length") };
        LocalRoute { prefix, table, priority: 0, interface }
    }

    fn contains(routes: &LocalRoutes, address: &str) -> bool {
        routes.contains(address.parse().expect("an address"))
    }

    #[test]
    fn an_address_in_the_prefix_of_a_local_route_is_local() {
        let mut routes = LocalRoutes::default();
        for prefix in ["10.99.0.0/24", "10.0.0.1/32", "fd99::/64", "128.0.0.0/1"] {
            routes.insert(route(prefix, 255, 1));
        }
        for address in ["10.99.0.0", "10.99.0.255", "10.0.0.1", "fd99::7", "128.0.0.1", "223.0.0.1"] {
            assert!(contains(&routes, address), "{address}");
        }
        for address in ["10.99.1.0", "10.0.0.2", "fd99:0:0:1::", "127.0.0.1", "224.0.0.1", "::a63:1"] {
            assert!(!contains(&routes, address), "{address}");
        }
    }

    #[test]
    fn a_prefix_is_local_until_its_last_route_is_gone() {
        let mut routes = LocalRoutes::default();
        let (one, other) = (route("10.99.0.0/24", 255, 1), route("10.99.0.0/24", 100, 2));
        for route in [one, other, one] {
            routes.insert(route);
        }
        routes.remove(&one);
        routes.remove(&one);
        assert!(contains(&routes, "10.99.0.1"));
        routes.remove_interface(2);
        assert!(!contains(&routes, "10.99.0.1"));
        assert!(routes.prefixes.is_empty() && routes.lengths.iter().all(BTreeMap::is_empty));

        routes.insert(one);
        routes.replace(&route("10.99.0.0/24", 255, 9));
        assert!(!contains(&routes, "10.99.0.1"));
        routes.insert(one);
        routes.set(vec![route("10.98.0.0/24", 255, 1)]);
        assert!(!contains(&routes, "10.99.0.1") && contains(&routes, "10.98.0.1"));
    }

    #[test]
    fn a_local_default_route_counts_in_the_table_local_alone() {
        let mut routes = LocalRoutes::default();
        for prefix in ["0.0.0.0/0", "::/0"] {
            routes.insert(route(prefix, 100, 1));
            routes.insert(route(prefix, 254, 1));
        }
        assert!(!contains(&routes, "192.0.2.1") && !contains(&routes, "2001:db8::1"));
        routes.insert(route("0.0.0.0/0", 255, 1));
        routes.insert(route("::/0", 255, 1));
        assert!(contains(&routes, "192.0.2.1") && contains(&routes, "2001:db8::1"));
    }
}
