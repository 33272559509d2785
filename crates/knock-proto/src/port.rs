//! A port of a service.

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
