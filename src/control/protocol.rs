//! The messages of the control protocol: a request is one line of JSON, and so is a response.

use std::net::IpAddr;
use std::path::PathBuf;

use knock_proto::{Port, PortRange};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::counters::Counters;
use crate::os::privileges::Protections;

mod fleet;

pub(crate) use fleet::{FleetGrant, FleetGrants, FleetNode, FleetNodes, FleetRevoked, FleetStatus};

/// The version of the protocol. A daemon of another version refuses the request.
pub(crate) const VERSION: u64 = 1;
/// Bytes of a request, its final newline not among them.
pub(crate) const REQUEST_MAX: usize = 4096;

/// A request to the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Command {
    /// The state of the daemon. Answered by [`Status`].
    Status {},
    /// The live grants, those of a rule or of an address only. Answered by [`Grants`].
    Grants {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
    },
    /// Grants a rule to an address. Answered by [`Granted`].
    Grant {
        rule: String,
        address: IpAddr,
        /// A number of seconds or a text such as `"10m"`; the rule's own by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<Value>,
    },
    /// Ends the grants to an address, that of a rule only. Answered by [`Revoked`].
    Revoke {
        address: IpAddr,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
    },
    /// Ends all grants. Answered by [`Revoked`].
    RevokeAll {},
    /// Reads the configuration again. Answered by [`Reloaded`].
    Reload {},
    /// Puts the configuration in another file in force for some time. Answered by [`Tried`].
    Try {
        /// Its absolute path.
        file: PathBuf,
        /// A number of seconds or a text such as `"10m"`.
        time: Value,
    },
    /// Makes the tried configuration the one that stays. Answered by [`Confirmed`].
    Confirm {},
    /// What the packets of sources mean, from now on, those of an address or for a rule only. Answered by [`Following`], then
    /// by a line for each [`Followed`], until the client closes the connection.
    Watch {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
    },
    /// What the packets of a source meant in the last minutes. Answered by [`Explained`].
    Explain { address: IpAddr },
    /// The ssh keys that may sign packets, and what their users have done. Answered by [`Keys`].
    Keys {},
    /// A signed packet that came another way than by UDP. Answered by [`Submitted`].
    Submit {
        /// The address that it came from.
        address: IpAddr,
        /// The packet in base64.
        packet: String,
    },
    /// How grants are shared with the other nodes. Answered by [`FleetStatus`].
    FleetStatus {},
    /// The nodes. Answered by [`FleetNodes`].
    FleetNodes {},
    /// The live grants that other nodes have made, those of a rule or for an address only. Answered by [`FleetGrants`].
    FleetGrants {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
    },
    /// Ends the grants to an address on all nodes, that of a rule only. Answered by [`FleetRevoked`].
    FleetRevoke {
        address: IpAddr,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
    },
    /// What knockd-fleet is told: how the store is reached. Answered by [`knock_fleet::link::Settings`].
    FleetSettings {},
}

impl Command {
    /// The line to send, with its newline.
    pub(crate) fn to_line(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("version".to_owned(), VERSION.into());
        }
        format!("{value}\n")
    }

    /// The command in a line from a client.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for the client.
    pub(crate) fn parse(line: &[u8]) -> Result<Command, Refusal> {
        let bad = |message: String| Refusal::new(Code::BadRequest, message);
        let mut value: Value =
            serde_json::from_slice(line).map_err(|error| bad(format!("the request is not JSON: {error}")))?;
        let object = value.as_object_mut().ok_or_else(|| bad("the request is not a JSON object".to_owned()))?;
        match object.remove("version") {
            Some(version) if version.as_u64() == Some(VERSION) => {}
            Some(version) => {
                let message =
                    format!("this daemon speaks version {VERSION} of the control protocol, not {version:.20}");
                return Err(Refusal::new(Code::Version, message));
            }
            None => return Err(bad(format!("the request has no version; add \"version\": {VERSION}"))),
        }
        serde_json::from_value(value).map_err(|error| bad(format!("the request is not understood: {error}")))
    }
}

/// A response: either a result or an error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer<T> {
    pub(crate) version: u64,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Refusal>,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    /// For the user: what was refused, why, and what to do.
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }
}

