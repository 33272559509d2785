//! The public key in a private key file: PROTOCOL.key, section 1. It is not encrypted where the private key is.

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use crate::private_key::{BEGIN, END, MAGIC};
use crate::public_key::PublicKey;
use crate::wire::Reader;

impl PublicKey {
    /// The public key of a private key file, although its private key may be encrypted, or in a FIDO device. `None`: the
    /// content is not that of such a file, or of a key that can't sign packets.
    pub fn of_private_key_file(content: &[u8]) -> Option<PublicKey> {
        let armored = std::str::from_utf8(content).ok()?.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
        let mut base64 = Zeroizing::new(String::with_capacity(armored.len()));
        base64.extend(armored.split_ascii_whitespace());
        // More than what it is decoded to, so that nothing of it stays in memory.
        let mut buffer = Zeroizing::new(vec![0; base64.len()]);
        let mut reader = Reader::new(Base64::decode(&*base64, &mut buffer).ok()?.strip_prefix(MAGIC)?);
        let (_cipher, _kdf, _kdf_options) = (reader.string()?, reader.string()?, reader.string()?);
        let _one = reader.u32().filter(|keys| *keys == 1)?;
        PublicKey::from_blob(reader.string()?).ok()
    }
}
