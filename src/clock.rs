//! The daemon's clock. Nothing else in the program asks what time it is.

use knock_proto::Time;
use rustix::time::{ClockId, clock_gettime};

/// Now, on `CLOCK_BOOTTIME` (clock_gettime(2)): no step of the wall clock moves it, and it goes on while the machine
/// sleeps, as a client's timeouts do.
pub(crate) fn now() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}
