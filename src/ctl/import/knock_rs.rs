//! Converts the configuration of knock-rs: config.yaml, and config.json of its earlier versions and of its fork.
//!
//! The fork (`activate` and `deactivate` in place of `command`) counts times in milliseconds, the others in seconds.

use std::collections::HashSet;
use std::time::Duration;

use knock_config::excerpt;
use knock_proto::{InterfaceName, SEQUENCE_MAX};
use serde_json::Value;

use super::cause::ImportCause;
use super::findings::Findings;
use super::rule::{Commands, Rule, duration, name};
use super::tree::{self, Node};

const TOP: [&str; 3] = ["interface", "timeout", "rules"];
const RULE: [&str; 9] =
    ["name", "sequence", "command", "activate", "deactivate", "timeout", "setup", "teardown", "host"];
/// The time of a sequence in a configuration of knockd without its own.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The time after which the fork runs `deactivate`: 6 * 60 * 60, which it takes for milliseconds.
const DEACTIVATE_AFTER: Duration = Duration::from_millis(21_600);
/// A year, the longest duration of a configuration of knockd.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A file of knock-rs, checked.
#[derive(Debug, Default)]
pub(super) struct KnockRs {
    pub(super) interface: Option<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) rules: Vec<Rule>,
    /// Whether it is a file of the client, which has no commands.
    pub(super) client: bool,
}

/// The unit in which a file counts time.
#[derive(Clone, Copy)]
struct Unit {
    name: &'static str,
    one: Duration,
}

const SECONDS: Unit = Unit { name: "seconds", one: Duration::from_secs(1) };
const MILLISECONDS: Unit = Unit { name: "milliseconds", one: Duration::from_millis(1) };

/// Checks the file of knock-rs in `text`.
pub(super) fn read(text: &str, findings: &mut Findings) -> KnockRs {
    let tree = match tree::parse(text) {
        Ok(tree) => tree,
        Err((line, cause)) => {
            findings.error(line, cause);
            return KnockRs::default();
        }
    };
    check_keys(&tree, &TOP, findings);
    let Some(rules) = tree.get("rules") else {
        findings.error(tree.line, ImportCause::NoRules);
        return KnockRs::default();
    };
    let Some(list) = expect(rules, rules.list(), "rules", "a list", findings) else { return KnockRs::default() };
    let has = |key: &str| list.iter().any(|rule| rule.get(key).is_some());
    let unit = if has("activate") || has("deactivate") { MILLISECONDS } else { SECONDS };
    let client = !list.is_empty() && !["command", "activate", "setup"].into_iter().any(has);
    let mut names = HashSet::new();
    let interface = tree.get("interface").and_then(|node| interface(node, findings));
    let timeout = tree.get("timeout").and_then(|node| time(node, unit, findings));
    if let (Some(node), Some(timeout), false) = (tree.get("timeout"), timeout, client) {
        let mut text = "the timeout is for the whole sequence; knock-rs counted it from the last knock".to_owned();
        if unit.one == MILLISECONDS.one {
            text.push_str(&format!("; this fork counted in milliseconds: \"timeout\": {}", duration(timeout)));
        }
        findings.note(node.line, text);
    }
    let rules = list.iter().map(|node| rule(node, unit, client, &mut names, findings)).collect();
    KnockRs { interface, timeout: timeout.filter(|timeout| *timeout != TIMEOUT), rules, client }
}

/// Reports each key that knock-rs does not have.
fn check_keys(node: &Node, known: &[&str], findings: &mut Findings) {
    for (key, line) in node.keys().filter(|(key, _)| !known.contains(key)) {
        findings.error(line, ImportCause::NotOfKnockRs { key: excerpt(key) });
    }
}

/// `value`, or an error that the node is not what is expected.
fn expect<T>(node: &Node, value: Option<T>, key: &str, expected: &'static str, findings: &mut Findings) -> Option<T> {
    if value.is_none() {
        findings.error(node.line, ImportCause::Kind { field: format!("`{key}`: {}", node.shown()), expected });
    }
    value
}

fn interface(node: &Node, findings: &mut Findings) -> Option<String> {
    let text = expect(node, node.text(), "interface", "a name", findings)?;
    if text.parse::<InterfaceName>().is_err() {
        findings.error(node.line, ImportCause::Interface { text: excerpt(text) });
    }
    Some(text.to_owned())
}

