//! What reaches the transport layer of a host, after all of netfilter and reassembly.

use std::collections::HashSet;
use std::net::SocketAddr;

use knock_testkit::{Namespace, Packet, Wire, wait_until};

/// The sources and ports of all that arrived.
pub(crate) struct Arrivals {
    sockets: knock_testkit::Arrivals,
    seen: HashSet<(SocketAddr, u16)>,
}

impl Arrivals {
    pub(crate) fn watch(namespace: &Namespace) -> Arrivals {
        let sockets = knock_testkit::Arrivals::watch(namespace).unwrap_or_else(|error| panic!("{error}"));
        Arrivals { sockets, seen: HashSet::new() }
    }

    /// Takes note of what has arrived since.
    pub(crate) fn look(&mut self) {
        self.sockets.read(|arrival| {
            self.seen.insert((arrival.source, arrival.port));
        });
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
