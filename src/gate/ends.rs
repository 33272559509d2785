//! The end of grants: in time, or before. What ends is deleted in the kernel, for its timeouts stand still while the
//! machine sleeps, and somebody may have made an element last longer. Only then is a grant out of the record.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use knock_config::SetName;
use knock_nft::{ElementKey, ManagedTable};
use knock_proto::Time;

use super::place::{Place, holder, places, wanted};
use super::repair::names;
use super::{Error, Gate, guarded_ports};
use crate::ledger::Grant;
use crate::logging::events::Event;

/// Elements that are deleted in one turn of the loop: a few hundred microseconds.
const BATCH: usize = ManagedTable::FEW_KEYS;
/// How soon after an end that the kernel refused it is tried again. Later it takes as long as it took already.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// How late at most.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What was ended of a rule and an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Revoked {
    /// Whether the record had a grant.
    pub(crate) grant: bool,
    /// How many elements were deleted that no grant explained.
    pub(crate) strays: usize,
}

/// What was ended of all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RevokedAll {
    /// The grants that the record had.
    pub(crate) grants: Vec<Grant>,
    /// How many elements were deleted that no grant explained.
    pub(crate) strays: usize,
}

impl Gate {
    /// Ends grants whose time is over, as many as one turn of the loop has time for; [`Ledger::next_end`] says
    /// whether there are more. `ended` hears of each that the kernel confirmed. The others stay in the record, and are
    /// tried again.
    ///
    /// [`Ledger::next_end`]: crate::ledger::Ledger::next_end
    pub(crate) fn end_due(&mut self, now: Time, mut ended: impl FnMut(Grant)) {
        let rules = &self.config.rules;
        let mut due: Vec<(Grant, Vec<Place>)> = Vec::new();
        let mut elements = 0;
        for grant in self.ledger.due(now) {
            let places = places(&rules[grant.rule], grant.address);
            elements += places.len();
            if !due.is_empty() && (elements > BATCH || due.len() >= BATCH) {
                break;
            }
            due.push((*grant, places));
        }
        let mut keys = Vec::new();
        let mut addresses: HashMap<SetName, Vec<IpAddr>> = HashMap::new();
        for (grant, places) in &due {
            // Another grant may hold the same port open for longer.
            let over = |place: &&Place| holder(&self.ledger, rules, now, grant.address, place).is_none();
            for place in places.iter().filter(over) {
                match place {
                    Place::Port(port) => keys.push(ElementKey { address: grant.address, port: *port }),
                    Place::Set(set) => addresses.entry(set.clone()).or_default().push(grant.address),
                }
            }
        }
        let table = self.delete(&keys).err();
        let mut sets = HashMap::new();
        for (set, addresses) in addresses {
            if let Err(error) = self.delete_from_set(&set, &addresses) {
                sets.insert(set, error);
            }
        }
        for (grant, places) in due {
            let error = places.iter().find_map(|place| match place {
                Place::Port(_) => table.as_ref(),
                Place::Set(set) => sets.get(set),
            });
            match error {
                None => {
                    self.ledger.take(grant.rule, grant.address);
                    ended(grant);
                }
                Some(error) => {
                    let (rule, address) = (self.config.rules[grant.rule].name.as_str(), grant.address);
                    let pause = now.since(grant.expires).clamp(RETRY_MIN, RETRY_MAX);
                    let message = format_args!(
                        "rule {rule}: the time of the grant to {address} is over, but it may still be open; trying \
                         again in {} s: {error}",
                        pause.as_secs()
                    );
                    self.sets.log.report(now, Event::GrantFailed, Some(rule), Some(address), message);
                    self.ledger.postpone(grant.rule, address, now.after(pause));
                }
            }
        }
    }

    /// Ends the grant of a rule to an address, and what the kernel has of it, whatever the record says.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses; a grant that there was is live then.
    pub(crate) fn revoke(&mut self, now: Time, rule: usize, address: IpAddr) -> Result<Revoked, Error> {
        let grant = self.ledger.take(rule, address);
        match self.put(now, rule, address) {
            Ok(deleted) => {
                let strays = if grant.is_some() { 0 } else { deleted };
                self.strays += strays as u64;
                Ok(Revoked { grant: grant.is_some(), strays })
            }
            Err(error) => {
                grant.into_iter().for_each(|grant| self.ledger.insert(grant));
                Err(error)
            }
        }
    }

