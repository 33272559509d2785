//! A private key that is accepted signs for its public key.

use base64ct::{Base64, Encoding};
use knock_spa::{Presence, PrivateKey, PublicKey};

use crate::import::printable;

/// Checks [`PrivateKey::from_openssh`] with the file that these bytes are, and with the file that has them in its base64.
///
/// # Panics
///
/// Where an accepted key does not sign for its public key, or a message is not fit for a terminal.
pub fn private_key(bytes: &[u8]) {
    read(bytes);
    let base64 = Base64::encode_string(&[b"openssh-key-v1\0", bytes].concat());
    let file = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{base64}\n-----END OPENSSH PRIVATE KEY-----\n");
    read(file.as_bytes());
}

fn read(file: &[u8]) {
    match PrivateKey::from_openssh(file) {
        Ok(key) => {
            let signature = key.sign(b"text");
            assert_eq!(signature.verify(key.public_key(), b"text", Presence::Touch), Ok(()));
            assert!(!key.comment().chars().any(char::is_control));
            assert_eq!(PublicKey::of_private_key_file(file).as_ref(), Some(key.public_key()));
        }
        Err(error) => printable(&error.to_string()),
    }
}
