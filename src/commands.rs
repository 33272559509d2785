//! Commands: bounded workers, a bounded queue, and one command of a rule and address at a time.
//!
//! [`Commands::submit`] neither blocks nor waits for a process. Threads start with the first commands and end
//! after some time without commands, so nothing wakes an idle daemon.
//!
//! A command runs as `/bin/sh -c LINE` in a process group of its own, in `/`, with an empty standard input and this
//! environment: `PATH` (the daemon's, or a default), `LANG` and `TZ` where the daemon has them, `KNOCK_RULE`, and,
//! where it is for an address, `KNOCK_IP` and `KNOCK_FAMILY` (`4` or `6`, as in `ip -4` and `family=ipv4`). Its output
//! goes to the log, up to 4 KiB. It lasts until no process of its group is left; at its time limit the group gets
//! SIGTERM, and two seconds later SIGKILL. A process with a session of its own (setsid(1)) is not waited for.

mod job;
mod outcome;
mod output;
mod process;
mod queue;
pub(crate) mod stop_schedule;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, PipeReader, PipeWriter};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use serde::{Deserialize, Serialize};

use crate::logging::events::EventLog;
use crate::os::clock::now;

pub(crate) use job::{Job, Kind, substitute};
pub(crate) use outcome::{NotRun, Outcome, Refused};
use process::{GRACE, Invocation};
use queue::Queue;

/// How long a worker waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// A worker only formats log lines and reads output into a small buffer.
const STACK: usize = 256 << 10;
/// Rules whose failed commands are counted one by one: as many as a configuration may have.
const RULES_COUNTED: usize = 16_384;

/// What has happened, and what is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Commands that were started, `setup` and `teardown` among them.
    pub started: u64,
    /// … of these, those that ended with status 0.
    pub succeeded: u64,
    /// … those that ended with another status, or could not be started.
    pub failed: u64,
    /// … those that were ended at their time limit.
    pub timed_out: u64,
    /// Commands that were refused because the queue was full.
    pub dropped_queue_full: u64,
    /// Commands that were not entered because an equal one was waiting.
    pub merged: u64,
    /// Commands that run now.
    pub running: usize,
    /// Commands that wait now.
    pub queued: usize,
}

/// Runs commands. Without [`Commands::drain`], running commands go on when this is dropped.
#[derive(Debug)]
pub(crate) struct Commands {
    workers: usize,
    /// Commands that run and that wait, together.
    capacity: usize,
    state: Mutex<State>,
    /// There is work for a worker.
    work: Condvar,
    /// A worker has finished a job.
    finished: Condvar,
    log: EventLog,
    /// Its other end is closed when all running commands have to end.
    cancelled: PipeReader,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    /// All but `running` and `queued`, which the queue knows.
    counters: Counters,
    /// Failed commands by rule, of the first [`RULES_COUNTED`] rules whose commands failed.
    failures: HashMap<Box<str>, u64>,
    threads: usize,
    idle: usize,
    /// No command is accepted any more, except stop commands.
    closed: bool,
    /// No command is started any more.
    ended: bool,
    /// How many were refused since the queue became full. The first is logged at once, the number when the queue is
    /// empty.
    refused: u64,
    cancel: Option<PipeWriter>,
    unkillable: Vec<Child>,
}

impl State {
    fn count_failure(&mut self, rule: &str) {
        if let Some(count) = self.failures.get_mut(rule) {
            *count += 1;
        } else if self.failures.len() < RULES_COUNTED {
            self.failures.insert(rule.into(), 1);
        }
    }
}

impl Commands {
    /// At most `workers` commands at once, at least one, and `queue` that wait. `log` gets their output and how they
    /// ended.
    ///
    /// # Errors
    ///
    /// Where there are no more descriptors (pipe(2)).
    pub(crate) fn new(workers: usize, queue: usize, log: EventLog) -> io::Result<Arc<Commands>> {
        let (cancelled, cancel) = io::pipe()?;
        let workers = workers.max(1);
        Ok(Arc::new(Commands {
            workers,
            capacity: workers.saturating_add(queue),
            state: Mutex::new(State { cancel: Some(cancel), ..State::default() }),
            work: Condvar::new(),
            finished: Condvar::new(),
            log,
            cancelled,
        }))
    }

