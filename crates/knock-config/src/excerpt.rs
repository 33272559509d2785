//! Texts of a file as messages show them.

/// A text of the file for a message: at most 60 characters, without control characters, which could drive a terminal.
pub fn excerpt(text: &str) -> String {
    shorten(text, 60)
}

/// At most `length` characters of `text`, without control characters, which could drive a terminal.
pub(crate) fn shorten(text: &str, length: usize) -> String {
    let mut shown: String = text.chars().take(length).flat_map(escape_control).collect();
    if text.chars().nth(length).is_some() {
        shown.push('…');
    }
    shown
}

/// The text with its control characters escaped, so that none can drive a terminal.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(escape_control).collect()
}

fn escape_control(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    let plain = escaped.is_none().then_some(character);
    escaped.into_iter().flatten().chain(plain)
}
