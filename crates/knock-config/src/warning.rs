//! What is allowed in a configuration and still hardly wanted.

use std::fmt;

use knock_proto::Knock;

use crate::path::FieldPath;
use crate::problem::Position;

/// Something that the operator should know about a configuration that is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The name of the file.
    pub file: String,
    /// Where in the file.
    pub position: Position,
    /// Which field; the top where it is the whole file.
    pub path: FieldPath,
    /// What, and why it matters.
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

/// The order in which a port scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanOrder {
    /// From low ports to high ones.
    Ascending,
    /// From high ports to low ones.
    Descending,
}

/// Where a rule's sequence stands in that of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the same sequence.
    Whole,
    /// At the end.
    End,
    /// Before the end.
    Inside,
}

/// What a warning is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Concern {
    /// The list of rules is empty, as in the file that a package installs.
    NoRules,
    /// A sequence of a single port.
    SinglePort,
    /// A sequence in the order of a port scan.
    ScanOrder {
        /// The scan that walks it.
        order: ScanOrder,
        /// Whether such a scan touches a tripwire, or another knock port, on its way.
        caught: bool,
        /// Whether there are tripwires.
        tripwires: bool,
    },
    /// A sequence that holds another rule's whole sequence.
    Contains {
        /// The other rule.
        rule: String,
        /// Where its sequence stands in this one.
        place: Place,
    },
    /// A knock port that is a guarded port.
    KnockIsGuarded {
        /// The port.
        port: Knock,
        /// The rule that opens it.
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
            Concern::NoRules => f.write_str("there are no rules: nothing is guarded and nothing is opened; write some"),
            Concern::SinglePort => f.write_str(
                "a sequence of a single port is no secret: any port scan knocks it; write five or more ports",
            ),
            Concern::ScanOrder { order, caught, tripwires } => {
                let (each, scan) = match order {
                    ScanOrder::Ascending => ("above", "an ascending"),
                    ScanOrder::Descending => ("below", "a descending"),
                };
                write!(f, "each port is {each} the one before, the order of {scan} port scan; ")?;
                f.write_str(match (caught, tripwires) {
                    (true, true) => {
                        "the tripwires stop a scan of every port, not one that leaves out the neighbours of knock ports"
                    }
                    (true, false) => "only another rule's knock port in between stops it",
                    (false, true) => "it opens the rule, for it touches no tripwire on its way",
                    (false, false) => "it opens the rule, for there are no tripwires",
                })?;
                f.write_str("; mix the order")
            }
            Concern::Contains { rule, place: Place::Whole } => {
                write!(
                    f,
                    "rule `{rule}` has the same sequence: knocking it triggers both; write another for one of them"
                )
            }
            Concern::Contains { rule, place } => {
                let verb = if *place == Place::End { "ends with" } else { "contains" };
                write!(f, "it {verb} the whole sequence of rule `{rule}`: knocking it also triggers that one; ")?;
                f.write_str("change one of them")
            }
            Concern::KnockIsGuarded { port, rule } => write!(
                f,
                "{port} is also a port that rule `{rule}` opens: each connection to that service is a knock and disturbs \
                 the sequences of its source; knock another port"
            ),
            Concern::WorldReadable { mode } => write!(
                f,
                "every user of this machine can read the secret sequences (mode {mode:04o}); run chmod o-rwx on the file"
            ),
        }
    }
}
