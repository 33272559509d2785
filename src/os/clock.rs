//! The daemon's clock. Nothing else in the program reads the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knock_proto::Time;
use knock_spa::UnixTime;
use rustix::time::{ClockId, clock_gettime};

/// One point in time on two clocks: the monotonic one decides; the wall clock serves after a reboot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockReading {
    /// `CLOCK_BOOTTIME`.
    pub(crate) boottime: Time,
    /// `CLOCK_REALTIME`.
    pub(crate) wall: SystemTime,
}

/// Now, on both clocks. Only times that must outlive a reboot use the wall clock.
pub(crate) fn clock_reading() -> ClockReading {
    ClockReading { boottime: now(), wall: SystemTime::now() }
}

/// Now, on `CLOCK_BOOTTIME` (clock_gettime(2)): no step of the wall clock moves it, and it continues while the machine
/// sleeps, as a client's timeouts do.
pub(crate) fn now() -> Time {
    read(ClockId::Boottime)
}

/// The time of a wall clock.
pub(crate) fn unix_time(wall: SystemTime) -> UnixTime {
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Now, on the wall clock: for what other hosts read or have written.
pub(crate) fn unix_now() -> UnixTime {
    unix_time(SystemTime::now())
}

/// How long the machine was suspended since its start: `CLOCK_MONOTONIC` stops meanwhile, as the jiffies do that
/// the timeouts of set elements run on.
pub(crate) fn slept() -> Duration {
    let now = now();
    // Read afterwards: a thread that has to wait in between finds too little, and never sleep that was none.
    now.since(read(ClockId::Monotonic))
}

fn read(clock: ClockId) -> Time {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

/// Notices that the machine was suspended.
#[derive(Debug)]
pub(crate) struct Sleep {
    noticed: Duration,
}

impl Sleep {
    /// Sleep that is no longer than this changes nothing that a timeout is made for.
    const SHORT: Duration = Duration::from_millis(100);

    /// `slept`: how long it was suspended so far, see [`slept`].
    pub(crate) const fn new(slept: Duration) -> Sleep {
        Sleep { noticed: slept }
    }

    /// Whether it was suspended since the last call.
    pub(crate) fn is_over(&mut self, slept: Duration) -> bool {
        let more = slept > self.noticed + Sleep::SHORT;
        if more {
            self.noticed = slept;
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_suspend_is_noticed_once_and_the_inexactness_of_two_clocks_is_not_one() {
        let seconds = Duration::from_secs_f64;
        let mut sleep = Sleep::new(seconds(10.0));
        assert!(!sleep.is_over(seconds(10.0)));
        assert!(!sleep.is_over(seconds(9.99)) && !sleep.is_over(seconds(10.01)));
        assert!(sleep.is_over(seconds(70.0)));
        assert!(!sleep.is_over(seconds(70.0)) && !sleep.is_over(seconds(69.0)));
        // Many short ones add up.
        assert!(!sleep.is_over(seconds(70.08)) && sleep.is_over(seconds(70.16)));
    }

    #[test]
    fn a_machine_that_is_awake_does_not_sleep() {
        let before = slept();
        assert!(slept() <= before + Sleep::SHORT);
    }
}
