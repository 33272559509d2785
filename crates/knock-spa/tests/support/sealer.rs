//! Seals what no client sends. Written from `docs/spa-protocol.md`, for a client of this crate can't.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use hkdf::Hkdf;
use sha2::{Digest, Sha256, Sha512};

const PROTOCOL: &[u8] = b"knockd-spa/1";

/// Somebody who knows the cover of a realm and a public key.
pub(crate) struct Sealer {
    derivation: Hkdf<Sha256>,
    audience: [u8; 32],
    fingerprint: [u8; 32],
}

impl Sealer {
    pub(crate) fn new(realm: &str, cover: &[u8; 32], blob: &[u8]) -> Sealer {
        let derivation = Hkdf::new(Some(PROTOCOL), &[cover, blob].concat());
        Sealer { derivation, audience: Sha256::digest(realm).into(), fingerprint: Sha256::digest(blob).into() }
    }

    /// What is signed for a packet.
    pub(crate) fn to_be_signed(&self, nonce: &[u8; 24], body: &[u8]) -> Vec<u8> {
        let message = [PROTOCOL, &self.audience, &self.fingerprint, nonce, body].concat();
        let mut signed = b"SSHSIG".to_vec();
        for part in [&b"spa-1@knockd"[..], b"", b"sha512", &Sha512::digest(message)] {
            signed.extend_from_slice(&u32::try_from(part.len()).expect("short").to_be_bytes());
            signed.extend_from_slice(part);
        }
        signed
    }

    /// A packet with the key id of that day; `plain` is body, signature and padding.
    pub(crate) fn seal(&self, day: u32, nonce: &[u8; 24], plain: &[u8]) -> Vec<u8> {
        let id: [u8; 8] = self.expand(&[b"id", &self.audience, &day.to_be_bytes()]);
        let packet_key: [u8; 32] = self.expand(&[b"gate", &self.audience]);
        let associated_data = [PROTOCOL, &self.audience, &id].concat();
        let mut packet = [&id[..], nonce, plain].concat();
        let tag = XChaCha20Poly1305::new(&packet_key.into())
            .encrypt_inout_detached(&(*nonce).into(), &associated_data, (&mut packet[32..]).into())
            .expect("it is short");
        packet.extend_from_slice(&tag);
        packet
    }

    fn expand<const N: usize>(&self, info: &[&[u8]]) -> [u8; N] {
        let mut out = [0; N];
        self.derivation.expand_multi_info(info, &mut out).expect("it is short");
        out
    }
}
