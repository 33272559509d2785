//! The files that decide what the daemon opens and runs. They are trusted only where no other user can change them.
//!
//! As sshd does it (`StrictModes` of sshd_config(5)): the file, and each directory on the way to it, belongs to root or to
//! the user that the daemon runs as, and neither its group nor everybody may write it. A directory with the sticky bit,
//! such as /tmp, may be written by all: no user can rename or remove the files of another there, and each file is checked
//! too. Symbolic links are followed step by step, so that the directories on both sides of each are checked.
//!
//! The opened file counts: fstat(2) checks it, and only trusted users can change the path to it.
//!
//! In a user namespace files of users that it does not map seem to belong to the overflow uid (user_namespaces(7)): those
//! of the host's root, for example. Where that uid belongs to no user of the namespace, such directories count as root's,
//! because no user in it can change them. A file itself has to belong to a user of the namespace.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use crate::os::users::User;

/// Symbolic links that are followed on the way to one file, as many as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// The user of the packaged unit.
const SERVICE_USER: &str = "knockd";

/// Whose files are trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owners {
    own: u32,
    /// Root, the daemon's own user, and for a check the user of the packaged unit.
    trusted: [u32; 3],
    /// The overflow uid, where it represents only users outside this namespace.
    outside: Option<u32>,
}

/// The kinds of file that may be at the end of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// A regular file, also by a symbolic link.
    File,
    /// A regular file, and no symbolic link.
    FileItself,
    /// A directory, also by a symbolic link.
    Directory,
}

