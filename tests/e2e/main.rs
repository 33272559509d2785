//! knockd as a whole: the real daemon, the real client and real packets between network namespaces.
//!
//! Each test makes its own namespaces, so all of them run at once. They need root, or `unshare -Urnm cargo test`;
//! without that they fail and say so. `cargo build --workspace --bins` first: they run `knock-cli` too.

mod strays;
mod support;

mod armed;
mod armed_evidence;
mod client;
mod command_floods;
mod command_rules;
mod commands;
mod configuration;
mod control;
mod differential;
mod docker;
mod doctor;
mod ear;
mod examples;
mod fleet;
mod fleet_commands;
mod fleet_outages;
mod fleet_reload;
mod fleet_trust;
mod fragments;
mod grants;
mod guarding;
mod hostile;
mod import;
mod interfaces;
mod lifecycle;
mod limits;
mod log;
mod main_job;
mod malicious_ear;
mod matching;
mod never_locked_out;
mod one_time;
mod policy_routing;
mod prefixes;
mod privileges;
mod process;
mod ranges;
mod runner;
mod scans;
mod sessions;
mod signed_client;
mod signed_packets;
mod soak;
mod spa_commands;
mod ssh;
mod status;
mod testkit;
mod trust;
mod user_sets;
mod wall_clock;
mod watching;
