//! The connection to knockd-fleet. What it says decides nothing: records are verified, and it can be silent.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use knock_fleet::link::{FromFleet, MessageError, ToFleet};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

/// The longest message of knockd-fleet, and one byte more, so that a longer one is noticed.
const MESSAGE: usize = 512;
/// Room for messages that knockd-fleet has not read, in bytes of the kernel.
const QUEUE: usize = 1 << 20;

/// The connection does not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// knockd-fleet has ended.
    #[error("knockd-fleet has closed the connection")]
    Closed,
    /// It is another program, or of another version.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// The kernel refuses.
    #[error("the connection to knockd-fleet broke: {0}")]
    Io(#[from] io::Error),
}

/// A connection to knockd-fleet.
pub(super) struct Connection {
    socket: OwnedFd,
    buffer: [u8; MESSAGE],
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Connection {
        // With less room, records wait here.
        if sockopt::set_socket_send_buffer_size_force(&socket, QUEUE).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&socket, QUEUE);
        }
        Connection { socket, buffer: [0; MESSAGE] }
    }

    /// The next message; `None` where none has arrived.
    ///
    /// # Errors
    ///
    /// Where the connection is of no use any more.
    pub(super) fn receive(&mut self) -> Result<Option<FromFleet>, Broken> {
        let received = recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC);
        match received {
            Ok((_, 0)) | Err(Errno::CONNRESET) => Err(Broken::Closed),
            Ok((kept, length)) => Ok(Some(FromFleet::decode(if kept == length { &self.buffer[..kept] } else { &[] })?)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(Broken::Io(error.into())),
        }
    }

    /// Sends a message. Returns whether there was room for it.
    ///
    /// # Errors
    ///
    /// Where the connection is of no use any more.
    pub(super) fn send(&self, message: &ToFleet) -> Result<bool, Broken> {
        match send(&self.socket, &message.encode(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => Ok(false),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Broken::Closed),
            Err(error) => Err(Broken::Io(error.into())),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
