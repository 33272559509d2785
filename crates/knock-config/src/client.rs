//! The part of a configuration that the client needs: the rules with their sequences, and how to use them.
//!
//! A client's file has these fields only, the keys of [`CLIENT_KEYS`], which a server's file does not have, and `spa`,
//! which is another one there. A server's file works too.

mod spa;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::checker::Checker;
use crate::duration::{MILLISECOND, duration};
use crate::file::{open, read, with_raw};
use crate::model::Trigger;
use crate::path::FieldPath;
use crate::port::knock;
use crate::problem::{Cause, ConfigError};
use crate::raw::{RawConfig, RawKnock};
use crate::rules;
use crate::schema::Shape;
use crate::value::shown;
use knock_proto::{Knock, Protocol};

pub use crate::raw::CLIENT_KEYS;
pub use crate::spa_cause::SpaCause;
pub use spa::ClientSpa;

/// The key of a rule that is `true` in a server's file, and an object in a client's.
const SPA: &str = "spa";
/// The most hosts of a rule.
pub const HOSTS_MAX: usize = 256;
/// The longest gap between two knocks.
pub const DELAY_MAX: Duration = Duration::from_secs(60);

/// The IP versions over which the client knocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// All that the host has addresses of.
    #[default]
    Both,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// How a client asks for a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientTrigger {
    /// With one to [`knock_proto::SEQUENCE_MAX`] knocks.
    Sequence(Vec<Knock>),
    /// With the next unused line of this file.
    OneTime(PathBuf),
    /// With a signed packet.
    Packet(Box<ClientSpa>),
    /// With a signed packet too, but the file is a server's: realm and cover are not there.
    PacketOfServer,
}

/// A rule as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRule {
    /// Unique in its file.
    pub name: String,
    /// How to ask for it.
    pub trigger: ClientTrigger,
    /// The hosts that have this rule: names or addresses. Empty where the file does not say.
    pub hosts: Vec<String>,
    /// The TCP port that the rule opens.
    pub wait: Option<u16>,
    /// The gap between two knocks, at most [`DELAY_MAX`].
    pub delay: Option<Duration>,
    /// The IP versions.
    pub family: Family,
    /// The address of this machine that knocks.
    pub source: Option<IpAddr>,
    /// The file of the key that signs packets, as it is written: it can begin with `~/`.
    pub identity: Option<PathBuf>,
}

/// The rules of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFile {
    /// In their order.
    pub rules: Vec<ClientRule>,
    /// The permission bits of the file, where other users can read it although it contains a sequence or a cover.
    pub readable: Option<u32>,
}

/// Reads the rules in the file at `path`.
///
/// # Errors
///
/// Where the file cannot be read, is bigger than [`crate::FILE_MAX`], or its rules have no valid names, sequences and
/// keys of the client. Other fields are checked for their JSON types only.
pub fn load(path: &Path) -> Result<ClientFile, ConfigError> {
    let name = path.display().to_string();
    let (text, access) = read(path, open(path)?)?;
    let rules = parse(&name, &text)?;
    let is_secret = |rule: &ClientRule| matches!(rule.trigger, ClientTrigger::Sequence(_) | ClientTrigger::Packet(_));
    let secret = rules.iter().any(is_secret);
    // A server's file is root's, and its group is that of the daemon.
    let others = if access.owner_is_root { 0o004 } else { 0o044 };
    Ok(ClientFile { rules, readable: Some(access.mode).filter(|mode| secret && mode & others != 0) })
}

/// Reads the rules in `text`; each message begins with `file_name`.
///
/// # Errors
///
/// Where its rules have no valid names, sequences and keys of the client.
pub fn parse(file_name: &str, text: &str) -> Result<Vec<ClientRule>, ConfigError> {
    with_raw(file_name, text, &Shape::of_client(), take_keys, |raw, keys, checker| {
        let rules = client_rules(raw, &keys, checker);
        checker.finish()?;
        Ok(rules)
    })
}

/// The keys of the client in one rule.
type Keys = serde_json::Map<String, Value>;

/// Takes the keys of the client out of each rule; what is left has the form of a server's file.
fn take_keys(file: &mut Value) -> Vec<Keys> {
    let rules = file.get_mut("rules").and_then(Value::as_array_mut);
    let take = |rule: &mut Value| match rule.as_object_mut() {
        Some(rule) => CLIENT_KEYS.iter().chain([&SPA]).filter_map(|key| rule.remove_entry(*key)).collect(),
        None => Keys::new(),
    };
    rules.into_iter().flatten().map(take).collect()
}

