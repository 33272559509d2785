//! The keys of a server: which key a packet is from, opening it, verifying it.

use std::fmt;
use std::sync::Arc;

use crate::authorized_keys::AuthorizedKey;
use crate::cover::Cover;
use crate::packet::{NONCE_LENGTH, Payload, Plain};
use crate::packet_keys::{KeyId, PacketKeys};
use crate::proof::SignatureError;
use crate::realm::Realm;
use crate::request::{BodyError, Request, claimed_time};
use crate::signature::{Signature, to_be_signed};
use crate::time::UnixTime;

/// A payload is not a packet of any key. This is what strangers send: it is counted, and not logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// No packet has that length.
    #[error("no packet has this length")]
    Length,
    /// No key has that key id yesterday, today or tomorrow.
    #[error("no key has this key id")]
    UnknownKey,
    /// It was not sealed with the cover, or was changed since.
    #[error("it was not sealed for this realm with a known cover, or it was changed")]
    Sealed,
}

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

/// A packet that was sealed by somebody who knows the cover. Nothing shows yet that the holder of the key made it.
#[derive(Clone)]
pub struct Opened {
    key: usize,
    cover: usize,
    day: u32,
    plain: Plain,
}

impl Opened {
    /// The nonce, by which a packet that comes a second time is known.
    pub fn nonce(&self) -> &[u8; NONCE_LENGTH] {
        &self.plain.nonce
    }

    /// The time in the packet: its sealer knew the cover, which is all that is known of it.
    pub fn claimed_time(&self) -> UnixTime {
        claimed_time(&self.plain.body)
    }

    /// The index of the key among those that the keyring was made of.
    pub fn key_index(&self) -> usize {
        self.key
    }

    /// The index of the cover among those that the keyring was made of.
    pub fn cover_index(&self) -> usize {
        self.cover
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("key", &self.key).field("cover", &self.cover).finish_non_exhaustive()
    }
}

/// A key id, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct KnownId {
    id: KeyId,
    day: u32,
    /// Index into `packet_keys`.
    packet_keys: usize,
}

/// The keys that may sign packets for a realm, under each cover, and their key ids of three days.
pub struct Keyring {
    keys: Arc<[AuthorizedKey]>,
    /// Those of the first key under each cover, then those of the second …
    packet_keys: Vec<PacketKeys>,
    covers: usize,
    day: u32,
    /// Sorted.
    ids: Vec<KnownId>,
}

impl Keyring {
    /// Derives the secrets of all keys, some microseconds for each key and cover.
    pub fn new(realm: &Realm, covers: &[Cover], keys: Vec<AuthorizedKey>, now: UnixTime) -> Keyring {
        let pairs = keys.iter().flat_map(|key| covers.iter().map(move |cover| (key, cover)));
        let packet_keys = pairs.map(|(key, cover)| PacketKeys::new(cover, &key.key, realm)).collect();
        let mut keyring =
            Keyring { keys: keys.into(), packet_keys, covers: covers.len(), day: now.day(), ids: Vec::new() };
        keyring.add_days();
        keyring
    }

    /// Knows the key ids of yesterday, today and tomorrow from now on. Cheap except after midnight.
    pub fn set_time(&mut self, now: UnixTime) {
        if self.day != now.day() {
            self.day = now.day();
            let days = days(self.day);
            self.ids.retain(|known| days.contains(&known.day));
            self.add_days();
        }
    }

    /// Adds the key ids of the days that have none.
    fn add_days(&mut self) {
        let known: Vec<u32> = self.ids.iter().map(|known| known.day).collect();
        for day in days(self.day).filter(|day| !known.contains(day)) {
            let ids = self.packet_keys.iter().enumerate();
            self.ids.extend(ids.map(|(packet_keys, secrets)| KnownId { id: secrets.id(day), day, packet_keys }));
        }
        self.ids.sort_unstable();
    }

    /// Finds the key of a packet and opens the packet.
    ///
    /// # Errors
    ///
    /// If a stranger may have sent it.
    pub fn open(&self, payload: &[u8]) -> Result<Opened, Unopened> {
        let payload = Payload::split(payload).ok_or(Unopened::Length)?;
        let first = self.ids.partition_point(|known| known.id < payload.id);
        let mut failure = Unopened::UnknownKey;
        // More than one is a collision of 64 bits.
        for known in self.ids[first..].iter().take_while(|known| known.id == payload.id) {
            if let Some(plain) = payload.open(&self.packet_keys[known.packet_keys]) {
                let (key, cover) = (known.packet_keys / self.covers, known.packet_keys % self.covers);
                return Ok(Opened { key, cover, day: known.day, plain });
            }
            failure = Unopened::Sealed;
        }
        Err(failure)
    }

    /// Verifies the signature of an opened packet and reads its request.
    ///
    /// # Errors
    ///
    /// Why it is refused. Unless the error is that of the signature, the holder of the key made the packet.
    pub fn verify(&self, opened: &Opened) -> Result<Request, Refusal> {
        let key = self.key(opened);
        let plain = &opened.plain;
        let message = self.packet_keys[opened.key * self.covers + opened.cover].message(&plain.nonce, &plain.body);
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

/// Yesterday, today and tomorrow.
fn days(today: u32) -> std::ops::RangeInclusive<u32> {
    today.saturating_sub(1)..=today.saturating_add(1)
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("keys", &self.keys).field("covers", &self.covers).finish_non_exhaustive()
    }
}
