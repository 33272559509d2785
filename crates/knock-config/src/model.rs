//! The validated configuration. What is built from these types needs no further check.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use knock_proto::{InterfaceName, Knock, Port, RuleId, SetName, TableName, TcpFlags};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A whole configuration, every rule of it checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where knocks are listened for.
    pub interfaces: Interfaces,
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// The managed table.
    pub nftables: Nftables,
    /// Whether the neighbours of knock ports reset a source's progress.
    pub tripwires: bool,
    /// What bounds memory and work.
    pub limits: Limits,
    /// The path of the control socket; `None`: the daemon's default.
    pub control_socket: Option<PathBuf>,
    /// The directory of what must outlive the daemon; `None`: the daemon's default.
    pub state_dir: Option<PathBuf>,
    /// Where and how much is logged.
    pub log: Log,
}

/// Where knocks are listened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interfaces {
    /// On every interface, those that come later too.
    Any,
    /// On these, at least one, without duplicates.
    Named(Vec<InterfaceName>),
}

/// A rule: what is knocked, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique; letters, digits, `_`, `.` and `-`, at most 64.
    pub name: RuleId,
    /// What has to be knocked.
    pub trigger: Trigger,
    /// The time for the whole sequence, from its first knock to its last; above zero.
    pub timeout: Duration,
    /// Which TCP segments count as knocks.
    pub tcp_flags: TcpFlags,
    /// The destination address that each knock must have; `None`: any address of this host.
    pub target: Option<IpAddr>,
    /// The command for the address that knocked.
    pub command: Option<Command>,
    /// The command some time after that one. Only where `command` is.
    pub stop: Option<Stop>,
    /// A command is killed after this.
    pub command_timeout: Duration,
    /// Run by `/bin/sh -c` at start.
    pub setup: Option<String>,
    /// Run by `/bin/sh -c` at stop.
    pub teardown: Option<String>,
    /// What is opened over netlink for the address that knocked.
    pub allow: Option<Allow>,
    /// The rule whose grant to the address ends. There is such a rule, and it has an `allow`.
    pub revoke: Option<RuleId>,
}

/// What triggers a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// One to [`knock_proto::SEQUENCE_MAX`] knocks.
    Sequence(Vec<Knock>),
    /// The next unused line of this file, each line usable once.
    OneTime(PathBuf),
}

/// A command and, where it differs, the one for IPv6 sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// For IPv4 sources, and for IPv6 ones where there is no `v6`.
    pub any: String,
    /// For IPv6 sources.
    pub v6: Option<String>,
}

impl Command {
    /// The command line for a source of that address.
    pub fn line(&self, source: IpAddr) -> &str {
        match (&self.v6, source) {
            (Some(v6), IpAddr::V6(_)) => v6,
            _ => &self.any,
        }
    }
}

/// A command that runs some time after the rule's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// What runs.
    pub command: Command,
    /// How long after the knock.
    pub after: Duration,
    /// What happens to pending ones when the daemon stops.
    pub on_shutdown: StopOnShutdown,
}

/// What happens to a pending `stop_command` when the daemon stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "\"run\" or \"keep\"")]
#[schemars(rename = "stop_on_shutdown")]
pub enum StopOnShutdown {
    /// It runs at once.
    #[default]
    Run,
    /// It stays on disk and runs when it is due, or at the next start where that is later.
    Keep,
}

/// What a rule opens over netlink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// These guarded ports, in the managed table.
    Ports {
        /// At least one, without duplicates.
        ports: Vec<Port>,
        /// How long a grant lasts.
        timeout: Duration,
    },
    /// An element in a set of the administrator's; at least one of the two.
    Sets {
        /// For IPv4 sources.
        v4: Option<SetName>,
        /// For IPv6 sources.
        v6: Option<SetName>,
        /// How long a grant lasts.
        timeout: Duration,
    },
}

impl Allow {
    /// How long a grant lasts.
    pub fn timeout(&self) -> Duration {
        match self {
            Allow::Ports { timeout, .. } | Allow::Sets { timeout, .. } => *timeout,
        }
    }
}

/// The managed table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nftables {
    /// Its name, in family inet.
    pub table: TableName,
    /// What becomes of it when the daemon is stopped.
    pub on_stop: OnStop,
    /// Packets that come in here pass without a grant.
    pub exempt_interfaces: Vec<InterfaceName>,
    /// Whether the table is owned where the kernel can do that.
    pub owner: bool,
}

/// What becomes of the managed table when the daemon is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "\"remove\" or \"keep\"")]
#[schemars(rename = "on_stop")]
pub enum OnStop {
    /// It is removed: the guarded ports are as if there were no daemon.
    #[default]
    Remove,
    /// It stays: live grants expire in time, nobody new gets in.
    Keep,
}

/// What bounds memory and work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sources whose knocks are remembered.
    pub sources: usize,
    /// Elements of all grants to each IP version, in the managed table and in user sets.
    pub grants: u32,
    /// Commands that run at once.
    pub commands: usize,
    /// Commands that wait for a worker.
    pub command_queue: usize,
}

/// Where and how much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// `None`: the journal where standard error is connected to it, else standard error.
    pub target: Option<LogTarget>,
    /// Nothing below this level is logged.
    pub level: log::LevelFilter,
}

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "\"stderr\", \"syslog\" or \"journal\"")]
#[schemars(rename = "log_target")]
pub enum LogTarget {
    /// Standard error, a line each.
    Stderr,
    /// syslog(3), facility authpriv.
    Syslog,
    /// The journal, with fields (systemd.journal-fields(7)).
    Journal,
}
