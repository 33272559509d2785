//! What is measured: a server with a guarded port, whatever guards it, and the client that knocks.

mod debian;
mod fwknop;
mod kernel;
mod ours;
mod signed;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use knock_testkit::{Echo, Network, Opening, Packet, SERVER_V4, Wire, opening};

use crate::error::{Error, Result};
use crate::process::Daemon;

pub(crate) use ours::Preparation;
pub(crate) use signed::Fault;

/// The guarded TCP port.
pub(crate) const GUARDED: u16 = 22;
/// The TCP ports of the knock.
pub(crate) const SEQUENCE: [u16; 3] = [7000, 8000, 9000];
/// The UDP port of fwknop's packets.
pub(crate) const SPA_PORT: u16 = 62_201;

/// The time between two probes of the guarded port.
const INTERVAL: Duration = Duration::from_micros(20);
/// The first of the addresses that knock; each knock has its own. The block for benchmarks (RFC 2544).
const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The source port of the knocks and probes.
const SOURCE_PORT: u16 = 45_000;

/// How an address asks for the port.
enum Knocks {
    /// A SYN to each of these TCP ports.
    Sequence([u16; 3]),
    /// One UDP datagram to [`SPA_PORT`], each of these once.
    Datagrams(std::vec::IntoIter<Vec<u8>>),
    /// A signed packet to [`SPA_PORT`], made when it is sent.
    Signed(signed::Users),
    /// It does not: there is nothing that could open.
    Nothing,
}

/// A server with a guarded port, whatever guards it, and the client that knocks, on a network of their own.
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) network: Network,
    /// `None`: the kernel alone.
    pub(crate) daemon: Option<Daemon>,
    /// The packet socket of the client that knocks.
    wire: Wire,
    /// The service behind the guarded port.
    _service: Echo,
    knocks: Knocks,
    /// The pause between two knocks.
    pub(crate) pause: Duration,
    /// The control socket, where this is our daemon.
    pub(crate) control: Option<PathBuf>,
    used_sources: u32,
}

