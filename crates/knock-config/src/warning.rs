//! What is allowed in a configuration and still hardly wanted.

use std::fmt;

use crate::problem::Position;

/// Something that the operator should know about a configuration that is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The name of the file.
    pub file: String,
    /// Where in the file.
    pub position: Position,
    /// Which field.
    pub path: crate::FieldPath,
    /// What, and why it matters.
    pub concern: Concern,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.position.line, self.position.column)?;
        if !self.path.is_top() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.concern)
    }
}

/// What a warning is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Concern {}

impl fmt::Display for Concern {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}
