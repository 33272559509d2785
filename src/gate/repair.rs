//! Making the kernel what the record says, where somebody else changed something or the machine has slept.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use knock_config::{Rule, SetName};
use knock_nft::{Element, ElementKey, Event as Change, Family};
use knock_proto::Time;
use log::Level;

use super::own_sets::address_of;
use super::place::{Place, Wanted, wanted};
use super::{Error, Gate, element};
use crate::logging::events::Event;

/// Elements that are added in one transaction.
const CHUNK: usize = 300;

impl Gate {
    /// Takes up what others changed, and puts back what is ours: the gate first, then the grants in the administrator's
    /// sets, which one flush may both have taken away. Tells `report` of what there was to put back, and who had changed
    /// it.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses. What it refuses for the one is no reason to leave the other.
    pub(crate) fn reconcile(&mut self, now: Time, mut report: impl FnMut(String)) -> Result<(), Error> {
        let mut events = Vec::new();
        if let Some(monitor) = &mut self.monitor {
            monitor.read(&mut events)?;
        }
        let doubtful = std::mem::take(&mut self.doubtful);
        let (mut by, mut table_changed, mut sets_changed) = (None, doubtful, doubtful);
        for event in &events {
            match event {
                Change::Overrun => (table_changed, sets_changed) = (true, true),
                Change::Changed(notice) => {
                    let table = notice.family == Family::Inet && notice.table == self.config.nftables.table;
                    let sets = self.sets.concern(notice);
                    if table || sets {
                        by = Some(notice.actor.to_string());
                    }
                    table_changed |= table;
                    sets_changed |= sets;
                }
            }
        }
        let by = by.unwrap_or_else(|| "somebody".to_owned());
        let repaired = if table_changed { self.repair_table(now) } else { Ok(false) };
        if repaired == Ok(true) {
            let table = &self.config.nftables.table;
            report(format!("table inet {table} was changed by {by}; it is put back with its live grants"));
        }
        let put_back = if sets_changed { self.repair_sets(now) } else { 0 };
        if put_back > 0 {
            report(format!("{by} removed {put_back} live grants from your sets; they are put back"));
        }
        repaired.map(drop)
    }

    /// The next [`Gate::reconcile`] looks at everything, whatever it is told.
    pub(crate) fn doubt(&mut self) {
        self.doubtful = true;
    }

    /// Makes the managed table what the record says: puts it back, adds what is missing, deletes what no grant explains,
    /// and shortens what outlasts its grant. Returns whether there was something to put back.
    pub(super) fn repair_table(&mut self, now: Time) -> Result<bool, Error> {
        let wanted = wanted(&self.ledger, &self.config.rules);
        let elements = elements(&wanted, now);
        let Some(table) = &mut self.table else { return Ok(false) };
        if !table.intact()? {
            table.restore(&elements)?;
            return Ok(true);
        }
        let there: HashMap<ElementKey, Element> =
            table.list()?.into_iter().map(|element| (element.key, element)).collect();
        let (present, missing): (Vec<_>, Vec<_>) =
            elements.into_iter().partition(|element| there.contains_key(&element.key));
        let outlasts = |element: &Element| outlasts(there[&element.key].remaining, element.remaining);
        let longer: Vec<Element> = present.into_iter().filter(outlasts).collect();
        for elements in missing.chunks(CHUNK).chain(longer.chunks(CHUNK)) {
            table.grant(elements)?;
        }
        say_shortened(longer.len());
        let strays = there
            .into_values()
            .filter(|element| !wanted.contains_key(&(element.key.address, Place::Port(element.key.port))));
        let strays: Vec<Element> = strays.collect();
        let keys: Vec<ElementKey> = strays.iter().map(|element| element.key).collect();
        table.revoke(&keys)?;
        let config = self.config.clone();
        let (table, names) = (&config.nftables.table, names(&config.rules));
        for Element { key, comment, .. } in &strays {
            let rule = names.get(comment.as_str()).copied();
            self.report_stray(now, key.address, rule, &format!("{} in table inet {table}", key.port));
        }
        Ok(!missing.is_empty())
    }

