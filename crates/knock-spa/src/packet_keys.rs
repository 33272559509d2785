//! What is derived from a cover, a public key and a realm.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::cover::Cover;
use crate::public_key::{Fingerprint, PublicKey};
use crate::realm::Realm;
use crate::wire::Reader;

/// The start of what is derived, sealed and signed, so that it is of no use for another protocol or version.
pub(crate) const PROTOCOL: &[u8; 12] = b"knockd-spa/1";

/// The name of a key in the packets of one day. To those who do not know the cover it is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(crate) [u8; 8]);

/// The secrets of one public key under one cover, for one realm: the packet key, and the key ids.
pub struct PacketKeys {
    derivation: Zeroizing<[u8; 32]>,
    packet_key: Zeroizing<[u8; 32]>,
    audience: [u8; 32],
    fingerprint: Fingerprint,
}

impl PacketKeys {
    /// Derives them: HKDF with SHA-256, RFC 5869.
    pub fn new(cover: &Cover, key: &PublicKey, realm: &Realm) -> PacketKeys {
        let audience = realm.audience();
        let input = Zeroizing::new([cover.as_bytes().as_slice(), key.blob()].concat());
        let (mut extracted, _) = Hkdf::<Sha256>::extract(Some(PROTOCOL), &input);
        let mut derivation = Zeroizing::new([0; 32]);
        derivation.copy_from_slice(&extracted);
        extracted.as_mut_slice().zeroize();
        let packet_key = Zeroizing::new(expand(&derivation, &[b"gate", &audience]));
        PacketKeys { derivation, packet_key, audience, fingerprint: key.fingerprint() }
    }

    /// The length of what [`PacketKeys::put`] appends.
    pub(crate) const LENGTH: usize = 4 * 32;

    /// Appends the secrets, for another process.
    pub(crate) fn put(&self, bytes: &mut Vec<u8>) {
        for part in [&*self.derivation, &*self.packet_key, &self.audience, self.fingerprint.as_bytes()] {
            bytes.extend_from_slice(part);
        }
    }

    /// Reads what [`PacketKeys::put`] appended.
    pub(crate) fn read(bytes: &[u8]) -> Option<PacketKeys> {
        let mut reader = Reader::new(bytes);
        let mut secret = || reader.array().map(Zeroizing::new);
        let (derivation, packet_key) = (secret()?, secret()?);
        let (audience, fingerprint) = (reader.array()?, Fingerprint::from_bytes(reader.array()?));
        reader.end()?;
        Some(PacketKeys { derivation, packet_key, audience, fingerprint })
    }

    /// The key id of that day, in days since 1970-01-01 UTC.
    pub fn id(&self, day: u32) -> KeyId {
        KeyId(expand(&self.derivation, &[b"id", &self.audience, &day.to_be_bytes()]))
    }

    pub(crate) fn packet_key(&self) -> &[u8; 32] {
        &self.packet_key
    }

    /// The associated data of a packet with that key id.
    pub(crate) fn associated_data(&self, id: KeyId) -> [u8; 52] {
        let mut data = [0; 52];
        data[..12].copy_from_slice(PROTOCOL);
        data[12..44].copy_from_slice(&self.audience);
        data[44..].copy_from_slice(&id.0);
        data
    }

    /// The message that is signed for a packet with that nonce and body.
    pub(crate) fn message(&self, nonce: &[u8], body: &[u8]) -> Vec<u8> {
        message(&self.audience, &self.fingerprint, nonce, body)
    }
}

/// The message of a packet with that nonce and body.
pub(crate) fn message(audience: &[u8; 32], fingerprint: &Fingerprint, nonce: &[u8], body: &[u8]) -> Vec<u8> {
    [PROTOCOL, &audience[..], fingerprint.as_bytes(), nonce, body].concat()
}

fn expand<const N: usize>(derivation: &[u8; 32], info: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    Hkdf::<Sha256>::from_prk(derivation)
        .expect("a digest is long enough")
        .expand_multi_info(info, &mut out)
        .expect("at most a digest is asked for");
    out
}

impl fmt::Debug for PacketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PacketKeys({})", self.fingerprint)
    }
}
