//! Notes about sources in bounded memory: what is known of a source beside its progress.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use crate::Time;
use crate::shares::Shares;

/// Room for so many notes at least, however few sources are remembered: it costs little.
pub(crate) const CAPACITY_MIN: usize = 1024;

#[derive(Debug)]
struct Note<K, V> {
    key: K,
    value: V,
    at: Time,
    share: u32,
}

/// Values by their keys, in the order in which they came. When there is no room, the oldest one of the fullest group
/// makes room.
#[derive(Debug)]
pub(crate) struct Notes<K, V> {
    notes: BTreeMap<u64, Note<K, V>>,
    // Keyed by an unknown key (SipHash), so that nobody can choose keys that collide.
    index: HashMap<K, u64>,
    shares: Shares,
    next: u64,
    capacity: usize,
}

impl<K: Clone + Eq + Hash, V> Notes<K, V> {
    /// Room for about as many notes as sources are remembered.
    pub(crate) fn new(sources: usize) -> Notes<K, V> {
        Notes {
            notes: BTreeMap::new(),
            index: HashMap::new(),
            shares: Shares::new(),
            next: 0,
            capacity: sources.max(CAPACITY_MIN),
        }
    }

    /// Another number of sources is remembered from now on.
    pub(crate) fn resize(&mut self, sources: usize) {
        self.capacity = sources.max(CAPACITY_MIN);
        while self.notes.len() > self.capacity && self.evict() {}
    }

    /// The number of notes.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.notes.len(), self.index.len());
        self.notes.len()
    }

    #[cfg(test)]
    pub(crate) fn index_capacity(&self) -> usize {
        self.index.capacity()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// The note of that key, and its time.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<(Time, &mut V)> {
        let note = self.index.get(key).and_then(|number| self.notes.get_mut(number))?;
        Some((note.at, &mut note.value))
    }

    /// The time of the note of that key.
    pub(crate) fn time_of(&self, key: &K) -> Option<Time> {
        Some(self.notes.get(self.index.get(key)?)?.at)
    }

    /// Whether there is a note in these groups, the largest first.
    pub(crate) fn contains_any(&self, groups: &[u64]) -> bool {
        self.shares.contains(groups)
    }

    /// Adds a note whose key has none. `groups`: the groups that it is in, the largest first.
    pub(crate) fn insert(&mut self, now: Time, groups: &[u64], key: K, value: V) {
        while self.notes.len() >= self.capacity && self.evict() {}
        let number = self.next;
        self.next += 1;
        // Were the clock to go backwards, the order is still that of the times.
        let at = self.notes.last_key_value().map_or(now, |(_, newest)| now.max(newest.at));
        let share = self.shares.insert(groups, number);
        self.index.insert(key.clone(), number);
        self.notes.insert(number, Note { key, value, at, share });
    }

    /// Removes the note of that key.
    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(number) = self.index.get(key) {
            self.remove_number(*number);
        }
    }

    /// Removes the notes whose key is not one of these.
    pub(crate) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let gone: Vec<u64> =
            self.notes.iter().filter(|(_, note)| !keep(&note.key)).map(|(number, _)| *number).collect();
        for number in gone {
            self.remove_number(number);
        }
    }

    /// Removes the notes that are older than that.
    pub(crate) fn forget_older(&mut self, now: Time, age: Duration) {
        while let Some((&oldest, _)) = self.notes.first_key_value().filter(|(_, oldest)| now.since(oldest.at) > age) {
            self.remove_number(oldest);
        }
        if self.notes.is_empty() {
            // Its memory is given back.
            *self = Notes::new(self.capacity);
        }
    }

    /// When all notes of now are older than that; `None`: there are none.
    pub(crate) fn all_older(&self, age: Duration) -> Option<Time> {
        let (_, newest) = self.notes.last_key_value()?;
        Some(newest.at.after(age).after(Duration::from_nanos(1)))
    }

    fn evict(&mut self) -> bool {
        self.shares.fullest().is_some_and(|number| self.remove_number(number))
    }

    fn remove_number(&mut self, number: u64) -> bool {
        let removed = self.notes.remove(&number);
        if let Some(note) = &removed {
            self.index.remove(&note.key);
            self.shares.remove(note.share);
        }
        removed.is_some()
    }
}
