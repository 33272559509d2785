//! Commands: bounded workers, a bounded queue, and one command of a rule and address at a time.
//!
//! [`Commands::submit`] neither blocks nor waits for a process. Threads come with the first commands and go when
//! there have been none for a while, so an idle daemon is not woken.
//!
//! A command runs as `/bin/sh -c LINE` in a process group of its own, in `/`, with an empty standard input and this
//! environment: `PATH` (the daemon's, or a default), `LANG` and `TZ` where the daemon has them, `KNOCK_RULE`, and,
//! where it is for an address, `KNOCK_IP` and `KNOCK_FAMILY` (`4` or `6`, as in `ip -4` and `family=ipv4`). Its
//! output goes to the log, up to 4 KiB. It lasts until no process of its group is left; at its time limit the
//! group gets SIGTERM, and two seconds later SIGKILL. A process with a session of its own (setsid(1)) is not waited for.

pub(crate) mod hooks;
mod job;
mod outcome;
mod output;
mod process;
mod queue;
pub(crate) mod stop_schedule;

use std::io::{self, PipeReader, PipeWriter};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::Level;

use crate::logging::events::EventLog;
use crate::os::clock::now;

pub(crate) use job::{Job, Kind, substitute};
pub(crate) use outcome::{NotRun, Outcome, Refused};
use process::{GRACE, Invocation};
use queue::Queue;

/// How long a worker without work stays.
const IDLE: Duration = Duration::from_secs(10);

/// A worker formats log lines and reads output into a small buffer, no more.
const STACK: usize = 256 << 10;

/// What has happened, and what is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Commands that were started, `setup` and `teardown` among them.
    pub started: u64,
    /// … of these, that ended with status 0.
    pub succeeded: u64,
    /// … that ended otherwise by themselves, or could not be started.
    pub failed: u64,
    /// … that were ended at their time limit.
    pub timed_out: u64,
    /// Commands that were refused since the queue was full.
    pub dropped_queue_full: u64,
    /// Commands that run now.
    pub running: usize,
    /// Commands that wait now.
    pub queued: usize,
}

#[derive(Debug, Default)]
struct Totals {
    started: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    timed_out: AtomicU64,
    dropped: AtomicU64,
}

/// Runs commands. Dropped without [`Commands::drain`], it lets what has begun go on.
#[derive(Debug)]
pub(crate) struct Commands {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    workers: usize,
    /// Commands that run and that wait, together.
    capacity: usize,
    state: Mutex<State>,
    /// There is something for a worker.
    work: Condvar,
    /// A worker has finished something.
    finished: Condvar,
    totals: Totals,
    log: EventLog,
    /// Hung up when what runs has to end.
    cancelled: PipeReader,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    threads: usize,
    idle: usize,
    /// No new commands; stop commands still are.
    closed: bool,
    /// Nothing is started any more.
    ended: bool,
    /// Refused since the queue last was full; the first is logged at once, the number when the queue is empty again.
    refused: u64,
    cancel: Option<PipeWriter>,
    unkillable: Vec<Child>,
}

impl Commands {
    /// At most `workers` commands at once, at least one, and `queue` that wait. What they bring about is written to `log`.
    ///
    /// # Errors
    ///
    /// Where there are no more descriptors (pipe(2)).
    pub(crate) fn new(workers: usize, queue: usize, log: EventLog) -> io::Result<Commands> {
        let (cancelled, cancel) = io::pipe()?;
        let workers = workers.max(1);
        let state = State {
            queue: Queue::default(),
            threads: 0,
            idle: 0,
            closed: false,
            ended: false,
            refused: 0,
            cancel: Some(cancel),
            unkillable: Vec::new(),
        };
        let shared = Shared {
            workers,
            capacity: workers.saturating_add(queue),
            state: Mutex::new(state),
            work: Condvar::new(),
            finished: Condvar::new(),
            totals: Totals::default(),
            log,
            cancelled,
        };
        Ok(Commands { shared: Arc::new(shared) })
    }

