//! Signed packets: `knockctl spa`.

pub(super) mod files;
pub(super) mod init;
pub(super) mod keys;
pub(super) mod metrics;
mod qr;
pub(super) mod state;
pub(super) mod submit;
