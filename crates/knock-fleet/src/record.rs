//! The record: what a node says of one of its grants, in 416 bytes.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use knock_spa::{BODY_LENGTH, Fingerprint, NONCE_LENGTH, Realm, RuleName, SIGNATURE_LENGTH, SignedRequest, UnixTime};

use crate::node_key::{self, NodeId, NodeKey, NodePublicKey};

/// The length of a record.
pub const RECORD_LENGTH: usize = 416;
/// The start of what a node signs, so that the signature is of no use for another protocol or version.
const PROTOCOL: &[u8; 14] = b"knockd-fleet/1";
const VERSION: u8 = 1;
const FLAG_OBSERVED: u16 = 1 << 0;
const FLAG_WIDE: u16 = 1 << 1;

/// Where each field begins.
mod at {
    pub(super) const FLAGS: usize = 2;
    pub(super) const LIFETIME: usize = 4;
    pub(super) const TIME: usize = 8;
    pub(super) const ADDRESS: usize = 16;
    pub(super) const RULE: usize = 32;
    pub(super) const NODE: usize = 96;
    pub(super) const COUNTER: usize = 104;
    pub(super) const GRANT: usize = 112;
    pub(super) const FINGERPRINT: usize = 128;
    pub(super) const NONCE: usize = 160;
    pub(super) const BODY: usize = 184;
    pub(super) const CLIENT_SIGNATURE: usize = 280;
    pub(super) const NODE_SIGNATURE: usize = 352;
}

/// The id of a grant: random, or the start of the nonce of its signed packet.
pub type GrantId = [u8; 16];

/// The signed packet of a record, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The key that signed it.
    pub fingerprint: Fingerprint,
    /// What it signed.
    pub request: SignedRequest,
    /// Whether the packet named no address, so that the address is the one that the node observed.
    pub observed: bool,
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A signed packet was accepted: it opened a rule or, if it asks for that, closed one.
    Packet(Box<Proof>),
    /// A sequence was completed.
    Sequence {
        /// The id of the grant.
        grant: GrantId,
    },
    /// A user of the control socket granted.
    Manual {
        /// The id of the grant.
        grant: GrantId,
    },
    /// Grants that were accepted up to the time of the record end.
    Revocation,
}

impl What {
    const fn number(&self) -> u8 {
        match self {
            What::Packet(_) => 1,
            What::Sequence { .. } => 2,
            What::Manual { .. } => 3,
            What::Revocation => 4,
        }
    }
}

/// A record, without the signature of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is about.
    pub what: What,
    /// Whether it is for the prefix of the address.
    pub wide: bool,
    /// In seconds from [`Record::time`] on: how long the grant lasts, or how long the revocation has to be kept.
    pub lifetime: NonZeroU32,
    /// When the node accepted the packet, the knock or the command, by its clock.
    pub time: UnixTime,
    /// The address.
    pub address: IpAddr,
    /// The rule; only a revocation is for all rules.
    pub rule: Option<RuleName>,
    /// The node. [`Record::sign`] writes that of the key instead.
    pub node: NodeId,
    /// Another one for each record of the node.
    pub counter: u64,
}

/// Bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It has another length.
    #[error("it has {length} bytes instead of 416")]
    Length {
        /// How many bytes it has.
        length: usize,
    },
    /// Another version of the format.
    #[error("it has version {version} of the format, and only version 1 is known here")]
    Version {
        /// The version.
        version: u8,
    },
    /// A kind without a meaning.
    #[error("it is of kind {kind}; the kinds 1 to 4 are known here")]
    Kind {
        /// Its number.
        kind: u8,
    },
    /// A flag without a meaning, here or for this kind.
    #[error("it has the flags {flags:#06x}, which a record of its kind does not have")]
    Flags {
        /// All of them.
        flags: u16,
    },
    /// A lifetime of nothing.
    #[error("its lifetime is 0")]
    Lifetime,
    /// No host has that address.
    #[error("{address} is not the address of a host")]
    Address {
        /// The address.
        address: IpAddr,
    },
    /// Not a name with zeros behind, or none where one is needed.
    #[error("its rule is not a name of 1 to 64 letters, digits, `_`, `.` or `-`, followed by zeros")]
    Rule,
    /// The id is not what the kind needs.
    #[error("its grant id is not that of its kind")]
    GrantId,
    /// Bytes that have to be zero are not.
    #[error("it has bytes that must be zero and are not")]
    Reserved,
}

