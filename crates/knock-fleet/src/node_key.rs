//! The keys of nodes, with which they sign their records.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Encoding};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

/// The length of a key, public or private.
const LENGTH: usize = 32;
/// The length of a signature.
pub(crate) const SIGNATURE_LENGTH: usize = 64;
/// In front of a public key in text, so that nobody mistakes one kind for the other.
const PUBLIC: &str = "ed25519:";
/// In front of a private key.
const PRIVATE: &str = "ed25519-secret:";

/// The start of the SHA-256 of a node's public key: how records name the node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 8]);

impl NodeId {
    /// The id of these bytes.
    pub const fn from_bytes(bytes: [u8; 8]) -> NodeId {
        NodeId(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    /// 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// The text is not a key of a node. No message has any part of a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeKeyError {
    /// A private key where the public one belongs.
    #[error(
        "this is the private key of a node; write the public key, `ed25519:…`, which `knockctl fleet keygen` printed, and make \
         another key if others may have read this file"
    )]
    Private,
    /// A public key where the private one belongs.
    #[error("this is the public key of a node; name the file of its private key, which `knockctl fleet keygen` wrote")]
    Public,
    /// Something else.
    #[error(
        "this is not the key of a node; write `ed25519:` and 44 characters, as `knockctl fleet keygen` printed them"
    )]
    Form,
    /// Everybody can forge signatures of this key, or it is not a point of the curve.
    #[error("the key can't be used; make another one with `knockctl fleet keygen`")]
    Weak,
}

/// The public key of a node. Its text is `ed25519:` and 44 characters of base64.
#[derive(Clone, PartialEq, Eq)]
pub struct NodePublicKey(VerifyingKey);

impl NodePublicKey {
    /// How records name the node.
    pub fn id(&self) -> NodeId {
        let digest: [u8; 32] = Sha256::digest(self.0.as_bytes()).into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        NodeId([a, b, c, d, e, f, g, h])
    }

    /// Whether the node has signed the message.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_LENGTH]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl FromStr for NodePublicKey {
    type Err = NodeKeyError;

    fn from_str(text: &str) -> Result<NodePublicKey, NodeKeyError> {
        if text.starts_with(PRIVATE) {
            return Err(NodeKeyError::Private);
        }
        let bytes = decode(text.strip_prefix(PUBLIC).ok_or(NodeKeyError::Form)?)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| NodeKeyError::Weak)?;
        if key.is_weak() { Err(NodeKeyError::Weak) } else { Ok(NodePublicKey(key)) }
    }
}

impl fmt::Display for NodePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", Base64::encode_string(self.0.as_bytes()))
    }
}

impl fmt::Debug for NodePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodePublicKey({self})")
    }
}

/// The private key of a node. It is overwritten when it is dropped.
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// The key of that seed, which should be random: RFC 8032, section 5.1.5.
    pub fn from_seed(mut seed: [u8; LENGTH]) -> NodeKey {
        let key = NodeKey(SigningKey::from_bytes(&seed));
        seed.zeroize();
        key
    }

    /// Reads the content of a key file: one line.
    ///
    /// # Errors
    ///
    /// What is there instead.
    pub fn from_file(content: &[u8]) -> Result<NodeKey, NodeKeyError> {
        let line = std::str::from_utf8(content).map_err(|_| NodeKeyError::Form)?.trim_end();
        if line.starts_with(PUBLIC) {
            return Err(NodeKeyError::Public);
        }
        let mut seed = Zeroizing::new([0; LENGTH]);
        *seed = decode(line.strip_prefix(PRIVATE).ok_or(NodeKeyError::Form)?)?;
        Ok(NodeKey(SigningKey::from_bytes(&seed)))
    }

    /// The line of a key file, with its end.
    pub fn to_file(&self) -> Zeroizing<String> {
        let encoded = Zeroizing::new(Base64::encode_string(self.0.as_bytes()));
        // With room for all of it: a text that grows leaves a copy behind.
        let mut line = Zeroizing::new(String::with_capacity(PRIVATE.len() + encoded.len() + 1));
        line.push_str(PRIVATE);
        line.push_str(&encoded);
        line.push('\n');
        line
    }

    /// The public key.
    pub fn public(&self) -> NodePublicKey {
        NodePublicKey(self.0.verifying_key())
    }

    /// How records name the node.
    pub fn id(&self) -> NodeId {
        self.public().id()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LENGTH] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.id())
    }
}

/// 32 bytes of base64, in constant time.
fn decode(text: &str) -> Result<[u8; LENGTH], NodeKeyError> {
    // More than what it is decoded to: an allocation of the decoder's own would not be overwritten after an error.
    let mut buffer = Zeroizing::new(vec![0; text.len()]);
    let bytes = Base64::decode(text, &mut buffer).map_err(|_| NodeKeyError::Form)?;
    bytes.try_into().map_err(|_| NodeKeyError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_text_and_one_file() {
        let key = NodeKey::from_seed([7; 32]);
        let text = key.public().to_string();
        assert_eq!((text.len(), text.parse()), (52, Ok(key.public())));
        let file = key.to_file();
        let read = NodeKey::from_file(file.as_bytes()).expect("a key");
        assert_eq!((read.public(), file.len()), (key.public(), 60));
        assert_eq!(format!("{key:?}"), format!("NodeKey({})", key.id()), "no part of the secret");
    }

    #[test]
    fn public_and_private_keys_are_not_mistaken_for_each_other() {
        let key = NodeKey::from_seed([7; 32]);
        assert_eq!(key.to_file().trim_end().parse::<NodePublicKey>(), Err(NodeKeyError::Private));
        let read = NodeKey::from_file(key.public().to_string().as_bytes());
        assert_eq!(read.expect_err("a public key"), NodeKeyError::Public);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let text = NodeKey::from_seed([7; 32]).public().to_string();
        for wrong in
            ["", "ed25519:", "ed25519:AAAA", &text[8..], &text.replace(':', ""), &format!("{text}\n"), &text[..51]]
        {
            assert_eq!(wrong.parse::<NodePublicKey>(), Err(NodeKeyError::Form), "{wrong}");
        }
        // The neutral point, whose signatures everybody can make.
        let neutral = format!(
            "{PUBLIC}{}",
            Base64::encode_string(&{
                let mut point = [0; 32];
                point[0] = 1;
                point
            })
        );
        assert_eq!(neutral.parse::<NodePublicKey>(), Err(NodeKeyError::Weak));
        assert_eq!(NodeKey::from_file(b"\xff").expect_err("no text"), NodeKeyError::Form);
    }
}