    /// Enters a command into the queue, behind those of the same rule and address. If the last of these is equal
    /// ([`Job::is_equal`]), that one runs for both. A refusal is logged and counted, and ends the job: see
    /// [`Job::after`].
    ///
    /// # Errors
    ///
    /// Where the queue is full, no thread can be started, or the daemon stops.
    pub(crate) fn submit(self: &Arc<Self>, job: Job) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.queue.has_last(&job) {
            state.counters.merged += 1;
            return Ok(());
        }
        let Err(refused) = self.admit(&mut state, job.kind) else {
            state.queue.push(job);
            if state.idle > 0 {
                self.work.notify_one();
            }
            return Ok(());
        };
        let first = refused != Refused::Stopping && state.refused == 0;
        if refused != Refused::Stopping {
            state.refused += 1;
            state.counters.dropped_queue_full += 1;
        }
        drop(state);
        let (level, more) = if first { (Level::Warn, " (more are only counted)") } else { (Level::Debug, "") };
        self.not_run(job, level, refused, format_args!("was not run: {refused}{more}"));
        Err(refused)
    }

    /// Runs a rule's `setup` or `teardown` (`what`) on this thread, for no address: `%IP%` is left as it is.
    pub(crate) fn run_now(&self, rule: &str, what: &str, line: &str, timeout: Duration) -> Outcome {
        // The end of the daemon does not end this command: a teardown runs after all others. And no knock caused it:
        // its lines have a limit of their own in the log.
        let log = EventLog::default();
        let invocation = Invocation { rule, source: None, line, timeout };
        let outcome = self.run(&invocation, &format!("rule {rule}: {what}"), None, &log);
        log.say_what_is_left_out();
        outcome
    }

    /// What has happened so far.
    pub(crate) fn counters(&self) -> Counters {
        let state = self.lock();
        Counters { running: state.queue.running(), queued: state.queue.waiting(), ..state.counters }
    }

    /// How many commands of each rule failed or were ended at their time limit. A rule without such a command is not there.
    pub(crate) fn failures(&self) -> HashMap<Box<str>, u64> {
        self.lock().failures.clone()
    }

    /// The daemon stops: commands that wait are dropped and new ones refused, except stop commands.
    pub(crate) fn close(&self) {
        let dropped = {
            let mut state = self.lock();
            state.closed = true;
            state.queue.remove_starts()
        };
        for job in dropped {
            self.not_run(job, Level::Info, Refused::Stopping, format_args!("is not run: {}", Refused::Stopping));
        }
    }

    /// After [`Commands::close`]: waits until all commands have ended, at most for `limit`. Then it ends the commands
    /// that still run (which takes up to four seconds more) and drops those that wait. Returns the number of both.
    pub(crate) fn drain(&self, limit: Duration) -> usize {
        let (dropped, cut_off) = {
            let mut state = self.wait_until_idle(limit);
            state.closed = true;
            state.ended = true;
            state.cancel = None;
            let dropped = state.queue.remove_all();
            let cut_off = dropped.len() + state.queue.running();
            (dropped, cut_off)
        };
        for job in dropped {
            let message = format_args!("is not run: the daemon is stopping, and no time is left");
            self.not_run(job, Level::Warn, Refused::Stopping, message);
        }
        drop(self.wait_until_idle(2 * GRACE + Duration::from_secs(1)));
        self.work.notify_all();
        cut_off
    }

    /// No code panics while it holds the lock, so what a poisoned one guards is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for one more command. Starts a thread for it where one is needed.
    fn admit(self: &Arc<Self>, state: &mut State, kind: Kind) -> Result<(), Refused> {
        let (running, queued) = (state.queue.running(), state.queue.waiting());
        if state.ended || (state.closed && kind == Kind::Start) {
            return Err(Refused::Stopping);
        }
        if kind == Kind::Start && running + queued >= self.capacity {
            return Err(Refused::QueueFull { running, queued });
        }
        // A thread that was notified, but has not taken its work yet, still counts as idle.
        if state.queue.ready() >= state.idle && state.threads < self.workers {
            let commands = Arc::clone(self);
            let thread = thread::Builder::new().name("command".to_owned()).stack_size(STACK);
            match thread.spawn(move || commands.work()) {
                Ok(_) => state.threads += 1,
                Err(_) if state.threads > 0 => {}
                Err(_) => return Err(Refused::NoThread),
            }
        }
        Ok(())
    }

    /// The loop of a worker.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some((key, job)) = state.queue.pop() {
                drop(state);
                self.carry_out(job);
                state = self.lock();
                state.queue.finished(&key);
                self.finished.notify_all();
                if state.queue.waiting() == 0 && state.refused > 0 {
                    let refused = mem::take(&mut state.refused);
                    drop(state);
                    let message = format_args!("{refused} commands were not run while the queue was full");
                    self.log.line(now(), Level::Warn, &key.0, message);
                    state = self.lock();
                }
                continue;
            }
            state.unkillable.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
            if state.ended {
                break;
            }
            state.idle += 1;
            let (after, waited) = self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = after;
            state.idle -= 1;
            if waited.timed_out() && state.queue.ready() == 0 {
                // The event loop, which also does this, may sleep for long.
                self.log.summarise(now());
                break;
            }
        }
        state.threads -= 1;
    }

    fn carry_out(&self, mut job: Job) {
        let label = format!("rule {}: {} for {}", job.rule, job.kind.name(), job.source);
        let ready = job.take_before().map_or(Ok(()), |before| before());
        let outcome = match (ready, &job.line) {
            (Err(error), _) => {
                self.log.line(now(), Level::Error, &job.rule, format_args!("{label} was not run: {error}"));
                Outcome::NotRun(NotRun::Before(error))
            }
            (Ok(()), None) => Outcome::NothingToRun,
            (Ok(()), Some(line)) => {
                let (rule, source, timeout) = (&*job.rule, Some(job.source), job.timeout);
                let invocation = Invocation { rule, source, line, timeout };
                self.run(&invocation, &label, Some(self.cancelled.as_fd()), &self.log)
            }
        };
        job.ended(&outcome);
    }

    /// Runs, logs and counts a command.
    fn run(&self, invocation: &Invocation<'_>, label: &str, cancel: Option<BorrowedFd<'_>>, log: &EventLog) -> Outcome {
        let rule = invocation.rule;
        log.line(now(), Level::Debug, rule, format_args!("{label} starts: {}", invocation.line));
        self.lock().counters.started += 1;
        let started = Instant::now();
        let mut unkillable = Vec::new();
        let outcome = process::run(invocation, cancel, &mut unkillable, |line| {
            log.output(now(), rule, format_args!("{label}: {line}"));
        });
        let mut state = self.lock();
        state.unkillable.append(&mut unkillable);
        match &outcome {
            Outcome::Succeeded | Outcome::NothingToRun => state.counters.succeeded += 1,
            Outcome::TimedOut { .. } => state.counters.timed_out += 1,
            Outcome::Failed { .. } | Outcome::Interrupted | Outcome::NotRun(_) => state.counters.failed += 1,
        }
        if !matches!(outcome, Outcome::Succeeded | Outcome::NothingToRun) {
            state.count_failure(rule);
        }
        drop(state);
        let took = started.elapsed().as_millis();
        if matches!(outcome, Outcome::Succeeded) {
            log.line(now(), Level::Info, rule, format_args!("{label} succeeded in {took} ms"));
        } else {
            log.line(now(), Level::Warn, rule, format_args!("{label} {outcome} (after {took} ms)"));
        }
        outcome
    }

    /// Logs why a command was not started, and ends it.
    fn not_run(&self, job: Job, level: Level, reason: Refused, message: fmt::Arguments<'_>) {
        let (rule, source, kind) = (&job.rule, job.source, job.kind.name());
        self.log.line(now(), level, rule, format_args!("rule {rule}: the {kind} for {source} {message}"));
        job.not_run(reason.into());
    }

    fn wait_until_idle(&self, limit: Duration) -> MutexGuard<'_, State> {
        let busy = |state: &mut State| state.queue.running() + state.queue.waiting() > 0;
        self.finished.wait_timeout_while(self.lock(), limit, busy).unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests;
