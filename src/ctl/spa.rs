//! Signed packets: `knockctl spa`.

pub(super) mod keys;
pub(super) mod submit;
