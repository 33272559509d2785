//! Putting back what somebody else changed.

use std::collections::HashSet;

use knock_nft::{Element, ElementKey, Event, Family};
use knock_proto::Time;
use log::Level;

use super::place::{Place, wanted};
use super::{Error, Gate, element};

impl Gate {
    /// Takes up what others changed, and puts back what is ours: the gate first, then the grants in the administrator's
    /// sets, which one flush may both have taken away. Tells `report` of what there was to put back, and who had changed
    /// it.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses. What it refuses for the one is no reason to leave the other.
    pub(crate) fn reconcile(&mut self, now: Time, mut report: impl FnMut(String)) -> Result<(), Error> {
        let Some(monitor) = &mut self.monitor else { return Ok(()) };
        let mut events = Vec::new();
        monitor.read(&mut events)?;
        let doubtful = std::mem::take(&mut self.doubtful);
        let (mut by, mut table_changed, mut sets_changed) = (None, doubtful, doubtful);
        for event in &events {
            match event {
                Event::Overrun => (table_changed, sets_changed) = (true, true),
                Event::Changed(notice) => {
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

    /// Puts the managed table back where it is not as it should be. Returns whether there was something to do.
    fn repair_table(&mut self, now: Time) -> Result<bool, Error> {
        let elements = self.elements(now);
        let Some(table) = &mut self.table else { return Ok(false) };
        if !table.intact()? {
            table.restore(&elements)?;
            return Ok(true);
        }
        let there: HashSet<ElementKey> = table.list()?.into_iter().map(|element| element.key).collect();
        let missing: Vec<Element> = elements.into_iter().filter(|element| !there.contains(&element.key)).collect();
        if missing.is_empty() {
            return Ok(false);
        }
        table.grant(&missing)?;
        Ok(true)
    }

    /// Makes the managed table anew from the record.
    pub(super) fn restore(&mut self, now: Time) -> Result<(), Error> {
        let elements = self.elements(now);
        self.table.as_mut().map_or(Ok(()), |table| table.restore(&elements))
    }

    /// The elements that should be in the managed table.
    fn elements(&self, now: Time) -> Vec<Element> {
        let wanted = wanted(&self.ledger, &self.config.rules);
        let live = wanted.iter().filter(|(_, wanted)| wanted.grant.expires > now);
        live.filter_map(|((address, place), wanted)| match place {
            Place::Port(port) => Some(element(ElementKey { address: *address, port: *port }, wanted, now)),
            Place::Set(_) => None,
        })
        .collect()
    }

    /// Puts grants back into the administrator's sets. Returns how many.
    fn repair_sets(&mut self, now: Time) -> usize {
        self.sets.inspect();
        let held: HashSet<_> = self.sets.list().into_iter().map(|held| (held.address, held.set)).collect();
        let mut put_back = 0;
        for ((address, place), wanted) in &wanted(&self.ledger, &self.config.rules) {
            let Place::Set(set) = place else { continue };
            let remaining = wanted.grant.expires.since(now);
            if remaining.is_zero() || !self.sets.is_usable(set) || held.contains(&(*address, set.clone())) {
                continue;
            }
            match self.sets.grant(now, set, *address, &wanted.rule, wanted.grant.timeout, remaining) {
                Ok(()) => put_back += 1,
                Err(error) => self.sets.log.line(now, Level::Error, &wanted.rule, format_args!("{error}")),
            }
        }
        put_back
    }
}
