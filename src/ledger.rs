//! The record of live grants: who was granted which rule, until when. Pure.
//!
//! The kernel's sets do the work; this is what is put back into them when somebody flushes them, what `knockctl grants`
//! answers from, what tells which grant of two that cover the same port lasts longer, and what says when a grant ends.

mod room;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use knock_proto::Time;

pub(crate) use room::Full;
use room::Usage;

/// A live grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The index of the rule.
    pub(crate) rule: usize,
    /// To whom.
    pub(crate) address: IpAddr,
    /// When it was first granted, of the grant that goes on since.
    pub(crate) since: Time,
    /// When it ends.
    pub(crate) expires: Time,
    /// How long it was granted for.
    pub(crate) timeout: Duration,
    /// How many elements it has: one for each port of the rule, or one in a user set.
    pub(crate) elements: usize,
}

/// The live grants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    grants: HashMap<(IpAddr, usize), Grant>,
    /// By the time when their end is carried out.
    by_end: BTreeSet<(Time, IpAddr, usize)>,
    /// Grants whose end could not be carried out, and when it is tried again.
    postponed: HashMap<(IpAddr, usize), Time>,
    /// The rules granted to each address.
    by_address: HashMap<IpAddr, Vec<usize>>,
    usage: Usage,
}

impl Ledger {
    /// Whether there is room under `limit` for a grant of so many elements. One that is live has its room.
    ///
    /// # Errors
    ///
    /// What is full.
    pub(crate) fn check_room(&self, limit: usize, rule: usize, address: IpAddr, elements: usize) -> Result<(), Full> {
        match self.get(rule, address) {
            Some(_) => Ok(()),
            None => self.usage.check(limit, address, elements),
        }
    }

    /// Takes out the grants that have no room under `limit` any more, those that end first in front.
    pub(crate) fn shed(&mut self, limit: usize) -> Vec<Grant> {
        let mut shed = Vec::new();
        // What goes because its network has too many makes room for others.
        for check in [Usage::check_network, Usage::check_version] {
            for grant in self.iter().copied().collect::<Vec<_>>() {
                self.usage.remove(grant.address, grant.elements);
                let full = check(&self.usage, limit, grant.address, grant.elements).is_err();
                self.usage.add(grant.address, grant.elements);
                if full {
                    shed.extend(self.take(grant.rule, grant.address));
                }
            }
        }
        shed
    }

    /// Notes a grant of so many elements from `now` on. One that is live goes on with the new end.
    ///
    /// Returns whether it was live.
    pub(crate) fn grant(
        &mut self,
        rule: usize,
        address: IpAddr,
        now: Time,
        timeout: Duration,
        elements: usize,
    ) -> bool {
        let before = self.take(rule, address);
        let since = before.map_or(now, |grant| grant.since);
        self.insert(Grant { rule, address, since, expires: now.after(timeout), timeout, elements });
        before.is_some()
    }

    /// Notes a grant that was found, in place of what is known of it.
    pub(crate) fn insert(&mut self, grant: Grant) {
        self.take(grant.rule, grant.address);
        self.by_end.insert((grant.expires, grant.address, grant.rule));
        self.by_address.entry(grant.address).or_default().push(grant.rule);
        self.usage.add(grant.address, grant.elements);
        self.grants.insert((grant.address, grant.rule), grant);
    }

    /// Ends a grant; `None` where there is none.
    pub(crate) fn take(&mut self, rule: usize, address: IpAddr) -> Option<Grant> {
        let grant = self.grants.remove(&(address, rule))?;
        let end = self.postponed.remove(&(address, rule)).unwrap_or(grant.expires);
        self.by_end.remove(&(end, address, rule));
        self.usage.remove(address, grant.elements);
        if let Some(rules) = self.by_address.get_mut(&address) {
            rules.retain(|&other| other != rule);
            if rules.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(grant)
    }

    /// The live grant of that rule to that address.
    pub(crate) fn get(&self, rule: usize, address: IpAddr) -> Option<&Grant> {
        self.grants.get(&(address, rule))
    }

    /// The live grants to an address.
    pub(crate) fn of_address(&self, address: IpAddr) -> impl Iterator<Item = &Grant> {
        let rules = self.by_address.get(&address).map(Vec::as_slice).unwrap_or_default();
        rules.iter().filter_map(move |&rule| self.get(rule, address))
    }

    /// All live grants, the one whose end is carried out first in front.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.by_end.iter().filter_map(|&(_, address, rule)| self.get(rule, address))
    }

    /// The grants whose end is to be carried out by `now`.
    pub(crate) fn due(&self, now: Time) -> impl Iterator<Item = &Grant> {
        let due = self.by_end.iter().take_while(move |entry| entry.0 <= now);
        due.filter_map(|&(_, address, rule)| self.get(rule, address))
    }

