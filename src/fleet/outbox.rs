//! The records that this node has written: knockd-fleet gets each of them, and all of them again after it was started.

use std::collections::VecDeque;

use knock_fleet::link::RecordBytes;
use knock_spa::UnixTime;

/// The most records that are kept, 4 MiB; the oldest make room.
const RECORDS_MAX: usize = 10_000;

/// Records, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    records: VecDeque<(UnixTime, Box<RecordBytes>)>,
    /// How many of them, from the front on, are handed over.
    handed_over: usize,
    /// How many were dropped that were not handed over.
    dropped: u64,
}

impl Outbox {
    /// Adds a record, which matters until `end`.
    pub(super) fn add(&mut self, record: RecordBytes, end: UnixTime) {
        if self.records.len() >= RECORDS_MAX {
            self.records.pop_front();
            self.dropped += u64::from(self.handed_over == 0);
            self.handed_over = self.handed_over.saturating_sub(1);
        }
        self.records.push_back((end, Box::new(record)));
    }

    /// The next record to hand over, of those that still matter.
    pub(super) fn next(&mut self, now: UnixTime) -> Option<&RecordBytes> {
        while self.records.get(self.handed_over)?.0 <= now {
            self.records.remove(self.handed_over);
        }
        self.records.get(self.handed_over).map(|(_, record)| &**record)
    }

    /// That record was handed over.
    pub(super) fn advance(&mut self) {
        self.handed_over += 1;
    }

    /// knockd-fleet has started: it gets all of them again.
    pub(super) fn rewind(&mut self) {
        self.handed_over = 0;
    }

    /// How many wait to be handed over.
    pub(super) fn waiting(&self) -> usize {
        self.records.len() - self.handed_over
    }

    /// How many were dropped to make room, before they were handed over.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_millis(1000);
    const LATER: UnixTime = UnixTime::from_millis(2000);

    fn record(number: usize) -> RecordBytes {
        let mut record = [0; 416];
        record[..8].copy_from_slice(&number.to_be_bytes());
        record
    }

    #[test]
    fn each_record_is_handed_over_once_to_each_knockd_fleet_while_it_matters() {
        let mut outbox = Outbox::default();
        outbox.add(record(0), LATER);
        outbox.add(record(1), NOW);
        outbox.add(record(2), LATER);
        for _ in 0..2 {
            let mut handed_over = Vec::new();
            while let Some(record) = outbox.next(NOW).copied() {
                handed_over.push(record);
                outbox.advance();
            }
            assert_eq!(handed_over, [record(0), record(2)]);
            assert_eq!((outbox.waiting(), outbox.dropped()), (0, 0));
            outbox.rewind();
        }
        assert_eq!(outbox.next(LATER), None);
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut outbox = Outbox::default();
        (0..RECORDS_MAX).for_each(|number| outbox.add(record(number), LATER));
        assert_eq!(outbox.next(NOW), Some(&record(0)));
        outbox.advance();
        outbox.add(record(RECORDS_MAX), LATER);
        assert_eq!(outbox.next(NOW), Some(&record(1)));
        assert_eq!(outbox.dropped(), 0, "the first was handed over");
        outbox.add(record(RECORDS_MAX + 1), LATER);
        assert_eq!(outbox.next(NOW), Some(&record(2)));
        assert_eq!((outbox.dropped(), outbox.waiting()), (1, RECORDS_MAX));
    }
}
