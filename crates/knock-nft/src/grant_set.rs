//! The sets of grants: one for each kind of grant that the configuration has.

use std::ffi::CString;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use knock_proto::{Access, PortRange, Prefix, Protocol};

use crate::element::{ElementKey, read_address, read_port};
use crate::ip_version::IpVersion;

/// A kind of grants: what they open, and to how many addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantKind {
    /// What they open.
    pub access: Access,
    /// How many bits of an IPv4 source they are for; 32: the address alone.
    pub prefix4: u8,
    /// How many bits of an IPv6 source they are for; 128: the address alone.
    pub prefix6: u8,
}

impl<A: Into<Access>> From<A> for GrantKind {
    /// Grants to single addresses.
    fn from(access: A) -> GrantKind {
        GrantKind { access: access.into(), prefix4: u8::MAX, prefix6: u8::MAX }
    }
}

/// What the elements of a set of grants open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Opening {
    /// The single guarded port that is part of the key.
    Port,
    /// Every guarded port.
    Any,
    /// The ports of this range.
    Range(PortRange),
}

impl From<Access> for Opening {
    fn from(access: Access) -> Opening {
        match access {
            Access::Any => Opening::Any,
            Access::Ports(ports) if ports.single().is_some() => Opening::Port,
            Access::Ports(ports) => Opening::Range(ports),
        }
    }
}

/// A set of grants. Its name says what its elements mean, so that the next knockd can read them whatever its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GrantSet {
    pub(crate) opening: Opening,
    pub(crate) version: IpVersion,
    /// The length of the prefixes that it holds.
    pub(crate) length: u8,
}

impl GrantSet {
    /// The sets for single ports and single addresses.
    pub(crate) const SINGLE: [GrantSet; 2] = [
        GrantSet { opening: Opening::Port, version: IpVersion::V4, length: IpVersion::V4.bits() },
        GrantSet { opening: Opening::Port, version: IpVersion::V6, length: IpVersion::V6.bits() },
    ];

    /// The sets for both IP versions.
    pub(crate) fn both(grants: &GrantKind) -> [GrantSet; 2] {
        let set = |version: IpVersion, length: u8| GrantSet {
            opening: grants.access.into(),
            version,
            length: length.min(version.bits()),
        };
        [set(IpVersion::V4, grants.prefix4), set(IpVersion::V6, grants.prefix6)]
    }

    /// The set that holds the element.
    pub(crate) fn of(key: &ElementKey) -> GrantSet {
        let version = IpVersion::of(key.prefix.address());
        GrantSet { opening: key.access.into(), version, length: key.prefix.length() }
    }

    /// The bits that are the same in all addresses of a prefix, as an address.
    pub(crate) fn mask(self) -> IpAddr {
        let ones = match self.version {
            IpVersion::V4 => IpAddr::from([u8::MAX; 4]),
            IpVersion::V6 => IpAddr::from([u8::MAX; 16]),
        };
        Prefix::new(ones, self.length).address()
    }

    /// The name for C.
    pub(crate) fn c_name(self) -> CString {
        // The name has no NUL.
        CString::new(self.to_string()).unwrap_or_default()
    }
}

impl fmt::Display for GrantSet {
    /// The name: `grants4`, `grants6_any`, `grants4_udp_60000_61000`, `grants6_64`, `grants6_64_any`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.version {
            IpVersion::V4 => "grants4",
            IpVersion::V6 => "grants6",
        })?;
        if self.length < self.version.bits() {
            write!(f, "_{}", self.length)?;
        }
        match self.opening {
            Opening::Port => Ok(()),
            Opening::Any => f.write_str("_any"),
            Opening::Range(PortRange { protocol, first, last }) => write!(f, "_{protocol}_{first}_{last}"),
        }
    }
}

impl FromStr for GrantSet {
    type Err = ();

