//! The protocol core of knockd: what a packet says, what a knock sequence is, and the engine that follows the
//! knocks of each source.
//!
//! Everything here is pure: no I/O, no clock, no randomness of its own. Time is an argument ([`Time`]), and the
//! engine answers with [`Completion`] values: what follows from them is for the daemon to decide.

mod budget;
mod cooldown;
mod engine;
mod history;
mod knock;
mod name;
mod notes;
mod packet;
mod port;
mod ports;
mod prefix;
mod recent;
mod rule_id;
mod seen;
mod sequence;
mod shares;
mod source;
mod sources;
mod stage;
mod time;
mod trace;

pub use budget::Budget;
pub use cooldown::Cooldowns;
pub use engine::{Almost, Completion, Counters, Engine, LastKnock, Rule, Settings, Watch};
pub use history::{History, Seen};
pub use knock::{Knock, ParseKnockError, Protocol, SEQUENCE_MAX, TcpFlags};
pub use name::{Family, InterfaceName, InvalidName, SetName, TableName};
pub use packet::{Identity, Ignored, Packet, parse, udp_payload};
pub use port::{Access, ParsePortsError, Port, PortRange};
pub use prefix::Prefix;
pub use rule_id::RuleId;
pub use time::Time;
pub use trace::{Meaning, NotCounted, Reset, Step, Tracer};
