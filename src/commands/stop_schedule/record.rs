//! A pending stop command, and how the journal writes it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knock_config::StopOnStop;
use knock_proto::Time;
use serde::{Deserialize, Serialize};

use super::Moment;
use super::entries::Key;
use super::journal::LINE_REST;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    #[serde(with = "text")]
    pub(super) rule: Arc<str>,
    pub(super) source: IpAddr,
    /// The command line, with the address in it.
    #[serde(rename = "command", with = "text")]
    pub(super) line: Arc<str>,
    #[serde(rename = "timeout_ms", with = "milliseconds")]
    pub(super) timeout: Duration,
    /// The rule's `stop_after`: it is never further away than that.
    #[serde(rename = "after_ms", with = "milliseconds")]
    pub(super) after: Duration,
    #[serde(with = "OnStop")]
    pub(super) on_stop: StopOnStop,
    #[serde(rename = "due_boottime_ns", with = "nanoseconds")]
    pub(super) due_boottime: Time,
    #[serde(rename = "due_unix_ms", with = "unix_milliseconds")]
    pub(super) due_wall: SystemTime,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "StopOnStop", rename_all = "lowercase")]
enum OnStop {
    Run,
    Keep,
}

impl Record {
    pub(super) fn key(&self) -> Key {
        (Arc::clone(&self.rule), self.source, Arc::clone(&self.line))
    }

    /// The bytes that it takes up in the journal, at most.
    pub(super) fn size(&self) -> usize {
        // It has no key that is no text, and goes to memory: nothing can fail.
        serde_json::to_vec(self).map_or(0, |text| text.len()) + LINE_REST
    }

    /// Fits the times to the clocks of a daemon that starts. The wall clock counts only where the monotonic one is
    /// another; one that was stepped back meanwhile puts nothing off for longer than `stop_after`.
    pub(super) fn translate(&mut self, at: Moment, same_boot: bool) {
        let left = if same_boot {
            self.due_boottime.since(at.boottime)
        } else {
            self.due_wall.duration_since(at.wall).unwrap_or(Duration::ZERO)
        };
        let left = left.min(self.after);
        self.due_boottime = at.boottime.after(left);
        self.due_wall = at.wall.checked_add(left).unwrap_or(at.wall);
    }
}

fn to_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

mod text {
    use super::{Arc, Deserialize};

    pub(super) fn serialize<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

mod milliseconds {
    use super::{Deserialize, Duration, to_milliseconds};

    pub(super) fn serialize<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(to_milliseconds(*duration))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

mod nanoseconds {
    use super::{Deserialize, Time};

    pub(super) fn serialize<S: serde::Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(time.as_nanos())
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        u64::deserialize(deserializer).map(Time::from_nanos)
    }
}

mod unix_milliseconds {
    use super::{Deserialize, Duration, SystemTime, UNIX_EPOCH, to_milliseconds};

    pub(super) fn serialize<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(to_milliseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let since = Duration::from_millis(u64::deserialize(deserializer)?);
        UNIX_EPOCH.checked_add(since).ok_or_else(|| serde::de::Error::custom("a time beyond the end of time"))
    }
}
