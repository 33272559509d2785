//! Sends one knock, from a socket of its own.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use knock_proto::{Knock, Protocol};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};

/// Sends `knock` to the address of `host`. The answer of the port has no effect.
pub(crate) fn knock(host: SocketAddr, knock: Knock) -> io::Result<()> {
    let mut to = host;
    to.set_port(knock.port);
    match knock.protocol {
        Protocol::Tcp => syn(to),
        Protocol::Udp => datagram(to),
    }
}

/// Sends one SYN.
///
/// A non-blocking connect(2) hands the SYN to the network before it returns, and closing the socket then only stops
/// its retransmission: a SYN that waits for the address resolution of the link layer is still sent.
fn syn(to: SocketAddr) -> io::Result<()> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    match connect(&socket, &to) {
        // tcp_connect() of net/ipv4/tcp_output.c can return a local refusal; a refused knock is still a knock.
        Ok(()) | Err(Errno::INPROGRESS | Errno::CONNREFUSED) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends one datagram of one byte: some firewalls and address translators drop empty ones.
fn datagram(to: SocketAddr) -> io::Result<()> {
    let socket = match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    socket.send_to(&[0], to).map(|_| ())
}

/// A knock that was not sent.
#[derive(Debug, thiserror::Error)]
#[error("the knock to {knock} of {address} was not sent: {error}{hint}")]
pub(crate) struct SendError {
    knock: Knock,
    address: std::net::IpAddr,
    error: io::Error,
    hint: &'static str,
}

/// Adds the probable cause of `error`, and a remedy.
pub(crate) fn explain(error: io::Error, host: SocketAddr, knock: Knock) -> SendError {
    let hint = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH) if host.is_ipv6() => {
            "; there is no route to that IPv6 address: try -4"
        }
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH) => "; there is no route to that address: check the network",
        Some(Errno::PERM | Errno::ACCESS) => "; the firewall or the routing of this machine forbids it",
        Some(Errno::ADDRNOTAVAIL) => "; no local port or address is free",
        _ => "",
    };
    SendError { knock, address: host.ip(), error, hint }
}
