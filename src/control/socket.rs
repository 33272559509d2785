//! The control socket: its path, its mode, and which clients it admits.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use knock_config::Config;
use rustix::net::SocketType;

use crate::os::local_socket::{LocalSocket, NotListening, Peer};

/// The path of the socket where neither the configuration nor the service manager sets one.
pub(crate) const DEFAULT_PATH: &str = "/run/knockd/control.sock";
/// Read and write for the owner and the group of the socket.
const MODE: u32 = 0o660;

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

/// The path of the socket for knockd-fleet: beside the control socket.
pub(crate) fn fleet_place(config: &Config) -> PathBuf {
    place(config).with_file_name("fleet.sock")
}

/// The control socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Socket(LocalSocket);

impl Socket {
    /// Listens at that path. A socket that a dead daemon left is replaced.
    ///
    /// # Errors
    ///
    /// Where a daemon listens there already, or the path can't be used.
    pub(crate) fn listen(path: &Path) -> Result<Socket, Error> {
        let failed = |action, error| Error::Create { path: path.to_owned(), action, error };
        if path == Path::new(DEFAULT_PATH)
            && let Some(directory) = path.parent()
        {
            fs::create_dir_all(directory).map_err(|error| failed("making its directory", error))?;
        }
        let listening = LocalSocket::listen(path, SocketType::STREAM, MODE);
        listening.map(Socket).map_err(|error| match error {
            NotListening::Failed { action, error } => failed(action, error),
            NotListening::Running => Error::Running(path.to_owned()),
            NotListening::NotASocket => Error::NotASocket(path.to_owned()),
        })
    }

    /// The next connection; [`ErrorKind::WouldBlock`] where there is none.
    ///
    /// # Errors
    ///
    /// As accept(2).
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        self.0.accept().map(UnixStream::from)
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Whether that client may send requests. The mode of the file admits its owner and its group. Where an
    /// administrator has opened the file to all, the group of the client is checked here.
    pub(crate) fn admits(&self, peer: Peer) -> bool {
        let by_file = |file: fs::Metadata| file.mode() & 0o002 == 0 || file.gid() == peer.gid;
        peer.may_know_secrets() || fs::symlink_metadata(self.path()).is_ok_and(by_file)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
