//! The sets of the managed table.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};

use crate::door::Doors;
use crate::grant_set::{GrantSet, Opening};
use crate::ip_version::IpVersion;
use crate::message::SetKind;
use crate::spec::TableSpec;

/// The set of guarded ports.
pub(crate) const GUARDED: &CStr = c"guarded";
/// The set of knock ports and tripwires, in a table with doors.
pub(crate) const WATCHED: &CStr = c"watched";

// The numbers by which nft knows types, and the bits that each takes in a concatenation (nftables, include/datatype.h).
const TYPE_BITS: u32 = 6;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_CLASSID: u32 = 23;
const TYPE_PORT: u32 = TYPE_PROTOCOL << TYPE_BITS | TYPE_SERVICE;

/// `NFT_SET_CONCAT` (linux/netfilter/nf_tables.h; Linux 5.6): the fields of the key are intervals of their own.
const SET_CONCAT: u32 = 0x80;
/// The lengths of a protocol and of a port, in bytes.
const PORT_FIELDS: &[u8] = &[1, 2];

/// The sets and what they are.
pub(crate) fn sets(spec: &TableSpec) -> Vec<(CString, SetKind)> {
    let intervals = (libc::NFT_SET_INTERVAL.cast_unsigned() | SET_CONCAT, PORT_FIELDS);
    // A hash table is faster, and has no intervals.
    let (flags, fields) = if spec.guards_intervals() { intervals } else { (0, &[][..]) };
    let guarded = SetKind { id: 1, flags, key_type: TYPE_PORT, key_length: 8, fields, size: 0, data_type: None };
    let added_to: BTreeSet<GrantSet> =
        spec.doors.doors.iter().flat_map(|door| &door.opens).flat_map(GrantSet::both).collect();
    let grants = (2..).zip(spec.grant_sets()).map(|(id, set)| {
        let (address_type, address_length) = set.version.key();
        let (key_type, key_length) = match set.opening {
            Opening::Port => (address_type << (2 * TYPE_BITS) | TYPE_PORT, address_length + 8),
            Opening::Any | Opening::Range(_) => (address_type, address_length),
        };
        let flags = libc::NFT_SET_TIMEOUT.cast_unsigned();
        // A set without a size gets one of 65,535 as soon as a rule adds to it (`nft_dynset_init`). One with a size has its
        // hash table from the start, so only those have one that need it.
        let size = if added_to.contains(&set) { spec.doors.grants.max(1) } else { 0 };
        (set.c_name(), SetKind { id, flags, key_type, key_length, fields: &[], size, data_type: None })
    });
    let mut sets: Vec<_> = std::iter::once((GUARDED.to_owned(), guarded)).chain(grants).collect();
    if !spec.doors.is_empty() {
        let first = u32::try_from(sets.len() + 1).unwrap_or(u32::MAX);
        sets.extend((first..).zip(door_sets()).map(|(id, (name, kind))| (name.to_owned(), SetKind { id, ..kind })));
    }
    sets
}

/// The sets that doors need.
fn door_sets() -> Vec<(&'static CStr, SetKind)> {
    let plain = SetKind { id: 0, flags: 0, key_type: TYPE_PORT, key_length: 8, fields: &[], size: 0, data_type: None };
    let mut sets = vec![(WATCHED, plain)];
    for version in IpVersion::BOTH {
        let (key_type, key_length) = version.key();
        let flags = (libc::NFT_SET_TIMEOUT | libc::NFT_SET_EVAL).cast_unsigned();
        let pending = SetKind { flags, key_type, key_length, size: Doors::PLACES, ..plain };
        let map = flags | libc::NFT_SET_MAP.cast_unsigned();
        sets.push((version.pending(), pending));
        sets.push((version.spoiled(), SetKind { size: Doors::SPOILED, ..pending }));
        sets.push((version.armed(), SetKind { flags: map, data_type: Some(TYPE_CLASSID), ..pending }));
    }
    sets
}

/// Whether a set of that name is part of the managed table, and holds no grants.
pub(crate) fn is_without_grants(name: &str) -> bool {
    let doors = IpVersion::BOTH.into_iter().flat_map(|version| [version.pending(), version.spoiled(), version.armed()]);
    [GUARDED, WATCHED].into_iter().chain(doors).any(|ours| ours.to_bytes() == name.as_bytes())
}
