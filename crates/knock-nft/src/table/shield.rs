//! The shield: a second table like the managed one, which guards its ports while that one changes in a way that the kernel
//! does not carry out in one moment. A packet has to pass both.
//!
//! When a transaction takes effect, the new rules are in force first. A new set of intervals is filled some microseconds
//! later (`nft_set_commit_update`), and the hooks of a chain that is gone stay until after that. Measured without a shield,
//! under a flood: a table with a range that was made again 4,600 times let in 600 of a million SYNs.

use std::ffi::CString;

use rustix::thread::{MembarrierCommand, membarrier};

use super::ManagedTable;
use super::plan::Plan;
use crate::element::Element;
use crate::error::Error;
use crate::layout::{SHIELD, TableState, object};

/// The kernel refuses a longer name of a table (`NFT_NAME_MAXLEN`).
const NAME_MAX: usize = 255;
const SUFFIX: &str = "-next";

impl ManagedTable {
    /// Carries out a change of the table, to the present specification and to `grants`, behind a shield.
    pub(super) fn behind_shield<T>(
        &mut self,
        flags: u32,
        grants: &[Element],
        change: impl FnOnce(&mut ManagedTable) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let name = self.shield_name();
        let plan = if self.has_shield(&name)? { Plan::Rebuild } else { Plan::Create };
        self.transact((&c_name(&name), SHIELD), &plan, flags, grants)
            .map_err(|refusal| refusal.into_error(object(&name)))?;
        let_packets_pass();
        let result = change(self);
        let_packets_pass();
        self.remove_shield(&name);
        result
    }

    /// Deletes the shield that a knockd left which was killed meanwhile.
    pub(super) fn remove_leftover_shield(&mut self) {
        let name = self.shield_name();
        match self.has_shield(&name) {
            Ok(true) => self.remove_shield(&name),
            Ok(false) => {}
            Err(error) => log::error!("{error}"),
        }
    }

    fn remove_shield(&mut self, name: &str) {
        if let Err(refusal) = self.delete(&c_name(name)) {
            let error = refusal.into_error(object(name));
            log::error!("new grants open nothing until `nft delete table inet {name}`: {error}");
        }
    }

    fn has_shield(&mut self, name: &str) -> Result<bool, Error> {
        Ok(TableState::read(&mut self.connection, name)?.is_some_and(|state| state.comment == SHIELD))
    }

    fn shield_name(&self) -> String {
        let name: &str = &self.spec.name;
        format!("{}{SUFFIX}", name.get(..NAME_MAX - SUFFIX.len()).unwrap_or(name))
    }
}

/// Waits until each packet is through that was on its way, for it may know the hooks of before and meet the rules of
/// afterwards. Packets pass the hooks within a read-side critical section of RCU, and membarrier(2) waits for those: some 15 ms.
/// A kernel with `nohz_full` refuses, and then such a packet would have to be on its way during a whole transaction.
pub(super) fn let_packets_pass() {
    let _ = membarrier(MembarrierCommand::Global);
}

fn c_name(name: &str) -> CString {
    // The name of a table has no NUL.
    CString::new(name).unwrap_or_default()
}
