//! Monotonic time as a plain number, so that tests own the clock.

use std::time::Duration;

/// A point on a monotonic clock, in nanoseconds since an epoch of the caller's choice.
///
/// The daemon takes it from `CLOCK_BOOTTIME` (clock_gettime(2)), so neither a step of the wall clock nor a
/// suspended machine changes what a timeout means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The epoch itself.
    pub const ZERO: Time = Time(0);

    /// The time `nanoseconds` after the epoch.
    pub const fn from_nanos(nanoseconds: u64) -> Time {
        Time(nanoseconds)
    }

    /// The time `milliseconds` after the epoch; saturates after 584 years.
    pub const fn from_millis(milliseconds: u64) -> Time {
        Time(milliseconds.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero where `earlier` is the later one.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This time less `duration`, at least the epoch.
    pub fn before(self, duration: Duration) -> Time {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_sub(nanoseconds))
    }

    /// This time and `duration`, at most the last representable time.
    pub fn after(self, duration: Duration) -> Time {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_backwards_is_zero() {
        assert_eq!(Time::from_millis(5).since(Time::from_millis(7)), Duration::ZERO);
        assert_eq!(Time::from_millis(7).since(Time::from_millis(5)), Duration::from_millis(2));
    }

    #[test]
    fn the_end_of_time_saturates() {
        assert_eq!(Time::ZERO.after(Duration::MAX), Time::from_nanos(u64::MAX));
        assert_eq!(Time::from_millis(5).before(Duration::MAX), Time::ZERO);
    }
}
