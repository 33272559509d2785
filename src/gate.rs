//! The gate: what is granted to whom, in the kernel's sets and in the daemon's record, and that the two agree.

mod ends;
mod lock;
mod own_sets;
mod place;
mod reconfigure;
mod repair;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use knock_config::{Allow, Config, OnStop};
use knock_nft::{Element, ElementKey, ManagedTable, Monitor, TableSpec};
use knock_proto::{Knock, Time};

use crate::ledger::{Full, Grant, Ledger};
use crate::logging::events::{Event, EventLog};
use lock::lock;
use own_sets::OwnSets;
use place::{Place, Wanted, holder, places, size};

pub(crate) use ends::{Revoked, RevokedAll};
pub(crate) use own_sets::SetState;
pub(crate) use place::opens;

/// What is granted to whom.
pub(crate) struct Gate {
    config: Rc<Config>,
    ledger: Ledger,
    /// `None` where no rule guards a port.
    table: Option<ManagedTable>,
    /// Keeps another knockd from the table, where the kernel doesn't.
    lock: Option<OwnedFd>,
    sets: OwnSets,
    /// Where the kernel does not keep others from changing what is ours.
    monitor: Option<Monitor>,
    /// A repair failed, or the machine has slept: what is in the kernel is not known.
    doubtful: bool,
    /// Elements that no grant explained, and that were deleted.
    strays: u64,
}

/// A grant could not be carried out, or the gate not be set up.
pub(crate) type Error = knock_nft::Error;

/// Why nothing was granted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotGranted {
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] Error),
    /// There is no room for it.
    #[error(transparent)]
    Full(#[from] Full),
}

impl Gate {
    /// Sets the managed table up, or takes up the one that a daemon before this one left, with its live grants; and
    /// looks at the administrator's sets.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses, the table is somebody else's, or a set can't be used. Nothing half-made is left.
    pub(crate) fn open(config: Rc<Config>, now: Time, log: EventLog) -> Result<Gate, Error> {
        let mut gate = Gate {
            ledger: Ledger::default(),
            table: None,
            lock: None,
            sets: OwnSets::open(&config, log)?,
            monitor: None,
            doubtful: false,
            strays: 0,
            config,
        };
        let spec = table_spec(&gate.config);
        if spec.is_some() || !gate.sets.is_empty() {
            // Before the table is made, so that nothing that others do to it goes unseen.
            gate.monitor = Some(Monitor::open()?);
        }
        let held = gate.sets.list();
        gate.adopt_sets(now, held);
        if let Some(spec) = spec {
            gate.lock = lock(&spec.name)?;
            let (table, elements) = ManagedTable::set_up(spec)?;
            gate.table = Some(table);
            gate.adopt(now, &elements);
        }
        if !gate.ledger.is_empty() {
            log::info!("took up {} grants that were live", gate.ledger.len());
        }
        if let Err(error) = gate.shed(now).and_then(|()| gate.repair_table(now)).and_then(|_| gate.watch()) {
            gate.abandon();
            return Err(error);
        }
        gate.repair_sets(now);
        Ok(gate)
    }

    /// Takes up what was found in the managed table: the grants of rules that are still there. What else it holds
    /// belongs to rules or ports that are gone, and the other way round a rule may have got a port.
    fn adopt(&mut self, now: Time, elements: &[Element]) {
        let rules = &self.config.rules;
        for element in elements {
            let Some(rule) = rules.iter().position(|rule| *rule.name == *element.comment) else { continue };
            let places = places(&rules[rule], element.key.address);
            if places.contains(&Place::Port(element.key.port)) {
                let (address, count) = (element.key.address, places.len());
                self.ledger.insert(found(rule, address, now, element.timeout, element.remaining, count));
            }
        }
    }

    /// Ends what has no room under `limits.grants`.
    fn shed(&mut self, now: Time) -> Result<(), Error> {
        for grant in self.ledger.shed(self.limit()) {
            self.put(now, grant.rule, grant.address)?;
            let (rule, address) = (self.config.rules[grant.rule].name.as_str(), grant.address);
            let message = format_args!("rule {rule}: the grant to {address} is revoked (no room under limits.grants)");
            self.sets.log.report(now, Event::Revoked, Some(rule), Some(address), message);
        }
        Ok(())
    }

    /// `limits.grants`.
    fn limit(&self) -> usize {
        self.config.limits.grants as usize
    }

    fn adopt_sets(&mut self, now: Time, held: Vec<own_sets::Held>) {
        for held in held {
            let Some(rule) = self.config.rules.iter().position(|rule| *rule.name == *held.rule) else { continue };
            if places(&self.config.rules[rule], held.address).contains(&Place::Set(held.set)) {
                self.ledger.insert(found(rule, held.address, now, held.timeout, held.remaining, 1));
            }
        }
    }

    /// Listens for changes by others, where they can make any.
    fn watch(&mut self) -> Result<(), Error> {
        let unowned = self.table.as_ref().is_some_and(|table| !table.is_owned());
        if !unowned && self.sets.is_empty() {
            self.monitor = None;
            return Ok(());
        }
        let mut monitor = match self.monitor.take() {
            Some(monitor) => monitor,
            None => Monitor::open()?,
        };
        self.table.iter().for_each(|table| monitor.ignore(table.port_id()));
        self.sets.port_id().into_iter().for_each(|port| monitor.ignore(port));
        self.monitor = Some(monitor);
        Ok(())
    }

