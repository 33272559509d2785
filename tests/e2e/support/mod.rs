//! The daemon and the client as child processes, and what nft shows of the kernel.

mod arrivals;
mod client;
mod daemon;
mod docker;
pub(crate) mod fleet;
pub(crate) mod impostor;
mod nft;
mod siege;
pub(crate) mod spa;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use knock_testkit::{Host, Network, Packet, SERVER_V4, SERVER_V6, Wire};

pub(crate) use arrivals::Arrivals;
pub(crate) use client::{Client, answer, knock_cli, knock_cli_by_name, knockctl, program, revoke_all};
pub(crate) use daemon::{Daemon, Options, check, process, start_fails};
pub(crate) use docker::Docker;
pub(crate) use knock_testkit::wait_until;
pub(crate) use nft::{Element, element, elements, elements_of, ruleset, table_exists, user_set};
pub(crate) use siege::Siege;

/// A network with that many clients; the test fails here where namespaces are not permitted.
pub(crate) fn network(clients: u8) -> Network {
    Network::new(clients).unwrap_or_else(|error| panic!("{error}"))
}

/// The server's port, at its IPv4 address.
pub(crate) fn at4(port: u16) -> SocketAddr {
    (SERVER_V4, port).into()
}

/// The server's port, at its IPv6 address.
pub(crate) fn at6(port: u16) -> SocketAddr {
    (SERVER_V6, port).into()
}

/// The server's port, at its address of the family that `source` has.
pub(crate) fn at(source: IpAddr, port: u16) -> SocketAddr {
    if source.is_ipv4() { at4(port) } else { at6(port) }
}

/// A packet socket of the first client towards the server.
pub(crate) fn wire(network: &Network) -> Wire {
    network.client().wire(&network.server).expect("a packet socket for the client")
}

/// A SYN to each of the server's ports in turn, from `source`, each with a sequence number that no other has: one that
/// is sent again would be a retransmission.
pub(crate) fn syns(source: IpAddr, ports: &[u16]) -> Vec<Packet> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let from = SocketAddr::new(source, 40_000);
    ports.iter().map(|port| Packet::syn(from, at(source, *port), NEXT.fetch_add(1, Ordering::Relaxed) << 8)).collect()
}

/// Knocks from `source` by raw SYNs.
pub(crate) fn knock(wire: &Wire, source: IpAddr, ports: &[u16]) {
    wire.send_all(&syns(source, ports)).expect("the knock is sent");
}

/// Waits until that address has a grant for that port ("22/tcp" is `("tcp", 22)`).
pub(crate) fn wait_for_grant(server: &Host, source: IpAddr, service: (&str, u16)) -> Element {
    wait_until(&format!("{source} has a grant for {service:?}"), || element(server, source, service))
}
