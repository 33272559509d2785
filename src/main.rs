//! The daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    knockd::knockd_main()
}
