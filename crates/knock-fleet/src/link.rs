//! What knockd and knockd-fleet say to each other: one message in each packet of a local socket (SOCK_SEQPACKET), the first
//! byte is its type.
//!
//! knockd-fleet decides nothing. It gets its settings over this socket, so that it can't read the configuration with its
//! secret sequences.

use std::path::PathBuf;

use knock_spa::{NONCE_LENGTH, Realm};
use serde::{Deserialize, Serialize};

use crate::node_key::NodeId;
use crate::record::RECORD_LENGTH;

/// The longest message.
pub const MESSAGE_MAX: usize = 64 << 10;
/// The longest text of a problem, in bytes.
const PROBLEM_LENGTH: usize = 200;
/// The longest version, in bytes.
const VERSION_LENGTH: usize = 24;

/// A record, as bytes.
pub type RecordBytes = [u8; RECORD_LENGTH];
/// The digest of what a node accepts, so that nodes with other keys or rules are noticed.
pub type Digest = [u8; 32];

mod number {
    pub(super) const SETTINGS: u8 = 1;
    pub(super) const PUBLISH: u8 = 2;
    pub(super) const CLAIM: u8 = 3;
    pub(super) const RECORD: u8 = 65;
    pub(super) const CLAIMED: u8 = 66;
    pub(super) const STATE: u8 = 67;
    pub(super) const SEEN: u8 = 68;
}

/// The part of `fleet` in the configuration that is for knockd-fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The realm of the fleet.
    pub realm: String,
    /// The id of this node, 16 hexadecimal digits.
    pub node: String,
    /// The servers that records are written to, `host:port`; the first that accepts them.
    pub servers: Vec<String>,
    /// The servers that records are read from; empty: `servers`.
    pub read_from: Vec<String>,
    /// How connections are encrypted; `None`: not at all.
    pub tls: Option<Tls>,
    /// The user of the store.
    pub user: Option<String>,
    /// The file of the user's password.
    pub password_file: Option<PathBuf>,
    /// The digest of this node's keys and rules, 64 hexadecimal digits.
    pub digest: String,
    /// The version of knockd.
    pub version: String,
}

/// How connections to the store are encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The file of the authority whose certificates are accepted; `None`: those of the system.
    pub ca: Option<PathBuf>,
}

impl Settings {
    /// The realm and the id of the node; `None`: they are not valid.
    pub fn names(&self) -> Option<(Realm, NodeId)> {
        let node = unhex(&self.node)?;
        Some((self.realm.parse().ok()?, NodeId::from_bytes(node)))
    }

    /// The digest of keys and rules; `None`: it is not valid.
    pub fn digest(&self) -> Option<Digest> {
        unhex(&self.digest)
    }
}

/// A message of knockd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToFleet {
    /// The first message: what to do.
    Settings(Box<Settings>),
    /// Carry this record to the other nodes.
    Publish(Box<RecordBytes>),
    /// Claim the nonce of a packet for this node.
    Claim {
        /// The nonce.
        nonce: [u8; NONCE_LENGTH],
        /// How long the claim lasts, in seconds; not 0.
        lifetime: u32,
    },
}

/// A message of knockd-fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromFleet {
    /// A record came from the store. Nothing about it was verified.
    Record(Box<RecordBytes>),
    /// The answer to [`ToFleet::Claim`].
    Claimed {
        /// The nonce.
        nonce: [u8; NONCE_LENGTH],
        /// Whose it is.
        claim: Claim,
    },
    /// How knockd-fleet is.
    State(Box<State>),
    /// A node was there.
    Seen(Box<Seen>),
}

/// Whose the nonce of a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This node's.
    Ours,
    /// Another node has used the packet.
    Taken {
        /// The node.
        by: NodeId,
    },
    /// The store can't be asked.
    Unknown,
}

/// How knockd-fleet is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether records can be written.
    pub writes: bool,
    /// Whether records are read.
    pub reads: bool,
    /// Whether everything in the store has been read once since the connection was made.
    pub in_step: bool,
    /// Records that wait for the store.
    pub queue: u32,
    /// Records that were dropped, because the queue was full.
    pub lost: u64,
    /// Records that were written.
    pub published: u64,
    /// Records that were read.
    pub received: u64,
    /// Members and entries of the store that are no records.
    pub foreign: u64,
    /// How many milliseconds ago the newest record was written when it was read.
    pub lag: u32,
    /// How many milliseconds the clock of the store is ahead of this node's.
    pub clock: i32,
    /// What is wrong; empty: nothing. At most 200 bytes.
    pub problem: String,
}

