//! Signatures of ssh keys: as agents answer, as packets hold them, and their verification.

use p256::ecdsa::Signature as EcdsaSignature;
use sha2::{Digest, Sha256, Sha512};

use crate::key_type::KeyType;
use crate::proof::{Presence, SignatureError};
use crate::public_key::PublicKey;
use crate::verifying_key::normalized;
use crate::wire::{Reader, put_string};

/// The length of a signature in a packet.
pub const LENGTH: usize = 72;
/// The namespace of PROTOCOL.sshsig: a signature for it is valid for nothing else.
const NAMESPACE: &[u8] = b"spa-1@knockd";

/// The answer of an agent is not a signature of that key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer of the ssh agent is not a signature of an {expected} key")]
pub struct AgentSignatureError {
    /// The type of the key that was to sign.
    pub expected: KeyType,
}

/// A signature as it is in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// R and S of Ed25519, or r and s of ECDSA.
    pub(crate) bytes: [u8; 64],
    /// 0 for a key that is not a FIDO key.
    pub(crate) fido_flags: u8,
    pub(crate) fido_counter: u32,
}

impl Signature {
    /// Reads the answer of an agent that was asked to sign with `key`: RFC 8709, section 6, RFC 5656,
    /// section 3.1.2, and PROTOCOL.u2f.
    ///
    /// # Errors
    ///
    /// If it is something else than a signature of such a key. Whether it is right is not checked.
    pub fn from_agent(answer: &[u8], key: &PublicKey) -> Result<Signature, AgentSignatureError> {
        let expected = key.key_type();
        Signature::read_agent(answer, expected).ok_or(AgentSignatureError { expected })
    }

    fn read_agent(answer: &[u8], expected: KeyType) -> Option<Signature> {
        let mut reader = Reader::new(answer);
        if reader.string()? != expected.name().as_bytes() {
            return None;
        }
        let signature = reader.string()?;
        let bytes = match expected {
            KeyType::Ed25519 | KeyType::FidoEd25519 => signature.try_into().ok()?,
            KeyType::EcdsaP256 | KeyType::FidoEcdsaP256 => ecdsa(signature)?,
        };
        let (fido_flags, fido_counter) = if expected.is_fido() {
            let [flags] = reader.array()?;
            (flags, reader.u32()?)
        } else {
            (0, 0)
        };
        reader.end()?;
        Some(Signature { bytes, fido_flags, fido_counter })
    }

    /// Writes the 72 bytes of a packet.
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut encoded = [0; LENGTH];
        encoded[..64].copy_from_slice(&self.bytes);
        encoded[64] = self.fido_flags;
        encoded[65..69].copy_from_slice(&self.fido_counter.to_be_bytes());
        encoded
    }

    /// Reads the 72 bytes of a packet.
    ///
    /// # Errors
    ///
    /// If reserved bytes are not zero.
    pub fn decode(encoded: &[u8; LENGTH]) -> Result<Signature, SignatureError> {
        let mut reader = Reader::new(encoded);
        let read = (reader.array(), reader.array(), reader.u32());
        match (read, reader.rest()) {
            ((Some(bytes), Some([fido_flags]), Some(fido_counter)), [0, 0, 0]) => {
                Ok(Signature { bytes, fido_flags, fido_counter })
            }
            _ => Err(SignatureError::Reserved),
        }
    }

    /// Verifies that `key` made this signature over `to_be_signed`.
    ///
    /// # Errors
    ///
    /// What it does not prove.
    pub fn verify(&self, key: &PublicKey, to_be_signed: &[u8], presence: Presence) -> Result<(), SignatureError> {
        let Some(application) = &key.application else {
            if (self.fido_flags, self.fido_counter) != (0, 0) {
                return Err(SignatureError::Reserved);
            }
            return key.verifying.verify(to_be_signed, &self.bytes);
        };
        let signed = fido_signed(application, self.fido_flags, self.fido_counter, to_be_signed);
        key.verifying.verify(&signed, &self.bytes)?;
        presence.check(self.fido_flags)
    }
}

/// The signature of a packet for the r and s of an agent.
fn ecdsa(signature: &[u8]) -> Option<[u8; 64]> {
    let mut reader = Reader::new(signature);
    let (r, s): ([u8; 32], [u8; 32]) = (reader.positive_integer()?, reader.positive_integer()?);
    reader.end()?;
    EcdsaSignature::from_scalars(r, s).ok().as_ref().map(normalized)
}

/// What an authenticator signs: PROTOCOL.u2f, "SSH U2F signatures".
fn fido_signed(application: &[u8; 32], flags: u8, counter: u32, to_be_signed: &[u8]) -> Vec<u8> {
    let message: [u8; 32] = Sha256::digest(to_be_signed).into();
    [&application[..], &[flags], &counter.to_be_bytes(), &message].concat()
}

/// What a key signs for the message `m`: PROTOCOL.sshsig, section 3, "Signed Data".
pub(crate) fn to_be_signed(message: &[u8]) -> Vec<u8> {
    let mut out = b"SSHSIG".to_vec();
    for part in [NAMESPACE, b"", b"sha512", &Sha512::digest(message)] {
        put_string(&mut out, part);
    }
    out
}
