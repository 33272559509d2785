//! The record of live grants: who was granted which rule, until when. Pure.
//!
//! The sets of the kernel do the work. The ledger is the source for restoring flushed sets and for `knockctl grants`;
//! it decides which of two grants for the same port lasts longer, and when a grant ends.

mod room;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Prefix, RuleId, Time};

use crate::signer::Basis;
pub use room::Full;
use room::Usage;

/// A live grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The rule.
    pub rule: RuleId,
    /// To whom: an address, or all addresses of a prefix.
    pub prefix: Prefix,
    /// The address that it was granted for last; the first of the prefix in one that was adopted.
    pub address: IpAddr,
    /// The time when the grant began; an extension does not change it.
    pub since: Time,
    /// When it ends.
    pub expires: Time,
    /// How long it was granted for.
    pub timeout: Duration,
    /// What it rests on since it began or was extended last.
    pub basis: Basis,
    /// How many elements it has: one for each port of the rule, or one in a user set.
    pub elements: usize,
}

/// The live grants.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    grants: HashMap<(Prefix, RuleId), Grant>,
    /// By the time when their end is carried out.
    by_end: BTreeSet<(Time, Prefix, RuleId)>,
    /// Grants whose end could not be carried out, and when it is tried again.
    postponed: HashMap<(Prefix, RuleId), Time>,
    /// The rules granted to each prefix.
    by_prefix: HashMap<Prefix, Vec<RuleId>>,
    /// How many prefixes of each length there are.
    lengths: BTreeMap<u8, usize>,
    usage: Usage,
}

impl Ledger {
    /// Whether there is room under `limit` for a grant of so many elements. One that is live has its room.
    ///
    /// # Errors
    ///
    /// What is full.
    pub(crate) fn check_room(&self, limit: usize, rule: &RuleId, prefix: Prefix, elements: usize) -> Result<(), Full> {
        match self.get(rule, prefix) {
            Some(_) => Ok(()),
            None => self.usage.check(limit, prefix.address(), elements),
        }
    }

    /// The same for a grant that rests on the word of another node.
    ///
    /// # Errors
    ///
    /// What is full.
    pub(crate) fn check_vouched_room(
        &self,
        limit: usize,
        rule: &RuleId,
        prefix: Prefix,
        elements: usize,
    ) -> Result<(), Full> {
        self.check_room(limit, rule, prefix, elements)?;
        match self.get(rule, prefix) {
            Some(_) => Ok(()),
            None => self.usage.check_vouched(limit, prefix.address(), elements),
        }
    }

    /// Takes out the grants that have no room under `limit` any more, those that end first in front.
    pub(crate) fn shed(&mut self, limit: usize) -> Vec<Grant> {
        let mut shed = Vec::new();
        // A grant that goes because its network has too many makes room for others.
        for check in [Usage::check_network, Usage::check_version] {
            for grant in self.iter().cloned().collect::<Vec<_>>() {
                let address = grant.prefix.address();
                self.usage.remove(address, grant.elements);
                let full = check(&self.usage, limit, address, grant.elements).is_err();
                self.usage.add(address, grant.elements);
                if full {
                    shed.extend(self.take(&grant.rule, grant.prefix));
                }
            }
        }
        shed
    }

    /// Adds a grant, in place of that of the same rule and prefix.
    pub(crate) fn insert(&mut self, grant: Grant) {
        let Grant { rule, prefix, expires, elements, .. } = &grant;
        self.take(rule, *prefix);
        self.by_end.insert((*expires, *prefix, rule.clone()));
        let rules = self.by_prefix.entry(*prefix).or_default();
        if rules.is_empty() {
            *self.lengths.entry(prefix.length()).or_default() += 1;
        }
        rules.push(rule.clone());
        self.usage.add(prefix.address(), *elements);
        self.grants.insert((*prefix, rule.clone()), grant);
    }

    /// Takes a grant out; `None` where there is none.
    pub(crate) fn take(&mut self, rule: &RuleId, prefix: impl Into<Prefix>) -> Option<Grant> {
        let prefix = prefix.into();
        let key = (prefix, rule.clone());
        let grant = self.grants.remove(&key)?;
        let end = self.postponed.remove(&key).unwrap_or(grant.expires);
        self.by_end.remove(&(end, prefix, key.1));
        self.usage.remove(prefix.address(), grant.elements);
        if let Some(rules) = self.by_prefix.get_mut(&prefix) {
            rules.retain(|other| other != rule);
            if rules.is_empty() {
                self.by_prefix.remove(&prefix);
                if let Some(count) = self.lengths.get_mut(&prefix.length()) {
                    *count -= 1;
                }
                self.lengths.retain(|_, count| *count > 0);
            }
        }
        Some(grant)
    }

    /// The live grant of that rule to exactly that prefix.
    pub fn get(&self, rule: &RuleId, prefix: impl Into<Prefix>) -> Option<&Grant> {
        self.grants.get(&(prefix.into(), rule.clone()))
    }

    /// The live grants to exactly that prefix.
    pub(crate) fn of_prefix(&self, prefix: Prefix) -> impl Iterator<Item = &Grant> {
        let rules = self.by_prefix.get(&prefix).map(Vec::as_slice).unwrap_or_default();
        rules.iter().filter_map(move |rule| self.get(rule, prefix))
    }

