//! Warnings: a configuration is valid, but probably not what its author intends.

use std::fmt;
use std::time::Duration;

use knock_proto::{Knock, PortRange};

use crate::path::FieldPath;
use crate::problem::Position;

/// Something that the operator should know about a configuration that is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The name of the file.
    pub file: String,
    /// The place in the file.
    pub position: Position,
    /// The field; the top for the whole file.
    pub path: FieldPath,
    /// The subject of the warning.
    pub concern: Concern,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.position.line, self.position.column)?;
        if !self.path.is_top() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.concern)
    }
}

/// The order of the ports in a port scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanOrder {
    /// From low ports to high ones.
    Ascending,
    /// From high ports to low ones.
    Descending,
}

/// The place of a rule's sequence in the sequence of another rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the same sequence.
    Whole,
    /// At the end.
    End,
    /// Before the end.
    Inside,
}

/// The subject of a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Concern {
    /// The list of rules is empty, as in the file that a package installs.
    NoRules,
    /// A sequence of a single port.
    SinglePort,
    /// A sequence in the order of a port scan.
    ScanOrder {
        /// The order of that scan.
        order: ScanOrder,
        /// Whether such a scan touches a tripwire, or another knock port, between two of the ports.
        caught: bool,
        /// Whether there are tripwires.
        tripwires: bool,
    },
    /// A cooldown that lasts longer than the grant, which the source cannot extend in this time.
    CooldownOutlastsGrant {
        /// The duration of the grant.
        grant: Duration,
    },
    /// A sequence that holds another rule's whole sequence.
    Contains {
        /// The other rule.
        rule: String,
        /// The place of its sequence in this one.
        place: Place,
    },
    /// A knock port that is a guarded port.
    KnockIsGuarded {
        /// The port.
        port: Knock,
        /// The rule that opens it.
        rule: String,
    },
    /// So much time for a sequence that milliseconds may be meant.
    LongTimeout {
        /// The time.
        timeout: Duration,
    },
    /// A sequence without tripwires, because the neighbours of its ports are in guarded ranges.
    NoTripwires {
        /// A range that has such neighbours.
        range: PortRange,
    },
    /// Signed packets are received, but no rule accepts them.
    SpaUnused,
    /// The way to the store of the fleet is not encrypted.
    FleetPlain {
        /// The server.
        server: String,
    },
    /// No rule has grants that the other nodes get.
    FleetPublishesNothing,
    /// The grants of a rule are published, and every other node refuses them.
    FleetVouchedByNone {
        /// The rule.
        rule: String,
    },
    /// Everybody on the machine can read the sequences.
    WorldReadable {
        /// The permission bits of the file.
        mode: u32,
    },
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Concern::NoRules => f.write_str("the list of rules is empty, so knockd guards no port and opens none; write a rule"),
            Concern::SinglePort => f.write_str(
                "a sequence of a single port is not secret, because any port scan completes it; write five or more ports",
            ),
            Concern::ScanOrder { order, caught, tripwires } => {
                let (each, scan) = match order {
                    ScanOrder::Ascending => ("higher", "an ascending"),
                    ScanOrder::Descending => ("lower", "a descending"),
                };
                write!(f, "each port is {each} than the port before it, as in {scan} port scan; ")?;
                f.write_str(match (caught, tripwires) {
                    (true, true) => {
                        "the tripwires stop a scan of all ports, but not a scan that omits the neighbours of knock ports"
                    }
                    (true, false) => "only a knock port of another rule, between these ports, stops such a scan",
                    (false, true) => "such a scan completes the sequence, because it touches no tripwire",
                    (false, false) => "such a scan completes the sequence, because there are no tripwires",
                })?;
                f.write_str("; mix the order of the ports")
            }
            Concern::CooldownOutlastsGrant { grant } => write!(
                f,
                "the cooldown is longer than the grant, which expires after {grant:?}; the client can neither extend the \
                 grant nor open the ports again before the end of the cooldown; write a shorter cooldown"
            ),
            Concern::Contains { rule, place: Place::Whole } => {
                write!(
                    f,
                    "rule `{rule}` has the same sequence, so one knock sequence triggers both rules; change one of the two"
                )
            }
            Concern::Contains { rule, place } => {
                let verb = if *place == Place::End { "ends with" } else { "contains" };
                write!(f, "the sequence {verb} the whole sequence of rule `{rule}` and also triggers that rule; ")?;
                f.write_str("change one of the two")
            }
            Concern::KnockIsGuarded { port, rule } => write!(
                f,
                "{port} is a guarded port of rule `{rule}`, so each connection to it is a knock and disturbs the sequences \
                 of its source; use another knock port"
            ),
            Concern::LongTimeout { timeout } => {
                let seconds = timeout.as_secs();
                write!(
                    f,
                    "{seconds} seconds are a long time for a sequence; if milliseconds are meant, write \"{seconds}ms\", \
                     because a number is in seconds"
                )
            }
            Concern::NoTripwires { range } => write!(
                f,
                "the neighbours of these ports are guarded ports ({range}), so the sequence has no tripwires against port \
                 scans; use knock ports outside the guarded ranges"
            ),
            Concern::SpaUnused => f.write_str(
                "no rule accepts signed packets, so knockd ignores them all; write \"spa\": true in the rules that they may ask for",
            ),
            Concern::FleetPlain { server } => write!(
                f,
                "the connection to {server} is not encrypted, so others on the way can read addresses and the password; \
                 write \"tls\": {{}} into `fleet`, unless the network itself is encrypted"
            ),
            Concern::FleetPublishesNothing => f.write_str(
                "no grant is shared with the other nodes, because `publish` names no rule, or no rule has an `allow`; write \
                 the rules whose grants the other nodes get",
            ),
            Concern::FleetVouchedByNone { rule } => write!(
                f,
                "the other nodes refuse the grants of rule `{rule}`: no packet of it is signed by a user, and no node \
                 vouches for it; write `{rule}` into `vouch` of the nodes whose word is enough, or write a `publish` \
                 without it"
            ),
            Concern::WorldReadable { mode } => write!(
                f,
                "every user of this machine can read the secret sequences (mode {mode:04o}); run chmod o-rwx on the file"
            ),
        }
    }
}
