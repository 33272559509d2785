//! The table of interfaces and addresses: state in, differences out. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::routes::{LocalRoute, LocalRoutes};

/// What a message says about the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The interface is there, like this.
    Link(Link),
    /// The interface with this index is gone.
    NoLink(u32),
    /// The address is there.
    Address(Address),
    /// The address is gone.
    NoAddress(Address),
    /// The local route is there. `replaces`: in place of one that it is like.
    LocalRoute {
        /// The route.
        route: LocalRoute,
        /// `NLM_F_REPLACE`.
        replaces: bool,
    },
    /// The local route is gone.
    NoLocalRoute(LocalRoute),
    /// A route of another type is there in place of local ones that are like this.
    OtherRoute(LocalRoute),
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index: unique, and another one when an interface of the same name is created again.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its other names (ip-link(8), `property add altname`), which no other interface has either.
    pub alternative_names: Vec<String>,
    /// Whether it is administratively up (`IFF_UP`): only then it receives.
    pub up: bool,
    /// Whether it is operational as well (`IFF_RUNNING`): a carrier is there.
    pub running: bool,
}

/// What changed, once for each change however often the kernel repeats it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// There is a new interface. [`LinkChange::Up`] follows where it is up already.
    Appeared {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// The interface is gone; its addresses went before.
    Disappeared {
        /// The index that it had.
        index: u32,
        /// The name that it had.
        name: String,
    },
    /// The interface receives from now on.
    Up {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// The interface no longer receives.
    Down {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// The interface has another name; its index is the same.
    Renamed {
        /// Its index.
        index: u32,
        /// The name that it had.
        from: String,
        /// The name that it has.
        to: String,
    },
    /// The interface has other alternative names. The kernel says that at once where the interface is up, else when it
    /// goes up.
    AlternativeNames {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// The interface has one more address.
    AddressAdded {
        /// The interface's index.
        index: u32,
        /// The interface's name.
        name: String,
        /// The address.
        address: IpAddr,
    },
    /// The interface has an address no more.
    AddressRemoved {
        /// The interface's index.
        index: u32,
        /// The interface's name.
        name: String,
        /// The address.
        address: IpAddr,
    },
}

/// An address of an interface. The same one may be there with several prefix lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) index: u32,
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
}

/// The whole state at one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<LocalRoute>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<Address>,
    /// How many entries of `addresses` have this address: an address may be on several interfaces.
    local: HashMap<IpAddr, usize>,
    routes: LocalRoutes,
}

impl Table {
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    pub(super) fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains_key(&address)
            || matches!(address, IpAddr::V4(v4) if v4.is_loopback())
            || self.routes.contains(address)
    }

    pub(super) fn apply(&mut self, item: Item, changes: &mut Vec<LinkChange>) {
        match item {
            Item::Link(link) => self.put_link(link, changes),
            Item::NoLink(index) => self.remove_link(index, changes),
            Item::Address(address) => self.put_address(address, changes),
            Item::NoAddress(address) => self.remove_address(address, changes),
            Item::LocalRoute { route, replaces } => {
                if replaces {
                    self.routes.replace(&route);
                }
                self.routes.insert(route);
            }
            Item::NoLocalRoute(route) => self.routes.remove(&route),
            Item::OtherRoute(route) => self.routes.replace(&route),
        }
    }

    /// Makes the table what the snapshot says.
    pub(super) fn replace(&mut self, snapshot: Snapshot, changes: &mut Vec<LinkChange>) {
        let indices: HashSet<u32> = snapshot.links.iter().map(|link| link.index).collect();
        let addresses: HashSet<Address> = snapshot.addresses.iter().copied().collect();
        let lost: Vec<Address> = self.addresses.iter().filter(|at| !addresses.contains(at)).copied().collect();
        for address in lost {
            self.remove_address(address, changes);
        }
        let gone: Vec<u32> = self.links.keys().filter(|index| !indices.contains(index)).copied().collect();
        for index in gone {
            self.remove_link(index, changes);
        }
        for link in snapshot.links {
            self.put_link(link, changes);
        }
        for address in snapshot.addresses {
            self.put_address(address, changes);
        }
        self.routes.set(snapshot.routes);
    }

    fn put_link(&mut self, link: Link, changes: &mut Vec<LinkChange>) {
        let Link { index, up, .. } = link;
        let name = link.name.clone();
        let old = self.links.insert(index, link.clone());
        match &old {
            None => changes.push(LinkChange::Appeared { index, name: name.clone() }),
            Some(old) if old.name != name => {
                changes.push(LinkChange::Renamed { index, from: old.name.clone(), to: name.clone() });
            }
            Some(old) if old.alternative_names != link.alternative_names => {
                changes.push(LinkChange::AlternativeNames { index, name: name.clone() });
            }
            Some(_) => {}
        }
        match (old.is_some_and(|old| old.up), up) {
            (false, true) => changes.push(LinkChange::Up { index, name }),
            (true, false) => changes.push(LinkChange::Down { index, name }),
            _ => {}
        }
    }

    fn remove_link(&mut self, index: u32, changes: &mut Vec<LinkChange>) {
        let left: Vec<Address> = self.addresses.iter().filter(|at| at.index == index).copied().collect();
        for address in left {
            self.remove_address(address, changes);
        }
        self.routes.remove_interface(index);
        if let Some(Link { name, .. }) = self.links.remove(&index) {
            changes.push(LinkChange::Disappeared { index, name });
        }
    }

    fn put_address(&mut self, at: Address, changes: &mut Vec<LinkChange>) {
        let Address { index, address, .. } = at;
        let first = !self.has_address(index, address);
        if self.addresses.insert(at) {
            *self.local.entry(address).or_default() += 1;
            if first {
                changes.push(LinkChange::AddressAdded { index, name: self.name_of(index), address });
            }
        }
    }

    fn remove_address(&mut self, at: Address, changes: &mut Vec<LinkChange>) {
        let Address { index, address, .. } = at;
        if !self.addresses.remove(&at) {
            return;
        }
        if let Some(count) = self.local.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.local.remove(&address);
            }
        }
        if !self.has_address(index, address) {
            changes.push(LinkChange::AddressRemoved { index, name: self.name_of(index), address });
        }
    }

    fn has_address(&self, index: u32, address: IpAddr) -> bool {
        let at = |prefix| Address { index, address, prefix };
        self.addresses.range(at(0)..=at(u8::MAX)).next().is_some()
    }

    fn name_of(&self, index: u32) -> String {
        self.links.get(&index).map(|link| link.name.clone()).unwrap_or_default()
    }
}
