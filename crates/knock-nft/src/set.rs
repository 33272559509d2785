//! Sets that the administrator owns: checked, filled and emptied, never made.

use std::ffi::{CStr, CString};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use nftnl::MsgType;
use rustix::io::Errno;

use crate::attribute::{self, Request};
use crate::connection::Connection;
use crate::element::{AddressElement, KeyBytes, Lifetime, comment_record, milliseconds, read_address, read_elements};
use crate::error::{Error, Operation, UnusableSet};
use crate::family::{Family, ParseFamilyError};
use crate::layout::elements_request;
use crate::message::{ElementsMessage, Timeout};
use crate::ruleset::{TYPE_IPV4, TYPE_IPV6};
use crate::table::{ManagedTable, REVOKE_ATTEMPTS};

/// `NFT_SET_OBJECT` (linux/netfilter/nf_tables.h), a map to objects.
const SET_OBJECT: libc::c_int = 0x40;

/// Where a set is: `inet filter knock_ssh4`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetAddress {
    /// The family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub set: String,
}

impl fmt::Display for SetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.set)
    }
}

/// Why a text names no set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSetAddressError {
    /// It is not three words.
    #[error("`{0}` is not the name of a set; write its family, table and name: `inet filter knock_ssh4`")]
    NotThreeWords(String),
    /// The first word is no family.
    #[error(transparent)]
    Family(#[from] ParseFamilyError),
}

impl FromStr for SetAddress {
    type Err = ParseSetAddressError;

    fn from_str(text: &str) -> Result<SetAddress, ParseSetAddressError> {
        let mut words = text.split_ascii_whitespace();
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(family), Some(table), Some(set), None) if !text.contains('\0') => {
                Ok(SetAddress { family: family.parse()?, table: table.to_owned(), set: set.to_owned() })
            }
            _ => Err(ParseSetAddressError::NotThreeWords(text.to_owned())),
        }
    }
}

/// The version of the addresses in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    /// `ipv4_addr`.
    V4,
    /// `ipv6_addr`.
    V6,
}

impl IpVersion {
    /// The version of an address; an IPv4-mapped one is an IPv4 address.
    pub fn of(address: IpAddr) -> IpVersion {
        if address.to_canonical().is_ipv4() { IpVersion::V4 } else { IpVersion::V6 }
    }

    const fn type_name(self) -> &'static str {
        match self {
            IpVersion::V4 => "ipv4_addr",
            IpVersion::V6 => "ipv6_addr",
        }
    }

    /// The number of the type and the length of a key.
    const fn key(self) -> (u32, u32) {
        match self {
            IpVersion::V4 => (TYPE_IPV4, 4),
            IpVersion::V6 => (TYPE_IPV6, 16),
        }
    }
}

/// What became of a grant in a set of the administrator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// The address is in the set for good, so the administrator put it there; it was left alone.
    Permanent,
}

/// What the kernel says of a set.
#[derive(Clone, Copy, Debug, Default)]
struct Definition {
    flags: u32,
    key_type: u32,
    key_length: u32,
    /// The timeout of elements that have none of their own, in milliseconds.
    timeout: Option<u64>,
}

/// A connection through which the administrator's sets are used.
///
/// Each operation names the set anew and checks it: between two of them the administrator may have made it again, with the
/// flag `interval`, say, under which one address would open a range.
pub struct UserSets {
    connection: Connection,
}

impl UserSets {
    /// Opens the connection.
    ///
    /// # Errors
    /// [`Error::Kernel`] where there can be no socket.
    pub fn open() -> Result<UserSets, Error> {
        let connection = Connection::open().map_err(|errno| Error::kernel(Operation::Open, "nftables", errno))?;
        Ok(UserSets { connection })
    }

    /// The netlink port from which sets are changed, for [`crate::Monitor::ignore`].
    pub fn port_id(&self) -> u32 {
        self.connection.port_id()
    }

