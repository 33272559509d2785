//! The history for people: for each address a bar of the whole window, then its stays.

use std::collections::HashMap;

use super::stays::{End, Stay};
use crate::ctl::local_time::{local, minute, time_of_day};
use crate::ctl::table::{DIM, GOOD, span, styled, table};

/// Columns of the bar.
const COLUMNS: usize = 48;
/// Columns from one time above the bar to the next.
const TICK: usize = 12;
const INDENT: &str = "  ";
/// How much of a column the address was in.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The addresses, the one that was in last first, each with its stays in their order.
pub(super) fn text(stays: &[Stay], since: f64, now: f64) -> String {
    let window = span(now - since);
    if stays.is_empty() {
        return format!("nobody was in during the last {window}\n");
    }
    let column = span((now - since) / COLUMNS as f64);
    let mut text = format!("who was in during the last {window}; a column of the bar is {column}\n");
    text.push_str(&styled(DIM, &axis(since, now)));
    let rows: Vec<Vec<String>> = columns(stays.iter().map(|stay| row(stay, now)).collect());
    for of_address in by_address(stays) {
        let of_address: Vec<(&Stay, &Vec<String>)> =
            of_address.into_iter().filter_map(|index| stays.get(index).zip(rows.get(index))).collect();
        let address = of_address.first().map_or("", |(stay, _)| stay.who.address.as_str());
        let heading = format!("{}\n", knock_config::printable(address));
        let is_in = of_address.iter().any(|(stay, _)| stay.end == End::Live);
        text.push_str(&if is_in { styled(GOOD, &heading) } else { heading });
        let spans: Vec<(f64, f64)> =
            of_address.iter().map(|(stay, _)| (stay.from.unwrap_or(since), stay.until.min(now))).collect();
        text.push_str(&format!("{INDENT}{}\n", bar(&spans, since, now)));
        let rows: Vec<Vec<String>> = of_address.iter().map(|(_, row)| (*row).clone()).collect();
        text.push_str(&table(&["", "", "", "", ""], &rows));
    }
    text
}

/// The stays of each address; the one that was in last is first.
fn by_address(stays: &[Stay]) -> Vec<Vec<usize>> {
    let mut by_address: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, stay) in stays.iter().enumerate() {
        by_address.entry(&stay.who.address).or_default().push(index);
    }
    let mut all: Vec<Vec<usize>> = by_address.into_values().collect();
    all.sort_by_key(|of_address| std::cmp::Reverse(of_address.last().copied()));
    all
}

/// The line of times above the bars.
fn axis(since: f64, now: f64) -> String {
    let mut line = INDENT.to_owned();
    for tick in (0..COLUMNS).step_by(TICK) {
        let time = since + (now - since) * tick as f64 / COLUMNS as f64;
        let label = if now - since > 2.0 * 86_400.0 { minute(time) } else { time_of_day(time) };
        line.push_str(&format!("{label:<TICK$}"));
    }
    format!("{line}now\n")
}

/// How much of each column the spans cover.
fn bar(spans: &[(f64, f64)], since: f64, now: f64) -> String {
    let width = (now - since) / COLUMNS as f64;
    let column = |index: usize| {
        let (start, end) = (since + width * index as f64, since + width * (index + 1) as f64);
        let covered = spans.iter().map(|&(from, until)| (until.min(end) - from.max(start)).max(0.0) / width);
        // Two rules may have been open at once.
        let covered = covered.fold(0.0, |sum: f64, part| sum + part).min(1.0);
        let level = LEVELS.iter().enumerate().find(|(level, _)| covered * 8.0 <= (level + 1) as f64 + 1e-6);
        if covered > 0.0 { level.map_or('█', |(_, level)| *level) } else { '·' }
    };
    (0..COLUMNS).map(column).collect()
}

fn row(stay: &Stay, now: f64) -> Vec<String> {
    let rule = match stay.who.instance.as_str() {
        "" => stay.who.rule.clone(),
        instance => format!("{instance}: {}", stay.who.rule),
    };
    let same_day = |one: f64, other: f64| local(one).date() == local(other).date();
    let until = match stay.end {
        End::Live => "now".to_owned(),
        _ if stay.from.is_some_and(|from| same_day(from, stay.until)) => time_of_day(stay.until),
        _ => minute(stay.until),
    };
    let expires = if same_day(now, stay.until) { time_of_day(stay.until) } else { minute(stay.until) };
    vec![
        format!("{INDENT}{rule}"),
        stay.from.map_or_else(|| "before".to_owned(), minute),
        until,
        stay.from.map_or_else(String::new, |from| span(stay.until.min(now) - from)),
        how(stay, &expires),
    ]
}

