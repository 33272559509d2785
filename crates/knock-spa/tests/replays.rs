//! No packet is accepted twice, whatever is killed when, and whatever the clock does.

use std::time::Duration;

use knock_spa::UnixTime;
use knock_spa::replay::{Gap, RECORD_LENGTH, Replayed, Replays, Stored, end_record, record};
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_secs(60);
const START: u64 = 1_800_000_000;
const BOOT: [u8; 16] = [1; 16];

fn at(second: u64) -> UnixTime {
    UnixTime::from_millis((START + second) * 1000)
}

fn nonce(number: u8) -> [u8; 24] {
    [number; 24]
}

/// A memory that is older than its first packets.
fn replays() -> Replays {
    Replays::new(WINDOW, at(0))
}

#[test]
fn a_packet_is_accepted_once() {
    let mut replays = replays();
    assert!(replays.is_empty());
    assert_eq!(replays.check(&nonce(1), at(10), at(10)), Ok(()));
    replays.remember(nonce(1), at(10));
    assert_eq!(replays.check(&nonce(1), at(10), at(10)), Err(Replayed::Seen));
    assert_eq!(replays.check(&nonce(2), at(10), at(10)), Ok(()));
    assert!(!replays.is_due(at(119)) && replays.is_due(at(120)));
    replays.rotate(at(120), BOOT);
    assert!(!replays.is_due(at(120)));
    replays.remember(nonce(3), at(125));
    for number in [1, 3] {
        assert_eq!(replays.check(&nonce(number), at(10), at(130)), Err(Replayed::Seen));
    }
    replays.rotate(at(240), BOOT);
    assert_eq!(replays.check(&nonce(3), at(125), at(240)), Err(Replayed::Seen));
    let forgotten = Replayed::Forgotten { wait: Duration::ZERO };
    assert_eq!(replays.check(&nonce(1), at(10), at(240)), Err(forgotten));
}

#[test]
fn what_is_forgotten_is_refused_by_its_date() {
    let mut replays = replays();
    replays.remember(nonce(1), at(70));
    for now in [120, 240, 360] {
        replays.rotate(at(now), BOOT);
    }
    assert!(replays.is_empty());
    // The clock went back to where the packet is new.
    let refused = replays.check(&nonce(1), at(70), at(40));
    assert_eq!(refused, Err(Replayed::Forgotten { wait: Duration::from_secs(30) }));
    assert_eq!(replays.check(&nonce(2), at(71), at(40)), Ok(()));
    assert!(refused.expect_err("forgotten").to_string().ends_with("try again in 30 s"));
}

#[test]
fn a_server_whose_clock_was_ahead_says_how_its_owner_gets_in() {
    // It has started for the first time in another year.
    let replays = Replays::new(WINDOW, at(31_536_000));
    let message = replays.check(&nonce(1), at(5), at(5)).expect_err("before the start").to_string();
    assert!(
        message.contains("that is in 31535995 s") && message.contains("delete the files in `replays`"),
        "{message}"
    );
}

#[test]
fn no_packet_of_an_honest_client_is_refused_because_of_a_rotation() {
    let mut replays = replays();
    for second in 1..2000_u64 {
        if replays.is_due(at(second)) {
            replays.rotate(at(second), BOOT);
        }
        // The clocks of clients are up to a minute off.
        for (client, off) in [(0, 60), (1, 0)] {
            let number = u8::try_from(second % 120).expect("a byte");
            let mut nonce = nonce(number);
            (nonce[0], nonce[1]) = (client, u8::try_from(second / 120).expect("a byte"));
            let time = if client == 0 { at(second + off) } else { at(second) };
            assert_eq!(replays.check(&nonce, time, at(second)), Ok(()), "second {second}, client {client}");
            replays.remember(nonce, time);
        }
        // The slowest clock, after the first minute.
        if second > 60 {
            assert_eq!(replays.check(&[255; 24], at(second - 59), at(second)), Ok(()), "second {second}");
        }
    }
    assert!(replays.len() <= 2 * 2 * 120);
}

/// The file of a memory with two packets.
fn file() -> Vec<u8> {
    let mut file = replays().to_file(BOOT);
    file.extend_from_slice(&record(&nonce(1), at(10)));
    file.extend_from_slice(&record(&nonce(2), at(20)));
    file
}

fn restored(file: &[u8], boot: [u8; 16]) -> (Replays, Option<Gap>) {
    Replays::restore(&[Stored::read(file)], boot, WINDOW, at(30))
}

#[test]
fn a_killed_daemon_remembers_each_record_that_was_written_whole() {
    let file = file();
    for length in RECORD_LENGTH..=file.len() {
        let (replays, gap) = restored(&file[..length], BOOT);
        assert_eq!(gap, None, "{length} bytes");
        let whole = length / RECORD_LENGTH - 1;
        assert_eq!(replays.len(), whole);
        for (number, time) in [(1, 10), (2, 20)] {
            let expected = if usize::from(number) <= whole { Err(Replayed::Seen) } else { Ok(()) };
            assert_eq!(replays.check(&nonce(number), at(time), at(30)), expected, "{length} bytes");
        }
    }
    for length in 0..RECORD_LENGTH {
        assert_eq!(restored(&file[..length], BOOT).1, Some(Gap::Damaged));
    }
}

