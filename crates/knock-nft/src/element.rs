//! Set elements, which represent grants in the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use knock_proto::{Access, Port, PortRange, Prefix, Protocol};

use crate::attribute::{self, Attributes, Message};

/// The longest timeout that is handed to the kernel, in milliseconds: about 31 years. The kernel counts in jiffies and
/// refuses (ERANGE) what overflows them.
const TIMEOUT_MAX_MS: u64 = 1_000_000_000_000;
/// The longest comment in bytes, without the NUL. nft itself writes no longer one (`NFTNL_UDATA_COMMENT_MAXLEN`).
const COMMENT_MAX: usize = 127;
/// The type of a comment in the userdata of a table or an element: `NFTNL_UDATA_TABLE_COMMENT`, `NFTNL_UDATA_SET_ELEM_COMMENT`.
const UDATA_COMMENT: u8 = 0;

/// What an element of the managed table is for: source addresses and what is open to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ElementKey {
    /// The source address, or all addresses of a prefix.
    pub prefix: Prefix,
    /// What it opens.
    pub access: Access,
}

/// A grant in the managed table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// For whom, and what it opens.
    pub key: ElementKey,
    /// The rule's name; bytes after the 127th or after a NUL are left out.
    pub comment: String,
    /// How long the grant was made for; milliseconds count, at most 31 years.
    pub timeout: Duration,
    /// How long it still lasts; at most `timeout`.
    pub remaining: Duration,
}

/// An address in a user set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressElement {
    /// The address.
    pub address: IpAddr,
    /// The comment; empty where there is none.
    pub comment: String,
    /// The timeout and the remaining time; `None`: the element is permanent, so it is not from knockd.
    pub lifetime: Option<Lifetime>,
}

/// How long an element was made for and how long it still lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// How long the element was made for.
    pub timeout: Duration,
    /// How long it still lasts.
    pub remaining: Duration,
}

impl Lifetime {
    /// The whole of a timeout.
    pub const fn whole(timeout: Duration) -> Lifetime {
        Lifetime { timeout, remaining: timeout }
    }
}

/// The bytes of a key: up to an IPv6 address, a protocol and a port, each part padded to four bytes.
#[derive(Clone, Copy)]
pub(crate) struct KeyBytes {
    bytes: [u8; 24],
    length: usize,
}

impl KeyBytes {
    fn new() -> KeyBytes {
        KeyBytes { bytes: [0; 24], length: 0 }
    }

    fn push(mut self, part: &[u8]) -> KeyBytes {
        if let Some(space) = self.bytes.get_mut(self.length..self.length + part.len()) {
            space.copy_from_slice(part);
            self.length += part.len().next_multiple_of(4);
        }
        self
    }

    /// The key of an element in the set of guarded ports.
    pub(crate) fn port(port: Port) -> KeyBytes {
        KeyBytes::new().push_port(port)
    }

    fn push_port(self, port: Port) -> KeyBytes {
        self.push(&[port.protocol.number()]).push(&port.number.to_be_bytes())
    }

    /// The key of an element in a set of addresses.
    pub(crate) fn address(address: IpAddr) -> KeyBytes {
        match address.to_canonical() {
            IpAddr::V4(v4) => KeyBytes::new().push(&v4.octets()),
            IpAddr::V6(v6) => KeyBytes::new().push(&v6.octets()),
        }
    }

    /// The key of a grant.
    pub(crate) fn grant(key: &ElementKey) -> KeyBytes {
        let address = KeyBytes::address(key.prefix.address());
        match key.access {
            Access::Ports(ports) => ports.single().map_or(address, |port| address.push_port(port)),
            Access::Any => address,
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
}

pub(crate) fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
}

pub(crate) fn read_port(bytes: &[u8]) -> Option<Port> {
    let [protocol, _, _, _, high, low, _, _] = *bytes else { return None };
    Some(Port { protocol: Protocol::from_number(protocol)?, number: u16::from_be_bytes([high, low]) })
}

/// Timeout and expiry as the kernel takes them, in milliseconds; never zero, which would mean for ever.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).clamp(1, TIMEOUT_MAX_MS)
}

/// A comment as the userdata record that nft reads: type, length with the final NUL, text, NUL.
pub(crate) fn comment_record(comment: &str) -> Vec<u8> {
    let text = comment.split('\0').next().unwrap_or("");
    let text = if text.len() > COMMENT_MAX { prefix(text, COMMENT_MAX) } else { text };
    if text.is_empty() {
        return Vec::new();
    }
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[UDATA_COMMENT, length], text.as_bytes(), &[0]].concat()
}

