//! How far sources are.

use std::collections::BTreeMap;

use crate::{RuleId, Time};

/// How far a source is with a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    /// Its knocks that are the beginning of the sequence.
    pub(crate) knocked: usize,
    /// When the first of them came.
    pub(crate) since: Time,
}

/// The stages of a source, by rule.
pub(crate) type Stages = BTreeMap<RuleId, Stage>;
