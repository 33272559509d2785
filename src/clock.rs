//! The daemon's clock. Nothing else in the program asks what time it is.

use std::time::SystemTime;

use knock_proto::Time;
use rustix::time::{ClockId, clock_gettime};

use crate::stops::Moment;

/// Now, on both clocks. The wall clock is for what must outlive a reboot, and for nothing else.
pub(crate) fn moment() -> Moment {
    Moment { boottime: now(), wall: SystemTime::now() }
}

/// Now, on `CLOCK_BOOTTIME` (clock_gettime(2)): no step of the wall clock moves it, and it goes on while the machine
/// sleeps, as a client's timeouts do.
pub(crate) fn now() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}
