//! The daemon `knockd` and its control tool `knockctl`.

#![forbid(unsafe_code)]

pub mod args;
mod clock;
pub mod commands;
mod control;
mod daemon;
mod doctor;
mod effects;
mod events;
mod gate;
mod hooks;
pub mod knockctl;
mod ledger;
mod logging;
mod notify;
pub mod one_time;
mod poller;
mod privileges;
mod reload;
mod rules;
mod signals;
mod start;
pub mod stops;
pub mod trusted;
mod wire;

pub use knockctl::knockctl_main;
pub use start::knockd_main;
