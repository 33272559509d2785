//! The command line.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser};
use knock_proto::{Knock, SEQUENCE_MAX};

const AFTER_HELP: &str = "\
Exit status:
  0   every knock was sent; the server sends no answer, so the effect is unknown
  1   a knock could not be sent
  2   the command line is wrong
  68  the host has no address, or none of the IP version of -4 or -6
  78  the configuration is missing or invalid, or does not have the rule

Examples:
  knock-cli -r enable_ssh -h example.com
  knock-cli example.com 7000 8000/udp 9000
  knock-cli -s 7000,8000/udp,9000 -h example.com";

const USAGE: &str = "\
knock-cli [OPTIONS] -r RULE -h HOST
       knock-cli [OPTIONS] -s PORT[/udp],... -h HOST
       knock-cli [OPTIONS] HOST PORT[/udp]...";

/// Sends the knocks of a sequence to a host.
#[derive(Debug, Parser)]
#[command(name = "knock-cli", version, disable_help_flag = true, override_usage = USAGE, after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The configuration with the rules; default: config.json in the current directory, else in the directory of this program
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Knock the sequence of this rule of the configuration
    #[arg(short, long, value_name = "RULE")]
    rule: Option<String>,

    /// The host: a name or an address
    #[arg(short = 'h', long, value_name = "HOST")]
    host: Option<String>,

    /// Knock these ports, separated by commas, instead of the sequence of a rule
    #[arg(short, long, value_name = "PORTS")]
    sequence: Option<String>,

    /// Send the knocks to the IPv4 address of the host
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,

    /// Send the knocks to the IPv6 address of the host
    #[arg(short = '6', long)]
    ipv6: bool,

    /// The pause between two knocks, in milliseconds. Each knock is a separate flow, and a network can send flows along
    /// different routes: without a pause a later knock can overtake an earlier one
    #[arg(short, long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub(crate) delay: u64,

    /// Send every knock by UDP
    #[arg(short, long)]
    pub(crate) udp: bool,

    /// Print each knock and its destination address
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,

    /// Print only errors
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    /// The host, unless -h names it, and the knock ports
    #[arg(value_name = "HOST PORT[/udp]")]
    operands: Vec<String>,
}

/// The origin of the knocks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A rule of a configuration; without a path, of the default one.
    Rule { name: String, config: Option<PathBuf> },
    /// The command line.
    Knocks(Vec<Knock>),
}

/// The requested IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Any,
    V4,
    V6,
}

impl Args {
    pub(crate) fn family(&self) -> Family {
        match (self.ipv4, self.ipv6) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            (false, false) => Family::Any,
        }
    }

    /// The host, and the knocks: those of the options, else those of the operands.
    pub(crate) fn host_and_source(&self) -> Result<(&str, Source), clap::Error> {
        let (host, ports) = match (&self.host, &self.operands[..]) {
            (Some(host), ports) => (host, ports),
            (None, [host, ports @ ..]) => (host, ports),
            (None, []) => {
                return Err(usage(ErrorKind::MissingRequiredArgument, "the host is missing; name it with -h HOST"));
            }
        };
        let source = match (&self.rule, &self.sequence, ports) {
            (Some(name), None, []) => Source::Rule { name: name.clone(), config: self.config.clone() },
            (None, Some(list), []) => Source::Knocks(knocks(list.split(',').map(str::trim))?),
            (None, None, [_, ..]) => Source::Knocks(knocks(ports.iter().map(String::as_str))?),
            (None, None, []) => {
                return Err(usage(
                    ErrorKind::MissingRequiredArgument,
                    "the knocks are missing; name a rule with -r, or write the ports",
                ));
            }
            _ => {
                let message = "the knocks are those of -r, of -s or of operands; write only one of them";
                return Err(usage(ErrorKind::ArgumentConflict, message));
            }
        };
        if self.config.is_some() && !matches!(source, Source::Rule { .. }) {
            return Err(usage(ErrorKind::ArgumentConflict, "-c names the file of a rule; name the rule with -r"));
        }
        Ok((host, source))
    }
}

fn knocks<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<Knock>, clap::Error> {
    let mut knocks = Vec::new();
    for text in texts {
        let knock = text.parse::<Knock>();
        knocks.push(knock.map_err(|error| usage(ErrorKind::ValueValidation, &format!("`{text}`: {error}")))?);
    }
    if knocks.len() > SEQUENCE_MAX {
        let message =
            format!("{} knocks are more than the limit of {SEQUENCE_MAX}; write a shorter sequence", knocks.len());
        return Err(usage(ErrorKind::ValueValidation, &message));
    }
    Ok(knocks)
}

fn usage(kind: ErrorKind, message: &str) -> clap::Error {
    Args::command().error(kind, message)
}
