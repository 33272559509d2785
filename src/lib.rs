//! The daemon `knockd` and its control tool `knockctl`.

#![forbid(unsafe_code)]

pub mod args;
mod clock;
pub mod commands;
mod control;
mod daemon;
mod effects;
mod events;
mod gate;
mod hooks;
mod ledger;
mod logging;
pub mod one_time;
mod notify;
pub mod one_time;
mod poller;
mod privileges;
mod reload;
mod rules;
mod signals;
mod start;
pub mod stops;
mod wire;

pub use start::knockd_main;
