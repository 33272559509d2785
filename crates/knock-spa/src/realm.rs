//! The realm: what a signed packet is for.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::excerpt::excerpt;

/// A DNS name has at most 253 characters (RFC 1035, section 2.3.4, without the final dot).
const LONGEST: usize = 253;

/// The name of a group of servers that one cover and one set of keys are for. A packet for another realm is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Realm(Box<str>);

/// The text is not a realm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a realm; write 1 to 253 lowercase letters, digits, `.`, `-` or `_`, first and last a letter or digit, \
     as in \"example.com\""
)]
pub struct RealmError {
    /// The start of the text.
    pub text: String,
}

impl Realm {
    /// The realm in the derivation of keys and in what is signed: its SHA-256.
    pub fn audience(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Realm {
    type Err = RealmError;

    fn from_str(text: &str) -> Result<Realm, RealmError> {
        let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        let valid = bytes.len() <= LONGEST
            && ends.into_iter().all(|end| end.is_some_and(alphanumeric))
            && bytes.iter().all(|byte| alphanumeric(byte) || b".-_".contains(byte));
        valid.then(|| Realm(text.into())).ok_or_else(|| RealmError { text: excerpt(text) })
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_is_lowercase_and_short() {
        for text in ["example.com", "a", "1", "my_home-2", &"a".repeat(253)] {
            assert_eq!(text.parse::<Realm>().expect(text).as_str(), text);
        }
        for text in ["", "Example.com", ".a", "a.", "-a", "a b", "ä", "a/b", "a\n", "a\0b", &"a".repeat(254)] {
            let error = text.parse::<Realm>().expect_err(text).to_string();
            assert!(error.contains("as in \"example.com\"") && !error.contains(['\n', '\0']), "{error}");
        }
    }
}
