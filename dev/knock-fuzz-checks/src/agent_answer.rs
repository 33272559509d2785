//! An answer of an agent is read whole or refused, and no signature is taken from it that is not one.

use knock_spa::{PrivateKey, agent};

use crate::import::printable;

/// Checks [`agent::read_list`] and [`agent::read_signature`] with the answer that these bytes are.
///
/// # Panics
///
/// Where what is read of an answer is not fit for a terminal, or a wrong signature is accepted.
pub fn agent_answer(bytes: &[u8]) {
    match agent::read_list(bytes) {
        Ok(keys) => {
            // Each key takes two lengths at least.
            assert!(keys.len() <= bytes.len() / 8);
            for key in keys {
                assert!(key.comment.chars().count() <= 128 && !key.comment.chars().any(char::is_control));
                if let Err(error) = key.key {
                    printable(&error.to_string());
                }
            }
        }
        Err(error) => printable(&error.to_string()),
    }
    for key in [PrivateKey::from_seed([1; 32], ""), PrivateKey::from_p256([2; 32], "").expect("a number of the group")]
    {
        match agent::read_signature(bytes, key.public_key(), b"text") {
            // ECDSA has more, but who finds another one of an unknown key has broken it.
            Ok(signature) => assert_eq!(signature, key.sign(b"text"), "another signature than that of the key"),
            Err(error) => printable(&error.to_string()),
        }
    }
}
