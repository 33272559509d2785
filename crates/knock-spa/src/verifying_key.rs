//! The point of a public key, on one of two curves, and what it verifies.

use ed25519_dalek::Signature as Ed25519Signature;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature as EcdsaSignature, VerifyingKey as P256Key};

use crate::key_type::{KeyType, PublicKeyError};
use crate::proof::SignatureError;
use crate::wire::{Reader, put_string};

/// The name of the curve in keys of ECDSA: RFC 5656, section 10.1.
pub(crate) const P256_NAME: &[u8] = b"nistp256";
/// OpenSSH knows the uncompressed encoding of points only (`get_ec`, sshbuf-getput-crypto.c): SEC 1, section 2.3.3.
const P256_LENGTH: usize = 65;

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum VerifyingKey {
    Ed25519(ed25519_dalek::VerifyingKey),
    P256(P256Key),
}

impl VerifyingKey {
    /// Reads what follows the name of the type in a public key: RFC 8709, section 4, RFC 5656, section 3.1.
    pub(crate) fn read(key_type: KeyType, reader: &mut Reader<'_>) -> Result<VerifyingKey, PublicKeyError> {
        match key_type {
            KeyType::Ed25519 | KeyType::FidoEd25519 => {
                let point = reader.string_array().ok_or(PublicKeyError::Malformed)?;
                let key = ed25519_dalek::VerifyingKey::from_bytes(&point).map_err(|_| PublicKeyError::Malformed)?;
                if key.is_weak() { Err(PublicKeyError::Weak) } else { Ok(VerifyingKey::Ed25519(key)) }
            }
            KeyType::EcdsaP256 | KeyType::FidoEcdsaP256 => {
                if reader.string() != Some(P256_NAME) {
                    return Err(PublicKeyError::Malformed);
                }
                let point: [u8; P256_LENGTH] = reader.string_array().ok_or(PublicKeyError::Malformed)?;
                // It is on the curve, whose points are all of the same, prime order.
                P256Key::from_sec1_bytes(&point).map(VerifyingKey::P256).map_err(|_| PublicKeyError::Malformed)
            }
        }
    }

    /// Writes what [`VerifyingKey::read`] reads.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match self {
            VerifyingKey::Ed25519(key) => put_string(out, key.as_bytes()),
            VerifyingKey::P256(key) => {
                put_string(out, P256_NAME);
                put_string(out, key.to_sec1_point(false).as_bytes());
            }
        }
    }

    /// Verifies a signature, which has one form only.
    ///
    /// For Ed25519, `verify_strict` refuses what has more than one encoding, and keys and R of small order. For ECDSA, r and
    /// s are between 0 and the order of the group, and s is the smaller one of the two that are valid.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), SignatureError> {
        let verified = match self {
            VerifyingKey::Ed25519(key) => key.verify_strict(message, &Ed25519Signature::from_bytes(signature)),
            VerifyingKey::P256(key) => {
                let signature = EcdsaSignature::from_slice(signature).map_err(|_| SignatureError::Wrong)?;
                if signature.normalize_s() != signature {
                    return Err(SignatureError::GreaterS);
                }
                key.verify(message, &signature)
            }
        };
        verified.map_err(|_| SignatureError::Wrong)
    }
}

/// r and s with the smaller s: whoever sees (r, s) knows that (r, order − s) is valid too, and one packet has one signature.
pub(crate) fn normalized(signature: &EcdsaSignature) -> [u8; 64] {
    signature.normalize_s().to_bytes().into()
}
