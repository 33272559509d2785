//! Signed packets: `knockctl spa`.

pub(super) mod files;
pub(super) mod init;
pub(super) mod keys;
mod qr;
pub(super) mod submit;
