//! The log: standard error, syslog or the journal.
//!
//! The reader of the log may stop reading, and a write to it then waits. So the daemon never writes to it: lines go into a
//! queue, and a thread of its own, which may wait, writes them. Lines without room in the queue are counted and
//! left out.
//!
//! Capabilities, `no_new_privs` and the system call filter belong to a thread and to those that it starts, so that
//! thread starts after privileges were dropped ([`write_from_now_on`]). Lines from before wait for it. Where the
//! daemon does not get that far, [`finish`] writes them.

pub(crate) mod events;
mod sink;

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use knock_config::LogTarget;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::connected_to_journal;

use sink::Sink;

/// Lines that may wait while the daemon runs. As many may be in the hands of the thread that writes.
const LINES: usize = 4096;
/// Bytes of them, more or less.
const BYTES: usize = 1 << 20;
/// How long the end of the daemon waits for the last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The stack of the thread that writes, in bytes.
const STACK: usize = 256 << 10;

/// A log target that is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No syslog daemon.
    #[error("cannot connect to syslog: {0}; is a syslog daemon running? `\"target\": \"stderr\"` needs none")]
    Syslog(io::Error),
    /// No journal.
    #[error("cannot connect to the journal: {0}; is systemd-journald running? `\"target\": \"stderr\"` needs none")]
    Journal(io::Error),
}

/// The log of this process.
static LOG: Queue = Queue::new();

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    lines: VecDeque<Line>,
    /// Of the lines.
    bytes: usize,
    target: LogTarget,
    /// Whether a thread writes. Before that there are the lines of the start, all of which wait.
    has_writer: bool,
    /// Whether lines are in that thread's hands.
    is_writing: bool,
    /// Lines that were left out behind those that wait.
    gap: u64,
    /// All that were left out.
    left_out: u64,
}

/// A line that waits to be written.
struct Line {
    level: Level,
    text: String,
    /// The journal's fields beside those that every line has.
    fields: Vec<(String, String)>,
    target: String,
    file: Option<&'static str>,
    module: Option<&'static str>,
    number: Option<u32>,
}

/// Sends what is logged to the target; without one to the journal where standard error is connected to it, else to
/// standard error. Nothing is written yet.
///
/// # Errors
///
/// Where the target is not there.
pub(crate) fn start(target: Option<LogTarget>, level: LevelFilter) -> Result<(), Error> {
    log::set_max_level(level);
    let default = if connected_to_journal() { LogTarget::Journal } else { LogTarget::Stderr };
    let target = target.unwrap_or(default);
    sink::look_for(target)?;
    LOG.lock().target = target;
    // It fails where a logger is set already, which is this one.
    let _ = log::set_logger(&LOG);
    Ok(())
}

/// Where the lines of this process go.
pub(crate) fn target() -> LogTarget {
    LOG.lock().target
}

/// Starts the thread that writes, with the privileges that the calling thread has now.
///
/// # Errors
///
/// Where there can be no thread.
pub(crate) fn write_from_now_on() -> io::Result<()> {
    let mut state = LOG.lock();
    if !state.has_writer {
        let mut sink = Sink::of(state.target);
        let write = move || {
            let mut gap = 0;
            loop {
                LOG.wait_for_lines();
                LOG.write(&mut sink, &mut gap);
            }
        };
        thread::Builder::new().name("log".to_owned()).stack_size(STACK).spawn(write)?;
        state.has_writer = true;
    }
    Ok(())
}

/// Writes what is left, before the process ends. A thread that still waits for a reader ends with the process; only
/// standard error of a daemon that never ran is waited for without a limit: a user may read it in a pager.
pub(crate) fn finish() {
    let state = LOG.lock();
    let (has_writer, target) = (state.has_writer, state.target);
    drop(state);
    if !has_writer && target == LogTarget::Stderr {
        LOG.write(&mut Sink::of(target), &mut 0);
    } else if write_from_now_on().is_ok() {
        let busy = |state: &mut State| state.is_writing || !state.lines.is_empty();
        drop(LOG.changed.wait_timeout_while(LOG.lock(), LAST_LINES, busy));
    }
}

/// Lines that the log did not take, since the start.
pub(crate) fn left_out() -> u64 {
    LOG.lock().left_out
}

