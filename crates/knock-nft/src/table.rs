//! The managed table: set up or adopted, changed, watched, restored and removed.

mod doors;
mod plan;
mod revoke;
mod shield;
mod turned_away;

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::time::Duration;

use rustix::io::Errno;

use crate::connection::{Connection, FEW_ANSWERS, Refusal};
use crate::door::Doors;
use crate::element::{Element, ElementKey};
use crate::error::{Error, Operation};
use crate::grant_set::GrantSet;
use crate::layout::{
    FLAG_OWNER, FLAG_PERSIST, Layout, SHIELD, SetChanges, TableState, comment, object, read_grants,
    read_remaining_grants,
};
use crate::spec::TableSpec;
use crate::writer::Writer;
use plan::{Plan, claims_in_place};

pub use turned_away::DropCount;

/// How many grants go into a transaction where the socket's buffer is small. They take up to 200 bytes each, and
/// net.core.wmem_max is 212,992 unless the administrator lowered it.
const SMALL_TRANSACTION: usize = 1000;

/// The managed table in the network namespace of the thread that set it up.
///
/// Dropped without [`ManagedTable::remove`], the table stays in the kernel, gate closed, and the next
/// [`ManagedTable::set_up`] adopts it.
pub struct ManagedTable {
    connection: Connection,
    spec: TableSpec,
    name: CString,
    owned: bool,
    adopted: bool,
    /// Whether the kernel deletes an element that may be missing (`NFT_MSG_DESTROYSETELEM`, Linux 6.3).
    destroys: bool,
    /// The layout after the last change; `None`: another program changed the table right after it.
    layout: Option<Layout>,
}

impl ManagedTable {
    /// How many grants [`ManagedTable::revoke`] ends in one transaction.
    pub const FEW_KEYS: usize = FEW_ANSWERS;

    /// Makes the table, or adopts the one of that name that knockd left: in one transaction, so that at no moment the gate is
    /// open or a grant missing. (In a user namespace, thousands of grants may follow in further ones, within
    /// milliseconds; net.core.wmem_max decides.) Returns the grants that were found in it, with what remains of their time.
    ///
    /// An adopted table of another layout is rebuilt.
    ///
    /// # Errors
    /// [`Error::Foreign`] where another program has a
    /// table of that name; [`Error::Owned`] where another process owns it; [`Error::Kernel`] where the kernel refuses. In
    /// each case nothing was changed.
    pub fn set_up(spec: TableSpec) -> Result<(ManagedTable, Vec<Element>), Error> {
        ManagedTable::set_up_with(spec, &[])
    }

    /// As [`ManagedTable::set_up`]. A table that is made, and only that, has the grants of `initial` from its first moment.
    ///
    /// # Errors
    /// As [`ManagedTable::set_up`].
    pub fn set_up_with(spec: TableSpec, initial: &[Element]) -> Result<(ManagedTable, Vec<Element>), Error> {
        let connection =
            Connection::open().map_err(|errno| Error::kernel(Operation::Open, object(&spec.name), errno))?;
        let name = spec.c_name();
        let mut table =
            ManagedTable { connection, spec, name, owned: false, adopted: false, destroys: false, layout: None };
        let Some(layout) = table.read_own()? else {
            table.build(None, Plan::Create, initial)?;
            table.finish_set_up();
            return Ok((table, Vec::new()));
        };
        let mut grants = read_remaining_grants(&mut table.connection, &table.spec.name)?;
        keep_openable(&mut grants, &table.spec);
        table.build(Some(&layout), Plan::Rebuild, &grants)?;
        table.finish_set_up();
        table.adopted = true;
        Ok((table, grants))
    }

    fn finish_set_up(&mut self) {
        self.remove_leftover_shield();
        self.destroys = self.can_destroy();
    }

