//! The pending stop commands in memory, and the changes that the file lacks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use knock_proto::Time;

use super::disk::Changes;
use super::journal::Change;
use super::record::{Key, LINE_REST, Record};

/// The journal may be longer than twice the bytes of the pending stop commands by this many bytes.
pub(super) const SLACK: u64 = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) by_id: BTreeMap<u64, Entry>,
    pub(super) by_key: HashMap<Key, u64>,
    pub(super) due: BTreeSet<(Time, u64)>,
    last_id: u64,
    /// Counts the changes, for a comparison with the number that is on disk.
    pub(super) generation: u64,
    /// Entries that differ from the file, where there is one.
    changed: BTreeSet<u64>,
    /// The bytes of all entries in the file.
    pub(super) live: usize,
    /// When the new time of an entry has to be written, and the rule and address of that entry.
    pub(super) write_due: Option<(Time, Arc<str>, IpAddr)>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    /// Its bytes in the file.
    size: usize,
    /// The file may have it.
    on_disk: bool,
    /// Its time in [`Entries::due`]: that of the record at first, later that of the next try.
    look: Time,
    /// As far as is known, the start command has succeeded or is about to run.
    pub(super) opened: bool,
    /// It was handed out as a job, and that job has not ended.
    pub(super) in_flight: bool,
    pub(super) tries: u32,
}

impl Entries {
    pub(super) fn insert(&mut self, key: Key, record: Record, opened: bool) -> u64 {
        self.last_id += 1;
        self.generation += 1;
        let (id, look, size) = (self.last_id, record.due(), record.size());
        self.by_key.insert(key, id);
        self.due.insert((look, id));
        self.by_id.insert(id, Entry { record, size, on_disk: false, look, opened, in_flight: false, tries: 0 });
        self.changed.insert(id);
        self.live += size;
        id
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(entry) = self.by_id.remove(&id) {
            self.generation += 1;
            self.due.remove(&(entry.look, id));
            self.by_key.remove(&entry.record.key());
            self.live -= entry.size;
            if entry.on_disk {
                self.changed.insert(id);
            } else {
                self.changed.remove(&id);
            }
        }
    }

    /// Changes a record in all but its key.
    pub(super) fn put_off(&mut self, id: u64, change: impl FnOnce(&mut Record)) {
        if let Some(entry) = self.by_id.get_mut(&id) {
            change(&mut entry.record);
            self.generation += 1;
            self.changed.insert(id);
            let size = entry.record.size();
            self.live = self.live - entry.size + size;
            entry.size = size;
            let due = entry.record.due();
            self.look_at(id, due);
        }
    }

    /// The changes to write to a file of that length (`None`: to a new file), after which the file has all entries.
    /// From now on they count as written.
    pub(super) fn take_changes(&mut self, length: Option<u64>) -> Changes {
        let of_change = |id: &u64| self.by_id.get(id).map_or(LINE_REST, |entry| entry.size);
        let more: usize = self.changed.iter().map(of_change).sum();
        let is_short = |length: u64| length + more as u64 <= 2 * self.live as u64 + SLACK;
        let whole = self.by_id.is_empty() || !length.is_some_and(is_short);
        let changed = mem::take(&mut self.changed);
        let pending = |id: u64, entry: &mut Entry| {
            entry.on_disk = true;
            Change::Pending(id, entry.record.clone())
        };
        let changes = if whole {
            self.by_id.iter_mut().map(|(id, entry)| pending(*id, entry)).collect()
        } else {
            // Pending entries come first: of a text whose end is lost, an entry must not be gone without the one that
            // replaces it.
            let (there, done): (Vec<_>, Vec<_>) = changed.into_iter().partition(|id| self.by_id.contains_key(id));
            let by_id = &mut self.by_id;
            let there = there.into_iter().filter_map(|id| by_id.get_mut(&id).map(|entry| pending(id, entry)));
            there.chain(done.into_iter().map(Change::Done)).collect()
        };
        Changes { generation: self.generation, whole, changes }
    }

    pub(super) fn look_at(&mut self, id: u64, look: Time) {
        if let Some(entry) = self.by_id.get_mut(&id) {
            self.due.remove(&(entry.look, id));
            entry.look = look;
            self.due.insert((look, id));
        }
    }
}