/// A node of the fleet, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The node.
    pub node: NodeId,
    /// When it was there, in milliseconds since 1970, by the clock of the store.
    pub time: u64,
    /// The digest of its keys and rules.
    pub digest: Digest,
    /// Its version. At most 24 bytes.
    pub version: String,
}

/// A packet is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of type {kind} with {length} bytes is not known; are knockd and knockd-fleet of the same version?")]
pub struct MessageError {
    /// Its first byte; 0: it is empty.
    pub kind: u8,
    /// Its length.
    pub length: usize,
}

impl ToFleet {
    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            ToFleet::Settings(settings) => {
                let mut bytes = vec![number::SETTINGS];
                bytes.extend(serde_json::to_vec(settings).expect("texts and lists of texts are JSON"));
                bytes
            }
            ToFleet::Publish(record) => [&[number::PUBLISH], &record[..]].concat(),
            ToFleet::Claim { nonce, lifetime } => [&[number::CLAIM], &nonce[..], &lifetime.to_be_bytes()].concat(),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    ///
    /// If it is not one.
    pub fn decode(bytes: &[u8]) -> Result<ToFleet, MessageError> {
        let mut fields = Fields::of(bytes);
        let message = match fields.array() {
            Some([number::SETTINGS]) => serde_json::from_slice(fields.rest()).ok().map(ToFleet::Settings),
            Some([number::PUBLISH]) => fields.last().map(Box::new).map(ToFleet::Publish),
            Some([number::CLAIM]) => match (fields.array(), fields.last().map(u32::from_be_bytes)) {
                (Some(nonce), Some(lifetime)) if lifetime > 0 => Some(ToFleet::Claim { nonce, lifetime }),
                _ => None,
            },
            _ => None,
        };
        message.ok_or_else(|| MessageError::of(bytes))
    }
}

impl FromFleet {
    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            FromFleet::Record(record) => [&[number::RECORD], &record[..]].concat(),
            FromFleet::Claimed { nonce, claim } => {
                let (answer, node) = match claim {
                    Claim::Ours => (0, [0; 8]),
                    Claim::Taken { by } => (1, *by.as_bytes()),
                    Claim::Unknown => (2, [0; 8]),
                };
                [&[number::CLAIMED], &nonce[..], &[answer], &node].concat()
            }
            FromFleet::State(state) => {
                let flags = u8::from(state.writes) | (u8::from(state.reads) << 1) | (u8::from(state.in_step) << 2);
                let mut bytes = vec![number::STATE, flags];
                bytes.extend(state.queue.to_be_bytes());
                for count in [state.lost, state.published, state.received, state.foreign] {
                    bytes.extend(count.to_be_bytes());
                }
                bytes.extend(state.lag.to_be_bytes());
                bytes.extend(state.clock.to_be_bytes());
                bytes.extend(padded::<PROBLEM_LENGTH>(&state.problem));
                bytes
            }
            FromFleet::Seen(seen) => {
                let mut bytes = vec![number::SEEN];
                bytes.extend(seen.node.as_bytes());
                bytes.extend(seen.time.to_be_bytes());
                bytes.extend(seen.digest);
                bytes.extend(padded::<VERSION_LENGTH>(&seen.version));
                bytes
            }
        }
    }

    /// Reads a message. Its texts are printable.
    ///
    /// # Errors
    ///
    /// If it is not one.
    pub fn decode(bytes: &[u8]) -> Result<FromFleet, MessageError> {
        let mut fields = Fields::of(bytes);
        let message = match fields.array() {
            Some([number::RECORD]) => fields.last().map(Box::new).map(FromFleet::Record),
            Some([number::CLAIMED]) => fields.claimed(),
            Some([number::STATE]) => fields.state().map(Box::new).map(FromFleet::State),
            Some([number::SEEN]) => fields.seen().map(Box::new).map(FromFleet::Seen),
            _ => None,
        };
        message.ok_or_else(|| MessageError::of(bytes))
    }
}

impl MessageError {
    fn of(bytes: &[u8]) -> MessageError {
        MessageError { kind: bytes.first().copied().unwrap_or_default(), length: bytes.len() }
    }
}

