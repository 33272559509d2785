//! The control socket: the requests of `knockctl`, and the responses of the daemon. docs/control-protocol.md is the reference.

pub(crate) mod client;
mod connection;
pub(crate) mod counters;
pub(crate) mod protocol;
pub(crate) mod response;
mod server;
mod socket;

pub(crate) use server::{Request, Server};
pub(crate) use socket::{DEFAULT_PATH, Error, Socket, fleet_place, place};
