//! The schedule of stop commands: what was opened is closed in time, whatever becomes of the daemon in between.
//!
//! [`StopSchedule::arm`] enters a stop command and hands back the start command with two steps added: before it the
//! entry is put on disk, by the worker and for all that wait for it at once, so that neither the event loop nor
//! another knock waits for fdatasync(2); where that fails the command does not run. After it, a failure is noted.
//!
//! Entries are told apart by rule, address and command line. A knock while such an entry is pending puts its time off
//! and runs no second start command, for one stop command could not undo two. What an entry runs is what was
//! configured when it was made: after an edited configuration the old command still closes what the old one opened.
//!
//! The file is a journal, to which changes are appended. Once it is longer than twice what is pending and
//! [`entries::SLACK`] bytes more, it is written anew; where nothing is pending it goes. What a crash may lose never leaves
//! anything open: a new entry is synced before its command runs. That an entry is done, or put off, is written without
//! waiting for the disk, and the latter at most once in `PUT_OFF_WRITE`, so that a flood of knocks writes little: a
//! stop command that a crash brings back runs again, or earlier.
//!
//! Nothing here asks a clock what time it is.

mod disk;
mod entries;
mod journal;
mod record;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use knock_config::{Stop, StopOnStop};
use knock_proto::Time;

use crate::commands::{Job, Kind, Outcome, substitute};
use crate::logging::events::EventLog;
use crate::os::clock::now;
use disk::{Disk, Opened};
pub(crate) use disk::{DiskError, Problem};
use entries::{Entries, Entry};
use record::{Record, milliseconds};

/// The most stop commands that can be pending.
pub(crate) const PENDING_MAX: usize = 100_000;

/// The most bytes that they can take up in the file.
pub(crate) const LIVE_MAX: usize = 64 << 20;

/// The longest stop command, in bytes: Linux runs nothing with a longer argument (`MAX_ARG_STRLEN`, execve(2)).
pub(crate) const COMMAND_MAX: usize = (128 << 10) - 1;

/// How long a stop command that was put off may stand in the file with its earlier time.
const PUT_OFF_WRITE: Duration = Duration::from_secs(1);

/// When a stop command that could not be started is tried again, and when one that was handed out is looked after;
/// doubled each time, up to 64 times as long.
const RETRY: Duration = Duration::from_secs(10);

/// One point in time on both clocks: the monotonic one, which counts, and the wall clock, which goes on over a reboot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// `CLOCK_BOOTTIME`.
    pub boottime: Time,
    /// `CLOCK_REALTIME`.
    pub wall: SystemTime,
}

/// A stop command can't be kept, so its command must not run: nothing would undo it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotArmed {
    /// There are [`PENDING_MAX`].
    #[error(
        "{PENDING_MAX} stop commands are pending, which is the most; the command is not run, or nothing would undo it"
    )]
    Entries,
    /// They take up [`LIVE_MAX`].
    #[error(
        "the stop commands that are pending take up {} MiB, which is the most; the command is not run, or nothing would \
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

/// The pending stop commands. All methods are for the event loop and take no longer than memory does, except
/// [`StopSchedule::open`] and [`StopSchedule::flush`].
#[derive(Debug)]
pub(crate) struct StopSchedule {
    log: EventLog,
    entries: Mutex<Entries>,
    /// Locked while writing: who waits for it finds its entry written by who was before.
    disk: Mutex<Disk>,
}

impl StopSchedule {
    /// Takes up what is pending in `state_dir`, which is made where it is missing. `boot` tells whether the monotonic
    /// clock is still the same ([`boot_id`]). Nothing that is found there keeps the daemon from starting; the problems
    /// are for the log.
    pub(crate) fn open(state_dir: &Path, at: Moment, boot: &str, log: EventLog) -> (Arc<StopSchedule>, Vec<Problem>) {
        let Opened { disk, found, problems } = Disk::open(state_dir, at.wall, boot);
        let mut entries = Entries::default();
        let same_boot = !boot.is_empty() && found.boot_id == boot;
        for mut record in found.pending {
            record.translate(at, same_boot);
            let key = record.key();
            let due = record.due_boottime_ns;
            match entries.by_key.get(&key).copied() {
                Some(id) => entries.put_off(id, |earlier| earlier.due_boottime_ns = earlier.due_boottime_ns.max(due)),
                // A reboot has undone what was opened, so the next knock has to open it again.
                None => drop(entries.insert(key, record, same_boot)),
            }
        }
        (Arc::new(StopSchedule { log, entries: Mutex::new(entries), disk: Mutex::new(disk) }), problems)
    }

