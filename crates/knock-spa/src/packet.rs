//! The packet: its layout, sealing, opening.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};

use crate::packet_keys::{KeyId, PacketKeys};
use crate::request::{BODY_LENGTH, BodyError, Request};
use crate::signature::{self, Signature, to_be_signed};

const ID_LENGTH: usize = 8;
/// The length of a nonce.
pub const NONCE_LENGTH: usize = 24;
const TAG_LENGTH: usize = 16;
const SEALED: usize = ID_LENGTH + NONCE_LENGTH;
/// The plaintext without padding.
const PLAIN_MIN: usize = BODY_LENGTH + signature::LENGTH;
const PADDING_MAX: usize = 255;

/// The length of the shortest payload: without padding.
pub const PAYLOAD_MIN: usize = SEALED + PLAIN_MIN + TAG_LENGTH;
/// The length of the longest payload: with 255 bytes of padding.
pub const PAYLOAD_MAX: usize = PAYLOAD_MIN + PADDING_MAX;

/// A packet that nobody has signed yet.
#[derive(Debug)]
pub struct UnsignedPacket<'k> {
    keys: &'k PacketKeys,
    id: KeyId,
    nonce: [u8; NONCE_LENGTH],
    body: [u8; BODY_LENGTH],
}

impl<'k> UnsignedPacket<'k> {
    /// Writes the packet of that request.
    ///
    /// `nonce` must be random, and new for each packet: a receiver accepts a nonce once.
    ///
    /// # Errors
    ///
    /// If a receiver would refuse the request.
    pub fn new(
        keys: &'k PacketKeys,
        nonce: [u8; NONCE_LENGTH],
        request: &Request,
    ) -> Result<UnsignedPacket<'k>, BodyError> {
        Ok(UnsignedPacket { keys, id: keys.id(request.time.day()), nonce, body: request.encode()? })
    }

    /// The message in the sense of PROTOCOL.sshsig, whose digest is signed.
    pub fn message(&self) -> Vec<u8> {
        self.keys.message(&self.nonce, &self.body)
    }

    /// What an agent or a private key is asked to sign.
    pub fn to_be_signed(&self) -> Vec<u8> {
        to_be_signed(&self.message())
    }

    /// The payload of the datagram. `padding` is the number of bytes of padding, which should be random.
    pub fn seal(&self, signature: &Signature, padding: u8) -> Vec<u8> {
        let mut payload = Vec::with_capacity(PAYLOAD_MIN + usize::from(padding));
        payload.extend_from_slice(&self.id.0);
        payload.extend_from_slice(&self.nonce);
        payload.extend_from_slice(&self.body);
        payload.extend_from_slice(&signature.encode());
        payload.resize(payload.len() + usize::from(padding), 0);
        let associated_data = self.keys.associated_data(self.id);
        let tag = XChaCha20Poly1305::new(self.keys.packet_key().into())
            .encrypt_inout_detached(&self.nonce.into(), &associated_data, (&mut payload[SEALED..]).into())
            .expect("the plaintext is short");
        payload.extend_from_slice(&tag);
        payload
    }
}

/// The parts of a payload that are not sealed, and the sealed one.
pub(crate) struct Payload<'p> {
    pub(crate) id: KeyId,
    nonce: [u8; NONCE_LENGTH],
    ciphertext: &'p [u8],
    tag: [u8; TAG_LENGTH],
}

/// What was sealed.
#[derive(Clone)]
pub(crate) struct Plain {
    pub(crate) nonce: [u8; NONCE_LENGTH],
    pub(crate) body: [u8; BODY_LENGTH],
    pub(crate) signature: [u8; signature::LENGTH],
    pub(crate) padding_is_zero: bool,
}

impl<'p> Payload<'p> {
    /// Divides a payload; `None` if no packet has that length.
    pub(crate) fn split(bytes: &'p [u8]) -> Option<Payload<'p>> {
        if !(PAYLOAD_MIN..=PAYLOAD_MAX).contains(&bytes.len()) {
            return None;
        }
        let (id, rest) = bytes.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (ciphertext, tag) = rest.split_last_chunk()?;
        Some(Payload { id: KeyId(*id), nonce: *nonce, ciphertext, tag: *tag })
    }

    /// Opens it; `None` if it was not sealed with these keys, or was changed since.
    pub(crate) fn open(&self, keys: &PacketKeys) -> Option<Plain> {
        // No allocation: this is done for every packet of somebody who knows a key id.
        let mut buffer = [0; PLAIN_MIN + PADDING_MAX];
        let plain = buffer.get_mut(..self.ciphertext.len())?;
        plain.copy_from_slice(self.ciphertext);
        let associated_data = keys.associated_data(self.id);
        XChaCha20Poly1305::new(keys.packet_key().into())
            .decrypt_inout_detached(&self.nonce.into(), &associated_data, (&mut *plain).into(), &self.tag.into())
            .ok()?;
        let (body, rest) = plain.split_first_chunk()?;
        let (signature, padding) = rest.split_first_chunk()?;
        let padding_is_zero = padding.iter().all(|&byte| byte == 0);
        Some(Plain { nonce: self.nonce, body: *body, signature: *signature, padding_is_zero })
    }
}
