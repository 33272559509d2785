//! What can trigger a rule: a sequence of knocks, or the next one-time sequence of a file.
//!
//! A trigger is made from a plan of its own, which can be made off the event loop. It says which packets it has to see
//! (`watches`), looks at each (`handle`), and answers with completions: which rule, and for whom. What follows from a
//! completion is for the daemon to decide.

mod one_time;
pub(crate) mod sequences;
