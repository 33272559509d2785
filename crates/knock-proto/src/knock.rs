//! A single knock: a protocol and a port, and the TCP flags that make a segment one.

use std::fmt;
use std::str::FromStr;

/// The most knocks that a sequence may have.
pub const SEQUENCE_MAX: usize = 32;

/// The transport protocol of a knock or of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

impl Protocol {
    /// The assigned Internet protocol number: 6 or 17.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }

    /// The protocol of that number, where it is one of the two.
    pub const fn from_number(number: u8) -> Option<Protocol> {
        match number {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// The lower-case name, as configurations and nftables write it.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One knock of a sequence: a packet to this port.
///
/// Written `7000` (TCP), `7000/tcp`, `7000/udp`, or with a colon in place of the slash; shown as `7000/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Knock {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The destination port, 1 to 65535 where it comes from a configuration.
    pub port: u16,
}

impl Knock {
    /// A TCP knock at `port`.
    pub const fn tcp(port: u16) -> Knock {
        Knock { protocol: Protocol::Tcp, port }
    }

    /// A UDP knock at `port`.
    pub const fn udp(port: u16) -> Knock {
        Knock { protocol: Protocol::Udp, port }
    }

    /// A knock at the same port by the other transport protocol.
    pub(crate) const fn by_other_protocol(self) -> Knock {
        match self.protocol {
            Protocol::Tcp => Knock::udp(self.port),
            Protocol::Udp => Knock::tcp(self.port),
        }
    }
}

impl fmt::Display for Knock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// Why a text is no knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseKnockError {
    /// The part before the separator is no decimal number.
    NotANumber(String),
    /// The number is not between 1 and 65535.
    OutOfRange(String),
    /// The part after the separator is neither `tcp` nor `udp`.
    UnknownProtocol(String),
}

impl fmt::Display for ParseKnockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseKnockError::NotANumber(text) => {
                write!(f, "`{text}` is not a port; write a number from 1 to 65535, with /udp after it for UDP")
            }
            ParseKnockError::OutOfRange(text) => write!(f, "port {text} is not between 1 and 65535"),
            ParseKnockError::UnknownProtocol(text) => {
                write!(f, "`{text}` is not a protocol; write tcp or udp")
            }
        }
    }
}

impl std::error::Error for ParseKnockError {}

impl FromStr for Knock {
    type Err = ParseKnockError;

    fn from_str(text: &str) -> Result<Knock, ParseKnockError> {
        let (port, protocol) = match text.split_once(['/', ':']) {
            Some((port, "tcp")) => (port, Protocol::Tcp),
            Some((port, "udp")) => (port, Protocol::Udp),
            Some((_, other)) => return Err(ParseKnockError::UnknownProtocol(other.to_owned())),
            None => (text, Protocol::Tcp),
        };
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseKnockError::NotANumber(port.to_owned()));
        }
        match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Knock { protocol, port }),
            _ => Err(ParseKnockError::OutOfRange(port.to_owned())),
        }
    }
}

/// Which TCP flags a segment must have, and which it must not have, to be a knock.
///
/// Flags in neither set may be either. The bits are those of the thirteenth byte of the TCP header
/// (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpFlags {
    /// Flags that must be set.
    pub set: u8,
    /// Flags that must be clear.
    pub clear: u8,
}

impl TcpFlags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
    /// URG.
    pub const URG: u8 = 0x20;

    /// The first packet of a connection: SYN set; ACK, RST and FIN clear.
    pub const FIRST_PACKET: TcpFlags =
        TcpFlags { set: TcpFlags::SYN, clear: TcpFlags::ACK | TcpFlags::RST | TcpFlags::FIN };

    /// Whether a segment with these flags is one.
    pub const fn matches(self, flags: u8) -> bool {
        flags & self.set == self.set && flags & self.clear == 0
    }
}

impl Default for TcpFlags {
    fn default() -> TcpFlags {
        TcpFlags::FIRST_PACKET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knock_is_a_port_with_an_optional_protocol() {
        assert_eq!("7000".parse(), Ok(Knock::tcp(7000)));
        assert_eq!("7000/tcp".parse(), Ok(Knock::tcp(7000)));
        assert_eq!("7000/udp".parse(), Ok(Knock::udp(7000)));
        assert_eq!("7000:udp".parse(), Ok(Knock::udp(7000)));
        assert_eq!("65535".parse(), Ok(Knock::tcp(65535)));
        assert_eq!(Knock::udp(9).to_string(), "9/udp");
    }

    #[test]
    fn what_is_no_knock_says_why() {
        for (text, expected) in [
            ("70000", "port 70000 is not between 1 and 65535"),
            ("0", "port 0 is not between 1 and 65535"),
            ("7000/sctp", "`sctp` is not a protocol; write tcp or udp"),
            ("7000/UDP", "`UDP` is not a protocol; write tcp or udp"),
        ] {
            assert_eq!(text.parse::<Knock>().expect_err(text).to_string(), expected);
        }
        for text in ["", "-5", "+7", "7000-7010", "abc", " 7000", "/udp"] {
            assert!(matches!(text.parse::<Knock>(), Err(ParseKnockError::NotANumber(_))), "{text}");
        }
    }

    #[test]
    fn the_first_packet_of_a_connection_has_syn_alone() {
        let first = TcpFlags::FIRST_PACKET;
        assert!(first.matches(TcpFlags::SYN));
        assert!(first.matches(TcpFlags::SYN | TcpFlags::PSH));
        for other in [TcpFlags::ACK, TcpFlags::RST, TcpFlags::FIN] {
            assert!(!first.matches(TcpFlags::SYN | other));
        }
        assert!(!first.matches(0));
    }
}