    /// `rule`: the name of a rule, where the element bears one.
    fn report_stray(&mut self, now: Time, address: IpAddr, rule: Option<&str>, place: &str) {
        self.strays += 1;
        let of = rule.map_or(String::new(), |rule| format!(" of rule {rule}"));
        let message = format_args!("deleted an element{of} that no grant explains: {address}, {place}");
        self.sets.log.report(now, Event::Stray, rule, Some(address), message);
    }

    /// Makes the managed table anew from the record.
    pub(super) fn restore(&mut self, now: Time) -> Result<(), Error> {
        let elements = elements(&wanted(&self.ledger, &self.config.rules), now);
        self.table.as_mut().map_or(Ok(()), |table| table.restore(&elements))
    }

    /// Makes the administrator's sets what the record says, as far as it is about elements that bear a rule's name: puts
    /// grants back, deletes what no grant explains, and shortens what outlasts its grant. Returns how many were put back.
    pub(super) fn repair_sets(&mut self, now: Time) -> usize {
        self.sets.inspect();
        let config = self.config.clone();
        let names = names(&config.rules);
        let held: HashMap<_, _> =
            self.sets.list().into_iter().map(|held| ((held.address, Place::Set(held.set.clone())), held)).collect();
        let wanted = wanted(&self.ledger, &self.config.rules);
        let (mut put_back, mut shortened) = (0, 0);
        for (key, wanted) in &wanted {
            let (address, Place::Set(set)) = key else { continue };
            let remaining = wanted.grant.expires.since(now);
            let (there, longer) = held.get(key).map_or((false, false), |held| {
                (true, names.contains(held.rule.as_str()) && outlasts(held.remaining, remaining))
            });
            if remaining.is_zero() || !self.sets.is_usable(set) || (there && !longer) {
                continue;
            }
            match self.sets.grant(now, set, *address, &wanted.rule, wanted.grant.timeout, remaining) {
                Ok(()) => (put_back, shortened) = (put_back + usize::from(!there), shortened + usize::from(longer)),
                Err(error) => self.sets.log.line(now, Level::Error, &wanted.rule, format_args!("{error}")),
            }
        }
        say_shortened(shortened);
        let mut strays: HashMap<SetName, Vec<IpAddr>> = HashMap::new();
        for (key, held) in &held {
            if names.contains(held.rule.as_str()) && !wanted.contains_key(key) {
                strays.entry(held.set.clone()).or_default().push(held.address);
            }
        }
        for (set, addresses) in strays {
            match self.delete_from_set(&set, &addresses) {
                Ok(deleted) => {
                    let place = Place::Set(set);
                    for address in deleted {
                        let Some(held) = held.get(&(address, place.clone())) else { continue };
                        self.report_stray(now, address, Some(&held.rule), &format!("set {}", address_of(&held.set)));
                    }
                }
                Err(error) => log::error!("{error}"),
            }
        }
        put_back
    }
}

/// Of what is wanted, the elements that should be in the managed table.
fn elements(wanted: &HashMap<(IpAddr, Place), Wanted>, now: Time) -> Vec<Element> {
    let live = wanted.iter().filter(|(_, wanted)| wanted.grant.expires > now);
    live.filter_map(|((address, place), wanted)| match place {
        Place::Port(port) => Some(element(ElementKey { address: *address, port: *port }, wanted, now)),
        Place::Set(_) => None,
    })
    .collect()
}

/// The comments that knockd writes: the rules' names.
pub(super) fn names(rules: &[Rule]) -> HashSet<&str> {
    rules.iter().map(|rule| rule.name.as_str()).collect()
}

/// Whether an element lasts longer than its grant. The kernel rounds up to milliseconds and to jiffies, and time passes
/// while it lists; what is within a second is the same.
fn outlasts(element: Duration, grant: Duration) -> bool {
    element > grant + Duration::from_secs(1)
}

fn say_shortened(count: usize) {
    if count > 0 {
        log::info!("{count} elements would have outlasted their grants; they end in time now");
    }
}
