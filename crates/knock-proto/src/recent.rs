//! The packets that completed a sequence, known for as long as their sender may retransmit them.

use std::net::IpAddr;

use smallvec::{SmallVec, smallvec};

use crate::notes::Notes;
use crate::packet::{Identity, RETRANSMITTED};
use crate::sources::networks;
use crate::{Knock, Protocol, Time};

/// What a TCP segment and its retransmissions have in common, beside the port that they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Name {
    source: IpAddr,
    source_port: u16,
    number: u32,
}

/// The TCP packets that counted for a completion. They outlive the progress of their source, its place in the table of
/// sources and the rules: only the time ends them.
///
/// Nobody who completes nothing gets a packet in here. When it is full, the oldest packet of the fullest network makes
/// room.
#[derive(Debug)]
pub(crate) struct Recent {
    /// `None`: the source has sent packets of that name to several ports, so the name says nothing.
    packets: Notes<Name, Option<Knock>>,
}

impl Recent {
    /// For about as many packets as sources are remembered.
    pub(crate) fn new(sources: usize) -> Recent {
        Recent { packets: Notes::new(sources) }
    }

    /// Another number of sources is remembered from now on.
    pub(crate) fn resize(&mut self, sources: usize) {
        self.packets.resize(sources);
    }

    /// Whether this is the retransmission of a packet that counted. A packet of the same name to another port shows
    /// that its source builds packets with constant numbers: the name says nothing then.
    pub(crate) fn knows(&mut self, now: Time, source: IpAddr, knock: Knock, identity: Identity) -> bool {
        if self.packets.is_empty() {
            return false;
        }
        let noted = name(source, knock, identity).and_then(|name| self.packets.get_mut(&name));
        let Some((at, to)) = noted else { return false };
        if now.since(at) > RETRANSMITTED {
            return false;
        }
        *to = to.filter(|&noted| noted == knock);
        to.is_some()
    }

    /// Whether a packet of the source is known, or was until a short time ago.
    pub(crate) fn has_any_of(&self, source: IpAddr) -> bool {
        !self.packets.is_empty() && self.packets.contains_any(&groups(source))
    }

    /// Notes a packet that counted.
    pub(crate) fn note(&mut self, now: Time, source: IpAddr, knock: Knock, identity: Identity) {
        let Some(name) = name(source, knock, identity) else { return };
        self.forget_old(now);
        match self.packets.get_mut(&name) {
            Some((_, to)) => *to = to.filter(|&noted| noted == knock),
            None => self.packets.insert(now, &groups(source), name, Some(knock)),
        }
    }

    /// Forgets the packets that come no more.
    pub(crate) fn forget_old(&mut self, now: Time) {
        self.packets.forget_older(now, RETRANSMITTED);
    }

    /// When [`Recent::forget_old`] forgets all that is known now: one time, so that an idle daemon wakes once.
    pub(crate) fn next_old(&self) -> Option<Time> {
        self.packets.all_older(RETRANSMITTED)
    }
}

/// Only TCP retransmits.
fn name(source: IpAddr, knock: Knock, identity: Identity) -> Option<Name> {
    let number = identity.serial(knock.protocol).filter(|_| knock.protocol == Protocol::Tcp)?;
    Some(Name { source, source_port: identity.source_port, number })
}

/// The version of IP, the networks, and in the smallest of these the address.
pub(crate) fn groups(source: IpAddr) -> SmallVec<[u64; 4]> {
    let host = match source {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => u64::try_from(address.to_bits() & u128::from(u64::MAX)).unwrap_or(u64::MAX),
    };
    let mut groups: SmallVec<[u64; 4]> = smallvec![source.is_ipv4().into()];
    groups.extend(networks(source));
    groups.push(host);
    groups
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::notes::CAPACITY_MIN;

    const NOW: Time = Time::from_millis(1000);
    const KNOCK: Knock = Knock::tcp(1000);

    fn identity(number: u32) -> Identity {
        Identity { source_port: 40_000, number }
    }

    fn knows(recent: &mut Recent, now: Time, source: [u8; 4], number: u32) -> bool {
        recent.knows(now, source.into(), KNOCK, identity(number))
    }

    #[test]
    fn one_address_and_one_network_push_out_packets_of_their_own_alone() {
        let mut recent = Recent::new(1);
        let (client, neighbour) = ([192, 0, 2, 7], [203, 0, 113, 9]);
        recent.note(NOW, client.into(), KNOCK, identity(1));
        recent.note(NOW, neighbour.into(), KNOCK, identity(1));
        for number in 1..10_000 {
            recent.note(NOW, [203, 0, 113, 7].into(), KNOCK, identity(number));
        }
        for last in 10..=255 {
            recent.note(NOW, [203, 0, 113, last].into(), KNOCK, identity(1));
        }
        assert_eq!(recent.packets.len(), CAPACITY_MIN);
        assert!(knows(&mut recent, NOW, client, 1) && knows(&mut recent, NOW, neighbour, 1));
        assert!(!knows(&mut recent, NOW, [203, 0, 113, 7], 1) && knows(&mut recent, NOW, [203, 0, 113, 7], 9999));
    }

    #[test]
    fn a_smaller_table_keeps_the_newest_packets() {
        let mut recent = Recent::new(2 * CAPACITY_MIN);
        for number in 1..=2000 {
            recent.note(NOW, [192, 0, 2, 7].into(), KNOCK, identity(number));
        }
        recent.resize(1);
        assert_eq!(recent.packets.len(), CAPACITY_MIN);
        assert!(!knows(&mut recent, NOW, [192, 0, 2, 7], 1) && knows(&mut recent, NOW, [192, 0, 2, 7], 2000));
    }

    #[test]
    fn packets_are_forgotten_all_at_once_and_their_memory_is_given_back() {
        let mut recent = Recent::new(1);
        assert_eq!(recent.next_old(), None);
        for second in 0..100_u8 {
            let now = NOW.after(Duration::from_secs(second.into()));
            recent.note(now, [192, 0, 2, second].into(), KNOCK, identity(1));
        }
        let due = recent.next_old().expect("packets are known");
        assert!(knows(&mut recent, NOW.after(RETRANSMITTED), [192, 0, 2, 0], 1));
        assert!(!knows(&mut recent, due, [192, 0, 2, 0], 1));
        recent.forget_old(due);
        assert_eq!((recent.next_old(), recent.packets.len(), recent.packets.index_capacity()), (None, 0, 0));
    }

    #[test]
    fn a_name_that_is_used_for_several_ports_says_nothing() {
        let mut recent = Recent::new(1);
        let source = IpAddr::from([192, 0, 2, 7]);
        recent.note(NOW, source, KNOCK, identity(1));
        assert!(recent.knows(NOW, source, KNOCK, identity(1)));
        assert!(!recent.knows(NOW, source, Knock::tcp(2000), identity(1)));
        recent.note(NOW, source, Knock::tcp(2000), identity(1));
        assert!(!recent.knows(NOW, source, KNOCK, identity(1)));
        assert!(!recent.knows(NOW, source, Knock::tcp(2000), identity(1)));
    }
}
