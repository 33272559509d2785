//! A flood at a guarded port all through a test, beside clients that may come in: none of the one may get through, none
//! of the other be lost.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use knock_testkit::{Delivered, Flood, Network, Packet, Passed};

use super::client::Client;
use super::{at, at4, at6, wait_until};

/// How many strangers' addresses in each family, from 198.18.0.0 (RFC 2544) and fd99:: on.
const SOURCES: u32 = 1024;
const STRANGERS4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 0));
const STRANGERS6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0));
/// SYNs a second: a gap of a millisecond is seen, and other tests get their share of the machine.
const RATES: [u32; 2] = [12_000, 4_000];
/// The same, where it goes on for long.
const LOW_RATES: [u32; 2] = [600, 200];
/// The pause between two new connections of a client that may come in.
const PAUSE: Duration = Duration::from_millis(1);

/// The flood and the clients, until [`Siege::end`].
pub(crate) struct Siege {
    port: u16,
    granted: Vec<IpAddr>,
    delivered: Delivered,
    stop: Stop,
    flooded: Arc<AtomicU64>,
    floods: Vec<JoinHandle<u64>>,
    clients: Vec<JoinHandle<(u64, bool)>>,
    lost_before: u64,
}

/// Ends the threads when it is dropped, and where a test fails.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Toll {
    /// SYNs of strangers.
    pub(crate) flooded: u64,
    /// Those of them that got through.
    pub(crate) passed: Passed,
    /// SYNs of clients that may come in.
    pub(crate) granted: u64,
    /// Those of them that got through.
    pub(crate) let_in: u64,
    /// Sessions that broke.
    pub(crate) broken: usize,
    /// Packets that the machine, not the gate, lost in the meantime: what it could not hold.
    pub(crate) lost: u64,
}

impl Siege {
    /// Begins. `granted` are the numbers of the clients that have a grant for `port`, in both families, and keep it; an
    /// echo service is there. Client 0 sends the flood.
    pub(crate) fn begin(network: &Network, port: u16, granted: &[usize]) -> Siege {
        let siege = Siege::begin_at(network, port, granted, RATES);
        siege.go_on();
        siege
    }

    /// Begins a flood of almost a packet a millisecond, and no client.
    pub(crate) fn begin_slowly(network: &Network, port: u16) -> Siege {
        Siege::begin_at(network, port, &[], LOW_RATES)
    }

    fn begin_at(network: &Network, port: u16, granted: &[usize], rates: [u32; 2]) -> Siege {
        let delivered = Delivered::watch(&network.server.namespace).expect("raw sockets on the server");
        let stop = Stop(Arc::new(AtomicBool::new(false)));
        let flooded = Arc::new(AtomicU64::new(0));
        let lost_before = lost();
        let families = [(STRANGERS4, rates[0]), (STRANGERS6, rates[1])];
        let floods = families.map(|(first, rate)| {
            let wire = network.client().wire(&network.server).expect("a packet socket for the flood");
            let example = Packet::syn(SocketAddr::new(first, 1), at(first, port), 0);
            let flood = Flood { rate: Some(rate), ..Flood::new(example, SOURCES, u64::from(SOURCES)) };
            let (stop, flooded) = (Arc::clone(&stop.0), Arc::clone(&flooded));
            thread::spawn(move || {
                let mut sent = 0;
                for seed in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let part = Flood { seed, ..flood.clone() }.run(&wire, &stop).expect("the flood goes out").packets;
                    sent += part;
                    flooded.fetch_add(part, Ordering::Relaxed);
                }
                sent
            })
        });
        let mut addresses = Vec::new();
        let mut clients = Vec::new();
        for host in granted.iter().map(|number| &network.clients[*number]) {
            for address in [IpAddr::from(host.v4), host.v6.into()] {
                addresses.push(address);
                let wire = host.wire(&network.server).expect("a packet socket for the client");
                let mut session = host.session(if address.is_ipv4() { at4(port) } else { at6(port) });
                let stop = Arc::clone(&stop.0);
                clients.push(thread::spawn(move || {
                    // The session's own first segment is the first one.
                    let (mut sent, mut alive) = (1_u64, true);
                    while !stop.load(Ordering::Relaxed) {
                        let from = SocketAddr::new(address, 1024 + u16::try_from(sent % 60_000).unwrap_or(0));
                        let sequence = u32::try_from(sent & 0xff_ffff).unwrap_or(0) << 8;
                        wire.send(&Packet::syn(from, at(address, port), sequence)).expect("the SYN goes out");
                        sent += 1;
                        if sent % 16 == 0 {
                            alive &= session.is_alive();
                        }
                        thread::sleep(PAUSE);
                    }
                    (sent, alive)
                }));
            }
        }
        Siege { port, granted: addresses, delivered, stop, flooded, floods: floods.into(), clients, lost_before }
    }

    /// Waits until the flood has gone on for a while: 2048 SYNs more.
    #[track_caller]
    pub(crate) fn go_on(&self) {
        let before = self.flooded.load(Ordering::Relaxed);
        wait_until("the flood goes on", || self.flooded.load(Ordering::Relaxed) >= before + 2048);
    }

    /// What got through of the flood so far.
    pub(crate) fn passed(&self) -> Passed {
        self.delivered.passed(|source, port| port == self.port && is_stranger(source))
    }

    /// Ends it, once all that was sent has arrived.
    pub(crate) fn end(self) -> Toll {
        drop(self.stop);
        let passed_panic = |panic| std::panic::resume_unwind(panic);
        let ends: Vec<(u64, bool)> =
            self.clients.into_iter().map(|client| client.join().unwrap_or_else(passed_panic)).collect();
        let flooded = self.floods.into_iter().map(|flood| flood.join().expect("the flood ends")).sum();
        let granted = ends.iter().map(|end| end.0).sum();
        let (port, addresses) = (self.port, self.granted);
        let let_in = || self.delivered.passed(|source, to| to == port && addresses.contains(&source)).segments;
        let start = std::time::Instant::now();
        while let_in() < granted && start.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(5));
        }
        Toll {
            flooded,
            passed: self.delivered.passed(|source, to| to == port && is_stranger(source)),
            granted,
            let_in: let_in(),
            broken: ends.iter().filter(|end| !end.1).count(),
            lost: lost() - self.lost_before,
        }
    }
}

impl Toll {
    /// Nothing got through that may not, and everything that may.
    #[track_caller]
    pub(crate) fn assert_held(&self) {
        eprintln!("{self:?}");
        assert_eq!(self.passed.segments, 0, "strangers got through: {self:?}");
        self.assert_let_in();
    }

    /// Everything got through that may.
    #[track_caller]
    pub(crate) fn assert_let_in(&self) {
        assert_eq!(self.broken, 0, "sessions broke: {self:?}");
        assert_eq!(self.kept_out(), 0, "granted SYNs were dropped: {self:?}");
        assert!(self.granted > 0 && self.flooded > 0, "{self:?}");
    }
}

impl Toll {
    /// SYNs of clients that may come in which the gate dropped.
    pub(crate) fn kept_out(&self) -> u64 {
        self.granted.saturating_sub(self.let_in + self.lost)
    }
}

/// Whether it is an address of the flood's.
fn is_stranger(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(source) => source.octets()[..2] == [198, 18],
        IpAddr::V6(source) => source.segments()[0] == 0xfd99,
    }
}

/// Packets that found the kernel's queues full, on all processors (the second column of /proc/net/softnet_stat).
fn lost() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(dropped).sum()
}
