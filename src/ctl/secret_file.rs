//! Files with a secret of this host. None that exists is ever changed.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

/// 32 random bytes.
///
/// # Errors
///
/// If the kernel has none.
pub(super) fn random() -> io::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    // Reads of up to 256 bytes are not interrupted.
    getrandom(&mut *bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

/// Makes a file of that content where there is none. Returns whether it did.
///
/// Its owner can read it. Its group can too where the directory has the setgid bit, as that of the package has: it gives
/// the group of the daemon to what root makes in it.
///
/// # Errors
///
/// If it can't be made. No part of it is left then.
pub(super) fn make_missing(path: &Path, content: &str) -> io::Result<bool> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        file => file?,
    };
    let for_group = path.parent().and_then(|parent| fs::metadata(parent).ok()).is_some_and(|d| d.mode() & 0o2000 != 0);
    let written = file
        .write_all(content.as_bytes())
        .and_then(|()| file.set_permissions(Permissions::from_mode(if for_group { 0o640 } else { 0o600 })))
        .and_then(|()| file.sync_all());
    if written.is_err() {
        // A part of a secret is none.
        let _ = fs::remove_file(path);
    }
    written.map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_is_for_the_owner_and_the_group_of_a_setgid_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        for (bits, expected) in [(0o700, 0o600), (0o2750, 0o640)] {
            let inside = directory.path().join(format!("{bits:o}"));
            fs::create_dir(&inside).expect("made");
            fs::set_permissions(&inside, Permissions::from_mode(bits)).expect("ours");
            let path = inside.join("secret");
            assert!(make_missing(&path, "first").expect("made"), "{bits:o}");
            assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o7777, expected, "{bits:o}");
            assert!(!make_missing(&path, "other").expect("it is there"), "nothing is made the second time");
            assert_eq!(fs::read_to_string(&path).expect("readable"), "first", "and nothing is overwritten");
        }
    }
}
