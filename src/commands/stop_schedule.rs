//! The schedule of stop commands. Each runs in time, also where the daemon was stopped, killed or restarted meanwhile.
//!
//! [`StopSchedule::arm`] enters a stop command and returns the start command with two steps added. Before it runs, its
//! worker writes the entry to disk, together with all others that wait to be written, so that neither the event loop
//! nor another knock waits for fdatasync(2). Where that fails, the command does not run. After it, a failure is noted.
//!
//! Rule, address and command line identify an entry. A knock while it is pending puts its time off and runs no second
//! start command, for one stop command could not undo two. An entry runs the command line that was configured when it
//! was made: after a change of the configuration, the old stop command still undoes the old start command.
//!
//! The file is a journal, to which changes are appended. Once it is longer than twice what is pending and
//! [`entries::SLACK`] bytes more, a new file replaces it; where nothing is pending it is removed. What a crash may lose
//! leaves no port open: a new entry is synced before its command runs. The end of an entry, and its new time, are
//! written without a sync, and a new time at most once in `PUT_OFF_WRITE`, so that a flood of knocks writes little. A
//! stop command that a crash brings back runs again, or earlier.
//!
//! Nothing here reads a clock, except for the time of a log line.

mod disk;
mod entries;
mod journal;
mod record;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use knock_config::{Stop, StopOnShutdown};
use knock_proto::Time;

use crate::commands::{Job, Kind, Outcome, substitute};
use crate::logging::events::EventLog;
use crate::os::clock::{ClockReading, now};
use disk::{Disk, Opened};
pub(crate) use disk::{DiskError, Problem};
use entries::{Entries, Entry};
use record::{Record, milliseconds};

/// The limit of pending stop commands.
pub(crate) const PENDING_MAX: usize = 100_000;

/// The limit of their bytes in the file.
pub(crate) const LIVE_MAX: usize = 64 << 20;

/// The longest stop command, in bytes: Linux runs nothing with a longer argument (`MAX_ARG_STRLEN`, execve(2)).
pub(crate) const COMMAND_MAX: usize = (128 << 10) - 1;

/// How long the file may have the earlier time of a stop command that was put off.
const PUT_OFF_WRITE: Duration = Duration::from_secs(1);

/// The time until a stop command is tried again that could not be started, and until the next look at one that was
/// handed out. It doubles each time, up to 64 times as long.
const RETRY: Duration = Duration::from_secs(10);

/// The stop command can't be kept, so the command must not run: nothing would undo it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotArmed {
    /// There are [`PENDING_MAX`].
    #[error(
        "{PENDING_MAX} stop commands are pending, which is the limit; the command is not run, or nothing would undo it"
    )]
    Entries,
    /// They have [`LIVE_MAX`] bytes.
    #[error(
        "the stop commands that are pending have {} MiB, which is the limit; the command is not run, or nothing would \
         undo it", LIVE_MAX >> 20
    )]
    Bytes,
    /// The command line is longer than [`COMMAND_MAX`].
    #[error(
        "its stop_command has {0} bytes, and no program starts with more than {COMMAND_MAX}; the command is not run, or \
         nothing would undo it; put the stop_command into a script"
    )]
    LongCommand(usize),
}

/// The pending stop commands. All methods are for the event loop and wait for no disk, except [`StopSchedule::open`]
/// and [`StopSchedule::flush`].
#[derive(Debug)]
pub(crate) struct StopSchedule {
    log: EventLog,
    entries: Mutex<Entries>,
    /// Locked while writing. A worker that had to wait for the lock often finds its entry written by the one before it.
    disk: Mutex<Disk>,
}

impl StopSchedule {
    /// Reads the pending stop commands in `state_dir`, which is made where it is missing. `boot` ([`boot_id`]) is the
    /// same as long as the monotonic clock is the same. No content of the directory prevents the start of the daemon;
    /// the problems are for the log.
    pub(crate) fn open(
        state_dir: &Path,
        at: ClockReading,
        boot: &str,
        log: EventLog,
    ) -> (Arc<StopSchedule>, Vec<Problem>) {
        let Opened { disk, found, problems } = Disk::open(state_dir, at.wall, boot);
        let mut entries = Entries::default();
        let same_boot = !boot.is_empty() && found.boot_id == boot;
        for mut record in found.pending {
            record.translate(at, same_boot);
            let key = record.key();
            let due = record.due_boottime_ns;
            match entries.by_key.get(&key).copied() {
                Some(id) => entries.put_off(id, |earlier| earlier.due_boottime_ns = earlier.due_boottime_ns.max(due)),
                // A reboot has undone the start command, so the next knock has to run it again.
                None => drop(entries.insert(key, record, same_boot)),
            }
        }
        (Arc::new(StopSchedule { log, entries: Mutex::new(entries), disk: Mutex::new(disk) }), problems)
    }

