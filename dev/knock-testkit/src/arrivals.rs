//! What reaches the transport layer of a host, after all of netfilter and reassembly.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketAddrV6, SocketFlags, SocketType, ipproto, recvfrom, socket_with,
};

use crate::error::{Attempt, Result};
use crate::namespace::Namespace;
use crate::packet::Flags;

/// What the sockets may hold while the reader waits for a processor.
const RECEIVE_QUEUE: usize = 32 << 20;

/// Raw sockets (raw(7)) of a namespace: they get a copy of each segment and datagram that netfilter lets through,
/// whatever becomes of the rulesets, and whether or not anything listens on the port.
#[derive(Debug)]
pub struct Arrivals(Vec<Source>);

#[derive(Debug)]
struct Source {
    family: AddressFamily,
    protocol: Protocol,
    socket: OwnedFd,
}

/// A segment or datagram that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The sender.
    pub source: SocketAddr,
    /// The port that it is for.
    pub port: u16,
    /// Whether it is the first segment of a TCP connection: SYN without ACK.
    pub opens: bool,
}

impl Arrivals {
    /// Watches a namespace for TCP and UDP.
    ///
    /// # Errors
    ///
    /// Where the namespace cannot be entered, or gives no raw socket.
    pub fn watch(namespace: &Namespace) -> Result<Arrivals> {
        Arrivals::of(namespace, &[ipproto::TCP, ipproto::UDP])
    }

    pub(crate) fn of(namespace: &Namespace, protocols: &[Protocol]) -> Result<Arrivals> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let mut sources = Vec::new();
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            for &protocol in protocols {
                let socket = namespace.run(|| socket_with(family, SocketType::RAW, flags, Some(protocol)))?;
                let socket = socket.attempt(|| "open a raw socket (it needs CAP_NET_RAW)".to_owned())?;
                // In a user namespace the usual bound holds.
                let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_QUEUE);
                sources.push(Source { family, protocol, socket });
            }
        }
        Ok(Arrivals(sources))
    }

    /// Waits until there is something to read, at most that long.
    pub(crate) fn wait(&self, longest: &Timespec) {
        let mut all: Vec<_> = self.0.iter().map(|source| PollFd::new(&source.socket, PollFlags::IN)).collect();
        let _ = poll(&mut all, Some(longest));
    }

    /// Hands over all that has arrived since the last time.
    pub fn read(&self, mut each: impl FnMut(Arrival)) {
        let mut bytes = [0; 2048];
        for Source { family, protocol, socket } in &self.0 {
            while let Ok((_, length, from)) = recvfrom(socket, &mut bytes, RecvFlags::TRUNC) {
                let packet = &bytes[..length.min(bytes.len())];
                // IPv4 comes with its header, IPv6 without (raw(7), ipv6(7)).
                let found = if *family == AddressFamily::INET {
                    ipv4(packet)
                } else {
                    from.and_then(|from| SocketAddrV6::try_from(from).ok())
                        .map(|from| (IpAddr::from(*from.ip()), packet))
                };
                found
                    .and_then(|(source, transport)| arrival(source, *protocol, transport))
                    .into_iter()
                    .for_each(&mut each);
            }
        }
    }
}

/// The source of an IPv4 packet, and what follows its header.
fn ipv4(packet: &[u8]) -> Option<(IpAddr, &[u8])> {
    let header = usize::from(packet.first()? & 15) * 4;
    let source = <[u8; 4]>::try_from(packet.get(12..16)?).ok()?;
    Some((Ipv4Addr::from(source).into(), packet.get(header..)?))
}

fn arrival(source: IpAddr, protocol: Protocol, transport: &[u8]) -> Option<Arrival> {
    let &[a, b, c, d, ..] = transport else { return None };
    let flags = transport.get(13).filter(|_| protocol == ipproto::TCP).map_or(Flags::NONE, |flags| Flags(*flags));
    Some(Arrival {
        source: SocketAddr::new(source, u16::from_be_bytes([a, b])),
        port: u16::from_be_bytes([c, d]),
        opens: flags.has(Flags::SYN) && !flags.has(Flags::ACK),
    })
}