    /// The end of a grant could not be carried out: it is due again at `until`.
    pub(crate) fn postpone(&mut self, rule: usize, address: IpAddr, until: Time) {
        let Some(grant) = self.take(rule, address) else { return };
        self.insert(grant);
        self.by_end.remove(&(grant.expires, address, rule));
        self.by_end.insert((until, address, rule));
        self.postponed.insert((address, rule), until);
    }

    /// When the end of a grant is to be carried out next.
    pub(crate) fn next_end(&self) -> Option<Time> {
        self.by_end.first().map(|entry| entry.0)
    }

    /// How many grants are live.
    pub(crate) fn len(&self) -> usize {
        self.grants.len()
    }

    /// Whether no grant is live.
    pub(crate) fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// Renumbers the rules: `new_index` gives the new number of a rule, or `None` where its grants end, and `elements` how
    /// many a grant of the rule of that new number has.
    ///
    /// Returns the grants that end so, with the old numbers.
    pub(crate) fn renumber(
        &mut self,
        new_index: impl Fn(usize) -> Option<usize>,
        elements: impl Fn(usize, IpAddr) -> usize,
    ) -> Vec<Grant> {
        let old = std::mem::take(self);
        let mut ended = Vec::new();
        for grant in old.iter() {
            match new_index(grant.rule) {
                Some(rule) => self.insert(Grant { rule, elements: elements(rule, grant.address), ..*grant }),
                None => ended.push(*grant),
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[test]
    fn granting_again_extends_the_one_grant() {
        let mut ledger = Ledger::default();
        assert!(!ledger.grant(0, client(1), Time::from_millis(1000), HOUR, 1));
        assert!(ledger.grant(0, client(1), Time::from_millis(5000), HOUR, 1));
        let grant = ledger.get(0, client(1)).expect("it is live");
        assert_eq!((grant.since, grant.expires), (Time::from_millis(1000), Time::from_millis(5000).after(HOUR)));
        assert_eq!((ledger.len(), ledger.iter().count(), ledger.of_address(client(1)).count()), (1, 1, 1));
    }

    #[test]
    fn grants_end_in_order_and_in_time() {
        let mut ledger = Ledger::default();
        ledger.grant(0, client(1), Time::from_millis(0), Duration::from_millis(20), 1);
        ledger.grant(1, client(1), Time::from_millis(0), Duration::from_millis(10), 1);
        assert_eq!(ledger.next_end(), Some(Time::from_millis(10)));
        let due = |ledger: &Ledger, now| ledger.due(Time::from_millis(now)).map(|grant| grant.rule).collect::<Vec<_>>();
        assert!(due(&ledger, 9).is_empty());
        assert_eq!(due(&ledger, 10), [1]);
        assert_eq!(due(&ledger, 20), [1, 0]);
        // One whose end fails stands in nobody's way.
        ledger.postpone(1, client(1), Time::from_millis(30));
        assert_eq!((due(&ledger, 20), due(&ledger, 30)), (vec![0], vec![0, 1]));
        assert_eq!(ledger.get(1, client(1)).map(|grant| grant.expires), Some(Time::from_millis(10)));
        for rule in [0, 1] {
            assert!(ledger.take(rule, client(1)).is_some());
        }
        assert!(ledger.is_empty() && ledger.next_end().is_none() && ledger.of_address(client(1)).next().is_none());
    }

    #[test]
    fn renumbering_keeps_the_grants_of_rules_that_remain() {
        let mut ledger = Ledger::default();
        for rule in 0..3 {
            ledger.grant(rule, client(1), Time::ZERO, HOUR, 1);
        }
        let ended = ledger.renumber(|rule| [Some(2), None, Some(0)][rule], |_, _| 3);
        assert_eq!(ended.iter().map(|grant| grant.rule).collect::<Vec<_>>(), [1]);
        assert!(ledger.get(0, client(1)).is_some() && ledger.get(1, client(1)).is_none());
        assert_eq!(ledger.len(), 2);
    }

    #[test]
    fn a_lower_limit_ends_those_that_would_end_first() {
        let mut ledger = Ledger::default();
        for number in 0..8 {
            let (net, host) = (number / 4, number % 4);
            let address = IpAddr::from([192, 0, net, host]);
            ledger.grant(0, address, Time::from_millis(u64::from(number)), HOUR, 1);
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
            ledger.check_room(4, 1, IpAddr::from([198, 51, 100, 1]), 1),
            Err(Full::Version { v4: true, limit: 4 })
        );
        assert_eq!(ledger.check_room(4, 0, IpAddr::from([192, 0, 1, 3]), 1), Ok(()), "it is live");
    }
}
