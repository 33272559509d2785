//! Finding the keys of a packet and opening it: all that can be done without knowing whose signature it needs.

use std::fmt;

use zeroize::Zeroizing;

use crate::packet::{NONCE_LENGTH, Payload, Plain};
use crate::packet_keys::{KeyId, PacketKeys};
use crate::request::{BODY_LENGTH, claimed_time};
use crate::signature;
use crate::signed_request::SignedRequest;
use crate::time::UnixTime;
use crate::wire::Reader;

/// The length of a [packet that is handed over](Opened::hand_over).
pub const HANDED_OVER: usize = 4 + 4 + 4 + 1 + NONCE_LENGTH + BODY_LENGTH + signature::LENGTH;

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

/// A packet that was sealed by somebody who knows the cover. Nothing shows yet that the holder of the key made it.
#[derive(Clone)]
pub struct Opened {
    pub(crate) key: usize,
    cover: usize,
    pub(crate) day: u32,
    pub(crate) plain: Plain,
}

impl Opened {
    /// The nonce, by which a packet that comes a second time is known.
    pub fn nonce(&self) -> &[u8; NONCE_LENGTH] {
        &self.plain.nonce
    }

    /// What was inside, for a server that the packet did not reach.
    pub fn signed_request(&self) -> SignedRequest {
        let Plain { nonce, body, signature, .. } = self.plain;
        SignedRequest { nonce, body, signature }
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

    /// For a process that has the keyring, and does not believe this one: see [`crate::Keyring::take_over`].
    pub fn hand_over(&self) -> [u8; HANDED_OVER] {
        let number = |index: usize| u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes();
        let Plain { nonce, body, signature, padding_is_zero } = &self.plain;
        let parts: [&[u8]; 7] = [
            &number(self.key),
            &number(self.cover),
            &self.day.to_be_bytes(),
            &[u8::from(*padding_is_zero)],
            nonce,
            body,
            signature,
        ];
        let mut bytes = [0; HANDED_OVER];
        let mut rest = bytes.as_mut_slice();
        for part in parts {
            let (place, after) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = after;
        }
        bytes
    }

    /// Reads what [`Opened::hand_over`] wrote, of whomever; `None` where it has another form.
    pub(crate) fn read(bytes: &[u8]) -> Option<Opened> {
        let mut reader = Reader::new(bytes);
        let (key, cover) = (reader.u32()?.try_into().ok()?, reader.u32()?.try_into().ok()?);
        let day = reader.u32()?;
        let [padding @ (0 | 1)] = reader.array()? else { return None };
        let (nonce, body, signature) = (reader.array()?, reader.array()?, reader.array()?);
        reader.end()?;
        Some(Opened { key, cover, day, plain: Plain { nonce, body, signature, padding_is_zero: padding == 1 } })
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

/// Opens packets: the secrets that hide them, and their key ids of three days. It can verify nothing.
pub struct Opener {
    /// Those of the first key under each cover, then those of the second …
    pub(crate) packet_keys: Vec<PacketKeys>,
    pub(crate) covers: usize,
    day: u32,
    /// Sorted.
    ids: Vec<KnownId>,
}

impl Opener {
    pub(crate) fn new(packet_keys: Vec<PacketKeys>, covers: usize, now: UnixTime) -> Opener {
        let mut opener = Opener { packet_keys, covers, day: now.day(), ids: Vec::new() };
        opener.add_days();
        opener
    }

    /// For another process. Whoever has these bytes can open and seal packets, as with the covers.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // With room for all of it: what grows leaves a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(4 + self.packet_keys.len() * PacketKeys::LENGTH));
        bytes.extend_from_slice(&u32::try_from(self.covers).unwrap_or(u32::MAX).to_be_bytes());
        self.packet_keys.iter().for_each(|keys| keys.put(&mut bytes));
        bytes
    }

    /// Reads what [`Opener::to_bytes`] wrote; `None` where it has another form.
    pub fn from_bytes(bytes: &[u8], now: UnixTime) -> Option<Opener> {
        let mut reader = Reader::new(bytes);
        let covers = usize::try_from(reader.u32()?).ok()?;
        let packet_keys = reader.rest().chunks(PacketKeys::LENGTH).map(PacketKeys::read).collect::<Option<Vec<_>>>()?;
        if covers == 0 && !packet_keys.is_empty() {
            return None;
        }
        Some(Opener::new(packet_keys, covers, now))
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.packet_keys.len().checked_div(self.covers).unwrap_or(0)
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
}

/// Yesterday, today and tomorrow.
fn days(today: u32) -> std::ops::RangeInclusive<u32> {
    today.saturating_sub(1)..=today.saturating_add(1)
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("keys", &self.keys()).field("covers", &self.covers).finish_non_exhaustive()
    }
}
