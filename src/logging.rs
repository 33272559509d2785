//! Where the log goes: standard error, syslog or the journal.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;

use knock_config::LogTarget;
use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
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
        let _ = offer(io::stderr().lock(), format!("{prefix}{}\n", record.args()).as_bytes());
    }

    fn flush(&self) {}
}

/// The most that a pipe takes at once where poll(2) says that it takes something (`PIPE_BUF`, pipe(7)).
const AT_ONCE: usize = 4096;

/// Writes what can be written without waiting: who stops reading a pipe must not stop the daemon.
fn offer(mut to: impl Write + AsFd, text: &[u8]) -> io::Result<()> {
    for piece in text.chunks(AT_ONCE) {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&to, PollFlags::OUT)], Some(&at_once))? == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        to.write_all(piece)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = 0;
            while offer(&writer, b"a line\n").is_ok() {
                lines += 1;
            }
            let _ = done.send((lines, offer(&writer, &[b'x'; 3 * AT_ONCE]).is_err()));
        });
        let (lines, refused) = ended.recv_timeout(Duration::from_secs(10)).expect("it does not wait");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert!(refused && lines > 0);
        assert_eq!(text, "a line\n".repeat(lines));
    }
}
