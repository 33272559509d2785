//! Signatures of ssh keys, and the rules by which they are verified.

use ed25519_dalek::Signature as Ed25519Signature;
use sha2::{Digest, Sha256, Sha512};

use crate::public_key::{KeyType, PublicKey};
use crate::wire::{Reader, put_string};

/// The length of a signature in a packet.
pub(crate) const LENGTH: usize = 72;
/// The namespace of PROTOCOL.sshsig: a signature for it is valid for nothing else.
const NAMESPACE: &[u8] = b"spa-1@knockd";

/// Somebody touched the authenticator: the bit UP of WebAuthn's authenticator data.
const TOUCHED: u8 = 0x01;
/// The authenticator checked a PIN or a finger: the bit UV.
const USER_VERIFIED: u8 = 0x04;

/// What a FIDO key has to prove beside its signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// Nothing: the option `no-touch-required`.
    Nothing,
    /// That somebody touched it.
    #[default]
    Touch,
    /// That it checked a PIN or a finger: the option `verify-required`. A touch too, unless `touch` is false.
    Verification {
        /// Whether somebody has to touch it as well.
        touch: bool,
    },
}

impl Presence {
    fn required_flags(self) -> u8 {
        match self {
            Presence::Nothing => 0,
            Presence::Touch => TOUCHED,
            Presence::Verification { touch: false } => USER_VERIFIED,
            Presence::Verification { touch: true } => TOUCHED | USER_VERIFIED,
        }
    }
}

/// A signature does not prove what it has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The key did not make it for this packet.
    #[error("the signature is wrong")]
    Wrong,
    /// Bytes that have to be zero are not.
    #[error("the signature has bytes that must be zero and are not")]
    Reserved,
    /// Nobody touched the FIDO key.
    #[error("nobody touched the FIDO key; touch it when it blinks, or give the key the option `no-touch-required`")]
    NotTouched,
    /// The FIDO key did not check a PIN or a finger.
    #[error("the FIDO key did not check a PIN; make the key with `ssh-keygen -t ed25519-sk -O verify-required`")]
    NotVerified,
}

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
    pub(crate) ed25519: [u8; 64],
    /// 0 for a key that is not a FIDO key.
    pub(crate) fido_flags: u8,
    pub(crate) fido_counter: u32,
}

impl Signature {
    /// Reads the answer of an agent that was asked to sign with `key`: RFC 8709, section 6, and PROTOCOL.u2f.
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
        let ed25519 = reader.string_array()?;
        let (fido_flags, fido_counter) = match expected {
            KeyType::Ed25519 => (0, 0),
            KeyType::FidoEd25519 => {
                let [flags] = reader.array()?;
                (flags, reader.u32()?)
            }
        };
        reader.end()?;
        Some(Signature { ed25519, fido_flags, fido_counter })
    }

    /// Writes the 72 bytes of a packet.
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..64].copy_from_slice(&self.ed25519);
        bytes[64] = self.fido_flags;
        bytes[65..69].copy_from_slice(&self.fido_counter.to_be_bytes());
        bytes
    }

    /// Reads the 72 bytes of a packet.
    ///
    /// # Errors
    ///
    /// If reserved bytes are not zero.
    pub fn decode(bytes: &[u8; LENGTH]) -> Result<Signature, SignatureError> {
        let mut reader = Reader::new(bytes);
        let read = (reader.array(), reader.array(), reader.u32());
        match (read, reader.rest()) {
            ((Some(ed25519), Some([fido_flags]), Some(fido_counter)), [0, 0, 0]) => {
                Ok(Signature { ed25519, fido_flags, fido_counter })
            }
            _ => Err(SignatureError::Reserved),
        }
    }

    /// Verifies that `key` made this signature over `to_be_signed`.
    ///
    /// `verify_strict` of ed25519-dalek refuses what has more than one encoding, and keys and R of small order.
    ///
    /// # Errors
    ///
    /// What it does not prove.
    pub fn verify(&self, key: &PublicKey, to_be_signed: &[u8], presence: Presence) -> Result<(), SignatureError> {
        let signature = Ed25519Signature::from_bytes(&self.ed25519);
        let Some(application) = &key.application else {
            if (self.fido_flags, self.fido_counter) != (0, 0) {
                return Err(SignatureError::Reserved);
            }
            return key.verifying.verify_strict(to_be_signed, &signature).map_err(|_| SignatureError::Wrong);
        };
        let signed = fido_signed(application, self.fido_flags, self.fido_counter, to_be_signed);
        key.verifying.verify_strict(&signed, &signature).map_err(|_| SignatureError::Wrong)?;
        let missing = presence.required_flags() & !self.fido_flags;
        if missing & TOUCHED != 0 {
            return Err(SignatureError::NotTouched);
        }
        if missing != 0 {
            return Err(SignatureError::NotVerified);
        }
        Ok(())
    }
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
