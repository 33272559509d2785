//! The validated configuration. Its users need no further check.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use knock_fleet::NodePublicKey;
use knock_proto::{InterfaceName, Knock, PortRange, RuleId, SetName, TableName, TcpFlags};
use knock_spa::{Realm, RuleName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The interfaces on which the daemon receives knocks.
    pub interfaces: Interfaces,
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// The managed table.
    pub nftables: Nftables,
    /// The time for the whole sequence of a rule without its own time.
    pub timeout: Duration,
    /// How signed packets are received; `None`: not at all. Rules with `spa` have it.
    pub spa: Option<Spa>,
    /// With which nodes grants are shared; `None`: with none.
    pub fleet: Option<Fleet>,
    /// Whether the neighbours of knock ports reset a source's progress.
    pub tripwires: bool,
    /// Limits for memory and work.
    pub limits: Limits,
    /// The path of the control socket; `None`: the daemon's default.
    pub control_socket: Option<PathBuf>,
    /// The directory for data that must survive a restart of the daemon; `None`: the daemon's default.
    pub state_dir: Option<PathBuf>,
    /// The target and the level of the log.
    pub log: Log,
}

/// The interfaces on which the daemon receives knocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interfaces {
    /// Every interface, also one that appears later.
    Any,
    /// These interfaces, at least one, without duplicates.
    Named(Vec<InterfaceName>),
}

/// A rule: its trigger and its actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique; letters, digits, `_`, `.` and `-`, at most 64.
    pub name: RuleId,
    /// The sequence, or the file of one-time sequences. `None`: signed packets alone trigger the rule.
    pub trigger: Option<Trigger>,
    /// Whether signed packets may ask for the rule.
    pub spa: bool,
    /// The time for the whole sequence, from its first knock to its last; above zero.
    pub timeout: Duration,
    /// The time after a completion in which the rule does not complete again for the same source. Only together with
    /// [`Trigger::Sequence`].
    pub cooldown: Option<Duration>,
    /// The flags of the TCP segments that are knocks.
    pub tcp_flags: TcpFlags,
    /// The destination addresses of which each knock must have one, in ascending order; none: any address of this host.
    pub targets: Vec<IpAddr>,
    /// The command that runs at a completion.
    pub command: Option<Command>,
    /// The stop command. Only together with `command`.
    pub stop: Option<Stop>,
    /// The time limit of each command of the rule.
    pub command_timeout: Duration,
    /// The command that `/bin/sh -c` runs when the daemon starts.
    pub setup: Option<String>,
    /// The command that `/bin/sh -c` runs when the daemon stops.
    pub teardown: Option<String>,
    /// The guarded ports or user sets that a grant opens for the source.
    pub allow: Option<Allow>,
    /// The rule whose grant to the source is revoked. This rule exists, and it has an `allow`.
    pub revoke: Option<RuleId>,
}

/// How signed packets are received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spa {
    /// The UDP ports, one to [`crate::SPA_PORTS_MAX`], none of them 0, without duplicates.
    pub ports: Vec<u16>,
    /// The realm that packets are for.
    pub realm: Realm,
    /// The file of the ssh keys.
    pub authorized_keys: PathBuf,
    /// The files of the covers, the newest first, one to [`crate::COVER_FILES_MAX`].
    pub cover_files: Vec<PathBuf>,
    /// How far the time of a packet may be from the clock, either way: a second to ten minutes.
    pub window: Duration,
}

/// The nodes that share their grants, and the store that they share them through. It is the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// What the nodes have in common; records of other realms are refused.
    pub realm: Realm,
    /// The servers of the store, each a host and a port, as in `store.example.com:6379`; one to
    /// [`crate::FLEET_SERVERS_MAX`], without duplicates. The first that accepts records is used.
    pub servers: Vec<String>,
    /// The servers that records are read from, in the same form; empty: `servers`.
    pub read_from: Vec<String>,
    /// How connections to the store are encrypted; `None`: not at all.
    pub tls: Option<FleetTls>,
    /// The user of the store; `None`: its default user. Only together with `password_file`.
    pub user: Option<String>,
    /// The absolute path of the file of the password; `None`: the store asks for none.
    pub password_file: Option<PathBuf>,
    /// The absolute path of the file of this node's private key.
    pub node_key: PathBuf,
    /// The nodes, this one too; one to [`crate::FLEET_NODES_MAX`]. No two have the same name or key.
    pub nodes: Vec<FleetNode>,
    /// The rules whose grants the other nodes get. They exist, and each has an `allow`.
    pub publish: Vec<RuleId>,
    /// What becomes of a packet that another node may have accepted, while nobody can say.
    pub on_outage: OnOutage,
}

/// How connections to the store are encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetTls {
    /// The absolute path of the file of the authority whose certificates are accepted; `None`: those of the system.
    pub ca: Option<PathBuf>,
}

