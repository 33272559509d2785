//! A path that delays packets, delivers them out of order and loses some, as a seed says. (netem is not in every kernel.)

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::namespace::Namespace;
use crate::network::Host;
use crate::packet::complete_checksum;
use crate::wire::{Mac, Wire};

/// The server's IPv4 address on the relayed link; the client has the next.
pub const RELAYED_V4: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// The server's IPv6 address on the relayed link; the client has the next.
pub const RELAYED_V6: Ipv6Addr = Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 1);

/// The client's hardware address on the link, and the server's.
const MACS: [Mac; 2] = [Mac([2, 0, 0, 78, 0, 2]), Mac([2, 0, 0, 78, 0, 1])];
/// How often a thread without work looks whether it is to end.
const IDLE: Duration = Duration::from_millis(20);

/// What the path does to each packet, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conditions {
    /// How long a packet takes on average.
    pub delay: Duration,
    /// By how much it can take more or less, evenly spread: packets overtake each other.
    pub jitter: Duration,
    /// Which part of the packets is lost, 0 to 1.
    pub loss: f64,
}

/// A link between the server and a client, by way of a namespace in which this process carries each packet.
#[derive(Debug)]
pub struct Relay {
    conditions: Arc<Mutex<Conditions>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
    _middle: Namespace,
}

impl Relay {
    /// Makes the link, [`RELAYED_V4`] and [`RELAYED_V6`] for the server, and waits until it carries packets.
    pub fn between(server: &Host, client: &Host, seed: u64) -> Result<Relay> {
        let middle = Namespace::new()?;
        middle.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        for (index, host, own, other) in [(0, client, MACS[0], MACS[1]), (1, server, MACS[1], MACS[0])] {
            let number = 2 - index;
            middle.ip(&format!(
                "link add r{index} type veth peer name far0 address {own} netns {pid}\nlink set r{index} up",
                pid = host.namespace.pid()
            ))?;
            // One segment to a packet: what is read here is sent as it is.
            host.namespace.ip(&format!(
                "link set far0 gso_max_segs 1\naddr add 10.78.0.{number}/24 dev far0\naddr add fd78::{number}/64 dev far0 \
                 nodad\nlink set far0 up\nneigh add 10.78.0.{peer} lladdr {other} dev far0 nud permanent\nneigh add \
                 fd78::{peer} lladdr {other} dev far0 nud permanent",
                peer = 3 - number
            ))?;
        }
        let conditions = Arc::new(Mutex::new(Conditions::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let wires: Vec<Arc<Wire>> = middle.run(|| {
            let open = |index: usize| Wire::open(&format!("r{index}"), MACS[1 - index], MACS[index]).map(Arc::new);
            [open(0), open(1)].into_iter().collect::<Result<_>>()
        })??;
        let direction = |from: usize| {
            let line = Line {
                from: Arc::clone(&wires[from]),
                to: Arc::clone(&wires[1 - from]),
                sender: MACS[from],
                conditions: Arc::clone(&conditions),
                stop: Arc::clone(&stop),
                random: fastrand::Rng::with_seed(seed.wrapping_mul(2) + from as u64),
            };
            thread::spawn(move || line.carry())
        };
        let threads = vec![direction(0), direction(1)];
        client.wait_for(RELAYED_V4.into())?;
        client.wait_for(RELAYED_V6.into())?;
        Ok(Relay { conditions, stop, threads, _middle: middle })
    }

    /// From now on packets travel like this; those under way are not affected.
    pub fn set(&self, conditions: Conditions) {
        *self.conditions.lock().unwrap_or_else(PoisonError::into_inner) = conditions;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Its failure shows as packets that do not arrive.
            let _ = thread.join();
        }
    }
}

/// One direction.
struct Line {
    from: Arc<Wire>,
    to: Arc<Wire>,
    sender: Mac,
    conditions: Arc<Mutex<Conditions>>,
    stop: Arc<AtomicBool>,
    random: fastrand::Rng,
}

impl Line {
    fn carry(mut self) -> Result<()> {
        // The number keeps the order of packets that are due at the same time.
        let mut under_way: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>> = BinaryHeap::new();
        let mut number = 0;
        let mut buffer = vec![0; 1 << 16];
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            while under_way.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
                if let Some(Reverse((.., frame))) = under_way.pop() {
                    self.to.send_frames(&[frame])?;
                }
            }
            let due = under_way.peek().map(|Reverse((due, ..))| due.saturating_duration_since(now));
            let Some(length) = self.from.read_frame(&mut buffer, due.unwrap_or(IDLE).min(IDLE))? else { continue };
            let mut frame = buffer[..length].to_vec();
            if frame.get(6..12) != Some(&self.sender.0[..]) {
                continue;
            }
            let conditions = *self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
            if self.random.f64() < conditions.loss {
                continue;
            }
            // The kernel leaves the checksum to the network card, which there is none.
            complete_checksum(&mut frame[14..]);
            let jitter = conditions.jitter.mul_f64(self.random.f64() * 2.0);
            let due = Instant::now() + (conditions.delay + jitter).saturating_sub(conditions.jitter);
            number += 1;
            under_way.push(Reverse((due, number, frame)));
        }
        Ok(())
    }
}
