//! What an ordinary client sees of a port.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::error::{Attempt, Result};

/// What an ordinary client sees of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It answers.
    Open,
    /// The host says that nothing is there.
    Refused,
    /// Nothing came back.
    Filtered,
}

/// Connects to a TCP port of the calling thread's namespace's network.
pub fn tcp(address: SocketAddr, patience: Duration) -> Result<Reach> {
    match TcpStream::connect_timeout(&address, patience) {
        Ok(_) => Ok(Reach::Open),
        Err(error) => reach(error.kind()).map_or_else(|| Err(error).attempt(|| format!("connect to {address}")), Ok),
    }
}

/// Sends a datagram to a UDP port whose service echoes.
pub fn udp(address: SocketAddr, patience: Duration) -> Result<Reach> {
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let attempt = || format!("probe {address} by UDP");
    let socket = UdpSocket::bind(any).attempt(attempt)?;
    socket.set_read_timeout(Some(patience)).attempt(attempt)?;
    socket.connect(address).attempt(attempt)?;
    match socket.send(b"?").and_then(|_| socket.recv(&mut [0; 16])) {
        Ok(_) => Ok(Reach::Open),
        Err(error) => reach(error.kind()).map_or_else(|| Err(error).attempt(attempt), Ok),
    }
}

fn reach(kind: ErrorKind) -> Option<Reach> {
    match kind {
        // A firewall that rejects says by ICMP that the host is unreachable.
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable => Some(Reach::Refused),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Some(Reach::Filtered),
        _ => None,
    }
}

/// An established TCP session with an echo service.
#[derive(Debug)]
pub struct Session(TcpStream);

impl Session {
    /// Connects within `patience`, from the calling thread's namespace.
    pub fn open(address: SocketAddr, patience: Duration) -> Result<Session> {
        let attempt = || format!("hold a session with {address}");
        let stream = TcpStream::connect_timeout(&address, patience).attempt(attempt)?;
        stream.set_read_timeout(Some(patience)).attempt(attempt)?;
        Ok(Session(stream))
    }

    /// Whether what is sent still comes back, within the patience given to [`Session::open`].
    pub fn is_alive(&mut self) -> bool {
        let mut back = [0; 5];
        self.0.write_all(b"alive").is_ok() && self.0.read_exact(&mut back).is_ok() && &back == b"alive"
    }
}
