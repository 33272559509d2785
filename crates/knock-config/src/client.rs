//! The part of a configuration that the client needs: the names of the rules and their sequences.
//!
//! The client's file can have only these fields; the server's file works too.

use std::path::Path;

use crate::checker::Checker;
use crate::file::{open, read, with_raw};
use crate::model::Trigger;
use crate::path::FieldPath;
use crate::problem::ConfigError;
use crate::raw::RawConfig;
use crate::rules;

/// A rule as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRule {
    /// Unique in its file.
    pub name: String,
    /// The sequence, or the file of one-time sequences.
    pub trigger: Trigger,
}

/// Reads the rules in the file at `path`.
///
/// # Errors
///
/// Where the file cannot be read, is bigger than [`crate::FILE_MAX`], or its rules have no valid names and sequences.
/// Other fields are checked for their JSON types only.
pub fn load(path: &Path) -> Result<Vec<ClientRule>, ConfigError> {
    let name = path.display().to_string();
    let (text, _) = read(path, open(path)?)?;
    parse(&name, &text)
}

/// Reads the rules in `text`; each message begins with `file_name`.
///
/// # Errors
///
/// Where its rules have no valid names and sequences.
pub fn parse(file_name: &str, text: &str) -> Result<Vec<ClientRule>, ConfigError> {
    with_raw(file_name, text, |raw, checker| {
        let rules = client_rules(raw, checker);
        checker.finish()?;
        Ok(rules)
    })
}

fn client_rules(raw: RawConfig, checker: &mut Checker<'_>) -> Vec<ClientRule> {
    let Some(raw) = rules::check_list(raw.rules, checker) else { return Vec::new() };
    rules::names(&raw, checker);
    let path = FieldPath::default().key("rules");
    raw.into_iter()
        .enumerate()
        .map(|(index, raw)| ClientRule {
            name: raw.name.unwrap_or_default(),
            trigger: rules::trigger(raw.sequence.as_deref(), raw.one_time_sequences, &path.index(index), checker),
        })
        .collect()
}
