//! A socket of the local machine that listens at a path (unix(7)).

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// Connections that wait to be accepted.
const LISTEN_BACKLOG: i32 = 64;

/// Nothing listens at a path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotListening {
    /// A system call failed.
    #[error("{action}: {error}")]
    Failed {
        /// What was attempted.
        action: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
    /// Another process listens there.
    #[error("another process listens there")]
    Running,
    /// There is a file that is no socket.
    #[error("the path exists and is no socket")]
    NotASocket,
}

/// A listening socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the file, so that no other file is removed.
    file: (u64, u64),
}

/// The user of a client, as the kernel knows it (unix(7), `SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The user that connected.
    pub(crate) uid: u32,
    /// Its group.
    pub(crate) gid: u32,
}

impl Peer {
    /// The user of the client of that connection.
    ///
    /// # Errors
    ///
    /// Where the kernel does not know it.
    pub(crate) fn of(connection: impl AsFd) -> io::Result<Peer> {
        let credentials = sockopt::socket_peercred(connection)?;
        Ok(Peer { uid: credentials.uid.as_raw(), gid: credentials.gid.as_raw() })
    }

    /// Whether it may see the content of the configuration: root, and the daemon's own user, who can read the file
    /// anyway.
    pub(crate) fn may_know_secrets(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }
}

impl LocalSocket {
    /// Listens at that path, whose file gets that mode. A socket that a dead process left is replaced.
    ///
    /// # Errors
    ///
    /// Where a process listens there already, or the path can't be used.
    pub(crate) fn listen(path: &Path, kind: SocketType, mode: u32) -> Result<LocalSocket, NotListening> {
        let failed = |action| move |error: io::Error| NotListening::Failed { action, error };
        remove_stale(path, kind)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
            .map_err(|error| failed("opening a socket")(error.into()))?;
        let address = SocketAddrUnix::new(path).map_err(|error| failed("using its path")(error.into()))?;
        rustix::net::bind(&socket, &address).map_err(|error| failed("binding it")(error.into()))?;
        let bound = || -> io::Result<(u64, u64)> {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
            // No client can connect before this, so the mode that the umask gave was never in force.
            rustix::net::listen(&socket, LISTEN_BACKLOG)?;
            let metadata = fs::symlink_metadata(path)?;
            Ok((metadata.dev(), metadata.ino()))
        };
        match bound() {
            Ok(file) => Ok(LocalSocket { socket, path: path.to_owned(), file }),
            Err(error) => {
                let _ = fs::remove_file(path);
                Err(failed("setting its mode")(error))
            }
        }
    }

    /// The next connection; [`ErrorKind::WouldBlock`] where there is none.
    ///
    /// # Errors
    ///
    /// As accept(2).
    pub(crate) fn accept(&self) -> io::Result<OwnedFd> {
        Ok(rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for LocalSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            log::debug!("cannot remove the socket {}: {error}", self.path.display());
        }
    }
}

/// Removes the socket of a process that is dead.
fn remove_stale(path: &Path, kind: SocketType) -> Result<(), NotListening> {
    let failed = |action, error| NotListening::Failed { action, error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking for an old one", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(NotListening::NotASocket),
        Ok(_) => {}
    }
    match is_alive(path, kind) {
        Ok(true) => Err(NotListening::Running),
        Ok(false) => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("removing an old one", error)),
            _ => Ok(()),
        },
        Err(error) => Err(failed("asking whether a daemon is at the old one", error)),
    }
}

/// Whether a process listens there. It does not wait for one that accepts no connection.
fn is_alive(path: &Path, kind: SocketType) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        // Its backlog is full.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn listen(path: &Path) -> Result<LocalSocket, NotListening> {
        LocalSocket::listen(path, SocketType::STREAM, 0o660)
    }

    #[test]
    fn a_living_daemons_socket_is_left_alone_and_a_dead_ones_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        let living = listen(&path).expect("the path is free");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o660);
        assert!(matches!(listen(&path), Err(NotListening::Running)));
        drop(living);
        assert!(!path.exists(), "the file goes with the socket");

        drop(UnixListener::bind(&path).expect("a socket"));
        assert!(path.exists(), "the standard library leaves the file, as a daemon that was killed does");
        let _replaced = listen(&path).expect("the old one is replaced");
    }

    #[test]
    fn nothing_but_a_socket_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        fs::write(&path, "precious").expect("a file");
        assert!(matches!(listen(&path), Err(NotListening::NotASocket)));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
    }

    #[test]
    fn a_socket_that_took_the_place_is_not_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        let first = listen(&path).expect("the path is free");
        fs::remove_file(&path).expect("somebody removes it");
        let _second = listen(&path).expect("the path is free again");
        drop(first);
        assert!(path.exists());
    }
}
