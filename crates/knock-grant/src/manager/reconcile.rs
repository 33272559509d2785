//! Reconciles the elements of the enforcer with the record, after changes by other programs and after a suspend.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use knock_proto::Time;

use super::GrantManager;
use crate::{Element, Enforcer, Error, GrantEvent, Key, Store};

/// Elements that are added in one transaction.
const CHUNK: usize = 300;
/// After this time a repair that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl<E: Enforcer> GrantManager<E> {
    /// The timeouts of elements stood still, those of the grants did not: compares what is granted with what there is.
    pub fn after_sleep(&mut self, now: Time) {
        self.stale = true;
        self.reconcile(now);
    }

    /// Restores what others changed: the managed table first, then the grants in user sets, which one flush may both have
    /// taken away. A failure in one store does not stop the work on the others; it is tried again.
    pub fn reconcile(&mut self, now: Time) {
        self.retry = None;
        if let Err(error) = self.try_to_reconcile(now) {
            self.events.push_back(GrantEvent::NotRestored { error });
            self.stale = true;
            self.retry = Some(now.after(RETRY));
        }
    }

    fn try_to_reconcile(&mut self, now: Time) -> Result<(), Error> {
        let changes = self.enforcer.changes()?;
        let stale = std::mem::take(&mut self.stale);
        let by = changes.by.unwrap_or_else(|| "another program".to_owned());
        let restored = if changes.table || stale { self.compare(now, &Store::Table) } else { Ok(0) };
        if let Ok(1..) = restored {
            let table = self.table_name().to_owned();
            self.events.push_back(GrantEvent::TableRestored { table, by: by.clone() });
        }
        let elements = if changes.sets || stale { self.compare_sets(now) } else { 0 };
        if elements > 0 {
            self.events.push_back(GrantEvent::SetsRestored { elements, by });
        }
        restored.map(drop)
    }

    fn table_name(&self) -> &str {
        self.policy.table.as_ref().map_or("", |table| &*table.name)
    }

    /// Makes each user set what the record says. Returns how many elements were added again.
    pub(super) fn compare_sets(&mut self, now: Time) -> usize {
        let mut added = 0;
        for store in self.enforcer.stores() {
            if store != Store::Table {
                match self.compare(now, &store) {
                    Ok(elements) => added += elements,
                    Err(error) => log::error!("{error}"),
                }
            }
        }
        added
    }

    /// Makes a store what the record says: restores the managed table where it is not whole, adds what is missing, deletes
    /// stray elements, and shortens elements that outlast their grants. Returns how much there was to restore or to add.
    pub(super) fn compare(&mut self, now: Time, store: &Store) -> Result<usize, Error> {
        let desired = self.desired_elements(now, store);
        if *store == Store::Table {
            if self.policy.table.is_none() {
                return Ok(0);
            }
            if self.enforcer.restore(&desired)? {
                return Ok(1);
            }
        }
        let there: HashMap<Key, Element> =
            self.enforcer.list(store)?.into_iter().map(|element| (element.key.clone(), element)).collect();
        let keys: HashSet<&Key> = desired.iter().map(|element| &element.key).collect();
        let is_ours = |element: &Element| {
            *store == Store::Table || (element.lifetime.is_some() && self.policy.rule_of(&element.comment).is_some())
        };
        let strays: Vec<&Element> =
            there.values().filter(|element| is_ours(element) && !keys.contains(&element.key)).collect();
        let missing = desired.iter().filter(|element| !there.contains_key(&element.key)).cloned();
        let missing: Vec<Element> = missing.collect();
        let outlasts = |element: &&Element| {
            there.get(&element.key).is_some_and(|there| is_ours(there) && outlasts(there, element))
        };
        let longer: Vec<Element> = desired.iter().filter(outlasts).cloned().collect();

        // An element that cannot be added is no reason to leave a stray one.
        let mut add = |elements: &[Element]| self.enforcer.add(store, elements, &mut self.events);
        let result = missing.chunks(CHUNK).chain(longer.chunks(CHUNK)).try_for_each(&mut add);
        if result.is_ok() && !longer.is_empty() {
            self.events.push_back(GrantEvent::Shortened { elements: longer.len() });
        }
        let keys: Vec<Key> = strays.into_iter().map(|element| element.key.clone()).collect();
        for key in self.enforcer.delete(store, &keys)? {
            let rule = there.get(&key).and_then(|element| self.policy.rule_of(&element.comment));
            let stray = GrantEvent::stray(rule.cloned(), key.prefix, &key.place, self.table_name());
            self.events.push_back(stray);
        }
        result.map(|()| missing.len())
    }
}

/// Whether an element lasts longer than it should. The kernel rounds up to milliseconds and to jiffies, and time passes
/// while it lists; what is within a second is the same.
fn outlasts(there: &Element, desired: &Element) -> bool {
    match (there.lifetime, desired.lifetime) {
        (Some(there), Some(desired)) => there.remaining > desired.remaining + Duration::from_secs(1),
        (None, Some(_)) => true,
        (_, None) => false,
    }
}
