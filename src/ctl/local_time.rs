//! Times on this machine's clock.

use time::{Duration, OffsetDateTime, UtcOffset};

/// That many seconds after the start of 1970, in this machine's zone, or in UTC where the zone is not known.
pub(super) fn local(seconds: f64) -> OffsetDateTime {
    let since = Duration::checked_seconds_f64(seconds).unwrap_or_default();
    let time = OffsetDateTime::UNIX_EPOCH.checked_add(since).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.to_offset(UtcOffset::local_offset_at(time).unwrap_or(UtcOffset::UTC))
}

/// The month, the day and the time of day: `12-01 15:03`.
pub(super) fn minute(seconds: f64) -> String {
    let time = local(seconds);
    format!("{:02}-{:02} {}", u8::from(time.month()), time.day(), time_of_day(seconds))
}

/// The time of day: `15:03`.
pub(super) fn time_of_day(seconds: f64) -> String {
    let time = local(seconds);
    format!("{:02}:{:02}", time.hour(), time.minute())
}
