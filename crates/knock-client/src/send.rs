//! Sends one knock, from a socket of its own.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use knock_proto::{Knock, Protocol};
use socket2::{Domain, Socket, Type};

use crate::addresses::Target;

/// Sends `knock` to `target`. The answer of the port has no effect.
pub(crate) fn knock(target: &Target, knock: Knock) -> io::Result<()> {
    let to = target.at(knock.port);
    match knock.protocol {
        Protocol::Tcp => match connect(target, to) {
            // A refusal can come back at once from this machine; a refused knock is still a knock.
            Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => Err(error),
            _ => Ok(()),
        },
        // One byte: some firewalls and address translators drop empty datagrams.
        Protocol::Udp => UdpSocket::bind((target.source, 0))?.send_to(&[0], to).map(|_| ()),
    }
}

/// A socket that has begun to connect.
///
/// A non-blocking connect(2) hands the SYN to the network before it returns. Closing the socket only stops its
/// retransmission: a SYN that waits for the address resolution of the link layer is still sent.
pub(crate) fn connect(target: &Target, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if !target.source.is_unspecified() {
        socket.bind(&SocketAddr::new(target.source, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Err(error) if !in_progress(&error) => Err(error),
        _ => Ok(socket),
    }
}

#[cfg(unix)]
fn in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS)
}

/// WSAEWOULDBLOCK.
#[cfg(not(unix))]
fn in_progress(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
