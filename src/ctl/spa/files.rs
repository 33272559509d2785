//! The files that signed packets need: a cover, and the file of keys. None that exists is ever changed.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use knock_spa::{Cover, CoverError};
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

/// The content of a new file of keys.
pub(super) const KEYS_HEADER: &str = "\
# Who may send signed packets to knockd: on each line options, a public ssh key, and the user's name.
# The key is of Ed25519, or of ECDSA with 256 bits.
# rules=\"ssh\",expiry-time=\"20271231Z\" ssh-ed25519 AAAA... alice@laptop
# Then: knockctl reload
";

/// A file can't be made or used. No message has any part of a cover.
#[derive(Debug, thiserror::Error)]
pub(in crate::ctl) enum FileError {
    /// It can't be made.
    #[error("cannot make {}: {error}{}", path.display(), remedy(error))]
    Make { path: PathBuf, error: io::Error },
    /// It can't be read.
    #[error("cannot read the cover {}: {error}{}", path.display(), remedy(error))]
    Read { path: PathBuf, error: io::Error },
    /// It is no cover.
    #[error("{}: {error}", path.display())]
    Cover { path: PathBuf, error: CoverError },
}

impl FileError {
    /// Whether another user might succeed.
    pub(in crate::ctl) fn is_permission(&self) -> bool {
        matches!(self, FileError::Make { error, .. } | FileError::Read { error, .. }
            if error.kind() == ErrorKind::PermissionDenied)
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "; run this as root",
        ErrorKind::NotFound => "; make the directory first, or name another with --directory",
        _ => "",
    }
}

/// The cover in that file; where there is no file, a new one.
pub(super) fn cover(path: &Path, made: &mut Vec<PathBuf>) -> Result<Cover, FileError> {
    let mut bytes = Zeroizing::new([0; 32]);
    // Reads of up to 256 bytes are not interrupted.
    getrandom(&mut *bytes, GetRandomFlags::empty())
        .map_err(|error| FileError::Make { path: path.to_owned(), error: error.into() })?;
    let cover = Cover::from_bytes(*bytes);
    if make_missing(path, &cover.to_file(), made)? {
        return Ok(cover);
    }
    existing_cover(path)
}

/// The cover in that file.
pub(in crate::ctl) fn existing_cover(path: &Path) -> Result<Cover, FileError> {
    let content = fs::read(path).map_err(|error| FileError::Read { path: path.to_owned(), error })?;
    Cover::from_file(&Zeroizing::new(content)).map_err(|error| FileError::Cover { path: path.to_owned(), error })
}

/// Makes a file of that content where there is none. Returns whether it did.
///
/// Its owner can read it. Its group can too where the directory has the setgid bit, as that of the package has: it gives
/// the group of the daemon to what root makes in it.
pub(super) fn make_missing(path: &Path, content: &str, made: &mut Vec<PathBuf>) -> Result<bool, FileError> {
    let make = || {
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            file => file?,
        };
        let for_group =
            path.parent().and_then(|parent| fs::metadata(parent).ok()).is_some_and(|d| d.mode() & 0o2000 != 0);
        let written = file
            .write_all(content.as_bytes())
            .and_then(|()| file.set_permissions(Permissions::from_mode(if for_group { 0o640 } else { 0o600 })))
            .and_then(|()| file.sync_all());
        if written.is_err() {
            // A part of a cover is none.
            let _ = fs::remove_file(path);
        }
        written.map(|()| true)
    };
    let new = make().map_err(|error| FileError::Make { path: path.to_owned(), error })?;
    made.extend(new.then(|| path.to_owned()));
    Ok(new)
}

/// A path beside that of a cover at which there is no file: `cover-2`, `cover-3` …
pub(super) fn unused(cover: &Path) -> PathBuf {
    let name = cover.file_name().unwrap_or_default().to_string_lossy();
    let stem = match name.rsplit_once('-') {
        Some((stem, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => stem,
        _ => &name,
    };
    let candidates = (2..u32::MAX).map(|number| cover.with_file_name(format!("{stem}-{number}")));
    candidates.into_iter().find(|path| fs::symlink_metadata(path).is_err()).unwrap_or_else(|| cover.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o7777
    }

    #[test]
    fn a_cover_is_made_once_and_is_for_the_owner_and_the_group_of_a_setgid_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        for (bits, expected) in [(0o700, 0o600), (0o2750, 0o640)] {
            let inside = directory.path().join(format!("{bits:o}"));
            fs::create_dir(&inside).expect("made");
            fs::set_permissions(&inside, Permissions::from_mode(bits)).expect("ours");
            let (path, mut made) = (inside.join("cover"), Vec::new());
            let first = cover(&path, &mut made).expect("made");
            assert_eq!((mode(&path), &made), (expected, &vec![path.clone()]), "{bits:o}");
            assert_eq!(cover(&path, &mut made).expect("read"), first, "the same one");
            assert_eq!(made.len(), 1, "nothing is made the second time");
            assert!(!make_missing(&path, "other", &mut made).expect("it is there"), "and nothing is overwritten");
        }
    }

    #[test]
    fn a_further_cover_gets_a_name_of_its_own() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        assert_eq!(unused(&path("cover")), path("cover-2"));
        fs::write(path("cover-2"), "").expect("written");
        assert_eq!((unused(&path("cover")), unused(&path("cover-2"))), (path("cover-3"), path("cover-3")));
    }

    #[test]
    fn an_error_says_what_to_do_and_has_nothing_of_the_cover() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = cover(&directory.path().join("none/cover"), &mut Vec::new()).expect_err("no directory");
        assert!(error.to_string().ends_with("make the directory first, or name another with --directory"), "{error}");
        let path = directory.path().join("cover");
        fs::write(&path, "c2VjcmV0").expect("written");
        let error = cover(&path, &mut Vec::new()).expect_err("too short").to_string();
        assert!(error.contains("has 6 bytes instead of 32") && !error.contains("c2Vj"), "{error}");
    }
}