    /// Ends all grants to an address, and deletes what the kernel has of it, whatever the record says.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses; the grants are live then.
    pub(crate) fn revoke_address(&mut self, address: IpAddr) -> Result<RevokedAll, Error> {
        let grants: Vec<Grant> = self.ledger.of_address(address).copied().collect();
        let explained =
            |place| grants.iter().any(|grant| places(&self.config.rules[grant.rule], address).contains(&place));
        let mut ports = guarded_ports(&self.config);
        ports.sort_unstable();
        ports.dedup();
        let explained_ports: HashSet<ElementKey> = ports
            .iter()
            .filter(|port| explained(Place::Port(**port)))
            .map(|&port| ElementKey { address, port })
            .collect();
        let sets: Vec<(SetName, bool)> =
            self.sets.names(address).into_iter().map(|set| (set.clone(), explained(Place::Set(set)))).collect();

        let keys: Vec<ElementKey> = ports.into_iter().map(|port| ElementKey { address, port }).collect();
        let mut strays = self.delete(&keys)?.iter().filter(|key| !explained_ports.contains(key)).count();
        for (set, explained) in sets {
            let deleted = self.delete_from_set(&set, &[address])?.len();
            strays += if explained { 0 } else { deleted };
        }
        for grant in &grants {
            self.ledger.take(grant.rule, address);
        }
        self.strays += strays as u64;
        Ok(RevokedAll { grants, strays })
    }

    /// Ends all grants, and deletes what the kernel has, whatever the record says: in the managed table in one
    /// transaction.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses; the grants are live then.
    pub(crate) fn revoke_all(&mut self, now: Time) -> Result<RevokedAll, Error> {
        let live: HashSet<(IpAddr, Place)> = wanted(&self.ledger, &self.config.rules).into_keys().collect();
        let mut addresses: HashMap<SetName, HashSet<IpAddr>> = HashMap::new();
        let held = self.sets.list().into_iter().map(|held| (held.address, Place::Set(held.set)));
        for (address, place) in live.iter().cloned().chain(held) {
            if let Place::Set(set) = place {
                addresses.entry(set).or_default().insert(address);
            }
        }
        let mut strays = 0;
        for (set, addresses) in addresses {
            let deleted = self.delete_from_set(&set, &addresses.into_iter().collect::<Vec<_>>())?;
            let place = Place::Set(set);
            strays += deleted.into_iter().filter(|&address| !live.contains(&(address, place.clone()))).count();
        }
        let record = std::mem::take(&mut self.ledger);
        let result = match &mut self.table {
            Some(table) => match table.revoke_all() {
                Ok(found) => {
                    let keys = found.iter().map(|element| (element.key.address, Place::Port(element.key.port)));
                    strays += keys.filter(|key| !live.contains(key)).count();
                    Ok(())
                }
                Err(error) if error.is_missing() => self.restore(now),
                Err(error) => Err(error),
            },
            None => Ok(()),
        };
        if let Err(error) = result {
            self.ledger = record;
            return Err(error);
        }
        self.strays += strays as u64;
        Ok(RevokedAll { grants: record.iter().copied().collect(), strays })
    }

    /// Deletes elements of the managed table, in transactions so small that missing ones cost no listing. Returns those
    /// that there were.
    pub(super) fn delete(&mut self, keys: &[ElementKey]) -> Result<Vec<ElementKey>, Error> {
        let Some(table) = &mut self.table else { return Ok(Vec::new()) };
        let mut deleted = Vec::new();
        for keys in keys.chunks(ManagedTable::FEW_KEYS) {
            deleted.append(&mut table.revoke(keys)?);
        }
        Ok(deleted)
    }

    /// Deletes the elements of these addresses from a set of the administrator's, where they bear a rule's name.
    /// Returns whose there were.
    pub(super) fn delete_from_set(&mut self, set: &SetName, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        let names = names(&self.config.rules);
        self.sets.revoke(set, addresses, |comment| names.contains(comment))
    }

    /// How many elements were deleted that no grant explained.
    pub(crate) fn strays(&self) -> u64 {
        self.strays
    }
}
