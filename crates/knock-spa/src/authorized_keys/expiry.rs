//! Times of `expiry-time`: `20271231Z`, `202712312359Z`, `20271231235959Z`.

use crate::time::UnixTime;

/// Reads a time in UTC. `None`: it is not one.
///
/// sshd reads a time without `Z` in the time zone of the host. Here it is refused: a pure function knows no time zone,
/// and hours of doubt about the end of a permission are too many.
pub(super) fn parse(text: &str) -> Option<UnixTime> {
    let digits = text.strip_suffix(['Z', 'z']).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    if ![8, 12, 14].contains(&digits.len()) {
        return None;
    }
    let number = |from: usize, to: usize| digits.get(from..to).map_or(Some(0), |part| part.parse::<u64>().ok());
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(8, 10)?, number(10, 12)?, number(12, 14)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=days_of_month(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let before_year: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let before_month: u64 = (1..month).map(|month| days_of_month(year, month)).sum();
    let days = before_year + before_month + day - 1;
    Some(UnixTime::from_millis((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000))
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_utc() {
        // date -u -d … +%s
        for (text, seconds) in [
            ("19700101Z", 0),
            ("20261130Z", 1_795_996_800),
            ("202611302159Z", 1_796_075_940),
            ("20261130215958z", 1_796_075_998),
            ("20280229Z", 1_835_395_200),
            ("20000301Z", 951_868_800),
            ("99991231235959Z", 253_402_300_799),
        ] {
            assert_eq!(parse(text), Some(UnixTime::from_millis(seconds * 1000)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_in_utc_is_refused() {
        for text in [
            "",
            "Z",
            "20261130",
            "202611302159",
            "2026113Z",
            "2026113021Z",
            "20261131Z",
            "20270229Z",
            "21000229Z",
            "20260001Z",
            "20261301Z",
            "20260100Z",
            "202611302400Z",
            "202611302360Z",
            "20261130235960Z",
            "19691231Z",
            "2026-11-30Z",
            "+2026113Z",
            "２０２６1130Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
