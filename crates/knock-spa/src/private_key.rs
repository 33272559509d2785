//! Private keys in OpenSSH's own format: PROTOCOL.key.

use std::fmt;

use base64ct::{Base64, Encoding};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::excerpt::{excerpt, is_plain};
use crate::key_type::{KeyType, PublicKeyError};
use crate::public_key::PublicKey;
use crate::signature::Signature;
use crate::signing_key::SigningKey;
use crate::wire::Reader;

pub(crate) const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
pub(crate) const END: &str = "-----END OPENSSH PRIVATE KEY-----";
pub(crate) const MAGIC: &[u8] = b"openssh-key-v1\0";
/// Unencrypted keys are padded to a multiple of that (sshkey.c, the block size of the cipher "none").
const BLOCK: usize = 8;

/// A private key file can't be used. No message has any part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrivateKeyError {
    /// It has a passphrase.
    #[error("the key is encrypted with a passphrase; add it to the ssh agent with `ssh-add`, then try again")]
    Encrypted,
    /// The secret is in a FIDO authenticator.
    #[error("the key is in a FIDO device, which only the ssh agent can use; add it with `ssh-add`, then try again")]
    Fido,
    /// A key of a type that can't sign packets.
    #[error(transparent)]
    Type(#[from] PublicKeyError),
    /// A public key.
    #[error("this is a public key; name the file of the private key, which has the same name without `.pub`")]
    Public,
    /// A key in PEM, PKCS#8, or PuTTY's format.
    #[error(
        "this is a private key in the format {format}; convert it with `ssh-keygen -p -f FILE` (a key of PuTTY with \
         `puttygen FILE -O private-openssh-new -o NEW_FILE`)"
    )]
    OtherFormat {
        /// The name of the format.
        format: String,
    },
    /// Another file.
    #[error("this is not a private key of ssh: the first line is not `-----BEGIN OPENSSH PRIVATE KEY-----`")]
    NotAKey,
    /// Something in the file is wrong.
    #[error(
        "the private key is damaged: {what}; restore the file from a backup, or make another key with `ssh-keygen -t ed25519`"
    )]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
}

fn damaged(what: &'static str) -> PrivateKeyError {
    PrivateKeyError::Damaged { what }
}

/// A private key of the type `ssh-ed25519` or `ecdsa-sha2-nistp256`. It is overwritten when it is dropped.
pub struct PrivateKey {
    signing: SigningKey,
    public: PublicKey,
    comment: String,
}

impl PrivateKey {
    /// The `ssh-ed25519` key of that seed: RFC 8032, section 5.1.5.
    pub fn from_seed(seed: [u8; 32], comment: &str) -> PrivateKey {
        PrivateKey::new(SigningKey::ed25519(&Zeroizing::new(seed)), comment)
    }

    /// The `ecdsa-sha2-nistp256` key of that number; `None` if it is 0, or not less than the order of the group.
    pub fn from_p256(number: [u8; 32], comment: &str) -> Option<PrivateKey> {
        SigningKey::p256(&Zeroizing::new(number)).map(|signing| PrivateKey::new(signing, comment))
    }

    fn new(signing: SigningKey, comment: &str) -> PrivateKey {
        let public = PublicKey::from_verifying(signing.verifying_key());
        PrivateKey { signing, public, comment: comment.to_owned() }
    }

    /// Reads the content of a private key file.
    ///
    /// # Errors
    ///
    /// Why it can't be used, and what to do.
    pub fn from_openssh(content: &[u8]) -> Result<PrivateKey, PrivateKeyError> {
        let text = std::str::from_utf8(content).map_err(|_| PrivateKeyError::NotAKey)?.trim();
        let Some(text) = text.strip_prefix(BEGIN) else { return Err(other_file(text)) };
        let text = text.strip_suffix(END).ok_or(damaged("the line `-----END OPENSSH PRIVATE KEY-----` is missing"))?;
        let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
        base64.extend(text.split_ascii_whitespace());
        // More than what it is decoded to: an allocation of the decoder's own would not be overwritten after an error.
        let mut buffer = Zeroizing::new(vec![0; base64.len()]);
        let bytes = Base64::decode(&*base64, &mut buffer).map_err(|_| damaged("it is not base64"))?;
        let bytes = bytes.strip_prefix(MAGIC).ok_or(damaged("it does not begin with `openssh-key-v1`"))?;
        container(bytes)
    }

