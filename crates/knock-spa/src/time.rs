//! Time of the wall clock as a plain number.

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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_utc() {
        let midnight = 20_833 * 86_400_000;
        assert_eq!(UnixTime::from_millis(midnight - 1).day(), 20_832);
        assert_eq!(UnixTime::from_millis(midnight).day(), 20_833);
        assert_eq!(UnixTime::from_millis(u64::MAX).day(), u32::MAX);
    }
}
