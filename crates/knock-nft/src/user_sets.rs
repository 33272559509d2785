//! User sets: the administrator owns them. knockd checks, fills and empties them, and never creates them.

use std::ffi::CString;
use std::net::IpAddr;

use knock_proto::SetName;
use nftnl::MsgType;
use rustix::io::Errno;

use crate::attribute::{self, Request, elements_request};
use crate::connection::{Connection, FEW_ANSWERS, REVOKE_ATTEMPTS};
use crate::element::{AddressElement, KeyBytes, Lifetime, comment_record, milliseconds, read_address, read_elements};
use crate::error::{Error, Operation, UnusableSet};
use crate::ip_version::IpVersion;
use crate::message::{ElementsMessage, Timeout};

/// `NFT_SET_OBJECT` (linux/netfilter/nf_tables.h), a map to objects.
const SET_OBJECT: libc::c_int = 0x40;

/// The outcome of a grant in a user set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// The address is a permanent element of the set, so the administrator added it; it was not changed.
    Permanent,
    /// The administrator added the address, for longer than it was to be granted; it was not changed.
    LastsLonger,
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

/// The connection for changes of user sets.
///
/// Each operation looks up the set by name and checks it: the administrator may have created it again since, with the
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

    /// The netlink port from which sets are changed, for [`crate::Monitor::ignore_only`].
    pub fn port_id(&self) -> u32 {
        self.connection.port_id()
    }

    /// Checks that the set is there, holds addresses of that version and nothing else, one by one, and lets them expire.
    ///
    /// # Errors
    /// [`Error::UnusableSet`]; [`Error::Kernel`]: [`Error::is_missing`] where there is no such set.
    pub fn inspect(&mut self, set: &SetName, version: IpVersion) -> Result<(), Error> {
        self.usable(set, version).map(|_| ())
    }

    /// Adds the address, for `remaining` of `timeout`, or restarts its time where it is in the set. An element whose
    /// comment is not one that `is_ours` is the administrator's: it stays as it is where it lasts longer.
    ///
    /// # Errors
    /// As [`UserSets::inspect`]; [`Error::is_full`] where there is no room.
    pub fn grant(
        &mut self,
        set: &SetName,
        address: IpAddr,
        comment: &str,
        lifetime: Lifetime,
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<Outcome, Error> {
        self.usable(set, IpVersion::of(address))?;
        match self.element(set, address)? {
            Some(AddressElement { lifetime: None, .. }) => return Ok(Outcome::Permanent),
            Some(AddressElement { lifetime: Some(theirs), comment, .. })
                if !is_ours(&comment) && theirs.remaining > lifetime.remaining =>
            {
                return Ok(Outcome::LastsLonger);
            }
            _ => {}
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
        set: &SetName,
        addresses: &[IpAddr],
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<Vec<IpAddr>, Error> {
        let mut revoked = Vec::new();
        for addresses in addresses.chunks(FEW_ANSWERS) {
            // An element that expires in between makes the kernel refuse the transaction; then the elements are read again.
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
    pub fn list(&mut self, set: &SetName) -> Result<Vec<AddressElement>, Error> {
        let default = self.definition(set)?.timeout;
        let request = |flags| elements_request(set.family().number(), set.table(), set.set(), flags);
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

    fn definition(&mut self, set: &SetName) -> Result<Definition, Error> {
        use attribute::set::{FLAGS, KEY_LENGTH, KEY_TYPE, NAME, TABLE, TIMEOUT};
        let mut definition = Definition::default();
        let request = Request::new(libc::NFT_MSG_GETSET, set.family().number(), libc::NLM_F_ACK)
            .string(TABLE, set.table())
            .string(NAME, set.set());
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

    fn usable(&mut self, set: &SetName, version: IpVersion) -> Result<Definition, Error> {
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
    fn element(&mut self, set: &SetName, address: IpAddr) -> Result<Option<AddressElement>, Error> {
        let mut found = None;
        let request = elements_request(set.family().number(), set.table(), set.set(), libc::NLM_F_ACK)
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

fn object(set: &SetName) -> String {
    format!("set {set}")
}

fn element(set: &SetName, address: IpAddr, timeout: Option<Timeout>, comment: &[u8]) -> ElementsMessage {
    let mut message = ElementsMessage::new(set.family().number(), &c_name(set.table()), &c_name(set.set()));
    message.push(KeyBytes::address(address).as_slice(), timeout, comment);
    message
}

/// A name for C. The names of tables and sets have no NUL.
fn c_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}
