//! A URL that is accepted has one spelling, and no message shows the secret of one that is not.

use knock_spa::KnockUrl;

use crate::import::printable;

/// Checks [`KnockUrl::parse`] with the URL that these bytes are, where they are text.
///
/// # Panics
///
/// Where what it reads is written in another way than it is read, or a message is not fit for a terminal.
pub fn knock_url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match KnockUrl::parse(text) {
        Ok(url) => {
            let written = url.to_secret_text();
            assert_eq!(KnockUrl::parse(&written).as_ref(), Ok(&url));
            // Addresses have several spellings, and realm and cover any order; nothing else may vary.
            if !text.contains('[') && text.find("realm=") < text.find("cover=") {
                assert_eq!(*written, text);
            }
        }
        Err(error) => printable(&error.to_string()),
    }
}