/// The longest prefix of at most `limit` bytes that cuts no character in two.
fn prefix(text: &str, limit: usize) -> &str {
    (0..=limit).rev().find_map(|end| text.get(..end)).unwrap_or("")
}

/// The comment in a userdata record.
pub(crate) fn read_comment(mut record: &[u8]) -> Option<&str> {
    while let [kind, length, rest @ ..] = record {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *kind == UDATA_COMMENT {
            return std::str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0'));
        }
        record = rest;
    }
    None
}

/// An element as the kernel lists it.
pub(crate) struct Listed<'a> {
    pub(crate) key: &'a [u8],
    /// The last key of an interval.
    key_end: Option<&'a [u8]>,
    pub(crate) comment: &'a str,
    /// In milliseconds; absent where it is the set's own, or the element permanent.
    timeout: Option<u64>,
    /// In milliseconds; absent where the element is permanent.
    expiration: Option<u64>,
}

impl<'a> Listed<'a> {
    fn read(attributes: Attributes<'a>) -> Option<Listed<'a>> {
        use attribute::element::{EXPIRATION, KEY, KEY_END, TIMEOUT, USERDATA, VALUE};
        Some(Listed {
            key: attributes.get(KEY)?.nested().get(VALUE)?.0,
            key_end: attributes.get(KEY_END).and_then(|end| end.nested().get(VALUE)).map(|end| end.0),
            comment: attributes.get(USERDATA).and_then(|record| read_comment(record.0)).unwrap_or(""),
            timeout: attributes.be64(TIMEOUT),
            expiration: attributes.be64(EXPIRATION),
        })
    }

    /// The ports of an element in the set of guarded ports.
    pub(crate) fn ports(&self) -> Option<PortRange> {
        let first = read_port(self.key)?;
        let last = self.key_end.map_or(Some(first), read_port)?;
        (first.protocol == last.protocol).then_some(PortRange { last: last.number, ..first.into() })
    }

    /// The timeout and the rest of it. The kernel leaves out a timeout that is the set's default (in milliseconds).
    pub(crate) fn lifetime(&self, set_default: Option<u64>) -> Option<Lifetime> {
        let remaining = Duration::from_millis(self.expiration?);
        let timeout = self.timeout.filter(|&t| t > 0).or(set_default).map_or(remaining, Duration::from_millis);
        Some(Lifetime { timeout, remaining: remaining.min(timeout) })
    }
}

/// Hands each element of an `NFT_MSG_NEWSETELEM` to `visit`.
pub(crate) fn read_elements(message: Message<'_>, mut visit: impl FnMut(Listed<'_>)) {
    let Some(list) = message.attributes().get(attribute::element::LIST_ELEMENTS) else { return };
    for (kind, one) in list.nested() {
        if kind == attribute::element::IN_LIST
            && let Some(listed) = Listed::read(one.nested())
        {
            visit(listed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_has_the_key_of_the_ipv4_one() {
        let mapped = KeyBytes::address("::ffff:192.0.2.1".parse().expect("an address"));
        assert_eq!(mapped.as_slice(), [192, 0, 2, 1]);
    }

    #[test]
    fn no_duration_becomes_permanent() {
        assert_eq!(milliseconds(Duration::ZERO), 1);
        assert_eq!(milliseconds(Duration::from_micros(1001)), 2);
        assert_eq!(milliseconds(Duration::from_secs(3600)), 3_600_000);
        assert_eq!(milliseconds(Duration::MAX), TIMEOUT_MAX_MS);
    }

    #[test]
    fn a_comment_carries_its_length_with_the_nul() {
        assert_eq!(comment_record("ssh"), b"\0\x04ssh\0");
        assert_eq!(comment_record(""), b"");
        assert_eq!(comment_record("a\0b"), b"\0\x02a\0");
        let long = "ä".repeat(100);
        let record = comment_record(&long);
        assert_eq!(read_comment(&record).map(str::len), Some(126), "cut before a half character");
    }

    #[test]
    fn a_comment_is_found_behind_other_records() {
        assert_eq!(read_comment(b"\x01\x02ab\0\x04ssh\0"), Some("ssh"));
        assert_eq!(read_comment(b"\x01\x09ab"), None);
        assert_eq!(read_comment(b"\x01"), None);
    }
}
