//! What the import of knockd.conf, or of a file of knock-rs, writes is a configuration.

/// Checks [`knockd::import`] with the file that these bytes are, where they are text.
///
/// # Panics
///
/// Where it writes what [`knock_config::parse`] and the client's [`knock_config::client::parse`] refuse, or points at a line that the file does not have.
pub fn import(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines = text.lines().count().max(1);
    for native in [false, true] {
        match knockd::import("knockd.conf", text, &knockd::ImportOptions { native, ..Default::default() }) {
            Ok(imported) => {
                // A file of the client has no commands, as its import has none.
                let client = || knock_config::client::parse("config.json", &imported.json).is_ok();
                let commands = imported.json.contains("\"interface\"");
                if let Err(error) = knock_config::parse("config.json", &imported.json)
                    && (commands || !client())
                {
                    panic!("the import wrote what is no configuration: {error}\n{}", imported.json);
                }
                for note in &imported.notes {
                    assert!((1..=lines).contains(&note.line), "line {} of {lines}", note.line);
                    printable(&note.to_string());
                }
                assert!(imported.notes.is_sorted_by_key(|note| note.line));
            }
            Err(errors) => {
                assert!(!errors.is_empty());
                for error in &errors {
                    assert!((1..=lines).contains(&error.line), "line {} of {lines}: {error}", error.line);
                    printable(&error.to_string());
                }
            }
        }
    }
}

/// Checks that a message is one line, that nothing in it drives a terminal, and that it is not as long as its file.
pub(crate) fn printable(message: &str) {
    assert!(!message.chars().any(char::is_control), "{message:?}");
    assert!(message.chars().count() < 4000, "{} characters: {message}", message.chars().count());
}