    /// The live grants to an address, and to prefixes that have it.
    pub fn of_address(&self, address: IpAddr) -> impl Iterator<Item = &Grant> {
        let mut prefixes: Vec<Prefix> = self.lengths.keys().map(|&length| Prefix::new(address, length)).collect();
        prefixes.dedup();
        prefixes.into_iter().flat_map(|prefix| self.of_prefix(prefix))
    }

    /// All live grants, the one whose end is carried out first in front.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.by_end.iter().filter_map(|(_, prefix, rule)| self.get(rule, *prefix))
    }

    /// The grants whose end is to be carried out by `now`.
    pub(crate) fn due(&self, now: Time) -> impl Iterator<Item = &Grant> {
        let due = self.by_end.iter().take_while(move |entry| entry.0 <= now);
        due.filter_map(|(_, prefix, rule)| self.get(rule, *prefix))
    }

    /// The end of a grant could not be carried out: it is due again at `until`.
    pub(crate) fn postpone(&mut self, rule: &RuleId, prefix: impl Into<Prefix>, until: Time) {
        let prefix = prefix.into();
        let Some(grant) = self.take(rule, prefix) else { return };
        let end = grant.expires;
        self.insert(grant);
        self.by_end.remove(&(end, prefix, rule.clone()));
        self.by_end.insert((until, prefix, rule.clone()));
        self.postponed.insert((prefix, rule.clone()), until);
    }

    /// When the end of a grant is to be carried out next.
    pub(crate) fn next_end(&self) -> Option<Time> {
        self.by_end.first().map(|entry| entry.0)
    }

    /// How many grants are live.
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// Whether no grant is live.
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    fn rule(number: usize) -> RuleId {
        number.to_string().into()
    }

    fn grant(ledger: &mut Ledger, number: usize, address: IpAddr, now: Time, timeout: Duration) {
        let (rule, expires) = (rule(number), now.after(timeout));
        ledger.insert(Grant {
            rule,
            prefix: address.into(),
            address,
            since: now,
            expires,
            timeout,
            basis: Basis::default(),
            elements: 1,
        });
    }

    #[test]
    fn granting_again_replaces_the_one_grant() {
        let mut ledger = Ledger::default();
        grant(&mut ledger, 0, client(1), Time::from_millis(1000), HOUR);
        grant(&mut ledger, 0, client(1), Time::from_millis(5000), HOUR);
        let live = ledger.get(&rule(0), client(1)).expect("it is live");
        assert_eq!(live.expires, Time::from_millis(5000).after(HOUR));
        assert_eq!((ledger.len(), ledger.iter().count(), ledger.of_address(client(1)).count()), (1, 1, 1));
    }

    #[test]
    fn grants_end_in_order_and_in_time() {
        let mut ledger = Ledger::default();
        grant(&mut ledger, 0, client(1), Time::ZERO, Duration::from_millis(20));
        grant(&mut ledger, 1, client(1), Time::ZERO, Duration::from_millis(10));
        assert_eq!(ledger.next_end(), Some(Time::from_millis(10)));
        let due = |ledger: &Ledger, now| {
            ledger.due(Time::from_millis(now)).map(|grant| grant.rule.to_string()).collect::<Vec<_>>()
        };
        assert!(due(&ledger, 9).is_empty());
        assert_eq!(due(&ledger, 10), ["1"]);
        assert_eq!(due(&ledger, 20), ["1", "0"]);
        // A grant whose end fails does not block the others.
        ledger.postpone(&rule(1), client(1), Time::from_millis(30));
        assert_eq!((due(&ledger, 20), due(&ledger, 30).len()), (vec!["0".to_owned()], 2));
        assert_eq!(ledger.get(&rule(1), client(1)).map(|grant| grant.expires), Some(Time::from_millis(10)));
        for number in [0, 1] {
            assert!(ledger.take(&rule(number), client(1)).is_some());
        }
        assert!(ledger.is_empty() && ledger.next_end().is_none() && ledger.of_address(client(1)).next().is_none());
    }

    #[test]
    fn a_lower_limit_ends_those_that_would_end_first() {
        let mut ledger = Ledger::default();
        for number in 0..8 {
            let (net, host) = (number / 4, number % 4);
            let address = IpAddr::from([192, 0, net, host]);
            grant(&mut ledger, 0, address, Time::from_millis(u64::from(number)), HOUR);
        }
        assert_eq!(ledger.shed(16), []);
        // A network may have half of it.
        let shed = |ledger: &mut Ledger, limit| {
            ledger.shed(limit).iter().map(|grant| grant.since.as_nanos() / 1_000_000).collect::<Vec<_>>()
        };
        assert_eq!(shed(&mut ledger, 6), [0, 4]);
        assert_eq!(shed(&mut ledger, 4), [1, 5]);
        assert_eq!((ledger.len(), shed(&mut ledger, 4).len()), (4, 0));
        assert_eq!(
            ledger.check_room(4, &rule(1), IpAddr::from([198, 51, 100, 1]).into(), 1),
            Err(Full::Version { v4: true, limit: 4 })
        );
        assert_eq!(ledger.check_room(4, &rule(0), IpAddr::from([192, 0, 1, 3]).into(), 1), Ok(()), "it is live");
    }
}