/// Why it began, and how it ended.
fn how(stay: &Stay, expires: &str) -> String {
    let begin = match stay.by.as_str() {
        "" => None,
        "one-time" => Some("one-time sequence".to_owned()),
        by if by.starts_with("uid ") => Some(format!("granted by {by}")),
        by => Some(by.to_owned()),
    };
    let extended = match stay.extended {
        0 => None,
        1 => Some("extended".to_owned()),
        times => Some(format!("extended {times} times")),
    };
    let end = match stay.end {
        End::Live => format!("expires {expires}"),
        End::Expired => "expired".to_owned(),
        End::Revoked if stay.revoked_by.is_empty() => "revoked".to_owned(),
        End::Revoked => format!("revoked by {}", stay.revoked_by),
        End::Stopped => "knockd stopped".to_owned(),
        End::Booted => "the machine was started again".to_owned(),
        End::Unknown => "its end is not in the journal".to_owned(),
    };
    begin.into_iter().chain(extended).chain([end]).collect::<Vec<_>>().join(", ")
}

/// Pads the cells of each column, but the last, to one width.
fn columns(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let last = rows.first().map_or(0, |row| row.len().saturating_sub(1));
    for column in 0..last {
        let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        for row in &mut rows {
            row[column] = format!("{:<width$}", row[column]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::history::stays::tests::who;

    const HOUR: f64 = 3600.0;
    /// 2025-12-02 00:00 UTC.
    const NOW: f64 = 1_764_633_600.0;
    const SINCE: f64 = NOW - 24.0 * HOUR;

    fn stay(rule: &str, address: &str, from: Option<f64>, until: f64, end: End) -> Stay {
        let (by, revoked_by, opens) = ("knock".to_owned(), String::new(), "22/tcp".to_owned());
        Stay { who: who(rule, address), opens, from, until, end, by, revoked_by, extended: 0 }
    }

    #[test]
    fn each_address_has_a_bar_and_its_stays_in_eighty_columns() {
        let v6 = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff";
        let mut by_hand = stay("a_rule_with_a_long_name", v6, Some(SINCE - HOUR), SINCE + HOUR, End::Revoked);
        (by_hand.by, by_hand.revoked_by, by_hand.extended) = ("uid 0".to_owned(), "rule close_ssh".to_owned(), 3);
        let stays = [
            by_hand,
            stay("ssh", "192.0.2.7", Some(NOW - 3.0 * HOUR), NOW - 2.0 * HOUR, End::Expired),
            stay("ssh", "192.0.2.7", Some(NOW - HOUR), NOW + HOUR, End::Live),
        ];
        let text = anstream::adapter::strip_str(&text(&stays, SINCE, NOW)).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "who was in during the last 1d; a column of the bar is 30m");
        assert!(lines[1].starts_with("  ") && lines[1].ends_with("       now"), "{text}");
        assert_eq!(lines[2], "192.0.2.7", "the one that was in last is first");
        assert_eq!(lines[3], format!("  {}██··██", "·".repeat(42)));
        let name = format!("{:<23}", "ssh");
        let (from, until) = (minute(NOW - 3.0 * HOUR), time_of_day(NOW - 2.0 * HOUR));
        assert_eq!(lines[4], format!("  {name}  {from}  {until:<11}  1h  knock, expired"), "{text}");
        assert!(lines[5].contains("  now          1h  knock, expires "), "{text}");
        assert_eq!((lines[6], lines[7]), (v6, format!("  ██{}", "·".repeat(46)).as_str()));
        assert!(lines[8].contains("2h  granted by uid 0,") && text.contains("close_ssh"), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn the_height_of_a_column_is_the_part_that_is_covered() {
        let of = |spans: &[(f64, f64)]| bar(spans, 0.0, 4800.0);
        assert_eq!(of(&[(0.0, 1.0)]), format!("▁{}", "·".repeat(47)));
        assert_eq!(of(&[(0.0, 50.0), (20.0, 30.0)]), format!("▅{}", "·".repeat(47)));
        assert_eq!(of(&[(4700.0, 9999.0)]), format!("{}█", "·".repeat(47)));
        assert_eq!(of(&[(0.0, 4800.0), (0.0, 4800.0)]), "█".repeat(48));
    }

    #[test]
    fn an_empty_window_is_said_in_words() {
        assert_eq!(text(&[], SINCE, NOW), "nobody was in during the last 1d\n");
    }
}
