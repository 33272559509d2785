//! The path of a field in a configuration: `rules[1].sequence[0]`.

use std::fmt;

use serde_json::Value;

use crate::excerpt::excerpt;

/// One step into a JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// The path of a value during the walk over the text, on the stack: it becomes a [`FieldPath`] only for a problem. A key
/// can be as long as the file, so a copy for each value below it would cost the square of that.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way<'w> {
    Top,
    Key(&'w Way<'w>, &'w str),
    Index(&'w Way<'w>, usize),
}

impl Way<'_> {
    /// The same path, with copies of the keys.
    pub(crate) fn path(&self) -> FieldPath {
        let mut steps = Vec::new();
        let mut way = self;
        loop {
            let (before, step) = match way {
                Way::Top => break,
                Way::Key(before, key) => (before, Step::Key((*key).to_owned())),
                Way::Index(before, index) => (before, Step::Index(*index)),
            };
            steps.push(step);
            way = before;
        }
        steps.reverse();
        FieldPath(steps)
    }
}

/// The steps from the top of the file to a field; empty for the whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(pub(crate) Vec<Step>);

impl FieldPath {
    /// The path of the member `name` of the value at this path.
    pub(crate) fn key(&self, name: &str) -> FieldPath {
        self.with(Step::Key(name.to_owned()))
    }

    /// The path of the element `index` of the value at this path.
    pub(crate) fn index(&self, index: usize) -> FieldPath {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> FieldPath {
        let mut steps = self.0.clone();
        steps.push(step);
        FieldPath(steps)
    }

    /// Takes the member of an object at this path out of `file`, or the nearest one that encloses it. Returns its path; `None`:
    /// there is none.
    pub(crate) fn take_out_of(&self, file: &mut Value) -> Option<FieldPath> {
        let last = self.0.iter().rposition(|step| matches!(step, Step::Key(_)))?;
        let (steps, member) = (self.0.get(..last)?, self.0.get(last)?);
        let mut value = file;
        for step in steps {
            value = match step {
                Step::Key(key) => value.get_mut(key)?,
                Step::Index(index) => value.get_mut(index)?,
            };
        }
        let Step::Key(key) = member else { return None };
        value.as_object_mut()?.remove(key)?;
        Some(FieldPath(self.0.get(..=last)?.to_vec()))
    }

    /// Whether this is the path of the whole file.
    pub fn is_top(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&serde_path_to_error::Path> for FieldPath {
    fn from(path: &serde_path_to_error::Path) -> FieldPath {
        use serde_path_to_error::Segment;
        FieldPath(
            path.iter()
                .filter_map(|segment| match segment {
                    Segment::Seq { index } => Some(Step::Index(*index)),
                    Segment::Map { key } => Some(Step::Key(key.clone())),
                    Segment::Enum { .. } | Segment::Unknown => None,
                })
                .collect(),
        )
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                // An unknown key can contain any characters.
                Step::Key(key) if position == 0 => write!(f, "{}", excerpt(key))?,
                Step::Key(key) => write!(f, ".{}", excerpt(key))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