    /// Whether a schedule was left in `state_dir`, by this daemon or one before it.
    pub(crate) fn is_in(state_dir: &Path) -> bool {
        Disk::is_in(state_dir)
    }

    /// Enters the stop command of the rule whose command is `start`, and returns the job to submit: `start` with the
    /// steps that this needs, or `None` where the same stop command is pending already and is put off.
    ///
    /// # Errors
    ///
    /// Where the stop command can't be kept; the command must not run then.
    pub(crate) fn arm(self: &Arc<Self>, at: ClockReading, start: Job, stop: &Stop) -> Result<Option<Job>, NotArmed> {
        let (rule, source) = (Arc::clone(&start.rule), start.source);
        let line: Arc<str> = substitute(stop.command.line(source), source).into();
        if line.len() > COMMAND_MAX {
            return Err(NotArmed::LongCommand(line.len()));
        }
        let key = (Arc::clone(&rule), source, Arc::clone(&line));
        let mut record = Record {
            rule,
            source,
            line,
            timeout_ms: milliseconds(start.timeout),
            after_ms: milliseconds(stop.after),
            on_shutdown: stop.on_shutdown,
            due_boottime_ns: 0,
            due_unix_ms: 0,
        };
        record.set_due(at, stop.after);
        let mut entries = self.entries();
        let known = entries.by_key.get(&key).copied();
        let is_open = known.and_then(|id| entries.by_id.get(&id)).is_some_and(|entry| entry.opened && !entry.in_flight);
        let id = match known {
            Some(id) if is_open => {
                let (rule, source) = (Arc::clone(&record.rule), record.source);
                entries.put_off(id, |pending| *pending = record);
                entries.write_due.get_or_insert_with(|| (at.boottime.after(PUT_OFF_WRITE), rule, source));
                return Ok(None);
            }
            Some(id) => {
                entries.remove(id);
                entries.insert(key, record, true)
            }
            None if entries.by_id.len() >= PENDING_MAX => return Err(NotArmed::Entries),
            None if entries.live + record.size() > LIVE_MAX => return Err(NotArmed::Bytes),
            None => entries.insert(key, record, true),
        };
        let generation = entries.generation;
        drop(entries);

        let stops = Arc::clone(self);
        let job = start.before(move || Ok(stops.commit(generation, true)?));
        let stops = Arc::clone(self);
        Ok(Some(job.after(move |outcome| stops.start_ended(id, outcome))))
    }

    /// The jobs to submit now: stop commands that are due, and a write of new times.
    pub(crate) fn due(self: &Arc<Self>, now: Time) -> Vec<Job> {
        let mut entries = self.entries();
        let mut jobs = Vec::new();
        if let Some((_, rule, source)) = entries.write_due.take_if(|(due, ..)| *due <= now) {
            let (stops, generation) = (Arc::clone(self), entries.generation);
            let of = Arc::clone(&rule);
            let write = move || {
                stops.commit_or_warn(generation, &of, source);
                Ok(())
            };
            // For no address, so that it does not wait behind a command for this one.
            jobs.push(Job::step(Kind::Stop, rule, Ipv4Addr::UNSPECIFIED.into(), write));
        }
        while let Some(&(look, id)) = entries.due.first()
            && look <= now
        {
            jobs.extend(self.hand_out(&mut entries, id, now));
        }
        jobs
    }

    /// Makes the stop commands of a rule for an address due now.
    pub(crate) fn bring_forward(&self, at: ClockReading, rule: &str, source: IpAddr) {
        let mut entries = self.entries();
        let is_meant = |entry: &Entry| &*entry.record.rule == rule && entry.record.source == source && !entry.in_flight;
        let ids: Vec<u64> = entries.by_id.iter().filter(|(_, entry)| is_meant(entry)).map(|(id, _)| *id).collect();
        for id in ids {
            entries.put_off(id, |record| record.set_due(at, Duration::ZERO));
        }
    }

