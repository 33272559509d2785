//! The control tool of the daemon.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    knockd::knockctl_main()
}
