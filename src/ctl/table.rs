//! Text for terminals: tables and durations.

use anstyle::{AnsiColor, Style};
use knock_config::printable;

/// All is well.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// Perhaps something is not.
pub(super) const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
/// Something is not.
pub(super) const BAD: Style = AnsiColor::Red.on_default();
/// Less important than the rest.
pub(super) const DIM: Style = Style::new().dimmed();

/// The width of a table in columns; only a longer word exceeds it.
const WIDTH: usize = 80;
/// The minimal width of the last column.
const LAST_MIN: usize = 16;
/// Blanks between columns.
const GAP: usize = 2;

/// A table: columns as wide as their widest cell, the last one wrapped between words.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let last = headings.len().saturating_sub(1);
    let mut widths: Vec<usize> = headings.iter().map(|heading| width(heading)).collect();
    for row in &rows {
        for (column, cell) in widths.iter_mut().zip(row) {
            *column = (*column).max(width(cell));
        }
    }
    let indent: usize = widths[..last].iter().map(|width| width + GAP).sum();
    let room = WIDTH.saturating_sub(indent).max(LAST_MIN);
    let mut text = String::new();
    let mut line = |cells: &[&str]| {
        for (cell, column) in cells[..last].iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', column + GAP - width(cell)));
        }
        for (number, part) in wrap(cells[last], room).iter().enumerate() {
            if number > 0 {
                text.extend(std::iter::repeat_n(' ', indent));
            }
            text.push_str(part);
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
    };
    if headings.iter().any(|heading| !heading.is_empty()) {
        line(headings);
    }
    for row in &rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text
}

/// The text in lines of that width, broken between words. A longer word stays whole, so that people can copy it.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && width(&line) + 1 + width(word) > room {
                lines.push(std::mem::take(&mut line));
            } else if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A duration in its two greatest units, rounded down: `59m 12s`.
pub(crate) fn duration(seconds: f64) -> String {
    let [days, hours, minutes, seconds] = units(seconds);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A duration as people write it, `1h`: that of [`duration`] without a second unit that is zero.
pub(crate) fn span(seconds: f64) -> String {
    let text = duration(seconds);
    match text.split_once(' ') {
        Some((first, second)) if second.starts_with('0') => first.to_owned(),
        _ => text,
    }
}

/// The text in that style. A newline at its end is not part of it.
pub(super) fn styled(style: Style, text: &str) -> String {
    let line = text.trim_end_matches('\n');
    format!("{style}{line}{style:#}{}", &text[line.len()..])
}

fn units(seconds: f64) -> [u64; 4] {
    let seconds = std::time::Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default().as_secs();
    [seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60]
}

/// A number and what it counts: `1 rule`, `2 rules`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_their_two_greatest_units() {
        for (seconds, text) in [
            (0.0, "0s"),
            (0.9, "0s"),
            (59.0, "59s"),
            (60.0, "1m 0s"),
            (3552.9, "59m 12s"),
            (7199.0, "1h 59m"),
            (100_000.0, "1d 3h"),
            (-3.0, "0s"),
            (f64::NAN, "0s"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_span_has_no_unit_that_is_zero() {
        for (seconds, text) in [(3600.0, "1h"), (5400.0, "1h 30m"), (604_800.0, "7d"), (30.0, "30s"), (0.0, "0s")] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_table_keeps_to_eighty_columns_where_its_words_do() {
        let ports = (1..20).map(|port| format!("{port}000/tcp")).collect::<Vec<_>>().join(", ");
        let row = |rule: &str, address: &str| vec![rule.to_owned(), address.to_owned(), ports.clone()];
        let text = table(&["RULE", "ADDRESS", "OPENS"], &[row("ssh", "192.0.2.1"), row("web", "2001:db8::1")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "RULE  ADDRESS      OPENS");
        assert!(lines[1].starts_with("ssh   192.0.2.1    1000/tcp, 2000/tcp, "), "{text}");
        assert!(lines[2].starts_with("                   "), "{text}");
        assert!(lines.iter().all(|line| line.len() <= 80 && !line.ends_with(' ')), "{text}");
    }

    #[test]
    fn nothing_that_drives_a_terminal_is_printed() {
        let text = table(&["A", "B"], &[vec!["\u{1b}[2J".to_owned(), "x\r\u{9b}31m\ny".to_owned()]]);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert_eq!(text.lines().count(), 2, "a newline of a cell makes no line: {text:?}");
    }

    #[test]
    fn one_is_not_plural() {
        assert_eq!((count(1, "rule"), count(0, "rule")), ("1 rule".to_owned(), "0 rules".to_owned()));
    }
}
