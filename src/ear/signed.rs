//! Signed packets, as far as the ear looks at them: it opens them, bounds how many the keeper has to verify, and hands them
//! over. `docs/spa-protocol.md` has the order of the checks.

use std::collections::HashSet;
use std::time::Duration;

use knock_capture::WholeDatagrams;
use knock_proto::{Knock, Protocol, Time};
use knock_spa::{Budgets, HANDED_OVER, NONCE_LENGTH, Opener, PAYLOAD_MAX, PAYLOAD_MIN, UnixTime};

use crate::ear::plan::Signed;

/// The header of a UDP datagram (RFC 768), which its length counts too.
const UDP_HEADER: usize = 8;
/// The nonces of a generation of [`HandedOver`] at most.
const NONCES: usize = 65_536;

/// What a datagram is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing that was sealed here: perhaps a knock.
    Foreign,
    /// Sealed here, but not to be handed over.
    Dropped,
    /// For the keeper.
    Opened(Box<[u8; HANDED_OVER]>),
}

/// What became of datagrams to the ports of signed packets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) received: u64,
    pub(super) foreign: u64,
    pub(super) over_budget: u64,
}

/// Opens signed packets.
#[derive(Debug)]
pub(super) struct SignedPackets {
    ports: Vec<u16>,
    window: Duration,
    opener: Opener,
    budgets: Budgets,
    handed_over: HandedOver,
}

impl SignedPackets {
    /// `None`: the plan is not a keeper's.
    pub(super) fn new(plan: Signed, now: UnixTime) -> Option<SignedPackets> {
        let opener = Opener::from_bytes(&plan.opener, now)?;
        let budgets = Budgets::of_count(opener.keys());
        Some(SignedPackets {
            ports: plan.ports,
            window: plan.window,
            opener,
            budgets,
            handed_over: HandedOver::default(),
        })
    }

    /// The packets that were handed over by the plan before are known in this one.
    pub(super) fn take_memory_of(&mut self, before: SignedPackets) {
        self.handed_over = before.handed_over;
    }

    /// Whether a packet may be a signed one, by its port.
    pub(super) fn concerns(&self, knock: Knock) -> bool {
        knock.protocol == Protocol::Udp && self.ports.contains(&knock.port)
    }

    /// The datagrams that have to be received whole: those of the length of a packet.
    pub(super) fn datagrams(&self) -> WholeDatagrams {
        let length = |payload: usize| u16::try_from(UDP_HEADER + payload).unwrap_or(u16::MAX);
        WholeDatagrams { ports: self.ports.clone(), lengths: length(PAYLOAD_MIN)..=length(PAYLOAD_MAX) }
    }

    /// Looks at the payload of a datagram. `now`: the time on the monotonic clock; `wall`: that of the wall clock.
    pub(super) fn look(&mut self, now: Time, wall: UnixTime, payload: &[u8], counters: &mut Counters) -> Look {
        if !(PAYLOAD_MIN..=PAYLOAD_MAX).contains(&payload.len()) {
            return Look::Foreign;
        }
        counters.received += 1;
        self.opener.set_time(wall);
        let Ok(opened) = self.opener.open(payload) else {
            counters.foreign += 1;
            return Look::Foreign;
        };
        let is_in_window = opened.claimed_time().is_within(self.window, wall);
        // What was recorded and is sent again opens too, but must not use up what the user's next packet needs.
        let monotonic = now.since(Time::default());
        let may = match is_in_window && !self.handed_over.has(opened.nonce()) {
            true => self.budgets.may_check(opened.key_index(), monotonic),
            false => self.budgets.may_check_stale(monotonic),
        };
        if !may {
            counters.over_budget += 1;
            return Look::Dropped;
        }
        // Twice the window: a packet that can be accepted has its nonce here.
        self.handed_over.note(*opened.nonce(), now, self.window.saturating_mul(2));
        Look::Opened(Box::new(opened.hand_over()))
    }
}

/// The nonces of the packets that were handed over, in two generations. What is forgotten costs a check of its key, no more:
/// the keeper remembers what it has accepted.
#[derive(Debug, Default)]
struct HandedOver {
    current: HashSet<[u8; NONCE_LENGTH]>,
    previous: HashSet<[u8; NONCE_LENGTH]>,
    began: Time,
}

impl HandedOver {
    fn has(&self, nonce: &[u8; NONCE_LENGTH]) -> bool {
        self.current.contains(nonce) || self.previous.contains(nonce)
    }

    fn note(&mut self, nonce: [u8; NONCE_LENGTH], now: Time, span: Duration) {
        if now.since(self.began) >= span || self.current.len() >= NONCES {
            self.previous = std::mem::take(&mut self.current);
            self.began = now;
        }
        self.current.insert(nonce);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_are_known_for_at_least_the_span_and_memory_is_bounded() {
        let (mut handed_over, span) = (HandedOver::default(), Duration::from_secs(120));
        let at = |seconds: u64| Time::from_millis(1000 * seconds);
        handed_over.note([1; 24], at(1000), span);
        handed_over.note([2; 24], at(1119), span);
        handed_over.note([3; 24], at(1239), span);
        assert!(!handed_over.has(&[1; 24]) || handed_over.has(&[2; 24]));
        assert!(handed_over.has(&[2; 24]) && handed_over.has(&[3; 24]) && !handed_over.has(&[4; 24]));
        handed_over.note([4; 24], at(1360), span);
        assert!(!handed_over.has(&[2; 24]) && handed_over.has(&[3; 24]));
        for number in 0..3 * NONCES as u64 {
            let mut nonce = [0; 24];
            nonce[..8].copy_from_slice(&number.to_be_bytes());
            handed_over.note(nonce, at(1361), span);
        }
        assert!(handed_over.current.len() + handed_over.previous.len() <= 2 * NONCES);
    }
}