    /// Reads a name; an error where it is not the name of a set of grants.
    fn from_str(name: &str) -> Result<GrantSet, ()> {
        let mut words = name.split('_');
        let version = match words.next() {
            Some("grants4") => IpVersion::V4,
            Some("grants6") => IpVersion::V6,
            _ => return Err(()),
        };
        let mut words: Vec<&str> = words.collect();
        let length = words.first().and_then(|word| word.parse().ok());
        if length.is_some() {
            words.remove(0);
        }
        let length = length.unwrap_or(version.bits());
        let opening = match words.as_slice() {
            [] => Opening::Port,
            ["any"] => Opening::Any,
            [protocol, first, last] => {
                let protocol = match *protocol {
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    _ => return Err(()),
                };
                let number = |text: &str| text.parse().map_err(|_| ());
                Opening::Range(PortRange { protocol, first: number(first)?, last: number(last)? })
            }
            _ => return Err(()),
        };
        let set = GrantSet { opening, version, length };
        // Another spelling of a number is another name.
        if set.to_string() == name { Ok(set) } else { Err(()) }
    }
}

/// A key in a set of grants; `None` for one that opens nothing, which another program added.
pub(crate) fn read_grant_key(set: GrantSet, bytes: &[u8]) -> Option<ElementKey> {
    let (address, access) = match set.opening {
        Opening::Any => (bytes, Access::Any),
        Opening::Range(range) => (bytes, range.into()),
        Opening::Port => {
            let (address, port) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
            (address, read_port(port)?.into())
        }
    };
    let address = read_address(address)?;
    let prefix = Prefix::new(address, set.length);
    // No packet has a key with bits behind the prefix.
    (prefix.address() == address).then_some(ElementKey { prefix, access })
}

#[cfg(test)]
mod tests {
    use knock_proto::Port;

    use super::*;
    use crate::element::KeyBytes;

    #[test]
    fn a_grant_key_reads_back() {
        let range = PortRange { protocol: Protocol::Udp, first: 60000, last: 61000 };
        for address in ["192.0.2.1", "2001:db8::1"] {
            for access in [Port::udp(51820).into(), range.into(), Access::Any] {
                for length in [128, 20] {
                    let key = ElementKey { prefix: Prefix::new(address.parse().expect("an address"), length), access };
                    assert_eq!(read_grant_key(GrantSet::of(&key), KeyBytes::grant(&key).as_slice()), Some(key));
                }
            }
        }
        for bytes in [&[][..], &[0; 7], &[0; 8], &[0; 12], &[0; 13], &[6; 64]] {
            assert_eq!(read_grant_key(GrantSet::SINGLE[0], bytes), None);
        }
        for bytes in [&[][..], &[0; 3], &[0; 8], &[6; 64]] {
            assert_eq!(read_grant_key(GrantSet { opening: Opening::Any, ..GrantSet::SINGLE[0] }, bytes), None);
        }
        let wide = GrantSet { opening: Opening::Any, length: 24, ..GrantSet::SINGLE[0] };
        assert_eq!(read_grant_key(wide, &[192, 0, 2, 1]), None, "no packet has this key");
    }

    #[test]
    fn a_name_reads_back_and_every_other_name_is_refused() {
        let range = PortRange { protocol: Protocol::Udp, first: 60000, last: 61000 };
        for (opening, length, name) in [
            (Opening::Port, 128, "grants6"),
            (Opening::Any, 128, "grants6_any"),
            (Opening::Range(range), 128, "grants6_udp_60000_61000"),
            (Opening::Port, 64, "grants6_64"),
            (Opening::Any, 48, "grants6_48_any"),
            (Opening::Range(range), 0, "grants6_0_udp_60000_61000"),
        ] {
            let set = GrantSet { opening, version: IpVersion::V6, length };
            assert_eq!((set.to_string().as_str(), name.parse()), (name, Ok(set)));
        }
        for name in [
            "",
            "guarded",
            "grants",
            "grants5",
            "grants4_",
            "grants4_all",
            "grants4_32",
            "grants4_33",
            "grants6_064",
            "grants4_sctp_1_2",
            "grants4_tcp_1",
            "grants4_tcp_01_2",
            "grants4_tcp_1_70000",
            "grants4_tcp_1_2_3",
        ] {
            assert_eq!(name.parse::<GrantSet>(), Err(()), "{name}");
        }
    }
}
