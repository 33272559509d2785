//! How long after the last knock the port opens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::packet::{Flags, Packet, Transport};
use crate::reply::Answer;
use crate::wire::Wire;

/// The source port of the knocks and probes.
const SOURCE_PORT: u16 = 45_000;
/// After this time a round counts as failed.
const OPENING_TIMEOUT: Duration = Duration::from_secs(2);

/// What a client sees of a port that opens. Both times count from the moment before the last knock is handed to the
/// kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// When the first probe was sent that was let in.
    pub probe: Duration,
    /// When its answer was here.
    pub answer: Duration,
}

/// A measurement: knock, and send SYNs to the guarded port until one is answered.
#[derive(Clone, Debug)]
pub struct Latency {
    /// The server.
    pub server: IpAddr,
    /// The TCP ports to knock.
    pub sequence: Vec<u16>,
    /// The guarded TCP port, with a service behind it.
    pub port: u16,
    /// The time between two probes.
    pub interval: Duration,
    /// The address that the first round comes from; each further round comes from the next one, whose port is still
    /// closed. The server routes answers to them here.
    pub first_source: Ipv4Addr,
}

impl Latency {
    /// Runs one round after another; what a client saw in each.
    pub fn run(&self, wire: &Wire, rounds: u32) -> Result<Vec<Opening>> {
        (0..rounds).map(|round| self.round(wire, round)).collect()
    }

    fn round(&self, wire: &Wire, round: u32) -> Result<Opening> {
        let source = Ipv4Addr::from(u32::from(self.first_source).wrapping_add(round));
        let source = SocketAddr::new(source.into(), SOURCE_PORT);
        let guarded = SocketAddr::new(self.server, self.port);
        if wire.syn_answer(source, guarded)?.is_some() {
            return Err(Error::TimedOut { what: format!("the closed port {guarded} (it is open)"), seconds: 0.0 });
        }
        let knock = |port: &u16| Packet::syn(source, SocketAddr::new(self.server, *port), 1);
        let knocks: Vec<Packet> = self.sequence.iter().map(knock).collect();
        opening(wire, &knocks, source, guarded, self.interval, OPENING_TIMEOUT)?.ok_or_else(|| Error::TimedOut {
            what: format!("the opening of {guarded} for {source}"),
            seconds: OPENING_TIMEOUT.as_secs_f32(),
        })
    }
}

/// Sends the knocks, and then a SYN from `source` to the port `guarded` at every `interval` until one is answered;
/// `None` where none is within `patience`.
pub fn opening(
    wire: &Wire,
    knocks: &[Packet],
    source: SocketAddr,
    guarded: SocketAddr,
    interval: Duration,
    patience: Duration,
) -> Result<Option<Opening>> {
    // What is left of the round before.
    while wire.receive(Instant::now())?.is_some() {}
    let mut knocked = Instant::now();
    for knock in knocks {
        knocked = Instant::now();
        wire.send(knock)?;
    }
    let mut probed: Vec<Instant> = Vec::new();
    while knocked.elapsed() < patience {
        let number = u32::try_from(probed.len()).unwrap_or(u32::MAX);
        let now = Instant::now();
        wire.send(&Packet::syn(source, guarded, number << 8))?;
        probed.push(now);
        while let Some(reply) = wire.receive(now + interval)? {
            // The acknowledgment names the probe that was let in.
            let answered = (reply.acknowledgment.wrapping_sub(1) >> 8) as usize;
            if (reply.from, reply.to) == (guarded, source)
                && matches!(reply.answer, Answer::Tcp(flags) if flags.has(Flags::SYN))
                && let Some(sent) = probed.get(answered)
            {
                let opening = Opening { probe: sent.duration_since(knocked), answer: knocked.elapsed() };
                take_back(wire, source, guarded, reply.acknowledgment)?;
                return Ok(Some(opening));
            }
        }
    }
    Ok(None)
}

/// Resets the half-open connection.
fn take_back(wire: &Wire, source: SocketAddr, guarded: SocketAddr, sequence: u32) -> Result<()> {
    let transport = Transport::Tcp { flags: Flags::RST, sequence, acknowledgment: 0 };
    wire.send(&Packet { transport, ..Packet::tcp(source, guarded, Flags::RST) })
}
