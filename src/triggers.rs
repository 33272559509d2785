//! What can trigger a rule: a sequence of knocks, or the next one-time sequence of a file.

pub(crate) mod one_time;
pub(crate) mod sequences;
