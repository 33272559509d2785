//! Which packets were accepted before: the memory of it, and its form on disk. Files are for the caller.
//!
//! Nonces are remembered in two generations. What one of them forgets is covered by a time, the floor: packets dated up to
//! the floor are refused, whether they were seen or not. So nothing is accepted twice, whatever the clock does; a clock
//! that goes back only makes the server refuse packets until it is back where it was.
//!
//! Records have 36 bytes. One that was cut off by a crash was not followed by a grant, since the write comes first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use crate::packet::NONCE_LENGTH;
use crate::time::UnixTime;
use crate::wire::Reader;

/// The most nonces that are remembered. When they are all in use, further packets are refused: to forget one would let its
/// packet in again.
pub const NONCES_MAX: usize = 1_000_000;
/// The length of a record.
pub const RECORD_LENGTH: usize = 36;

const MAGIC: &[u8; 8] = b"knkrply1";
/// The record of an orderly end. As a nonce and a time it would be of a year that no packet has.
const END: [u8; 32] = [0xff; 32];

/// A packet may have been accepted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Replayed {
    /// It was.
    #[error("the packet was already accepted; each packet is valid once, send another one")]
    Seen,
    /// It is of a time of which not everything is remembered.
    #[error("the packet is dated before the time from which this server remembers packets; {}", advice(*.wait))]
    Forgotten {
        /// How long a client with a correct clock has to wait.
        wait: Duration,
    },
    /// There is no room to remember it.
    #[error("this server remembers as many packets as it can; try again in a few minutes")]
    Full,
}

/// The longest window is 10 minutes, and no floor is more than that after the time at which it was set.
fn advice(wait: Duration) -> String {
    let seconds = wait.as_secs().max(1);
    if seconds <= 600 {
        return format!("try again in {seconds} s");
    }
    format!(
        "that is in {seconds} s, since the clock of the server was ahead: wait, or stop knockd, delete the files in `replays` in \
         its state directory, and start it again"
    )
}

/// What was remembered may be incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// A file is not one of these, or is damaged.
    #[error("the file of accepted packets is damaged")]
    Damaged,
    /// The machine stopped before everything was on the disk.
    #[error("the machine was not shut down in order, so the last accepted packets may be missing in the file")]
    Unclean,
}

#[derive(Clone, Debug, Default)]
struct Generation {
    /// The nonces, with the times in the packets.
    times: HashMap<[u8; NONCE_LENGTH], UnixTime>,
    /// The greatest time of its packets.
    latest: Option<UnixTime>,
}

/// The accepted packets.
#[derive(Clone, Debug)]
pub struct Replays {
    /// A generation lasts so long; at least twice the window, so that a floor is older than every packet in the window.
    span: Duration,
    floor: Option<UnixTime>,
    began: UnixTime,
    current: Generation,
    previous: Generation,
    room: usize,
}

/// The content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    floor: Option<UnixTime>,
    boot: [u8; 16],
    entries: Vec<([u8; NONCE_LENGTH], UnixTime)>,
    ended: bool,
}

impl Generation {
    fn insert(&mut self, nonce: [u8; NONCE_LENGTH], time: UnixTime) {
        if let Entry::Vacant(place) = self.times.entry(nonce) {
            place.insert(time);
            self.latest = self.latest.max(Some(time));
        }
    }
}

impl Replays {
    /// Nothing was accepted, as far as is known. Packets dated up to now are refused.
    pub fn new(window: Duration, now: UnixTime) -> Replays {
        let (current, previous) = Default::default();
        let span = window.saturating_mul(2);
        Replays { span, floor: Some(now), began: now, current, previous, room: NONCES_MAX }
    }

    /// What the files of the daemon before this one remember. `boot` is the id of this boot of the machine
    /// (random(4), /proc/sys/kernel/random/boot_id). With a gap, packets dated up to `window` after now are refused too: those
    /// that are missing can't be of later.
    pub fn restore(
        files: &[Result<Stored, Gap>],
        boot: [u8; 16],
        window: Duration,
        now: UnixTime,
    ) -> (Replays, Option<Gap>) {
        let mut replays = Replays::new(window, now);
        if files.is_empty() {
            return (replays, None);
        }
        replays.floor = None;
        let mut gap = None;
        for file in files {
            match file {
                Ok(stored) => {
                    replays.floor = replays.floor.max(stored.floor);
                    stored.entries.iter().for_each(|&(nonce, time)| replays.previous.insert(nonce, time));
                }
                Err(error) => gap = gap.or(Some(*error)),
            }
        }
        // Only the newest was written to until the end, and it is the last.
        if let Some(Ok(newest)) = files.last()
            && newest.boot != boot
            && !newest.ended
        {
            gap = gap.or(Some(Gap::Unclean));
        }
        if gap.is_some() {
            replays.floor = replays.floor.max(Some(now.after(window)));
        }
        (replays, gap)
    }

    /// Whether the nonce is of an accepted packet that is remembered.
    pub fn has_seen(&self, nonce: &[u8; NONCE_LENGTH]) -> bool {
        self.current.times.contains_key(nonce) || self.previous.times.contains_key(nonce)
    }

    /// Changes to another window. What was forgotten before stays refused.
    pub fn set_window(&mut self, window: Duration) {
        self.span = window.saturating_mul(2);
    }

