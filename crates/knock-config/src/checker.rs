//! Collects what is wrong with one file.

use crate::document::Document;
use crate::path::FieldPath;
use crate::problem::{Cause, ConfigError, PROBLEMS_MAX, Position, Problem};
use crate::warning::{Concern, Warning};

/// The problems of one file so far.
pub(crate) struct Checker<'d> {
    file: &'d str,
    document: &'d Document<'d>,
    problems: Vec<Problem>,
    omitted: usize,
}

impl<'d> Checker<'d> {
    pub(crate) fn new(file: &'d str, document: &'d Document<'d>) -> Checker<'d> {
        Checker { file, document, problems: Vec::new(), omitted: 0 }
    }

    /// Notes that the value at `path` is wrong.
    pub(crate) fn report(&mut self, path: &FieldPath, cause: Cause) {
        // Finding a position reads the file from its start: not for problems that nobody will see.
        if self.problems.len() < PROBLEMS_MAX {
            let position = self.document.position(path);
            self.report_at(path.clone(), position, cause);
        } else {
            self.omitted += 1;
        }
    }

    /// Notes a problem whose position is known.
    pub(crate) fn report_at(&mut self, path: FieldPath, position: Position, cause: Cause) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { file: self.file.to_owned(), position, path, cause });
        } else {
            self.omitted += 1;
        }
    }

    /// A warning about the value at `path`.
    pub(crate) fn warning(&self, path: FieldPath, concern: Concern) -> Warning {
        Warning { file: self.file.to_owned(), position: self.document.position(&path), path, concern }
    }

    /// All problems as an error; fine where there is none.
    pub(crate) fn finish(&mut self) -> Result<(), ConfigError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let mut problems = std::mem::take(&mut self.problems);
        problems.sort_by_key(|problem| problem.position);
        Err(ConfigError::Invalid { problems, omitted: self.omitted })
    }
}
