//! What the managed table shall be.

use std::collections::BTreeSet;
use std::ffi::CString;

use knock_proto::{Access, InterfaceName, PortRange, Protocol, TableName};

use crate::grant_set::GrantSet;

/// What the managed table shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Its name, in the family inet.
    pub name: TableName,
    /// The ports that only a grant opens.
    pub guarded: Vec<PortRange>,
    /// What grants open. Single ports need not be named.
    pub opens: Vec<Access>,
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

    /// The elements of the set of guarded ports.
    pub(crate) fn guarded_ranges(&self) -> Vec<PortRange> {
        PortRange::disjoint(self.guarded.iter().copied())
    }

    /// The sets of grants. Those for single ports are always there.
    pub(crate) fn grant_sets(&self) -> BTreeSet<GrantSet> {
        self.opens.iter().flat_map(|&access| GrantSet::both(access.into())).chain(GrantSet::SINGLE).collect()
    }

    /// The name for C.
    pub(crate) fn c_name(&self) -> CString {
        // The name of a table has no NUL.
        CString::new(&*self.name).unwrap_or_default()
    }
}
