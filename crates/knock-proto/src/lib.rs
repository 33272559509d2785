//! The protocol core of knockd: what a packet says, what a knock sequence is, and the engine that follows the
//! knocks of each source.
//!
//! Everything here is pure: no I/O, no clock, no randomness. Time is an argument ([`Time`]), and the engine
//! answers with [`Effect`] values that the daemon carries out.

#![forbid(unsafe_code)]

mod knock;
mod time;

pub use knock::{Knock, ParseKnockError, Protocol, SEQUENCE_MAX, TcpFlags};
pub use time::Time;
