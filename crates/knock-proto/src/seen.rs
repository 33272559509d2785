//! The newest packets of a source, so that a retransmission of one is no second knock.

use std::time::Duration;

use smallvec::SmallVec;

use crate::packet::Identity;
use crate::{Knock, Time};

/// A packet that does not differ from others of its source is a copy of the last one only so soon after it.
const AT_ONCE: Duration = Duration::from_millis(100);

/// A packet that was no retransmission.
#[derive(Clone, Copy, Debug)]
struct Packet {
    at: Time,
    knock: Knock,
    identity: Identity,
    /// Its port is in no sequence.
    tripwire: bool,
}

/// The newest packets of a source: its knocks, and the last one that touched a tripwire. What becomes of the progress
/// that they made has no effect on them.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The newest is the last.
    packets: SmallVec<[Packet; 2]>,
}

impl Seen {
    /// Notes the packet; true where it is a retransmission. Of the tripwires only the last one is known: with more of
    /// them, a scan that sends the same packets again would touch none.
    ///
    /// At most `most` packets are remembered, the newest.
    pub(crate) fn is_retransmission(
        &mut self,
        now: Time,
        knock: Knock,
        identity: Identity,
        tripwire: bool,
        most: usize,
    ) -> bool {
        self.packets.retain(|seen| now.since(seen.at) <= seen.identity.lifetime(seen.knock.protocol));
        let same = |seen: &Packet| (seen.knock, seen.identity, seen.tripwire) == (knock, identity, tripwire);
        if let Some(index) = self.packets.iter().position(same) {
            let copy_of_the_last = || index + 1 == self.packets.len() && now.since(self.packets[index].at) <= AT_ONCE;
            if !self.is_ambiguous(knock, identity) || copy_of_the_last() {
                return true;
            }
            self.packets.remove(index);
        }
        if tripwire {
            self.packets.retain(|seen| !seen.tripwire);
        }
        if self.packets.len() >= most {
            self.packets.remove(0);
        }
        self.packets.push(Packet { at: now, knock, identity, tripwire });
        false
    }

    /// Whether the identity says nothing, since the source has used it for a packet to another port too, or since it
    /// has no number.
    pub(crate) fn is_ambiguous(&self, knock: Knock, identity: Identity) -> bool {
        let name = |identity: Identity| (identity.source_port, identity.serial(knock.protocol));
        identity.serial(knock.protocol).is_none()
            || self.packets.iter().any(|seen| {
                seen.knock.protocol == knock.protocol && seen.knock != knock && name(seen.identity) == name(identity)
            })
    }

    /// Whether a knock at that port is known of which a copy may come.
    pub(crate) fn has(&self, now: Time, knock: Knock) -> bool {
        let in_time = |seen: &Packet| now.since(seen.at) <= seen.identity.lifetime(seen.knock.protocol);
        self.packets.iter().any(|seen| seen.knock == knock && in_time(seen))
    }

    pub(crate) fn clear(&mut self) {
        self.packets.clear();
    }
}
