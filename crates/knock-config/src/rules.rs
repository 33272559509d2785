//! The rules: names, triggers and actions.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use knock_proto::{Knock, RuleId, SEQUENCE_MAX, TcpFlags};
use serde_json::Value;

use crate::allow::{allow, check_guarded};
use crate::checker::Checker;
use crate::duration::MILLISECOND;
use crate::excerpt::excerpt;
use crate::model::{Command, Rule, Stop, Trigger};
use crate::nearest::nearest;
use crate::path::FieldPath;
use crate::port::knock;
use crate::problem::Cause;
use crate::raw::{RawKnock, RawRule};
use crate::tcp_flags::tcp_flags;
use crate::value::{absolute_path, optional_duration};

/// The most rules of a configuration.
pub const RULES_MAX: usize = 16_384;
/// The default time limit of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// The names of the rules, and the index of the first rule of each name.
pub(crate) type Names = HashMap<String, usize>;

/// All rules; `timeout` is the default for a rule without its own. `has_spa`: the file says how signed packets are received.
pub(crate) fn rules(
    raw: Option<Vec<RawRule>>,
    timeout: Duration,
    has_spa: bool,
    checker: &mut Checker<'_>,
) -> Vec<Rule> {
    let Some(raw) = check_list(raw, checker) else { return Vec::new() };
    let names = names(&raw, checker);
    let allowing: Vec<bool> = raw.iter().map(|rule| rule.allow.is_some()).collect();
    let path = FieldPath::default().key("rules");
    actions(&raw, &path, checker);
    let rules: Vec<Rule> = raw
        .into_iter()
        .enumerate()
        .map(|(index, raw)| {
            let path = path.index(index);
            if raw.spa == Some(true) && !has_spa {
                checker.report(&path.key("spa"), Cause::SpaMissing);
            }
            let revoke = raw.revoke.as_deref().map(RuleId::from);
            let revoke = revoke.filter(|name| may_revoke(name, index, &names, &allowing, &path, checker));
            rule(raw, revoke, timeout, &path, checker)
        })
        .collect();
    check_guarded(&rules, checker);
    rules
}

/// The list of rules; `None` if it is missing or too long.
pub(crate) fn check_list(raw: Option<Vec<RawRule>>, checker: &mut Checker<'_>) -> Option<Vec<RawRule>> {
    let path = FieldPath::default().key("rules");
    let Some(raw) = raw else {
        checker.report(&FieldPath::default(), Cause::RulesMissing);
        return None;
    };
    if raw.len() > RULES_MAX {
        checker.report(&path, Cause::TooManyRules { count: raw.len(), max: RULES_MAX });
        return None;
    }
    Some(raw)
}

/// Checks the names, which must be unique.
pub(crate) fn names(raw: &[RawRule], checker: &mut Checker<'_>) -> Names {
    let mut names = Names::new();
    for (index, rule) in raw.iter().enumerate() {
        let path = FieldPath::default().key("rules").index(index);
        let Some(name) = &rule.name else {
            checker.report(&path, Cause::NameMissing);
            continue;
        };
        if !is_name(name) {
            checker.report(&path.key("name"), Cause::Name { name: format!("\"{}\"", excerpt(name)) });
        }
        match names.get(name) {
            Some(&first) => checker.report(&path.key("name"), Cause::NameTaken { name: excerpt(name), first }),
            None => {
                names.insert(name.clone(), index);
            }
        }
    }
    names
}

/// Whether `name` is valid for a rule or a node: 1 to 64 letters, digits, `_`, `.` or `-`.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Checks that each rule has an action. A file without any action is probably the client's.
fn actions(raw: &[RawRule], path: &FieldPath, checker: &mut Checker<'_>) {
    let acts = |rule: &RawRule| {
        rule.command.is_some() || rule.command6.is_some() || rule.allow.is_some() || rule.revoke.is_some()
    };
    if !raw.is_empty() && !raw.iter().any(acts) {
        return checker.report(path, Cause::ActionsMissing);
    }
    for (index, _) in raw.iter().enumerate().filter(|(_, rule)| !acts(rule)) {
        checker.report(&path.index(index), Cause::ActionMissing);
    }
}

