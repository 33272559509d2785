//! Another policy for the managed table, while grants are live.

use knock_nft::{ElementKey, ManagedTable, TableSpec};

use super::{Nftables, for_table, lock, table_key};
use crate::enforcer::by_key;
use crate::{Element, Error, Policy};

impl Nftables {
    pub(super) fn apply_to_table(
        &mut self,
        policy: &Policy,
        before: &[Element],
        after: &[Element],
    ) -> Result<(), Error> {
        let old = self.policy.table.as_ref().map(|table| table.name.clone());
        match (policy.table.clone(), self.table.take()) {
            (None, None) => Ok(()),
            (None, Some(table)) => {
                self.lock = None;
                Ok(table.remove()?)
            }
            (Some(spec), Some(mut table)) if old.as_ref() == Some(&spec.name) => {
                let result = change(&mut table, spec, before, after);
                self.table = Some(table);
                result
            }
            (Some(spec), previous) => {
                // The new table is there before the old one goes.
                let taken = lock(&spec.name).and_then(|lock| Ok((lock, adopt(spec, after)?)));
                match taken {
                    Ok((lock, table)) => (self.lock, self.table) = (lock, Some(table)),
                    Err(error) => {
                        self.table = previous;
                        return Err(error);
                    }
                }
                if let Some(Err(error)) = previous.map(ManagedTable::give_way) {
                    log::error!("cannot delete the managed table of the previous name: {error}");
                }
                Ok(())
            }
        }
    }

    /// After a change that failed: where it cost the table, makes it again for the policy that stays in force. A change of
    /// the table itself has been carried out as a whole or not at all.
    pub(super) fn restore_previous(&mut self, before: &[Element]) {
        let (None, Some(spec)) = (&self.table, self.policy.table.clone()) else { return };
        match adopt(spec, before) {
            Ok(table) => self.table = Some(table),
            Err(error) => log::error!("the gate may be open or incomplete: {error}"),
        }
    }
}

/// Changes the table that is there: rules, and the elements that go, come or change, in one transaction.
fn change(table: &mut ManagedTable, spec: TableSpec, before: &[Element], after: &[Element]) -> Result<(), Error> {
    let (old, new) = (by_key(before), by_key(after));
    let gone: Vec<ElementKey> =
        before.iter().filter(|element| !new.contains_key(&element.key)).filter_map(|of| table_key(&of.key)).collect();
    let changed = after.iter().filter(|element| old.get(&element.key) != Some(element)).cloned();
    let changed = for_table(&changed.collect::<Vec<_>>());
    Ok(table.apply(spec, &gone, &changed)?)
}

/// Makes the table, or adopts what is there, with these elements and no others.
fn adopt(spec: TableSpec, elements: &[Element]) -> Result<ManagedTable, Error> {
    let all = for_table(elements);
    let (mut table, found) = ManagedTable::set_up_with(spec, &all)?;
    if !table.is_adopted() {
        return Ok(table);
    }
    let desired: std::collections::HashSet<ElementKey> = all.iter().map(|element| element.key).collect();
    let gone = found.iter().map(|element| element.key).filter(|key| !desired.contains(key));
    let gone: Vec<ElementKey> = gone.collect();
    if !gone.is_empty() {
        table.revoke(&gone)?;
    }
    table.grant(&all)?;
    Ok(table)
}
