//! The order of commands: first come first served, one of a rule and address at a time.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use super::job::{Job, Kind};

/// Commands with the same key never run side by side.
pub(super) type Key = (Arc<str>, IpAddr);

/// The time of each operation does not depend on the number of commands that wait, except for the removals.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The commands that wait, for each key with a command that runs or is ready.
    waiting: HashMap<Key, VecDeque<Job>>,
    /// Keys with a command that waits and none that runs.
    ready: VecDeque<Key>,
    waiting_count: usize,
    running: usize,
}

impl Queue {
    pub(super) fn push(&mut self, job: Job) {
        let key = (Arc::clone(&job.rule), job.source);
        self.waiting_count += 1;
        self.waiting
            .entry(key)
            .or_insert_with_key(|key| {
                self.ready.push_back(key.clone());
                VecDeque::new()
            })
            .push_back(job);
    }

    /// Whether an equal command waits and no other command of the key comes after it.
    pub(super) fn has_last(&self, job: &Job) -> bool {
        let key = (Arc::clone(&job.rule), job.source);
        self.waiting.get(&key).and_then(VecDeque::back).is_some_and(|last| last.is_equal(job))
    }

    /// The next command, whose key is busy until [`Queue::finished`].
    pub(super) fn pop(&mut self) -> Option<(Key, Job)> {
        let key = self.ready.pop_front()?;
        let job = self.waiting.get_mut(&key)?.pop_front()?;
        self.waiting_count -= 1;
        self.running += 1;
        Some((key, job))
    }

    pub(super) fn finished(&mut self, key: &Key) {
        self.running -= 1;
        if self.waiting.get(key).is_some_and(|jobs| !jobs.is_empty()) {
            self.ready.push_back(key.clone());
        } else {
            self.waiting.remove(key);
        }
    }

    /// Removes the commands that wait, except stop commands.
    pub(super) fn remove_starts(&mut self) -> Vec<Job> {
        self.remove(|job| job.kind == Kind::Start)
    }

    /// Removes all commands that wait.
    pub(super) fn remove_all(&mut self) -> Vec<Job> {
        self.remove(|_| true)
    }

    fn remove(&mut self, which: impl Fn(&Job) -> bool) -> Vec<Job> {
        let mut removed = Vec::new();
        for jobs in self.waiting.values_mut() {
            let (taken, kept) = jobs.drain(..).partition::<Vec<_>, _>(&which);
            removed.extend(taken);
            *jobs = kept.into();
        }
        self.waiting_count -= removed.len();
        let waiting = &mut self.waiting;
        self.ready.retain(|key| {
            let stays = waiting.get(key).is_some_and(|jobs| !jobs.is_empty());
            if !stays {
                waiting.remove(key);
            }
            stays
        });
        removed
    }

    /// How many keys have a command that could run now.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// How many commands wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting_count
    }

    /// How many commands run.
    pub(super) fn running(&self) -> usize {
        self.running
    }
}
