//! The port-knocking client `knock-cli`: sends the knocks of a rule, or those of its command line, to a host.
//!
//! It needs no privilege and waits for no answer. It is a library only because the manual page is generated from
//! [`command`].

mod args;
mod error;
mod host;
mod plan;
mod send;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use knock_proto::Knock;

use crate::args::Args;
use crate::error::Error;
use crate::host::Host;

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    Args::command()
}

/// Sends the knocks of the command line and returns the exit status; an invalid command line exits at once, with
/// status 2.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let (host, source) = args.host_and_source().unwrap_or_else(|error| error.exit());
    let knocked = plan::knocks(source, args.udp).and_then(|knocks| {
        let host = host::resolve(host, args.family())?;
        knock(&host, &knocks, &args)
    });
    match knocked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, Error::NotSent) {
                // If standard error is closed, there is no place for a message.
                let _ = writeln!(std::io::stderr(), "knock-cli: {error}");
            }
            ExitCode::from(error.status())
        }
    }
}

/// Sends all knocks, also after an error of one of them.
fn knock(host: &Host, knocks: &[Knock], args: &Args) -> Result<(), Error> {
    // Standard output can be closed; the knocks are sent in any case.
    let mut out = std::io::stdout();
    if args.verbose {
        let _ = writeln!(out, "{host}");
    }
    let mut all_sent = true;
    for (index, knock) in knocks.iter().enumerate() {
        if index > 0 {
            std::thread::sleep(Duration::from_millis(args.delay));
        }
        match send::knock(host.address, *knock) {
            Ok(()) if args.verbose => {
                let _ = writeln!(out, "knocked at {knock}");
            }
            Ok(()) => {}
            Err(error) => {
                all_sent = false;
                let error = send::explain(error, host.address, *knock);
                let _ = writeln!(std::io::stderr(), "knock-cli: {error}");
            }
        }
    }
    if !all_sent {
        return Err(Error::NotSent);
    }
    if !args.quiet && !args.verbose {
        let plural = if knocks.len() == 1 { "port" } else { "ports" };
        let _ = writeln!(out, "knocked at {} {plural} of {}", knocks.len(), host.address.ip());
    }
    Ok(())
}
