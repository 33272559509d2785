//! The end of grants: in time, or before. An element is deleted when its grant ends, for the kernel's timeouts stand still
//! while the machine is suspended, and another program may have prolonged an element. Then the grant leaves the record.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use knock_nft::ManagedTable;
use knock_proto::{Prefix, RuleId, Time};

use super::{GrantManager, Revoked, by_store, desired};
use crate::{Cause, Enforcer, Error, Grant, GrantEvent, Key, Store};

/// Elements that are deleted in one turn of the loop: a few hundred microseconds.
const BATCH: usize = ManagedTable::FEW_KEYS;
/// How soon after an end that failed it is tried again. Later it takes as long as it took already.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// How late at most.
const RETRY_MAX: Duration = Duration::from_secs(60);

impl<E: Enforcer> GrantManager<E> {
    /// When [`GrantManager::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        [self.ledger.next_end(), self.retry].into_iter().flatten().min()
    }

    /// Ends grants whose time is over, as many as one turn of the loop has time for, and tries again to repair what could
    /// not be repaired. A grant whose end fails stays in the record, and is tried again.
    pub fn tick(&mut self, now: Time) {
        self.end_due(now);
        if self.retry.is_some_and(|due| due <= now) {
            self.reconcile(now);
        }
    }

    fn end_due(&mut self, now: Time) {
        let mut due: Vec<(Grant, Vec<Key>)> = Vec::new();
        let mut elements = 0;
        for grant in self.ledger.due(now) {
            let keys = self.keys(&grant.rule, grant.prefix);
            elements += keys.len();
            if !due.is_empty() && (elements > BATCH || due.len() >= BATCH) {
                break;
            }
            due.push((grant.clone(), keys));
        }
        // Another grant may hold the same port open for longer.
        let over = due.iter().flat_map(|(_, keys)| keys).filter(|key| self.desired_element(now, key).is_none());
        let over: HashSet<Key> = over.cloned().collect();
        let mut errors: HashMap<Store, Error> = HashMap::new();
        for (store, keys) in by_store(over.into_iter().collect(), |key| key) {
            if let Err(error) = self.enforcer.delete(&store, &keys) {
                errors.insert(store, error);
            }
        }
        for (grant, keys) in due {
            let error = keys.iter().find_map(|key| errors.get(&key.place.store()));
            self.events.push_back(match error {
                None => {
                    self.ledger.take(&grant.rule, grant.prefix);
                    GrantEvent::Expired { grant }
                }
                Some(error) => {
                    let pause = now.since(grant.expires).clamp(RETRY_MIN, RETRY_MAX);
                    self.ledger.postpone(&grant.rule, grant.prefix, now.after(pause));
                    GrantEvent::NotExpired { grant, pause, error: error.clone() }
                }
            });
        }
    }

    /// Where a grant of the rule to the prefix has its elements.
    pub(super) fn keys(&self, rule: &RuleId, prefix: Prefix) -> Vec<Key> {
        self.policy.places(rule, prefix.address()).into_iter().map(|place| Key { prefix, place }).collect()
    }

    /// Ends the grant of a rule to an address, or to the prefix of it that the policy says or both, and deletes its elements whatever
    /// the record says.
    ///
    /// # Errors
    ///
    /// Where the enforcer fails; a grant that there was is live then.
    pub fn revoke(&mut self, now: Time, rule: &RuleId, address: IpAddr, cause: Cause) -> Result<Revoked, Error> {
        let prefixes = self.policy.prefixes(rule, address).collect();
        self.revoke_prefixes(now, rule, address, prefixes, cause)
    }

    /// Ends the grants of a rule that have an address in common with `prefix`.
    ///
    /// # Errors
    ///
    /// Where the enforcer fails; the grants that were not ended yet are live then.
    pub fn revoke_overlapping(
        &mut self,
        now: Time,
        rule: &RuleId,
        prefix: Prefix,
        cause: Cause,
    ) -> Result<Revoked, Error> {
        let address = prefix.address();
        let mut prefixes: Vec<Prefix> = self.policy.prefixes(rule, address).collect();
        if prefix != address.into() {
            let inside = |grant: &&Grant| grant.rule == *rule && prefix.contains(grant.prefix.address());
            let inside = self.ledger.iter().filter(inside).map(|grant| grant.prefix);
            prefixes.extend(inside);
            prefixes.sort_unstable();
            prefixes.dedup();
        }
        self.revoke_prefixes(now, rule, address, prefixes, cause)
    }

    fn revoke_prefixes(
        &mut self,
        now: Time,
        rule: &RuleId,
        address: IpAddr,
        prefixes: Vec<Prefix>,
        cause: Cause,
    ) -> Result<Revoked, Error> {
        let mut revoked = Revoked::default();
        for prefix in prefixes {
            let grant = self.ledger.take(rule, prefix);
            let deleted = self.carry_out(now, rule, prefix).inspect_err(|error| {
                grant.clone().into_iter().for_each(|grant| self.ledger.insert(grant));
                self.events.push_back(GrantEvent::NotRevoked { rule: rule.clone(), address, error: error.clone() });
            })?;
            match grant {
                Some(grant) => {
                    revoked.grants += 1;
                    self.events.push_back(GrantEvent::Revoked { grant, cause: cause.clone() });
                }
                None => revoked.strays += deleted,
            }
        }
        if revoked == Revoked::default() {
            self.events.push_back(GrantEvent::NothingToRevoke { rule: rule.clone(), address, cause });
        } else if revoked.strays > 0 {
            self.revoked_strays(revoked.strays, Some(rule.clone()), Some(address), cause);
        }
        Ok(revoked)
    }

    /// Ends all grants to an address, and deletes its elements whatever the record says.
    ///
    /// # Errors
    ///
    /// Where the enforcer fails; the grants are live then.
    pub fn revoke_address(&mut self, address: IpAddr, cause: Cause) -> Result<Revoked, Error> {
        let grants: Vec<Grant> = self.ledger.of_address(address).cloned().collect();
        let explained: HashSet<Key> = grants.iter().flat_map(|grant| self.keys(&grant.rule, grant.prefix)).collect();
        let manager = &*self;
        let of_rule = |rule| manager.policy.prefixes(rule, address).flat_map(move |prefix| manager.keys(rule, prefix));
        let keys: HashSet<Key> = self.policy.rules.keys().flat_map(of_rule).collect();
        let mut strays = 0;
        for (store, keys) in by_store(keys.into_iter().collect(), |key| key) {
            strays += self.enforcer.delete(&store, &keys)?.iter().filter(|key| !explained.contains(key)).count();
        }
        Ok(self.revoked(grants, strays, Some(address), cause))
    }

    /// Ends all grants, and deletes all elements whatever the record says: in the managed table in one transaction.
    ///
    /// # Errors
    ///
    /// Where the enforcer fails; the grants are live then.
    pub fn revoke_all(&mut self, now: Time, cause: Cause) -> Result<Revoked, Error> {
        let explained: HashSet<Key> =
            desired::elements(&self.ledger, &self.policy, now).into_iter().map(|element| element.key).collect();
        let mut keys: HashSet<Key> =
            explained.iter().filter(|key| key.place.store() != Store::Table).cloned().collect();
        for store in self.enforcer.stores() {
            if store != Store::Table {
                keys.extend(self.enforcer.list(&store)?.into_iter().map(|element| element.key));
            }
        }
        let mut deleted = Vec::new();
        for (store, keys) in by_store(keys.into_iter().collect(), |key| key) {
            deleted.extend(self.enforcer.delete(&store, &keys)?);
        }
        match self.enforcer.delete_all() {
            Ok(keys) => deleted.extend(keys),
            Err(error) if error.is_missing() => drop(self.enforcer.restore(&[])?),
            Err(error) => return Err(error),
        }
        let strays = deleted.iter().filter(|key| !explained.contains(key)).count();
        let grants = self.ledger.iter().cloned().collect();
        Ok(self.revoked(grants, strays, None, cause))
    }

    /// Records the end of grants whose elements are deleted.
    fn revoked(&mut self, grants: Vec<Grant>, strays: usize, address: Option<IpAddr>, cause: Cause) -> Revoked {
        let revoked = Revoked { grants: grants.len(), strays };
        for grant in grants {
            self.ledger.take(&grant.rule, grant.prefix);
            self.events.push_back(GrantEvent::Revoked { grant, cause: cause.clone() });
        }
        if strays > 0 {
            self.revoked_strays(strays, None, address, cause);
        }
        revoked
    }

    fn revoked_strays(&mut self, count: usize, rule: Option<RuleId>, address: Option<IpAddr>, cause: Cause) {
        self.events.push_back(GrantEvent::RevokedStrays { count, rule, address, cause });
    }
}
