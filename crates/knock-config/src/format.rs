//! The formats of the files that are given to knockd, or to its import, by mistake or to be converted.

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON (RFC 8259), the format of a configuration of knockd.
    Json,
    /// Sections and `Key = value`, as in knockd.conf of knock (knockd(1)).
    Knock,
    /// YAML, as in config.yaml of knock-rs.
    Yaml,
}

/// The format that `text` seems to have, and the number of the line, from 1, that shows it: the first one that is neither
/// empty nor a comment. A text that shows nothing is taken for JSON.
pub fn format(text: &str) -> (Format, usize) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_content = |(_, line): &(usize, &str)| !line.is_empty() && !line.starts_with(['#', ';']);
    let Some((index, line)) = text.lines().map(str::trim).enumerate().find(is_content) else {
        return (Format::Json, 1);
    };
    // A name, and no list of JSON.
    let is_section = |name: &str| name.contains(|c: char| c.is_alphabetic()) && !name.contains(['"', '{', '[', ',']);
    let format = if line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(is_section) {
        Format::Knock
    } else if line.starts_with('{') {
        Format::Json
    } else if line == "---" || line.starts_with("--- ") || line.starts_with("- ") || line.starts_with('%') {
        Format::Yaml
    } else {
        let word = line.find(|character: char| !(character.is_ascii_alphanumeric() || "_-".contains(character)));
        let rest = word.filter(|length| *length > 0).map(|length| line[length..].trim_start());
        match rest {
            Some(rest) if rest == ":" || rest.starts_with(": ") => Format::Yaml,
            Some(rest) if rest.starts_with('=') => Format::Knock,
            _ => Format::Json,
        }
    };
    (format, index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_with_content_shows_the_format() {
        for (text, expected) in [
            ("", (Format::Json, 1)),
            ("{\n", (Format::Json, 1)),
            ("\n\n  {", (Format::Json, 3)),
            ("hello", (Format::Json, 1)),
            ("\"interface\": \"any\",", (Format::Json, 1)),
            ("[1, x]", (Format::Json, 1)),
            (r#"["a"]"#, (Format::Json, 1)),
            ("# knockd.conf\n\n\t[options]\r\n\tUseSyslog\n", (Format::Knock, 3)),
            ("\u{feff}[openSSH]", (Format::Knock, 1)),
            ("; x\nsequence = 1:tcp, 2", (Format::Knock, 2)),
            ("interface: eth0", (Format::Yaml, 1)),
            ("# a: b\nrules:\n  - name: x", (Format::Yaml, 2)),
            ("---\ninterface: eth0", (Format::Yaml, 1)),
            ("%YAML 1.2\n---", (Format::Yaml, 1)),
        ] {
            assert_eq!(format(text), expected, "{text:?}");
        }
    }
}
