//! What the managed table shall be.

use std::ffi::CString;

use knock_proto::{Knock, Protocol};

use crate::error::Error;
use crate::name::{check_interface_name, check_table_name};

/// What the managed table shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Its name, in the family inet; see [`crate::check_table_name`].
    pub name: String,
    /// The ports that only a grant opens.
    pub guarded: Vec<Knock>,
    /// Interfaces from which everything is let in; by name, at most 15 bytes each. They need not exist.
    pub exempt_interfaces: Vec<String>,
    /// Whether the table is owned, so that no other process can change it, where the kernel has that (Linux 6.9).
    pub owner: bool,
    /// The most grants at a time, to each IP version; 0: no bound.
    pub max_grants: u32,
}

impl TableSpec {
    /// Checks what the kernel, or nft, would not take.
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_table_name(&self.name)?;
        self.exempt_interfaces.iter().try_for_each(|name| check_interface_name(name))
    }

    /// Whether a UDP port is guarded. Only then is connection tracking asked for, which costs each packet of the host.
    pub(crate) fn guards_udp(&self) -> bool {
        self.guarded.iter().any(|&Knock { protocol, .. }| protocol == Protocol::Udp)
    }

    /// The name for C.
    pub(crate) fn c_name(&self) -> CString {
        // Checked names have no NUL.
        CString::new(self.name.as_str()).unwrap_or_default()
    }
}