/// The reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Code {
    /// Not a request of this protocol.
    BadRequest,
    /// A request of another version.
    Version,
    /// A request that is longer than [`REQUEST_MAX`].
    TooLarge,
    /// No request arrived in time.
    Timeout,
    /// Too many connections.
    Busy,
    /// The client is not permitted to send requests.
    NotPermitted,
    /// No rule of that name.
    NoSuchRule,
    /// A rule that allows nothing, or nothing to such an address.
    NothingToGrant,
    /// A value that is out of its range.
    BadValue,
    /// The new configuration is not valid.
    InvalidConfiguration,
    /// No configuration is tried.
    NothingToConfirm,
    /// The configuration has no `spa`.
    NoSignedPackets,
    /// The configuration has no `fleet`.
    NoFleet,
    /// The request was carried out and failed.
    Failed,
}

/// The state of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The daemon's version.
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uptime_seconds: f64,
    /// The configuration file, as an absolute path.
    pub(crate) configuration: String,
    /// Why the configuration in force is not that of its file; `null` where it is, or is tried.
    pub(crate) configuration_problem: Option<String>,
    /// The trial of another configuration, which is in force; `null` where there is none.
    pub(crate) trial: Option<Trial>,
    /// The number of rules.
    pub(crate) rules: usize,
    pub(crate) interfaces: Vec<Interface>,
    /// The protections of the keeper that are in force; `null` where the kernel does not report them.
    pub(crate) protections: Option<Protections>,
    /// The processes of the daemon, with the protections of each.
    #[serde(default)]
    pub(crate) processes: Vec<Process>,
    /// The managed table; `null` where no rule guards a port.
    pub(crate) table: Option<Table>,
    /// Where the kernel opens at the last knock; `null` where the configuration does not ask for it.
    #[serde(default)]
    pub(crate) doors: Option<Doors>,
    /// The administrator's sets that rules add to.
    pub(crate) sets: Vec<Set>,
    /// The number of live grants.
    pub(crate) grants: usize,
    /// Sources whose knocks are remembered.
    pub(crate) sources: usize,
    /// Commands that run.
    pub(crate) commands_running: usize,
    /// Commands that wait for their turn.
    pub(crate) commands_queued: usize,
    /// The rules, in the order of the configuration.
    #[serde(default)]
    pub(crate) by_rule: Vec<RuleState>,
    /// How signed packets are received; `null` where the configuration has no `spa`.
    #[serde(default)]
    pub(crate) signed_packets: Option<SignedPackets>,
    /// How grants are shared with other nodes; `null` where the configuration has no `fleet`.
    #[serde(default)]
    pub(crate) fleet: Option<FleetStatus>,
    /// The counters since the start; docs/control-protocol.md explains each.
    pub(crate) counters: Counters,
}

/// A process of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// `keeper`, `ear` or `runner`.
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// Its protections; `null` where the kernel does not report them.
    pub(crate) protections: Option<Protections>,
}

/// How signed packets are received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignedPackets {
    /// The UDP ports.
    pub(crate) ports: Vec<u16>,
    /// The number of ssh keys.
    pub(crate) keys: usize,
    /// The accepted packets that are remembered.
    pub(crate) remembered: usize,
    /// Why no packet can be accepted now.
    pub(crate) problem: Option<String>,
}

/// A configuration that is tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// Its file.
    pub(crate) file: String,
    /// The time until the configuration before it is in force again.
    pub(crate) remaining_seconds: f64,
}

/// An interface that is listened on, or exempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interface {
    /// Its name, or `any`.
    pub(crate) name: String,
    /// `up`, `down` or `absent`.
    pub(crate) state: String,
    /// Where it is absent: the name of an interface that is most like it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nearest: Option<String>,
}

/// The managed table, in family inet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// Whether the kernel keeps others from changing it.
    pub(crate) owned: bool,
    /// What happens to it when the daemon stops: `remove` or `keep`.
    pub(crate) on_stop: String,
    /// The guarded ports: `22/tcp`, `60000-61000/udp`.
    pub(crate) guarded: Vec<String>,
    /// The exempt interfaces, as the configuration names them.
    #[serde(default)]
    pub(crate) exempt_interfaces: Vec<Interface>,
}

impl Table {
    /// The guarded ports.
    pub(crate) fn guarded_ranges(&self) -> impl Iterator<Item = PortRange> {
        self.guarded.iter().filter_map(|text| text.parse().ok())
    }

    /// Whether that port is guarded: `22/tcp`.
    pub(crate) fn guards(&self, port: &str) -> bool {
        port.parse::<Port>().is_ok_and(|port| self.guarded_ranges().any(|range| range.contains(port)))
    }
}

/// Where the kernel opens at the last knock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doors {
    /// The rules that have a door.
    pub(crate) rules: Vec<String>,
    /// The sources that are armed now.
    pub(crate) armed: usize,
    /// Why there is no door, so that the daemon opens at every last knock.
    pub(crate) problem: Option<String>,
}