/// A file that cannot be trusted, or not opened.
#[derive(Debug)]
pub(crate) enum Untrusted {
    /// The kernel's answer.
    Io(io::Error),
    /// It is a FIFO, a device, …
    NotAFile {
        /// What it is called.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file, or a directory on the way to it, belongs to another user.
    Owner {
        /// What it is called.
        path: PathBuf,
        /// What belongs to that user.
        part: PathBuf,
        /// The user.
        uid: u32,
        /// The daemon's own user.
        own: u32,
    },
    /// The file, or a directory on the way to it, can be written by others.
    Writable {
        /// What it is called.
        path: PathBuf,
        /// What they can write.
        part: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Untrusted::Io(error) => write!(f, "{error}"),
            Untrusted::NotAFile { path, kind } => {
                write!(f, "{}: is {kind}; name a regular file", path.display())
            }
            Untrusted::Owner { path, part, uid, own } => {
                let owners =
                    if *own == 0 { "root".to_owned() } else { format!("root or uid {own}, the user of knockd") };
                let part = part.display();
                write!(
                    f,
                    "{}: not trusted, since {part} belongs to uid {uid}, who can change it; it has to belong to {owners}: \
                     chown root {part}",
                    path.display()
                )
            }
            Untrusted::Writable { path, part, mode } => {
                let who = match (mode & 0o020, mode & 0o002) {
                    (_, 0) => "its group",
                    (0, _) => "everybody",
                    _ => "its group and everybody",
                };
                let part = part.display();
                write!(
                    f,
                    "{}: not trusted, since {who} can write {part} (mode {mode:04o}); only its owner may: chmod go-w {part}",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for Untrusted {}

impl Owners {
    /// For a daemon that runs: root and its own user.
    pub(crate) fn of_daemon() -> Owners {
        let own = geteuid().as_raw();
        Owners { own, trusted: [0, own, own], outside: overflow_uid() }
    }

    /// For a check, which another user may make than the one that the daemon will run as: that of the packaged unit too.
    pub(crate) fn of_check() -> Owners {
        let mut owners = Owners::of_daemon();
        if let Some(user) = User::named(SERVICE_USER) {
            owners.trusted[2] = user.uid;
        }
        owners
    }

    /// Opens a regular file that is reached by trusted directories and symbolic links only; for writing too where `write`
    /// says so. It never waits: a FIFO or a device is refused unopened.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened or trusted.
    pub(crate) fn open(&self, path: &Path, write: bool) -> Result<File, Untrusted> {
        self.open_as(path, Wanted::File, write)
    }

    /// The content of such a file, of which no copy stays in memory, up to a byte more than `most`; and its permission bits.
    ///
    /// # Errors
    ///
    /// Where it cannot be read or trusted.
    pub(crate) fn read_secret(&self, path: &Path, most: u64) -> Result<(Zeroizing<Vec<u8>>, u32), Untrusted> {
        let file = self.open(path, false)?;
        let metadata = file.metadata().map_err(Untrusted::Io)?;
        // With room for all of it, so that no part stays where it was moved from.
        let length = usize::try_from(metadata.len().min(most)).unwrap_or_default();
        let mut content = Zeroizing::new(Vec::with_capacity(length + 1));
        file.take(most + 1).read_to_end(&mut content).map_err(Untrusted::Io)?;
        Ok((content, metadata.mode() & 0o777))
    }

    /// As [`Owners::open`], for reading, where that path may not be a symbolic link: a file that only the daemon makes.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened or trusted.
    pub(crate) fn open_own(&self, path: &Path) -> Result<File, Untrusted> {
        self.open_as(path, Wanted::FileItself, false)
    }

    /// Opens a directory in which only its owner, who is trusted, can make or remove files.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened or trusted.
    pub(crate) fn open_directory(&self, path: &Path) -> Result<File, Untrusted> {
        self.open_as(path, Wanted::Directory, false)
    }

    fn open_as(&self, path: &Path, wanted: Wanted, write: bool) -> Result<File, Untrusted> {
        let judged = Judged { owners: self, path };
        // Before anything is opened: opening a device may do something.
        if let Ok(found) = if wanted == Wanted::FileItself { fs::symlink_metadata(path) } else { fs::metadata(path) } {
            judged.kind(&found, wanted)?;
        }
        let place = judged.follow(wanted != Wanted::FileItself)?;
        let mut flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        flags.set(OFlags::DIRECTORY, wanted == Wanted::Directory);
        let mut options = OpenOptions::new();
        options.read(true).write(write).custom_flags(flags.bits().cast_signed());
        let file = options.open(&place).map_err(Untrusted::Io)?;
        let found = file.metadata().map_err(Untrusted::Io)?;
        judged.kind(&found, wanted)?;
        judged.part(&place, &found)?;
        if wanted == Wanted::Directory && found.mode() & 0o022 != 0 {
            // The sticky bit keeps what is there, not others from adding to it.
            return Err(judged.writable(&place, found.mode()));
        }
        Ok(file)
    }
}

/// The checks on the path to one file.
struct Judged<'a> {
    owners: &'a Owners,
    path: &'a Path,
}

impl Judged<'_> {
    /// Follows the path from the top, and checks everything that is on the way. Returns where it leads, which has no
    /// symbolic link in it unless the last component is one and `last` says not to follow it.
    fn follow(&self, last: bool) -> Result<PathBuf, Untrusted> {
        let absolute = std::path::absolute(self.path).map_err(Untrusted::Io)?;
        let mut ahead: Vec<OsString> = Vec::new();
        let mut place = PathBuf::from("/");
        self.part(&place, &fs::symlink_metadata(&place).map_err(Untrusted::Io)?)?;
        push(&mut ahead, &absolute);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == ".." {
                place.pop();
                continue;
            }
            let next = place.join(name);
            let found = fs::symlink_metadata(&next).map_err(Untrusted::Io)?;
            self.part(&next, &found)?;
            if !found.is_symlink() || (ahead.is_empty() && !last) {
                place = next;
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Untrusted::Io(rustix::io::Errno::LOOP.into()));
            }
            let target = fs::read_link(&next).map_err(Untrusted::Io)?;
            if target.is_absolute() {
                place = PathBuf::from("/");
            }
            push(&mut ahead, &target);
        }
        Ok(place)
    }

    /// Checks owner and mode.
    fn part(&self, part: &Path, found: &Metadata) -> Result<(), Untrusted> {
        let Owners { own, trusted, outside } = *self.owners;
        let uid = found.uid();
        if !trusted.contains(&uid) && (found.is_file() || outside != Some(uid)) {
            return Err(Untrusted::Owner { path: self.path.to_owned(), part: part.to_owned(), uid, own });
        }
        let sticky = found.is_dir() && found.mode() & 0o1000 != 0;
        // A symbolic link has no mode of its own.
        if found.mode() & 0o022 != 0 && !sticky && !found.is_symlink() {
            return Err(self.writable(part, found.mode()));
        }
        Ok(())
    }

    fn writable(&self, part: &Path, mode: u32) -> Untrusted {
        Untrusted::Writable { path: self.path.to_owned(), part: part.to_owned(), mode: mode & 0o7777 }
    }

    fn kind(&self, found: &Metadata, wanted: Wanted) -> Result<(), Untrusted> {
        let kind = found.file_type();
        let is_wanted = if wanted == Wanted::Directory { kind.is_dir() } else { kind.is_file() };
        let kind = match () {
            () if is_wanted => return Ok(()),
            () if kind.is_dir() => "a directory",
            () if kind.is_symlink() => "a symbolic link",
            () if kind.is_fifo() => "a FIFO",
            () if kind.is_socket() => "a socket",
            () if kind.is_file() => "no directory",
            () => "a device",
        };
        Err(Untrusted::NotAFile { path: self.path.to_owned(), kind })
    }
}

/// Puts the components of a path in front of those that are ahead.
fn push(ahead: &mut Vec<OsString>, path: &Path) {
    ahead.extend(path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    }));
}

/// The uid that files of users outside this user namespace seem to have, where no user inside has it.
fn overflow_uid() -> Option<u32> {
    // systemd hides it (ProcSubset=pid); the number is the kernel's default.
    let uid = read_some("/proc/sys/kernel/overflowuid").and_then(|text| text.trim().parse().ok()).unwrap_or(65_534);
    let map = read_some("/proc/self/uid_map")?;
    (!is_mapped(&map, uid)).then_some(uid)
}

/// Whether a user of the namespace has that uid, by the text of /proc/self/uid_map (user_namespaces(7)).
fn is_mapped(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) => (first..first + count).contains(&u64::from(uid)),
            // Not understood: nothing is known to be outside.
            _ => true,
        }
    })
}

/// The text of a small file of the system.
fn read_some(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(1 << 20).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests;
