//! A file of accepted packets is read whole, or is a gap after which nothing old is accepted. No packet is accepted twice.

use std::collections::HashSet;
use std::time::Duration;

use knock_spa::UnixTime;
use knock_spa::replay::{RECORD_LENGTH, Replayed, Replays, Stored, end_record, record};

const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_000);
const WINDOW: Duration = Duration::from_secs(60);
/// The record of an orderly end, as if it were a packet.
const END: ([u8; 24], UnixTime) = ([0xff; 24], UnixTime::from_millis(u64::MAX));

/// Checks [`Stored::read`] and [`Replays::restore`] with the file that these bytes are, and with the same file with correct
/// check sums; and [`Replays`] with what these bytes let happen to a server.
///
/// # Panics
///
/// Where a packet of the file is accepted, or an old packet after a gap, or a packet twice.
pub fn replay_file(bytes: &[u8]) {
    check(bytes);
    // A fuzzer does not find check sums.
    let corrected: Vec<u8> = bytes.chunks_exact(RECORD_LENGTH).flat_map(corrected).collect();
    check(&corrected);
    history(bytes);
}

fn corrected(bytes: &[u8]) -> [u8; RECORD_LENGTH] {
    let (nonce, time) = parts(bytes);
    record(&nonce, time)
}

/// A record as a nonce and a time.
fn parts(bytes: &[u8]) -> ([u8; 24], UnixTime) {
    let (mut nonce, mut time) = ([0; 24], [0; 8]);
    nonce.copy_from_slice(&bytes[..24]);
    time.copy_from_slice(&bytes[24..32]);
    (nonce, UnixTime::from_millis(u64::from_be_bytes(time)))
}

fn check(file: &[u8]) {
    let stored = Stored::read(file);
    let whole = stored.is_ok();
    let (replays, gap) = Replays::restore(&[stored], [1; 16], WINDOW, NOW);
    assert!(whole || gap.is_some());
    let refused = |nonce: &[u8; 24], time| replays.check(nonce, time, NOW);
    if gap.is_some() {
        assert!(refused(&[0; 24], NOW).is_err(), "accepted after a gap");
    }
    if whole {
        let records = file.chunks_exact(RECORD_LENGTH).skip(1).map(parts);
        for (nonce, time) in records.filter(|record| *record != END) {
            assert_eq!(refused(&nonce, time), Err(Replayed::Seen));
        }
        let again = Stored::read(&replays.to_file([1; 16]));
        let (again, gap) = Replays::restore(&[again], [1; 16], WINDOW, NOW);
        assert_eq!((gap, again.len()), (None, replays.len()));
    }
}

/// A server with its files.
struct Server {
    now: UnixTime,
    boot: u8,
    files: Vec<Vec<u8>>,
    replays: Replays,
    accepted: HashSet<u8>,
}

impl Server {
    fn restart(&mut self) {
        let stored: Vec<_> = self.files.iter().map(|file| Stored::read(file)).collect();
        (self.replays, _) = Replays::restore(&stored, [self.boot; 16], WINDOW, self.now);
        self.files = vec![self.replays.to_file([self.boot; 16])];
    }

    fn newest(&mut self) -> &mut Vec<u8> {
        self.files.last_mut().expect("a file")
    }

    /// One of 64 packets arrives, each dated 10 s after the one before it.
    fn receive(&mut self, number: u8) {
        let (nonce, time) = ([number; 24], add(NOW, i64::from(number) * 10_000));
        let off = time.since(self.now).max(self.now.since(time));
        if off <= WINDOW && self.replays.check(&nonce, time, self.now).is_ok() {
            self.newest().extend_from_slice(&record(&nonce, time));
            self.replays.remember(nonce, time);
            assert!(self.accepted.insert(number), "accepted twice");
        }
    }

    /// The end of the newest file is lost.
    fn cut_power(&mut self, bytes: usize) {
        let now = self.now;
        let file = self.newest();
        let keep = file.len().saturating_sub(bytes).max(RECORD_LENGTH);
        if is_past(&file[keep / RECORD_LENGTH * RECORD_LENGTH..], now) {
            file.truncate(keep);
        }
        self.boot = self.boot.wrapping_add(1);
        self.restart();
    }

    /// A bit of the newest file turns over.
    fn damage(&mut self, byte: usize, bit: u8) {
        let now = self.now;
        let file = self.newest();
        let floor =
            record(&[0; 24], UnixTime::from_millis(u64::from_be_bytes(*file[8..].first_chunk().expect("a floor"))));
        if is_past(&floor, now) && is_past(&file[RECORD_LENGTH..], now) {
            let byte = byte % file.len();
            file[byte] ^= 1 << bit;
        }
        self.restart();
    }
}

/// Whether these records can be lost without harm: nothing protects from a loss together with a clock that goes back.
fn is_past(records: &[u8], now: UnixTime) -> bool {
    records
        .chunks_exact(RECORD_LENGTH)
        .map(parts)
        .filter(|record| *record != END)
        .all(|(_, time)| time.since(now) <= WINDOW)
}

fn add(time: UnixTime, milliseconds: i64) -> UnixTime {
    UnixTime::from_millis(time.as_millis().saturating_add_signed(milliseconds))
}

/// Each two bytes are a thing that happens, and how much of it.
fn history(bytes: &[u8]) {
    let (replays, _) = Replays::restore(&[], [0; 16], WINDOW, NOW);
    let files = vec![replays.to_file([0; 16])];
    let mut server = Server { now: NOW, boot: 0, files, replays, accepted: HashSet::new() };
    for step in bytes.chunks_exact(2).take(512) {
        let (what, much) = (step[0], step[1]);
        let signed = i64::from(much.cast_signed());
        match what % 8 {
            0..=2 => server.receive(much % 64),
            3 => server.now = add(server.now, signed * 1_000),
            4 => server.now = add(server.now, signed * 20_000),
            5 if what & 8 == 0 => server.restart(),
            5 => {
                server.newest().extend_from_slice(&end_record());
                server.boot = server.boot.wrapping_add(1);
                server.restart();
            }
            6 => server.cut_power(usize::from(much)),
            _ => server.damage(usize::from(what >> 3) * 8 + usize::from(much >> 3) % 8, much % 8),
        }
        if server.replays.is_due(server.now) {
            let first = server.replays.rotate(server.now, [server.boot; 16]);
            server.files.push(first.to_vec());
            // A daemon that is killed here leaves three files.
            if server.files.len() > 2 && what & 16 == 0 {
                server.files.remove(0);
            }
        }
    }
}
