//! The cover: the secret that hides the packets of a realm.

use std::fmt;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The length of a cover in bytes.
const LENGTH: usize = 32;
/// The length of its line in a file, with the end of the line.
const LINE_LENGTH: usize = 45;

/// 32 secret bytes that all users of a realm share. They hide packets; they open nothing.
///
/// They are overwritten when this is dropped.
#[derive(Clone)]
pub struct Cover(Zeroizing<[u8; LENGTH]>);

/// The text is not a cover. No message has any part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoverError {
    /// Nothing is there.
    #[error("there is no cover; make one with `knockctl spa init`")]
    Empty,
    /// There is more than a line.
    #[error("a cover is one line; write one cover in each file")]
    Lines,
    /// It is not base64.
    #[error(
        "the cover is not base64 of 32 bytes (44 characters that end with `=`); copy it again from where it was made"
    )]
    Encoding,
    /// It has another length.
    #[error("the cover has {length} bytes instead of 32; copy it again from where it was made")]
    Length {
        /// How many bytes it has.
        length: usize,
    },
}

impl Cover {
    /// The cover of these bytes, which should be random.
    pub fn from_bytes(mut bytes: [u8; LENGTH]) -> Cover {
        let cover = Cover(Zeroizing::new(bytes));
        bytes.zeroize();
        cover
    }

    /// Reads the content of a cover file: one line of base64.
    ///
    /// # Errors
    ///
    /// The rule that it breaks.
    pub fn from_file(content: &[u8]) -> Result<Cover, CoverError> {
        let line = content.strip_suffix(b"\n").unwrap_or(content);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(CoverError::Empty);
        }
        if line.contains(&b'\n') {
            return Err(CoverError::Lines);
        }
        Cover::decode::<Base64>(std::str::from_utf8(line).map_err(|_| CoverError::Encoding)?)
    }

    /// The line of a cover file, with its end.
    pub fn to_file(&self) -> Zeroizing<String> {
        let encoded = Zeroizing::new(Base64::encode_string(self.as_bytes()));
        // With room for all of it: a text that grows leaves a copy behind.
        let mut line = Zeroizing::new(String::with_capacity(LINE_LENGTH));
        line.push_str(&encoded);
        line.push('\n');
        line
    }

    pub(crate) fn from_url(text: &str) -> Result<Cover, CoverError> {
        Cover::decode::<Base64UrlUnpadded>(text)
    }

    pub(crate) fn to_url(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64UrlUnpadded::encode_string(self.as_bytes()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    fn decode<E: Encoding>(text: &str) -> Result<Cover, CoverError> {
        // More than what it is decoded to: an allocation of the decoder's own would not be overwritten after an error.
        let mut buffer = Zeroizing::new(vec![0; text.len()]);
        let bytes = E::decode(text, &mut buffer).map_err(|_| CoverError::Encoding)?;
        let mut cover = Cover(Zeroizing::new([0; LENGTH]));
        if bytes.len() != LENGTH {
            return Err(CoverError::Length { length: bytes.len() });
        }
        cover.0.copy_from_slice(bytes);
        Ok(cover)
    }
}

impl PartialEq for Cover {
    /// In constant time.
    fn eq(&self, other: &Cover) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl Eq for Cover {}

impl fmt::Debug for Cover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cover(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cover_file_is_one_line_of_base64() {
        let cover = Cover::from_bytes([0xfb; 32]);
        let file = cover.to_file();
        assert_eq!(file.len(), 45);
        let line = file.trim_end();
        for content in [file.to_string(), line.to_owned(), format!("{line}\r\n")] {
            assert_eq!(Cover::from_file(content.as_bytes()), Ok(cover.clone()), "{content:?}");
        }
        let wrong = |content: &str| Cover::from_file(content.as_bytes()).expect_err(content);
        assert_eq!(wrong(""), CoverError::Empty);
        assert_eq!(wrong("\n"), CoverError::Empty);
        assert_eq!(wrong(&format!("{line}\n{line}\n")), CoverError::Lines);
        assert_eq!(wrong(&format!("{line}\n\n")), CoverError::Lines);
        assert_eq!(wrong(&format!(" {line}")), CoverError::Encoding);
        assert_eq!(wrong(line.trim_end_matches('=')), CoverError::Encoding);
        assert_eq!(wrong(&line.replace('+', "-")), CoverError::Encoding, "the alphabet of URLs");
        // The last character has four bits that mean nothing; they must be zero, so that a cover has one spelling.
        assert_eq!(wrong(&line.replace("s=", "t=")), CoverError::Encoding);
        assert_eq!(wrong("AAAA"), CoverError::Length { length: 3 });
        assert_eq!(wrong(&"AAAA".repeat(11)), CoverError::Length { length: 33 });
    }

    #[test]
    fn nothing_shows_a_cover() {
        let shown = format!("{:?} {:#?}", Cover::from_bytes([0xfb; 32]), Cover::from_bytes([0xfb; 32]));
        assert!(!shown.contains("251") && !shown.contains("fb"), "{shown}");
    }
}
