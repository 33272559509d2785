//! The port-knocking client.

fn main() -> std::process::ExitCode {
    knock_cli::main()
}
