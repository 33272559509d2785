//! The signed packet: one datagram, encrypted and signed with an ssh key, that asks for a rule.
//!
//! `docs/spa-protocol.md` is the reference of the format. Everything here is pure: no I/O, no clock, no randomness.
//! Nonce, padding and time are arguments.
//!
//! A client derives [`PacketKeys`], writes an [`UnsignedPacket`], has its [`PrivateKey`] or an agent sign it, and seals it.
//! A server keeps a [`Keyring`], which finds the key of a packet, opens the packet, and verifies it.
//!
//! ```
//! use knock_spa::{AuthorizedKeys, Cover, Keyring, Operation, PacketKeys, PrivateKey, Realm, Request, UnixTime};
//! use knock_spa::UnsignedPacket;
//!
//! let realm: Realm = "example.com".parse()?;
//! let cover = Cover::from_bytes([7; 32]);
//! let key = PrivateKey::from_seed([1; 32], "alice");
//! let now = UnixTime::from_millis(1_800_000_000_000);
//!
//! let request = Request {
//!     operation: Operation::Open,
//!     address: None,
//!     widen: false,
//!     lifetime: None,
//!     time: now,
//!     rule: Some("ssh".parse()?),
//! };
//! let packet_keys = PacketKeys::new(&cover, key.public_key(), &realm);
//! // In real life the nonce and the length of the padding are random.
//! let unsigned = UnsignedPacket::new(&packet_keys, [9; 24], &request)?;
//! let packet = unsigned.seal(&key.sign(&unsigned.to_be_signed()), 100);
//!
//! let authorized = AuthorizedKeys::parse(format!("{} alice\n", key.public_key()).as_bytes());
//! let keyring = Keyring::new(&realm, &[cover], authorized.keys, now);
//! let opened = keyring.open(&packet)?;
//! assert_eq!(keyring.verify(&opened)?, request);
//! assert_eq!(keyring.key(&opened).user.as_deref(), Some("alice"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod address;
pub mod agent;
mod authorized_keys;
mod budget;
mod cover;
mod decision;
mod excerpt;
mod key_type;
mod keyring;
mod opener;
mod packet;
mod packet_keys;
mod private_key;
mod proof;
mod public_half;
mod public_key;
mod realm;
pub mod replay;
mod request;
mod signature;
mod signed_request;
mod signing_key;
mod time;
mod url;
mod verifier;
mod verifying_key;
mod wire;

pub use address::{AddressList, AddressListError, Network};
pub use authorized_keys::{
    AddressPolicy, AuthorizedKey, AuthorizedKeys, KeyOptions, LineError, LineWarning, OptionError,
};
pub use budget::Budgets;
pub use cover::{Cover, CoverError};
pub use decision::{Action, Decision, Denial, RuleTerms, Terms};
pub use key_type::{KeyType, PublicKeyError};
pub use keyring::{Keyring, Refusal};
pub use opener::{HANDED_OVER, Opened, Opener, Unopened};
pub use packet::{NONCE_LENGTH, PAYLOAD_MAX, PAYLOAD_MIN, UnsignedPacket};
pub use packet_keys::{KeyId, PacketKeys};
pub use private_key::{PrivateKey, PrivateKeyError};
pub use proof::{Presence, SignatureError};
pub use public_key::{Fingerprint, FingerprintError, PublicKey};
pub use realm::{Realm, RealmError};
pub use request::{BODY_LENGTH, BodyError, Operation, Request, RuleName, RuleNameError};
pub use signature::{AgentSignatureError, LENGTH as SIGNATURE_LENGTH, Signature};
pub use signed_request::SignedRequest;
pub use time::UnixTime;
pub use url::{Host, KnockUrl, UrlError};
pub use verifier::Verifier;