impl Record {
    /// When the grant ends, or until when the revocation has to be kept, by the clock of its node.
    pub fn end(&self) -> UnixTime {
        self.time.after(Duration::from_secs(self.lifetime.get().into()))
    }

    /// The 416 bytes, signed by the node with that key for the fleet of that realm.
    ///
    /// # Panics
    ///
    /// If [`Record::decode`] would refuse the result: the caller made the record up.
    pub fn sign(&self, key: &NodeKey, realm: &Realm) -> [u8; RECORD_LENGTH] {
        let mut bytes = self.encode(key.id());
        let signature = key.sign(&signed(&realm.audience(), &bytes));
        put(&mut bytes, at::NODE_SIGNATURE, &signature);
        let decoded = Record::decode(&bytes);
        assert!(decoded.is_ok(), "a record that nobody accepts: {decoded:?}");
        bytes
    }

    fn encode(&self, node: NodeId) -> [u8; RECORD_LENGTH] {
        let mut bytes = [0; RECORD_LENGTH];
        let observed = match &self.what {
            What::Packet(proof) => proof.observed,
            What::Sequence { .. } => true,
            What::Manual { .. } | What::Revocation => false,
        };
        let flags = (u16::from(observed) * FLAG_OBSERVED) | (u16::from(self.wide) * FLAG_WIDE);
        let address = match self.address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        bytes[..2].copy_from_slice(&[VERSION, self.what.number()]);
        put(&mut bytes, at::FLAGS, &flags.to_be_bytes());
        put(&mut bytes, at::LIFETIME, &self.lifetime.get().to_be_bytes());
        put(&mut bytes, at::TIME, &self.time.as_millis().to_be_bytes());
        put(&mut bytes, at::ADDRESS, &address.octets());
        put(&mut bytes, at::RULE, self.rule.as_ref().map_or("", RuleName::as_str).as_bytes());
        put(&mut bytes, at::NODE, node.as_bytes());
        put(&mut bytes, at::COUNTER, &self.counter.to_be_bytes());
        match &self.what {
            What::Packet(proof) => {
                put(&mut bytes, at::GRANT, &proof.request.nonce[..16]);
                put(&mut bytes, at::FINGERPRINT, proof.fingerprint.as_bytes());
                put(&mut bytes, at::NONCE, &proof.request.nonce);
                put(&mut bytes, at::BODY, &proof.request.body);
                put(&mut bytes, at::CLIENT_SIGNATURE, &proof.request.signature);
            }
            What::Sequence { grant } | What::Manual { grant } => put(&mut bytes, at::GRANT, grant),
            What::Revocation => {}
        }
        bytes
    }

    /// Reads a record. Two different sequences of bytes are never the same record. No signature is checked.
    ///
    /// # Errors
    ///
    /// The rule of the format that it breaks.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let bytes: &[u8; RECORD_LENGTH] = bytes.try_into().map_err(|_| RecordError::Length { length: bytes.len() })?;
        let [version, kind] = part(bytes, 0);
        if version != VERSION {
            return Err(RecordError::Version { version });
        }
        let flags = u16::from_be_bytes(part(bytes, at::FLAGS));
        let (observed, wide) = (flags & FLAG_OBSERVED != 0, flags & FLAG_WIDE != 0);
        let rule = rule(&part(bytes, at::RULE))?;
        let what = what(bytes, kind, observed)?;
        // A revocation of all rules is for one address: the prefixes are those of rules.
        let may_be = match &what {
            What::Packet(_) => true,
            What::Sequence { .. } => observed,
            What::Manual { .. } => !observed,
            What::Revocation => !observed && (rule.is_some() || !wide),
        };
        if flags & !(FLAG_OBSERVED | FLAG_WIDE) != 0 || !may_be {
            return Err(RecordError::Flags { flags });
        }
        if rule.is_none() && what != What::Revocation {
            return Err(RecordError::Rule);
        }
        let lifetime = u32::from_be_bytes(part(bytes, at::LIFETIME));
        Ok(Record {
            what,
            wide,
            lifetime: NonZeroU32::new(lifetime).ok_or(RecordError::Lifetime)?,
            time: UnixTime::from_millis(u64::from_be_bytes(part(bytes, at::TIME))),
            address: host(Ipv6Addr::from(part::<16>(bytes, at::ADDRESS)).to_canonical())?,
            rule,
            node: NodeId::from_bytes(part(bytes, at::NODE)),
            counter: u64::from_be_bytes(part(bytes, at::COUNTER)),
        })
    }

    /// Whether the node with that key has signed these bytes for the fleet with that audience.
    pub(crate) fn is_signed(bytes: &[u8; RECORD_LENGTH], key: &NodePublicKey, audience: &[u8; 32]) -> bool {
        key.verifies(&signed(audience, bytes), &part(bytes, at::NODE_SIGNATURE))
    }
}

