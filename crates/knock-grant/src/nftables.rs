//! nftables enforces grants: the managed table, and user sets.

mod lock;
mod table;
#[cfg(test)]
mod tests;
mod turned_away;
mod user_sets;

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use knock_nft::{ElementKey, Event, Lifetime, ManagedTable, Monitor};
use knock_proto::Family;

use crate::{Changes, Element, Enforcer, Error, GrantEvent, Key, Place, Policy, Store};
use lock::lock;
use turned_away::TurnedAway;
use user_sets::UserSets;

pub use user_sets::SetState;

/// Enforces grants through nftables.
#[derive(Default)]
pub struct Nftables {
    /// `None` where no rule guards a port.
    table: Option<ManagedTable>,
    policy: Rc<Policy>,
    /// Keeps another knockd from the table, where the kernel doesn't.
    lock: Option<OwnedFd>,
    sets: UserSets,
    /// Where the kernel does not keep others from changing what is ours.
    monitor: Option<Monitor>,
    turned_away: TurnedAway,
}

impl Nftables {
    /// Whether the kernel keeps others from changing the managed table; `None` where there is none.
    pub fn owned(&self) -> Option<bool> {
        self.table.as_ref().map(ManagedTable::is_owned)
    }

    pub(crate) fn table(&self) -> Option<&ManagedTable> {
        self.table.as_ref()
    }

    pub(crate) fn table_mut(&mut self) -> Option<&mut ManagedTable> {
        self.table.as_mut()
    }

    /// The user sets of the policy.
    pub fn sets(&self) -> Vec<SetState> {
        self.sets.states()
    }

    /// Readable when others have changed something; `None` where they cannot.
    pub fn monitor(&self) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.monitor.as_ref().map(AsFd::as_fd)
    }

    /// Watches what others can change, where they can change anything.
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
        monitor.ignore_only(self.table.iter().map(ManagedTable::port_id).chain(self.sets.port_id()).collect());
        self.monitor = Some(monitor);
        Ok(())
    }
}

impl Enforcer for Nftables {
    fn open(&mut self, policy: &Rc<Policy>) -> Result<Vec<Element>, Error> {
        self.policy = policy.clone();
        self.sets = UserSets::open(policy)?;
        if policy.table.is_some() || !self.sets.is_empty() {
            // Before the table is made, so that nothing that others do to it goes unseen.
            self.monitor = Some(Monitor::open()?);
        }
        let mut found = self.sets.list_all();
        if let Some(spec) = policy.table.clone() {
            self.lock = lock(&spec.name)?;
            let (table, elements) = ManagedTable::set_up(spec)?;
            self.table = Some(table);
            found.extend(elements.into_iter().map(from_table));
        }
        if let Err(error) = self.watch() {
            self.drop_new_table();
            return Err(error);
        }
        Ok(found)
    }

    fn apply(
        &mut self,
        policy: &Rc<Policy>,
        before: &[Element],
        after: &[Element],
        events: &mut VecDeque<GrantEvent>,
    ) -> Result<(), Error> {
        let sets = UserSets::open(policy)?;
        // Its counter goes with the rule that is replaced.
        self.turned_away();
        if let Err(error) = self.apply_to_table(policy, before, after) {
            self.restore_previous(before);
            return Err(error);
        }
        self.sets.change_to(sets, [&self.policy, policy], before, after, events);
        self.policy = policy.clone();
        // The new policy is in force: an error would leave everybody else with the old one.
        if let Err(error) = self.watch() {
            log::error!("cannot watch nftables, so changes by other programs are not noticed: {error}");
        }
        Ok(())
    }

    fn add(&mut self, store: &Store, elements: &[Element], events: &mut VecDeque<GrantEvent>) -> Result<(), Error> {
        match (store, &mut self.table) {
            (Store::Set(set), _) => {
                self.sets.add(set, elements, |comment| self.policy.rule_of(comment).is_some(), events)
            }
            (Store::Table, Some(table)) => Ok(table.grant(&for_table(elements))?),
            (Store::Table, None) => Ok(()),
        }
    }

