//! `knockctl history`: who was in when, from the journal.

mod journal;
mod stays;
mod timeline;

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{EXIT_NOT_PERMITTED, EXIT_OTHER, Failure, complain, json, print, time_value};
use crate::os::clock::clock_reading;
use stays::{Stay, Stays};

/// Where the whole journal has none.
const NO_EVENT: &str = "the journal has no event of knockd: knockd logs to it under systemd, and where `log.target` is \"journal\"; \
                        grants are logged where `log.level` is \"info\" or lower";

/// The document of the history.
#[derive(Serialize)]
struct History<'a> {
    /// The window, in seconds since 1970.
    since: f64,
    until: f64,
    stays: &'a [Stay],
    /// Stays that there was no room for.
    left_out: u64,
}

/// Prints who was in during the last `time`.
pub(super) fn history(time: &str, as_json: bool) -> Result<(), Failure> {
    let wrong = |cause| Failure::new(EXIT_OTHER, format!("--since: {cause}"));
    let span = knock_config::grant_timeout(&time_value(time.to_owned())).map_err(wrong)?;
    let now = clock_reading().wall;
    let since = seconds(now.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH));
    let now = seconds(now);
    let mut stays = Stays::new(since);
    if journal::read(|event| stays.add(event))? == 0 {
        return Err(match rustix::process::geteuid().is_root() {
            true => Failure::new(EXIT_OTHER, NO_EVENT),
            false => {
                Failure::new(EXIT_NOT_PERMITTED, format!("the journal shows no event of knockd; {}", journal::READABLE))
            }
        });
    }
    let (stays, left_out) = stays.finish(now);
    if as_json {
        return print(&json(&History { since, until: now, stays: &stays, left_out }));
    }
    if left_out > 0 {
        complain("warning: ", &format!("{left_out} more stays are left out; a shorter --since shows fewer"));
    }
    print(&timeline::text(&stays, since, now))
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}