    /// Checks that the set is there, holds addresses of that version and nothing else, one by one, and lets them expire.
    ///
    /// # Errors
    /// [`Error::UnusableSet`]; [`Error::Kernel`]: [`Error::is_missing`] where there is no such set.
    pub fn inspect(&mut self, set: &SetAddress, version: IpVersion) -> Result<(), Error> {
        self.usable(set, version).map(|_| ())
    }

    /// Adds the address, for `remaining` of `timeout`, or starts it anew where it is in the set.
    ///
    /// # Errors
    /// As [`UserSets::inspect`]; [`Error::is_full`] where there is no room.
    pub fn grant(
        &mut self,
        set: &SetAddress,
        address: IpAddr,
        comment: &str,
        lifetime: Lifetime,
    ) -> Result<Outcome, Error> {
        self.usable(set, IpVersion::of(address))?;
        if self.element(set, address)?.is_some_and(|element| element.lifetime.is_none()) {
            return Ok(Outcome::Permanent);
        }
        let whole = milliseconds(lifetime.timeout);
        let timeout = Timeout { whole, remaining: milliseconds(lifetime.remaining).min(whole) };
        let message = element(set, address, Some(timeout), &comment_record(comment));
        self.connection.begin();
        // As in the managed table: only all three restart what exists, on each kernel.
        for kind in [MsgType::Add, MsgType::Del, MsgType::Add] {
            self.connection.push(Operation::AddElement, &message, kind);
        }
        self.connection.commit().map_err(|refusal| refusal.into_error(object(set)))?;
        Ok(Outcome::Done)
    }