#[test]
fn after_a_gap_nothing_is_accepted_that_may_be_missing() {
    let file = file();
    let ended = [&file[..], &end_record()].concat();
    let continued = [&ended[..], &record(&nonce(3), at(25))].concat();
    for (file, boot, expected) in [
        (&file, BOOT, None),
        (&file, [2; 16], Some(Gap::Unclean)),
        (&ended, [2; 16], None),
        (&continued, [2; 16], Some(Gap::Unclean)),
        (&continued, BOOT, None),
    ] {
        let (replays, gap) = restored(file, boot);
        assert_eq!(gap, expected);
        // The newest packet that a client with a fast clock may have sent before the start.
        let newest = replays.check(&nonce(9), at(90), at(30));
        assert_eq!(newest.is_err(), gap.is_some());
        assert_eq!(replays.check(&nonce(9), at(91), at(31)), Ok(()));
    }
    // Without any file the daemon has not run before.
    let (fresh, gap) = Replays::restore(&[], BOOT, WINDOW, at(30));
    assert_eq!(gap, None);
    assert!(fresh.check(&nonce(1), at(30), at(30)).is_err() && fresh.check(&nonce(1), at(31), at(31)).is_ok());
}

#[test]
fn a_damaged_or_foreign_file_is_a_gap() {
    let file = file();
    for bit in 0..file.len() * 8 {
        let mut other = file.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Stored::read(&other), Err(Gap::Damaged), "bit {bit}");
    }
    for foreign in [vec![0; 72], vec![0xff; 72], b"{}".to_vec(), file[RECORD_LENGTH..].to_vec()] {
        assert_eq!(Stored::read(&foreign), Err(Gap::Damaged));
    }
    // A disk that filled the tail with zeros.
    assert_eq!(Stored::read(&[&file[..], &[0; 36]].concat()), Err(Gap::Damaged));
}

/// What happens to a server.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A packet of these arrives.
    Packet(usize),
    /// The clock moves by so many seconds.
    Clock(i64),
    /// The daemon is killed and starts again.
    Kill,
    /// The machine is shut down in order.
    ShutDown,
    /// The power fails, and the last records are lost.
    PowerCut(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..12).prop_map(Step::Packet),
        3 => (-20_i64..150).prop_map(Step::Clock),
        1 => (-4000_i64..4000).prop_map(Step::Clock),
        1 => Just(Step::Kill),
        1 => Just(Step::ShutDown),
        1 => (0_usize..3).prop_map(Step::PowerCut),
    ]
}

/// Two files, as a daemon keeps them.
#[derive(Default)]
struct Disk {
    files: Vec<Vec<u8>>,
    boot: u8,
}

impl Disk {
    fn start(&mut self, now: UnixTime) -> Replays {
        let stored: Vec<_> = self.files.iter().map(|file| Stored::read(file)).collect();
        let (replays, _) = Replays::restore(&stored, [self.boot; 16], WINDOW, now);
        self.files = vec![replays.to_file([self.boot; 16])];
        replays
    }

    fn append(&mut self, record: &[u8]) {
        self.files.last_mut().expect("a file").extend_from_slice(record);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_packet_is_accepted_twice(steps in prop::collection::vec(step(), 1..80), dates in prop::collection::vec(0_u64..900, 12)) {
        let mut now = at(100);
        let mut disk = Disk::default();
        let mut replays = disk.start(now);
        let mut accepted = [0; 12];
        for step in steps {
            match step {
                Step::Packet(number) => {
                    let (nonce, time) = (nonce(u8::try_from(number).expect("a byte")), at(dates[number]));
                    let off = time.since(now).max(now.since(time));
                    if off <= WINDOW && replays.check(&nonce, time, now).is_ok() {
                        disk.append(&record(&nonce, time));
                        replays.remember(nonce, time);
                        accepted[number] += 1;
                    }
                }
                Step::Clock(seconds) => now = UnixTime::from_millis(now.as_millis().saturating_add_signed(seconds * 1000)),
                Step::Kill => replays = disk.start(now),
                Step::ShutDown => {
                    disk.append(&end_record());
                    disk.boot += 1;
                    replays = disk.start(now);
                }
                Step::PowerCut(lost) => {
                    // What was accepted within the last seconds; the clock of a machine does not lose more in a reboot.
                    let file = disk.files.last_mut().expect("a file");
                    let keep = file.len().saturating_sub(lost * RECORD_LENGTH).max(RECORD_LENGTH);
                    let recent = file[keep..].chunks(RECORD_LENGTH).all(|record| {
                        let mut time = [0; 8];
                        time.copy_from_slice(&record[24..32]);
                        UnixTime::from_millis(u64::from_be_bytes(time)).since(now) <= WINDOW
                    });
                    if recent {
                        file.truncate(keep);
                    }
                    disk.boot += 1;
                    replays = disk.start(now);
                }
            }
            if replays.is_due(now) {
                let first = replays.rotate(now, [disk.boot; 16]);
                disk.files.push(first.to_vec());
                if disk.files.len() > 2 {
                    disk.files.remove(0);
                }
            }
        }
        prop_assert!(accepted.iter().all(|&times| times <= 1), "{:?}", accepted);
    }
}