    /// Replaces rules, guarded ports and owner, and makes the grants of `add`, in one transaction: a source that is granted a
    /// port that was not guarded before notices nothing. Then deletes the grants of `remove`, which are others; a failure to
    /// delete is logged, and the grant lasts its time. All other grants stay. Keys without a grant do no harm.
    ///
    /// # Errors
    /// [`Error::Renamed`] where `spec` has another name; otherwise as [`ManagedTable::set_up`], and an error for which
    /// [`Error::is_missing`] holds where the table is gone. In each case nothing was changed.
    pub fn apply(&mut self, spec: TableSpec, remove: &[ElementKey], add: &[Element]) -> Result<(), Error> {
        if spec.name != self.spec.name {
            return Err(Error::Renamed { current: self.spec.name.to_string(), wanted: spec.name.to_string() });
        }
        let Some(layout) = self.read_own()? else {
            return Err(Error::kernel(Operation::ReadTable, object(&self.spec.name), Errno::NOENT));
        };
        let owner_changes = spec.owner != self.spec.owner;
        let spec = if self.owned || owner_changes { spec } else { spec.without_doors() };
        let previous = std::mem::replace(&mut self.spec, spec);
        let sets = layout.changes_to(&self.spec).filter(|_| !owner_changes);
        let result = self.apply_current(sets, remove, add);
        if result.is_err() {
            self.spec = previous;
        }
        result
    }

    fn apply_current(&mut self, sets: Option<SetChanges>, remove: &[ElementKey], add: &[Element]) -> Result<(), Error> {
        match sets {
            Some(sets) if !sets.has_gap => self.replace_in_place(&sets, remove, add),
            sets => {
                let others = remove.iter().chain(add.iter().map(|element| &element.key));
                let others: HashSet<ElementKey> = others.copied().collect();
                let mut grants = read_remaining_grants(&mut self.connection, &self.spec.name)?;
                grants.retain(|grant| !others.contains(&grant.key));
                keep_openable(&mut grants, &self.spec);
                grants.extend_from_slice(add);
                match sets {
                    Some(sets) => {
                        let flags = if self.owned { FLAG_OWNER | FLAG_PERSIST } else { 0 };
                        self.behind_shield(flags, &grants, |table| table.replace_in_place(&sets, remove, add))
                    }
                    None => self.build(None, Plan::Rebuild, &grants),
                }
            }
        }
    }

