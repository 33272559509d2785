//! The local socket of knockd.

use std::os::fd::OwnedFd;
use std::path::Path;

use knock_fleet::link::{FromFleet, MESSAGE_MAX, MessageError, ToFleet};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    shutdown, socket_with,
};

/// The connection to knockd does not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// There is no connection.
    #[error("cannot connect to knockd: {0}; is it running, with `fleet` in its configuration?")]
    Connect(Errno),
    /// It broke.
    #[error("the connection to knockd broke: {0}")]
    Broken(Errno),
    /// knockd said something else.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// Not the first message.
    #[error("knockd sent no valid settings first; are knockd and knockd-fleet of the same version?")]
    NoSettings,
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A connection to knockd.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn connect(path: &Path) -> Result<Socket, SocketError> {
        let connected = SocketAddrUnix::new(path).and_then(|address| {
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            connect(&socket, &address)?;
            Ok(Socket(socket))
        });
        connected.map_err(SocketError::Connect)
    }

    /// The next message; `None`: knockd has closed the connection.
    pub(crate) fn receive(&self) -> Result<Option<ToFleet>, SocketError> {
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(None),
                Ok((length, _)) => return Ok(Some(ToFleet::decode(&buffer[..length])?)),
                Err(Errno::INTR) => {}
                Err(error) => return Err(SocketError::Broken(error)),
            }
        }
    }

    /// Sends a message, and waits where knockd has not read the ones before. Where the connection is broken nothing happens:
    /// the thread that receives notices it.
    pub(crate) fn send(&self, message: &FromFleet) {
        let bytes = message.encode();
        // One packet is sent whole or not at all.
        while let Err(Errno::INTR) = send(&self.0, &bytes, SendFlags::NOSIGNAL) {}
    }

    /// Ends whatever waits for knockd.
    pub(crate) fn close(&self) {
        // An error says that it is closed.
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}