/// A node of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetNode {
    /// Unique; letters, digits, `_`, `.` and `-`, at most 64.
    pub name: Arc<str>,
    /// The key that it signs its records with.
    pub key: NodePublicKey,
    /// The rules for which its word is enough. They exist, and each has an `allow`.
    pub vouch: BTreeSet<RuleName>,
}

/// What becomes of a signed packet that names no address while the store is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "\"grant\" or \"refuse\"")]
#[schemars(rename = "on_outage")]
pub enum OnOutage {
    /// It is granted on this node, although another node may have accepted it too.
    #[default]
    Grant,
    /// It is refused.
    Refuse,
}

/// The knocks that trigger a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// One to [`knock_proto::SEQUENCE_MAX`] knocks.
    Sequence(Vec<Knock>),
    /// The next unused line of this file, each line usable once.
    OneTime(PathBuf),
}

/// A command and, if it differs, the command for IPv6 sources.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Command {
    /// For IPv4 sources, and without `v6` for IPv6 sources too.
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

/// A stop command: it runs some time after the rule's command.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Stop {
    /// The command.
    pub command: Command,
    /// The time from the completion to the stop command.
    pub after: Duration,
    /// The effect of a stop of the daemon on pending stop commands.
    pub on_shutdown: StopOnShutdown,
}

/// The effect of a stop of the daemon on a pending `stop_command`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "\"run\" or \"keep\"")]
#[schemars(rename = "stop_on_shutdown")]
pub enum StopOnShutdown {
    /// The command runs at once.
    #[default]
    Run,
    /// The command stays on disk. It runs when it is due, or at the next start if that is later.
    Keep,
}

/// The guarded ports or the user sets that a rule opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Guarded ports, in the managed table.
    Ports {
        /// The ports that the rule guards, without duplicates; at least one, or `any`.
        ports: Vec<PortRange>,
        /// Whether a grant opens every guarded port, those of other rules too. Otherwise it opens `ports`.
        any: bool,
        /// How many bits of an IPv4 source a grant is for: 8 to 32; 32 is the source alone.
        prefix4: u8,
        /// How many bits of an IPv6 source a grant is for: 16 to 128; 128 is the source alone.
        prefix6: u8,
        /// The duration of a grant.
        timeout: Duration,
    },
    /// An element in a user set; at least one of the two sets.
    Sets {
        /// For IPv4 sources.
        v4: Option<SetName>,
        /// For IPv6 sources.
        v6: Option<SetName>,
        /// The duration of a grant.
        timeout: Duration,
    },
}

impl Allow {
    /// The lengths of the prefixes, IPv4 and IPv6, of grants to single addresses.
    pub const WHOLE: (u8, u8) = (32, 128);

    /// The lengths of the prefixes, IPv4 and IPv6, that grants are for.
    pub fn prefixes(&self) -> (u8, u8) {
        match self {
            Allow::Ports { prefix4, prefix6, .. } => (*prefix4, *prefix6),
            Allow::Sets { .. } => Allow::WHOLE,
        }
    }

    /// The duration of a grant.
    pub fn timeout(&self) -> Duration {
        match self {
            Allow::Ports { timeout, .. } | Allow::Sets { timeout, .. } => *timeout,
        }
    }
}

/// The managed table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nftables {
    /// The name of the table, in family inet.
    pub table: TableName,
    /// The effect of a stop of the daemon on the table.
    pub on_stop: OnStop,
    /// The exempt interfaces: packets from them pass the gate without a grant.
    pub exempt_interfaces: Vec<InterfaceName>,
    /// Whether the daemon owns the table, if the kernel supports that.
    pub owner: bool,
    /// What opens guarded ports at the last knock.
    pub last_knock: LastKnock,
}

/// What opens guarded ports at the last knock of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "\"daemon\" or \"kernel\"")]
#[schemars(rename = "last_knock")]
pub enum LastKnock {
    /// The daemon, as soon as it has read the packet.
    #[default]
    Daemon,
    /// The kernel, in the path of the packet, where the daemon has followed all knocks before it.
    Kernel,
}

/// The effect of a stop of the daemon on the managed table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "\"remove\" or \"keep\"")]
#[schemars(rename = "on_stop")]
pub enum OnStop {
    /// The daemon removes the table: only other nftables rules decide about the guarded ports.
    #[default]
    Remove,
    /// The table stays: live grants expire at their time, and no new grant begins.
    Keep,
}

/// Limits for memory and work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most sources whose progress the daemon remembers.
    pub sources: usize,
    /// The most elements of all grants for each IP version, in the managed table and in user sets.
    pub grants: u32,
    /// The most commands that run at the same time.
    pub commands: usize,
    /// The most commands that wait for a worker.
    pub command_queue: usize,
}

/// The target and the level of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// `None`: the journal if standard error is connected to it, else standard error.
    pub target: Option<LogTarget>,
    /// The lowest level that is logged.
    pub level: log::LevelFilter,
}

/// The target of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
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
