//! The configuration as the file writes it: only its JSON types are checked.
//!
//! The doc comments here are the descriptions in `config.schema.json`. Values with a syntax of their own are kept
//! as JSON, so that one message can name the value and the rule that it breaks.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

use crate::model::{LastKnock, LogTarget, OnStop, StopOnShutdown};

mod fleet;

pub(crate) use fleet::{RawFleet, RawFleetNode};

/// The keys of a rule that only a client's file has.
pub const CLIENT_KEYS: [&str; 6] = ["delay", "family", "host", "identity", "source", "wait"];
/// The keys of `spa` in a client's file.
pub(crate) const SPA_KEYS: [&str; 4] = ["cover", "port", "realm", "rule"];

/// The configuration of knockd.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schemars(title = "knockd configuration")]
pub(crate) struct RawConfig {
    /// The schema that this file follows, for editors. knockd ignores it.
    #[serde(rename = "$schema")]
    #[schemars(rename = "$schema")]
    pub(crate) _schema: Option<String>,
    /// The interfaces on which the daemon receives knocks: a name, a list of names, or "any". A name may be an
    /// alternative name, or the beginning of names with `*` or `+` at the end: "br-*".
    #[schemars(extend("default" = "any"))]
    pub(crate) interface: Option<RawInterface>,
    /// The time for a whole sequence, from its first knock to its last.
    #[schemars(extend("default" = 5))]
    pub(crate) timeout: Option<RawDuration>,
    /// The rules, each with its sequence and its actions.
    #[schemars(required, length(max = 16384))]
    pub(crate) rules: Option<Vec<RawRule>>,
    /// The managed nftables table.
    pub(crate) nftables: Option<RawNftables>,
    /// How signed packets are received.
    pub(crate) spa: Option<RawSpa>,
    /// The nodes that share their grants. It is the same on every node.
    pub(crate) fleet: Option<RawFleet>,
    /// Whether the neighbours (port ± 1) of each knock port reset the progress of the source, so that a port scan
    /// opens nothing.
    #[schemars(extend("default" = true))]
    pub(crate) tripwires: Option<bool>,
    /// Limits for memory and work.
    pub(crate) limits: Option<RawLimits>,
    /// The absolute path of the control socket. Default: in $RUNTIME_DIRECTORY, else in /run/knockd.
    pub(crate) control_socket: Option<String>,
    /// The absolute path of the directory for data that must survive a restart of the daemon. Default:
    /// $STATE_DIRECTORY, else /var/lib/knockd.
    pub(crate) state_dir: Option<String>,
    /// The target and the level of the log.
    pub(crate) log: Option<RawLog>,
}

/// A rule: its triggers and its actions. It has `sequence` or `one_time_sequences`, or `"spa": true`, also beside one of
/// the two, and at least one of the actions `command`, `allow` and `revoke`. A completion causes all actions of the rule.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schemars(rename = "rule")]
pub(crate) struct RawRule {
    /// The name, unique among the rules: letters, digits, `_`, `.` and `-`.
    #[schemars(required, regex(pattern = r"^[A-Za-z0-9_.-]{1,64}$"))]
    pub(crate) name: Option<String>,
    /// The knocks, in their order: 7000 (TCP), "7000/udp" or "7000:udp".
    #[schemars(length(min = 1, max = 32))]
    pub(crate) sequence: Option<Vec<RawKnock>>,
    /// Instead of `sequence`: the absolute path of a file of one-time sequences, one on each line.
    pub(crate) one_time_sequences: Option<String>,
    /// Whether signed packets may ask for the rule.
    #[schemars(extend("default" = false))]
    pub(crate) spa: Option<bool>,
    /// The time for the whole sequence. Default: the global `timeout`.
    pub(crate) timeout: Option<RawDuration>,
    /// The time after a completion in which the rule does not complete again for the same source. Default: none.
    pub(crate) cooldown: Option<RawDuration>,
    /// The flags that are set in a TCP knock and, with `!`, those that are clear: a list, or a text with commas.
    #[schemars(extend("default" = "syn,!ack,!rst,!fin"))]
    pub(crate) tcp_flags: Option<RawFlags>,
    /// The destination address that each knock must have, or a list of addresses of which it must have one. Default:
    /// any address of this host.
    pub(crate) target: Option<RawTarget>,
    /// The command that `/bin/sh -c` runs at a completion. %IP% in it is replaced by the source address.
    #[schemars(length(min = 1))]
    pub(crate) command: Option<String>,
    /// The command for IPv6 sources. Default: `command`.
    #[schemars(length(min = 1))]
    pub(crate) command6: Option<String>,
    /// The stop command: it runs `stop_after` after the completion, also after a restart or a crash of the daemon.
    #[schemars(length(min = 1))]
    pub(crate) stop_command: Option<String>,
    /// The stop command for IPv6 sources. Default: `stop_command`.
    #[schemars(length(min = 1))]
    pub(crate) stop_command6: Option<String>,
    /// The time from the completion to `stop_command`.
    pub(crate) stop_after: Option<RawDuration>,
    /// The effect of a stop of the daemon on a pending `stop_command`: "run" runs it at once, "keep" keeps it on disk
    /// until it is due.
    #[schemars(extend("default" = "run"))]
    pub(crate) stop_on_shutdown: Option<StopOnShutdown>,
    /// The time limit of each command of the rule. At its end the daemon ends the process group of the command.
    #[schemars(extend("default" = 30))]
    pub(crate) command_timeout: Option<RawDuration>,
    /// The command that `/bin/sh -c` runs when the daemon starts.
    #[schemars(length(min = 1))]
    pub(crate) setup: Option<String>,
    /// The command that `/bin/sh -c` runs when the daemon stops.
    #[schemars(length(min = 1))]
    pub(crate) teardown: Option<String>,
    /// The guarded ports or the user sets that a grant opens for the source address.
    pub(crate) allow: Option<RawAllow>,
    /// The name of another rule. A completion revokes the grant of that rule to the source address.
    pub(crate) revoke: Option<String>,
}

