//! What reaches the transport layer of a host, after all of netfilter and reassembly.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use knock_testkit::{Namespace, Packet, Wire, wait_until};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrV6, SocketFlags, SocketType, ipproto, recvfrom, socket_with};

/// Raw sockets (raw(7)), which get a copy of each segment and datagram that arrives, whether or not anything listens.
pub(crate) struct Arrivals {
    sockets: Vec<(AddressFamily, OwnedFd)>,
    seen: HashSet<(SocketAddr, u16)>,
}

impl Arrivals {
    pub(crate) fn watch(namespace: &Namespace) -> Arrivals {
        let open = |family, protocol| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(family, SocketType::RAW, flags, Some(protocol)).expect("a raw socket");
            let _ = set_socket_recv_buffer_size_force(&socket, 32 << 20);
            (family, socket)
        };
        let families = [AddressFamily::INET, AddressFamily::INET6];
        let both = || families.map(|family| [ipproto::TCP, ipproto::UDP].map(|protocol| open(family, protocol)));
        let sockets = namespace.run(both).expect("the server's namespace").into_iter().flatten().collect();
        Arrivals { sockets, seen: HashSet::new() }
    }

    /// Takes note of what has arrived since.
    pub(crate) fn look(&mut self) {
        let mut bytes = [0; 2048];
        for (family, socket) in &self.sockets {
            while let Ok((length, _, from)) = recvfrom(socket, &mut bytes, RecvFlags::empty()) {
                let packet = &bytes[..length];
                // IPv4 comes with its header, IPv6 without.
                let (source, segment) = if *family == AddressFamily::INET {
                    let source: [u8; 4] = packet[12..16].try_into().expect("four bytes");
                    (IpAddr::from(Ipv4Addr::from(source)), &packet[usize::from(packet[0] & 15) * 4..])
                } else {
                    let from = from.and_then(|from| SocketAddrV6::try_from(from).ok()).expect("an IPv6 address");
                    (IpAddr::from(*from.ip()), packet)
                };
                if let &[a, b, c, d, ..] = segment {
                    let source = SocketAddr::new(source, u16::from_be_bytes([a, b]));
                    self.seen.insert((source, u16::from_be_bytes([c, d])));
                }
            }
        }
    }

    /// Waits for all that was sent on that wire: when a SYN that goes after it has arrived, it has. The port must not be
    /// guarded, and be another one each time.
    pub(crate) fn wait_for_all(&mut self, wire: &Wire, from: SocketAddr, fence: SocketAddr) {
        wire.send(&Packet::syn(from, fence, 1)).expect("sent");
        wait_until("the last packet arrives", || {
            self.look();
            self.has(from, fence.port())
        });
    }

    /// Whether anything from that source came to that port so far.
    pub(crate) fn has(&self, source: SocketAddr, port: u16) -> bool {
        self.seen.contains(&(source, port))
    }
}
