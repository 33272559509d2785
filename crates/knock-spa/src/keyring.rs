//! The keys of a server: which key a packet is from, opening it, verifying it.

use std::fmt;
use std::sync::Arc;

use crate::authorized_keys::AuthorizedKey;
use crate::cover::Cover;
use crate::opener::{Opened, Opener, Unopened};
use crate::packet_keys::PacketKeys;
use crate::proof::SignatureError;
use crate::realm::Realm;
use crate::request::{BodyError, Request};
use crate::signature::{Signature, to_be_signed};
use crate::time::UnixTime;

/// Why a packet of a known key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The signature does not prove what it has to.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The padding is not zero.
    #[error("the padding of the packet is not zero")]
    Padding,
    /// The key id is not that of the day in the body.
    #[error("the key id of the packet is of another day than its time")]
    Day,
    /// The body breaks a rule of the format.
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// The keys that may sign packets for a realm, and what opens their packets.
pub struct Keyring {
    keys: Arc<[AuthorizedKey]>,
    opener: Opener,
}

impl Keyring {
    /// Derives the secrets of all keys, some microseconds for each key and cover.
    pub fn new(realm: &Realm, covers: &[Cover], keys: Vec<AuthorizedKey>, now: UnixTime) -> Keyring {
        let pairs = keys.iter().flat_map(|key| covers.iter().map(move |cover| (key, cover)));
        let packet_keys = pairs.map(|(key, cover)| PacketKeys::new(cover, &key.key, realm)).collect();
        Keyring { keys: keys.into(), opener: Opener::new(packet_keys, covers.len(), now) }
    }

    /// Knows the key ids of yesterday, today and tomorrow from now on. Cheap except after midnight.
    pub fn set_time(&mut self, now: UnixTime) {
        self.opener.set_time(now);
    }

    /// What opens packets.
    pub fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Finds the key of a packet and opens the packet.
    ///
    /// # Errors
    ///
    /// If a stranger may have sent it.
    pub fn open(&self, payload: &[u8]) -> Result<Opened, Unopened> {
        self.opener.open(payload)
    }

    /// A packet that another process says it has opened: see [`Opened::hand_over`]. Nothing of it is believed but what
    /// [`Keyring::verify`] shows. `None` where it has another form, or there is no such key.
    pub fn take_over(&self, bytes: &[u8]) -> Option<Opened> {
        let opened = Opened::read(bytes)?;
        (opened.key < self.keys.len() && opened.cover_index() < self.opener.covers).then_some(opened)
    }

    /// Verifies the signature of an opened packet and reads its request.
    ///
    /// # Errors
    ///
    /// Why it is refused. Unless the error is that of the signature, the holder of the key made the packet.
    pub fn verify(&self, opened: &Opened) -> Result<Request, Refusal> {
        let key = self.key(opened);
        let plain = &opened.plain;
        let message = self.opener.packet_keys[opened.key * self.opener.covers + opened.cover_index()]
            .message(&plain.nonce, &plain.body);
        Signature::decode(&plain.signature)?.verify(&key.key, &to_be_signed(&message), key.options.presence)?;
        if !plain.padding_is_zero {
            return Err(Refusal::Padding);
        }
        let request = Request::decode(&plain.body)?;
        if request.time.day() != opened.day {
            return Err(Refusal::Day);
        }
        Ok(request)
    }

    /// The key of an opened packet.
    pub fn key(&self, opened: &Opened) -> &AuthorizedKey {
        &self.keys[opened.key]
    }

    /// All keys, in the order of the file.
    pub fn keys(&self) -> &[AuthorizedKey] {
        &self.keys
    }

    /// The same, for a listing that may outlive the keyring.
    pub fn shared_keys(&self) -> Arc<[AuthorizedKey]> {
        Arc::clone(&self.keys)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("keys", &self.keys).field("covers", &self.opener.covers).finish_non_exhaustive()
    }
}