    fn delete(&mut self, store: &Store, keys: &[Key]) -> Result<Vec<Key>, Error> {
        match (store, &mut self.table) {
            (Store::Set(set), _) => self.sets.delete(set, keys, &self.policy),
            (Store::Table, None) => Ok(Vec::new()),
            (Store::Table, Some(table)) => {
                let keys: Vec<ElementKey> = keys.iter().filter_map(table_key).collect();
                Ok(table.revoke(&keys)?.into_iter().map(from_table_key).collect())
            }
        }
    }

    fn delete_all(&mut self) -> Result<Vec<Key>, Error> {
        let Some(table) = &mut self.table else { return Ok(Vec::new()) };
        Ok(table.revoke_all()?.into_iter().map(|element| from_table_key(element.key)).collect())
    }

    fn stores(&mut self) -> Vec<Store> {
        self.sets.inspect();
        let table = self.table.is_some().then_some(Store::Table);
        table.into_iter().chain(self.sets.usable().into_iter().map(Store::Set)).collect()
    }

    fn list(&mut self, store: &Store) -> Result<Vec<Element>, Error> {
        match (store, &mut self.table) {
            (Store::Set(set), _) => self.sets.list(set),
            (Store::Table, Some(table)) => Ok(table.list()?.into_iter().map(from_table).collect()),
            (Store::Table, None) => Ok(Vec::new()),
        }
    }

    fn restore(&mut self, elements: &[Element]) -> Result<bool, Error> {
        self.turned_away();
        let Some(table) = &mut self.table else { return Ok(false) };
        if table.intact()? {
            return Ok(false);
        }
        table.restore(&for_table(elements))?;
        Ok(true)
    }

    fn changes(&mut self) -> Result<Changes, Error> {
        let mut events = Vec::new();
        if let Some(monitor) = &mut self.monitor {
            monitor.read(&mut events)?;
        }
        let table_name = self.policy.table.as_ref().map(|table| &*table.name);
        let mut changes = Changes::default();
        for event in &events {
            match event {
                Event::Overrun => (changes.table, changes.sets) = (true, true),
                Event::Changed(notice) => {
                    let table = notice.family == Family::Inet && Some(&*notice.table) == table_name;
                    let sets = self.sets.concern(notice);
                    if table || sets {
                        changes.by = Some(notice.actor.to_string());
                    }
                    changes.table |= table;
                    changes.sets |= sets;
                }
            }
        }
        Ok(changes)
    }

    fn turned_away(&mut self) -> u64 {
        // One that cannot be read now is read the next time.
        if let Some(Ok(Some(count))) = self.table.as_mut().map(ManagedTable::drop_count) {
            self.turned_away.read(count);
        }
        self.turned_away.packets()
    }

    fn close(mut self, keep: bool) -> Result<(), Error> {
        match self.table.take() {
            Some(table) if !keep => Ok(table.remove()?),
            _ => Ok(()),
        }
    }

    fn abandon(mut self) {
        self.drop_new_table();
    }
}

impl Nftables {
    fn drop_new_table(&mut self) {
        if let Some(table) = self.table.take()
            && !table.is_adopted()
            && let Err(error) = table.remove()
        {
            log::error!("{error}");
        }
    }
}

fn table_key(key: &Key) -> Option<ElementKey> {
    match key.place {
        Place::Table(access) => Some(ElementKey { prefix: key.prefix, access }),
        Place::Set(_) => None,
    }
}

fn from_table_key(key: ElementKey) -> Key {
    Key { prefix: key.prefix, place: Place::Table(key.access) }
}

/// Of the elements, those of the managed table. The kernel refuses a timeout of zero.
fn for_table(elements: &[Element]) -> Vec<knock_nft::Element> {
    let element = |element: &Element| {
        let (key, lifetime) = (table_key(&element.key)?, element.lifetime?);
        let remaining = lifetime.remaining.max(Duration::from_millis(1));
        let timeout = lifetime.timeout.max(remaining);
        Some(knock_nft::Element { key, comment: element.comment.clone(), timeout, remaining })
    };
    elements.iter().filter_map(element).collect()
}

fn from_table(element: knock_nft::Element) -> Element {
    let knock_nft::Element { key, comment, timeout, remaining } = element;
    let lifetime = (remaining < Duration::MAX).then_some(Lifetime { timeout, remaining });
    Element { key: from_table_key(key), comment, lifetime }
}
