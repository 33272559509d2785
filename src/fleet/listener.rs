//! Where knockd-fleet connects.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use knock_proto::Time;
use rustix::net::SocketType;

use crate::os::local_socket::{LocalSocket, Peer};
use crate::os::users::User;

/// Everybody may connect; who it is decides.
const MODE: u32 = 0o666;
/// The user of knockd-fleet, where its package was installed.
const USER: &str = "knockd-fleet";
/// How soon what did not work is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The socket, which is made again where that did not work.
pub(super) struct Listener {
    path: PathBuf,
    /// `Err`: why there is none, and when that is tried again.
    socket: Result<LocalSocket, (String, Time)>,
}

/// Somebody who connects.
pub(super) enum Caller {
    /// knockd-fleet, or somebody who may act for it.
    Admitted(OwnedFd),
    /// Somebody else, and why that is so.
    Refused(String),
}

impl Listener {
    /// Listens at that path, sooner or later.
    pub(super) fn new(now: Time, path: PathBuf) -> Listener {
        let mut listener = Listener { path, socket: Err((String::new(), now)) };
        listener.listen(now);
        listener
    }

    fn listen(&mut self, now: Time) {
        let listening = LocalSocket::listen(&self.path, SocketType::SEQPACKET, MODE);
        let failed = |error| format!("cannot make the socket {} for knockd-fleet: {error}", self.path.display());
        self.socket = listening.map_err(|error| (failed(error), now.after(RETRY)));
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Why nobody can connect.
    pub(super) fn problem(&self) -> Option<&str> {
        self.socket.as_ref().err().map(|(problem, _)| problem.as_str())
    }

    /// When [`Listener::tick`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.socket.as_ref().err().map(|(_, due)| *due)
    }

    /// Tries again what did not work. Returns whether it did.
    pub(super) fn tick(&mut self, now: Time) -> bool {
        let is_due = self.next_deadline().is_some_and(|due| due <= now);
        if is_due {
            self.listen(now);
        }
        is_due
    }

    /// The next one who connects; `None`: nobody does.
    pub(super) fn accept(&mut self, now: Time) -> Option<Caller> {
        loop {
            let connection = match self.socket.as_ref().ok()?.accept() {
                Ok(connection) => connection,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => continue,
                Err(error) => {
                    // It would stay readable until there is a descriptor.
                    self.socket = Err((format!("cannot accept knockd-fleet: {error}"), now.after(RETRY)));
                    return None;
                }
            };
            return Some(match Peer::of(&connection) {
                Ok(peer) if admits(peer) => Caller::Admitted(connection),
                Ok(peer) => Caller::Refused(format!("uid {} connects, and is not {USER}", peer.uid)),
                Err(error) => Caller::Refused(format!("somebody connects whose user is not known: {error}")),
            });
        }
    }

    /// The descriptor to wait for.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().ok().map(AsFd::as_fd)
    }
}

/// Whether that user may be knockd-fleet.
fn admits(peer: Peer) -> bool {
    peer.may_know_secrets() || User::named(USER).is_some_and(|user| user.uid == peer.uid)
}
