//! A rule between the imported file and the configuration of knockd, whatever the format of the file.

use std::collections::HashSet;
use std::time::Duration;

use knock_config::excerpt;
use serde_json::Value;

use super::findings::Findings;
use super::json::Members;

/// A command without an effect, for a rule that needs a command.
pub(super) const NOTHING: &str = ":";

/// The commands for IPv4 and for IPv6 sources; `None`: no command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    pub(super) v4: Option<String>,
    pub(super) v6: Option<String>,
}

impl Commands {
    /// One command for sources of both IP versions.
    pub(super) fn both(command: Option<String>) -> Commands {
        Commands { v4: command.clone(), v6: command }
    }

    pub(super) fn is_empty(&self) -> bool {
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

/// A rule, checked.
#[derive(Debug, Default)]
pub(super) struct Rule {
    pub(super) line: usize,
    pub(super) name: String,
    /// The key of the trigger, and its value.
    pub(super) trigger: Option<(&'static str, Value)>,
    pub(super) timeout: Option<Duration>,
    pub(super) cooldown: Option<Duration>,
    pub(super) flags: Option<String>,
    pub(super) target: Option<String>,
    pub(super) start: Commands,
    pub(super) stop: Commands,
    /// The time between the two.
    pub(super) stop_after: Duration,
    pub(super) setup: Option<String>,
    pub(super) teardown: Option<String>,
    /// The grant that replaces the commands.
    pub(super) allow: Option<Value>,
    /// The rule that is revoked in place of the commands.
    pub(super) revoke: Option<String>,
}

impl Rule {
    /// The members of the rule in the configuration.
    pub(super) fn members(&self) -> Members {
        let text = |key: &'static str, value: &Option<String>| value.as_deref().map(|value| (key, Value::from(value)));
        let mut members: Members = vec![("name", Value::from(self.name.as_str()))];
        members.extend(self.trigger.clone());
        members.extend(self.timeout.map(|timeout| ("timeout", duration(timeout))));
        members.extend(self.cooldown.map(|cooldown| ("cooldown", duration(cooldown))));
        members.extend(text("tcp_flags", &self.flags));
        members.extend(text("target", &self.target));
        members.extend(text("setup", &self.setup));
        if self.runs_commands() {
            self.start.members("command", "command6", &mut members);
            if !self.stop.is_empty() {
                self.stop.members("stop_command", "stop_command6", &mut members);
                members.push(("stop_after", duration(self.stop_after)));
            }
        }
        members.extend(text("teardown", &self.teardown));
        members.extend(self.allow.clone().map(|allow| ("allow", allow)));
        members.extend(text("revoke", &self.revoke));
        members
    }

    /// Whether no other action replaces the commands.
    pub(super) fn runs_commands(&self) -> bool {
        self.allow.is_none() && self.revoke.is_none()
    }
}

/// A duration as a configuration writes it: a number of seconds where it is whole.
pub(super) fn duration(duration: Duration) -> Value {
    if duration.subsec_millis() == 0 {
        Value::from(duration.as_secs())
    } else {
        Value::from(format!("{}ms", duration.as_millis()))
    }
}

/// The name of the rule for the door, or the rule, that was called `old`; `names` are the names that are in use.
pub(super) fn name(old: &str, line: usize, names: &mut HashSet<String>, findings: &mut Findings) -> String {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
    // Some characters fewer than 64, to leave space for the number after a duplicate name.
    let is_rule_name = old.len() <= 64 && old.chars().all(allowed);
    let length = if is_rule_name { 64 } else { 56 };
    let base: String =
        old.chars().map(|character| if allowed(character) { character } else { '_' }).take(length).collect();
    let base = if base.is_empty() { "rule".to_owned() } else { base };
    let mut name = base.clone();
    let mut number = 1;
    while !names.insert(name.clone()) {
        number += 1;
        name = format!("{}-{number}", &base[..base.len().min(56)]);
    }
    if name != old {
        let old = excerpt(old);
        let text = format!(
            "`{old}` becomes rule `{name}`: names are unique and have at most 64 letters, digits, `_`, `.` or `-`"
        );
        findings.note(line, text);
    }
    name
}

/// Notes once each difference between commands of knock and of knockd.
pub(super) fn note_commands(rules: &[Rule], findings: &mut Findings) {
    let mut kept = rules.iter().filter(|rule| rule.runs_commands());
    if let Some(rule) = kept.clone().find(|rule| !rule.start.is_empty()) {
        findings.note(rule.line, "knockd kills a command after 30 seconds; `command_timeout` sets another limit");
    }
    if let Some(rule) = kept.find(|rule| !rule.stop.is_empty()) {
        let text = "knockd runs a stop command once, after the last completion, also when the daemon stops or is started \
                    again; the other daemon ran one for each completion and lost pending ones when it stopped";
        findings.note(rule.line, text);
    }
}