/// A set of the administrator's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Set {
    /// `FAMILY TABLE SET`.
    pub(crate) name: String,
    /// Why it can't be used.
    pub(crate) problem: Option<String>,
}

/// A rule of the configuration, and what it did since the start of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RuleState {
    pub(crate) name: String,
    /// What a grant opens, as in [`Grant::opens`], for both IP versions. Empty where the rule makes no grants.
    pub(crate) opens: Vec<String>,
    /// How long a grant lasts; `null` where the rule makes no grants.
    pub(crate) timeout_seconds: Option<f64>,
    /// Whether it runs a command.
    pub(crate) command: bool,
    /// The rule whose grant it revokes.
    pub(crate) revoke: Option<String>,
    /// Whether it has one-time sequences.
    #[serde(default)]
    pub(crate) one_time: bool,
    /// Whether signed packets may ask for it.
    #[serde(default)]
    pub(crate) signed_packets: bool,
    /// Knocks of its sequence, by TCP and by UDP; both are 0 where it has none, or one-time sequences.
    pub(crate) tcp_knocks: usize,
    pub(crate) udp_knocks: usize,
    /// The time for the whole sequence.
    pub(crate) sequence_seconds: f64,
    /// Its live grants.
    pub(crate) grants: usize,
    /// The time until the first of them expires; `null` where there is none.
    pub(crate) next_expiry_seconds: Option<f64>,
    /// Grants that began or were extended.
    pub(crate) granted: u64,
    /// Grants that could not be made.
    pub(crate) grants_failed: u64,
    /// Commands that failed, or were ended at their time limit.
    pub(crate) commands_failed: u64,
}

/// The live grants, in the order in which they end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Grants {
    pub(crate) grants: Vec<Grant>,
}

/// A live grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) rule: String,
    /// The address, or the prefix: `2001:db8::/64`.
    pub(crate) address: String,
    /// What is open to the address: guarded ports (`22/tcp`, `60000-61000/udp`, `any`), or a set (`inet filter knock_ssh4`).
    pub(crate) opens: Vec<String>,
    /// How long ago it was granted, extensions apart.
    pub(crate) age_seconds: f64,
    pub(crate) remaining_seconds: f64,
    /// The user whose signed packet asked for it last; nothing where it was something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// The fingerprint of the key of that user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

/// The ssh keys that may sign packets, in the order of their file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Keys {
    pub(crate) keys: Vec<Key>,
}

/// An ssh key that may sign packets, and what its user has done since the start of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Key {
    /// The comment of its line; the fingerprint, where it has none.
    pub(crate) user: String,
    /// The fingerprint.
    pub(crate) key: String,
    /// The type, as ssh names it.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The line of the file.
    pub(crate) line: usize,
    /// The rules that its option names; `null`: all that accept signed packets.
    pub(crate) rules: Option<Vec<String>>,
    /// When it expires, in seconds since 1970, UTC.
    pub(crate) expires: Option<f64>,
    /// Whether it has expired.
    pub(crate) expired: bool,
    /// The option `from`.
    pub(crate) from: Option<String>,
    /// The option `address`: `source`, `strict` or `any`.
    pub(crate) address: String,
    /// Whether it may ask for the prefix of an address.
    pub(crate) wide: bool,
    /// Packets that were accepted.
    pub(crate) accepted: u64,
    /// Packets that were refused.
    pub(crate) refused: u64,
    /// The packet that was accepted last.
    pub(crate) last: Option<LastUse>,
    /// Live grants that it asked for last.
    pub(crate) grants: usize,
}

/// When and from where a packet was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastUse {
    /// How long ago that was.
    pub(crate) age_seconds: f64,
    /// Where the packet came from.
    pub(crate) address: IpAddr,
}

/// What became of a packet that came another way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Submitted {
    /// Why not is in the log.
    pub(crate) accepted: bool,
}

/// A grant was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Granted {
    pub(crate) rule: String,
    pub(crate) address: IpAddr,
    pub(crate) timeout_seconds: f64,
}

/// Grants were ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revoked {
    /// How many.
    pub(crate) revoked: usize,
    /// The number of elements without a grant that were found in the kernel and deleted.
    #[serde(default)]
    pub(crate) strays: usize,
}

/// Lines of [`Followed`] follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Following {
    pub(crate) following: bool,
}

/// A line for a client that watches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Followed {
    Step(Step),
    /// Packets and steps that were too many to be shown, since the line of this kind before.
    LeftOut(u64),
}