    /// Whether a packet was not accepted before.
    ///
    /// # Errors
    ///
    /// If it was, or may have been.
    pub fn check(&self, nonce: &[u8; NONCE_LENGTH], time: UnixTime, now: UnixTime) -> Result<(), Replayed> {
        if self.has_seen(nonce) {
            return Err(Replayed::Seen);
        }
        if let Some(floor) = self.floor.filter(|&floor| time <= floor) {
            return Err(Replayed::Forgotten { wait: floor.since(now) });
        }
        if self.len() >= self.room { Err(Replayed::Full) } else { Ok(()) }
    }

    /// Remembers an accepted packet. Its [`record`] has to be written before, and the grant comes after.
    pub fn remember(&mut self, nonce: [u8; NONCE_LENGTH], time: UnixTime) {
        self.current.insert(nonce, time);
    }

    /// Whether [`Replays::rotate`] is due.
    pub fn is_due(&self, now: UnixTime) -> bool {
        // A clock that went back must not keep everything for ever.
        now.since(self.began).max(self.began.since(now)) >= self.span
    }

    /// Forgets the older generation and begins another one. Returns the first record of its file; the file of the
    /// generation that is now the older one stays, and the one before that can go once this record is on the disk.
    pub fn rotate(&mut self, now: UnixTime, boot: [u8; 16]) -> [u8; RECORD_LENGTH] {
        self.floor = self.floor.max(self.previous.latest);
        self.previous = std::mem::take(&mut self.current);
        self.began = now;
        self.first_record(boot)
    }

    /// Everything as one file: for a start, in place of all files before it.
    pub fn to_file(&self, boot: [u8; 16]) -> Vec<u8> {
        let mut file = self.first_record(boot).to_vec();
        let entries = self.previous.times.iter().chain(&self.current.times);
        entries.for_each(|(nonce, time)| file.extend_from_slice(&record(nonce, *time)));
        file
    }

    /// How many packets are remembered.
    pub fn len(&self) -> usize {
        self.current.times.len() + self.previous.times.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn first_record(&self, boot: [u8; 16]) -> [u8; RECORD_LENGTH] {
        let mut content = [0; 32];
        content[..8].copy_from_slice(MAGIC);
        // 0 is no floor: no packet is of the first millisecond of 1970.
        content[8..16].copy_from_slice(&self.floor.map_or(0, UnixTime::as_millis).to_be_bytes());
        content[16..].copy_from_slice(&boot);
        sealed(&content)
    }
}

/// The record of an accepted packet.
pub fn record(nonce: &[u8; NONCE_LENGTH], time: UnixTime) -> [u8; RECORD_LENGTH] {
    let mut content = [0; 32];
    content[..NONCE_LENGTH].copy_from_slice(nonce);
    content[NONCE_LENGTH..].copy_from_slice(&time.as_millis().to_be_bytes());
    sealed(&content)
}

/// The record of an orderly end: everything before it is on the disk.
pub fn end_record() -> [u8; RECORD_LENGTH] {
    sealed(&END)
}

impl Stored {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If it is damaged. A last record that is cut off is none: it was being written when the daemon was killed.
    pub fn read(file: &[u8]) -> Result<Stored, Gap> {
        let mut records = file.chunks_exact(RECORD_LENGTH);
        let first = records.next().and_then(unsealed).ok_or(Gap::Damaged)?;
        let mut reader = Reader::new(first);
        if reader.bytes(MAGIC.len()) != Some(MAGIC) {
            return Err(Gap::Damaged);
        }
        let floor = reader.array().map(u64::from_be_bytes).ok_or(Gap::Damaged)?;
        let floor = (floor != 0).then_some(UnixTime::from_millis(floor));
        let boot = reader.array().ok_or(Gap::Damaged)?;
        let mut stored = Stored { floor, boot, entries: Vec::new(), ended: false };
        for record in records {
            let content = unsealed(record).ok_or(Gap::Damaged)?;
            stored.ended = content == END;
            if !stored.ended {
                let mut reader = Reader::new(content);
                let (nonce, time) = reader.array().zip(reader.array()).ok_or(Gap::Damaged)?;
                stored.entries.push((nonce, UnixTime::from_millis(u64::from_be_bytes(time))));
            }
        }
        Ok(stored)
    }
}

fn sealed(content: &[u8; 32]) -> [u8; RECORD_LENGTH] {
    let mut record = [0; RECORD_LENGTH];
    record[..32].copy_from_slice(content);
    record[32..].copy_from_slice(&crc32(content).to_be_bytes());
    record
}

fn unsealed(record: &[u8]) -> Option<&[u8]> {
    let (content, crc) = record.split_last_chunk()?;
    (crc32(content) == u32::from_be_bytes(*crc)).then_some(content)
}

/// The CRC of IEEE 802.3, bit by bit: a record is short, and a second has few.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_sum_is_that_of_ethernet() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_full_memory_refuses_and_forgets_nothing() {
        let now = UnixTime::from_millis(1_800_000_000_000);
        let mut replays = Replays { room: 3, ..Replays::new(Duration::from_secs(60), now) };
        let time = now.after(Duration::from_secs(1));
        for nonce in 0..3 {
            assert_eq!(replays.check(&[nonce; 24], time, now), Ok(()));
            replays.remember([nonce; 24], time);
        }
        assert_eq!(replays.check(&[3; 24], time, now), Err(Replayed::Full));
        for nonce in 0..3 {
            assert_eq!(replays.check(&[nonce; 24], time, now), Err(Replayed::Seen));
        }
    }
}
