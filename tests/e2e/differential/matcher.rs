//! knock's matching as its source and its manual have it, and each way in which ours is different.
//!
//! With no difference it has to do what knock 0.8 does, with all of them what knockd does. So the list is complete, and
//! the fewest differences that change what happens are the reason for it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use knock_testkit::Flags;

use super::streams::{DOORS, Port, Protocol, Sent, TIMEOUT};

/// A difference, with the name that docs/moving-from-knock.md gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Difference {
    /// A repeat of the same port counts once.
    A1,
    /// The packet that breaks an attempt may begin one.
    A2,
    /// A retransmission is known as one.
    A3,
    /// All doors progress side by side.
    A4,
    /// The end of one attempt leaves the others alone.
    A5,
    /// The neighbours of knock ports are tripwires.
    B1,
    /// Without `TCPFlags`, the first packet of a connection counts, and no other segment.
    C1,
    /// A SYN+ACK is no knock.
    C3,
    /// The time limit is not counted in whole seconds of the wall clock.
    D2,
}

/// All of them.
pub(super) const DIFFERENCES: [Difference; 9] = [
    Difference::A3,
    Difference::A1,
    Difference::A2,
    Difference::A4,
    Difference::A5,
    Difference::B1,
    Difference::C1,
    Difference::C3,
    Difference::D2,
];

/// When a packet was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) sent: Sent,
    /// The wall clock's second.
    pub(super) second: u32,
    /// On a monotonic clock.
    pub(super) at: Duration,
}

/// How often each door opened for each source.
pub(super) type Openings = BTreeMap<(&'static str, Ipv4Addr), u32>;

/// What a packet is to a door, of which one of a source is under way at most.
#[derive(Debug)]
struct Attempt {
    source: Ipv4Addr,
    door: usize,
    /// How many knocks are made; `None`: a wrong one came.
    stage: Option<usize>,
    second: u32,
    at: Duration,
}

/// What the doors do with these packets, in their order.
pub(super) fn openings(packets: &[Seen], differences: &[Difference]) -> Openings {
    let mut matcher = Matcher { differences, attempts: Vec::new(), last: BTreeMap::new(), openings: Openings::new() };
    for packet in packets {
        matcher.packet(packet);
    }
    matcher.openings
}

/// Whether knock's kernel filter lets it through: a port of any door, with the flags of that door.
pub(super) fn is_visible_to_knock(sent: &Sent) -> bool {
    let of_door = |flags: Flags, syn_only: bool| !syn_only || sent.port.0 == Protocol::Udp || flags.has(Flags::SYN);
    DOORS.iter().any(|door| door.sequence.contains(&sent.port) && of_door(sent.flags, door.syn_only))
}

fn is_knock_port(port: Port) -> bool {
    DOORS.iter().any(|door| door.sequence.contains(&port))
}

fn is_tripwire((protocol, port): Port) -> bool {
    let near = |other: u16| is_knock_port((protocol, other));
    !is_knock_port((protocol, port)) && (near(port - 1) || near(port + 1))
}

struct Matcher<'a> {
    differences: &'a [Difference],
    attempts: Vec<Attempt>,
    /// The packet before, of each source.
    last: BTreeMap<Ipv4Addr, Sent>,
    openings: Openings,
}

impl Matcher<'_> {
    fn has(&self, difference: Difference) -> bool {
        self.differences.contains(&difference)
    }

    fn packet(&mut self, packet: &Seen) {
        let sent = &packet.sent;
        let tcp = sent.port.0 == Protocol::Tcp;
        if tcp && self.has(Difference::C3) && sent.flags == Flags::SYN | Flags::ACK {
            return;
        }
        if tcp && self.has(Difference::C1) && !sent.flags.has(Flags::SYN) {
            return;
        }
        let again = self.last.insert(sent.source, *sent) == Some(*sent);
        if again && self.has(Difference::A3) {
            return;
        }
        if self.has(Difference::B1) && is_tripwire(sent.port) {
            self.attempts.retain(|attempt| attempt.source != sent.source);
        }
        if !is_visible_to_knock(sent) {
            return;
        }
        self.clean_up(packet);
        let found: Vec<usize> =
            (0..self.attempts.len()).filter(|index| self.attempts[*index].source == sent.source).collect();
        let busy: Vec<usize> = found.iter().map(|index| self.attempts[*index].door).collect();
        for index in found {
            self.go_on(index, packet);
        }
        for (door, config) in DOORS.iter().enumerate() {
            let blocked = if self.has(Difference::A4) { busy.contains(&door) } else { !busy.is_empty() };
            if !blocked && matches(door, sent) && config.sequence[0] == sent.port {
                let Seen { second, at, .. } = *packet;
                self.attempts.push(Attempt { source: sent.source, door, stage: Some(0), second, at });
                self.go_on(self.attempts.len() - 1, packet);
            }
        }
    }

    /// Attempts that are over go. Where the first of the list is one, knock loses the list with it.
    fn clean_up(&mut self, packet: &Seen) {
        let exact = self.has(Difference::D2);
        let is_over = |attempt: &Attempt| {
            let complete = attempt.stage.is_none_or(|stage| stage >= DOORS[attempt.door].sequence.len());
            let late = match exact {
                true => packet.at - attempt.at > Duration::from_secs(TIMEOUT.into()),
                false => packet.second - attempt.second >= TIMEOUT,
            };
            complete || late
        };
        if !self.has(Difference::A5) && self.attempts.first().is_some_and(is_over) {
            self.attempts.clear();
        }
        self.attempts.retain(|attempt| !is_over(attempt));
    }

    fn go_on(&mut self, index: usize, packet: &Seen) {
        let (repeats, restarts) = (self.has(Difference::A1), self.has(Difference::A2));
        let attempt = &mut self.attempts[index];
        let Some(stage) = attempt.stage else { return };
        if !matches(attempt.door, &packet.sent) {
            return;
        }
        let sequence = DOORS[attempt.door].sequence;
        if sequence.get(stage) == Some(&packet.sent.port) {
            attempt.stage = Some(stage + 1);
            if stage + 1 == sequence.len() {
                *self.openings.entry((DOORS[attempt.door].name, attempt.source)).or_default() += 1;
            }
            return;
        }
        let repeat = repeats && sequence[stage - 1] == packet.sent.port;
        let restart = restarts && sequence[0] == packet.sent.port;
        if (repeat && stage == 1) || restart {
            (attempt.stage, attempt.second, attempt.at) = (Some(1), packet.second, packet.at);
        } else if !repeat {
            attempt.stage = None;
        }
    }
}

/// Whether the door looks at such packets; others neither advance nor break an attempt at it.
fn matches(door: usize, sent: &Sent) -> bool {
    sent.port.0 == Protocol::Udp || !DOORS[door].syn_only || sent.flags.has(Flags::SYN)
}
