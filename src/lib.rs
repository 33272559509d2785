//! The daemon `knockd` and its control tool `knockctl`.

#![forbid(unsafe_code)]

pub mod args;
mod clock;
mod daemon;
mod effects;
mod events;
mod gate;
mod ledger;
mod logging;
mod poller;
mod reload;
mod rules;
mod signals;
mod start;
mod wire;

pub use start::knockd_main;