/// What a node signs.
fn signed(audience: &[u8; 32], bytes: &[u8; RECORD_LENGTH]) -> Vec<u8> {
    [PROTOCOL, &audience[..], &bytes[..at::NODE_SIGNATURE]].concat()
}

fn what(bytes: &[u8; RECORD_LENGTH], kind: u8, observed: bool) -> Result<What, RecordError> {
    let grant: GrantId = part(bytes, at::GRANT);
    if kind == 1 {
        let nonce: [u8; NONCE_LENGTH] = part(bytes, at::NONCE);
        if nonce[..16] != grant {
            return Err(RecordError::GrantId);
        }
        let body: [u8; BODY_LENGTH] = part(bytes, at::BODY);
        let signature: [u8; SIGNATURE_LENGTH] = part(bytes, at::CLIENT_SIGNATURE);
        let request = SignedRequest { nonce, body, signature };
        let fingerprint = Fingerprint::from_bytes(part(bytes, at::FINGERPRINT));
        return Ok(What::Packet(Box::new(Proof { fingerprint, request, observed })));
    }
    let what = match kind {
        2 => What::Sequence { grant },
        3 => What::Manual { grant },
        4 if grant == [0; 16] => What::Revocation,
        4 => return Err(RecordError::GrantId),
        kind => return Err(RecordError::Kind { kind }),
    };
    if bytes[at::FINGERPRINT..at::NODE_SIGNATURE].iter().any(|&byte| byte != 0) {
        return Err(RecordError::Reserved);
    }
    Ok(what)
}

fn rule(field: &[u8; 64]) -> Result<Option<RuleName>, RecordError> {
    let length = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let (name, rest) = field.split_at(length);
    if rest.iter().any(|&byte| byte != 0) {
        return Err(RecordError::Rule);
    }
    if name.is_empty() {
        return Ok(None);
    }
    let name = std::str::from_utf8(name).map_err(|_| RecordError::Rule)?;
    name.parse().map(Some).map_err(|_| RecordError::Rule)
}

fn host(address: IpAddr) -> Result<IpAddr, RecordError> {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(RecordError::Address { address });
    }
    Ok(address)
}

fn put(bytes: &mut [u8; RECORD_LENGTH], at: usize, field: &[u8]) {
    bytes[at..][..field.len()].copy_from_slice(field);
}

fn part<const N: usize>(bytes: &[u8; RECORD_LENGTH], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..][..N]);
    part
}

impl fmt::Display for Record {
    /// For logs: `packet for rule ssh, 192.0.2.7, of node 0011223344556677`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::Packet(_) => "signed packet",
            What::Sequence { .. } => "sequence",
            What::Manual { .. } => "manual grant",
            What::Revocation => "revocation",
        };
        let rule = self.rule.as_ref().map_or("all rules".to_owned(), |rule| format!("rule {rule}"));
        write!(f, "{what} for {rule}, {}, of node {}", self.address, self.node)
    }
}

/// The lengths that this file relies on.
const _: () = {
    assert!(at::NODE_SIGNATURE + node_key::SIGNATURE_LENGTH == RECORD_LENGTH);
    assert!(at::CLIENT_SIGNATURE + SIGNATURE_LENGTH == at::NODE_SIGNATURE);
    assert!(at::BODY + BODY_LENGTH == at::CLIENT_SIGNATURE);
    assert!(at::NONCE + NONCE_LENGTH == at::BODY);
};