/// A grant: `ports` in the managed table, or an element in a user set, `set` or `set6`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schemars(rename = "allow")]
pub(crate) struct RawAllow {
    /// The guarded ports, a list: 22 (TCP), "51820/udp", "60000-61000/udp". With "any", alone or in the list, a grant opens
    /// every guarded port, those of other rules too.
    pub(crate) ports: Option<RawPorts>,
    /// A user set with keys of type ipv4_addr and the timeout flag: "FAMILY TABLE SET", as in "inet filter knock_ssh4".
    #[schemars(regex(pattern = r"^\s*(ip|inet|bridge|netdev)\s+\S+\s+\S+\s*$"))]
    pub(crate) set: Option<String>,
    /// A user set with keys of type ipv6_addr and the timeout flag.
    #[schemars(regex(pattern = r"^\s*(ip6|inet|bridge|netdev)\s+\S+\s+\S+\s*$"))]
    pub(crate) set6: Option<String>,
    /// With `ports`: a grant is for all IPv4 addresses whose first bits, so many, are those of the source. Default: the
    /// source alone.
    #[schemars(extend("default" = 32, "minimum" = 8, "maximum" = 32))]
    pub(crate) prefix4: Option<RawCount>,
    /// With `ports`: the same for IPv6 addresses; 64 for a network whose hosts change their addresses.
    #[schemars(extend("default" = 128, "minimum" = 16, "maximum" = 128))]
    pub(crate) prefix6: Option<RawCount>,
    /// The duration of a grant; at least a second.
    #[schemars(required)]
    pub(crate) timeout: Option<RawDuration>,
}

/// How signed packets are received: datagrams that ask for a rule, each signed with an ssh key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schemars(rename = "spa")]
pub(crate) struct RawSpa {
    /// The UDP ports that packets are sent to. A service may listen on them too.
    #[schemars(length(min = 1, max = 8), extend("default" = [62201]))]
    pub(crate) ports: Option<Vec<RawCount>>,
    /// The name that the server and its clients have in common, as in "example.com".
    #[schemars(required, regex(pattern = r"^[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?$"))]
    pub(crate) realm: Option<String>,
    /// The absolute path of the file of the ssh keys that may ask, in the format of sshd's authorized_keys.
    #[schemars(required)]
    pub(crate) authorized_keys: Option<String>,
    /// The absolute paths of the files of the covers, the newest first. `knockctl spa init` makes one.
    #[schemars(required, length(min = 1, max = 8))]
    pub(crate) cover_files: Option<Vec<String>>,
    /// How far the time of a packet may be from the clock of this host, either way; from a second to ten minutes.
    #[schemars(extend("default" = 60))]
    pub(crate) window: Option<RawDuration>,
}

/// The managed nftables table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schemars(rename = "nftables")]
pub(crate) struct RawNftables {
    /// The name of the table, in family inet.
    #[schemars(extend("default" = "knockd"))]
    pub(crate) table: Option<String>,
    /// The effect of a stop of the daemon on the table: "remove" removes it, "keep" keeps it.
    #[schemars(extend("default" = "remove"))]
    pub(crate) on_stop: Option<OnStop>,
    /// The exempt interfaces: packets from them pass the gate without a grant. Names as in `interface`.
    #[schemars(extend("default" = ["lo"]))]
    pub(crate) exempt_interfaces: Option<Vec<String>>,
    /// Whether the daemon owns the table, if the kernel supports that (6.9). Then a `flush ruleset` by another program
    /// does not open the gate.
    #[schemars(extend("default" = true))]
    pub(crate) owner: Option<bool>,
    /// What opens guarded ports at the last knock: "daemon", or "kernel", which is faster on a busy machine. The kernel does it
    /// in an owned table only; for other sequences and sources the daemon does.
    #[schemars(extend("default" = "daemon"))]
    pub(crate) last_knock: Option<LastKnock>,
}

