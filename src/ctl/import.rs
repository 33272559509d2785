//! Converts the configuration of knock (jvinet/knock 0.8, knockd(1)) and of knock-rs.
//!
//! A line that the other program silently misreads is an error here, with the reason; a note explains each change of
//! meaning. The result is a configuration that [`knock_config::parse`] accepts.

mod cause;
mod door;
mod findings;
mod firewall;
mod json;
mod knock_rs;
mod native;
mod rule;
mod sections;
mod service;
mod shell;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashSet;

use knock_config::{Format, RULES_MAX, excerpt, format};
use knock_proto::InterfaceName;
use serde_json::Value;

use cause::ImportCause;
use findings::{Findings, ImportError, Note};
use json::Members;
use rule::{Rule, duration};
use sections::{Entry, Section};
use service::{Service, Setting};

pub(crate) use service::service_of;

/// How to import a file.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Commands that open and close ports of the firewall become `allow` and `revoke`; else a note shows them.
    pub native: bool,
    /// The interfaces of the configuration, whatever the file says.
    pub interfaces: Vec<InterfaceName>,
    /// What the system's service adds to the file.
    pub service: Option<Service>,
}

/// The configuration of knockd, and notes for its reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The configuration, ready to be written to a file.
    pub json: String,
    /// Those about other files first, then in the order of the lines.
    pub notes: Vec<Note>,
}

/// The members of a configuration besides its rules, and its rules.
#[derive(Default)]
struct Parts {
    top: Members,
    rules: Vec<Rule>,
    /// Whether it is a file of the client, which has only names and sequences.
    client: bool,
}

/// Converts the knockd.conf of knock, or the config.yaml or config.json of knock-rs, in `text`; each error begins with
/// `file_name`.
///
/// # Errors
///
/// Each line that the other program refuses, or that it reads with another meaning than the writer can have intended.
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
    let (format, _) = format(text);
    // A text that shows no format is a broken knockd.conf.
    let Parts { top, mut rules, client } = if format == Format::Yaml || text.trim_start().starts_with('{') {
        of_knock_rs(text, options, &mut findings)
    } else {
        of_knock(text, options, &mut findings)
    };
    if rules.len() > RULES_MAX {
        findings.error(1, ImportCause::TooManyRules { count: rules.len(), max: RULES_MAX });
    }
    if findings.no_error() {
        native::replace(&mut rules, options.native, &mut findings);
        rule::note_commands(&rules, &mut findings);
    }
    let notes = findings.finish()?;
    let kept = |(key, _): &(&str, Value)| !client || matches!(*key, "name" | "sequence");
    let rules: Vec<_> = rules.iter().map(|rule| rule.members().into_iter().filter(kept).collect()).collect();
    Ok(Imported { json: json::configuration(&top, &rules), notes })
}

fn of_knock(text: &str, options: &ImportOptions, findings: &mut Findings) -> Parts {
    let sections = sections::sections(text, findings);
    let settings = options.service.as_ref().map_or(&[][..], |service| &service.settings);
    note_service(options.service.as_ref(), findings);
    let top = top(&sections, options, settings, findings);
    let only_ipv4 = settings.iter().any(|setting| setting.option == '4');
    let mut names = HashSet::new();
    let doors = sections.iter().filter(|section| section.name != "options");
    let rules: Vec<Rule> = doors.map(|section| door::door(section, only_ipv4, &mut names, findings)).collect();
    if rules.is_empty() && findings.no_error() {
        findings.error(1, ImportCause::NoDoor);
    }
    Parts { top, rules, client: false }
}

fn of_knock_rs(text: &str, options: &ImportOptions, findings: &mut Findings) -> Parts {
    let file = knock_rs::read(text, findings);
    if !findings.no_error() && (knock_config::parse("", text).is_ok() || knock_config::client::parse("", text).is_ok())
    {
        findings.only_error(1, ImportCause::NoImportNeeded { file: findings.file().to_owned() });
    }
    if file.client {
        findings.note(1, "the file has no command, so it becomes a file of the client, knock-cli");
        return Parts { rules: file.rules, client: true, ..Parts::default() };
    }
    let interface = interface_of(options).or(file.interface.map(Value::from)).unwrap_or_else(|| Value::from("any"));
    let mut top = vec![("interface", interface)];
    top.extend(file.timeout.map(|timeout| ("timeout", duration(timeout))));
    Parts { top, rules: file.rules, client: false }
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
fn top(sections: &[Section], options: &ImportOptions, settings: &[Setting], findings: &mut Findings) -> Members {
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
    // knock's daemon prefers its command line.
    let named =
        settings.iter().rev().find(|setting| setting.option == 'i' && setting.value.parse::<InterfaceName>().is_ok());
    let interface = match (interface_of(options), named, written) {
        (Some(interface), ..) => interface,
        (None, Some(setting), written) => {
            let mut text =
                format!("the interface `{}` is from the command line of knock's daemon", excerpt(&setting.value));
            if let Some(entry) = written.filter(|entry| entry.value != setting.value) {
                text.push_str(&format!("; it overrides Interface = {}", excerpt(&entry.value)));
            }
            findings.note_in(&setting.file, setting.line, text);
            Value::from(setting.value.as_str())
        }
        (None, None, Some(entry)) => Value::from(entry.value.as_str()),
        (None, None, None) => {
            let line = sections.first().map_or(1, |section| section.line);
            let text = "no Interface: the configuration has \"any\", all interfaces; knock took eth0. The option \
                        --interface names another";
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

const NO_LOG_FILE: &str = "knockd writes no log file; it logs to the journal, to syslog or to standard error, which \
                           can be redirected to a file";
const NO_PID_FILE: &str = "knockd writes no PID file, because it stays in the foreground";

/// Notes what becomes of the command line of knock's daemon, besides the interface.
fn note_service(service: Option<&Service>, findings: &mut Findings) {
    let Some(service) = service else { return };
    for Setting { option, value, file, line } in &service.settings {
        let text = match option {
            'i' if value.parse::<InterfaceName>().is_err() => {
                format!("-i {}: not the name of an interface; it is ignored", excerpt(value))
            }
            '4' => "-4: knock ignored IPv6, so IPv6 sources run no command".to_owned(),
            'g' => format!("-g {}: {NO_LOG_FILE}", excerpt(value)),
            'p' => format!("-p {}: {NO_PID_FILE}", excerpt(value)),
            'l' => "-l: knockd logs addresses and looks up no names".to_owned(),
            'D' => "-D: the option -v of knockd, or `log.level`, logs more".to_owned(),
            _ => continue,
        };
        findings.note_in(file, *line, text);
    }
    for file in &service.overrides {
        let text = "this file also changes the unit of this knockd, which is knockd.service too; delete it before the \
                    first start";
        findings.note_in(file, 1, text);
    }
}
