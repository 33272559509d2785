//! The sets of grants: one for each kind of grant that the configuration has.

use std::ffi::CString;
use std::fmt;
use std::str::FromStr;

use knock_proto::{Access, PortRange, Protocol};

use crate::element::ElementKey;
use crate::set::IpVersion;

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
}

impl GrantSet {
    /// The sets for single ports.
    pub(crate) const SINGLE: [GrantSet; 2] = GrantSet::both(Opening::Port);

    /// The sets for both IP versions.
    pub(crate) const fn both(opening: Opening) -> [GrantSet; 2] {
        [GrantSet { opening, version: IpVersion::V4 }, GrantSet { opening, version: IpVersion::V6 }]
    }

    /// The set that holds the element.
    pub(crate) fn of(key: &ElementKey) -> GrantSet {
        GrantSet { opening: key.access.into(), version: IpVersion::of(key.address) }
    }

    /// The name for C.
    pub(crate) fn c_name(self) -> CString {
        // The name has no NUL.
        CString::new(self.to_string()).unwrap_or_default()
    }
}

impl fmt::Display for GrantSet {
    /// The name: `grants4`, `grants6_any`, `grants4_udp_60000_61000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.version {
            IpVersion::V4 => "grants4",
            IpVersion::V6 => "grants6",
        })?;
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
        let words: Vec<&str> = words.collect();
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
        let set = GrantSet { opening, version };
        // Another spelling of a number is another name.
        if set.to_string() == name { Ok(set) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_every_other_name_is_refused() {
        let range = PortRange { protocol: Protocol::Udp, first: 60000, last: 61000 };
        for (opening, name) in [
            (Opening::Port, "grants6"),
            (Opening::Any, "grants6_any"),
            (Opening::Range(range), "grants6_udp_60000_61000"),
        ] {
            let set = GrantSet { opening, version: IpVersion::V6 };
            assert_eq!((set.to_string().as_str(), name.parse()), (name, Ok(set)));
        }
        for name in [
            "",
            "guarded",
            "grants",
            "grants5",
            "grants4_",
            "grants4_all",
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
