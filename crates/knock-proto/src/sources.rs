//! The sources that are remembered: a table of bounded size, and shares of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use smallvec::{SmallVec, smallvec};

use crate::shares::Shares;
use crate::source::Source;
use crate::{Knock, Time};

/// Who knocks at what: an address and the track that its packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) address: IpAddr,
    pub(crate) track: u32,
}

/// No place.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Place {
    key: Key,
    source: Source,
    /// What its groups follow from: see [`groups`].
    standing: Standing,
    /// Where it is among the groups; `NONE`: not yet.
    share: u32,
    older: u32,
    newer: u32,
}

/// How far a source is, and with which knock that began.
type Standing = (u8, Option<Knock>);

/// At most `capacity` sources. When it is full, one that is overdue makes room, else one of the fullest group of the
/// fullest group and so on, of these the one idle longest: see [`groups`].
#[derive(Debug)]
pub(crate) struct Sources {
    places: Vec<Place>,
    free: Vec<u32>,
    // Keyed by an unknown key (SipHash), so that nobody can choose addresses that collide.
    index: HashMap<Key, u32>,
    shares: Shares,
    /// The ends of the list of all places, in the order of the last packet.
    oldest: u32,
    newest: u32,
    capacity: usize,
}

/// The groups that a source shares the table with: first by progress, so that knowing the beginning of a sequence
/// does not push out those who are further, nor those who are less far. In these by the first knock and the version of
/// IP: who knows one rule pushes out nobody who knocks for another. Then by prefix: what one site can send from
/// (an IPv4 /24, an IPv6 /48) and, in that, one link (/64).
fn groups(key: &Key, (progress, first): Standing) -> SmallVec<[u64; 4]> {
    let knock = first.map_or(0, |knock| u64::from(knock.protocol.number()) << 16 | u64::from(knock.port));
    let first = u64::from(key.track) << 32 | u64::from(key.address.is_ipv4()) << 31 | knock;
    let mut groups: SmallVec<[u64; 4]> = smallvec![progress.into(), first];
    groups.extend(networks(key.address));
    groups
}

/// The networks that an address is in, the largest first.
pub(crate) fn networks(address: IpAddr) -> SmallVec<[u64; 2]> {
    match address {
        IpAddr::V4(address) => smallvec![u64::from(address.to_bits() >> 8)],
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments().map(u64::from);
            smallvec![a << 32 | b << 16 | c, d]
        }
    }
}

impl Sources {
    pub(crate) fn new(capacity: usize) -> Sources {
        Sources {
            places: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            shares: Shares::new(),
            oldest: NONE,
            newest: NONE,
            // So that the groups can be numbered too.
            capacity: capacity.clamp(1, NONE as usize / 8),
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
        let new = |source| Place { key, source, standing: (0, None), share: NONE, older: NONE, newer: NONE };
        let place = match self.free.pop() {
            Some(place) => {
                let entry = &mut self.places[place as usize];
                *entry = new(std::mem::take(&mut entry.source));
                place
            }
            None => {
                let place = u32::try_from(self.places.len()).unwrap_or(NONE - 1);
                self.places.push(new(Source::default()));
                place
            }
        };
        self.index.insert(key, place);
        self.link(place);
        (place, evicted)
    }

    /// The source at that place.
    pub(crate) fn get(&self, place: u32) -> &Source {
        &self.places[place as usize].source
    }

    /// Changes a source. Its place in the order of eviction follows.
    pub(crate) fn update<T>(&mut self, place: u32, change: impl FnOnce(&mut Source) -> T) -> T {
        let entry = &mut self.places[place as usize];
        let before = entry.source.newest();
        let result = change(&mut entry.source);
        let standing = (entry.source.progress(), entry.source.first());
        if entry.share != NONE && entry.standing == standing {
            // A retransmission does not make it younger.
            if entry.source.newest() != before {
                self.shares.touch(entry.share);
                self.unlink(place);
                self.link(place);
            }
            return result;
        }
        entry.standing = standing;
        let groups = groups(&entry.key, standing);
        if entry.share != NONE {
            self.shares.remove(entry.share);
        }
        entry.share = self.shares.insert(&groups, place.into());
        self.unlink(place);
        self.link(place);
        result
    }

    pub(crate) fn remove(&mut self, place: u32) {
        self.unlink(place);
        let entry = &mut self.places[place as usize];
        if entry.share != NONE {
            self.shares.remove(entry.share);
        }
        entry.source.clear();
        self.index.remove(&entry.key);
        self.free.push(place);
    }

    /// Forgets the sources that are silent for longer than `silence`.
    pub(crate) fn forget_silent(&mut self, now: Time, silence: Duration) {
        while let Some(place) = self.overdue(now, silence) {
            self.remove(place);
        }
        if self.index.is_empty() {
            // Whatever a flood has made of them, it is over.
            *self = Sources::new(self.capacity);
        }
    }

    /// When [`Sources::forget_silent`] has something to do; `None` while nothing is remembered.
    pub(crate) fn next_silent(&self, silence: Duration) -> Option<Time> {
        let oldest = self.places.get(self.oldest as usize)?.source.newest();
        Some(oldest.after(silence).after(Duration::from_nanos(1)))
    }

    /// The source that is idle longest, where that is for too long.
    fn overdue(&self, now: Time, timeout: Duration) -> Option<u32> {
        let oldest = self.places.get(self.oldest as usize)?.source.newest();
        (now.since(oldest) > timeout).then_some(self.oldest)
    }

    fn evict(&mut self, now: Time, timeout: Duration) -> bool {
        let victim =
            self.overdue(now, timeout).or_else(|| self.shares.fullest().and_then(|place| u32::try_from(place).ok()));
        if let Some(place) = victim {
            self.remove(place);
        }
        victim.is_some()
    }

    /// Makes it the newest of all.
    fn link(&mut self, place: u32) {
        let newest = std::mem::replace(&mut self.newest, place);
        let entry = &mut self.places[place as usize];
        entry.older = newest;
        entry.newer = NONE;
        match self.places.get_mut(newest as usize) {
            Some(before) => before.newer = place,
            None => self.oldest = place,
        }
    }

    fn unlink(&mut self, place: u32) {
        let Place { older, newer, .. } = self.places[place as usize];
        match self.places.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => self.oldest = newer,
        }
        match self.places.get_mut(newer as usize) {
            Some(after) => after.older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Identity;
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
        let requirement = |_: u64| Requirement { runs: &all, timeout: TIMEOUT, since: None };
        let identity = Identity { source_port: 1, number: 1 };
        sources.update(place, |source| source.knock(now, Knock::tcp(port), identity, &tree, requirement, |_| ()));
    }

    #[test]
    fn the_fullest_level_of_progress_makes_room_and_in_it_the_longest_idle() {
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
