//! What a daemon costs while nothing happens.

use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::candidate::Candidate;
use crate::error::Result;
use crate::process::Daemon;

/// What a daemon cost while nothing happened.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) candidate: String,
    /// How often it woke up.
    pub(crate) wakeups: u64,
    /// Its processor time, in milliseconds.
    pub(crate) processor_ms: f64,
    /// Its resident memory, in KiB.
    pub(crate) resident_kib: u64,
}

/// All daemons over the same time.
pub(crate) fn measure<'a>(candidates: impl Iterator<Item = &'a Candidate>, time: Duration) -> Result<Vec<Row>> {
    let daemons: Vec<(&str, &Daemon)> =
        candidates.filter_map(|candidate| Some((candidate.name.as_str(), candidate.daemon.as_ref()?))).collect();
    let mut before = Vec::new();
    for (_, daemon) in &daemons {
        before.push(daemon.usage()?);
    }
    thread::sleep(time);
    let mut rows = Vec::new();
    for ((name, daemon), before) in daemons.iter().zip(before) {
        let now = daemon.usage()?;
        rows.push(Row {
            candidate: (*name).to_owned(),
            wakeups: now.sleeps.saturating_sub(before.sleeps),
            processor_ms: milliseconds(now.processor.saturating_sub(before.processor)),
            resident_kib: now.resident,
        });
    }
    Ok(rows)
}

/// To the microsecond.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1000.0
}
