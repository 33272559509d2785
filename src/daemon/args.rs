//! The command line of the daemon.

use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueEnum};
use knock_config::LogTarget;
use knock_proto::InterfaceName;
use log::LevelFilter;

/// Port-knocking daemon: opens nftables sets over netlink, or runs commands, for the address that knocked.
///
/// Exit status: 0 stopped, 78 invalid configuration, 77 not permitted, 1 any other failure.
/// TERM and INT stop it, HUP makes it read its configuration again.
#[derive(Debug, Parser)]
#[command(name = "knockd", version, max_term_width = 100)]
pub struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "config.json")]
    pub config: PathBuf,

    /// Listen on this interface instead of those in the configuration; may be given several times; `any` is all
    #[arg(short, long, value_name = "IFACE")]
    pub interface: Vec<InterfaceName>,

    /// Check the configuration and exit: 0 where it is valid, 78 where it is not
    #[arg(short = 't', long)]
    pub check: bool,

    /// Where the log goes, instead of where the configuration says
    #[arg(long, value_name = "TARGET", value_enum)]
    pub log: Option<Target>,

    /// Log more: -v debug, -vv trace
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Log warnings and errors only
    #[arg(short, long)]
    pub quiet: bool,
}

/// A log target, as the command line names it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Target {
    /// Standard error, a line each
    Stderr,
    /// syslog, facility authpriv
    Syslog,
    /// The journal, with fields
    Journal,
}

impl Args {
    /// The log target, where the command line names one.
    pub fn log_target(&self) -> Option<LogTarget> {
        self.log.map(|target| match target {
            Target::Stderr => LogTarget::Stderr,
            Target::Syslog => LogTarget::Syslog,
            Target::Journal => LogTarget::Journal,
        })
    }

    /// The log level, where the command line sets one.
    pub fn log_level(&self) -> Option<LevelFilter> {
        match (self.quiet, self.verbose) {
            (true, _) => Some(LevelFilter::Warn),
            (false, 0) => None,
            (false, 1) => Some(LevelFilter::Debug),
            (false, _) => Some(LevelFilter::Trace),
        }
    }
}