fn rule(raw: RawRule, revoke: Option<RuleId>, timeout: Duration, path: &FieldPath, checker: &mut Checker<'_>) -> Rule {
    check_pairs(&raw, path, checker);
    if raw.cooldown.is_some() && raw.one_time_sequences.is_some() {
        checker.report(&path.key("cooldown"), Cause::CooldownOneTime);
    }
    let spa = raw.spa.unwrap_or_default();
    if spa && raw.sequence.is_none() && raw.one_time_sequences.is_none() {
        check_without_knocks(&raw, path, checker);
    }
    let trigger = trigger(raw.sequence.as_deref(), raw.one_time_sequences, spa, path, checker);
    let mut seconds = |raw, key| optional_duration(raw, MILLISECOND, &path.key(key), checker);
    let timeout = seconds(raw.timeout.as_ref(), "timeout").unwrap_or(timeout);
    let cooldown = seconds(raw.cooldown.as_ref(), "cooldown");
    let stop_after = seconds(raw.stop_after.as_ref(), "stop_after");
    let command_timeout = seconds(raw.command_timeout.as_ref(), "command_timeout").unwrap_or(COMMAND_TIMEOUT);
    let on_shutdown = raw.stop_on_shutdown.unwrap_or_default();
    let mut text = |raw: Option<String>, key| command_text(raw, &path.key(key), checker);
    let command6 = text(raw.command6, "command6");
    let stop_command6 = text(raw.stop_command6, "stop_command6");
    let command = text(raw.command, "command").map(|any| Command { any, v6: command6 });
    let stop_command = text(raw.stop_command, "stop_command").map(|any| Command { any, v6: stop_command6 });
    let setup = text(raw.setup, "setup");
    let teardown = text(raw.teardown, "teardown");
    let flags = raw.tcp_flags.map(|flags| tcp_flags(&flags.0)).transpose().unwrap_or_else(|cause| {
        checker.report(&path.key("tcp_flags"), cause);
        None
    });
    let targets = raw.target.map(|raw| targets(&raw.0, &path.key("target"), checker)).unwrap_or_default();
    Rule {
        name: raw.name.unwrap_or_default().into(),
        trigger,
        spa,
        timeout,
        cooldown,
        tcp_flags: flags.unwrap_or(TcpFlags::FIRST_PACKET),
        targets,
        command,
        stop: stop_command.zip(stop_after).map(|(command, after)| Stop { command, after, on_shutdown }),
        command_timeout,
        setup,
        teardown,
        allow: raw.allow.and_then(|raw| allow(&raw, &path.key("allow"), checker)),
        revoke,
    }
}

/// Checks the keys that need another key.
fn check_pairs(raw: &RawRule, path: &FieldPath, checker: &mut Checker<'_>) {
    let command = raw.command.is_some();
    let stop_command = raw.stop_command.is_some();
    let stop_after = raw.stop_after.is_some();
    for (key, present, needs, there, why) in [
        ("command6", raw.command6.is_some(), "command", command, "the command for IPv4 sources (\":\" does nothing)"),
        ("stop_command", stop_command, "command", command, "the command that it undoes"),
        ("stop_command", stop_command, "stop_after", stop_after, "the time between the two commands"),
        ("stop_after", stop_after, "stop_command", stop_command, "the command that runs after this time"),
        (
            "stop_command6",
            raw.stop_command6.is_some(),
            "stop_command",
            stop_command,
            "the command for IPv4 sources (\":\" does nothing)",
        ),
        (
            "stop_on_shutdown",
            raw.stop_on_shutdown.is_some(),
            "stop_command",
            stop_command,
            "the command to which it applies",
        ),
    ] {
        if present && !there {
            checker.report(&path.key(key), Cause::Needs { key, needs, why });
        }
    }
}

/// The knocks that trigger the rule at `path`; with `spa` there may be none.
pub(crate) fn trigger(
    sequence: Option<&[RawKnock]>,
    one_time: Option<String>,
    spa: bool,
    path: &FieldPath,
    checker: &mut Checker<'_>,
) -> Option<Trigger> {
    match (sequence, one_time) {
        (Some(sequence), None) => Some(Trigger::Sequence(knocks(sequence, &path.key("sequence"), checker))),
        (None, Some(file)) => Some(Trigger::OneTime(absolute_path(file, &path.key("one_time_sequences"), checker))),
        (None, None) => {
            if !spa {
                checker.report(path, Cause::TriggerMissing);
            }
            None
        }
        (Some(_), Some(_)) => {
            checker.report(&path.key("one_time_sequences"), Cause::TriggerTwice);
            None
        }
    }
}

