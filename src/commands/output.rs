//! What a command writes, line by line into the log, up to a limit.

/// The bytes of a command's output that are logged; the rest is counted.
pub(super) const OUTPUT_MAX: usize = 4096;

/// What tools write when a privilege is missing (strerror(3) of EPERM and EACCES, and some that check first).
const DENIALS: [&str; 7] = [
    "operation not permitted",
    "permission denied",
    "must be root",
    "are you root",
    "you need to be root",
    // With systemd's ProtectSystem= and RestrictAddressFamilies=.
    "read-only file system",
    "address family not supported",
];

#[derive(Default)]
pub(super) struct Output {
    captured: Vec<u8>,
    shown: usize,
    omitted: u64,
}

impl Output {
    /// Adds bytes; `log` gets each line that is complete.
    pub(super) fn take(&mut self, bytes: &[u8], mut log: impl FnMut(&str)) {
        let (kept, omitted) = bytes.split_at(bytes.len().min(OUTPUT_MAX - self.captured.len()));
        self.captured.extend_from_slice(kept);
        self.omitted += omitted.len() as u64;
        while let Some(length) = self.captured[self.shown..].iter().position(|byte| *byte == b'\n') {
            log(&printable(&self.captured[self.shown..self.shown + length]));
            self.shown += length + 1;
        }
    }

    /// Logs the last line, and how much was left out.
    pub(super) fn finish(&mut self, mut log: impl FnMut(&str)) {
        if self.shown < self.captured.len() {
            log(&printable(&self.captured[self.shown..]));
            self.shown = self.captured.len();
        }
        if self.omitted > 0 {
            log(&format!("({} more bytes, not shown)", self.omitted));
        }
    }

    /// Whether it says that a privilege is missing.
    pub(super) fn is_denial(&self) -> bool {
        let text = String::from_utf8_lossy(&self.captured).to_ascii_lowercase();
        DENIALS.iter().any(|denial| text.contains(denial))
    }
}

/// The line without what could drive a terminal or forge a line of the log.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => shown.push('\t'),
            _ if character.is_control() => shown.extend(character.escape_default()),
            _ => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut output = Output::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            output.take(chunk, |line| lines.push(line.to_owned()));
        }
        output.finish(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn a_line_is_logged_whole_however_it_arrives() {
        assert_eq!(lines(&[b"on", b"e\ntw", b"o\r\n\nlast"]), ["one", "two", "", "last"]);
        assert_eq!(lines(&[]), [""; 0]);
    }

    #[test]
    fn control_characters_cannot_forge_the_log() {
        assert_eq!(lines(&[b"\x1b[31mred\x07\tx\xff"]), ["\\u{1b}[31mred\\u{7}\tx\u{fffd}"]);
    }

    #[test]
    fn what_is_beyond_the_limit_is_counted() {
        let flood = [b'x'; 3000];
        let shown = lines(&[&flood, &flood, &flood]);
        assert_eq!(shown[0].len(), OUTPUT_MAX);
        assert_eq!(shown[1], format!("({} more bytes, not shown)", 9000 - OUTPUT_MAX));
        assert_eq!(shown.len(), 2);
    }

    #[test]
    fn a_missing_privilege_is_recognised() {
        let mut output = Output::default();
        output.take(b"iptables v1.8: Permission denied (you must be root)\n", |_| ());
        assert!(output.is_denial());
        let mut other = Output::default();
        other.take(b"no such chain\n", |_| ());
        assert!(!other.is_denial());
    }
}