/// What is left of a message.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn of(bytes: &'b [u8]) -> Fields<'b> {
        Fields(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    /// The last field.
    fn last<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.0.try_into().ok()
    }

    fn rest(&self) -> &'b [u8] {
        self.0
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn claimed(&mut self) -> Option<FromFleet> {
        let (nonce, [answer], node) = (self.array()?, self.array()?, self.last()?);
        let claim = match answer {
            0 => Claim::Ours,
            1 => Claim::Taken { by: NodeId::from_bytes(node) },
            2 => Claim::Unknown,
            _ => return None,
        };
        Some(FromFleet::Claimed { nonce, claim })
    }

    fn state(&mut self) -> Option<State> {
        let [flags] = self.array()?;
        let flag = |bit: u8| flags & bit != 0;
        Some(State {
            writes: flag(1),
            reads: flag(2),
            in_step: flag(4),
            queue: self.u32()?,
            lost: self.u64()?,
            published: self.u64()?,
            received: self.u64()?,
            foreign: self.u64()?,
            lag: self.u32()?,
            clock: self.array().map(i32::from_be_bytes)?,
            problem: printable(&self.last::<PROBLEM_LENGTH>()?),
        })
    }

    fn seen(&mut self) -> Option<Seen> {
        Some(Seen {
            node: NodeId::from_bytes(self.array()?),
            time: self.u64()?,
            digest: self.array()?,
            version: printable(&self.last::<VERSION_LENGTH>()?),
        })
    }
}

/// The start of a text, followed by zeros.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    let length = (0..=N.min(text.len())).rev().find(|&length| text.is_char_boundary(length)).unwrap_or_default();
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
    field
}

/// The text in front of the zeros, without what drives a terminal.
fn printable(field: &[u8]) -> String {
    let length = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let text = String::from_utf8_lossy(&field[..length]);
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// The bytes of hexadecimal digits.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..][..2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            realm: "web.example.com".to_owned(),
            node: "34750f98bd59fcfc".to_owned(),
            servers: vec!["store.example.com:6379".to_owned()],
            read_from: Vec::new(),
            tls: Some(Tls { ca: Some("/etc/knockd/ca.pem".into()) }),
            user: Some("web".to_owned()),
            password_file: None,
            digest: "ab".repeat(32),
            version: "0.1.0".to_owned(),
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_in_no_other_length() {
        let to = [
            ToFleet::Settings(Box::new(settings())),
            ToFleet::Publish(Box::new([3; RECORD_LENGTH])),
            ToFleet::Claim { nonce: [4; 24], lifetime: 120 },
        ];
        for message in to {
            let bytes = message.encode();
            assert_eq!(ToFleet::decode(&bytes), Ok(message));
            assert!(ToFleet::decode(&bytes[..bytes.len() - 1]).is_err());
            assert!(ToFleet::decode(&[&bytes[..], b"x"].concat()).is_err());
        }
        let node = NodeId::from_bytes([5; 8]);
        let state = State {
            writes: true,
            in_step: true,
            queue: 1,
            lost: 2,
            published: 3,
            received: 4,
            foreign: 5,
            lag: 6,
            clock: -7,
            problem: "the password is wrong".to_owned(),
            ..State::default()
        };
        let from = [
            FromFleet::Record(Box::new([3; RECORD_LENGTH])),
            FromFleet::Claimed { nonce: [4; 24], claim: Claim::Ours },
            FromFleet::Claimed { nonce: [4; 24], claim: Claim::Taken { by: node } },
            FromFleet::Claimed { nonce: [4; 24], claim: Claim::Unknown },
            FromFleet::State(Box::new(state)),
            FromFleet::Seen(Box::new(Seen { node, time: 6, digest: [7; 32], version: "0.1.0".to_owned() })),
        ];
        for message in from {
            let bytes = message.encode();
            assert_eq!(FromFleet::decode(&bytes), Ok(message));
            assert!(FromFleet::decode(&bytes[..bytes.len() - 1]).is_err());
            assert!(FromFleet::decode(&[&bytes[..], b"x"].concat()).is_err());
        }
        assert_eq!(FromFleet::decode(&[]), Err(MessageError { kind: 0, length: 0 }));
        assert!(ToFleet::decode(&[99]).expect_err("unknown").to_string().contains("type 99"));
    }

    #[test]
    fn a_text_is_cut_between_characters_and_drives_no_terminal() {
        let problem = format!("{}\u{1b}[2J{}", "a".repeat(193), "ä".repeat(9));
        let state = FromFleet::State(Box::new(State { problem, ..State::default() }));
        let Ok(FromFleet::State(read)) = FromFleet::decode(&state.encode()) else { panic!("a state") };
        assert_eq!(read.problem, format!("{}\u{fffd}[2Jä", "a".repeat(193)));
    }

    #[test]
    fn settings_name_the_realm_and_the_node() {
        let (realm, node) = settings().names().expect("valid");
        assert_eq!((realm.as_str(), node.to_string().as_str()), ("web.example.com", "34750f98bd59fcfc"));
        assert_eq!(settings().digest(), Some([0xab; 32]));
        for node in ["", "34750f98bd59fcf", "34750f98bd59fcfcaa", "+4750f98bd59fcfc", "ä750f98bd59fcfc"] {
            assert_eq!(Settings { node: node.to_owned(), ..settings() }.names(), None, "{node}");
        }
    }
}