fn client_rules(raw: RawConfig, keys: &[Keys], checker: &mut Checker<'_>) -> Vec<ClientRule> {
    let Some(raw) = rules::check_list(raw.rules, checker) else { return Vec::new() };
    rules::names(&raw, checker);
    let all = FieldPath::default().key("rules");
    let none = Keys::new();
    raw.into_iter()
        .enumerate()
        .map(|(index, raw)| {
            let path = all.index(index);
            let mut checked = Checked { keys: keys.get(index).unwrap_or(&none), path: &path, checker };
            let hosts = checked.hosts();
            let wait = checked.get("wait", wait);
            let delay = checked.get("delay", delay);
            let family = checked.get("family", family).unwrap_or_default();
            let source = checked.get("source", source);
            let identity = checked.get("identity", spa::identity);
            let trigger = checked.trigger(raw.sequence.as_deref(), raw.one_time_sequences);
            if identity.is_some() && !matches!(trigger, ClientTrigger::Packet(_) | ClientTrigger::PacketOfServer) {
                checker.report(&path.key("identity"), SpaCause::IdentityAlone.into());
            }
            ClientRule { name: raw.name.unwrap_or_default(), trigger, hosts, wait, delay, family, source, identity }
        })
        .collect()
}

/// The keys of one rule, and where problems with them go.
struct Checked<'a, 'd> {
    keys: &'a Keys,
    path: &'a FieldPath,
    checker: &'a mut Checker<'d>,
}

impl Checked<'_, '_> {
    fn get<T>(&mut self, key: &str, check: fn(&Value) -> Result<T, Cause>) -> Option<T> {
        let value = self.keys.get(key)?;
        check(value).map_err(|cause| self.checker.report(&self.path.key(key), cause)).ok()
    }

    fn trigger(&mut self, sequence: Option<&[RawKnock]>, one_time: Option<String>) -> ClientTrigger {
        let knocks = sequence.is_some() || one_time.is_some();
        let path = self.path.key(SPA);
        match self.keys.get(SPA) {
            Some(Value::Object(object)) => {
                if knocks {
                    self.checker.report(&path, SpaCause::BesideSequence.into());
                }
                let spa = spa::spa(object, &path, self.checker).map(Box::new);
                // Without it there is an error, and nobody sees the rule.
                return spa.map_or(ClientTrigger::PacketOfServer, ClientTrigger::Packet);
            }
            Some(Value::Bool(true)) if !knocks => return ClientTrigger::PacketOfServer,
            None | Some(Value::Bool(_)) => {}
            Some(_) => {
                self.checker.report(&path, SpaCause::Form.into());
                return ClientTrigger::PacketOfServer;
            }
        }
        match rules::trigger(sequence, one_time, false, self.path, self.checker) {
            Some(Trigger::OneTime(path)) => ClientTrigger::OneTime(path),
            Some(Trigger::Sequence(knocks)) => ClientTrigger::Sequence(knocks),
            None => ClientTrigger::Sequence(Vec::new()),
        }
    }

    fn hosts(&mut self) -> Vec<String> {
        let path = self.path.key("host");
        let one = |value: &Value, path: &FieldPath, checker: &mut Checker<'_>| {
            host(value).map_err(|cause| checker.report(path, cause)).ok()
        };
        match self.keys.get("host") {
            None => Vec::new(),
            Some(Value::Array(list)) if list.is_empty() || list.len() > HOSTS_MAX => {
                self.checker.report(&path, Cause::Hosts { count: list.len() });
                Vec::new()
            }
            Some(Value::Array(list)) => {
                let each = list.iter().enumerate();
                each.filter_map(|(index, value)| one(value, &path.index(index), self.checker)).collect()
            }
            Some(value) => one(value, &path, self.checker).into_iter().collect(),
        }
    }
}

/// A name or an address, without a user, a port or brackets.
fn host(value: &Value) -> Result<String, Cause> {
    let invalid = || Cause::Host { value: shown(value) };
    let text = value.as_str().ok_or_else(invalid)?;
    let plain = !text.is_empty() && text.len() <= 255 && !text.starts_with('-');
    let odd = |c: char| c.is_whitespace() || c.is_control() || "@[]/,".contains(c);
    // A colon is part of an IPv6 address, which can have a zone: fe80::1%eth0.
    let address = text.split('%').next().unwrap_or_default();
    let colon = address.contains(':') && address.parse::<IpAddr>().is_err();
    if plain && !text.contains(odd) && !colon { Ok(text.to_owned()) } else { Err(invalid()) }
}

fn wait(value: &Value) -> Result<u16, Cause> {
    // A port is written as a knock is.
    let Knock { protocol, port } = knock(value)?;
    match protocol {
        Protocol::Tcp => Ok(port),
        Protocol::Udp => Err(Cause::WaitUdp { value: shown(value) }),
    }
}

fn delay(value: &Value) -> Result<Duration, Cause> {
    let delay = duration(value, MILLISECOND)?;
    if delay > DELAY_MAX { Err(Cause::DelayLong { value: shown(value) }) } else { Ok(delay) }
}

fn family(value: &Value) -> Result<Family, Cause> {
    match value.as_str() {
        Some("both") => Ok(Family::Both),
        Some("ipv4") => Ok(Family::V4),
        Some("ipv6") => Ok(Family::V6),
        _ => Err(Cause::Family { value: shown(value) }),
    }
}

fn source(value: &Value) -> Result<IpAddr, Cause> {
    let address = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    address.filter(|address| !address.is_unspecified()).ok_or_else(|| Cause::Source { value: shown(value) })
}
