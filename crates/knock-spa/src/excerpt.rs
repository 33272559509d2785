//! Texts of others, fit for messages.

/// The start of a text, fit for a message: no control characters, at most 40 characters.
pub(crate) fn excerpt(text: &str) -> String {
    let shown = |character: char| if is_plain(character) { character } else { '\u{fffd}' };
    let mut characters = text.chars();
    let mut start: String = characters.by_ref().take(40).map(shown).collect();
    if characters.next().is_some() {
        start.push('…');
    }
    start
}

/// Whether a character drives no terminal, and does not change the order in which text is shown.
pub(crate) fn is_plain(character: char) -> bool {
    let reorders =
        matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !character.is_control() && !reorders
}
