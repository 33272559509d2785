//! What the other nodes have written down: a thread verifies it, then it is decided what follows.

use std::sync::Arc;

use knock_fleet::link::RecordBytes;
use knock_fleet::{Action, NodeId, Record, Refused};
use knock_proto::Time;

use super::{Fleet, LINE, LINES};
use crate::os::clock::unix_now;

/// Results that are taken in one turn of the loop, each of them perhaps a change of the kernel.
const RESULTS_IN_A_ROW: usize = 16;

impl Fleet {
    /// A record has come from the store.
    pub(super) fn on_record(&mut self, now: Time, bytes: Box<RecordBytes>) {
        // Most of what is read after a connection was made is known: that costs no signature.
        match Record::decode(&bytes[..]) {
            Err(error) => self.refuse(now, None, &Refused::Damaged(error)),
            Ok(record) if self.known.has(&record) => self.refuse(now, Some(record.node), &Refused::Known),
            Ok(_) => {
                let peer = Arc::clone(&self.peer);
                self.worker.as_mut().map(|worker| worker.verify(bytes, peer));
            }
        }
    }

    fn refuse(&mut self, now: Time, node: Option<NodeId>, refused: &Refused) {
        *self.counters.refused.entry(refused.label()).or_default() += 1;
        if !refused.is_expected() && self.lines.admit(now, LINES, LINE) {
            let of = node.map_or_else(|| "from the store".to_owned(), |node| format!("of {}", self.name_of(node)));
            log::warn!("a record {of} is refused: {refused}");
        }
    }

    /// Takes what the thread has verified. Returns what follows.
    pub(crate) fn take_verified(&mut self, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(worker) = &self.worker {
            worker.on_ready();
        }
        for _ in 0..RESULTS_IN_A_ROW {
            let Some(worker) = &mut self.worker else { break };
            let result = match worker.next() {
                Ok(Some(result)) => result,
                Ok(None) => return actions,
                Err(()) => {
                    log::error!("the thread that verifies records has panicked; another one is started");
                    // With the next connection, everything is read again.
                    (self.worker, self.connection, self.has_changed) = (None, None, true);
                    return actions;
                }
            };
            if self.is_paused && worker.is_half_empty() {
                (self.is_paused, self.has_changed) = (false, true);
            }
            if !Arc::ptr_eq(&result.peer, &self.peer) {
                // It was verified by what was in force before a reload.
                let peer = Arc::clone(&self.peer);
                worker.verify(result.record, peer);
                continue;
            }
            let wall = unix_now();
            match result.verified.and_then(|verified| self.known.admit(verified, wall)) {
                Ok(action) => {
                    match &action {
                        Action::Grant(_) => self.counters.granted += 1,
                        Action::Revoke(_) => self.counters.revoked += 1,
                    }
                    actions.push(action);
                }
                Err(refused) => {
                    let node = Record::decode(&result.record[..]).ok().map(|record| record.node);
                    self.refuse(now, node, &refused);
                }
            }
        }
        if let Some(worker) = &self.worker {
            worker.look_again();
        }
        actions
    }
}
