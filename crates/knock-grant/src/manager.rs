//! Where grants begin and end.

mod desired;
mod doors;
mod ends;
mod reconcile;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use knock_proto::{Prefix, RuleId, Time};

use crate::{Basis, Cause, Element, Enforcer, Error, Grant, GrantEvent, Key, Ledger, Policy, Store};

/// The numbers of grants that were revoked and of stray elements that were deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// The grants.
    pub grants: usize,
    /// The elements.
    pub strays: usize,
}

/// Begins and ends grants: in the record, and through the enforcer in the kernel.
pub struct GrantManager<E> {
    policy: Rc<Policy>,
    ledger: Ledger,
    enforcer: E,
    events: VecDeque<GrantEvent>,
    /// A repair failed, or the machine was suspended: the elements of the enforcer are unknown.
    stale: bool,
    /// When a repair that failed is tried again.
    retry: Option<Time>,
}

impl<E: Enforcer> GrantManager<E> {
    /// Puts the policy in force, and adopts the live grants that a daemon before this one left.
    ///
    /// # Errors
    ///
    /// Where the policy cannot be put in force. Nothing half-made is left.
    pub fn open(now: Time, policy: Rc<Policy>, mut enforcer: E) -> Result<GrantManager<E>, Error> {
        let found = enforcer.open(&policy)?;
        let (ledger, events) = (Ledger::default(), VecDeque::new());
        let mut manager = GrantManager { policy, ledger, enforcer, events, stale: false, retry: None };
        manager.adopt(now, found);
        match manager.shed(now).and_then(|()| manager.compare(now, &Store::Table)) {
            Ok(_) => {
                manager.compare_sets(now);
                Ok(manager)
            }
            Err(error) => {
                manager.abandon();
                Err(error)
            }
        }
    }

    /// Adopts the grants that the elements belong to. An element without a grant belongs to a rule or a port that is
    /// gone.
    fn adopt(&mut self, now: Time, elements: Vec<Element>) {
        for Element { key: Key { prefix: found, place }, comment, lifetime } in elements {
            let address = found.address();
            let (Some((rule, basis)), Some(lifetime)) = (self.policy.owner_of(&comment), lifetime) else { continue };
            let Some(prefix) = self.policy.carried_over(rule, found, &basis) else { continue };
            let rule = rule.clone();
            if self.policy.places(&rule, address).contains(&place) {
                let since = now.before(lifetime.timeout.saturating_sub(lifetime.remaining));
                let elements = self.policy.size(&rule, address);
                let (expires, timeout) = (now.after(lifetime.remaining), lifetime.timeout);
                self.ledger.insert(Grant { rule, prefix, address, since, expires, timeout, basis, elements });
            }
        }
    }

    /// Ends the grants that have no room.
    fn shed(&mut self, now: Time) -> Result<(), Error> {
        for grant in self.ledger.shed(self.policy.limit) {
            self.carry_out(now, &grant.rule, grant.prefix)?;
            self.events.push_back(GrantEvent::Revoked { grant, cause: Cause::Limit });
        }
        Ok(())
    }

    /// Grants a rule to an address, or to the prefix of it that the policy says, for `timeout` from now on. A live grant is
    /// extended. A signed packet and another node ask for the prefix, or for the address alone.
    ///
    /// # Errors
    ///
    /// Where there is no room, or the enforcer fails; a live grant stays as it was.
    pub fn grant(
        &mut self,
        now: Time,
        rule: &RuleId,
        address: IpAddr,
        timeout: Duration,
        cause: Cause,
    ) -> Result<(), Error> {
        let elements = self.policy.size(rule, address);
        let (wide, voucher) = match &cause {
            Cause::Packet { wide, .. } => (*wide, None),
            Cause::Node { wide, voucher, .. } => (*wide, *voucher),
            _ => (true, None),
        };
        let prefix = if wide { self.policy.prefix(rule, address) } else { address.into() };
        let basis = Basis { key: cause.user().map(|user| user.key), voucher };
        let before = self.ledger.get(rule, prefix).cloned();
        let since = before.as_ref().map_or(now, |grant| grant.since);
        let grant =
            Grant { rule: rule.clone(), prefix, address, since, expires: now.after(timeout), timeout, basis, elements };
        let limit = self.policy.limit;
        let room = match voucher {
            None => self.ledger.check_room(limit, rule, prefix, elements),
            Some(_) => self.ledger.check_vouched_room(limit, rule, prefix, elements),
        };
        let room = room.map_err(Error::from);
        let result = room.and_then(|()| {
            self.ledger.insert(grant.clone());
            self.carry_out(now, rule, prefix).inspect_err(|_| match before.clone() {
                Some(before) => self.ledger.insert(before),
                None => drop(self.ledger.take(rule, prefix)),
            })
        });
        self.events.push_back(match &result {
            Ok(_) if before.is_some() => GrantEvent::Extended { grant, cause },
            Ok(_) => GrantEvent::Granted { grant, cause },
            Err(error) => GrantEvent::NotGranted { rule: rule.clone(), address, cause, error: error.clone() },
        });
        result.map(drop)
    }