impl Queue {
    const fn new() -> Queue {
        let state = State {
            lines: VecDeque::new(),
            bytes: 0,
            target: LogTarget::Stderr,
            has_writer: false,
            is_writing: false,
            gap: 0,
            left_out: 0,
        };
        Queue { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Held for moments only, never while something is written.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_lines(&self) {
        let nothing = |state: &mut State| state.lines.is_empty() && state.gap == 0;
        drop(self.changed.wait_while(self.lock(), nothing));
    }

    /// Writes all lines that wait. `gap`: lines that could not be written, and that the log does not report yet.
    fn write(&self, sink: &mut Sink, gap: &mut u64) {
        let mut state = self.lock();
        let lines = std::mem::take(&mut state.lines);
        let left_out = std::mem::take(&mut state.gap);
        state.bytes = 0;
        state.is_writing = true;
        drop(state);
        for line in &lines {
            tell(sink, gap);
            if *gap > 0 || sink.write(line).is_err() {
                *gap += 1;
                self.lock().left_out += 1;
            }
        }
        if left_out > 0 {
            *gap += left_out;
            tell(sink, gap);
        }
        self.lock().is_writing = false;
        self.changed.notify_all();
    }
}

/// Writes a line about those that are missing here.
fn tell(sink: &mut Sink, gap: &mut u64) {
    if *gap > 0 && sink.write(&Line::about(*gap)).is_ok() {
        *gap = 0;
    }
}

impl State {
    /// Whether the line may wait. Behind one that was left out none may, so that the log reports them in their place.
    fn takes(&self, line: &Line) -> bool {
        !self.has_writer || (self.gap == 0 && self.lines.len() < LINES && self.bytes + line.bytes() <= BYTES)
    }
}

impl Log for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = Line::of(record);
        let mut state = self.lock();
        if state.takes(&line) {
            state.bytes += line.bytes();
            state.lines.push_back(line);
        } else {
            state.gap += 1;
            state.left_out += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    fn flush(&self) {}
}

impl Line {
    fn of(record: &Record<'_>) -> Line {
        let mut fields = Fields(Vec::new());
        // The visitor has no errors.
        let _ = record.key_values().visit(&mut fields);
        Line {
            level: record.level(),
            text: record.args().to_string(),
            fields: fields.0,
            target: record.target().to_owned(),
            file: record.file_static(),
            module: record.module_path_static(),
            number: record.line(),
        }
    }

    fn about(left_out: u64) -> Line {
        let text = match left_out {
            1 => "1 log line was left out, because the log did not accept it in time".to_owned(),
            _ => format!("{left_out} log lines were left out, because the log did not accept them in time"),
        };
        let target = "knockd".to_owned();
        Line { level: Level::Warn, text, fields: Vec::new(), target, file: None, module: None, number: None }
    }

    /// Its approximate size in memory.
    fn bytes(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(key, value)| key.len() + value.len()).sum();
        size_of::<Line>() + self.text.len() + self.target.len() + fields
    }
}

struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(queue: &Queue, text: &str) {
        queue.log(&Record::builder().level(Level::Error).args(format_args!("{text}")).build());
    }

    fn waiting(queue: &Queue) -> (usize, u64) {
        let state = queue.lock();
        (state.lines.len(), state.left_out)
    }

    #[test]
    fn a_line_without_room_is_counted_and_no_line_behind_it_waits() {
        log::set_max_level(LevelFilter::Error);
        let queue = Queue::new();
        queue.lock().has_writer = true;
        (0..LINES + 3).for_each(|_| log(&queue, "a line"));
        assert_eq!(waiting(&queue), (LINES, 3));
        queue.lock().lines.clear();
        log(&queue, "the log does not report the three yet");
        assert_eq!(waiting(&queue), (0, 4));

        let queue = Queue::new();
        queue.lock().has_writer = true;
        (0..3).for_each(|_| log(&queue, &"x".repeat(BYTES / 2)));
        log(&queue, "it would fit");
        assert_eq!(waiting(&queue), (1, 3));
    }

    #[test]
    fn every_line_of_the_start_waits() {
        log::set_max_level(LevelFilter::Error);
        let queue = Queue::new();
        (0..LINES + 3).for_each(|_| log(&queue, "a line"));
        assert_eq!(waiting(&queue), (LINES + 3, 0));
    }
}
