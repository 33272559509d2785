//! The sets of the managed table.

use std::ffi::{CStr, CString};

use crate::grant_set::Opening;
use crate::message::SetKind;
use crate::spec::TableSpec;

/// The set of guarded ports.
pub(crate) const GUARDED: &CStr = c"guarded";

// The numbers by which nft knows types, and the bits that each takes in a concatenation (nftables, include/datatype.h).
const TYPE_BITS: u32 = 6;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
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
    let guarded = SetKind { id: 1, flags, key_type: TYPE_PORT, key_length: 8, fields };
    let grants = (2..).zip(spec.grant_sets()).map(|(id, set)| {
        let (address_type, address_length) = set.version.key();
        let (key_type, key_length) = match set.opening {
            Opening::Port => (address_type << (2 * TYPE_BITS) | TYPE_PORT, address_length + 8),
            Opening::Any | Opening::Range(_) => (address_type, address_length),
        };
        let flags = libc::NFT_SET_TIMEOUT.cast_unsigned();
        (set.c_name(), SetKind { id, flags, key_type, key_length, fields: &[] })
    });
    std::iter::once((GUARDED.to_owned(), guarded)).chain(grants).collect()
}
