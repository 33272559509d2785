//! The files of accepted packets: after a restart of the daemon, none of them is accepted again.
//!
//! Each generation of [`Replays`] has a file, with a record for each packet, which is written before its grant begins. A
//! write to the page cache is enough where the daemon is killed. Where the machine crashes, the missing end of the file
//! tells so, and [`Replays`] refuses for some time what could have been accepted before: no grant waits for the disk.
//!
//! A full disk refuses everybody new, so each file has spare room from its beginning.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use knock_spa::UnixTime;
use knock_spa::replay::{Gap, NONCES_MAX, RECORD_LENGTH, Replayed, Replays, Stored, end_record, record};
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};

use crate::os::trusted::{Owners, Untrusted};

/// The room that a file has from its beginning: for 230,000 packets.
const SPARE: u64 = 8 << 20;
/// The longest file: all packets that are remembered, a first and a last record, and as many again of a generation that
/// could not be begun.
const FILE_MAX: u64 = 2 * (NONCES_MAX as u64 + 2) * RECORD_LENGTH as u64;

/// Why packets can't be remembered, so that none is accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A file or the directory can't be used.
    #[error("cannot {attempt} {}: {error}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file or the directory.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Others can change the file or the directory.
    #[error("{0}")]
    Untrusted(Untrusted),
    /// Another daemon has locked it.
    #[error("{} is in use by another knockd; set `state_dir` for one of both", .0.display())]
    InUse(PathBuf),
}

