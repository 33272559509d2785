//! Public keys of ssh: RFC 4253, section 6.6, RFC 8709, and OpenSSH's PROTOCOL.u2f.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Base64Unpadded, Encoding};
use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};

use crate::excerpt::excerpt;
use crate::wire::{Reader, put_string};

/// The longest application of a FIDO key. `ssh-keygen` writes "ssh:" and what the user adds.
const APPLICATION_MAX: usize = 256;

/// The kinds of keys that can sign a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `ssh-ed25519`.
    Ed25519,
    /// `sk-ssh-ed25519@openssh.com`: the private key is in a FIDO authenticator.
    FidoEd25519,
}

impl KeyType {
    /// The name in files and in the protocol of ssh.
    pub const fn name(self) -> &'static str {
        match self {
            KeyType::Ed25519 => "ssh-ed25519",
            KeyType::FidoEd25519 => "sk-ssh-ed25519@openssh.com",
        }
    }

    /// The type of that name.
    ///
    /// # Errors
    ///
    /// Why a key of that type can't sign packets, and what to do.
    pub fn from_name(name: &str) -> Result<KeyType, PublicKeyError> {
        match name {
            "ssh-ed25519" => Ok(KeyType::Ed25519),
            "sk-ssh-ed25519@openssh.com" => Ok(KeyType::FidoEd25519),
            "ssh-rsa" | "rsa-sha2-256" | "rsa-sha2-512" => Err(PublicKeyError::Rsa),
            "sk-ecdsa-sha2-nistp256@openssh.com" => Err(PublicKeyError::FidoEcdsa),
            // Only whole names are shown as they are: the rest of a name may hold anything.
            "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521" | "ssh-dss" => {
                Err(PublicKeyError::Unsupported { name: name.to_owned() })
            }
            _ if name.ends_with("-cert-v01@openssh.com") => Err(PublicKeyError::Certificate),
            _ => Err(PublicKeyError::UnknownType { name: excerpt(name) }),
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A public key can't be used for signed packets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// An RSA key.
    #[error("a signature of an RSA key does not fit into a packet; make a key with `ssh-keygen -t ed25519`")]
    Rsa,
    /// An ECDSA key in a FIDO authenticator.
    #[error("signed packets do not support ECDSA keys of FIDO devices; make a key with `ssh-keygen -t ed25519-sk`")]
    FidoEcdsa,
    /// Another type that ssh knows.
    #[error("signed packets do not support `{name}` keys; make a key with `ssh-keygen -t ed25519`")]
    Unsupported {
        /// The name of the type.
        name: String,
    },
    /// A certificate.
    #[error("this is a certificate, which signed packets do not support; write the public key itself")]
    Certificate,
    /// No type of ssh has that name.
    #[error("`{name}` is not a type of ssh keys; write a public key, as in `ssh-ed25519 AAAA… alice`")]
    UnknownType {
        /// The start of the name.
        name: String,
    },
    /// There is a type and no key.
    #[error("there is no key behind `{name}`; copy the whole line of the .pub file")]
    Missing {
        /// The name of the type.
        name: &'static str,
    },
    /// What follows the name of the type is not base64.
    #[error("the key behind `{name}` is not base64; copy the whole line of the .pub file")]
    Encoding {
        /// The name of the type.
        name: &'static str,
    },
    /// The key says another type inside.
    #[error("the line says `{name}`, but the key inside is of another type; copy the whole line of the .pub file")]
    OtherType {
        /// The name of the type outside.
        name: &'static str,
    },
    /// The bytes are not what the type needs.
    #[error("the key is damaged or cut off; copy the whole line of the .pub file")]
    Malformed,
    /// Everybody can forge signatures of this key.
    #[error("the key is weak: others can forge its signatures; make a key with `ssh-keygen -t ed25519`")]
    Weak,
}

/// The SHA-256 of a public key, as `ssh-keygen -l` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
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
        let point = reader.string_array().ok_or(PublicKeyError::Malformed)?;
        let application = match key_type {
            KeyType::Ed25519 => None,
            KeyType::FidoEd25519 => {
                let application = reader.string().filter(|application| application.len() <= APPLICATION_MAX);
                Some(Sha256::digest(application.ok_or(PublicKeyError::Malformed)?).into())
            }
        };
        reader.end().ok_or(PublicKeyError::Malformed)?;
        let verifying = VerifyingKey::from_bytes(&point).map_err(|_| PublicKeyError::Malformed)?;
        if verifying.is_weak() {
            return Err(PublicKeyError::Weak);
        }
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

    /// The `ssh-ed25519` key of a signing key.
    pub(crate) fn from_verifying(verifying: VerifyingKey) -> PublicKey {
        let mut blob = Vec::new();
        put_string(&mut blob, KeyType::Ed25519.name().as_bytes());
        put_string(&mut blob, verifying.as_bytes());
        let fingerprint = Fingerprint(Sha256::digest(&blob).into());
        PublicKey { verifying, application: None, blob: blob.into(), fingerprint }
    }

    /// The type.
    pub const fn key_type(&self) -> KeyType {
        if self.application.is_some() { KeyType::FidoEd25519 } else { KeyType::Ed25519 }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_is_not_known_is_shown_in_part_and_without_control_characters() {
        for name in ["ecdsa-sha2-nistp25\0", "ssh-\u{1b}[2J", "\u{202e}ssh", "ssh-dss\n", &"x".repeat(9999)] {
            let message = KeyType::from_name(name).expect_err(name).to_string();
            assert!(message.contains("is not a type of ssh keys") && message.chars().count() < 200, "{message}");
            assert!(
                !message.contains(|character: char| character.is_control() || character == '\u{202e}'),
                "{message:?}"
            );
        }
    }
}
