//! The configuration of knockd.

#![forbid(unsafe_code)]

mod model;

pub use model::{
    Allow, Command, Config, Family, Interfaces, Limits, Log, LogTarget, Nftables, OnStop, Rule, SetName, Stop,
    StopOnStop, Trigger,
};
