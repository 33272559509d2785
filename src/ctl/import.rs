//! Converts the configuration of knock (jvinet/knock 0.8, knockd(1)).
//!
//! A line that knock silently misreads is an error here, with the reason; a note explains each change of meaning. The
//! result is a configuration that [`knock_config::parse`] accepts.

mod door;
mod firewall;
mod json;
mod native;
mod sections;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;

use knock_config::{RULES_MAX, excerpt};
use knock_proto::InterfaceName;
use serde_json::Value;

use door::Door;
use sections::{Entry, Section};

/// The configuration of knockd, and notes for its reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The configuration, ready to be written to a file.
    pub json: String,
    /// In the order of the lines.
    pub notes: Vec<Note>,
}

/// A difference between the imported file and the configuration of knockd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The line of the imported file, from 1.
    pub line: usize,
    /// The difference, or an alternative.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// The reason why a line cannot be converted, displayed as `knockd.conf:12: reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportError {
    /// The name of the imported file.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// The error, and its remedy.
    pub cause: ImportCause,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.cause)
    }
}

impl std::error::Error for ImportError {}

/// An error in a line of knockd.conf, and its remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportCause {
    #[error("the file has no door; write a section such as [openSSH] with a Sequence")]
    NoDoor,
    #[error("{count} doors are more than the limit of {max}; delete some doors")]
    TooManyDoors { count: usize, max: usize },
    #[error(
        "`{text}` is not a [section], not `Key = value` and not a # comment at the start of a line; correct or delete it"
    )]
    Syntax { text: String },
    #[error("`{key}` is before the first [section]; move it into [options] or a door")]
    NoSection { key: String },
    #[error("the section has no name; write one between the brackets")]
    EmptySection,
    #[error("section names of knock are case-sensitive, so [{name}] is a door; write [options]")]
    OptionsCase { name: String },
    #[error("UseSyslog has no value, and knock refuses one too; write `UseSyslog` alone")]
    UseSyslogValue,
    #[error("`{key}` has no value; write `{key} = …`")]
    NoValue { key: String },
    #[error("`{key}` is a key of [options]; move it into that section")]
    OptionInDoor { key: String },
    #[error("`{key}` is a key of a door; move it into a door")]
    DoorKeyInOptions { key: String },
    #[error("knock has no key `{key}`; {}correct or delete it",
        suggestion.map(|key| format!("did you mean `{key}`? ")).unwrap_or_default())]
    UnknownKey { key: String, suggestion: Option<&'static str> },
    #[error("duplicate key `{key}` in the section, first in line {first}; delete one of the two")]
    Twice { key: String, first: usize },
    #[error("the door has no sequence; write `Sequence` or `One_Time_Sequences`")]
    NoSequence,
    #[error("the door has both `Sequence` and `One_Time_Sequences`; delete one of the two")]
    TwoSequences,
    #[error("`{text}` is a range, and knock silently uses only its first port; write each port separately")]
    Range { text: String },
    #[error("`{text}` is not a port, and knock silently reads it as {reading}; write a number from 1 to 65535")]
    NotAPort { text: String, reading: u16 },
    #[error(
        "port {text} is not between 1 and 65535, and knock silently reads it as {reading}; write the intended port"
    )]
    PortRange { text: String, reading: u16 },
    #[error("`{text}` is not a protocol; write tcp or udp")]
    Protocol { text: String },
    #[error("{count} knocks are more than the limit of 32; write a shorter sequence")]
    TooManyKnocks { count: usize },
    #[error("`{text}` is not a whole number of seconds from 1 to 31536000 (a year); write such a number")]
    Seconds { text: String },
    #[error("`{text}` cannot be TCPFlags: {reason}")]
    Flags { text: String, reason: String },
    #[error("Target: {reason}")]
    Target { reason: String },
    #[error("`{text}` is not an absolute path; begin it with `/`")]
    Path { text: String },
    #[error("`{text}` is not the name of an interface; write a name such as `eth0`")]
    Interface { text: String },
    #[error("the value contains a NUL character; delete the character")]
    Nul,
}

/// The errors and notes of an import.
#[derive(Debug, Default)]
struct Findings {
    errors: Vec<(usize, ImportCause)>,
    notes: Vec<Note>,
}

impl Findings {
    fn error(&mut self, line: usize, cause: ImportCause) {
        self.errors.push((line, cause));
    }

    fn note(&mut self, line: usize, text: impl Into<String>) {
        self.notes.push(Note { line, text: text.into() });
    }
}

/// Converts the knockd.conf in `text`; each error begins with `file_name`.
///
/// With `native`, commands that open and close ports of the host's firewall become `allow` and `revoke`; without, the
/// commands stay and a note shows their replacement.
///
/// # Errors
///
/// Each line that knock refuses, or that it reads with another meaning than the writer can have intended.
pub fn import(file_name: &str, text: &str, native: bool) -> Result<Imported, Vec<ImportError>> {
    let mut findings = Findings::default();
    let sections = sections::sections(text, &mut findings);
    let top = options(&sections, &mut findings);
    let mut doors: Vec<Door> = Vec::new();
    let mut names = HashSet::new();
    for section in sections.iter().filter(|section| section.name != "options") {
        doors.push(door::door(section, &mut names, &mut findings));
    }
    if doors.is_empty() && findings.errors.is_empty() {
        findings.error(1, ImportCause::NoDoor);
    } else if doors.len() > RULES_MAX {
        findings.error(1, ImportCause::TooManyDoors { count: doors.len(), max: RULES_MAX });
    }
    if findings.errors.is_empty() {
        native::replace(&mut doors, native, &mut findings);
        door::note_commands(&doors, &mut findings);
    }
    let Findings { mut errors, mut notes } = findings;
    if errors.is_empty() {
        notes.sort_by_key(|note| note.line);
        let rules: Vec<_> = doors.iter().map(Door::members).collect();
        return Ok(Imported { json: json::configuration(&top, &rules), notes });
    }
    errors.sort_by_key(|(line, _)| *line);
    let located = |(line, cause)| ImportError { file: file_name.to_owned(), line, cause };
    Err(errors.into_iter().map(located).collect())
}

/// The members of the configuration besides its rules.
fn options(sections: &[Section], findings: &mut Findings) -> Vec<(&'static str, Value)> {
    let mut interface = None;
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
                interface = Some(value.clone());
            }
            ("logfile", Entry { line, value, .. }) => findings.note(
                *line,
                format!(
                    "LogFile = {}: knockd writes no log file; it logs to the journal, to syslog or to standard error, \
                     which can be redirected to a file",
                    excerpt(value)
                ),
            ),
            ("pidfile", Entry { line, .. }) => {
                findings.note(*line, "PidFile: knockd writes no PID file, because it stays in the foreground");
            }
            _ => {}
        }
    }
    if interface.is_none() {
        let line = sections.first().map_or(1, |section| section.line);
        findings.note(
            line,
            "no Interface: the configuration names eth0, the default of knock; \"any\" listens on all interfaces",
        );
    }
    let mut top = vec![
        ("interface", Value::from(interface.unwrap_or_else(|| "eth0".to_owned()))),
        ("timeout", Value::from(door::SEQ_TIMEOUT)),
    ];
    if syslog {
        top.push(("log", serde_json::json!({"target": "syslog"})));
    }
    top
}
