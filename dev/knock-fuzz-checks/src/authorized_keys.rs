//! Each line of an authorized_keys file is a key, a warning, or nothing.

use std::collections::HashSet;

use knock_spa::AuthorizedKeys;

use crate::import::printable;

/// Checks [`AuthorizedKeys::parse`] with these bytes.
///
/// # Panics
///
/// Where a line counts twice, a key is there twice, or a message is not fit for a terminal.
pub fn authorized_keys(bytes: &[u8]) {
    let read = AuthorizedKeys::parse(bytes);
    let lines = bytes.split(|&byte| byte == b'\n').count();
    let mut seen = HashSet::new();
    for line in read.keys.iter().map(|key| key.line).chain(read.warnings.iter().map(|warning| warning.line)) {
        assert!((1..=lines).contains(&line) && seen.insert(line), "line {line} of {lines}");
    }
    assert!(seen.len() + read.omitted <= lines);
    assert!(read.omitted == 0 || read.warnings.len() == 100);
    let mut fingerprints = HashSet::new();
    for key in &read.keys {
        assert!(fingerprints.insert(key.key.fingerprint()), "{:?} is there twice", key.key);
        let user = key.user.as_deref().unwrap_or_default();
        assert!(user.chars().count() <= 128 && !user.chars().any(char::is_control), "{user:?}");
        // The key as it is written is the same key of the same user, without its options.
        let again = AuthorizedKeys::parse(format!("{} {user}", key.key).as_bytes());
        assert_eq!(again.keys.first().map(|again| (&again.key, &again.user)), Some((&key.key, &key.user)));
    }
    for warning in &read.warnings {
        printable(&warning.to_string());
    }
}
