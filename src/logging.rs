//! Where the log goes: standard error, syslog or the journal.

use std::io::{self, Write};

use knock_config::LogTarget;
use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{BasicLogger, Facility, Formatter3164};
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// A log target that is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No syslog daemon.
    #[error("cannot connect to syslog: {0}; is a syslog daemon running? `\"target\": \"stderr\"` needs none")]
    Syslog(syslog::Error),
    /// No journal.
    #[error("cannot connect to the journal: {0}; is systemd-journald running? `\"target\": \"stderr\"` needs none")]
    Journal(io::Error),
}

/// Sends what is logged to the target; without one to the journal where standard error is connected to it, else to
/// standard error. The first call counts; later ones change the level only.
///
/// # Errors
///
/// Where the target is not there.
pub(crate) fn start(target: Option<LogTarget>, level: LevelFilter) -> Result<(), Error> {
    log::set_max_level(level);
    let default = if connected_to_journal() { LogTarget::Journal } else { LogTarget::Stderr };
    let logger: Box<dyn Log> = match target.unwrap_or(default) {
        LogTarget::Stderr => Box::new(Stderr),
        LogTarget::Journal => {
            Box::new(Journal(JournalLog::new().map_err(Error::Journal)?.with_syslog_identifier("knockd".to_owned())))
        }
        LogTarget::Syslog => {
            let formatter = Formatter3164 {
                facility: Facility::LOG_AUTHPRIV,
                hostname: None,
                process: "knockd".to_owned(),
                pid: std::process::id(),
            };
            Box::new(BasicLogger::new(syslog::unix(formatter).map_err(Error::Syslog)?))
        }
    };
    // It fails where a logger is set already, which then stays.
    let _ = log::set_boxed_logger(logger);
    Ok(())
}

/// A line each, without a time: whoever reads standard error knows what time it is, and the journal adds it.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let prefix = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug => "debug: ",
            Level::Trace => "trace: ",
        };
        // One write for the line, so that lines of threads do not mix. Where it fails there is nobody to tell.
        let _ = io::stderr().write_all(format!("{prefix}{}\n", record.args()).as_bytes());
    }

    fn flush(&self) {}
}

/// The journal logger of the crate takes everything; this one keeps to the level.
struct Journal(JournalLog);

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {}
}