fn time(node: &Node, unit: Unit, findings: &mut Findings) -> Option<Duration> {
    let max = YEAR.as_millis() / unit.one.as_millis();
    let number = node.text().and_then(|text| text.parse::<u32>().ok()).filter(|number| *number > 0);
    let time = number.and_then(|number| unit.one.checked_mul(number)).filter(|time| *time <= YEAR);
    if time.is_none() {
        let max = u64::try_from(max).unwrap_or(u64::MAX);
        findings.error(node.line, ImportCause::Duration { text: node.shown(), unit: unit.name, max });
    }
    time
}

fn rule(node: &Node, unit: Unit, client: bool, names: &mut HashSet<String>, findings: &mut Findings) -> Rule {
    if !node.is_map() {
        let cause = ImportCause::Kind { field: node.shown(), expected: "a rule with `name` and `sequence`" };
        findings.error(node.line, cause);
        return Rule::default();
    }
    check_keys(node, &RULE, findings);
    let mut text = |key: &'static str| {
        let value = node.get(key)?;
        let text = expect(value, value.text(), key, "a text", findings)?;
        if text.contains('\0') {
            findings.error(value.line, ImportCause::Nul);
        }
        Some(text.to_owned()).filter(|text| !text.trim().is_empty())
    };
    let old = text("name");
    let start = text("activate").or_else(|| text("command"));
    let stop = text("deactivate");
    let (setup, teardown) = (text("setup"), text("teardown"));
    for (key, present) in [("name", old.is_some()), ("command", client || start.is_some())] {
        if !present {
            findings.error(node.line, ImportCause::Missing { key });
        }
    }
    if let Some(host) = node.get("host") {
        findings.note(host.line, "`host` is omitted; name the host with the option -h of knock-cli");
    }
    let shell =
        |command: &String| command.contains(['\'', '"', ';', '&', '|', '<', '>', '$', '`', '*', '\\', '(', '#']);
    if let Some(key) = ["activate", "command"]
        .iter()
        .find_map(|key| node.get(key))
        .filter(|_| [&start, &stop, &setup, &teardown].into_iter().flatten().any(shell))
    {
        let text = "/bin/sh runs the command, so quotes, `;`, `|` and the like have their meaning; knock-rs split the \
                    command at blanks";
        findings.note(key.line, text);
    }
    Rule {
        line: node.line,
        name: name(&old.unwrap_or_default(), node.line, names, findings),
        trigger: sequence(node, findings).map(|sequence| ("sequence", sequence)),
        stop_after: stop.as_ref().map(|_| deactivate_after(node, unit, findings)).unwrap_or_default(),
        start: Commands::both(start),
        stop: Commands::both(stop),
        setup,
        teardown,
        ..Rule::default()
    }
}

/// The time between `activate` and `deactivate`.
fn deactivate_after(node: &Node, unit: Unit, findings: &mut Findings) -> Duration {
    let (line, time, of) = match node.get("timeout") {
        Some(timeout) => (timeout.line, time(timeout, unit, findings), "this fork counted in milliseconds"),
        None => (node.line, Some(DEACTIVATE_AFTER), "the default of this fork, 21600, is in milliseconds"),
    };
    let time = time.unwrap_or(DEACTIVATE_AFTER);
    let text = format!(
        "{of}, so the rule closes after {time:?}; write another time, such as \"6h\", if that is not what you mean",
    );
    findings.note(line, text);
    time
}

fn sequence(node: &Node, findings: &mut Findings) -> Option<Value> {
    let Some(sequence) = node.get("sequence") else {
        findings.error(node.line, ImportCause::Missing { key: "sequence" });
        return None;
    };
    let ports = expect(sequence, sequence.list(), "sequence", "a list of ports", findings)?;
    if ports.is_empty() {
        findings.error(sequence.line, ImportCause::EmptySequence);
    } else if ports.len() > SEQUENCE_MAX {
        findings.error(sequence.line, ImportCause::TooManyKnocks { count: ports.len() });
        return None;
    }
    let port = |node: &Node| {
        let port = node.text().and_then(|text| text.parse::<u16>().ok()).filter(|port| *port > 0);
        if port.is_none() {
            findings.error(node.line, ImportCause::Port { text: node.shown() });
        }
        port.map(Value::from)
    };
    ports.iter().map(port).collect()
}
