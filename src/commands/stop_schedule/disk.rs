//! The state directory and its file, to which changes are appended and which a shorter one replaces from time to time.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::journal::{self, Change, Found};

const NAME: &str = "stops.json";
const NEW_NAME: &str = "stops.json.new";

/// The state directory, or a file in it, cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {attempt} {}: {error}; correct that, or set another state_dir", path.display())]
pub(crate) struct DiskError {
    attempt: &'static str,
    path: PathBuf,
    error: Arc<io::Error>,
}

impl DiskError {
    fn at(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
        let path = path.to_owned();
        move |error| DiskError { attempt, path, error: Arc::new(error) }
    }
}

/// A problem of the state directory, for the operator.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// It can keep no stop command, so no command runs that has one.
    #[error("{0}, and start knockd again; until then no command runs that has a stop_command")]
    Unusable(#[from] DiskError),
    /// Only a part of the file can be read.
    #[error(
        "pending stop commands in {} are lost to knockd: {reason}; {saved} others could be read, and run in time; the \
         file is kept as {}: run what else it names by hand",
        path.display(), kept.display()
    )]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// Its name now.
        kept: PathBuf,
        /// Why it cannot be read as a whole.
        reason: String,
        /// How many stop commands could be read.
        saved: usize,
    },
}

/// What to write.
#[derive(Debug)]
pub(super) struct Changes {
    /// The generation of the entries that the file has afterwards.
    pub(super) generation: u64,
    /// They are all pending entries, for a new file; where there are none, the file is removed.
    pub(super) whole: bool,
    pub(super) changes: Vec<Change>,
}

#[derive(Debug)]
pub(super) struct Disk {
    /// The generation that is in the file.
    written: u64,
    /// The generation that is in the file even after a loss of power.
    synced: u64,
    boot_id: String,
    place: Result<StateDir, DiskError>,
    /// `None` before the first write and after a write that failed: the next write makes a new file.
    journal: Option<Journal>,
}

/// The file that is appended to.
#[derive(Debug)]
struct Journal {
    file: File,
    device_and_inode: (u64, u64),
    length: u64,
}

#[derive(Debug)]
struct StateDir {
    path: PathBuf,
    /// Locked (flock(2)) as long as the daemon runs: a second one would overwrite the file.
    directory: File,
}

pub(super) struct Opened {
    pub(super) disk: Disk,
    pub(super) found: Found,
    pub(super) problems: Vec<Problem>,
}

impl Disk {
    pub(super) fn is_in(directory: &Path) -> bool {
        directory.join(NAME).symlink_metadata().is_ok()
    }

    pub(super) fn open(path: &Path, wall: SystemTime, boot: &str) -> Opened {
        let mut problems = Vec::new();
        let place = StateDir::open(path);
        let (place, found) =
            match place.and_then(|place| place.read_file(wall, &mut problems).map(|found| (place, found))) {
                Ok((place, found)) => (Ok(place), found),
                Err(error) => {
                    problems.push(error.clone().into());
                    (Err(error), Found::default())
                }
            };
        Opened { disk: Disk { written: 0, synced: 0, boot_id: boot.to_owned(), place, journal: None }, found, problems }
    }

    /// Whether the file has the entries of that generation; `durable`: even after a loss of power.
    pub(super) fn has(&self, generation: u64, durable: bool) -> bool {
        generation <= if durable { self.synced } else { self.written }
    }

    /// The length of the file that can be appended to; `None` where a whole one has to be written.
    pub(super) fn length(&mut self) -> Option<u64> {
        let path = self.place.as_ref().ok()?.path.join(NAME);
        // Where somebody has removed or replaced it, no daemon would ever read what is appended.
        let is_there = |journal: &Journal| {
            let metadata = fs::symlink_metadata(&path);
            metadata.is_ok_and(|metadata| {
                device_and_inode(&metadata) == journal.device_and_inode && metadata.len() == journal.length
            })
        };
        self.journal = self.journal.take().filter(is_there);
        self.journal.as_ref().map(|journal| journal.length)
    }

    /// Writes what [`Disk::length`] allows; `durable`: and waits until it is on the disk.
    pub(super) fn write(&mut self, changes: &Changes, durable: bool) -> Result<(), DiskError> {
        let place = self.place.as_ref().map_err(Clone::clone)?;
        let path = place.path.join(NAME);
        // After an error the content of the file is not known, so the journal is kept only after a success.
        match self.journal.take() {
            _ if changes.whole && changes.changes.is_empty() => place.remove()?,
            Some(mut journal) if !changes.whole => {
                journal.append(&changes.changes, durable).map_err(DiskError::at("write", &path))?;
                self.journal = Some(journal);
            }
            _ => self.journal = Some(place.replace(&self.boot_id, &changes.changes)?),
        }
        self.written = changes.generation;
        if durable || changes.whole {
            self.synced = changes.generation;
        }
        Ok(())
    }
}