/// Why a packet is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotNew {
    /// It may have been accepted before.
    #[error(transparent)]
    Replayed(#[from] Replayed),
    /// It could not be remembered.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The memory of accepted packets, in this process and on disk.
#[derive(Debug)]
pub(crate) struct ReplayFiles {
    directory: PathBuf,
    /// The directory, locked.
    lock: File,
    boot: [u8; 16],
    replays: Replays,
    file: File,
    path: PathBuf,
    /// Where the next record begins.
    end: u64,
    number: u64,
    /// Files that a newer one makes superfluous.
    older: Vec<PathBuf>,
    /// Puts a new file on the disk, and removes older ones.
    sweeper: Option<JoinHandle<()>>,
    problem: Option<String>,
}

impl ReplayFiles {
    /// Reads the files in `directory`, which is made where it is not there, and begins another one. `boot` is the id of this
    /// boot of the machine.
    ///
    /// # Errors
    ///
    /// Where the directory can't be read, written, locked or trusted.
    pub(crate) fn open(
        directory: &Path,
        owners: Owners,
        boot: [u8; 16],
        window: Duration,
        now: UnixTime,
    ) -> Result<(ReplayFiles, Option<Gap>), StoreError> {
        let failed = |attempt| {
            let path = directory.to_owned();
            move |error| StoreError::Io { attempt, path, error }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make"))?;
        let lock = owners.open_directory(directory).map_err(|untrusted| match untrusted {
            Untrusted::Io(error) => failed("open")(error),
            untrusted => StoreError::Untrusted(untrusted),
        })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::InUse(directory.to_owned())),
            result => result.map_err(|errno| failed("lock")(errno.into()))?,
        }
        let numbers = numbers(directory).map_err(failed("read"))?;
        let paths: Vec<PathBuf> = numbers.iter().map(|number| path(directory, *number)).collect();
        let stored = paths.iter().map(|path| read(path, owners)).collect::<Result<Vec<_>, _>>()?;
        let (replays, gap) = Replays::restore(&stored, boot, window, now);
        let number = numbers.last().map_or(1, |last| last + 1);
        let mut files = ReplayFiles {
            path: path(directory, number),
            file: lock.try_clone().map_err(failed("open"))?,
            directory: directory.to_owned(),
            lock,
            boot,
            replays,
            end: 0,
            number,
            older: Vec::new(),
            sweeper: None,
            problem: None,
        };
        match (files.write_all(), paths.last()) {
            (Ok(()), _) => paths.iter().for_each(|path| remove(path)),
            (Err(error), None) => return Err(files.failed("write", error)),
            (Err(error), Some(newest)) => {
                log::warn!("cannot write {}: {error}; the file before it is used", files.path.display());
                files.append_to(newest).map_err(|error| files.failed("open", error))?;
                files.older = paths[..paths.len() - 1].to_vec();
            }
        }
        Ok((files, gap))
    }

    /// Writes everything that is remembered into a new file.
    fn write_all(&mut self) -> io::Result<()> {
        let content = self.replays.to_file(self.boot);
        let file = make(&self.path)?;
        let written = file.write_all_at(&content, 0).and_then(|()| file.sync_all()).and_then(|()| self.lock.sync_all());
        // What is left of it must not be taken for the newest.
        written.inspect_err(|_| remove(&self.path))?;
        (self.file, self.end) = (file, content.len() as u64);
        Ok(())
    }

    /// Uses a file of a daemon before this one, which has spare room where the disk has none.
    fn append_to(&mut self, newest: &Path) -> io::Result<()> {
        let file = OpenOptions::new().write(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(newest)?;
        let length = file.metadata()?.len();
        (self.file, self.path) = (file, newest.to_owned());
        self.end = length - length % RECORD_LENGTH as u64;
        Ok(())
    }

    /// Whether that nonce is of a packet that was accepted before, as far as is remembered.
    pub(crate) fn has_seen(&self, nonce: &[u8; 24]) -> bool {
        self.replays.has_seen(nonce)
    }

    /// How many packets are remembered.
    pub(crate) fn len(&self) -> usize {
        self.replays.len()
    }

    /// Why the last packet could not be remembered.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Changes to another window.
    pub(crate) fn set_window(&mut self, window: Duration) {
        self.replays.set_window(window);
    }

    /// Remembers a packet as accepted, here and in the file. Only where that is done may its grant begin.
    ///
    /// # Errors
    ///
    /// Where it may have been accepted before, or can't be remembered.
    pub(crate) fn accept(&mut self, nonce: [u8; 24], time: UnixTime, now: UnixTime) -> Result<(), NotNew> {
        self.replays.check(&nonce, time, now)?;
        if self.replays.is_due(now) {
            self.rotate(now);
        }
        // Over what a write that failed may have left.
        let written = self.file.write_all_at(&record(&nonce, time), self.end);
        let written = written.map_err(|error| self.failed("write", error));
        self.problem = written.as_ref().err().map(ToString::to_string);
        written?;
        self.end += RECORD_LENGTH as u64;
        self.replays.remember(nonce, time);
        Ok(())
    }

    /// Begins another generation. Where its file can't be made, the present one continues.
    fn rotate(&mut self, now: UnixTime) {
        if self.sweeper.as_ref().is_some_and(|sweeper| !sweeper.is_finished()) {
            // The disk is that slow: later.
            return;
        }
        let path = path(&self.directory, self.number + 1);
        let file = match make(&path) {
            Ok(file) => file,
            Err(error) => return log::warn!("cannot make {}: {error}; the file before it is used", path.display()),
        };
        let first = self.replays.rotate(now, self.boot);
        if let Err(error) = file.write_all_at(&first, 0) {
            // All that the memory has is in the files that there are, so they are still enough.
            remove(&path);
            return log::warn!("cannot write {}: {error}; the file before it is used", path.display());
        }
        let before = std::mem::replace(&mut self.path, path);
        let older = std::mem::replace(&mut self.older, vec![before]);
        self.number += 1;
        self.file = file;
        self.end = RECORD_LENGTH as u64;
        self.sweep(older);
    }

    /// Removes files once the newest one is on the disk, which the loop does not wait for.
    fn sweep(&mut self, older: Vec<PathBuf>) {
        let (file, directory) = (self.file.try_clone(), self.lock.try_clone());
        let sweep = move || {
            let synced = file.and_then(|file| file.sync_data()).and_then(|()| directory?.sync_all());
            match synced {
                Ok(()) => older.iter().for_each(|path| remove(path)),
                // They do no harm, and go at the next start.
                Err(error) => log::warn!("cannot sync the file of accepted packets: {error}"),
            }
        };
        match thread::Builder::new().name("replays".to_owned()).spawn(sweep) {
            Ok(sweeper) => self.sweeper = Some(sweeper),
            Err(error) => log::warn!("cannot start a thread: {error}; older files of accepted packets stay"),
        }
    }

    /// Notes an orderly end, and waits until everything is on the disk.
    ///
    /// # Errors
    ///
    /// Where it can't be written.
    pub(crate) fn close(mut self) -> Result<(), StoreError> {
        if let Some(sweeper) = self.sweeper.take() {
            let _ = sweeper.join();
        }
        let written = self.file.sync_data().and_then(|()| self.file.write_all_at(&end_record(), self.end));
        written.and_then(|()| self.file.sync_data()).map_err(|error| self.failed("write", error))
    }

    fn failed(&self, attempt: &'static str, error: io::Error) -> StoreError {
        StoreError::Io { attempt, path: self.path.clone(), error }
    }
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(number.to_string())
}

/// The numbers of the files, in ascending order.
fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads a file. One that is damaged is a gap in the memory and not an error.
fn read(path: &Path, owners: Owners) -> Result<Result<Stored, Gap>, StoreError> {
    let failed = |error| StoreError::Io { attempt: "read", path: path.to_owned(), error };
    let file = owners.open_own(path).map_err(|untrusted| match untrusted {
        Untrusted::Io(error) => failed(error),
        untrusted => StoreError::Untrusted(untrusted),
    })?;
    let mut content = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut content).map_err(failed)?;
    Ok(if content.len() as u64 > FILE_MAX { Err(Gap::Damaged) } else { Stored::read(&content) })
}

/// Makes a file with spare room.
fn make(path: &Path) -> io::Result<File> {
    // A start that failed may have left one; nobody else has the lock.
    remove(path);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, SPARE) {
        Ok(()) => Ok(file),
        // Not every file system has it.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(file),
        Err(errno) => {
            remove(path);
            Err(errno.into())
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            log::warn!("cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
