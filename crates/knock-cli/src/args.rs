//! The command line.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser};
use knock_proto::{Knock, SEQUENCE_MAX};

const AFTER_HELP: &str = "\
Exit status:
  0   every knock was sent; whether it opened anything, no answer tells
  1   a knock could not be sent
  2   the command line is wrong
  68  the host does not resolve, or has no address of the wanted kind
  78  the configuration is missing or wrong, or has no such rule

Examples:
  knock-cli -r enable_ssh -h example.com
  knock-cli example.com 7000 8000/udp 9000
  knock-cli -s 7000,8000/udp,9000 -h example.com";

const USAGE: &str = "\
knock-cli [OPTIONS] -r RULE -h HOST
       knock-cli [OPTIONS] -s PORT[/udp],... -h HOST
       knock-cli [OPTIONS] HOST PORT[/udp]...";

/// Knocks at the ports of a host, in the order that opens a door there.
#[derive(Debug, Parser)]
#[command(name = "knock-cli", version, disable_help_flag = true, override_usage = USAGE, after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The configuration with the rules; default: config.json in the current directory, else beside this program
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Knock the sequence of this rule of the configuration
    #[arg(short, long, value_name = "RULE")]
    rule: Option<String>,

    /// The host to knock at: a name or an address
    #[arg(short = 'h', long, value_name = "HOST")]
    host: Option<String>,

    /// Knock these ports, with commas between them, in place of a rule
    #[arg(short, long, value_name = "PORTS")]
    sequence: Option<String>,

    /// Knock at the host's IPv4 address
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,

    /// Knock at the host's IPv6 address
    #[arg(short = '6', long)]
    ipv6: bool,

    /// Milliseconds between two knocks. Knocks are flows of their own, which a network may carry along different ways;
    /// without a pause a later one can overtake an earlier one
    #[arg(short, long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub(crate) delay: u64,

    /// Knock by UDP at every port
    #[arg(short, long)]
    pub(crate) udp: bool,

    /// Say each knock and the address it goes to
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,

    /// Say nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    /// The host, where there is no -h, and the ports to knock at
    #[arg(value_name = "HOST PORT[/udp]")]
    operands: Vec<String>,
}

/// Where the knocks come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A rule of a configuration; with no path, of the default one.
    Rule { name: String, config: Option<PathBuf> },
    /// The command line.
    Knocks(Vec<Knock>),
}

/// The kind of address that is wanted.
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

    /// The host, and the knocks: of the options, else of the operands.
    pub(crate) fn host_and_source(&self) -> Result<(&str, Source), clap::Error> {
        let (host, ports) = match (&self.host, &self.operands[..]) {
            (Some(host), ports) => (host, ports),
            (None, [host, ports @ ..]) => (host, ports),
            (None, []) => return Err(usage(ErrorKind::MissingRequiredArgument, "no host; name it with -h HOST")),
        };
        let source = match (&self.rule, &self.sequence, ports) {
            (Some(name), None, []) => Source::Rule { name: name.clone(), config: self.config.clone() },
            (None, Some(list), []) => Source::Knocks(knocks(list.split(',').map(str::trim))?),
            (None, None, [_, ..]) => Source::Knocks(knocks(ports.iter().map(String::as_str))?),
            (None, None, []) => {
                return Err(usage(
                    ErrorKind::MissingRequiredArgument,
                    "nothing to knock; name a rule with -r, or ports",
                ));
            }
            _ => {
                let message = "the knocks come from -r, from -s or from operands; give only one of them";
                return Err(usage(ErrorKind::ArgumentConflict, message));
            }
        };
        if self.config.is_some() && !matches!(source, Source::Rule { .. }) {
            return Err(usage(ErrorKind::ArgumentConflict, "-c names the file of a rule; give the rule with -r"));
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
        let message = format!("{} knocks are more than the {SEQUENCE_MAX} that a sequence may have", knocks.len());
        return Err(usage(ErrorKind::ValueValidation, &message));
    }
    Ok(knocks)
}

fn usage(kind: ErrorKind, message: &str) -> clap::Error {
    Args::command().error(kind, message)
}
