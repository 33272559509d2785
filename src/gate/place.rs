//! Where a grant stands in the kernel. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use knock_config::{Allow, Rule, SetName};
use knock_proto::{Knock, Time};

use super::own_sets::address_of;
use crate::ledger::{Grant, Ledger};

/// What a grant adds an element to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// The managed table, for this guarded port.
    Port(Knock),
    /// A set of the administrator's.
    Set(SetName),
}

/// Where a grant of that rule to that address stands; nowhere where the rule has no set for its address family.
pub(crate) fn places(rule: &Rule, address: IpAddr) -> Vec<Place> {
    match &rule.allow {
        None => Vec::new(),
        Some(Allow::Ports { ports, .. }) => ports.iter().copied().map(Place::Port).collect(),
        Some(Allow::Sets { v4, v6, .. }) => {
            let set = if address.is_ipv4() { v4 } else { v6 };
            set.iter().cloned().map(Place::Set).collect()
        }
    }
}

/// How much of `limits.grants` a grant of that rule to that address takes. One that stands nowhere takes room in the record.
pub(super) fn size(rule: &Rule, address: IpAddr) -> usize {
    places(rule, address).len().max(1)
}

/// What a grant of that rule to that address opens, for people: guarded ports (`22/tcp`), sets (`inet filter ssh4`).
pub(crate) fn opens(rule: &Rule, address: IpAddr) -> Vec<String> {
    let text = |place| match place {
        Place::Port(port) => port.to_string(),
        Place::Set(set) => address_of(&set).to_string(),
    };
    places(rule, address).into_iter().map(text).collect()
}

/// The grant that an element stands for: of those to the address that stand there, the one that lasts longest. `None`:
/// there is none, or its time is over.
pub(crate) fn holder<'a>(
    ledger: &'a Ledger,
    rules: &[Rule],
    now: Time,
    address: IpAddr,
    place: &Place,
) -> Option<&'a Grant> {
    ledger
        .of_address(address)
        .filter(|grant| grant.expires > now && places(&rules[grant.rule], address).contains(place))
        .max_by_key(|grant| (grant.expires, grant.rule))
}

/// An element as it should be in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The name of the rule.
    pub(crate) rule: String,
    /// The grant that it stands for.
    pub(crate) grant: Grant,
}

impl Wanted {
    fn since_and_until(&self) -> (Time, Time) {
        (self.grant.since, self.grant.expires)
    }

    /// Whether the kernel need not be told of a change from the one to the other.
    pub(crate) fn same_element(&self, other: &Wanted) -> bool {
        self.rule == other.rule && self.since_and_until() == other.since_and_until()
    }
}

/// Every element that should be in the kernel.
pub(crate) fn wanted(ledger: &Ledger, rules: &[Rule]) -> HashMap<(IpAddr, Place), Wanted> {
    let mut all: HashMap<(IpAddr, Place), Wanted> = HashMap::new();
    for grant in ledger.iter() {
        for place in places(&rules[grant.rule], grant.address) {
            let lasts_longer = |other: &Wanted| (other.grant.expires, other.grant.rule) > (grant.expires, grant.rule);
            if !all.get(&(grant.address, place.clone())).is_some_and(lasts_longer) {
                let rule = rules[grant.rule].name.to_string();
                all.insert((grant.address, place), Wanted { rule, grant: *grant });
            }
        }
    }
    all
}