    /// Takes those of the addresses out of the set whose element has a timeout and a comment that `is_ours`. They, and
    /// the set, may be gone. Returns those that were taken out. Costs some microseconds for each address.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the kernel refuses.
    pub fn revoke(
        &mut self,
        set: &SetAddress,
        addresses: &[IpAddr],
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<Vec<IpAddr>, Error> {
        let mut revoked = Vec::new();
        for addresses in addresses.chunks(ManagedTable::FEW_KEYS) {
            // What ends by itself in between makes the kernel refuse the transaction; then it is looked for again.
            for attempt in 1.. {
                let mut ours = Vec::new();
                for &address in addresses {
                    let element = self.element(set, address)?;
                    if element.is_some_and(|element| element.lifetime.is_some() && is_ours(&element.comment)) {
                        ours.push(address);
                    }
                }
                if ours.is_empty() {
                    break;
                }
                self.connection.begin();
                for &address in &ours {
                    let message = element(set, address, None, &[]);
                    self.connection.push(Operation::DeleteElement, &message, MsgType::Del);
                }
                match self.connection.commit() {
                    Ok(()) => {
                        revoked.append(&mut ours);
                        break;
                    }
                    Err(refusal) if refusal.first.errno == Errno::NOENT && attempt < REVOKE_ATTEMPTS => {}
                    Err(refusal) => return Err(refusal.into_error(object(set))),
                }
            }
        }
        Ok(revoked)
    }

    /// Lists the addresses in the set, the administrator's own too.
    ///
    /// # Errors
    /// [`Error::Kernel`]: [`Error::is_missing`] where there is no such set.
    pub fn list(&mut self, set: &SetAddress) -> Result<Vec<AddressElement>, Error> {
        let default = self.definition(set)?.timeout;
        let request = |flags| elements_request(set.family.number(), &set.table, &set.set, flags);
        self.connection
            .dump_elements(request, |found, message| {
                read_elements(message, |listed| {
                    if let Some(address) = read_address(listed.key) {
                        let lifetime = listed.lifetime(default);
                        let comment = listed.comment.to_owned();
                        found.insert(address, AddressElement { address, comment, lifetime });
                    }
                });
            })
            .map_err(|errno| Error::kernel(Operation::ReadElements, object(set), errno))
    }

    fn definition(&mut self, set: &SetAddress) -> Result<Definition, Error> {
        use attribute::set::{FLAGS, KEY_LENGTH, KEY_TYPE, NAME, TABLE, TIMEOUT};
        let mut definition = Definition::default();
        let request = Request::new(libc::NFT_MSG_GETSET, set.family.number(), libc::NLM_F_ACK)
            .string(TABLE, &set.table)
            .string(NAME, &set.set);
        self.connection
            .get(request, |message| {
                let attributes = message.attributes();
                definition = Definition {
                    flags: attributes.be32(FLAGS).unwrap_or(0),
                    key_type: attributes.be32(KEY_TYPE).unwrap_or(0),
                    key_length: attributes.be32(KEY_LENGTH).unwrap_or(0),
                    timeout: attributes.be64(TIMEOUT).filter(|&timeout| timeout > 0),
                };
            })
            .map_err(|errno| Error::kernel(Operation::ReadSet, object(set), errno))?;
        Ok(definition)
    }

    fn usable(&mut self, set: &SetAddress, version: IpVersion) -> Result<Definition, Error> {
        let definition = self.definition(set)?;
        let has = |flag: libc::c_int| definition.flags & flag.cast_unsigned() != 0;
        let wanted = version.type_name();
        let reason = if has(libc::NFT_SET_MAP) || has(SET_OBJECT) {
            UnusableSet::Map
        } else if (definition.key_type, definition.key_length) != version.key() {
            UnusableSet::KeyType { wanted }
        } else if has(libc::NFT_SET_INTERVAL) {
            UnusableSet::Interval
        } else if has(libc::NFT_SET_CONSTANT) {
            UnusableSet::Constant
        } else if !has(libc::NFT_SET_TIMEOUT) {
            UnusableSet::NoTimeout
        } else {
            return Ok(definition);
        };
        Err(Error::UnusableSet { set: set.to_string(), reason })
    }

    /// The element of the address; `None`: it is not in the set, or there is none.
    fn element(&mut self, set: &SetAddress, address: IpAddr) -> Result<Option<AddressElement>, Error> {
        let mut found = None;
        let request = elements_request(set.family.number(), &set.table, &set.set, libc::NLM_F_ACK)
            .element_key(KeyBytes::address(address).as_slice());
        let result = self.connection.get(request, |message| {
            read_elements(message, |listed| {
                found = Some(AddressElement {
                    address,
                    comment: listed.comment.to_owned(),
                    lifetime: listed.lifetime(None),
                });
            });
        });
        match result {
            Ok(()) | Err(Errno::NOENT) => Ok(found),
            Err(errno) => Err(Error::kernel(Operation::ReadElements, object(set), errno)),
        }
    }
}

fn object(set: &SetAddress) -> String {
    format!("set {set}")
}

fn element(set: &SetAddress, address: IpAddr, timeout: Option<Timeout>, comment: &[u8]) -> ElementsMessage {
    let mut message = ElementsMessage::new(set.family.number(), &c_name(&set.table), &c_name(&set.set));
    message.push(KeyBytes::address(address).as_slice(), timeout, comment);
    message
}

/// A name for C. What has a NUL names nothing, and the kernel answers ENOENT.
fn c_name(name: &str) -> CString {
    CString::new(name).unwrap_or_else(|_| CStr::to_owned(c""))
}

impl Lifetime {
    /// The whole of a timeout.
    pub const fn whole(timeout: Duration) -> Lifetime {
        Lifetime { timeout, remaining: timeout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_named_by_family_table_and_name() {
        let set: SetAddress = "inet filter knock_ssh4".parse().expect("a set");
        assert_eq!((set.family, set.table.as_str(), set.set.as_str()), (Family::Inet, "filter", "knock_ssh4"));
        assert_eq!(set.to_string(), "inet filter knock_ssh4");
    }

    #[test]
    fn what_names_no_set_says_why() {
        let message = |text: &str| text.parse::<SetAddress>().expect_err(text).to_string();
        assert_eq!(
            message("filter knock"),
            "`filter knock` is not the name of a set; write its family, table and name: `inet filter knock_ssh4`"
        );
        assert_eq!(
            message("ipv4 filter knock"),
            "`ipv4` is not an nftables family; write ip, ip6, inet, arp, bridge or netdev"
        );
    }
}
