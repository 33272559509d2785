//! What a packet asks for: the body.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::str::FromStr;

use crate::excerpt::excerpt;
use crate::time::UnixTime;

/// The length of a body.
pub const BODY_LENGTH: usize = 96;
const RULE_LENGTH: usize = 64;
const VERSION: u8 = 1;

/// For the source of the packet.
const FLAG_SOURCE: u16 = 1 << 0;
/// For the prefix of the address.
const FLAG_WIDEN: u16 = 1 << 1;

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A grant begins or is extended.
    Open,
    /// The grant ends.
    Close,
}

impl Operation {
    const fn number(self) -> u8 {
        match self {
            Operation::Open => 1,
            Operation::Close => 2,
        }
    }
}

/// What a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is to happen.
    pub operation: Operation,
    /// For which address. `None`: for the source of the packet.
    pub address: Option<IpAddr>,
    /// Whether for the whole prefix of the address: /24 or /64.
    pub widen: bool,
    /// How long, in seconds. `None`: as long as the rule says. Only with [`Operation::Open`].
    pub lifetime: Option<NonZeroU32>,
    /// The time by the clock of the client.
    pub time: UnixTime,
    /// The rule. `None`: the only one that the key may use.
    pub rule: Option<RuleName>,
}

/// A body, or a request, breaks a rule of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Another version of the format.
    #[error("the packet has version {version} of the format, and only version 1 is known here")]
    Version {
        /// The version.
        version: u8,
    },
    /// Neither open nor close.
    #[error("the packet asks for operation {operation}; 1 (open) and 2 (close) are known here")]
    Operation {
        /// Its number.
        operation: u8,
    },
    /// A flag without a meaning.
    #[error("the packet has the flags {flags:#06x}, of which only 0x0001 and 0x0002 are known here")]
    Flags {
        /// All of them.
        flags: u16,
    },
    /// An end of a grant that lasts.
    #[error("the packet asks for an end with a lifetime; only a packet that opens a rule can have one")]
    LifetimeOfClose,
    /// An address together with the flag for the source.
    #[error("the packet asks for its source and names an address as well")]
    AddressBesideSource,
    /// No host has that address.
    #[error("the packet asks for {address}, which is not the address of a host")]
    Address {
        /// The address.
        address: IpAddr,
    },
    /// Not a name with zeros behind.
    #[error("the rule in the packet is not a name of 1 to 64 letters, digits, `_`, `.` or `-`, followed by zeros")]
    Rule,
}

impl Request {
    /// Writes the 96 bytes. An IPv4-mapped IPv6 address is written as the IPv4 address that it is.
    ///
    /// # Errors
    ///
    /// If [`Request::decode`] would refuse the result.
    pub fn encode(&self) -> Result<[u8; BODY_LENGTH], BodyError> {
        let mut body = [0; BODY_LENGTH];
        body[0] = VERSION;
        body[1] = self.operation.number();
        let mut flags = 0;
        match self.address {
            None => flags |= FLAG_SOURCE,
            Some(address) => body[16..32].copy_from_slice(&mapped(checked_address(address.to_canonical())?).octets()),
        }
        if self.widen {
            flags |= FLAG_WIDEN;
        }
        body[2..4].copy_from_slice(&flags.to_be_bytes());
        if let Some(lifetime) = self.lifetime {
            if self.operation == Operation::Close {
                return Err(BodyError::LifetimeOfClose);
            }
            body[4..8].copy_from_slice(&lifetime.get().to_be_bytes());
        }
        body[8..16].copy_from_slice(&self.time.as_millis().to_be_bytes());
        if let Some(rule) = &self.rule {
            body[32..][..rule.0.len()].copy_from_slice(rule.0.as_bytes());
        }
        Ok(body)
    }

    /// Reads the 96 bytes. Two different bodies are never the same request.
    ///
    /// # Errors
    ///
    /// The rule that they break.
    pub fn decode(body: &[u8; BODY_LENGTH]) -> Result<Request, BodyError> {
        let [version] = part(body, 0);
        if version != VERSION {
            return Err(BodyError::Version { version });
        }
        let operation = match part(body, 1) {
            [1] => Operation::Open,
            [2] => Operation::Close,
            [operation] => return Err(BodyError::Operation { operation }),
        };
        let flags = u16::from_be_bytes(part(body, 2));
        if flags & !(FLAG_SOURCE | FLAG_WIDEN) != 0 {
            return Err(BodyError::Flags { flags });
        }
        let lifetime = NonZeroU32::new(u32::from_be_bytes(part(body, 4)));
        if operation == Operation::Close && lifetime.is_some() {
            return Err(BodyError::LifetimeOfClose);
        }
        let time = UnixTime::from_millis(u64::from_be_bytes(part(body, 8)));
        let address = Ipv6Addr::from(part::<16>(body, 16));
        let address = match flags & FLAG_SOURCE != 0 {
            true if address.is_unspecified() => None,
            true => return Err(BodyError::AddressBesideSource),
            false => Some(checked_address(address.to_canonical())?),
        };
        let rule = decode_rule(&part(body, 32))?;
        Ok(Request { operation, address, widen: flags & FLAG_WIDEN != 0, lifetime, time, rule })
    }
}

/// The time in a body that may break other rules of the format.
pub(crate) fn claimed_time(body: &[u8; BODY_LENGTH]) -> UnixTime {
    UnixTime::from_millis(u64::from_be_bytes(part(body, 8)))
}

/// `N` bytes of the body from the byte `at` on.
fn part<const N: usize>(body: &[u8; BODY_LENGTH], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&body[at..][..N]);
    part
}

/// RFC 4291, section 2.5.5.2.
fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn checked_address(address: IpAddr) -> Result<IpAddr, BodyError> {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(BodyError::Address { address });
    }
    Ok(address)
}

fn decode_rule(field: &[u8; RULE_LENGTH]) -> Result<Option<RuleName>, BodyError> {
    let length = field.iter().position(|&byte| byte == 0).unwrap_or(RULE_LENGTH);
    let (name, rest) = field.split_at(length);
    if rest.iter().any(|&byte| byte != 0) {
        return Err(BodyError::Rule);
    }
    if name.is_empty() {
        return Ok(None);
    }
    let name = std::str::from_utf8(name).map_err(|_| BodyError::Rule)?;
    name.parse().map(Some).map_err(|_| BodyError::Rule)
}

/// The name of a rule, as in the configuration of the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName(Box<str>);

/// The text is not the name of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a rule name; write 1 to 64 letters, digits, `_`, `.` or `-`")]
pub struct RuleNameError {
    /// The start of the text.
    pub text: String,
}

impl RuleName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RuleName {
    type Err = RuleNameError;

    fn from_str(text: &str) -> Result<RuleName, RuleNameError> {
        let valid = (1..=RULE_LENGTH).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        valid.then(|| RuleName(text.into())).ok_or_else(|| RuleNameError { text: excerpt(text) })
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
