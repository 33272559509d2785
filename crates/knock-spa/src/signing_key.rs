//! The secret of a private key, for one of two curves.

use p256::ecdsa::SigningKey as P256Key;
use p256::ecdsa::signature::Signer;
use zeroize::Zeroizing;

use crate::key_type::KeyType;
use crate::verifying_key::{VerifyingKey, normalized};
use crate::wire::Reader;

/// It is overwritten when it is dropped.
pub(crate) enum SigningKey {
    Ed25519(ed25519_dalek::SigningKey),
    P256(P256Key),
}

impl SigningKey {
    pub(crate) fn ed25519(seed: &[u8; 32]) -> SigningKey {
        SigningKey::Ed25519(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    pub(crate) fn p256(number: &[u8; 32]) -> Option<SigningKey> {
        P256Key::from_slice(number).ok().map(SigningKey::P256)
    }

    /// Reads what follows the name of the type in a private key file of OpenSSH (`sshkey_private_deserialize`, sshkey.c):
    /// for Ed25519 the public key, and the seed with the public key again; for ECDSA the public key and a number.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn read(key_type: KeyType, reader: &mut Reader<'_>) -> Result<SigningKey, &'static str> {
        const LENGTH: &str = "its private key has another length";
        const PAIR: &str = "its private key and its public key do not belong together";
        match key_type {
            KeyType::Ed25519 | KeyType::FidoEd25519 => {
                let (Some(public), Some(secret)) = (reader.string(), reader.string()) else { return Err(LENGTH) };
                let (seed, repeated) = secret.split_first_chunk().ok_or(LENGTH)?;
                let key = ed25519_dalek::SigningKey::from_bytes(seed);
                let own = key.verifying_key();
                if public != own.as_bytes() || repeated != own.as_bytes() {
                    return Err(PAIR);
                }
                Ok(SigningKey::Ed25519(key))
            }
            KeyType::EcdsaP256 | KeyType::FidoEcdsaP256 => {
                let public = VerifyingKey::read(key_type, reader).map_err(|_| "its public key is not valid")?;
                let number = Zeroizing::new(reader.positive_integer().ok_or(LENGTH)?);
                let key = SigningKey::p256(&number).ok_or("its private key is not a number of the group")?;
                if key.verifying_key() == public { Ok(key) } else { Err(PAIR) }
            }
        }
    }

    pub(crate) fn verifying_key(&self) -> VerifyingKey {
        match self {
            SigningKey::Ed25519(key) => VerifyingKey::Ed25519(key.verifying_key()),
            SigningKey::P256(key) => VerifyingKey::P256(*key.verifying_key()),
        }
    }

    /// The signature in its accepted form. For ECDSA the secret number is that of RFC 6979, so no randomness is needed.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        match self {
            SigningKey::Ed25519(key) => key.sign(message).to_bytes(),
            SigningKey::P256(key) => normalized(&key.sign(message)),
        }
    }
}
