//! The port-knocking client `knock-cli`: sends the knocks of a rule, or those of its command line, or a signed packet, to
//! a host, waits until the port is open, and carries the connection for ssh.
//!
//! It needs no privilege. It is a library only because the manual page is generated from [`command`].

mod add;
mod agent;
mod args;
mod carry;
mod error;
mod file;
mod host;
mod identity;
mod list;
mod notice;
mod origin;
mod packet;
mod plan;
mod report;
mod run;
mod ssh;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{AddArgs, Args, ListArgs, Verb};
use crate::error::Refusal;

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    args::documented()
}

/// Does what the command line says and returns the exit status; an invalid command line exits at once, with status 2.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let done = match Verb::of(&words) {
        // The word of the command is where clap expects the name of the program.
        Some(Verb::List) => list::list(&ListArgs::parse_from(&words)).map_err(Refusal::from),
        Some(Verb::Add) => add::add(&AddArgs::parse_from(&words)),
        Some(Verb::Ssh) => ssh::ssh(&words[1..]).map_err(Refusal::from),
        None => knock(Args::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal::Usage(error)) => error.exit(),
        Err(Refusal::Error(error)) => {
            notice::complain(&error);
            ExitCode::from(error.status())
        }
    }
}

fn knock(mut args: Args) -> Result<(), Refusal> {
    if args.proxy {
        let proxy = plan::proxy(&args)?;
        warn(&args, proxy.warning.as_deref());
        if args.dry_run {
            return Ok(run::rehearse(&args, proxy.job.as_slice())?);
        }
        return Ok(run::proxy(&args, proxy)?);
    }
    let (jobs, warning) = plan::jobs(&mut args)?;
    warn(&args, warning.as_deref());
    Ok(if args.dry_run { run::rehearse(&args, &jobs) } else { run::knock(&args, &jobs) }?)
}

fn warn(args: &Args, warning: Option<&str>) {
    if let Some(warning) = warning.filter(|_| !args.quiet) {
        notice::complain(warning);
    }
}
