//! The control socket: its path, its mode, and which clients it admits.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use knock_config::Config;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// The path of the socket where neither the configuration nor the service manager sets one.
pub(crate) const DEFAULT_PATH: &str = "/run/knockd/control.sock";
/// Read and write for the owner and the group of the socket.
const MODE: u32 = 0o660;
/// Connections that wait to be accepted.
const LISTEN_BACKLOG: i32 = 64;

/// There is no control socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It can't be created.
    #[error("cannot create the control socket {}: {action}: {error}; set control_socket to a path that knockd may create", path.display())]
    Create {
        /// Its path.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
    /// Another daemon listens there.
    #[error(
        "another knockd is running: it answers on the control socket {}; stop it, or give this one a control_socket \
         of its own",
        .0.display()
    )]
    Running(PathBuf),
    /// There is a file that is no socket.
    #[error(
        "cannot create the control socket {}: the path exists and is no socket; move it away, or \
         set control_socket to another path",
        .0.display()
    )]
    NotASocket(PathBuf),
}

impl Error {
    /// Whether the daemon lacks the permission.
    pub(crate) fn is_permission(&self) -> bool {
        matches!(self, Error::Create { error, .. }
            if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem))
    }

    /// Whether another daemon is there.
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(self, Error::Running(_))
    }
}

/// The path of the control socket: `control_socket` of the configuration, else a file in the directory that the service
/// manager made (systemd.exec(5), `RuntimeDirectory=`), else [`DEFAULT_PATH`].
pub(crate) fn place(config: &Config) -> PathBuf {
    if let Some(path) = &config.control_socket {
        return path.clone();
    }
    let directories = std::env::var("RUNTIME_DIRECTORY").unwrap_or_default();
    match directories.split(':').next() {
        Some(directory) if directory.starts_with('/') => Path::new(directory).join("control.sock"),
        _ => PathBuf::from(DEFAULT_PATH),
    }
}

/// A listening socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that no other file is removed.
    file: (u64, u64),
}

/// The user of the client, as the kernel knows it (unix(7), `SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The user that connected.
    pub(crate) uid: u32,
    /// Its group.
    pub(crate) gid: u32,
}

impl Peer {
    /// The user of the client of that stream.
    ///
    /// # Errors
    ///
    /// Where the kernel does not know it.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Peer> {
        let credentials = sockopt::socket_peercred(stream)?;
        Ok(Peer { uid: credentials.uid.as_raw(), gid: credentials.gid.as_raw() })
    }

    /// Whether it may see the content of the configuration: root, and the daemon's own user, who can read the file
    /// anyway.
    pub(crate) fn may_know_secrets(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }
}

impl Socket {
    /// Listens at that path. A socket that a dead daemon left is replaced.
    ///
    /// # Errors
    ///
    /// Where a daemon listens there already, or the path can't be used.
    pub(crate) fn listen(path: &Path) -> Result<Socket, Error> {
        let failed = |action| move |error: io::Error| Error::Create { path: path.to_owned(), action, error };
        if path == Path::new(DEFAULT_PATH)
            && let Some(directory) = path.parent()
        {
            fs::create_dir_all(directory).map_err(failed("making its directory"))?;
        }
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| failed("opening a socket")(error.into()))?;
        let address = SocketAddrUnix::new(path).map_err(|error| failed("using its path")(error.into()))?;
        rustix::net::bind(&socket, &address).map_err(|error| failed("binding it")(error.into()))?;
        let bound = || -> io::Result<(u64, u64)> {
            fs::set_permissions(path, Permissions::from_mode(MODE))?;
            // No client can connect before this, so the mode that the umask gave was never in force.
            rustix::net::listen(&socket, LISTEN_BACKLOG)?;
            let metadata = fs::symlink_metadata(path)?;
            Ok((metadata.dev(), metadata.ino()))
        };
        match bound() {
            Ok(file) => Ok(Socket { listener: socket.into(), path: path.to_owned(), file }),
            Err(error) => {
                let _ = fs::remove_file(path);
                Err(failed("setting its mode to 0660")(error))
            }
        }
    }

    /// The descriptor to poll.
    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether that client may send requests. The mode of the file admits its owner and its group. Where an
    /// administrator has opened the file to all, the group of the client is checked here.
    pub(crate) fn admits(&self, peer: Peer) -> bool {
        let by_file = |file: fs::Metadata| file.mode() & 0o002 == 0 || file.gid() == peer.gid;
        peer.may_know_secrets() || fs::symlink_metadata(&self.path).is_ok_and(by_file)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            log::debug!("cannot remove the control socket {}: {error}", self.path.display());
        }
    }
}

/// Removes the socket of a daemon that is dead.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let failed = |action, error| Error::Create { path: path.to_owned(), action, error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking for an old one", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(Error::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match is_alive(path) {
        Ok(true) => Err(Error::Running(path.to_owned())),
        Ok(false) => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("removing an old one", error)),
            _ => Ok(()),
        },
        Err(error) => Err(failed("asking whether a daemon is at the old one", error)),
    }
}

/// Whether a daemon listens there. It does not wait for one that accepts no connection.
fn is_alive(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        // Its backlog is full.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_daemons_socket_is_left_alone_and_a_dead_ones_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        let living = Socket::listen(&path).expect("the path is free");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, MODE);
        assert!(matches!(Socket::listen(&path), Err(Error::Running(_))));
        drop(living);
        assert!(!path.exists(), "the file goes with the socket");

        drop(UnixListener::bind(&path).expect("a socket"));
        assert!(path.exists(), "the standard library leaves the file, as a daemon that was killed does");
        let _replaced = Socket::listen(&path).expect("the old one is replaced");
    }

    #[test]
    fn nothing_but_a_socket_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        fs::write(&path, "precious").expect("a file");
        assert!(matches!(Socket::listen(&path), Err(Error::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
    }

    #[test]
    fn a_socket_that_took_the_place_is_not_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        let first = Socket::listen(&path).expect("the path is free");
        fs::remove_file(&path).expect("somebody removes it");
        let _second = Socket::listen(&path).expect("the path is free again");
        drop(first);
        assert!(path.exists());
    }
}
