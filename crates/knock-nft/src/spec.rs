//! What the managed table shall be.

use std::collections::BTreeSet;
use std::ffi::CString;

use knock_proto::{InterfaceName, PortRange, Protocol, TableName};

use crate::door::Doors;
use crate::grant_set::{GrantKind, GrantSet};

/// What the managed table shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Its name, in the family inet.
    pub name: TableName,
    /// The ports that only a grant opens.
    pub guarded: Vec<PortRange>,
    /// The kinds of grants. That of single ports to single addresses need not be named.
    pub grants: Vec<GrantKind>,
    /// Interfaces from which everything is let in; by name. They need not exist.
    pub exempt_interfaces: Vec<InterfaceName>,
    /// Whether the table is owned, so that no other process can change it, where the kernel has that (Linux 6.9).
    pub owner: bool,
    /// Where the kernel opens ports by itself. Only in a table that is owned.
    pub doors: Doors,
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

    /// Whether the set of guarded ports has to hold intervals.
    pub(crate) fn guards_intervals(&self) -> bool {
        self.guarded.iter().any(|ports| ports.single().is_none())
    }

    /// The sets of grants. Those for single ports are always there.
    pub(crate) fn grant_sets(&self) -> BTreeSet<GrantSet> {
        self.grants.iter().flat_map(GrantSet::both).chain(GrantSet::SINGLE).collect()
    }

    /// The same table without doors.
    pub(crate) fn without_doors(&self) -> TableSpec {
        TableSpec { doors: Doors::default(), ..self.clone() }
    }

    /// The name for C.
    pub(crate) fn c_name(&self) -> CString {
        // The name of a table has no NUL.
        CString::new(&*self.name).unwrap_or_default()
    }
}
