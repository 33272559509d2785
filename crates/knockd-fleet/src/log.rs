//! The log: lines on standard error, with the prefixes of sd-daemon(3) where the journal reads them.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// How many lines there may be at once.
const BURST: u32 = 30;
/// How long it takes until there may be another one. A store that works and fails in turns fills no disk.
const SPACE: Duration = Duration::from_secs(10);

struct Lines {
    journal: bool,
    limit: Mutex<Limit>,
}

/// How many lines may still come, and how many were left out.
#[derive(Debug)]
struct Limit {
    left: u32,
    since: Instant,
    left_out: u64,
}

impl Limit {
    /// Whether a line may come at that time, and how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let earned = now.saturating_duration_since(self.since).as_secs() / SPACE.as_secs();
        if earned > 0 {
            self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(BURST)).min(BURST);
            self.since = now;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.left_out += 1;
            return None;
        };
        self.left = left;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (number, word) = match record.level() {
            Level::Error => ("<3>", "error: "),
            Level::Warn => ("<4>", "warning: "),
            Level::Info => ("<6>", ""),
            Level::Debug | Level::Trace => ("<7>", ""),
        };
        let admitted = self.limit.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        let Some(left_out) = admitted else { return };
        let prefix = if self.journal { number } else { word };
        if left_out > 0 {
            let _ = writeln!(std::io::stderr(), "{prefix}there were too many messages; {left_out} were left out");
        }
        // Without standard error there is nobody to say it to.
        let _ = writeln!(std::io::stderr(), "{prefix}{}", record.args());
    }

    fn flush(&self) {}
}

/// Starts the log.
pub(crate) fn start() {
    let limit = Mutex::new(Limit { left: BURST, since: Instant::now(), left_out: 0 });
    let lines = Lines { journal: std::env::var_os("JOURNAL_STREAM").is_some(), limit };
    if log::set_boxed_logger(Box::new(lines)).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_messages_is_cut_and_counted() {
        let start = Instant::now();
        let mut limit = Limit { left: BURST, since: start, left_out: 0 };
        assert_eq!((0..100).filter(|_| limit.admit(start).is_some()).count(), BURST as usize);
        assert_eq!(limit.admit(start + SPACE / 2), None);
        assert_eq!(limit.admit(start + SPACE), Some(71));
        assert_eq!(limit.admit(start + SPACE), None);
        let later = start + 1000 * SPACE;
        assert_eq!((0..100).filter(|_| limit.admit(later).is_some()).count(), BURST as usize);
    }
}
