//! The port-knocking client.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    knock_cli::main()
}
