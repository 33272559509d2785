//! Collects the problems of one file.

use crate::document::Document;
use crate::path::{FieldPath, Step};
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
    /// What was taken out of the file, because it is wrong.
    removed: Vec<FieldPath>,
}

impl<'d> Checker<'d> {
    pub(crate) fn new(file: &'d str, document: &'d Document<'d>) -> Checker<'d> {
        Checker { file, document, problems: Vec::new(), omitted: 0, removed: Vec::new() }
    }

    /// Notes that the value at `path` is wrong.
    pub(crate) fn report(&mut self, path: &FieldPath, cause: Cause) {
        self.report_with(path, || cause);
    }

    /// The same, with a cause that takes time to find.
    pub(crate) fn report_with(&mut self, path: &FieldPath, cause: impl FnOnce() -> Cause) {
        if self.follows_from_what_is_wrong(path) {
            return;
        }
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

    /// Whether further problems would only be counted.
    pub(crate) fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }

    /// The unknown keys, where they are the only problems so far, and all of them are known.
    pub(crate) fn only_unknown_keys(&self) -> Option<Vec<FieldPath>> {
        if self.is_full() {
            return None;
        }
        let unknown = |(_, path, cause): &(usize, FieldPath, Cause)| match cause {
            Cause::UnknownKey { .. } | Cause::ForeignKey { .. } | Cause::ClientKey { .. } => Some(path.clone()),
            _ => None,
        };
        self.problems.iter().map(unknown).collect()
    }

    /// Reports nothing about a value that was taken out of the file, nor that its object lacks something: a misspelt key
    /// would be reported again, as a missing key.
    pub(crate) fn overlook(&mut self, removed: Option<FieldPath>) {
        self.removed.extend(removed);
    }

    fn follows_from_what_is_wrong(&self, path: &FieldPath) -> bool {
        let path = path.0.as_slice();
        self.removed.iter().any(|removed| {
            let removed = removed.0.as_slice();
            let lacks = removed.starts_with(path) && path.len() + 1 >= removed.len();
            // A key of a rule may have been its name, which another rule revokes or the fleet shares, or the only action in the
            // file.
            let of_rule = matches!(removed, [Step::Key(_), Step::Index(_), Step::Key(_)]);
            let needs_rule = match path {
                [Step::Key(_)] => removed.starts_with(path),
                [Step::Key(fleet), .., Step::Key(list), Step::Index(_)] => {
                    fleet == "fleet" && ["publish", "vouch"].contains(&list.as_str())
                }
                [.., Step::Key(key)] => key == "revoke",
                _ => false,
            };
            // The rules for signed packets need the `spa` of the file.
            let spa = Step::Key("spa".to_owned());
            let needs_spa = *removed == [spa.clone()] && path.last() == Some(&spa);
            lacks || needs_spa || (of_rule && needs_rule)
        })
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