    fn replace_in_place(&mut self, sets: &SetChanges, remove: &[ElementKey], add: &[Element]) -> Result<(), Error> {
        let stay = self.spec.grant_sets();
        let remove: Vec<ElementKey> = remove.iter().filter(|key| stay.contains(&GrantSet::of(key))).copied().collect();
        let replace_and_grant = |writer: &mut Writer<'_>, spec: &TableSpec| {
            writer.replace(spec, sets);
            add.iter().for_each(|element| writer.grant(element));
        };
        match self.change(replace_and_grant) {
            // A packet may meet the old guarded ports and the new grants: grants are deleted after their
            // ports are no longer guarded, or a granted packet would be dropped.
            Ok(()) => {
                if let Err(error) = self.revoke(&remove) {
                    log::error!(
                        "cannot delete grants that the new configuration does not have; they expire at their time: {error}"
                    );
                }
            }
            // As in `transact`: the grants that do not fit follow.
            Err(error) if error.errno() == Some(Errno::MSGSIZE) => {
                self.change(|writer, spec| writer.replace(spec, sets))?;
                self.revoke(&remove)?;
                add.chunks(SMALL_TRANSACTION / 3).try_for_each(|add| self.grant(add))?;
            }
            Err(error) => return Err(error),
        }
        self.snapshot_layout();
        Ok(())
    }

    /// Restores the whole table, with these grants and no others, after it was deleted or changed. It may exist, and
    /// this may be repeated. Grants whose time is over are left out.
    ///
    /// # Errors
    /// [`Error::Foreign`] where another program made a table of that name in the meantime; [`Error::Kernel`] where the
    /// kernel refuses.
    pub fn restore(&mut self, elements: &[Element]) -> Result<(), Error> {
        let plan = if self.read_state()?.is_some() { Plan::Rebuild } else { Plan::Create };
        let alive: Vec<Element> =
            elements.iter().filter(|element| element.remaining > Duration::ZERO).cloned().collect();
        self.build(None, plan, &alive)
    }

    /// Whether table, chains, rules, set definitions and guarded ports are as this process left them. Grants are not looked at.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the kernel refuses the request.
    pub fn intact(&mut self) -> Result<bool, Error> {
        let found = Layout::read(&mut self.connection, &self.spec.name)?;
        Ok(found.is_some() && found == self.layout)
    }

    /// Opens the ports to the addresses: all, in one transaction, or none. A grant that exists is extended, with the
    /// new comment.
    ///
    /// # Errors
    /// [`Error::Kernel`]: [`Error::is_full`] where there is no room, [`Error::is_missing`] where the table is gone.
    pub fn grant(&mut self, elements: &[Element]) -> Result<(), Error> {
        if elements.is_empty() {
            return Ok(());
        }
        self.change(|writer, _| elements.iter().for_each(|element| writer.grant(element)))
    }

    /// Ends all grants, and deletes what else is in the sets of grants, in one transaction. Returns what was in them.
    ///
    /// # Errors
    /// [`Error::Kernel`]: [`Error::is_missing`] where the table is gone.
    pub fn revoke_all(&mut self) -> Result<Vec<Element>, Error> {
        let found = self.list()?;
        self.change(|writer, spec| spec.grant_sets().into_iter().for_each(|set| writer.empty(set)))?;
        Ok(found)
    }

    /// Lists the grants. The kernel takes half a second for 100,000 of them, and longer for the last ones than for the first.
    ///
    /// An element without an end opens its port as well, though knockd makes none: it remains for [`Duration::MAX`].
    ///
    /// # Errors
    /// [`Error::Kernel`]: [`Error::is_missing`] where the table is gone.
    pub fn list(&mut self) -> Result<Vec<Element>, Error> {
        read_grants(&mut self.connection, &self.spec.name)
    }

    /// Deletes the table, and with it the gate. It may be gone already.
    ///
    /// # Errors
    /// [`Error::Foreign`] where another program made a table of that name in the meantime; [`Error::Kernel`] where the
    /// kernel refuses.
    pub fn remove(mut self) -> Result<(), Error> {
        if self.read_state()?.is_none() {
            return Ok(());
        }
        let name = self.name.clone();
        self.delete(&name).map_err(|refusal| refusal.into_error(object(&self.spec.name)))
    }

    /// As [`ManagedTable::remove`], behind another table that has just begun to guard the ports.
    ///
    /// # Errors
    /// As [`ManagedTable::remove`].
    pub fn give_way(self) -> Result<(), Error> {
        shield::let_packets_pass();
        self.remove()
    }

    /// Deletes a table. It may be gone.
    fn delete(&mut self, name: &CStr) -> Result<(), Refusal> {
        self.connection.begin();
        Writer { connection: &mut self.connection, name }.delete();
        match self.connection.commit() {
            Err(refusal) if refusal.first.errno != Errno::NOENT => Err(refusal),
            _ => Ok(()),
        }
    }

    /// Whether no other process can change the table.
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// Whether [`ManagedTable::set_up`] found the table, which has guarded its ports since before.
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// The netlink port from which the table is changed, for [`crate::Monitor::ignore_only`].
    pub fn port_id(&self) -> u32 {
        self.connection.port_id()
    }

    /// Reads the table of that name; an error where it is not ours to change.
    fn read_state(&mut self) -> Result<Option<TableState>, Error> {
        let state = TableState::read(&mut self.connection, &self.spec.name)?;
        if let Some(state) = &state {
            self.check_ours(state)?;
        }
        Ok(state)
    }

    fn read_own(&mut self) -> Result<Option<Layout>, Error> {
        let layout = Layout::read(&mut self.connection, &self.spec.name)?;
        if let Some(layout) = &layout {
            self.check_ours(layout.table())?;
        }
        Ok(layout)
    }

    fn check_ours(&self, state: &TableState) -> Result<(), Error> {
        let table = self.spec.name.to_string();
        match state.owner {
            _ if !state.is_ours() => Err(Error::Foreign { table }),
            Some(port_id) if port_id != self.connection.port_id() => Err(Error::Owned { table, port_id }),
            _ => Ok(()),
        }
    }

    /// Makes the table as `plan` says, owned where that is wanted and the kernel has it, with these grants. Where the table
    /// that exists (`layout`) can stay, it is not rebuilt, and keeps its grants.
    fn build(&mut self, layout: Option<&Layout>, plan: Plan, grants: &[Element]) -> Result<(), Error> {
        // A kernel that does not have both flags must not be given one: owned and not persistent fails open.
        let flags: &[u32] = if self.spec.owner { &[FLAG_OWNER | FLAG_PERSIST, 0] } else { &[0] };
        let mut unsupported = Errno::OPNOTSUPP;
        for &flags in flags {
            if flags & FLAG_OWNER == 0 {
                // Somebody else could change who is armed.
                self.spec.doors = Doors::default();
            }
            let in_place = layout.and_then(|layout| {
                let claim = claims_in_place(layout.table().flags, flags)?;
                Some(Plan::Replace { claim, sets: layout.changes_to(&self.spec)? })
            });
            let plan = in_place.as_ref().unwrap_or(&plan);
            let result = match plan.has_gap() {
                true => self.behind_shield(flags, grants, |table| table.carry_out(plan, flags, grants)),
                false => self.carry_out(plan, flags, grants),
            };
            match result {
                Ok(()) => {
                    self.owned = flags & FLAG_OWNER != 0;
                    self.snapshot_layout();
                    return Ok(());
                }
                // The kernel does not know the flags.
                Err(Error::Kernel {
                    operation: Operation::AddTable,
                    errno: errno @ (Errno::OPNOTSUPP | Errno::INVAL),
                    ..
                }) => unsupported = errno,
                Err(error) => return Err(error),
            }
        }
        Err(Error::kernel(Operation::AddTable, object(&self.spec.name), unsupported))
    }

    fn carry_out(&mut self, plan: &Plan, flags: u32, grants: &[Element]) -> Result<(), Error> {
        let grants = if matches!(plan, Plan::Replace { .. }) { &[] } else { grants };
        let name = self.name.clone();
        let result = self.transact((&name, comment(&self.spec)), plan, flags, grants);
        result.map_err(|refusal| refusal.into_error(object(&self.spec.name)))
    }

    /// Changes a table, that with a name and a comment, as `plan` says.
    fn transact(&mut self, table: (&CStr, &str), plan: &Plan, flags: u32, grants: &[Element]) -> Result<(), Refusal> {
        match self.transact_at_once(table, plan, flags, grants) {
            Err(refusal) if refusal.first.errno == Errno::MSGSIZE && !grants.is_empty() => {
                // In a user namespace the socket's buffer cannot grow beyond net.core.wmem_max. Then the gate is closed
                // at once, and the grants follow in several transactions.
                self.transact_at_once(table, plan, flags, &[])?;
                grants.chunks(SMALL_TRANSACTION).try_for_each(|grants| {
                    self.connection.begin();
                    Writer { connection: &mut self.connection, name: table.0 }.add_elements(grants);
                    self.connection.commit()
                })
            }
            result => result,
        }
    }

    fn transact_at_once(
        &mut self,
        (name, comment): (&CStr, &str),
        plan: &Plan,
        flags: u32,
        grants: &[Element],
    ) -> Result<(), Refusal> {
        self.connection.begin();
        let mut writer = Writer { connection: &mut self.connection, name };
        // Nobody is armed at a shield.
        let shield = (comment == SHIELD).then(|| self.spec.without_doors());
        let spec = shield.as_ref().unwrap_or(&self.spec);
        match plan {
            Plan::Create => writer.create(spec, flags, comment),
            Plan::Rebuild => {
                writer.delete();
                writer.create(spec, flags, comment);
            }
            Plan::Replace { claim, sets } => {
                if *claim {
                    writer.claim(flags);
                }
                writer.replace(&self.spec, sets);
            }
        }
        writer.add_elements(grants);
        self.connection.commit()
    }

    /// Carries out one transaction.
    fn change(&mut self, write: impl FnOnce(&mut Writer<'_>, &TableSpec)) -> Result<(), Error> {
        self.connection.begin();
        write(&mut Writer { connection: &mut self.connection, name: &self.name }, &self.spec);
        self.connection.commit().map_err(|refusal| refusal.into_error(object(&self.spec.name)))
    }

    /// Keeps the present layout for [`ManagedTable::intact`]. Where it cannot be read, or another change came first, that
    /// will find it damaged.
    fn snapshot_layout(&mut self) {
        let layout = Layout::read(&mut self.connection, &self.spec.name).ok().flatten();
        self.layout = layout.filter(|layout| layout.is_made_of(&self.spec));
    }
}

/// Drops the grants of ranges that the table has no set for any more.
fn keep_openable(grants: &mut Vec<Element>, spec: &TableSpec) {
    let sets = spec.grant_sets();
    let before = grants.len();
    grants.retain(|grant| sets.contains(&GrantSet::of(&grant.key)));
    if grants.len() < before {
        log::info!("{} grants of ports that no rule opens any more end now", before - grants.len());
    }
}