/// What the packets of a source meant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explained {
    pub(crate) address: IpAddr,
    /// The oldest first.
    pub(crate) steps: Vec<Step>,
    /// How far back packets are remembered; `null` where there is none.
    pub(crate) since_seconds: Option<f64>,
    /// Packets of all sources that came too fast to be remembered, since the start.
    pub(crate) left_out: u64,
}

/// Something that a packet of a source meant, or that happened to its grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Seconds since 1970, UTC.
    pub(crate) time: f64,
    pub(crate) address: IpAddr,
    pub(crate) rule: Option<String>,
    pub(crate) what: What,
    /// Knocks of the rule's sequence that the source has.
    pub(crate) knocked: usize,
    /// Knocks that the sequence has.
    pub(crate) of: usize,
    /// More about it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
}

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// The next knock of the sequence.
    Knock,
    /// The last knock of the sequence.
    Completed,
    /// The progress was reset: the source touched a tripwire.
    Tripwire,
    /// The progress was reset: the port is not the next one of the sequence.
    WrongOrder,
    /// The progress was reset: the port is one of another rule.
    OtherRule,
    /// The progress was reset: the time for the sequence was over.
    TooSlow,
    /// Nothing changed: the packet came before.
    Retransmission,
    /// Nothing changed: the same knock once more.
    Repeated,
    /// Nothing changed: the right port by the other transport protocol.
    WrongProtocol,
    /// Nothing changed: the destination is no address of the rule.
    OtherDestination,
    /// The rule was completed and did nothing, in its cooldown.
    Cooldown,
    /// A signed packet of a user was refused.
    Refused,
    /// The gate dropped a packet of an address without a grant.
    TurnedAway,
    /// Something happened to a grant.
    Grant,
    /// The rule was completed, and its command is to run.
    Command,
    /// Something failed.
    Failed,
}

/// The configuration was reloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// The number of rules now.
    pub(crate) rules: usize,
    pub(crate) warnings: Vec<String>,
}

/// A configuration is in force for some time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tried {
    /// Its file.
    pub(crate) file: String,
    /// The number of rules now.
    pub(crate) rules: usize,
    pub(crate) timeout_seconds: f64,
    pub(crate) warnings: Vec<String>,
}

/// The tried configuration stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confirmed {
    /// The file that was tried.
    pub(crate) file: String,
    /// The configuration file of the daemon, as an absolute path. The next start reads it.
    pub(crate) configuration: String,
    /// The text that is in force.
    pub(crate) text: String,
    /// Whether the daemon has privileges that the configuration does not need, which a restart gives up.
    pub(crate) spare_privileges: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> Refusal {
        Command::parse(line.as_bytes()).expect_err(line)
    }

    #[test]
    fn a_request_comes_back_as_it_was_sent() {
        let address = IpAddr::from([192, 0, 2, 1]);
        for command in [
            Command::Status {},
            Command::Grants { rule: Some("ssh".to_owned()), address: None },
            Command::Grant { rule: "ssh".to_owned(), address, timeout: Some(serde_json::json!("10m")) },
            Command::Revoke { address, rule: None },
            Command::RevokeAll {},
            Command::Reload {},
            Command::Try { file: PathBuf::from("/etc/knockd/new.json"), time: serde_json::json!("10m") },
            Command::Confirm {},
            Command::Keys {},
            Command::Submit { address, packet: "AAAA".to_owned() },
            Command::FleetStatus {},
            Command::FleetNodes {},
            Command::FleetGrants { rule: None, address: Some(address) },
            Command::FleetRevoke { address, rule: Some("ssh".to_owned()) },
            Command::FleetSettings {},
        ] {
            let line = command.to_line();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(Command::parse(line.trim_end().as_bytes()), Ok(command));
        }
    }

    #[test]
    fn an_invalid_request_is_refused_with_the_reason() {
        assert!(refusal("\0\u{7f}garbage").message.contains("not JSON"));
        assert!(refusal("[1]").message.contains("not a JSON object"));
        assert!(refusal(r#"{"command":"status"}"#).message.contains("has no version"));
        assert!(refusal(r#"{"version":1,"command":"stauts"}"#).message.contains("stauts"));
        assert!(refusal(r#"{"version":1,"command":"status","x":1}"#).message.contains("unknown field"));
        assert!(refusal(r#"{"version":1,"command":"revoke","address":"10.0.0.0/8"}"#).message.contains("IP address"));
        assert_eq!(refusal(r#"{"version":2,"command":"status"}"#).code, Code::Version);
        // As deep as a request can be.
        assert_eq!(refusal(&"[".repeat(REQUEST_MAX)).code, Code::BadRequest);
    }
}
