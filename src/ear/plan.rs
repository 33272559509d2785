//! What the ear needs of the configuration: what to listen for, and nothing of what follows from it.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Knock, PortRange, Protocol, Rule, RuleId, Settings, TcpFlags};
use serde::{Deserialize, Serialize};

/// A rule as ear and keeper name it to each other: a digest of its name and of what triggers it. What was knocked for a rule
/// that has changed since is for no rule, and nothing has to be counted.
pub(crate) type RuleKey = u64;

/// The number of the transport protocol, and the port.
pub(crate) type Port = (u8, u16);

/// The plan.
#[derive(Serialize, Deserialize)]
pub(crate) struct Plan {
    rules: Vec<PlannedRule>,
    sources: usize,
    tripwires: bool,
    guarded: Vec<(u8, u16, u16)>,
    /// Signed packets, where the configuration has them.
    pub(crate) signed: Option<Signed>,
    /// The numbers of the packet sockets to listen with.
    pub(crate) sockets: Vec<u32>,
}

/// What opens signed packets.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Signed {
    /// The UDP ports.
    pub(crate) ports: Vec<u16>,
    /// How old or new they may be.
    pub(crate) window: Duration,
    /// `Opener::to_bytes`.
    pub(crate) opener: zeroize::Zeroizing<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct PlannedRule {
    name: String,
    sequence: Vec<Port>,
    timeout: Duration,
    /// Those that must be set, and those that must be clear.
    tcp_flags: (u8, u8),
    targets: Vec<IpAddr>,
    /// Whether the keeper learns that a source lacks the last knock.
    door: bool,
}

impl Plan {
    /// `doors`: the rules that have one.
    pub(crate) fn new(
        rules: &[Rule],
        settings: &Settings,
        signed: Option<Signed>,
        doors: &[RuleId],
        sockets: Vec<u32>,
    ) -> Plan {
        let rule = |rule: &Rule| PlannedRule {
            name: rule.id.to_string(),
            sequence: ports(&rule.sequence),
            timeout: rule.timeout,
            tcp_flags: (rule.tcp_flags.set, rule.tcp_flags.clear),
            targets: rule.targets.clone(),
            door: doors.contains(&rule.id),
        };
        let guarded = |range: &PortRange| (range.protocol.number(), range.first, range.last);
        Plan {
            rules: rules.iter().map(rule).collect(),
            sources: settings.sources,
            tripwires: settings.tripwires,
            guarded: settings.guarded.iter().map(guarded).collect(),
            signed,
            sockets,
        }
    }

    /// The rules that have a door.
    pub(crate) fn doors(&self) -> Vec<RuleId> {
        self.rules.iter().filter(|rule| rule.door).map(|rule| rule.name.as_str().into()).collect()
    }

    /// The rules and the settings of the engine; `None` where the plan is not a keeper's.
    pub(crate) fn engine(&self) -> Option<(Vec<Rule>, Settings)> {
        let rule = |rule: &PlannedRule| {
            Some(Rule {
                id: rule.name.as_str().into(),
                sequence: knocks(&rule.sequence)?,
                timeout: rule.timeout,
                tcp_flags: TcpFlags { set: rule.tcp_flags.0, clear: rule.tcp_flags.1 },
                targets: rule.targets.clone(),
            })
        };
        let range = |&(protocol, first, last): &(u8, u16, u16)| {
            Some(PortRange { protocol: Protocol::from_number(protocol)?, first, last })
        };
        let settings = Settings {
            sources: self.sources,
            tripwires: self.tripwires,
            guarded: self.guarded.iter().map(range).collect::<Option<_>>()?,
        };
        Some((self.rules.iter().map(rule).collect::<Option<_>>()?, settings))
    }
}

/// The key of a rule.
pub(crate) fn key(rule: &Rule) -> RuleKey {
    let mut hasher = DefaultHasher::new();
    let Rule { id, sequence, timeout, tcp_flags, targets } = rule;
    (id.as_str(), ports(sequence), timeout, tcp_flags.set, tcp_flags.clear, targets).hash(&mut hasher);
    hasher.finish()
}

/// A sequence, for a message.
pub(crate) fn ports(sequence: &[Knock]) -> Vec<Port> {
    sequence.iter().map(|knock| (knock.protocol.number(), knock.port)).collect()
}

/// The sequence of a message; `None` where one of its numbers is no transport protocol.
pub(crate) fn knocks(ports: &[Port]) -> Option<Vec<Knock>> {
    let knock = |&(protocol, port): &Port| Some(Knock { protocol: Protocol::from_number(protocol)?, port });
    ports.iter().map(knock).collect()
}
