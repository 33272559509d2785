//! The daemon `knockd` and its control tool `knockctl`.

#![forbid(unsafe_code)]

pub mod args;
mod clock;
pub mod commands;
mod daemon;
mod effects;
mod events;
mod gate;
mod hooks;
mod ledger;
mod logging;
mod poller;
mod reload;
mod rules;
mod signals;
mod start;
pub mod stops;
mod wire;

pub use start::knockd_main;