    /// Grants a rule to an address for `timeout`. Returns whether it was granted already, and now lasts longer.
    ///
    /// # Errors
    ///
    /// Where there is no room, or the kernel refuses; what was granted before goes on.
    pub(crate) fn grant(
        &mut self,
        now: Time,
        rule: usize,
        address: IpAddr,
        timeout: Duration,
    ) -> Result<bool, NotGranted> {
        let elements = size(&self.config.rules[rule], address);
        self.ledger.check_room(self.limit(), rule, address, elements)?;
        let before = self.ledger.get(rule, address).copied();
        let extended = self.ledger.grant(rule, address, now, timeout, elements);
        let result = self.put(now, rule, address);
        if result.is_err() {
            match before {
                Some(before) => self.ledger.insert(before),
                None => drop(self.ledger.take(rule, address)),
            }
        }
        Ok(result.map(|_| extended)?)
    }

    /// Makes the kernel's elements for a rule and an address what the record says. Returns how many were deleted.
    fn put(&mut self, now: Time, rule: usize, address: IpAddr) -> Result<usize, Error> {
        let mut add = Vec::new();
        let mut remove = Vec::new();
        let mut removed = 0;
        for place in places(&self.config.rules[rule], address) {
            let holder = holder(&self.ledger, &self.config.rules, now, address, &place);
            match (place, holder) {
                (Place::Port(port), None) => remove.push(ElementKey { address, port }),
                (Place::Port(port), Some(grant)) => {
                    let rule = self.config.rules[grant.rule].name.to_string();
                    add.push(element(ElementKey { address, port }, &Wanted { rule, grant: *grant }, now));
                }
                (Place::Set(set), None) => removed += self.delete_from_set(&set, &[address])?.len(),
                (Place::Set(set), Some(grant)) => {
                    let remaining = grant.expires.since(now);
                    let rule = self.config.rules[grant.rule].name.as_str();
                    self.sets.grant(now, &set, address, rule, grant.timeout, remaining)?;
                }
            }
        }
        removed += self.delete(&remove)?.len();
        let Some(table) = &mut self.table else { return Ok(removed) };
        if !add.is_empty() {
            match table.grant(&add) {
                // Somebody deleted the table, and the notification is still to come.
                Err(error) if error.is_missing() => self.restore(now)?,
                result => result?,
            }
        }
        Ok(removed)
    }

    /// The record of live grants.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether the kernel keeps others from changing the managed table; `None` where there is none.
    pub(crate) fn owned(&self) -> Option<bool> {
        self.table.as_ref().map(ManagedTable::is_owned)
    }

    /// The administrator's sets that rules use.
    pub(crate) fn set_states(&self) -> Vec<SetState> {
        self.sets.states()
    }

    /// What to poll for changes by others.
    pub(crate) fn monitor(&self) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.monitor.as_ref().map(AsFd::as_fd)
    }

    /// Ends the gate as the configuration says: removes the table, or leaves it with its live grants. `hand_over`: leaves
    /// it in any case, to the daemon that is about to start, so that nothing is open in between.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses to remove it.
    pub(crate) fn close(mut self, hand_over: bool) -> Result<(), Error> {
        match (self.table.take(), self.config.nftables.on_stop) {
            (Some(table), OnStop::Remove) if !hand_over => table.remove(),
            _ => Ok(()),
        }
    }

    /// Ends the gate after a failed start: what was found stays and guards, what was made goes.
    pub(crate) fn abandon(mut self) {
        if let Some(table) = self.table.take()
            && !table.is_adopted()
            && let Err(error) = table.remove()
        {
            log::error!("{error}");
        }
    }
}

/// A grant that was found in the kernel.
fn found(rule: usize, address: IpAddr, now: Time, timeout: Duration, remaining: Duration, elements: usize) -> Grant {
    let since = now.before(timeout.saturating_sub(remaining));
    Grant { rule, address, since, expires: now.after(remaining), timeout, elements }
}

fn element(key: ElementKey, wanted: &Wanted, now: Time) -> Element {
    let remaining = wanted.grant.expires.since(now).max(Duration::from_millis(1));
    Element { key, comment: wanted.rule.clone(), timeout: wanted.grant.timeout.max(remaining), remaining }
}

/// The managed table that the configuration asks for; `None` where no rule guards a port.
fn table_spec(config: &Config) -> Option<TableSpec> {
    let mut guarded = guarded_ports(config);
    guarded.sort_unstable();
    guarded.dedup();
    (!guarded.is_empty()).then(|| TableSpec {
        name: config.nftables.table.clone(),
        guarded,
        exempt_interfaces: config.nftables.exempt_interfaces.clone(),
        owner: config.nftables.owner,
        max_grants: config.limits.grants,
    })
}

/// The ports that are closed to whoever has no grant, in the order of the rules.
pub(crate) fn guarded_ports(config: &Config) -> Vec<Knock> {
    let ports = config.rules.iter().filter_map(|rule| match &rule.allow {
        Some(Allow::Ports { ports, .. }) => Some(ports),
        _ => None,
    });
    ports.flatten().copied().collect()
}
