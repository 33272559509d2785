//! Public keys of ssh: RFC 4253, section 6.6, RFC 8709, RFC 5656, and OpenSSH's PROTOCOL.u2f.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Base64Unpadded, Encoding};
use sha2::{Digest, Sha256};

use crate::key_type::{KeyType, PublicKeyError};
use crate::verifying_key::VerifyingKey;
use crate::wire::{Reader, put_string};

/// The longest application of a FIDO key. `ssh-keygen` writes "ssh:" and what the user adds.
const APPLICATION_MAX: usize = 256;

/// The SHA-256 of a public key, as `ssh-keygen -l` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint with that digest.
    pub const fn from_bytes(digest: [u8; 32]) -> Fingerprint {
        Fingerprint(digest)
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Fingerprint, FingerprintError> {
        let base64 = text.strip_prefix("SHA256:").ok_or(FingerprintError)?;
        let bytes = Base64Unpadded::decode_vec(base64).map_err(|_| FingerprintError)?;
        bytes.try_into().map(Fingerprint).map_err(|_| FingerprintError)
    }
}

/// The text is not a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is `SHA256:` and 43 characters of base64, as `ssh-keygen -l` prints it")]
pub struct FingerprintError;

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", Base64Unpadded::encode_string(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A public key of ssh that can verify packets.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    pub(crate) verifying: VerifyingKey,
    /// SHA-256 of the application of a FIDO key.
    pub(crate) application: Option<[u8; 32]>,
    blob: Box<[u8]>,
    fingerprint: Fingerprint,
}

impl PublicKey {
    /// Reads a key from its encoding in the protocol of ssh.
    ///
    /// # Errors
    ///
    /// Why it can't be used.
    pub fn from_blob(blob: &[u8]) -> Result<PublicKey, PublicKeyError> {
        let mut reader = Reader::new(blob);
        let name = reader.string().ok_or(PublicKeyError::Malformed)?;
        let key_type = KeyType::from_name(std::str::from_utf8(name).map_err(|_| PublicKeyError::Malformed)?)?;
        let verifying = VerifyingKey::read(key_type, &mut reader)?;
        let application = if key_type.is_fido() {
            let application = reader.string().filter(|application| application.len() <= APPLICATION_MAX);
            Some(Sha256::digest(application.ok_or(PublicKeyError::Malformed)?).into())
        } else {
            None
        };
        reader.end().ok_or(PublicKeyError::Malformed)?;
        let fingerprint = Fingerprint(Sha256::digest(blob).into());
        Ok(PublicKey { verifying, application, blob: blob.into(), fingerprint })
    }

    /// Reads the two words `ssh-ed25519 AAAA…`.
    pub(crate) fn from_words(key_type: KeyType, base64: &str) -> Result<PublicKey, PublicKeyError> {
        let name = key_type.name();
        if base64.is_empty() {
            return Err(PublicKeyError::Missing { name });
        }
        let key = PublicKey::from_blob(&Base64::decode_vec(base64).map_err(|_| PublicKeyError::Encoding { name })?)?;
        if key.key_type() == key_type { Ok(key) } else { Err(PublicKeyError::OtherType { name }) }
    }

    /// The key that no FIDO authenticator holds.
    pub(crate) fn from_verifying(verifying: VerifyingKey) -> PublicKey {
        let mut blob = Vec::new();
        put_string(&mut blob, key_type(&verifying, false).name().as_bytes());
        verifying.put(&mut blob);
        let fingerprint = Fingerprint(Sha256::digest(&blob).into());
        PublicKey { verifying, application: None, blob: blob.into(), fingerprint }
    }

    /// The type.
    pub const fn key_type(&self) -> KeyType {
        key_type(&self.verifying, self.application.is_some())
    }

    /// The encoding in the protocol of ssh.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The fingerprint.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

const fn key_type(verifying: &VerifyingKey, fido: bool) -> KeyType {
    match (verifying, fido) {
        (VerifyingKey::Ed25519(_), false) => KeyType::Ed25519,
        (VerifyingKey::Ed25519(_), true) => KeyType::FidoEd25519,
        (VerifyingKey::P256(_), false) => KeyType::EcdsaP256,
        (VerifyingKey::P256(_), true) => KeyType::FidoEcdsaP256,
    }
}

impl fmt::Display for PublicKey {
    /// Two words of a line of `authorized_keys`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key_type(), Base64::encode_string(&self.blob))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.key_type(), self.fingerprint)
    }
}
