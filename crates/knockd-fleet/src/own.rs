//! The records of this node: which wait for the store, and which have to be in it.

use std::collections::{HashMap, VecDeque};

use knock_fleet::link::RecordBytes;

/// The most records that wait for the store.
pub(crate) const QUEUE_MAX: usize = 10_000;
/// The most records that are known.
const LIVE_MAX: usize = 100_000;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// When it need not be in the store any more, in milliseconds since 1970.
    end: u64,
    /// The sweep of the store in which it was seen last.
    seen: u64,
    queued: bool,
}

/// The records of this node that have not ended. The store may lose all of them and gets them again.
#[derive(Debug, Default)]
pub(crate) struct Own {
    live: HashMap<RecordBytes, Entry>,
    queue: VecDeque<RecordBytes>,
    sweep: u64,
    /// Whether everything in the store has been read once.
    swept: bool,
    /// How many were dropped, because the queue was full.
    pub(crate) lost: u64,
}

impl Own {
    /// A record that has to get into the store. The oldest in the queue makes room.
    pub(crate) fn add(&mut self, record: RecordBytes, end: u64) {
        let seen = self.sweep;
        if self.live.len() < LIVE_MAX || self.live.contains_key(&record) {
            let entry = self.live.entry(record).or_insert(Entry { end, seen, queued: false });
            if std::mem::replace(&mut entry.queued, true) {
                return;
            }
        }
        self.push(record);
    }

    /// A record from some time ago, which knockd hands over again: it may be in the store. Until everything there has been read,
    /// it waits for that; what is known needs nothing.
    pub(crate) fn add_again(&mut self, record: RecordBytes, end: u64) {
        if self.live.contains_key(&record) {
            return;
        }
        if self.swept || self.live.len() >= LIVE_MAX {
            return self.add(record, end);
        }
        let seen = self.sweep.saturating_sub(1);
        self.live.insert(record, Entry { end, seen, queued: false });
    }

    fn push(&mut self, record: RecordBytes) {
        if self.queue.len() >= QUEUE_MAX
            && let Some(dropped) = self.queue.pop_front()
        {
            self.lost += 1;
            // It comes again after a sweep.
            if let Some(entry) = self.live.get_mut(&dropped) {
                entry.queued = false;
            }
        }
        self.queue.push_back(record);
    }

    /// The next records to write, with their ends; those that have ended are left out.
    pub(crate) fn batch(&mut self, most: usize, now: u64) -> Vec<RecordBytes> {
        let live = &self.live;
        self.queue.retain(|record| live.get(record).is_none_or(|entry| entry.end > now));
        self.queue.iter().take(most).copied().collect()
    }

    /// The first of these are in the store.
    pub(crate) fn written(&mut self, batch: &[RecordBytes]) {
        // Some may have been dropped meanwhile to make room.
        for record in batch {
            if self.queue.front() == Some(record) {
                self.queue.pop_front();
            }
            if let Some(entry) = self.live.get_mut(record) {
                entry.queued = false;
                entry.seen = self.sweep;
            }
        }
    }

    /// Everything in the store is going to be read. Forgets what has ended.
    pub(crate) fn begin_sweep(&mut self, now: u64) {
        self.sweep += 1;
        self.live.retain(|_, entry| entry.end > now);
    }

    /// A record of this node is in the store.
    pub(crate) fn seen(&mut self, record: &RecordBytes, end: u64) {
        let seen = self.sweep;
        if let Some(entry) = self.live.get_mut(record) {
            entry.seen = seen;
        } else if self.live.len() < LIVE_MAX / 2 {
            // Written before this program was started; or by the store, so half of the room is for those of knockd.
            self.live.insert(*record, Entry { end, seen, queued: false });
        }
    }

    /// Everything has been read. What the store does not have gets into the queue; returns how many these are.
    pub(crate) fn end_sweep(&mut self) -> usize {
        self.swept = true;
        let sweep = self.sweep;
        let missing = |entry: &Entry| entry.seen < sweep && !entry.queued;
        let mut missing: Vec<(u64, RecordBytes)> =
            self.live.iter().filter(|(_, entry)| missing(entry)).map(|(record, entry)| (entry.end, *record)).collect();
        // Those that last longest come last, and are not dropped.
        missing.sort_unstable();
        for &(end, record) in &missing {
            self.add(record, end);
        }
        missing.len()
    }

    /// How many records wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u16) -> RecordBytes {
        let mut record = [0; 416];
        record[..2].copy_from_slice(&number.to_be_bytes());
        record
    }

    #[test]
    fn what_the_store_has_lost_is_written_again() {
        let mut own = Own::default();
        (0..3).for_each(|number| own.add(record(number), 100));
        let batch = own.batch(100, 0);
        assert_eq!(batch.len(), 3);
        own.written(&batch);
        assert_eq!(own.waiting(), 0);
        own.begin_sweep(0);
        own.seen(&record(1), 100);
        // Published while the store is read.
        own.add(record(7), 100);
        assert_eq!(own.end_sweep(), 2);
        assert_eq!(own.waiting(), 3, "0, 2 and 7");
        // All of them are written before the next sweep begins.
        let batch = own.batch(100, 0);
        own.written(&batch);
        own.begin_sweep(0);
        (0..8).for_each(|number| own.seen(&record(number), 100));
        assert_eq!(own.end_sweep(), 0);
        own.begin_sweep(100);
        assert_eq!((own.live.len(), own.end_sweep()), (0, 0), "ended");
    }

    #[test]
    fn the_queue_is_bounded_and_drops_the_oldest() {
        let mut own = Own::default();
        (0..10_002).for_each(|number| own.add(record(number), 100));
        assert_eq!((own.waiting(), own.lost), (QUEUE_MAX, 2));
        assert_eq!(own.batch(1, 0), [record(2)]);
        let batch = own.batch(3, 0);
        own.add(record(20_000), 100);
        own.written(&batch);
        assert_eq!(own.batch(1, 0), [record(5)], "one of the batch was dropped before it was written");
        assert_eq!(own.batch(1, 100), Vec::<RecordBytes>::new(), "ended while the store was away");
    }
}
