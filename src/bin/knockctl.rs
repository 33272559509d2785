//! The control tool of the daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    knockd::knockctl_main()
}
