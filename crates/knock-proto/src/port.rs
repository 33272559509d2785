//! Ports of services: those that rules guard and open.

use std::fmt;
use std::str::FromStr;

use crate::{Knock, ParseKnockError, Protocol};

/// A port of a service, as a rule guards and opens it: `22/tcp`. Written as a [`Knock`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The number, 1 to 65535 where it comes from a configuration.
    pub number: u16,
}

impl Port {
    /// A TCP port.
    pub const fn tcp(number: u16) -> Port {
        Port { protocol: Protocol::Tcp, number }
    }

    /// A UDP port.
    pub const fn udp(number: u16) -> Port {
        Port { protocol: Protocol::Udp, number }
    }

    /// What a packet to this port would be, were it a knock.
    pub const fn knock(self) -> Knock {
        Knock { protocol: self.protocol, port: self.number }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.knock().fmt(f)
    }
}

impl FromStr for Port {
    type Err = ParseKnockError;

    fn from_str(text: &str) -> Result<Port, ParseKnockError> {
        text.parse().map(|Knock { protocol, port }| Port { protocol, number: port })
    }
}

/// Consecutive ports of one protocol, often a single one: `60000-61000/udp`, `22/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The first port, 1 to 65535 where it comes from a configuration.
    pub first: u16,
    /// The last port; not below the first.
    pub last: u16,
}

impl PortRange {
    /// The single port; `None` where there are several.
    pub fn single(self) -> Option<Port> {
        (self.first == self.last).then_some(Port { protocol: self.protocol, number: self.first })
    }

    /// Whether all ports of the other range are in this one.
    pub fn contains(self, other: impl Into<PortRange>) -> bool {
        let other = other.into();
        self.protocol == other.protocol && self.first <= other.first && other.last <= self.last
    }

    /// All ports.
    pub fn ports(self) -> impl Iterator<Item = Port> {
        (self.first..=self.last).map(move |number| Port { protocol: self.protocol, number })
    }

    /// The same ports as ranges without a common port, in ascending order. Neighbours stay apart.
    pub fn disjoint(ranges: impl IntoIterator<Item = PortRange>) -> Vec<PortRange> {
        let mut sorted: Vec<PortRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut disjoint: Vec<PortRange> = Vec::new();
        for range in sorted {
            match disjoint.last_mut() {
                Some(before) if before.protocol == range.protocol && range.first <= before.last => {
                    before.last = before.last.max(range.last);
                }
                _ => disjoint.push(range),
            }
        }
        disjoint
    }
}

impl From<Port> for PortRange {
    fn from(port: Port) -> PortRange {
        PortRange { protocol: port.protocol, first: port.number, last: port.number }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(port) => port.fmt(f),
            None => write!(f, "{}-{}/{}", self.first, self.last, self.protocol),
        }
    }
}

/// Why a text is neither a port nor a range of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsePortsError {
    /// A port of it is not one.
    Port(ParseKnockError),
    /// The last port is below the first.
    Backwards {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
}

impl fmt::Display for ParsePortsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParsePortsError::Port(error) => error.fmt(f),
            ParsePortsError::Backwards { first, last } => write!(f, "the range {first}-{last} ends below its start"),
        }
    }
}

impl std::error::Error for ParsePortsError {}

impl From<ParseKnockError> for ParsePortsError {
    fn from(error: ParseKnockError) -> ParsePortsError {
        ParsePortsError::Port(error)
    }
}

impl FromStr for PortRange {
    type Err = ParsePortsError;

    fn from_str(text: &str) -> Result<PortRange, ParsePortsError> {
        let Some((first, rest)) = text.split_once('-') else { return Ok(text.parse::<Port>()?.into()) };
        let Port { protocol, number: last } = rest.parse()?;
        let first = match first.parse::<Knock>() {
            // With a protocol of its own it is no part of a range.
            Ok(Knock { port, .. }) if first.bytes().all(|byte| byte.is_ascii_digit()) => port,
            Ok(_) => return Err(ParseKnockError::NotANumber(text.to_owned()).into()),
            Err(error) => return Err(error.into()),
        };
        if first > last {
            return Err(ParsePortsError::Backwards { first, last });
        }
        Ok(PortRange { protocol, first, last })
    }
}

/// What an element of the managed table opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// These guarded ports.
    Ports(PortRange),
    /// Every guarded port.
    Any,
}

impl<P: Into<PortRange>> From<P> for Access {
    fn from(ports: P) -> Access {
        Access::Ports(ports.into())
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Access::Ports(ports) => ports.fmt(f),
            Access::Any => f.write_str("any"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { protocol: Protocol::Udp, first, last }
    }

    #[test]
    fn a_range_has_one_protocol_and_is_shown_as_it_is_written() {
        for (text, expected, shown) in [
            ("60000-61000/udp", range(60000, 61000), "60000-61000/udp"),
            ("60000-61000:udp", range(60000, 61000), "60000-61000/udp"),
            ("1-65535", PortRange { protocol: Protocol::Tcp, first: 1, last: 65535 }, "1-65535/tcp"),
            ("53-53/udp", Port::udp(53).into(), "53/udp"),
            ("22", Port::tcp(22).into(), "22/tcp"),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
            assert_eq!(expected.to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_a_range_says_why() {
        for (text, expected) in [
            ("61000-60000/udp", "the range 61000-60000 ends below its start"),
            ("0-10", "port 0 is not between 1 and 65535"),
            ("1-70000", "port 70000 is not between 1 and 65535"),
            ("1-2/sctp", "`sctp` is not a protocol; write tcp or udp"),
        ] {
            assert_eq!(text.parse::<PortRange>().expect_err(text).to_string(), expected);
        }
        for text in ["", "-", "1-", "-1", "1-2-3", "1/tcp-2/tcp", "1/udp-2/udp", "a-b", "1 - 2", "1–2"] {
            let error = text.parse::<PortRange>().expect_err(text);
            assert!(matches!(error, ParsePortsError::Port(ParseKnockError::NotANumber(_))), "{text}: {error:?}");
        }
    }

    fn any_range() -> impl Strategy<Value = PortRange> {
        (any::<bool>(), 1..40_u16, 0..10_u16).prop_map(|(udp, first, more)| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            PortRange { protocol, first, last: first + more }
        })
    }

    proptest! {
        #[test]
        fn disjoint_ranges_have_the_same_ports_and_none_twice(ranges in prop::collection::vec(any_range(), 0..20)) {
            let disjoint = PortRange::disjoint(ranges.clone());
            for pair in disjoint.windows(2) {
                prop_assert!((pair[0].protocol, pair[0].last) < (pair[1].protocol, pair[1].first));
            }
            for port in range(0, 60).ports().flat_map(|port| [port, Port::tcp(port.number)]) {
                let before = ranges.iter().any(|range| range.contains(port));
                prop_assert_eq!(disjoint.iter().filter(|range| range.contains(port)).count(), usize::from(before));
            }
            // Single ports stay single ones: the table of a configuration without ranges has an element for each.
            if ranges.iter().all(|range| range.single().is_some()) {
                prop_assert!(disjoint.iter().all(|range| range.single().is_some()));
            }
        }
    }
}
