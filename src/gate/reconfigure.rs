//! Taking up another configuration while grants are live.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use knock_config::Config;
use knock_nft::{Element, ElementKey, ManagedTable, TableSpec};
use knock_proto::Time;
use log::Level;

use super::lock::lock;
use super::own_sets::OwnSets;
use super::place::{Place, Wanted, size, wanted};
use super::{Error, Gate, element, table_spec};
use crate::ledger::Grant;

/// The elements that should be in the kernel.
type Elements = HashMap<(IpAddr, Place), Wanted>;

impl Gate {
    /// Takes up another configuration: rules, guarded ports and timeouts are replaced in one transaction. Grants of
    /// rules that remain go on, at the ports that are now theirs; the others end, and so do those for which
    /// `limits.grants` has no room any more. They are returned with the old numbers of their rules, and why they end.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses or a set can't be used; everything is as it was then.
    pub(crate) fn reconfigure(&mut self, config: Rc<Config>, now: Time) -> Result<Vec<(Grant, &'static str)>, Error> {
        let sets = OwnSets::open(&config, self.sets.log.clone())?;
        let before = wanted(&self.ledger, &self.config.rules);
        let mut ledger = self.ledger.clone();
        let allowing = config.rules.iter().enumerate().filter(|(_, rule)| rule.allow.is_some());
        let by_name: HashMap<&str, usize> = allowing.map(|(index, rule)| (rule.name.as_str(), index)).collect();
        let remains = |old: usize| by_name.get(self.config.rules[old].name.as_str()).copied();
        let elements = |rule: usize, address| size(&config.rules[rule], address);
        let ended = ledger.renumber(remains, elements);
        let mut ended: Vec<_> = ended.into_iter().map(|grant| (grant, "reload")).collect();
        let before_by_name: HashMap<&str, usize> =
            self.config.rules.iter().enumerate().map(|(index, rule)| (rule.name.as_str(), index)).collect();
        for grant in ledger.shed(config.limits.grants as usize) {
            if let Some(&rule) = before_by_name.get(config.rules[grant.rule].name.as_str()) {
                ended.push((Grant { rule, ..grant }, "reload: no room under limits.grants"));
            }
        }
        let after = wanted(&ledger, &config.rules);
        if let Err(error) = self.reconfigure_table(&config, now, &before, &after) {
            self.take_back_table(now, &before);
            return Err(error);
        }
        self.ledger = ledger;

        for ((address, place), wanted) in before.iter().filter(|(key, _)| !after.contains_key(key)) {
            if let Place::Set(set) = place
                && let Err(error) = self.delete_from_set(set, &[*address])
            {
                self.sets.log.line(now, Level::Warn, &wanted.rule, format_args!("{error}"));
            }
        }
        self.sets = sets;
        self.config = config;
        // A grant that goes on may have got another holder, whose time is over sooner.
        let unchanged = |key, new: &Wanted| before.get(key).is_some_and(|old| old.same_element(new));
        for ((address, place), wanted) in after.iter().filter(|(key, new)| !unchanged(key, new)) {
            if let Place::Set(set) = place {
                let Wanted { rule, grant } = wanted;
                let remaining = grant.expires.since(now);
                if let Err(error) = self.sets.grant(now, set, *address, rule, grant.timeout, remaining) {
                    self.sets.log.line(now, Level::Warn, rule, format_args!("{error}"));
                }
            }
        }
        // The new configuration is in force: an error would leave everybody else with the old one.
        if let Err(error) = self.watch() {
            log::error!("what others change is not noticed: {error}");
        }
        Ok(ended)
    }

    /// After a change that failed: where it cost the table, takes that up again for the configuration that stays in
    /// force. A change of the table itself has been carried out as a whole or not at all.
    fn take_back_table(&mut self, now: Time, before: &Elements) {
        let (None, Some(spec)) = (&self.table, table_spec(&self.config)) else { return };
        match take_over(spec, now, before) {
            Ok(table) => self.table = Some(table),
            Err(error) => log::error!("the gate may be open or incomplete: {error}"),
        }
    }

    fn reconfigure_table(
        &mut self,
        config: &Config,
        now: Time,
        before: &Elements,
        after: &Elements,
    ) -> Result<(), Error> {
        let (old, new) = (&self.config.nftables, &config.nftables);
        match (table_spec(config), self.table.take()) {
            (None, None) => Ok(()),
            (None, Some(table)) => {
                self.lock = None;
                table.remove()
            }
            (Some(spec), Some(mut table)) if old.table == new.table && old.owner == new.owner => {
                let result = change(&mut table, spec, now, before, after);
                self.table = Some(table);
                result
            }
            (Some(spec), Some(table)) if old.table == new.table => {
                // Who owns the table changes with the socket: the old one lets go of it, and it guards all the time.
                drop(table);
                self.table = Some(take_over(spec, now, after)?);
                Ok(())
            }
            (Some(spec), previous) => {
                // The new table stands before the old one goes.
                let taken = lock(&spec.name).and_then(|lock| Ok((lock, take_over(spec, now, after)?)));
                match taken {
                    Ok((lock, table)) => (self.lock, self.table) = (lock, Some(table)),
                    Err(error) => {
                        self.table = previous;
                        return Err(error);
                    }
                }
                if let Some(Err(error)) = previous.map(ManagedTable::remove) {
                    log::error!("the table of the name before is left: {error}");
                }
                Ok(())
            }
        }
    }
}

fn key_of(address: &IpAddr, place: &Place) -> Option<ElementKey> {
    match place {
        Place::Port(port) => Some(ElementKey { address: *address, port: *port }),
        Place::Set(_) => None,
    }
}

/// Changes the table that stands: rules, and the elements that are no longer or newly wanted, in one transaction.
fn change(
    table: &mut ManagedTable,
    spec: TableSpec,
    now: Time,
    before: &Elements,
    after: &Elements,
) -> Result<(), Error> {
    let gone = before.keys().filter(|key| !after.contains_key(key));
    let gone: Vec<ElementKey> = gone.filter_map(|(address, place)| key_of(address, place)).collect();
    let unchanged = |key: &(IpAddr, Place), new: &Wanted| before.get(key).is_some_and(|old| old.same_element(new));
    let changed = after.iter().filter(|(key, new)| !unchanged(key, new));
    let changed: Vec<Element> =
        changed.filter_map(|((address, place), new)| Some(element(key_of(address, place)?, new, now))).collect();
    table.apply(spec, &gone, &changed)
}

/// Sets the table up, or takes up what stands there, and makes its elements what is wanted.
fn take_over(spec: TableSpec, now: Time, after: &Elements) -> Result<ManagedTable, Error> {
    let all = after.iter().filter_map(|((address, place), wanted)| Some(element(key_of(address, place)?, wanted, now)));
    let all: Vec<Element> = all.collect();
    let (mut table, found) = ManagedTable::set_up_with(spec, &all)?;
    if !table.is_adopted() {
        return Ok(table);
    }
    let is_wanted = |key: &ElementKey| after.contains_key(&(key.address, Place::Port(key.port)));
    let gone: Vec<ElementKey> = found.iter().map(|element| element.key).filter(|key| !is_wanted(key)).collect();
    if !gone.is_empty() {
        table.revoke(&gone)?;
    }
    table.grant(&all)?;
    Ok(table)
}
