//! Sources that the kernel waits for, and what it opens to them by itself. The record learns of a grant when the daemon makes
//! it, as of any other; what the kernel opened before that is one of the elements that it replaces, or a stray element.

use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{RuleId, Time};

use super::{GrantManager, by_store};
use crate::{Enforcer, Error, GrantEvent, Key, Nftables};

impl<E: Enforcer> GrantManager<E> {
    /// Whether there is room for a grant of that rule to that source.
    pub fn has_room(&self, rule: &RuleId, source: IpAddr) -> bool {
        let (prefix, elements) = (self.policy.prefix(rule, source), self.policy.size(rule, source));
        self.ledger.check_room(self.policy.limit, rule, prefix, elements).is_ok()
    }

    /// Whether a grant of that rule to the source, or to its prefix, is live.
    pub fn is_granted(&self, now: Time, rule: &RuleId, source: IpAddr) -> bool {
        let grant = self.ledger.get(rule, self.policy.prefix(rule, source));
        grant.is_some_and(|grant| grant.expires > now)
    }

    /// Deletes what the kernel has opened to sources by itself, each by the door of a rule, and no grant explains. Returns how
    /// many elements that were.
    ///
    /// # Errors
    ///
    /// Where the enforcer fails; those elements last the time of their rules.
    pub fn delete_unconfirmed(&mut self, now: Time, opened: &[(RuleId, IpAddr)]) -> Result<usize, Error> {
        let mut keys: Vec<(Key, RuleId)> = Vec::new();
        for (rule, source) in opened {
            let all = self.keys(rule, self.policy.prefix(rule, *source)).into_iter();
            keys.extend(all.filter(|key| self.desired_element(now, key).is_none()).map(|key| (key, rule.clone())));
        }
        let table = self.policy.table.as_ref().map_or("", |table| &*table.name).to_owned();
        let mut deleted = 0;
        for (store, keys) in by_store(keys, |(key, _)| key) {
            let only: Vec<Key> = keys.iter().map(|(key, _)| key.clone()).collect();
            for key in self.enforcer.delete(&store, &only)? {
                let rule = keys.iter().find(|(of, _)| *of == key).map(|(_, rule)| rule.clone());
                self.events.push_back(GrantEvent::stray(rule, key.prefix, &key.place, &table));
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}

impl GrantManager<Nftables> {
    /// Whether the managed table has doors: see [`knock_nft::ManagedTable::has_doors`].
    pub fn has_doors(&self) -> bool {
        self.enforcer.table().is_some_and(knock_nft::ManagedTable::has_doors)
    }

    /// Makes a source pending: see [`knock_nft::ManagedTable::pend`].
    ///
    /// # Errors
    ///
    /// Where the kernel refuses. Without a table nothing happens.
    pub fn pend(&mut self, source: IpAddr, lasts: Duration) -> Result<(), Error> {
        self.enforcer.table_mut().map_or(Ok(()), |table| Ok(table.pend(source, lasts)?))
    }

    /// Arms a pending source: see [`knock_nft::ManagedTable::arm`].
    ///
    /// # Errors
    ///
    /// Where the kernel refuses for another reason than that the source is not pending any more.
    pub fn arm(&mut self, source: IpAddr, door: usize, lasts: Duration) -> Result<bool, Error> {
        self.enforcer.table_mut().map_or(Ok(false), |table| Ok(table.arm(source, door, lasts)?))
    }

    /// Makes sources neither pending nor armed: see [`knock_nft::ManagedTable::disarm`].
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn disarm(&mut self, sources: &[IpAddr]) -> Result<(), Error> {
        self.enforcer.table_mut().map_or(Ok(()), |table| Ok(table.disarm(sources)?))
    }
}
