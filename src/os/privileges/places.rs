//! The directories that a daemon without commands goes on writing to, where the kernel has Landlock. It reads everywhere
//! as before: a reload may name other files.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::landlock::{self, PathFd};

/// What a configuration has the daemon write to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Directories in which it makes and removes files.
    pub(crate) directories: Vec<PathBuf>,
    /// Files that it changes.
    pub(crate) files: Vec<PathBuf>,
}

/// A place that was not to be written to when this daemon started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: knockd gave up at start to write there, since no file that it wrote to was there; restart knockd; \
     `systemctl restart` keeps the gate and live grants", .0.display()
)]
pub(crate) struct GivenUp(PathBuf);

/// Directories, by device and number, as the kernel knows them: one that is made again in the place of another is
/// not among them.
#[derive(Debug, Default)]
struct Kept {
    directories: BTreeSet<(u64, u64)>,
    /// Directories of files that are changed.
    files: BTreeSet<(u64, u64)>,
}

/// Those of this process, where a ruleset is in force.
static KEPT: OnceLock<Kept> = OnceLock::new();

impl Places {
    /// Gives up writing anywhere else, for this thread and those that it starts.
    ///
    /// # Errors
    ///
    /// Where no ruleset could be put in force.
    pub(super) fn give_up_others(&self) -> Result<(), landlock::Error> {
        let kept = self.put_in_force()?;
        let _ = KEPT.set(kept);
        Ok(())
    }

    /// Whether these can be written to, as far as rulesets go.
    ///
    /// # Errors
    ///
    /// The first that was given up.
    pub(crate) fn check(&self) -> Result<(), GivenUp> {
        KEPT.get().map_or(Ok(()), |kept| self.check_against(kept))
    }

    fn put_in_force(&self) -> Result<Kept, landlock::Error> {
        // What can't be opened can't be written to.
        let open = |place: PathBuf| PathFd::new(place).ok();
        let directories: Vec<PathFd> = self.directories.iter().map(|path| there(path)).filter_map(open).collect();
        let files: Vec<PathFd> = self.files.iter().map(|path| directory_of(path)).filter_map(open).collect();
        let number = |place: &PathFd| rustix::fs::fstat(place).ok().map(|found| (found.st_dev, found.st_ino));
        let kept = Kept {
            directories: directories.iter().filter_map(number).collect(),
            files: files.iter().filter_map(number).collect(),
        };
        landlock::write_only_beneath(&directories, &files)?;
        Ok(kept)
    }

    fn check_against(&self, kept: &Kept) -> Result<(), GivenUp> {
        let is_beneath = |place: &Path, sets: &[&BTreeSet<(u64, u64)>]| {
            place
                .ancestors()
                .filter_map(|above| fs::metadata(above).ok())
                .any(|found| sets.iter().any(|set| set.contains(&(found.dev(), found.ino()))))
        };
        let directory = self.directories.iter().find(|path| !is_beneath(&there(path), &[&kept.directories]));
        let file = self.files.iter().find(|path| !is_beneath(&directory_of(path), &[&kept.directories, &kept.files]));
        directory.or(file).map_or(Ok(()), |path| Err(GivenUp(path.clone())))
    }
}

/// The directory, without symbolic links; where it is not there, the nearest one above it, in which it can be made.
fn there(directory: &Path) -> PathBuf {
    directory.ancestors().find_map(|above| fs::canonicalize(above).ok()).unwrap_or_else(|| PathBuf::from("/"))
}

/// The directory that a file is in, by whatever symbolic links.
fn directory_of(file: &Path) -> PathBuf {
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    there(file.parent().unwrap_or(&file))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{self, ErrorKind};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A ruleset is about one thread.
    fn in_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(run).join().expect("all of it"))
    }

    fn change(file: &Path) -> io::Result<()> {
        OpenOptions::new().read(true).write(true).open(file).map(drop)
    }

    #[test]
    fn a_daemon_writes_where_its_configuration_says_and_nowhere_else() {
        let root = tempfile::tempdir().expect("a directory");
        let path = |name: &str| root.path().join(name);
        for directory in ["state", "codes", "other"] {
            fs::create_dir(path(directory)).expect("a directory");
            fs::write(path(directory).join("file"), "").expect("a file");
        }
        symlink(path("codes/file"), path("link")).expect("a link");
        let places = Places { directories: vec![path("state")], files: vec![path("link")] };
        in_thread(|| {
            let kept = places.put_in_force().expect("a kernel with Landlock");
            let made = |name: &str| fs::write(path(name), "").map_err(|error| error.kind());
            let denied = Err(ErrorKind::PermissionDenied);
            assert_eq!((made("state/new"), made("codes/new"), made("other/new")), (Ok(()), denied, denied));
            fs::rename(path("state/new"), path("state/file")).expect("it replaces files");
            fs::create_dir_all(path("state/replays")).expect("it makes directories");
            fs::remove_file(path("state/file")).expect("it removes files");
            drop(UnixListener::bind(path("state/socket")).expect("it listens"));
            assert_eq!(UnixListener::bind(path("other/socket")).map_err(|error| error.kind()).map(drop), denied);
            change(&path("codes/file")).expect("it marks what was used");
            assert_eq!(change(&path("other/file")).map_err(|error| error.kind()), denied);
            assert_eq!(fs::read(path("other/file")).expect("it reads everywhere"), b"");
            let started = std::process::Command::new("/bin/true").spawn().map_err(|error| error.kind());
            assert_eq!(started.map(drop), denied);

            assert_eq!(places.check_against(&kept), Ok(()));
            let wanted = |directory: &str, file: &str| {
                let wanted = Places { directories: vec![path(directory)], files: vec![path(file)] };
                wanted.check_against(&kept)
            };
            assert_eq!(wanted("state/not/there/yet", "state/file"), Ok(()));
            assert_eq!(wanted("state", "codes/another"), Ok(()));
            assert_eq!(wanted("codes", "codes/file"), Err(GivenUp(path("codes"))));
            assert_eq!(wanted("state", "other/file"), Err(GivenUp(path("other/file"))));
        });
        let kept = in_thread(|| places.put_in_force().expect("a kernel with Landlock"));
        fs::rename(path("state"), path("moved")).expect("moved away");
        fs::create_dir(path("state")).expect("made again");
        assert_eq!(places.check_against(&kept), Err(GivenUp(path("state"))), "the kernel knows the one before");
    }

    #[test]
    fn what_is_not_there_can_be_made() {
        let root = tempfile::tempdir().expect("a directory");
        let state = root.path().join("lib/knockd");
        let places = Places { directories: vec![state.clone()], files: Vec::new() };
        let made = in_thread(|| {
            places.put_in_force().expect("a kernel with Landlock");
            fs::create_dir_all(&state).and_then(|()| fs::write(state.join("file"), ""))
        });
        made.expect("made");
    }
}
