//! The sources that are remembered: a table of bounded size that keeps the dearest.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::source::Source;
use crate::{SEQUENCE_MAX, Time};

/// Who knocks at what: an address and the track that its packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) address: IpAddr,
    pub(crate) track: u16,
}

/// No place.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Place {
    key: Key,
    source: Source,
    /// The list that the place is in: the source's progress.
    list: u8,
    older: u32,
    newer: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    oldest: u32,
    newest: u32,
}

/// At most `capacity` sources. When it is full, one that is overdue makes room, else one with the least progress, of
/// these the one that was idle longest: a flood of first knocks evicts itself, and nobody who is further.
#[derive(Debug)]
pub(crate) struct Sources {
    places: Vec<Place>,
    free: Vec<u32>,
    // Keyed by an unknown key (SipHash), so that nobody can choose addresses that collide.
    index: HashMap<Key, u32>,
    /// The places by progress, each list in the order of the last packet.
    lists: [List; SEQUENCE_MAX + 1],
    capacity: usize,
}

impl Sources {
    pub(crate) fn new(capacity: usize) -> Sources {
        Sources {
            places: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            lists: [List { oldest: NONE, newest: NONE }; SEQUENCE_MAX + 1],
            capacity: capacity.clamp(1, NONE as usize - 1),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn find(&self, key: &Key) -> Option<u32> {
        self.index.get(key).copied()
    }

    /// Makes a place for a new source; true where another one lost its place for it.
    pub(crate) fn add(&mut self, key: Key, now: Time, timeout: Duration) -> (u32, bool) {
        let full = self.index.len() >= self.capacity;
        let evicted = full && self.evict(now, timeout);
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize].key = key;
                place
            }
            None => {
                let place = u32::try_from(self.places.len()).unwrap_or(NONE - 1);
                let source = Source::default();
                self.places.push(Place { key, source, list: 0, older: NONE, newer: NONE });
                place
            }
        };
        self.index.insert(key, place);
        self.link(place, 0);
        (place, evicted)
    }

    /// Changes a source. Its place in the order of eviction follows.
    pub(crate) fn update<T>(&mut self, place: u32, change: impl FnOnce(&mut Source) -> T) -> T {
        let result = change(&mut self.places[place as usize].source);
        let progress = usize::from(self.places[place as usize].source.progress()).min(SEQUENCE_MAX);
        self.unlink(place);
        self.link(place, progress);
        result
    }

    /// Changes every source in a way that leaves its progress as it is.
    pub(crate) fn for_each(&mut self, change: impl FnMut(&mut Source)) {
        self.places.iter_mut().map(|place| &mut place.source).for_each(change);
    }

    pub(crate) fn remove(&mut self, place: u32) {
        self.unlink(place);
        let entry = &mut self.places[place as usize];
        entry.source.clear();
        self.index.remove(&entry.key);
        self.free.push(place);
    }

    /// Forgets the sources that are silent for longer than `timeout`, the longest of any rule.
    pub(crate) fn forget_silent(&mut self, now: Time, timeout: Duration) {
        for list in 0..self.lists.len() {
            while let Some(place) = self.oldest(list) {
                if now.since(self.places[place as usize].source.newest()) <= timeout {
                    break;
                }
                self.remove(place);
            }
        }
        if self.index.is_empty() {
            // Whatever a flood has made of them, it is over.
            *self = Sources::new(self.capacity);
        }
    }

    /// When [`Sources::forget_silent`] has something to do; `None` while nothing is remembered.
    pub(crate) fn next_silent(&self, timeout: Duration) -> Option<Time> {
        let newest_of = |place: u32| self.places[place as usize].source.newest();
        let oldest = (0..self.lists.len()).filter_map(|list| self.oldest(list)).map(newest_of).min()?;
        Some(oldest.after(timeout).after(Duration::from_nanos(1)))
    }

    fn oldest(&self, list: usize) -> Option<u32> {
        Some(self.lists[list].oldest).filter(|&place| place != NONE)
    }

    fn evict(&mut self, now: Time, timeout: Duration) -> bool {
        let overdue = |place: &u32| now.since(self.places[*place as usize].source.newest()) > timeout;
        let lists = 0..self.lists.len();
        let victim = lists
            .clone()
            .filter_map(|list| self.oldest(list))
            .find(overdue)
            .or_else(|| lists.clone().find_map(|list| self.oldest(list)));
        if let Some(place) = victim {
            self.remove(place);
        }
        victim.is_some()
    }

    fn link(&mut self, place: u32, list: usize) {
        let newest = self.lists[list].newest;
        let entry = &mut self.places[place as usize];
        entry.list = u8::try_from(list).unwrap_or(u8::MAX);
        entry.older = newest;
        entry.newer = NONE;
        self.lists[list].newest = place;
        if newest == NONE {
            self.lists[list].oldest = place;
        } else {
            self.places[newest as usize].newer = place;
        }
    }

    fn unlink(&mut self, place: u32) {
        let Place { list, older, newer, .. } = self.places[place as usize];
        if older == NONE {
            self.lists[usize::from(list)].oldest = newer;
        } else {
            self.places[older as usize].newer = newer;
        }
        if newer == NONE {
            self.lists[usize::from(list)].newest = older;
        } else {
            self.places[newer as usize].older = older;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Knock;
    use crate::sequence::{SequenceTree, runs};
    use crate::source::Requirement;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn key(number: u8) -> Key {
        Key { address: IpAddr::from([10, 0, 0, number]), track: 0 }
    }

    fn knock(sources: &mut Sources, number: u8, port: u16, now: Time) {
        let sequence = [Knock::tcp(1), Knock::tcp(2), Knock::tcp(3)];
        let tree = SequenceTree::new([(0, &sequence[..])]);
        let all = runs(&sequence);
        let place = sources.find(&key(number)).unwrap_or_else(|| sources.add(key(number), now, TIMEOUT).0);
        let requirement = |_: usize| Requirement { runs: &all, timeout: TIMEOUT, since: None };
        sources.update(place, |source| source.knock(now, Knock::tcp(port), &tree, requirement, |_| ()));
    }

    #[test]
    fn the_least_progress_goes_first_and_of_these_the_longest_idle() {
        let mut sources = Sources::new(3);
        knock(&mut sources, 1, 1, Time::from_millis(1));
        knock(&mut sources, 1, 2, Time::from_millis(2));
        knock(&mut sources, 2, 1, Time::from_millis(3));
        knock(&mut sources, 3, 1, Time::from_millis(4));
        knock(&mut sources, 2, 1, Time::from_millis(5));
        knock(&mut sources, 4, 1, Time::from_millis(6));
        let known: Vec<bool> = (1..=4).map(|number| sources.find(&key(number)).is_some()).collect();
        assert_eq!(known, [true, true, false, true]);
        assert_eq!(sources.len(), 3);
    }

    #[test]
    fn an_overdue_source_goes_before_one_with_less_progress() {
        let mut sources = Sources::new(2);
        knock(&mut sources, 1, 1, Time::from_millis(1));
        knock(&mut sources, 1, 2, Time::from_millis(2));
        knock(&mut sources, 2, 1, Time::from_millis(6000));
        knock(&mut sources, 3, 1, Time::from_millis(6001));
        assert!(sources.find(&key(1)).is_none());
        assert!(sources.find(&key(2)).is_some());
    }

    #[test]
    fn silent_sources_are_forgotten_and_their_memory_is_given_back() {
        let mut sources = Sources::new(100);
        for number in 0..100 {
            knock(&mut sources, number, 1, Time::from_millis(u64::from(number)));
        }
        let due = sources.next_silent(TIMEOUT).expect("sources are remembered");
        assert_eq!(due, Time::ZERO.after(TIMEOUT).after(Duration::from_nanos(1)));
        sources.forget_silent(due, TIMEOUT);
        assert_eq!(sources.len(), 99);
        sources.forget_silent(Time::from_millis(200_000), TIMEOUT);
        assert_eq!((sources.len(), sources.places.capacity()), (0, 0));
        assert_eq!(sources.next_silent(TIMEOUT), None);
    }
}
