//! Time of the wall clock as a plain number.

use std::fmt;
use std::time::Duration;

/// A time in milliseconds since 1970-01-01 UTC, as it is in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// The time `milliseconds` after 1970-01-01 UTC.
    pub const fn from_millis(milliseconds: u64) -> UnixTime {
        UnixTime(milliseconds)
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole days since 1970-01-01 UTC; at most `u32::MAX`, in the year 11,761,191.
    pub fn day(self) -> u32 {
        u32::try_from(self.0 / 86_400_000).unwrap_or(u32::MAX)
    }

    /// How long after `earlier` this is; zero if it is before.
    pub const fn since(self, earlier: UnixTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The time `by` later; the last one there is, where it would be beyond that.
    pub fn after(self, by: Duration) -> UnixTime {
        UnixTime(self.0.saturating_add(millis(by)))
    }

    /// The time `by` earlier, not before 1970.
    pub fn before(self, by: Duration) -> UnixTime {
        UnixTime(self.0.saturating_sub(millis(by)))
    }

    /// Whether this is no more than `window` before or after `now`.
    pub fn is_within(self, window: Duration, now: UnixTime) -> bool {
        self.since(now).max(now.since(self)) <= window
    }
}

impl fmt::Display for UnixTime {
    /// In UTC and whole seconds, as RFC 3339 writes it: `2027-01-15T08:00:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.day());
        let second = self.0 / 1000 % 86_400;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The date of a day since 1970-01-01: year, month, day. Years that begin in March have their leap day at the end, and
/// their months repeat every five, with 153 days.
fn date(day: u32) -> (u64, u64, u64) {
    // From 0000-03-01. 400 years have 146,097 days.
    let days = u64::from(day) + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_800_000_000, "2027-01-15T08:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(UnixTime::from_millis(seconds * 1000 + 999).to_string(), expected);
        }
        assert!(UnixTime::from_millis(u64::MAX).to_string().starts_with("11761191-"));
    }

    #[test]
    fn a_day_begins_at_midnight_utc() {
        let midnight = 20_833 * 86_400_000;
        assert_eq!(UnixTime::from_millis(midnight - 1).day(), 20_832);
        assert_eq!(UnixTime::from_millis(midnight).day(), 20_833);
        assert_eq!(UnixTime::from_millis(u64::MAX).day(), u32::MAX);
    }
}
