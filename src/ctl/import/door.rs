//! Converts a door of knock to a rule of knockd.

use std::collections::HashSet;

use knock_config::{excerpt, target_address, tcp_flags};
use knock_proto::{Knock, Protocol, SEQUENCE_MAX, TcpFlags};
use serde_json::Value;

use super::json::{Members, port};
use super::sections::{Entry, Section};
use super::{Findings, ImportCause};

/// knock's default time for a sequence, in seconds.
pub(super) const SEQ_TIMEOUT: u32 = 25;
/// knock's default time until the stop command, in seconds.
const CMD_TIMEOUT: u32 = 10;
/// A command without an effect, for a rule that needs a command.
const NOTHING: &str = ":";
/// A year, the longest duration of a configuration of knockd.
const SECONDS_MAX: u32 = 365 * 24 * 3600;

/// The commands for IPv4 and for IPv6 sources; `None`: no command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    pub(super) v4: Option<String>,
    pub(super) v6: Option<String>,
}

impl Commands {
    /// As knock does: without the key for IPv6 the key for IPv4 counts, and an empty value means no command.
    fn of(section: &Section, key: &str, key6: &str) -> Commands {
        let text = |entry: &Entry| Some(entry.value.clone()).filter(|value| !value.is_empty());
        let v4 = section.entry(key).and_then(text);
        let v6 = section.entry(key6).map_or_else(|| v4.clone(), text);
        Commands { v4, v6 }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    fn members(&self, key: &'static str, key6: &'static str, members: &mut Members) {
        let text = |command: &Option<String>| Value::from(command.as_deref().unwrap_or(NOTHING));
        members.push((key, text(&self.v4)));
        if self.v6 != self.v4 {
            members.push((key6, text(&self.v6)));
        }
    }
}

/// A door, checked.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) line: usize,
    pub(super) name: String,
    trigger: Option<(&'static str, Value)>,
    timeout: Option<u32>,
    flags: Option<String>,
    target: Option<String>,
    pub(super) start: Commands,
    pub(super) stop: Commands,
    /// Seconds between the two.
    pub(super) stop_after: u32,
    /// The grant that replaces the commands.
    pub(super) allow: Option<Value>,
    /// The rule that is revoked in place of the commands.
    pub(super) revoke: Option<String>,
}

impl Door {
    /// The members of the rule in the configuration.
    pub(super) fn members(&self) -> Members {
        let mut members: Members = vec![("name", Value::from(self.name.as_str()))];
        members.extend(self.trigger.clone());
        members.extend(self.timeout.map(|timeout| ("timeout", Value::from(timeout))));
        members.extend(self.flags.as_deref().map(|flags| ("tcp_flags", Value::from(flags))));
        members.extend(self.target.as_deref().map(|target| ("target", Value::from(target))));
        if self.allow.is_none() && self.revoke.is_none() {
            self.start.members("command", "command6", &mut members);
            if !self.stop.is_empty() {
                self.stop.members("stop_command", "stop_command6", &mut members);
                members.push(("stop_after", Value::from(self.stop_after)));
            }
        }
        members.extend(self.allow.clone().map(|allow| ("allow", allow)));
        members.extend(self.revoke.as_deref().map(|rule| ("revoke", Value::from(rule))));
        members
    }
}

/// Checks the door in `section`; `names` are the names that are in use.
pub(super) fn door(section: &Section, names: &mut HashSet<String>, findings: &mut Findings) -> Door {
    let start = Commands::of(section, "start_command", "start_command_6");
    let mut stop = Commands::of(section, "stop_command", "stop_command_6");
    for (start, stop, key) in [(&start.v4, &mut stop.v4, "stop_command"), (&start.v6, &mut stop.v6, "stop_command_6")] {
        // A stop command runs only after a start command for the same kind of address.
        if start.is_none() && stop.take().is_some() {
            let line = section.entry(key).map_or(section.line, |entry| entry.line);
            findings.note(line, "a stop command without a start command never ran in knock; it is omitted");
        }
    }
    if let Some(entry) = section.entry("cmd_timeout").filter(|_| stop.is_empty()) {
        findings.note(entry.line, "Cmd_Timeout without a stop command has no effect; it is omitted");
    }
    if start.is_empty() {
        let text = format!(
            "door `{}` runs no command; the rule runs `{NOTHING}`, which has no effect, and its completion is logged",
            excerpt(&section.name)
        );
        findings.note(section.line, text);
    }
    let mut seconds = |key, default| section.entry(key).map_or(Some(default), |entry| seconds(entry, findings));
    let timeout = seconds("seq_timeout", SEQ_TIMEOUT).filter(|timeout| *timeout != SEQ_TIMEOUT);
    let stop_after = seconds("cmd_timeout", CMD_TIMEOUT).unwrap_or(CMD_TIMEOUT);
    Door {
        line: section.line,
        name: name(section, names, findings),
        trigger: trigger(section, findings),
        timeout,
        flags: flags(section, findings),
        target: section.entry("target").and_then(|entry| target(entry, findings)),
        start,
        stop,
        stop_after,
        allow: None,
        revoke: None,
    }
}

/// Notes once each difference between commands of knock and of knockd.
pub(super) fn note_commands(doors: &[Door], findings: &mut Findings) {
    let mut kept = doors.iter().filter(|door| door.allow.is_none() && door.revoke.is_none());
    if let Some(door) = kept.clone().find(|door| !door.start.is_empty()) {
        findings.note(door.line, "knockd kills a command after 30 seconds; `command_timeout` sets another limit");
    }
    if let Some(door) = kept.find(|door| !door.stop.is_empty()) {
        let text = "knockd runs a stop command once, after the last completion, also when the daemon stops or is started \
                    again; knock ran one for each completion and lost pending ones when it stopped";
        findings.note(door.line, text);
    }
}

fn name(section: &Section, names: &mut HashSet<String>, findings: &mut Findings) -> String {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
    // Some characters fewer than 64, to leave space for the number after a duplicate name.
    let is_rule_name = section.name.len() <= 64 && section.name.chars().all(allowed);
    let length = if is_rule_name { 64 } else { 56 };
    let base: String =
        section.name.chars().map(|character| if allowed(character) { character } else { '_' }).take(length).collect();
    let base = if base.is_empty() { "door".to_owned() } else { base };
    let mut name = base.clone();
    let mut number = 1;
    while !names.insert(name.clone()) {
        number += 1;
        name = format!("{}-{number}", &base[..base.len().min(56)]);
    }
    if name != section.name {
        let old = excerpt(&section.name);
        let text = format!(
            "door `{old}` becomes rule `{name}`: names are unique and have at most 64 letters, digits, `_`, `.` or `-`"
        );
        findings.note(section.line, text);
    }
    name
}

fn trigger(section: &Section, findings: &mut Findings) -> Option<(&'static str, Value)> {
    match (section.entry("sequence"), section.entry("one_time_sequences")) {
        (Some(entry), None) => {
            let knocks = sequence(entry, findings);
            Some(("sequence", knocks.into_iter().map(|knock| port(knock.protocol, knock.port)).collect()))
        }
        (None, Some(entry)) => {
            if !entry.value.starts_with('/') {
                findings.error(entry.line, ImportCause::Path { text: excerpt(&entry.value) });
            }
            Some(("one_time_sequences", Value::from(entry.value.as_str())))
        }
        (Some(_), Some(entry)) => {
            findings.error(entry.line, ImportCause::TwoSequences);
            None
        }
        (None, None) => {
            findings.error(section.line, ImportCause::NoSequence);
            None
        }
    }
}

fn sequence(entry: &Entry, findings: &mut Findings) -> Vec<Knock> {
    let items: Vec<&str> = entry.value.split(',').collect();
    if items.len() > SEQUENCE_MAX {
        findings.error(entry.line, ImportCause::TooManyKnocks { count: items.len() });
        return Vec::new();
    }
    let mut knocks = Vec::new();
    for item in items {
        match knock(item.trim()) {
            Ok(knock) => knocks.push(knock),
            Err(cause) => findings.error(entry.line, cause),
        }
    }
    knocks
}

fn knock(item: &str) -> Result<Knock, ImportCause> {
    let (number, protocol) = match item.split_once(':') {
        None => (item, Protocol::Tcp),
        Some((number, protocol)) => match protocol.trim() {
            protocol if protocol.eq_ignore_ascii_case("tcp") => (number.trim_end(), Protocol::Tcp),
            protocol if protocol.eq_ignore_ascii_case("udp") => (number.trim_end(), Protocol::Udp),
            other => return Err(ImportCause::Protocol { text: excerpt(other) }),
        },
    };
    let text = || excerpt(number);
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    if digits > 0 && digits == number.len() {
        return match number.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Knock { protocol, port }),
            _ => Err(ImportCause::PortRange { text: text(), reading: reading(number) }),
        };
    }
    let rest = number[digits..].trim_start();
    if digits > 0 && rest.strip_prefix('-').is_some_and(|end| end.trim().bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(ImportCause::Range { text: text() });
    }
    let negative = number.strip_prefix('-').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    if negative && number.len() > 1 {
        return Err(ImportCause::PortRange { text: text(), reading: reading(number) });
    }
    Err(ImportCause::NotAPort { text: text(), reading: reading(number) })
}

