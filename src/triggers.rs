//! What can trigger a rule: a sequence of knocks, the next one-time sequence of a file, or a signed packet.
//!
//! A trigger is made from a plan of its own, which can be made off the event loop. It says which packets it has to see
//! (`watches`), looks at each (`handle`), and answers with completions: which rule, and for whom. What follows from a
//! completion is for the daemon to decide.

pub(crate) mod one_time;
pub(crate) mod sequences;
pub(crate) mod signed_packets;