    /// The public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The comment.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// Signs.
    pub fn sign(&self, to_be_signed: &[u8]) -> Signature {
        Signature { bytes: self.signing.sign(to_be_signed), fido_flags: 0, fido_counter: 0 }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public.fingerprint())
    }
}

/// PROTOCOL.key, section 1.
fn container(bytes: &[u8]) -> Result<PrivateKey, PrivateKeyError> {
    let mut reader = Reader::new(bytes);
    let short = damaged("it is cut off");
    let (Some(cipher), Some(kdf), Some(_)) = (reader.string(), reader.string(), reader.string()) else {
        return Err(short);
    };
    let (Some(1), Some(public), Some(private)) = (reader.u32(), reader.string(), reader.string()) else {
        return Err(damaged("it does not hold one key"));
    };
    // First the type: an RSA key is of no use with its passphrase either.
    let key_type = key_type_of(public)?;
    if key_type.is_fido() {
        return Err(PrivateKeyError::Fido);
    }
    if cipher != b"none" || kdf != b"none" {
        return Err(PrivateKeyError::Encrypted);
    }
    reader.end().ok_or(damaged("something follows the key"))?;
    let key = private_section(private, key_type, short)?;
    if key.public.blob() != public {
        return Err(damaged("its public key is of another private key"));
    }
    Ok(key)
}

/// The type of a public key, even if the key itself is not valid.
fn key_type_of(blob: &[u8]) -> Result<KeyType, PrivateKeyError> {
    let name = Reader::new(blob).string().and_then(|name| std::str::from_utf8(name).ok());
    Ok(KeyType::from_name(name.ok_or(damaged("its public key has no type"))?)?)
}

/// PROTOCOL.key, section 3.
fn private_section(bytes: &[u8], key_type: KeyType, short: PrivateKeyError) -> Result<PrivateKey, PrivateKeyError> {
    if !bytes.len().is_multiple_of(BLOCK) {
        return Err(damaged("its length is not a multiple of 8"));
    }
    let mut reader = Reader::new(bytes);
    let checks: (Option<[u8; 4]>, Option<[u8; 4]>) = (reader.array(), reader.array());
    let (Some(first), Some(second)) = checks else { return Err(short) };
    if !bool::from(first.ct_eq(&second)) {
        return Err(damaged("its check numbers differ"));
    }
    if reader.string() != Some(key_type.name().as_bytes()) {
        return Err(damaged("its private key is of another type than its public key"));
    }
    let signing = SigningKey::read(key_type, &mut reader).map_err(damaged)?;
    let comment = reader.string().ok_or(short)?;
    let padding = reader.rest();
    if padding.len() >= BLOCK || padding.iter().zip(1..).any(|(&byte, expected)| byte != expected) {
        return Err(damaged("its padding is not 1, 2, 3 …"));
    }
    let comment: String = String::from_utf8_lossy(comment).chars().filter(|&character| is_plain(character)).collect();
    Ok(PrivateKey::new(signing, &comment))
}

/// What the text is, if not a key in OpenSSH's format.
fn other_file(text: &str) -> PrivateKeyError {
    let first = text.lines().next().unwrap_or_default();
    let label = first.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
    match label {
        // PKCS#8, and the header of a PEM file that is encrypted.
        Some("ENCRYPTED PRIVATE KEY") => PrivateKeyError::Encrypted,
        Some("RSA PRIVATE KEY") => PrivateKeyError::Type(PublicKeyError::Rsa),
        Some(label) if label.ends_with("PRIVATE KEY") => PrivateKeyError::OtherFormat { format: excerpt(label) },
        Some(label) if label.ends_with("PUBLIC KEY") => PrivateKeyError::Public,
        _ if first.starts_with("PuTTY-User-Key-File-") => {
            PrivateKeyError::OtherFormat { format: "of PuTTY".to_owned() }
        }
        _ if first.split_ascii_whitespace().any(|word| KeyType::from_name(word).is_ok()) => PrivateKeyError::Public,
        _ => PrivateKeyError::NotAKey,
    }
}
