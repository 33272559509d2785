//! The lines of knockd.conf: sections and their keys, as the parser of knock reads them.

use knock_config::{excerpt, nearest};

use super::cause::ImportCause;
use super::findings::Findings;

/// A section with its keys.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) entries: Vec<Entry>,
}

impl Section {
    /// The entry with that key, in the spelling of [`Entry::key`].
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    /// In lower case; an alias is replaced by its key.
    pub(super) key: String,
    /// Without blanks around it.
    pub(super) value: String,
    pub(super) line: usize,
}

const OPTIONS: [&str; 4] = ["usesyslog", "logfile", "pidfile", "interface"];
const DOOR: [&str; 11] = [
    "sequence",
    "one_time_sequences",
    "seq_timeout",
    // Forks of knock have it.
    "seq_cooldown",
    "tcpflags",
    "target",
    "start_command",
    "start_command_6",
    "cmd_timeout",
    "stop_command",
    "stop_command_6",
];
const ALIASES: [(&str, &str); 3] =
    [("timeout", "seq_timeout"), ("command", "start_command"), ("command_6", "start_command_6")];

/// All sections of `text`.
pub(super) fn sections(text: &str, findings: &mut Findings) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with(';') {
            findings.error(number, ImportCause::Semicolon);
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            if name.is_empty() {
                findings.error(number, ImportCause::EmptySection);
            } else if name != "options" && name.eq_ignore_ascii_case("options") {
                findings.error(number, ImportCause::OptionsCase { name: name.to_owned() });
            }
            sections.push(Section { name: name.to_owned(), line: number, entries: Vec::new() });
            continue;
        }
        match sections.last_mut() {
            Some(section) => match entry(line, number, section) {
                Ok(entry) => section.entries.push(entry),
                Err(cause) => findings.error(number, cause),
            },
            None => findings.error(number, ImportCause::NoSection { key: excerpt(key_of(line)) }),
        }
    }
    sections
}

fn key_of(line: &str) -> &str {
    line.split_once('=').map_or(line, |(key, _)| key).trim()
}

fn entry(line: &str, number: usize, section: &Section) -> Result<Entry, ImportCause> {
    let written = key_of(line);
    let lower = written.to_ascii_lowercase();
    let key = ALIASES.iter().find(|(alias, _)| *alias == lower).map_or(lower.as_str(), |(_, key)| key).to_owned();
    let value = line.split_once('=').map(|(_, value)| value.trim());
    let in_options = section.name == "options";
    let shown = || excerpt(written);
    match (OPTIONS.contains(&key.as_str()), DOOR.contains(&key.as_str()), value) {
        (true, _, Some(_)) if key == "usesyslog" => return Err(ImportCause::UseSyslogValue),
        // knock accepts UseSyslog without a value in any section.
        (true, _, None) if key == "usesyslog" => {}
        (true, _, _) if !in_options => return Err(ImportCause::OptionInDoor { key: shown() }),
        (_, true, _) if in_options => return Err(ImportCause::DoorKeyInOptions { key: shown() }),
        (true, _, None) | (_, true, None) => return Err(ImportCause::NoValue { key: shown() }),
        (false, false, None) => return Err(ImportCause::Syntax { text: excerpt(line) }),
        (false, false, Some(_)) => {
            let known = if in_options { OPTIONS.as_slice() } else { DOOR.as_slice() };
            let suggestion = nearest(&key, known.iter().copied());
            let suggestion = suggestion.and_then(|key| known.iter().find(|known| **known == key).copied());
            return Err(ImportCause::UnknownKey { key: shown(), suggestion });
        }
        _ => {}
    }
    if let Some(first) = section.entry(&key) {
        return Err(ImportCause::Twice { key: shown(), first: first.line });
    }
    let value = value.unwrap_or_default();
    if value.contains('\0') {
        return Err(ImportCause::Nul);
    }
    Ok(Entry { key, value: value.to_owned(), line: number })
}