fn device_and_inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Journal {
    fn append(&mut self, changes: &[Change], durable: bool) -> io::Result<()> {
        let mut text = Vec::new();
        journal::write(&mut text, changes)?;
        self.file.write_all(&text)?;
        self.length += text.len() as u64;
        if durable { self.file.sync_data() } else { Ok(()) }
    }
}

impl StateDir {
    fn open(path: &Path) -> Result<StateDir, DiskError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(DiskError::at("make the state directory", path))?;
        let directory = File::open(path).map_err(DiskError::at("open the state directory", path))?;
        let metadata = directory.metadata().map_err(DiskError::at("look at the state directory", path))?;
        let owned = metadata.uid() == 0 || metadata.uid() == geteuid().as_raw();
        if !owned || metadata.mode() & 0o002 != 0 {
            // A user who can write there can run any command as the daemon's user.
            let reason = "another user may write there; make it the daemon's own, with mode 0700";
            let error = io::Error::new(ErrorKind::PermissionDenied, reason);
            return Err(DiskError::at("trust the state directory", path)(error));
        }
        flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            let error = match error {
                Errno::WOULDBLOCK => io::Error::new(ErrorKind::ResourceBusy, "another knockd is using it"),
                error => error.into(),
            };
            DiskError::at("lock the state directory", path)(error)
        })?;
        Ok(StateDir { path: path.to_owned(), directory })
    }

    /// Reads the file. A damaged file is renamed, and one in which nothing is pending is removed.
    fn read_file(&self, wall: SystemTime, problems: &mut Vec<Problem>) -> Result<Found, DiskError> {
        let path = self.path.join(NAME);
        let Some(mut found) = read(&path).map_err(DiskError::at("read", &path))? else { return Ok(Found::default()) };
        if let Some(reason) = found.damage.take() {
            let saved = found.pending.len();
            let kept = self.set_aside(&path, wall, saved > 0)?;
            problems.push(Problem::Damaged { path, kept, reason, saved });
        } else if found.pending.is_empty() {
            self.remove()?;
        }
        Ok(found)
    }

    /// Gives the file another name. `copy`: it keeps its own name too, until the next write replaces it, because a
    /// crash before that would lose what could be read.
    fn set_aside(&self, path: &Path, wall: SystemTime, copy: bool) -> Result<PathBuf, DiskError> {
        let seconds = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let kept = (0..100)
            .map(|number| match number {
                0 => self.path.join(format!("{NAME}.damaged-{seconds}")),
                _ => self.path.join(format!("{NAME}.damaged-{seconds}-{number}")),
            })
            .find(|kept| kept.symlink_metadata().is_err())
            .unwrap_or_else(|| self.path.join(format!("{NAME}.damaged")));
        let result = if copy {
            // Not every file system has links.
            fs::hard_link(path, &kept).or_else(|_| fs::copy(path, &kept).map(drop))
        } else {
            fs::rename(path, &kept)
        };
        result.map_err(DiskError::at("set the damaged state file aside:", path))?;
        self.sync()?;
        Ok(kept)
    }

    /// Replaces the file by a complete new one: at every moment one of the two is there.
    fn replace(&self, boot_id: &str, pending: &[Change]) -> Result<Journal, DiskError> {
        let (new, path) = (self.path.join(NEW_NAME), self.path.join(NAME));
        let write = || {
            let mut text = journal::header(boot_id)?;
            journal::write(&mut text, pending)?;
            // A crash may have left one.
            let _ = fs::remove_file(&new);
            // Command lines may hold secrets.
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            let device_and_inode = device_and_inode(&file.metadata()?);
            Ok(Journal { file, device_and_inode, length: text.len() as u64 })
        };
        let journal = write().map_err(DiskError::at("write", &new))?;
        fs::rename(&new, &path).map_err(DiskError::at("replace", &path))?;
        self.sync()?;
        Ok(journal)
    }

    /// Removes the file, as nothing is pending, without a sync: where a loss of power brings the file back, its stop
    /// commands run again.
    fn remove(&self) -> Result<(), DiskError> {
        let path = self.path.join(NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(DiskError::at("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.directory.sync_all().map_err(DiskError::at("sync", &self.path))
    }
}

/// Reads the file; `None` where there is none.
fn read(path: &Path) -> io::Result<Option<Found>> {
    let damaged = |damage: &str| Ok(Some(Found { damage: Some(damage.to_owned()), ..Found::default() }));
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return damaged("it is a symbolic link");
        }
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return damaged("it is no regular file");
    }
    Ok(Some(journal::read(file)))
}
