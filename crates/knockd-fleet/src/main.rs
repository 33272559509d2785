//! `knockd-fleet`: carries the records of a fleet between knockd and a Valkey or Redis server.

use std::process::ExitCode;

fn main() -> ExitCode {
    knockd_fleet::run()
}
