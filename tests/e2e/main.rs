//! knockd as a whole: the real daemon, the real client and real packets between network namespaces.
//!
//! Each test makes its own namespaces, so all of them run at once. They need root, or `unshare -Urnm cargo test`;
//! without that they fail and say so. `cargo build --workspace --bins` first: they run `knock-cli` too.
#![forbid(unsafe_code)]

mod support;

mod commands;
mod configuration;
mod control;
mod doctor;
mod differential;
mod grants;
mod guarding;
mod hostile;
mod interfaces;
mod lifecycle;
mod main_job;
mod matching;
mod privileges;
mod process;
mod scans;
mod sessions;
mod testkit;
