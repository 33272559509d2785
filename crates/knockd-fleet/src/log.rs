//! The log: lines on standard error, with the prefixes of sd-daemon(3) where the journal reads them.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Lines {
    journal: bool,
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
        let prefix = if self.journal { number } else { word };
        // Without standard error there is nobody to say it to.
        let _ = writeln!(std::io::stderr(), "{prefix}{}", record.args());
    }

    fn flush(&self) {}
}

/// Starts the log.
pub(crate) fn start() {
    let lines = Lines { journal: std::env::var_os("JOURNAL_STREAM").is_some() };
    if log::set_boxed_logger(Box::new(lines)).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}
