use std::os::unix::fs::PermissionsExt;

use knock_testkit::wait_until;
use tempfile::TempDir;

use super::*;

const WINDOW: Duration = Duration::from_secs(60);
const BOOT: [u8; 16] = [1; 16];
const START: u64 = 1_800_000_000_000;

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_millis(START + seconds * 1000)
}

fn nonce(number: u8) -> [u8; 24] {
    [number; 24]
}

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(TempDir::new().expect("a directory"))
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("replays")
    }

    fn open(&self, boot: [u8; 16], seconds: u64) -> (ReplayFiles, Option<Gap>) {
        self.try_open(boot, seconds).expect("opened")
    }

    /// Opens them after others have let go of the lock. A program that a test beside this one starts has a copy of it until
    /// it has called execve(2).
    fn try_open(&self, boot: [u8; 16], seconds: u64) -> Result<(ReplayFiles, Option<Gap>), StoreError> {
        wait_until("the directory is free", || {
            match ReplayFiles::open(&self.directory(), Owners::of_daemon(), boot, WINDOW, at(seconds)) {
                Err(StoreError::InUse(_)) => None,
                result => Some(result),
            }
        })
    }

    fn files(&self) -> Vec<u64> {
        numbers(&self.directory()).expect("readable")
    }
}

/// Accepts a packet of that time.
fn accept(files: &mut ReplayFiles, number: u8, seconds: u64) -> Result<(), String> {
    files.accept(nonce(number), at(seconds), at(seconds)).map_err(|error| error.to_string())
}

#[test]
fn what_was_accepted_is_remembered_after_each_kind_of_end() {
    let place = Place::new();
    let (mut files, gap) = place.open(BOOT, 0);
    assert_eq!(gap, None);
    accept(&mut files, 1, 1).expect("new");
    // SIGKILL: nothing is closed in order. The kernel keeps what was written.
    drop(files);
    let (mut files, gap) = place.open(BOOT, 2);
    assert_eq!(gap, None);
    assert!(files.has_seen(&nonce(1)));
    accept(&mut files, 1, 2).expect_err("a replay");
    accept(&mut files, 2, 2).expect("new");
    files.close().expect("written");
    // The next boot, after an orderly end.
    let (mut files, gap) = place.open([2; 16], 3);
    assert_eq!(gap, None);
    for number in [1, 2] {
        accept(&mut files, number, 3).expect_err("a replay");
    }
    accept(&mut files, 3, 3).expect("new");
    drop(files);
    // A boot after a crash: everything of the window before is refused, and nothing of later.
    let (mut files, gap) = place.open([3; 16], 4);
    assert_eq!(gap, Some(Gap::Unclean));
    accept(&mut files, 4, 64).expect_err("of a time of which something may be missing");
    accept(&mut files, 5, 65).expect("new");
    assert_eq!(place.files().len(), 1, "older files are gone");
}

#[test]
fn a_generation_ends_after_twice_the_window_and_its_file_after_twice_that() {
    let place = Place::new();
    let (mut files, _) = place.open(BOOT, 0);
    for (number, seconds) in [(1, 1), (2, 121), (3, 242), (4, 363)] {
        accept(&mut files, number, seconds).expect("new");
        if let Some(sweeper) = files.sweeper.take() {
            sweeper.join().expect("it ends");
        }
    }
    assert_eq!(place.files(), [3, 4]);
    assert_eq!(files.len(), 2);
    drop(files);
    let (mut files, gap) = place.open(BOOT, 364);
    assert_eq!((gap, files.len()), (None, 2));
    for (number, seconds) in [(1, 1), (2, 121), (3, 242), (4, 363)] {
        accept(&mut files, number, seconds).expect_err("a replay, remembered or too old");
    }
}

#[test]
fn a_record_that_was_cut_off_is_written_over() {
    let place = Place::new();
    let (mut files, _) = place.open(BOOT, 0);
    accept(&mut files, 1, 1).expect("new");
    let path = files.path.clone();
    drop(files);
    let mut content = fs::read(&path).expect("readable");
    content.extend_from_slice(&[7; 10]);
    fs::write(&path, content).expect("writable");
    let (files, gap) = place.open(BOOT, 2);
    assert_eq!(gap, None);
    assert!(files.has_seen(&nonce(1)));
}

#[test]
fn a_damaged_or_foreign_file_makes_packets_of_before_refused() {
    for damage in [|content: &mut Vec<u8>| content[40] ^= 1, |content: &mut Vec<u8>| content.clear()] {
        let place = Place::new();
        let (mut files, _) = place.open(BOOT, 0);
        accept(&mut files, 1, 1).expect("new");
        let path = files.path.clone();
        drop(files);
        let mut content = fs::read(&path).expect("readable");
        damage(&mut content);
        fs::write(&path, content).expect("writable");
        let (mut files, gap) = place.open(BOOT, 2);
        assert_eq!(gap, Some(Gap::Damaged));
        accept(&mut files, 1, 1).expect_err("not known any more, and too old");
        accept(&mut files, 2, 62).expect_err("perhaps accepted before");
        accept(&mut files, 3, 63).expect("new");
    }
}

#[test]
fn one_daemon_uses_the_files_and_nobody_else_can_write_them() {
    let place = Place::new();
    let (files, _) = place.open(BOOT, 0);
    let again = ReplayFiles::open(&place.directory(), Owners::of_daemon(), BOOT, WINDOW, at(1));
    assert!(matches!(again, Err(StoreError::InUse(_))));
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&place.directory()), mode(&files.path)), (0o700, 0o600));
    let path = files.path.clone();
    drop(files);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("our file");
    assert!(matches!(place.try_open(BOOT, 1), Err(StoreError::Untrusted(_))));
}
