//! A pending stop command, and how the journal writes it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knock_config::StopOnShutdown;
use knock_proto::Time;
use serde::{Deserialize, Serialize};

use crate::os::clock::ClockReading;

/// More than a line of the journal needs beside its record, in bytes.
pub(super) const LINE_REST: usize = 40;

/// Rule, address and command line, which identify a stop command.
pub(super) type Key = (Arc<str>, IpAddr, Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) rule: Arc<str>,
    pub(super) source: IpAddr,
    /// The command line, with the address in it.
    #[serde(rename = "command")]
    pub(super) line: Arc<str>,
    /// The time limit of the command.
    pub(super) timeout_ms: u64,
    /// The rule's `stop_after`. The due time is never later than this.
    pub(super) after_ms: u64,
    /// The journal calls it `on_stop`, as journals of earlier versions do.
    #[serde(rename = "on_stop")]
    pub(super) on_shutdown: StopOnShutdown,
    pub(super) due_boottime_ns: u64,
    pub(super) due_unix_ms: u64,
}

impl Record {
    pub(super) fn key(&self) -> Key {
        (Arc::clone(&self.rule), self.source, Arc::clone(&self.line))
    }

    /// When it is due, on the monotonic clock.
    pub(super) fn due(&self) -> Time {
        Time::from_nanos(self.due_boottime_ns)
    }

    /// Makes it due `left` after `at`.
    pub(super) fn set_due(&mut self, at: ClockReading, left: Duration) {
        self.due_boottime_ns = at.boottime.after(left).as_nanos();
        self.due_unix_ms = unix_milliseconds(at.wall).saturating_add(milliseconds(left));
    }

    /// Its bytes in the journal, at most.
    pub(super) fn size(&self) -> usize {
        // All keys are text, and the target is memory: this cannot fail.
        serde_json::to_vec(self).map_or(0, |text| text.len()) + LINE_REST
    }

    /// Adapts the times to the clocks of a daemon that starts. The wall clock decides only where the monotonic clock is
    /// another one; where it was set back meanwhile, nothing is put off for longer than `stop_after`.
    pub(super) fn translate(&mut self, at: ClockReading, same_boot: bool) {
        let left = if same_boot {
            self.due().since(at.boottime)
        } else {
            Duration::from_millis(self.due_unix_ms.saturating_sub(unix_milliseconds(at.wall)))
        };
        self.set_due(at, left.min(Duration::from_millis(self.after_ms)));
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unix_milliseconds(time: SystemTime) -> u64 {
    milliseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}
