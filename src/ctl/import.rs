//! Takes over the configuration of knock (jvinet/knock 0.8, knockd(1)).
//!
//! What knock misreads in silence is an error here, with the line and the reason; where a meaning changes, a note
//! says so. The outcome is a configuration that [`knock_config::parse`] accepts.

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

/// A configuration of ours, and what its reader should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The configuration, ready to be written to a file.
    pub json: String,
    /// In the order of the lines.
    pub notes: Vec<Note>,
}

/// Something that the file says, and that is otherwise here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The line of the imported file, from 1.
    pub line: usize,
    /// What is different, or what could be.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// Why a line cannot be taken over, displayed as `knockd.conf:12: reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportError {
    /// The name of the imported file.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong with the line and what to write instead.
    pub cause: ImportCause,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.cause)
    }
}

impl std::error::Error for ImportError {}

/// What is wrong with a line of knockd.conf, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportCause {
    #[error("there is no door; write a section such as [openSSH] with a Sequence")]
    NoDoor,
    #[error("{count} doors are more than {max}; leave out some")]
    TooManyDoors { count: usize, max: usize },
    #[error(
        "`{text}` is neither a [section], nor `Key = value`, nor a # comment at the start of a line; mend or delete it"
    )]
    Syntax { text: String },
    #[error("`{key}` stands before the first [section]; move it into [options] or a door")]
    NoSection { key: String },
    #[error("the section has no name; write one between the brackets")]
    EmptySection,
    #[error("knock's section names heed case, so [{name}] is a door; write [options]")]
    OptionsCase { name: String },
    #[error("UseSyslog takes no value; knock refuses it too: write `UseSyslog` alone")]
    UseSyslogValue,
    #[error("`{key}` has no value; write `{key} = …`")]
    NoValue { key: String },
    #[error("`{key}` is an option of knock's [options]; move it there")]
    OptionInDoor { key: String },
    #[error("`{key}` is a key of a door; move it into one")]
    DoorKeyInOptions { key: String },
    #[error("knock has no key `{key}`; {}mend or delete it",
        suggestion.map(|key| format!("did you mean `{key}`? ")).unwrap_or_default())]
    UnknownKey { key: String, suggestion: Option<&'static str> },
    #[error("`{key}` stands twice in its section, first in line {first}; delete one of the two")]
    Twice { key: String, first: usize },
    #[error("the door has nothing to knock; write `Sequence` or `One_Time_Sequences`")]
    NoSequence,
    #[error("the door has both `Sequence` and `One_Time_Sequences`; delete one of the two")]
    TwoSequences,
    #[error("`{text}` is a range, of which knock silently takes the first port alone; write each port on its own")]
    Range { text: String },
    #[error("`{text}` is not a port, which knock silently reads as {reading}; write a number from 1 to 65535")]
    NotAPort { text: String, reading: u16 },
    #[error("port {text} is not between 1 and 65535; knock silently reads it as {reading}: write what was meant")]
    PortRange { text: String, reading: u16 },
    #[error("`{text}` is not a protocol; write tcp or udp")]
    Protocol { text: String },
    #[error("{count} knocks are more than 32; write a shorter sequence")]
    TooManyKnocks { count: usize },
    #[error("`{text}` is not a whole number of seconds from 1 to 31536000 (a year); write one")]
    Seconds { text: String },
    #[error("`{text}` cannot be TCPFlags: {reason}")]
    Flags { text: String, reason: String },
    #[error("Target: {reason}")]
    Target { reason: String },
    #[error("`{text}` is not an absolute path; begin it with `/`")]
    Path { text: String },
    #[error("`{text}` is not the name of an interface; write one as in `eth0`")]
    Interface { text: String },
    #[error("the value holds a NUL character; delete it")]
    Nul,
}

/// What is found while reading.
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

/// Takes over the knockd.conf in `text`; `file_name` stands before each error.
///
/// With `native`, commands that open and close ports of the host's firewall become `allow` and `revoke`; without, the
/// commands stay and a note says what could replace them.
///
/// # Errors
///
/// Each line that knock refuses, or takes otherwise than its writer can have meant.
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
                    "LogFile = {}: there is no log file; the log goes to the journal, to syslog or to standard error, \
                     which can be sent to a file",
                    excerpt(value)
                ),
            ),
            ("pidfile", Entry { line, .. }) => {
                findings.note(*line, "PidFile: there is none, for the daemon stays in the foreground");
            }
            _ => {}
        }
    }
    if interface.is_none() {
        let line = sections.first().map_or(1, |section| section.line);
        findings.note(line, "no Interface: knock's default eth0 is written; \"any\" would listen on all");
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
