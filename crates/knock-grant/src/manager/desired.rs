//! Which elements there should be.

use std::collections::HashMap;
use std::time::Duration;

use knock_nft::Lifetime;
use knock_proto::Time;

use super::GrantManager;
use crate::signer::comment;
use crate::{Element, Enforcer, Grant, Key, Ledger, Policy, Store};

impl<E: Enforcer> GrantManager<E> {
    /// The desired element: that of the grant that lasts longest, of those to the prefix that have
    /// one there. `None`: there is none, or its time is over.
    pub(super) fn desired_element(&self, now: Time, key: &Key) -> Option<Element> {
        let has_it =
            |grant: &&Grant| grant.expires > now && self.policy.places(&grant.rule, grant.address).contains(&key.place);
        let grant = self.ledger.of_prefix(key.prefix).filter(has_it).max_by_key(|grant| (grant.expires, &grant.rule));
        grant.map(|grant| element(key.clone(), grant, now))
    }

    /// The elements that should be in a store, of grants whose time is not over.
    pub(super) fn desired_elements(&self, now: Time, store: &Store) -> Vec<Element> {
        let live = |element: &Element| element.lifetime.is_some_and(|lifetime| lifetime.remaining > Duration::ZERO);
        let all = elements(&self.ledger, &self.policy, now).into_iter();
        all.filter(|element| element.key.place.store() == *store && live(element)).collect()
    }
}

/// The elements that should be there, also of grants whose end is still to be carried out.
pub(super) fn elements(ledger: &Ledger, policy: &Policy, now: Time) -> Vec<Element> {
    let mut longest: HashMap<Key, &Grant> = HashMap::new();
    for grant in ledger.iter() {
        for place in policy.places(&grant.rule, grant.address) {
            let of = longest.entry(Key { prefix: grant.prefix, place }).or_insert(grant);
            if (grant.expires, &grant.rule) > (of.expires, &of.rule) {
                *of = grant;
            }
        }
    }
    longest.into_iter().map(|(key, grant)| element(key, grant, now)).collect()
}

fn element(key: Key, grant: &Grant, now: Time) -> Element {
    let remaining = grant.expires.since(now);
    let lifetime = Lifetime { timeout: grant.timeout.max(remaining), remaining };
    Element { key, comment: comment(&grant.rule, &grant.basis), lifetime: Some(lifetime) }
}