/// Checks that a rule without knocks has no key that is about knocks.
fn check_without_knocks(raw: &RawRule, path: &FieldPath, checker: &mut Checker<'_>) {
    let keys =
        [("timeout", raw.timeout.is_some()), ("tcp_flags", raw.tcp_flags.is_some()), ("target", raw.target.is_some())];
    for (key, present) in keys {
        if present {
            let why = "the knocks that it is about; signed packets have none";
            checker.report(&path.key(key), Cause::Needs { key, needs: "sequence", why });
        }
    }
}

fn knocks(raw: &[RawKnock], path: &FieldPath, checker: &mut Checker<'_>) -> Vec<Knock> {
    if raw.is_empty() {
        checker.report(path, Cause::SequenceEmpty);
    } else if raw.len() > SEQUENCE_MAX {
        checker.report(path, Cause::SequenceTooLong { count: raw.len(), max: SEQUENCE_MAX });
        return Vec::new();
    }
    let mut knocks = Vec::with_capacity(raw.len());
    for (index, value) in raw.iter().enumerate() {
        match knock(&value.0) {
            Ok(knock) => knocks.push(knock),
            Err(cause) => checker.report(&path.index(index), cause),
        }
    }
    knocks
}

fn command_text(raw: Option<String>, path: &FieldPath, checker: &mut Checker<'_>) -> Option<String> {
    let text = raw?;
    if text.trim().is_empty() {
        checker.report(path, Cause::CommandEmpty);
    } else if text.contains('\0') {
        checker.report(path, Cause::CommandNul);
    }
    Some(text)
}

/// The destination addresses, a text or a list of texts.
fn targets(value: &Value, path: &FieldPath, checker: &mut Checker<'_>) -> Vec<IpAddr> {
    let mut targets = BTreeSet::new();
    let mut add = |item: &Value, path: &FieldPath| {
        let address = match item {
            Value::String(text) => target_address(text),
            other => Err(Cause::Target { value: excerpt(&other.to_string()) }),
        };
        match address {
            Ok(address) if !targets.insert(address) => checker.report(path, Cause::TargetTwice { address }),
            Ok(_) => {}
            Err(cause) => checker.report(path, cause),
        }
    };
    match value {
        Value::Array(items) if items.is_empty() => checker.report(path, Cause::TargetsEmpty),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| add(item, &path.index(index))),
        item => add(item, path),
    }
    targets.into_iter().collect()
}

/// Parses a destination address, in the syntax of `target`.
///
/// # Errors
///
/// The error and its remedy, if the text is not such an address.
pub fn target_address(text: &str) -> Result<IpAddr, Cause> {
    let value = || format!("\"{}\"", excerpt(text));
    let address = text.parse::<IpAddr>().map_err(|_| Cause::Target { value: value() })?;
    if let Some(plain) = mapped(address) {
        return Err(Cause::TargetMapped { value: value(), plain });
    }
    if address.is_unspecified() {
        return Err(Cause::TargetUnspecified { value: value() });
    }
    Ok(address)
}

fn mapped(address: IpAddr) -> Option<std::net::Ipv4Addr> {
    match address {
        IpAddr::V6(address) => Ipv6Addr::to_ipv4_mapped(&address),
        IpAddr::V4(_) => None,
    }
}

/// Whether rule `index` can revoke the rule `name`.
fn may_revoke(
    name: &str,
    index: usize,
    names: &Names,
    allowing: &[bool],
    path: &FieldPath,
    checker: &mut Checker<'_>,
) -> bool {
    let cause = match names.get(name) {
        Some(&other) if other == index => Cause::RevokeItself,
        Some(&other) if allowing.get(other) == Some(&true) => return true,
        Some(_) => Cause::RevokeWithoutAllow { name: excerpt(name) },
        None => {
            // The search reads every name, so it runs only for problems that are displayed.
            let suggestion = || nearest(name, revocable(names, allowing, index)).map(excerpt);
            let cause = || Cause::RevokeUnknown { name: excerpt(name), suggestion: suggestion() };
            checker.report_with(&path.key("revoke"), cause);
            return false;
        }
    };
    checker.report(&path.key("revoke"), cause);
    false
}

/// The names of the rules that rule `index` can revoke.
fn revocable<'n>(names: &'n Names, allowing: &'n [bool], index: usize) -> impl Iterator<Item = &'n str> {
    let may = move |rule: usize| rule != index && allowing.get(rule) == Some(&true);
    names.iter().filter(move |&(_, &rule)| may(rule)).map(|(name, _)| name.as_str())
}