/// The value of `text` by atoi(3), cut to 16 bits.
fn reading(text: &str) -> u16 {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let value = digits
        .bytes()
        .take_while(u8::is_ascii_digit)
        .fold(0u16, |value, digit| value.wrapping_mul(10).wrapping_add(u16::from(digit - b'0')));
    if negative { value.wrapping_neg() } else { value }
}

fn seconds(entry: &Entry, findings: &mut Findings) -> Option<u32> {
    let number = entry.value.parse::<u32>().ok().filter(|number| (1..=SECONDS_MAX).contains(number));
    if number.is_none() {
        findings.error(entry.line, ImportCause::Seconds { text: excerpt(&entry.value) });
    }
    number
}

/// The flags, if they are not the default of knockd.
fn flags(section: &Section, findings: &mut Findings) -> Option<String> {
    let Some(entry) = section.entry("tcpflags") else {
        let text = "no TCPFlags: for knock every TCP segment to a port is a knock; for knockd only the first packet of a \
                    connection is one (SYN without ACK, RST and FIN)";
        findings.note(section.line, text);
        return None;
    };
    let text = entry.value.to_ascii_lowercase();
    match tcp_flags(&Value::from(text.as_str())) {
        Ok(flags) if flags == (TcpFlags { set: TcpFlags::SYN, clear: 0 }) => {
            let text = "TCPFlags = syn also matches SYN+ACK, the answers to connections of this host; for knockd ACK, RST and \
                        FIN must be clear (write \"tcp_flags\": \"syn\" for the meaning of knock)";
            findings.note(entry.line, text);
            None
        }
        Ok(_) => Some(text.split(',').map(str::trim).collect::<Vec<_>>().join(",")),
        Err(cause) => {
            let cause = ImportCause::Flags { text: excerpt(&entry.value), reason: cause.to_string() };
            findings.error(entry.line, cause);
            None
        }
    }
}

fn target(entry: &Entry, findings: &mut Findings) -> Option<String> {
    match target_address(&entry.value) {
        Ok(_) => Some(entry.value.clone()),
        Err(cause) => {
            findings.error(entry.line, ImportCause::Target { reason: cause.to_string() });
            None
        }
    }
}
