//! Converts a door of knock to a rule of knockd.

use std::collections::HashSet;
use std::time::Duration;

use knock_config::{excerpt, target_address, tcp_flags};
use knock_proto::{Knock, Protocol, SEQUENCE_MAX, TcpFlags};
use serde_json::Value;

use super::cause::ImportCause;
use super::findings::Findings;
use super::json::port;
use super::rule::{Commands, NOTHING, Rule, name};
use super::sections::{Entry, Section};

/// knock's default time for a sequence.
pub(super) const SEQ_TIMEOUT: Duration = Duration::from_secs(25);
/// knock's default time until the stop command.
const CMD_TIMEOUT: Duration = Duration::from_secs(10);
/// A year, the longest duration of a configuration of knockd.
const SECONDS_MAX: u32 = 365 * 24 * 3600;

/// The commands in `section`, as knock has them: without the key for IPv6 the key for IPv4 counts, and an empty value
/// means no command. With `only_ipv4` (knockd -4) IPv6 sources run none.
fn commands(section: &Section, key: &str, key6: &str, only_ipv4: bool) -> Commands {
    let text = |entry: &Entry| Some(entry.value.clone()).filter(|value| !value.is_empty());
    let v4 = section.entry(key).and_then(text);
    let v6 = section.entry(key6).map_or_else(|| v4.clone(), text).filter(|_| !only_ipv4);
    Commands { v4, v6 }
}

/// Checks the door in `section`; `names` are the names that are in use.
pub(super) fn door(section: &Section, only_ipv4: bool, names: &mut HashSet<String>, findings: &mut Findings) -> Rule {
    let start = commands(section, "start_command", "start_command_6", only_ipv4);
    let mut stop = commands(section, "stop_command", "stop_command_6", only_ipv4);
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
    let cooldown = section.entry("seq_cooldown").and_then(|_| seconds("seq_cooldown", Duration::ZERO));
    let stop_after = seconds("cmd_timeout", CMD_TIMEOUT).unwrap_or(CMD_TIMEOUT);
    if let (Some(entry), Some(_)) = (section.entry("seq_cooldown"), section.entry("one_time_sequences")) {
        findings.note(entry.line, "Seq_Cooldown is omitted: a one-time sequence works once");
    }
    for entry in section.entries.iter().filter(|entry| entry.key.contains("command")) {
        let inside = entry.value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        if inside.is_some_and(|inside| inside.contains(' ') && !inside.contains('"')) {
            findings.note(entry.line, "the quotes make the whole command the name of one program; delete them");
        }
    }
    Rule {
        line: section.line,
        name: name(&section.name, section.line, names, findings),
        trigger: trigger(section, findings),
        timeout,
        cooldown: cooldown.filter(|_| section.entry("one_time_sequences").is_none()),
        flags: flags(section, findings),
        target: section.entry("target").and_then(|entry| target(entry, findings)),
        start,
        stop,
        stop_after,
        ..Rule::default()
    }
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

fn seconds(entry: &Entry, findings: &mut Findings) -> Option<Duration> {
    let number = entry.value.parse::<u32>().ok().filter(|number| (1..=SECONDS_MAX).contains(number));
    if number.is_none() {
        findings.error(entry.line, ImportCause::Seconds { text: excerpt(&entry.value) });
    }
    number.map(|number| Duration::from_secs(number.into()))
}

/// The flags, if they are not the default of knockd.
fn flags(section: &Section, findings: &mut Findings) -> Option<String> {
    let Some(entry) = section.entry("tcpflags") else {
        let text = "no TCPFlags: for knock every TCP segment to a port is a knock; for knockd only the first packet of a \
                    connection is one (SYN without ACK, RST and FIN)";
        findings.note_once(section.line, text);
        return None;
    };
    let text = entry.value.to_ascii_lowercase();
    match tcp_flags(&Value::from(text.as_str())) {
        Ok(flags) if flags == (TcpFlags { set: TcpFlags::SYN, clear: 0 }) => {
            let text = "TCPFlags = syn also matches SYN+ACK, the answers to connections of this host; for knockd ACK, RST and \
                        FIN must be clear (write \"tcp_flags\": \"syn\" for the meaning of knock)";
            findings.note_once(entry.line, text);
            None
        }
        Ok(flags) => {
            if flags.set & !TcpFlags::SYN != 0 || flags.clear & TcpFlags::SYN != 0 {
                findings.note(entry.line, unusual_flags(flags, &entry.value));
            }
            Some(text.split(',').map(str::trim).collect::<Vec<_>>().join(","))
        }
        Err(cause) => {
            let cause = ImportCause::Flags { text: excerpt(&entry.value), reason: cause.to_string() };
            findings.error(entry.line, cause);
            None
        }
    }
}

/// The note about flags that the first segment of a connection, SYN alone, does not have.
fn unusual_flags(flags: TcpFlags, value: &str) -> String {
    let mut text = format!(
        "TCPFlags = {} does not match the SYN that knock, knock-cli and other clients send, so only a tool that sets \
         flags can knock at the TCP ports",
        excerpt(value)
    );
    let syn_ack = TcpFlags::SYN | TcpFlags::ACK;
    if flags.set & syn_ack == syn_ack {
        text.push_str(
            "; SYN+ACK is the answer to a connection that this host opens, so a server that it connects to can knock",
        );
    }
    text.push_str("; write TCPFlags = syn for ordinary clients");
    text
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
