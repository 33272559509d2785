//! What the managed table shall be.

use std::ffi::CString;

use knock_proto::{InterfaceName, Port, Protocol, TableName};

/// What the managed table shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Its name, in the family inet.
    pub name: TableName,
    /// The ports that only a grant opens.
    pub guarded: Vec<Port>,
    /// Interfaces from which everything is let in; by name. They need not exist.
    pub exempt_interfaces: Vec<InterfaceName>,
    /// Whether the table is owned, so that no other process can change it, where the kernel has that (Linux 6.9).
    pub owner: bool,
    /// The most grants at a time, to each IP version; 0: no bound.
    pub max_grants: u32,
}

impl TableSpec {
    /// Whether a UDP port is guarded. Only then is connection tracking asked for, which costs each packet of the host.
    pub(crate) fn guards_udp(&self) -> bool {
        self.guarded.iter().any(|port| port.protocol == Protocol::Udp)
    }

    /// The name for C.
    pub(crate) fn c_name(&self) -> CString {
        // The name of a table has no NUL.
        CString::new(&*self.name).unwrap_or_default()
    }
}