/// Limits for memory and work.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schemars(rename = "limits")]
pub(crate) struct RawLimits {
    /// The most sources whose progress the daemon remembers.
    #[schemars(extend("default" = 65536, "minimum" = 1, "maximum" = 1_048_576))]
    pub(crate) sources: Option<RawCount>,
    /// The most elements of all grants for each IP version, in the managed table and in user sets.
    #[schemars(extend("default" = 65536, "minimum" = 1, "maximum" = 1_048_576))]
    pub(crate) grants: Option<RawCount>,
    /// The most commands that run at the same time.
    #[schemars(extend("default" = 16, "minimum" = 1, "maximum" = 1024))]
    pub(crate) commands: Option<RawCount>,
    /// The most commands that wait for a worker.
    #[schemars(extend("default" = 256, "minimum" = 1, "maximum" = 65536))]
    pub(crate) command_queue: Option<RawCount>,
}

/// The target and the level of the log.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schemars(rename = "log")]
pub(crate) struct RawLog {
    /// The target of the log. Default: the journal if standard error is connected to it, else standard error.
    pub(crate) target: Option<LogTarget>,
    /// The lowest level that is logged.
    #[schemars(extend("default" = "info"))]
    pub(crate) level: Option<RawLogLevel>,
}

/// A level of the log.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"")]
#[schemars(rename = "log_level")]
pub(crate) enum RawLogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Declares a value that is checked later, with the schema that describes it.
macro_rules! checked_later {
    ($(#[doc = $doc:literal])* $name:ident, $id:literal, $schema:tt) => {
        $(#[doc = $doc])*
        #[derive(Debug, Deserialize)]
        #[serde(transparent)]
        pub(crate) struct $name(pub(crate) Value);

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                $id.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

checked_later!(
    /// A duration: seconds, or a text with its unit.
    RawDuration, "duration", {
        "description": "A number of seconds, or a text with the unit: \"500ms\", \"5s\", \"10m\", \"1h\" or \"1d\"; \
                        between a millisecond and 365 days.",
        "oneOf": [
            { "type": "number", "minimum": 0.001, "maximum": 31_536_000 },
            { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }
        ]
    }
);

checked_later!(
    /// Guarded ports.
    RawPorts, "ports", {
        "description": "Guarded ports: a list of ports and ranges of ports, or \"any\".",
        "oneOf": [
            { "const": "any" },
            {
                "type": "array", "minItems": 1,
                "items": {
                    "oneOf": [
                        { "type": "integer", "minimum": 1, "maximum": 65535 },
                        { "type": "string", "pattern": "^([0-9]{1,5}(-[0-9]{1,5})?([/:](tcp|udp))?|any)$" }
                    ]
                }
            }
        ]
    }
);

checked_later!(
    /// A knock.
    RawKnock, "port", {
        "description": "A port: a number (TCP), or a text with the protocol, \"7000/udp\" or \"7000:udp\".",
        "oneOf": [
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            { "type": "string", "pattern": "^[0-9]{1,5}([/:](tcp|udp))?$" }
        ]
    }
);

checked_later!(
    /// One interface, several, or `any`.
    RawInterface, "interface", {
        "oneOf": [
            { "type": "string", "pattern": "^[^/:\\s]{1,127}$" },
            {
                "type": "array", "minItems": 1, "uniqueItems": true,
                "items": { "type": "string", "pattern": "^[^/:\\s]{1,127}$" }
            }
        ]
    }
);

checked_later!(
    /// One destination address, or several.
    RawTarget, "target", {
        "oneOf": [
            { "type": "string", "pattern": "^[0-9A-Fa-f.:]+$" },
            {
                "type": "array", "minItems": 1, "uniqueItems": true,
                "items": { "type": "string", "pattern": "^[0-9A-Fa-f.:]+$" }
            }
        ]
    }
);

checked_later!(
    /// TCP flags.
    RawFlags, "tcp_flags", {
        "oneOf": [
            { "type": "string", "pattern": "^\\s*!?(syn|ack|rst|fin|psh|urg)\\s*(,\\s*!?(syn|ack|rst|fin|psh|urg)\\s*)*$" },
            {
                "type": "array", "minItems": 1,
                "items": { "type": "string", "pattern": "^!?(syn|ack|rst|fin|psh|urg)$" }
            }
        ]
    }
);

checked_later!(
    /// A whole number in a range.
    RawCount, "count", { "type": "integer" }
);