    /// Makes the elements of a rule and a prefix what the record says. Returns how many were deleted.
    fn carry_out(&mut self, now: Time, rule: &RuleId, prefix: Prefix) -> Result<usize, Error> {
        let mut deleted = 0;
        let (mut add, mut delete) = (Vec::new(), Vec::new());
        for key in self.keys(rule, prefix) {
            match self.desired_element(now, &key) {
                Some(element) => add.push(element),
                None => delete.push(key),
            }
        }
        for (store, keys) in by_store(delete, |key| key) {
            deleted += self.enforcer.delete(&store, &keys)?.len();
        }
        for (store, elements) in by_store(add, |element| &element.key) {
            match self.enforcer.add(&store, &elements, &mut self.events) {
                // The table was deleted, and the notification is still to come.
                Err(error) if error.is_missing() => {
                    let all = self.desired_elements(now, &store);
                    self.enforcer.restore(&all)?;
                }
                result => result?,
            }
        }
        Ok(deleted)
    }

    /// Applies another policy. Grants of rules that remain stay live, at the present ports of the rule; the others end,
    /// and so do those for which there is no room any more.
    ///
    /// # Errors
    ///
    /// Where the policy cannot be put in force; everything is as it was then.
    pub fn apply(&mut self, now: Time, policy: Rc<Policy>) -> Result<(), Error> {
        let mut ledger = Ledger::default();
        let mut ended = Vec::new();
        for grant in self.ledger.iter() {
            let present = policy.carried_over(&grant.rule, grant.prefix, &grant.basis);
            match present.filter(|_| policy.has_grants(&grant.rule)) {
                Some(prefix) => {
                    let elements = policy.size(&grant.rule, grant.address);
                    // In the order of their ends: of several that become one, the longest stays.
                    ledger.insert(Grant { prefix, elements, ..grant.clone() });
                }
                None => ended.push((grant.clone(), Cause::Reload)),
            }
        }
        ended.extend(ledger.shed(policy.limit).into_iter().map(|grant| (grant, Cause::Limit)));
        let elements = |ledger: &Ledger, policy: &Policy| desired::elements(ledger, policy, now);
        let before: Vec<Element> = elements(&self.ledger, &self.policy);
        let after: Vec<Element> = elements(&ledger, &policy);
        self.enforcer.apply(&policy, &before, &after, &mut self.events)?;
        (self.ledger, self.policy) = (ledger, policy);
        self.events.extend(ended.into_iter().map(|(grant, cause)| GrantEvent::Revoked { grant, cause }));
        Ok(())
    }

    /// The next event, the oldest first; `None`: there are no more.
    pub fn poll_event(&mut self) -> Option<GrantEvent> {
        let event = self.events.pop_front();
        if event.is_none() {
            // All grants may have ended at once: their memory goes back.
            self.events = VecDeque::new();
        }
        event
    }

    /// The record of live grants.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The policy that is in force.
    pub fn policy(&self) -> &Rc<Policy> {
        &self.policy
    }

    /// How many packets of strangers the gate has dropped since the start. It never gets less.
    pub fn turned_away(&mut self) -> u64 {
        self.enforcer.turned_away()
    }

    /// What carries the grants out.
    pub fn enforcer(&self) -> &E {
        &self.enforcer
    }

    #[cfg(test)]
    pub(crate) fn parts(&mut self) -> (&mut Ledger, &mut E) {
        (&mut self.ledger, &mut self.enforcer)
    }

    /// Ends: `keep` leaves the elements, to end in time or to be adopted.
    ///
    /// # Errors
    ///
    /// Where the managed table cannot be removed.
    pub fn close(self, keep: bool) -> Result<(), Error> {
        self.enforcer.close(keep)
    }

    /// Ends after a failed start.
    pub fn abandon(self) {
        self.enforcer.abandon();
    }
}

/// Sorts by what holds it.
fn by_store<T>(all: Vec<T>, key: impl Fn(&T) -> &Key) -> Vec<(Store, Vec<T>)> {
    let mut stores: Vec<(Store, Vec<T>)> = Vec::new();
    for one in all {
        let store = key(&one).place.store();
        match stores.iter_mut().find(|(other, _)| *other == store) {
            Some((_, all)) => all.push(one),
            None => stores.push((store, vec![one])),
        }
    }
    stores
}
