//! Doors: where the kernel itself opens a port, for a source that lacks the last knock of a rule alone.

use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{InterfaceName, Knock, Protocol, TcpFlags};

use crate::grant_set::GrantKind;

/// The flags of segments that a table judges; it accepts those with others before it looks at their ports.
const FIRST_SEGMENT: u8 = TcpFlags::ACK | TcpFlags::RST;

/// The last knock of a rule, and what it opens to an armed source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The last knock.
    pub last: Knock,
    /// The knock before it, where another one like it is no mistake.
    pub repeat: Option<Knock>,
    /// The segments that count.
    pub tcp_flags: TcpFlags,
    /// The destinations of which the knock must have one; none: any address of this host.
    pub targets: Vec<IpAddr>,
    /// The interfaces that knocks may come from; none: any.
    pub interfaces: Vec<InterfaceName>,
    /// What it opens.
    pub opens: Vec<GrantKind>,
    /// For how long.
    pub timeout: Duration,
}

/// The doors of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doors {
    /// An armed source names its door by the place in this list.
    pub doors: Vec<Door>,
    /// Knock ports and tripwires: what disarms.
    pub watched: Vec<Knock>,
    /// How many grants each set has room for that a door adds to: a set that packets add to has a limit.
    pub grants: u32,
}

impl Doors {
    /// How many doors a table may have: a packet of an armed source passes them one by one.
    pub const MAX: usize = 250;
    /// For how long a source is armed at most.
    pub const LASTS: Duration = Duration::from_secs(10);
    /// How many sources may be armed at a time, of each IP version.
    pub const PLACES: u32 = 1024;
    /// How many sources of each IP version are remembered that were armed or pending and then erred, each for twice
    /// [`Doors::LASTS`]. Who arms no more than that in this time never finds the set full.
    pub const SPOILED: u32 = 4 * Doors::PLACES;

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.doors.is_empty()
    }
}

impl Door {
    /// The most nftables rules and grants that one door may need.
    const RULES_MAX: usize = 32;
    const GRANTS_MAX: usize = 8;

    /// Whether the kernel can judge its last knock as the daemon does, with few rules: not a knock with ACK or RST, not on
    /// an interface that is known by an alternative name, which nftables does not know.
    pub fn is_possible(&self) -> bool {
        let flags = self.last.protocol == Protocol::Udp || self.tcp_flags.clear & FIRST_SEGMENT == FIRST_SEGMENT;
        let named = self.interfaces.iter().all(|interface| !interface.is_alternative());
        let rules = self.interfaces.len().max(1) * self.targets.len().max(1);
        flags && named && rules <= Door::RULES_MAX && (1..=Door::GRANTS_MAX).contains(&self.opens.len())
    }
}
