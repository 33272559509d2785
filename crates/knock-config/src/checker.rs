//! Collects the problems of one file.

use crate::document::Document;
use crate::path::FieldPath;
use crate::problem::{Cause, ConfigError, PROBLEMS_MAX, Places, Problem};
use crate::warning::{Concern, Warning};

/// The problems of one file so far. Further ones than [`PROBLEMS_MAX`] are only counted, so that a file with a
/// million problems is refused as quickly as one with a few.
pub(crate) struct Checker<'d> {
    file: &'d str,
    document: &'d Document<'d>,
    /// Each with the byte of its place.
    problems: Vec<(usize, FieldPath, Cause)>,
    omitted: usize,
}

impl<'d> Checker<'d> {
    pub(crate) fn new(file: &'d str, document: &'d Document<'d>) -> Checker<'d> {
        Checker { file, document, problems: Vec::new(), omitted: 0 }
    }

    /// Notes that the value at `path` is wrong.
    pub(crate) fn report(&mut self, path: &FieldPath, cause: Cause) {
        self.report_with(path, || cause);
    }

    /// The same, with a cause that takes time to find.
    pub(crate) fn report_with(&mut self, path: &FieldPath, cause: impl FnOnce() -> Cause) {
        let document = self.document;
        self.add(|| (document.offset(path), path.clone(), cause()));
    }

    /// Notes a problem at the byte `offset`.
    pub(crate) fn report_at(&mut self, offset: usize, problem: impl FnOnce() -> (FieldPath, Cause)) {
        self.add(|| {
            let (path, cause) = problem();
            (offset, path, cause)
        });
    }

    fn add(&mut self, problem: impl FnOnce() -> (usize, FieldPath, Cause)) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem());
        } else {
            self.omitted += 1;
        }
    }

    /// Warnings about the values at these paths.
    pub(crate) fn warnings(&self, concerns: Vec<(FieldPath, Concern)>) -> Vec<Warning> {
        let mut places = Places::of(self.document.text());
        let warning = |(path, concern)| {
            let position = places.at(self.document.offset(&path));
            Warning { file: self.file.to_owned(), position, path, concern }
        };
        concerns.into_iter().map(warning).collect()
    }

    /// Returns all problems as an error, if there are any.
    pub(crate) fn finish(&mut self) -> Result<(), ConfigError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let mut problems = std::mem::take(&mut self.problems);
        problems.sort_by_key(|(offset, ..)| *offset);
        let mut places = Places::of(self.document.text());
        let problem =
            |(offset, path, cause)| Problem { file: self.file.to_owned(), position: places.at(offset), path, cause };
        Err(ConfigError::Invalid { problems: problems.into_iter().map(problem).collect(), omitted: self.omitted })
    }
}
