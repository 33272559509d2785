//! What an import found: errors, and notes about what changes.

use std::fmt;

use super::cause::ImportCause;

/// A difference between the imported file and the configuration of knockd, displayed as `knockd.conf:12: text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The file: the imported one, or another one of the system.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// The difference, or an alternative.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
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

/// The errors and notes of an import.
#[derive(Debug, Default)]
pub(super) struct Findings {
    file: String,
    errors: Vec<ImportError>,
    notes: Vec<Note>,
}

impl Findings {
    /// Findings about `file`.
    pub(super) fn about(file: &str) -> Findings {
        Findings { file: file.to_owned(), ..Findings::default() }
    }

    pub(super) fn error(&mut self, line: usize, cause: ImportCause) {
        self.errors.push(ImportError { file: self.file.clone(), line, cause });
    }

    pub(super) fn note(&mut self, line: usize, text: impl Into<String>) {
        self.notes.push(Note { file: self.file.clone(), line, text: text.into() });
    }

    /// A note that the file has only once, at the first such line.
    pub(super) fn note_once(&mut self, line: usize, text: &str) {
        if !self.notes.iter().any(|note| note.text == text) {
            self.note(line, text);
        }
    }

    /// Replaces all errors by one.
    pub(super) fn only_error(&mut self, line: usize, cause: ImportCause) {
        self.errors.clear();
        self.error(line, cause);
    }

    /// A note about another file.
    pub(super) fn note_in(&mut self, file: &str, line: usize, text: impl Into<String>) {
        self.notes.push(Note { file: file.to_owned(), line, text: text.into() });
    }

    /// The imported file.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn no_error(&self) -> bool {
        self.errors.is_empty()
    }

    /// The notes, those about other files first, or the errors; both in the order of the lines.
    pub(super) fn finish(mut self) -> Result<Vec<Note>, Vec<ImportError>> {
        if !self.errors.is_empty() {
            self.errors.sort_by_key(|error| error.line);
            return Err(self.errors);
        }
        self.notes.sort_by_key(|note| if note.file == self.file { note.line } else { 0 });
        Ok(self.notes)
    }
}
