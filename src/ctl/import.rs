//! Converts the configuration of knock (jvinet/knock 0.8, knockd(1)).
//!
//! A line that the other program silently misreads is an error here, with the reason; a note explains each change of
//! meaning. The result is a configuration that [`knock_config::parse`] accepts.

mod cause;
mod door;
mod findings;
mod firewall;
mod json;
mod native;
mod rule;
mod sections;
mod shell;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use knock_config::{RULES_MAX, excerpt};
use knock_proto::InterfaceName;
use serde_json::Value;

use cause::ImportCause;
use findings::{Findings, ImportError, Note};
use json::Members;
use rule::{Rule, duration};
use sections::{Entry, Section};

/// How to import a file.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Commands that open and close ports of the firewall become `allow` and `revoke`; else a note shows them.
    pub native: bool,
    /// The interfaces of the configuration, whatever the file says.
    pub interfaces: Vec<InterfaceName>,
}

/// The configuration of knockd, and notes for its reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The configuration, ready to be written to a file.
    pub json: String,
    /// In the order of the lines.
    pub notes: Vec<Note>,
}

/// Converts the knockd.conf in `text`; each error begins with `file_name`.
///
/// # Errors
///
/// Each line that knock refuses, or that it reads with another meaning than the writer can have intended.
pub fn import(file_name: &str, text: &str, options: &ImportOptions) -> Result<Imported, Vec<ImportError>> {
    let mut findings = Findings::about(file_name);
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => {
            findings
                .note(1, "the file begins with a byte order mark, which is ignored here; knock refuses such a file");
            rest
        }
        None => text,
    };
    let (top, mut rules) = of_knock(text, options, &mut findings);
    if rules.len() > RULES_MAX {
        findings.error(1, ImportCause::TooManyRules { count: rules.len(), max: RULES_MAX });
    }
    if findings.no_error() {
        native::replace(&mut rules, options.native, &mut findings);
        rule::note_commands(&rules, &mut findings);
    }
    let notes = findings.finish()?;
    let rules: Vec<_> = rules.iter().map(Rule::members).collect();
    Ok(Imported { json: json::configuration(&top, &rules), notes })
}

fn of_knock(text: &str, options: &ImportOptions, findings: &mut Findings) -> (Members, Vec<Rule>) {
    let sections = sections::sections(text, findings);
    let top = top(&sections, options, findings);
    let mut names = HashSet::new();
    let doors = sections.iter().filter(|section| section.name != "options");
    let rules: Vec<Rule> = doors.map(|section| door::door(section, &mut names, findings)).collect();
    if rules.is_empty() && findings.no_error() {
        findings.error(1, ImportCause::NoDoor);
    }
    (top, rules)
}

/// The interfaces that the options name.
fn interface_of(options: &ImportOptions) -> Option<Value> {
    match &options.interfaces[..] {
        [] => None,
        [name] => Some(Value::from(name.to_string())),
        names => Some(names.iter().map(ToString::to_string).collect()),
    }
}

/// The members of the configuration besides its rules.
fn top(sections: &[Section], options: &ImportOptions, findings: &mut Findings) -> Members {
    let mut written = None;
    let mut syslog = false;
    for section in sections {
        syslog |= section.entry("usesyslog").is_some();
    }
    for entry in sections.iter().filter(|section| section.name == "options").flat_map(|section| &section.entries) {
        match (entry.key.as_str(), entry) {
            ("interface", Entry { line, value, .. }) => {
                if value.parse::<InterfaceName>().is_err() {
                    findings.error(*line, ImportCause::Interface { text: excerpt(value) });
                }
                written = Some(entry);
            }
            ("logfile", Entry { line, value, .. }) => {
                findings.note(*line, format!("LogFile = {}: {NO_LOG_FILE}", excerpt(value)));
            }
            ("pidfile", Entry { line, .. }) => findings.note(*line, format!("PidFile: {NO_PID_FILE}")),
            _ => {}
        }
    }
    let interface = match (interface_of(options), written) {
        (Some(interface), _) => interface,
        (None, Some(entry)) => Value::from(entry.value.as_str()),
        (None, None) => {
            let line = sections.first().map_or(1, |section| section.line);
            let text = "no Interface: the configuration has \"any\", all interfaces; knock took eth0. The option --interface \
                        names another";
            findings.note(line, text);
            Value::from("any")
        }
    };
    let mut top = vec![("interface", interface), ("timeout", duration(door::SEQ_TIMEOUT))];
    if syslog {
        top.push(("log", serde_json::json!({"target": "syslog"})));
    }
    top
}

const NO_LOG_FILE: &str = "knockd writes no log file; it logs to the journal, to syslog or to standard error, which can be \
                           redirected to a file";
const NO_PID_FILE: &str = "knockd writes no PID file, because it stays in the foreground";
