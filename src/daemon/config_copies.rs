//! Copies of configurations in the state directory: the last valid one, with which the daemon starts where its file is not
//! valid; and the one that is tried, so that a restart does not put it in force.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use knock_config::FILE_MAX;

use crate::os::trusted::{Owners, Untrusted};

/// What a copy is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    /// The last configuration that was in force, trials apart.
    LastValid,
    /// The configuration that is tried, or was tried and not confirmed.
    Tried,
}

/// The copies for one configuration file in one state directory.
#[derive(Clone, Debug)]
pub(crate) struct ConfigCopies {
    directory: PathBuf,
    /// The end of their names: several daemons may have the same state directory, and each has its own file.
    suffix: String,
}

/// A copy that is written and does not have its name yet. It is removed where it does not get it.
#[derive(Debug)]
pub(crate) struct Staged {
    new: PathBuf,
    path: PathBuf,
}

impl ConfigCopies {
    /// The copies for the configuration in `file`.
    pub(crate) fn new(directory: PathBuf, file: &Path) -> ConfigCopies {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        ConfigCopies { directory, suffix: file.to_string_lossy().replace('/', ":") }
    }

    /// Where the copy is.
    pub(crate) fn path(&self, copy: Copy) -> PathBuf {
        let kind = match copy {
            Copy::LastValid => "last-valid",
            Copy::Tried => "tried",
        };
        self.directory.join(format!("{kind}{}", self.suffix))
    }

    /// Makes the state directory, where it is missing.
    ///
    /// # Errors
    ///
    /// Where that is not possible.
    pub(crate) fn make_directory(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)
    }

    /// Whether there is a state directory.
    pub(crate) fn has_directory(&self) -> bool {
        self.directory.is_dir()
    }

    /// The text of a copy, which must be of these owners; `None` where there is none.
    ///
    /// # Errors
    ///
    /// Where it can't be read, or others could have changed it.
    pub(crate) fn read(&self, copy: Copy, owners: Owners) -> Result<Option<String>, Untrusted> {
        let file = match owners.open_own(&self.path(copy)) {
            Err(Untrusted::Io(error)) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut text = String::new();
        file.take(FILE_MAX as u64 + 1).read_to_string(&mut text).map_err(Untrusted::Io)?;
        Ok(Some(text))
    }

    /// Writes a copy, and waits until it is on the disk. [`Staged::put_in_place`] puts it in the place of the one before.
    ///
    /// # Errors
    ///
    /// Where it can't be written.
    pub(crate) fn stage(&self, copy: Copy, text: &str) -> io::Result<Staged> {
        let path = self.path(copy);
        let staged = Staged { new: with_ending(&path, ".new"), path };
        // A crash may have left one.
        let _ = fs::remove_file(&staged.new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged.new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(staged)
    }

    /// Makes the tried configuration the last valid one.
    ///
    /// # Errors
    ///
    /// Where its file can't be renamed.
    pub(crate) fn confirm(&self) -> io::Result<()> {
        fs::rename(self.path(Copy::Tried), self.path(Copy::LastValid))?;
        File::open(&self.directory)?.sync_all()
    }

    /// Forgets the tried configuration.
    pub(crate) fn forget_tried(&self) {
        let path = self.path(Copy::Tried);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::error!("cannot remove {}: {error}; remove it, or a restart may not use its text", path.display());
            }
            _ => {}
        }
    }
}

impl Staged {
    /// Gives the copy its name.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub(crate) fn put_in_place(self) -> io::Result<()> {
        fs::rename(&self.new, &self.path)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // It is gone already where it got its name.
        let _ = fs::remove_file(&self.new);
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    fn copies() -> (TempDir, ConfigCopies) {
        let directory = TempDir::new().expect("a directory");
        let copies = ConfigCopies::new(directory.path().join("state"), Path::new("/etc/knockd/config.json"));
        (directory, copies)
    }

    #[test]
    fn a_copy_replaces_the_one_before_only_when_it_is_put_in_place() {
        let (_directory, copies) = copies();
        let read = || copies.read(Copy::LastValid, Owners::of_daemon()).expect("readable");
        assert!(!copies.has_directory());
        copies.make_directory().expect("made");
        assert_eq!(read(), None);
        copies.stage(Copy::LastValid, "one").expect("written").put_in_place().expect("renamed");
        assert_eq!(read().as_deref(), Some("one"));
        drop(copies.stage(Copy::LastValid, "two").expect("written"));
        assert_eq!(read().as_deref(), Some("one"));
        copies.stage(Copy::LastValid, "two").expect("written").put_in_place().expect("renamed");
        assert_eq!(read().as_deref(), Some("two"));
        let path = copies.path(Copy::LastValid);
        assert!(path.ends_with("state/last-valid:etc:knockd:config.json"), "{path:?}");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().expect("a directory")).expect("readable").count(), 1, "nothing is left");
    }

    #[test]
    fn a_confirmed_trial_is_the_last_valid_configuration_and_one_that_is_forgotten_is_not() {
        let (_directory, copies) = copies();
        let read = |copy| copies.read(copy, Owners::of_daemon()).expect("readable");
        copies.make_directory().expect("made");
        copies.stage(Copy::Tried, "new").expect("written").put_in_place().expect("renamed");
        copies.forget_tried();
        copies.forget_tried();
        assert_eq!((read(Copy::Tried), read(Copy::LastValid)), (None, None));
        copies.stage(Copy::Tried, "new").expect("written").put_in_place().expect("renamed");
        copies.confirm().expect("renamed");
        assert_eq!((read(Copy::Tried), read(Copy::LastValid).as_deref()), (None, Some("new")));
    }

    #[test]
    fn a_copy_that_others_could_have_written_is_refused() {
        let (_directory, copies) = copies();
        copies.make_directory().expect("made");
        copies.stage(Copy::LastValid, "{}").expect("written").put_in_place().expect("renamed");
        let path = copies.path(Copy::LastValid);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("our file");
        assert!(matches!(copies.read(Copy::LastValid, Owners::of_daemon()), Err(Untrusted::Writable { .. })));
    }
}
