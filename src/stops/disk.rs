//! The state file: read once, replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::record::{Record, StateFile, VERSION};

const NAME: &str = "stops.json";
const NEW_NAME: &str = "stops.json.new";

/// More than the most pending stop commands need with command lines of a usual length.
const FILE_MAX: u64 = 256 << 20;

/// Something in the state directory cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {attempt} {}: {error}; mend that, or set another state_dir", path.display())]
pub struct DiskError {
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

/// What the operator has to know about the state directory.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Problem {
    /// Nothing can be kept there, so commands with a stop command do not run.
    #[error("{0}, and start knockd again; until then no command runs that has a stop_command")]
    Unusable(#[from] DiskError),
    /// The file cannot be understood.
    #[error(
        "the pending stop commands in {} are lost to knockd: {reason}; the file is kept as {}: run what it names by hand",
        path.display(), kept.display()
    )]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What it is called now.
        kept: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Debug)]
pub(super) struct Disk {
    /// The generation that is on disk.
    written: u64,
    boot_id: String,
    place: Result<StateDir, DiskError>,
}

#[derive(Debug)]
struct StateDir {
    path: PathBuf,
    /// Locked (flock(2)) as long as the daemon lives: a second one would overwrite what is pending.
    directory: File,
}

pub(super) struct Opened {
    pub(super) disk: Disk,
    pub(super) file: Option<StateFile>,
    pub(super) problems: Vec<Problem>,
}

impl Disk {
    pub(super) fn is_in(directory: &Path) -> bool {
        directory.join(NAME).exists()
    }

    pub(super) fn open(path: &Path, wall: SystemTime, boot: &str) -> Opened {
        let mut problems = Vec::new();
        let place = StateDir::open(path);
        let (place, file) = match place.and_then(|place| place.read(wall, &mut problems).map(|file| (place, file))) {
            Ok((place, file)) => (Ok(place), file),
            Err(error) => {
                problems.push(error.clone().into());
                (Err(error), None)
            }
        };
        Opened { disk: Disk { written: 0, boot_id: boot.to_owned(), place }, file, problems }
    }

    /// The generation of entries that is on disk.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn write(&mut self, generation: u64, stops: Vec<Record>) -> Result<(), DiskError> {
        let place = self.place.as_ref().map_err(Clone::clone)?;
        place.replace(&StateFile { version: VERSION, boot_id: self.boot_id.clone(), stops })?;
        self.written = generation;
        Ok(())
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
            // Whoever may write there can have any command run as the daemon's user.
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

    /// What is pending. A file that cannot be understood is set aside.
    fn read(&self, wall: SystemTime, problems: &mut Vec<Problem>) -> Result<Option<StateFile>, DiskError> {
        let path = self.path.join(NAME);
        let failed = DiskError::at("read", &path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        match understand(&bytes) {
            Ok(file) => Ok(Some(file)),
            Err(reason) => {
                let kept = self.set_aside(&path, wall)?;
                problems.push(Problem::Damaged { path, kept, reason });
                Ok(None)
            }
        }
    }

    fn set_aside(&self, path: &Path, wall: SystemTime) -> Result<PathBuf, DiskError> {
        let seconds = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let kept = (0..100)
            .map(|number| match number {
                0 => self.path.join(format!("{NAME}.damaged-{seconds}")),
                _ => self.path.join(format!("{NAME}.damaged-{seconds}-{number}")),
            })
            .find(|kept| !kept.exists())
            .unwrap_or_else(|| self.path.join(format!("{NAME}.damaged")));
        fs::rename(path, &kept).map_err(DiskError::at("set the damaged state file aside:", path))?;
        self.directory.sync_all().map_err(DiskError::at("sync", &self.path))?;
        Ok(kept)
    }

    /// Replaces the file by a complete new one: at every moment one of the two is there.
    fn replace(&self, content: &StateFile) -> Result<(), DiskError> {
        let (new, path) = (self.path.join(NEW_NAME), self.path.join(NAME));
        let text = serde_json::to_vec(content).map_err(|error| DiskError::at("write", &new)(error.into()))?;
        let mut options = OpenOptions::new();
        // Command lines may hold secrets.
        options.write(true).create(true).truncate(true).mode(0o600);
        let write = || {
            let mut file = options.open(&new)?;
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            file.sync_all()
        };
        write().map_err(DiskError::at("write", &new))?;
        fs::rename(&new, &path).map_err(DiskError::at("replace", &path))?;
        self.directory.sync_all().map_err(DiskError::at("sync", &self.path))
    }
}

fn understand(bytes: &[u8]) -> Result<StateFile, String> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }

    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("it is bigger than {} MiB", FILE_MAX >> 20));
    }
    let Version { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it has version {version}, and this knockd reads version {VERSION}"));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}
