//! The versions of IP, as addresses and as types of sets.

use std::ffi::CStr;
use std::net::IpAddr;

// The numbers by which nft knows types (nftables, include/datatype.h).
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;

/// The version of the addresses in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    /// `ipv4_addr`.
    V4,
    /// `ipv6_addr`.
    V6,
}

impl IpVersion {
    pub(crate) const BOTH: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

    /// The set of sources that are about to be armed.
    pub(crate) const fn pending(self) -> &'static CStr {
        match self {
            IpVersion::V4 => c"pending4",
            IpVersion::V6 => c"pending6",
        }
    }

    /// The set of sources that sent something else while they were pending or armed.
    pub(crate) const fn spoiled(self) -> &'static CStr {
        match self {
            IpVersion::V4 => c"spoiled4",
            IpVersion::V6 => c"spoiled6",
        }
    }

    /// The map of armed sources to the numbers of their doors.
    pub(crate) const fn armed(self) -> &'static CStr {
        match self {
            IpVersion::V4 => c"armed4",
            IpVersion::V6 => c"armed6",
        }
    }

    /// The version of an address; an IPv4-mapped one is an IPv4 address.
    pub fn of(address: IpAddr) -> IpVersion {
        if address.to_canonical().is_ipv4() { IpVersion::V4 } else { IpVersion::V6 }
    }

    pub(crate) const fn type_name(self) -> &'static str {
        match self {
            IpVersion::V4 => "ipv4_addr",
            IpVersion::V6 => "ipv6_addr",
        }
    }

    /// How many bits an address has.
    pub(crate) const fn bits(self) -> u8 {
        match self {
            IpVersion::V4 => 32,
            IpVersion::V6 => 128,
        }
    }

    /// The number of the type and the length of a key.
    pub(crate) const fn key(self) -> (u32, u32) {
        match self {
            IpVersion::V4 => (TYPE_IPV4, 4),
            IpVersion::V6 => (TYPE_IPV6, 16),
        }
    }
}
