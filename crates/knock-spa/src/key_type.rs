//! Which ssh keys can sign packets, and why others can't.

use std::fmt;

use crate::excerpt::excerpt;

/// The kinds of keys that can sign a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `ssh-ed25519`.
    Ed25519,
    /// `sk-ssh-ed25519@openssh.com`: the private key is in a FIDO authenticator.
    FidoEd25519,
    /// `ecdsa-sha2-nistp256`: the only kind of many security chips.
    EcdsaP256,
    /// `sk-ecdsa-sha2-nistp256@openssh.com`: the private key is in a FIDO authenticator.
    FidoEcdsaP256,
}

impl KeyType {
    /// The name in files and in the protocol of ssh.
    pub const fn name(self) -> &'static str {
        match self {
            KeyType::Ed25519 => "ssh-ed25519",
            KeyType::FidoEd25519 => "sk-ssh-ed25519@openssh.com",
            KeyType::EcdsaP256 => "ecdsa-sha2-nistp256",
            KeyType::FidoEcdsaP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    /// Whether the private key is in a FIDO authenticator.
    pub const fn is_fido(self) -> bool {
        matches!(self, KeyType::FidoEd25519 | KeyType::FidoEcdsaP256)
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
            "ecdsa-sha2-nistp256" => Ok(KeyType::EcdsaP256),
            "sk-ecdsa-sha2-nistp256@openssh.com" => Ok(KeyType::FidoEcdsaP256),
            "ssh-rsa" | "rsa-sha2-256" | "rsa-sha2-512" => Err(PublicKeyError::Rsa),
            // Only whole names are shown as they are: the rest of a name may hold anything.
            "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521" | "ssh-dss" => {
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
