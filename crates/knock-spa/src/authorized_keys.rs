//! The file of keys that may sign packets: the format of sshd(8), AUTHORIZED_KEYS FILE FORMAT, with options of our own.

mod expiry;
mod options;

use std::collections::HashMap;
use std::fmt;

use crate::excerpt::is_plain;
use crate::key_type::{KeyType, PublicKeyError};
use crate::public_key::{Fingerprint, PublicKey};

pub use options::{AddressPolicy, KeyOptions, OptionError};

/// The longest comment that names a user, in characters.
const USER_MAX: usize = 128;
/// The most lines that are warned of one by one.
const WARNINGS_MAX: usize = 100;

/// A key that may sign packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizedKey {
    /// The line of the file, counted from 1.
    pub line: usize,
    /// The key.
    pub key: PublicKey,
    /// The comment of the line. `None`: there is none, so the fingerprint names the user.
    pub user: Option<Box<str>>,
    /// What the key may do.
    pub options: KeyOptions,
}

/// A line of the file can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineWarning {
    /// The line, counted from 1.
    pub line: usize,
    /// Why, and what to do.
    pub error: LineError,
}

impl fmt::Display for LineWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.error)
    }
}

/// Why a line can't be used. No message quotes a line of one word, which may be a part of a private key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// A private key.
    #[error(
        "a private key begins here; only public keys belong into this file. Delete it, write the line of the .pub file, and \
         make another key if others may have read this file"
    )]
    PrivateKey,
    /// A public key in the format of RFC 4716 or PEM.
    #[error("a public key in another format begins here; convert it with `ssh-keygen -i -f FILE`")]
    OtherFormat,
    /// The bytes are not text.
    #[error("the line is not UTF-8 text; write the line of the .pub file")]
    NotText,
    /// There is one word only.
    #[error("the line has one word only; write the type of the key and the key, as in `ssh-ed25519 AAAA… alice`")]
    OneWord,
    /// The key can't be used.
    #[error(transparent)]
    Key(#[from] PublicKeyError),
    /// The options can't be used.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The comment can't name a user.
    #[error("the comment has more than 128 characters, or a character that can't be shown; write a short name")]
    Comment,
    /// The key is there twice.
    #[error("the key {fingerprint} is already on line {first}; delete one of both lines")]
    Duplicate {
        /// The key.
        fingerprint: Fingerprint,
        /// The other line, whose options are in force.
        first: usize,
    },
}

/// The content of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizedKeys {
    /// The usable keys, in the order of their lines.
    pub keys: Vec<AuthorizedKey>,
    /// The first lines that can't be used, at most 100.
    pub warnings: Vec<LineWarning>,
    /// How many more lines can't be used.
    pub omitted: usize,
}

impl AuthorizedKeys {
    /// Reads the content of a file. A line that can't be used is skipped with a warning.
    pub fn parse(content: &[u8]) -> AuthorizedKeys {
        let mut read = AuthorizedKeys::default();
        let mut lines: HashMap<Fingerprint, usize> = HashMap::new();
        let mut pasted = false;
        for (bytes, line) in content.split(|&byte| byte == b'\n').zip(1..) {
            let bytes = bytes.trim_ascii();
            // What belongs to a key in another format is warned of at its first line.
            pasted = pasted && is_body(bytes);
            if pasted || bytes.is_empty() || bytes.starts_with(b"#") {
                continue;
            }
            let key = parse_line(bytes, line).and_then(|key| {
                let fingerprint = key.key.fingerprint();
                match lines.get(&fingerprint) {
                    Some(&first) => Err(LineError::Duplicate { fingerprint, first }),
                    None => {
                        lines.insert(fingerprint, line);
                        Ok(key)
                    }
                }
            });
            match key {
                Ok(key) => read.keys.push(key),
                Err(error) => {
                    pasted = matches!(error, LineError::PrivateKey | LineError::OtherFormat);
                    if read.warnings.len() < WARNINGS_MAX {
                        read.warnings.push(LineWarning { line, error });
                    } else {
                        read.omitted += 1;
                    }
                }
            }
        }
        read
    }
}

/// Whether a line can be inside or at the end of a key in another format: base64, a header such as `Comment: …` or
/// `Private-Lines: 1`, or an end.
fn is_body(line: &[u8]) -> bool {
    let word = line.split(|&byte| byte == b' ').next().unwrap_or_default();
    let only = word.len() == line.len();
    let base64 = only && line.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
    let end = line.starts_with(b"-----END ") || line.starts_with(b"---- END ");
    end || base64 || word.ends_with(b":")
}

fn parse_line(bytes: &[u8], line: usize) -> Result<AuthorizedKey, LineError> {
    if bytes.starts_with(b"PuTTY-User-Key-File-") {
        return Err(LineError::PrivateKey);
    }
    if bytes.starts_with(b"-----BEGIN ") || bytes.starts_with(b"---- BEGIN ") {
        let private = bytes.windows(11).any(|window| window == b"PRIVATE KEY");
        return Err(if private { LineError::PrivateKey } else { LineError::OtherFormat });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| LineError::NotText)?;
    let (first, _) = word(text);
    let unknown = |error: &PublicKeyError| matches!(error, PublicKeyError::UnknownType { .. });
    let typed = !KeyType::from_name(first).is_err_and(|error| unknown(&error));
    if !typed && first.len() == text.len() {
        return Err(LineError::OneWord);
    }
    // As sshd does: options are what is there if the first word is not a type.
    let (options, key) = if typed { ("", text) } else { options::split(text)? };
    let (name, rest) = word(key);
    let key_type = match KeyType::from_name(name) {
        // Nothing makes it look like options, so it is the type that is wrong.
        Err(error) if unknown(&error) && !options.contains(['=', '"', ',']) => KeyType::from_name(first)?,
        other => other?,
    };
    let (base64, comment) = word(rest);
    let key = PublicKey::from_words(key_type, base64)?;
    let options = KeyOptions::parse(options, key_type)?;
    Ok(AuthorizedKey { line, key, user: user(comment)?, options })
}

/// The first word, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn user(comment: &str) -> Result<Option<Box<str>>, LineError> {
    if comment.chars().count() > USER_MAX || !comment.chars().all(is_plain) {
        return Err(LineError::Comment);
    }
    Ok((!comment.is_empty()).then(|| comment.into()))
}