    /// Whether a schedule was left in `state_dir`, by this daemon or one before it.
    pub(crate) fn is_in(state_dir: &Path) -> bool {
        Disk::is_in(state_dir)
    }

    /// Enters the stop command of the rule whose command is `start`, and returns what has to be submitted: `start` with
    /// the steps that this needs, or nothing, where the same is pending already and is put off.
    ///
    /// # Errors
    ///
    /// Where it can't be kept; the command must not run then.
    pub(crate) fn arm(self: &Arc<Self>, at: Moment, start: Job, stop: &Stop) -> Result<Option<Job>, NotArmed> {
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
            on_stop: stop.on_stop,
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

    /// The stop commands that have to run now, and what has to be written, each to be submitted.
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
            // Of no address, so that it does not wait behind a command of this one.
            jobs.push(Job::step(Kind::Stop, rule, Ipv4Addr::UNSPECIFIED.into(), write));
        }
        while let Some(&(look, id)) = entries.due.first()
            && look <= now
        {
            jobs.extend(self.hand_out(&mut entries, id, now));
        }
        jobs
    }

    /// When [`StopSchedule::due`] has something to do.
    pub(crate) fn next_due(&self) -> Option<Time> {
        let entries = self.entries();
        let look = entries.due.first().map(|&(look, _)| look);
        look.into_iter().chain(entries.write_due.as_ref().map(|&(due, ..)| due)).min()
    }

    /// The daemon stops: what is to run then, each to be submitted. The others stay on disk, as does what there is no
    /// time for, which runs when the daemon starts again.
    pub(crate) fn at_stop(self: &Arc<Self>, at: Moment) -> Vec<Job> {
        let mut entries = self.entries();
        let runs = |entry: &Entry| entry.record.on_stop == StopOnStop::Run;
        let ids: Vec<u64> = entries.by_id.iter().filter(|(_, entry)| runs(entry)).map(|(id, _)| *id).collect();
        let mut jobs = Vec::new();
        for id in ids {
            entries.put_off(id, |record| record.set_due(at, Duration::ZERO));
            jobs.extend(self.hand_out(&mut entries, id, at.boottime));
        }
        jobs
    }

    /// Puts everything on disk that is not there yet. It waits for the disk: for the end of the daemon, not for the
    /// event loop.
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

    /// Puts the changes up to `generation` into the file, with all that have come since. `durable`: and on the disk.
    fn commit(&self, generation: u64, durable: bool) -> Result<(), DiskError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.has(generation, durable) {
            return Ok(());
        }
        let length = disk.length();
        let changes = self.entries().take_changes(length);
        disk.write(&changes, durable)
    }

    /// As [`Shared::commit`], where a failure leaves nothing open.
    fn commit_or_warn(&self, generation: u64, rule: &str, source: IpAddr) {
        if let Err(error) = self.commit(generation, false) {
            let what = "is not noted to have run or to be put off, and runs again or earlier if knockd starts again";
            let message = format_args!("rule {rule}: the stop command for {source} {what}: {error}");
            self.log.line(now(), log::Level::Warn, rule, message);
        }
    }

    fn start_ended(&self, id: u64, outcome: &Outcome) {
        let mut entries = self.entries();
        let Some(entry) = entries.by_id.get_mut(&id) else { return };
        match outcome {
            Outcome::Succeeded | Outcome::NothingToRun => {}
            // There is nothing to undo. The file has it no more after the next change.
            Outcome::NotRun(_) if !entry.in_flight => entries.remove(id),
            // Perhaps half of it was done: it is undone in time, and the next knock tries again.
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

/// The kernel's name for this boot (random(4)); empty where it cannot be read, which is taken for another boot.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests;
