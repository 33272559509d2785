//! Many packets from many sources, as fast as possible or at a rate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::packet::{Packet, Transport};
use crate::wire::Wire;

/// How many frames go out by one system call.
const BATCH: u64 = 64;

/// A flood of packets like one example, from sources next to each other.
#[derive(Clone, Debug)]
pub struct Flood {
    /// What each packet is like. The sources count up from its source address; the source port and, for TCP, the
    /// sequence number are random.
    pub example: Packet,
    /// How many source addresses, at least one.
    pub sources: u32,
    /// The destination ports, each in turn before the next source; empty: the example's.
    pub ports: Vec<u16>,
    /// How many packets; `None`: until it is stopped.
    pub count: Option<u64>,
    /// Packets a second; `None`: as fast as possible.
    pub rate: Option<u32>,
    /// Of the random source ports and sequence numbers.
    pub seed: u64,
}

/// What a flood did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    /// The packets sent.
    pub packets: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Sent {
    /// Packets a second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate is shown to three places")]
        let packets = self.packets as f64;
        packets / self.elapsed.as_secs_f64().max(1e-9)
    }
}

impl Flood {
    /// A flood of that many packets like `example` from that many sources, as fast as possible.
    pub fn new(example: Packet, sources: u32, count: u64) -> Flood {
        Flood { example, sources, ports: Vec::new(), count: Some(count), rate: None, seed: 1 }
    }

    /// Sends it, until it is done or `stop` is set.
    pub fn run(&self, wire: &Wire, stop: &AtomicBool) -> Result<Sent> {
        let start = Instant::now();
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut packet = self.example.clone();
        let mut frames: Vec<Vec<u8>> = Vec::new();
        let mut sent = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let batch = match self.count {
                Some(count) => BATCH.min(count - sent),
                None => BATCH,
            };
            if batch == 0 {
                break;
            }
            if let Some(rate) = self.rate {
                let due = Duration::from_micros(sent * 1_000_000 / u64::from(rate.max(1)));
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
            frames.resize_with(usize::try_from(batch).unwrap_or(0), Vec::new);
            for frame in &mut frames {
                self.vary(&mut packet, sent, random.u64(..));
                frame.clear();
                wire.write_frame(&packet, frame);
                sent += 1;
            }
            wire.send_frames(&frames)?;
        }
        Ok(Sent { packets: sent, elapsed: start.elapsed() })
    }

    fn vary(&self, packet: &mut Packet, number: u64, random: u64) {
        let ports = self.ports.len().max(1) as u64;
        let source = number / ports % u64::from(self.sources.max(1));
        let low = u32::try_from(random & 0xffff_ffff).unwrap_or(0);
        let port = 1024 + u16::try_from((random >> 32) % 64_000).unwrap_or(0);
        packet.source = SocketAddr::new(nth(self.example.source.ip(), u32::try_from(source).unwrap_or(0)), port);
        if let Some(port) = usize::try_from(number % ports).ok().and_then(|index| self.ports.get(index)) {
            packet.destination.set_port(*port);
        }
        if let Transport::Tcp { sequence, .. } = &mut packet.transport {
            *sequence = low;
        }
    }
}

/// The address that many after `first`.
fn nth(first: IpAddr, number: u32) -> IpAddr {
    match first {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(number)).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(number.into())).into(),
    }
}