    /// Takes a command up, to run after those of the same rule and address. A refusal is logged, counted, and told to
    /// what [`Job::after`] set.
    ///
    /// # Errors
    ///
    /// Where the queue is full, no thread can be started, or the daemon stops.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Refused> {
        let mut state = self.shared.lock();
        match self.shared.admit(&mut state, job.kind) {
            Ok(()) => {
                state.queue.push(job);
                if state.idle > 0 {
                    self.shared.work.notify_one();
                }
                Ok(())
            }
            Err(refused) => {
                let first = refused != Refused::Stopping && state.refused == 0;
                if refused != Refused::Stopping {
                    state.refused += 1;
                    self.shared.totals.dropped.fetch_add(1, Ordering::Relaxed);
                }
                drop(state);
                let (rule, source, kind) = (&job.rule, job.source, job.kind.name());
                let (level, more) = if first { (Level::Warn, " (more are only counted)") } else { (Level::Debug, "") };
                let message = format_args!("rule {rule}: the {kind} for {source} was not run: {refused}{more}");
                self.shared.log.line(now(), level, rule, message);
                job.not_run(refused.into());
                Err(refused)
            }
        }
    }

    /// Runs a rule's `setup` or `teardown` (`what`) on this thread, for no address: `%IP%` is left as it is.
    pub(crate) fn run_now(&self, rule: &str, what: &str, line: &str, timeout: Duration) -> Outcome {
        // What ends the others is no reason to end this: a teardown comes after them.
        // Nor has a knock caused it: the log has a new bound for its lines.
        let log = EventLog::default();
        let outcome = self.shared.run(
            &Invocation { rule, source: None, line, timeout },
            &format!("rule {rule}: {what}"),
            None,
            &log,
        );
        log.say_what_is_left_out();
        outcome
    }

    /// What has happened so far.
    pub(crate) fn counters(&self) -> Counters {
        let state = self.shared.lock();
        let totals = &self.shared.totals;
        Counters {
            started: totals.started.load(Ordering::Relaxed),
            succeeded: totals.succeeded.load(Ordering::Relaxed),
            failed: totals.failed.load(Ordering::Relaxed),
            timed_out: totals.timed_out.load(Ordering::Relaxed),
            dropped_queue_full: totals.dropped.load(Ordering::Relaxed),
            running: state.queue.running(),
            queued: state.queue.waiting(),
        }
    }

    /// The daemon stops: commands that wait are dropped and new ones refused, except stop commands.
    pub(crate) fn close(&self) {
        let dropped = {
            let mut state = self.shared.lock();
            state.closed = true;
            state.queue.remove_starts()
        };
        for job in dropped {
            let (rule, source) = (&job.rule, job.source);
            let message = format_args!("rule {rule}: the command for {source} is not run: the daemon is stopping");
            self.shared.log.line(now(), Level::Info, rule, message);
            job.not_run(Refused::Stopping.into());
        }
    }

    /// After [`Commands::close`]: waits until everything has ended, at most for `limit`; what still runs then is ended
    /// (which takes up to four seconds more), and what waits is dropped. Returns how many that concerned.
    pub(crate) fn drain(&self, limit: Duration) -> usize {
        let state = self.shared.wait_until_idle(self.shared.lock(), limit);
        let (dropped, cut_off) = {
            let mut state = state;
            state.closed = true;
            state.ended = true;
            state.cancel = None;
            let dropped = state.queue.remove_all();
            let cut_off = dropped.len() + state.queue.running();
            (dropped, cut_off)
        };
        for job in dropped {
            let (rule, source, kind) = (&job.rule, job.source, job.kind.name());
            let message = format_args!("rule {rule}: there is no time left for the {kind} for {source}");
            self.shared.log.line(now(), Level::Warn, rule, message);
            job.not_run(Refused::Stopping.into());
        }
        drop(self.shared.wait_until_idle(self.shared.lock(), 2 * GRACE + Duration::from_secs(1)));
        self.shared.work.notify_all();
        cut_off
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    /// No code panics while it holds the lock, so what a poisoned one guards is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more command fits; sees to a thread for it.
    fn admit(self: &Arc<Self>, state: &mut State, kind: Kind) -> Result<(), Refused> {
        let (running, queued) = (state.queue.running(), state.queue.waiting());
        if state.ended || (state.closed && kind == Kind::Start) {
            return Err(Refused::Stopping);
        }
        if kind == Kind::Start && running + queued >= self.capacity {
            return Err(Refused::QueueFull { running, queued });
        }
        // A thread that was told of work but has not come for it yet counts as idle still.
        if state.queue.ready() >= state.idle && state.threads < self.workers {
            let shared = Arc::clone(self);
            let thread = thread::Builder::new().name("command".to_owned()).stack_size(STACK);
            match thread.spawn(move || shared.work()) {
                Ok(_) => state.threads += 1,
                Err(_) if state.threads > 0 => {}
                Err(_) => return Err(Refused::NoThread),
            }
        }
        Ok(())
    }

    /// The life of a worker.
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
                // Nothing may wake the event loop soon.
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
        self.totals.started.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let mut unkillable = Vec::new();
        let outcome = process::run(invocation, cancel, &mut unkillable, |line| {
            log.output(now(), rule, format_args!("{label}: {line}"));
        });
        if !unkillable.is_empty() {
            self.lock().unkillable.append(&mut unkillable);
        }
        let total = match &outcome {
            Outcome::Succeeded | Outcome::NothingToRun => &self.totals.succeeded,
            Outcome::TimedOut { .. } => &self.totals.timed_out,
            Outcome::Failed { .. } | Outcome::Interrupted | Outcome::NotRun(_) => &self.totals.failed,
        };
        total.fetch_add(1, Ordering::Relaxed);
        let took = started.elapsed().as_millis();
        if matches!(outcome, Outcome::Succeeded) {
            log.line(now(), Level::Info, rule, format_args!("{label} succeeded in {took} ms"));
        } else {
            log.line(now(), Level::Warn, rule, format_args!("{label} {outcome} (after {took} ms)"));
        }
        outcome
    }

    fn wait_until_idle<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        let busy = |state: &mut State| state.queue.running() + state.queue.waiting() > 0;
        self.finished.wait_timeout_while(state, limit, busy).unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests;
