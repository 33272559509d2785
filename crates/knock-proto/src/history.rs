//! The packets of the last minutes, so that it can be explained afterwards why a knock did nothing.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use crate::{Budget, Packet, Time};

/// Packets that are kept at once.
const KEPT: usize = 8192;
/// Packets of sources with at most one knock that are kept at once in a row; then one for each [`REFILL`]. A flood is made of
/// such packets, and must not push out all others.
const BURST: u32 = 512;
/// See [`BURST`].
const REFILL: Duration = Duration::from_millis(5);

/// A packet that the engine looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When it came.
    pub at: Time,
    /// The packet.
    pub packet: Packet,
    /// Whether its destination is an address of this host.
    pub local: bool,
}

/// The last packets that the engine looked at: at most 8192.
#[derive(Debug, Default)]
pub struct History {
    packets: VecDeque<Seen>,
    first_knocks: Budget,
    left_out: u64,
}

impl History {
    /// Notes a packet. `knocked`: how many knocks of a sequence its source has. Returns whether it was kept.
    pub fn note(&mut self, seen: Seen, knocked: u8) -> bool {
        if knocked <= 1 && !self.first_knocks.admit(seen.at, BURST, REFILL) {
            self.left_out += 1;
            return false;
        }
        if self.packets.len() == KEPT {
            self.packets.pop_front();
        }
        self.packets.push_back(seen);
        true
    }

    /// The packets that are kept, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Seen> {
        self.packets.iter()
    }

    /// The packets of one source that are kept, the oldest first.
    pub fn of(&self, source: IpAddr) -> impl Iterator<Item = &Seen> {
        self.iter().filter(move |seen| seen.packet.source == source)
    }

    /// The packets that were not kept, because too many came at once.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Forgets all packets: they were for other rules.
    pub fn clear(&mut self) {
        self.packets.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{Identity, Knock};

    fn seen(milliseconds: u64, source: u32) -> Seen {
        let packet = Packet {
            source: Ipv4Addr::from_bits(source).into(),
            destination: Ipv4Addr::LOCALHOST.into(),
            knock: Knock::tcp(7000),
            tcp_flags: 2,
            identity: Identity { source_port: 1, number: 1 },
        };
        Seen { at: Time::from_millis(milliseconds), packet, local: true }
    }

    #[test]
    fn a_flood_of_first_knocks_pushes_out_neither_minutes_nor_those_that_are_further() {
        let mut history = History::default();
        history.note(seen(1_000, 7), 1);
        history.note(seen(1_000, 7), 2);
        // 100,000 a second, for ten seconds.
        for number in 0..1_000_000_u32 {
            history.note(seen(2_000 + u64::from(number / 100), 1000 + number), 1);
        }
        assert_eq!(history.of(Ipv4Addr::from_bits(7).into()).count(), 2);
        assert!(history.iter().count() < 512 + 2_100, "{}", history.iter().count());
        assert!(history.left_out() > 990_000);
        for number in 0..100_000 {
            history.note(seen(13_000, 9_000_000 + number), 2);
        }
        assert_eq!(history.iter().count(), KEPT);
        history.clear();
        assert_eq!(history.iter().count(), 0);
    }
}
