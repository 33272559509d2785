//! A file of accepted packets is read whole, or is a gap after which nothing old is accepted.

use std::time::Duration;

use knock_spa::UnixTime;
use knock_spa::replay::{RECORD_LENGTH, Replayed, Replays, Stored, record};

const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_000);
const WINDOW: Duration = Duration::from_secs(60);

/// Checks [`Stored::read`] and [`Replays::restore`] with the file that these bytes are, and with the same file with correct
/// check sums.
///
/// # Panics
///
/// Where a packet of the file is accepted, or an old packet after a gap.
pub fn replay_file(bytes: &[u8]) {
    check(bytes);
    // A fuzzer does not find check sums.
    let corrected: Vec<u8> = bytes.chunks_exact(RECORD_LENGTH).flat_map(corrected).collect();
    check(&corrected);
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
        let end = ([0xff; 24], UnixTime::from_millis(u64::MAX));
        for (nonce, time) in records.filter(|record| *record != end) {
            assert_eq!(refused(&nonce, time), Err(Replayed::Seen));
        }
        let again = Stored::read(&replays.to_file([1; 16]));
        let (again, gap) = Replays::restore(&[again], [1; 16], WINDOW, NOW);
        assert_eq!((gap, again.len()), (None, replays.len()));
    }
}
