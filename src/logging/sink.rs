//! Where lines are written. Everything here but [`look_for`] may wait, for ever.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use knock_config::LogTarget;
use log::{Level, Record};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use syslog::{Facility, Formatter3164, Logger, LoggerBackend};
use systemd_journal_logger::JournalLog;

use super::{Error, Line};

/// Where systemd-journald listens (sd_journal_print(3)).
const JOURNAL: [&str; 1] = ["/run/systemd/journal/socket"];
/// Where a syslog daemon may listen, in the order in which the crate `syslog` tries them.
const SYSLOG: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// An open log target.
pub(super) enum Sink {
    Stderr,
    Journal(Option<JournalLog>),
    Syslog(Option<Logger<LoggerBackend, Formatter3164>>),
}

/// Whether there is such a target. It never waits.
///
/// # Errors
///
/// Where no log daemon listens, or this user may not write there.
pub(super) fn look_for(target: LogTarget) -> Result<(), Error> {
    match target {
        LogTarget::Stderr => Ok(()),
        LogTarget::Journal => listens(&JOURNAL).map_err(Error::Journal),
        LogTarget::Syslog => listens(&SYSLOG).map_err(Error::Syslog),
    }
}

fn listens(paths: &[&str]) -> io::Result<()> {
    for path in paths {
        // To connect a datagram socket waits for nothing, however full the other one is (unix(7)).
        match UnixDatagram::unbound()?.connect(path) {
            // A stream socket: it is there, and the thread that writes connects to it.
            Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => return result,
        }
    }
    Err(io::Error::new(ErrorKind::NotFound, format!("there is no {}", paths.join(" and no "))))
}

impl Sink {
    /// It is opened with the first line.
    pub(super) fn of(target: LogTarget) -> Sink {
        match target {
            LogTarget::Stderr => Sink::Stderr,
            LogTarget::Journal => Sink::Journal(None),
            LogTarget::Syslog => Sink::Syslog(None),
        }
    }

    /// Writes a line, and waits until it is written. A syslog daemon that was restarted is connected to again.
    pub(super) fn write(&mut self, line: &Line) -> io::Result<()> {
        match self {
            Sink::Stderr => to_stderr(line),
            Sink::Journal(open) => {
                let journal = match open.take() {
                    Some(journal) => journal,
                    None => JournalLog::empty()?.with_syslog_identifier("knockd".to_owned()),
                };
                to_journal(open.insert(journal), line)
            }
            Sink::Syslog(open) => {
                if let Some(syslog) = open
                    && to_syslog(syslog, line).is_ok()
                {
                    return Ok(());
                }
                *open = None;
                let formatter = Formatter3164 {
                    facility: Facility::LOG_AUTHPRIV,
                    hostname: None,
                    process: "knockd".to_owned(),
                    pid: std::process::id(),
                };
                to_syslog(open.insert(syslog::unix(formatter).map_err(io::Error::other)?), line)
                    .map_err(io::Error::other)
            }
        }
    }
}

/// Without a time: a reader of standard error knows the time, and the journal adds it.
fn to_stderr(line: &Line) -> io::Result<()> {
    let prefix = match line.level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug => "debug: ",
        Level::Trace => "trace: ",
    };
    // Past the standard library's lock, which a panic of another thread takes.
    write_all(io::stderr(), format!("{prefix}{}\n", line.text).as_bytes())
}

/// In one piece where possible, so that lines of processes do not mix.
fn write_all(to: impl AsFd, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match rustix::io::write(&to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            // Another process that has the same open file may have made it non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&to, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn to_journal(journal: &JournalLog, line: &Line) -> io::Result<()> {
    journal.journal_send(
        &Record::builder()
            .args(format_args!("{}", line.text))
            .level(line.level)
            .target(&line.target)
            .file_static(line.file)
            .module_path_static(line.module)
            .line(line.number)
            .key_values(&line.fields.as_slice())
            .build(),
    )
}

fn to_syslog(syslog: &mut Logger<LoggerBackend, Formatter3164>, line: &Line) -> Result<(), syslog::Error> {
    match line.level {
        Level::Error => syslog.err(&line.text),
        Level::Warn => syslog.warning(&line.text),
        Level::Info => syslog.info(&line.text),
        Level::Debug | Level::Trace => syslog.debug(&line.text),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;

    #[test]
    fn a_pipe_that_another_process_made_non_blocking_gets_every_byte() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        fcntl_setfl(&writer, OFlags::NONBLOCK).expect("a pipe can be non-blocking");
        // More than a pipe holds.
        let text = vec![b'x'; 3 << 20];
        let written = thread::spawn(move || write_all(&writer, &text));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        written.join().expect("no panic").expect("all is written");
        assert_eq!(read.len(), 3 << 20);
    }
}