impl Candidate {
    /// A server without anything on it but the service.
    fn new(name: impl Into<String>) -> Result<Candidate> {
        let network = Network::new(2)?;
        // As on a host that drops packets to ports without a service: no flood is answered, whichever program reads it.
        let ports = SEQUENCE.map(|port| port.to_string()).join(", ");
        network.server.namespace.nft(&format!(
            "table inet host {{
                chain input {{
                    type filter hook input priority 10;
                    tcp dport {{ {ports} }} drop
                    udp dport {SPA_PORT} drop
                }}
            }}"
        ))?;
        Ok(Candidate {
            name: name.into(),
            wire: network.client().wire(&network.server)?,
            _service: Echo::tcp(&network.server.namespace, GUARDED)?,
            network,
            daemon: None,
            knocks: Knocks::Nothing,
            pause: Duration::ZERO,
            control: None,
            used_sources: 0,
        })
    }

    /// No daemon and no gate: what the others' throughput is compared with.
    pub(crate) fn nothing() -> Result<Candidate> {
        Candidate::new("no daemon")
    }

    /// Whether it starts a program for each knock, and so takes its time.
    pub(crate) fn runs_commands(&self) -> bool {
        self.daemon.is_some() && self.control.is_none()
    }

    /// Knocks from an address that never did, and probes until the port answers; `None` where it has not within
    /// `patience`.
    pub(crate) fn knock(&mut self, patience: Duration) -> Result<Option<Opening>> {
        let (source, guarded) = (self.next_source(), SocketAddr::new(SERVER_V4.into(), GUARDED));
        self.knock_from(source, guarded, patience)
    }

    /// The same, after it was seen that the port is closed to that address.
    pub(crate) fn knock_when_closed(&mut self, patience: Duration) -> Result<Option<Opening>> {
        let (source, guarded) = (self.next_source(), SocketAddr::new(SERVER_V4.into(), GUARDED));
        if self.wire.syn_answer(source, guarded)?.is_some() {
            return Err(self.unfit(format!("port {GUARDED} answered {source} before its knock")));
        }
        self.knock_from(source, guarded, patience)
    }

    /// Knocks from an address that never did, and connects right behind the last knock. Returns whether the first SYN is
    /// answered within `patience`; a client sends the next one after a second.
    pub(crate) fn knock_and_connect(&mut self, patience: Duration) -> Result<bool> {
        let (source, guarded) = (self.next_source(), SocketAddr::new(SERVER_V4.into(), GUARDED));
        Ok(self.knock_and_probe(source, guarded, patience, patience)?.is_some())
    }

    /// Knocks once without measuring, so that the first measured knock meets what every later one does.
    pub(crate) fn warm_up(&mut self) -> Result<()> {
        match self.knock_when_closed(Duration::from_secs(5))? {
            Some(_) => Ok(()),
            None => Err(self.unfit(format!("no knock opened port {GUARDED}"))),
        }
    }

    /// An error about this candidate.
    pub(crate) fn unfit(&self, problem: String) -> Error {
        let log = self.daemon.as_ref().map(Daemon::log).unwrap_or_default();
        Error::Unfit { candidate: self.name.clone(), problem, log }
    }

    /// What a spoofed first knock at this candidate is like.
    pub(crate) fn first_knock(&self, source: SocketAddr) -> Packet {
        let server = SERVER_V4.into();
        match &self.knocks {
            Knocks::Datagrams(_) | Knocks::Signed(_) => Packet::udp(source, SocketAddr::new(server, SPA_PORT)),
            Knocks::Sequence(_) | Knocks::Nothing => Packet::syn(source, SocketAddr::new(server, SEQUENCE[0]), 0),
        }
    }

    fn knock_from(&mut self, source: SocketAddr, guarded: SocketAddr, patience: Duration) -> Result<Option<Opening>> {
        self.knock_and_probe(source, guarded, INTERVAL, patience)
    }

    fn knock_and_probe(
        &mut self,
        source: SocketAddr,
        guarded: SocketAddr,
        interval: Duration,
        patience: Duration,
    ) -> Result<Option<Opening>> {
        let packets: Vec<Packet> = match &mut self.knocks {
            Knocks::Sequence(ports) => {
                ports.iter().map(|port| Packet::syn(source, SocketAddr::new(guarded.ip(), *port), 1)).collect()
            }
            Knocks::Datagrams(payloads) => {
                let Some(payload) = payloads.next() else {
                    return Err(self.unfit("it has used up the packets that were prepared".to_owned()));
                };
                vec![Packet { payload, ..Packet::udp(source, SocketAddr::new(guarded.ip(), SPA_PORT)) }]
            }
            Knocks::Signed(users) => {
                let payload = users.payload(Fault::None);
                vec![Packet { payload, ..Packet::udp(source, SocketAddr::new(guarded.ip(), SPA_PORT)) }]
            }
            Knocks::Nothing => Vec::new(),
        };
        let first = if self.pause.is_zero() { 0 } else { packets.len().saturating_sub(1) };
        for packet in &packets[..first] {
            self.wire.send(packet)?;
            thread::sleep(self.pause);
        }
        Ok(opening(&self.wire, &packets[first..], source, guarded, interval, patience)?)
    }

    fn next_source(&mut self) -> SocketAddr {
        let source = Ipv4Addr::from(u32::from(FIRST_SOURCE).wrapping_add(self.used_sources));
        self.used_sources += 1;
        SocketAddr::new(source.into(), SOURCE_PORT)
    }
}

/// Where a candidate keeps its files: a directory of its own in `scratch`.
fn directory(scratch: &Path, name: &str) -> Result<PathBuf> {
    use crate::error::Attempt as _;
    let path = scratch.join(name);
    std::fs::create_dir_all(&path).attempt(|| format!("make {}", path.display()))?;
    Ok(path)
}
