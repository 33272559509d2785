//! The files that signed packets need: a cover, and the file of keys. None that exists is ever changed.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use knock_spa::{Cover, CoverError};
use zeroize::Zeroizing;

use crate::ctl::secret_file;

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
    let bytes = secret_file::random().map_err(|error| FileError::Make { path: path.to_owned(), error })?;
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
pub(super) fn make_missing(path: &Path, content: &str, made: &mut Vec<PathBuf>) -> Result<bool, FileError> {
    let new = secret_file::make_missing(path, content);
    let new = new.map_err(|error| FileError::Make { path: path.to_owned(), error })?;
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

    #[test]
    fn a_cover_is_made_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, mut made) = (directory.path().join("cover"), Vec::new());
        let first = cover(&path, &mut made).expect("made");
        assert_eq!(made, std::slice::from_ref(&path));
        assert_eq!(cover(&path, &mut made).expect("read"), first, "the same one");
        assert_eq!(made.len(), 1, "nothing is made the second time");
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