    /// When [`StopSchedule::due`] has something to do.
    pub(crate) fn next_due(&self) -> Option<Time> {
        let entries = self.entries();
        let look = entries.due.first().map(|&(look, _)| look);
        look.into_iter().chain(entries.write_due.as_ref().map(|&(due, ..)| due)).min()
    }

    /// The daemon stops: the jobs to submit. The other stop commands stay on disk, and so do those for which no time is
    /// left; they run when the daemon starts again.
    pub(crate) fn at_stop(self: &Arc<Self>, at: ClockReading) -> Vec<Job> {
        let mut entries = self.entries();
        let runs = |entry: &Entry| entry.record.on_shutdown == StopOnShutdown::Run;
        let ids: Vec<u64> = entries.by_id.iter().filter(|(_, entry)| runs(entry)).map(|(id, _)| *id).collect();
        let mut jobs = Vec::new();
        for id in ids {
            entries.put_off(id, |record| record.set_due(at, Duration::ZERO));
            jobs.extend(self.hand_out(&mut entries, id, at.boottime));
        }
        jobs
    }

    /// Writes all changes to disk and waits until they are there: for the end of the daemon, not for the event loop.
    ///
    /// # Errors
    ///
    /// Where the state directory cannot be written.
    pub(crate) fn flush(&self) -> Result<(), DiskError> {
        let generation = self.entries().generation;
        self.commit(generation, true)
    }

    /// How many are pending.
    pub(crate) fn pending_count(&self) -> usize {
        self.entries().by_id.len()
    }

    fn hand_out(self: &Arc<Self>, entries: &mut Entries, id: u64, now: Time) -> Option<Job> {
        let entry = entries.by_id.get_mut(&id)?;
        let job = (!entry.in_flight).then(|| {
            entry.in_flight = true;
            let Record { rule, source, line, timeout_ms, .. } = &entry.record;
            let stops = Arc::clone(self);
            Job::new(Kind::Stop, Arc::clone(rule), *source, line, Duration::from_millis(*timeout_ms))
                .after(move |outcome| stops.stop_ended(id, outcome))
        });
        let next = now.after(RETRY * (1 << entry.tries.min(6)));
        entry.tries += 1;
        entries.look_at(id, next);
        job
    }

    /// No code panics while it holds the lock, so what a poisoned one guards is whole.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the changes up to `generation` into the file, with all later ones. `durable`: waits until they are on
    /// disk.
    fn commit(&self, generation: u64, durable: bool) -> Result<(), DiskError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.has(generation, durable) {
            return Ok(());
        }
        let length = disk.length();
        let changes = self.entries().take_changes(length);
        disk.write(&changes, durable)
    }

    /// The same, where a failure leaves no port open.
    fn commit_or_warn(&self, generation: u64, rule: &str, source: IpAddr) {
        if let Err(error) = self.commit(generation, false) {
            let what =
                "has run or is put off, which could not be written; it runs again, or earlier, if knockd starts again";
            let message = format_args!("rule {rule}: the stop command for {source} {what}: {error}");
            self.log.line(now(), log::Level::Warn, rule, message);
        }
    }

    fn start_ended(&self, id: u64, outcome: &Outcome) {
        let mut entries = self.entries();
        let Some(entry) = entries.by_id.get_mut(&id) else { return };
        match outcome {
            Outcome::Succeeded | Outcome::NothingToRun => {}
            // There is nothing to undo. The next write removes it from the file.
            Outcome::NotRun(_) if !entry.in_flight => entries.remove(id),
            // The command may have done half of its work: the stop command runs in time, and the next knock tries
            // again.
            _ => entry.opened = false,
        }
    }

    fn stop_ended(&self, id: u64, outcome: &Outcome) {
        let mut entries = self.entries();
        let Some(entry) = entries.by_id.get_mut(&id) else { return };
        if !outcome.has_run() {
            entry.in_flight = false;
            return;
        }
        let (rule, source) = (Arc::clone(&entry.record.rule), entry.record.source);
        entries.remove(id);
        let generation = entries.generation;
        drop(entries);
        self.commit_or_warn(generation, &rule, source);
    }
}

/// The kernel's name for this boot (random(4)); empty where it cannot be read, which counts as another boot.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests;
