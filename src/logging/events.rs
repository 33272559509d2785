//! The events that an administrator looks for in the log, each with its fields in the journal.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, mem};

use knock_proto::{Budget, Time};
use log::kv::Value;
use log::{Level, Record};

macro_rules! events {
    ($($(#[doc = $doc:literal])* $event:ident = $name:literal, $id:literal, $level:ident;)*) => {
        /// A kind of event: `KNOCK_EVENT` and `MESSAGE_ID` in the journal (systemd.journal-fields(7)).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Event {
            $($(#[doc = $doc])* $event,)*
        }

        /// Every event, in the order of the manual.
        #[cfg(test)]
        const EVENTS: &[Event] = &[$(Event::$event,)*];

        impl Event {
            /// The value of `KNOCK_EVENT`.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Event::$event => $name,)* }
            }

            /// The value of `MESSAGE_ID`: for ever the same for this kind of event.
            pub(crate) const fn message_id(self) -> &'static str {
                match self { $(Event::$event => $id,)* }
            }

            const fn level(self) -> Level {
                match self { $(Event::$event => Level::$level,)* }
            }
        }
    };
}

// Each event is defined here once: name, MESSAGE_ID, level. docs/logging.md explains it.
events! {
    /// The daemon listens.
    Ready = "ready", "d75956351a9543398edaa6940eebaa16", Info;
    /// The daemon stops.
    Stopping = "stopping", "1daef643a8354c15bafef0249926112f", Info;
    /// The configuration was read again and applied.
    Reloaded = "reloaded", "3e157dee4c0a4aef8843e78f2b5f5054", Info;
    /// The new configuration is not valid; the old one stays in force.
    ReloadFailed = "reload-failed", "2d9455cab718438d8ae36c35e2b8c18f", Error;
    /// A configuration is in force for some time, unless it is confirmed.
    Tried = "tried", "75a0814293ef4a9cb1b9aa7a714a5c6d", Info;
    /// The tried configuration stays in force.
    Confirmed = "confirmed", "dab6068cc09448dd8d6cfea3b59104e4", Info;
    /// A tried configuration was not confirmed: the one before it is in force again.
    WentBack = "went-back", "5516c2bf8cf34948995111541389ec0c", Warn;
    /// An address was granted what a rule allows.
    Granted = "granted", "d2b772c23f434d9c8d64d0aa184315a7", Info;
    /// A live grant was extended.
    Extended = "extended", "1fab631599214e28bc5f3adddbb18a0c", Info;
    /// A grant ended before its time.
    Revoked = "revoked", "161926303d7b4b6dabc7bfc83b22a2f1", Info;
    /// A grant ended in time.
    Expired = "expired", "a3aa4a7e04e44d9abe96609e3d62d0d0", Info;
    /// A grant could not be carried out.
    GrantFailed = "grant-failed", "bfbf22879c39435e83a69dd97157e43b", Error;
    /// A rule's sequence was knocked, and its command is about to run.
    Knocked = "knocked", "f0ab7b3c068b43cea165c2a5b4944e48", Info;
    /// A packet of a user was refused.
    Refused = "refused", "8d0f2a5be6b94c32a1d75c0f94e6b217", Warn;
    /// Another program changed the managed table or a set, and it was restored.
    Restored = "restored", "7078171a7e4d421da5d5f85d44c75b31", Warn;
    /// A stray element was found in the kernel, and deleted.
    Stray = "stray", "477e1503113fe5cd6cf91524d7427efd", Warn;
}

impl Event {
    /// Whether it follows from what the operator did, so that no flood of knocks may leave it out.
    const fn is_of_the_operator(self) -> bool {
        use Event::*;
        matches!(self, Ready | Stopping | Reloaded | ReloadFailed | Tried | Confirmed | WentBack)
    }
}

/// Lines that may follow each other at once.
const BURST: u32 = 200;
/// How much of that the output of commands may use: the rest is for the events that report a knock and its result.
const BURST_OF_OUTPUT: u32 = BURST / 2;
/// After that, the time for a line.
const REFILL: Duration = Duration::from_millis(50);
/// How often is said what was left out.
const SUMMARY: Duration = Duration::from_secs(10);

/// The log of everything that a knock can cause, shared by the event loop and the threads that run commands. One bound
/// holds for all of it, so no flood of knocks can fill the log. Lines that are left out are counted and reported.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventLog(Arc<Mutex<Bound>>);

#[derive(Debug, Default)]
struct Bound {
    budget: Budget,
    left_out: u64,
    left_out_since: Time,
    left_out_since_start: u64,
}

impl EventLog {
    /// Logs an event, with the rule and the address that it is about.
    pub(crate) fn report(
        &self,
        now: Time,
        event: Event,
        rule: Option<&str>,
        source: Option<IpAddr>,
        message: fmt::Arguments<'_>,
    ) {
        self.report_with(now, event, rule, source, &[], message);
    }

    /// As [`EventLog::report`], with more fields for the journal.
    pub(crate) fn report_with(
        &self,
        now: Time,
        event: Event,
        rule: Option<&str>,
        source: Option<IpAddr>,
        fields: &[(&'static str, String)],
        message: fmt::Arguments<'_>,
    ) {
        if event.level() <= log::max_level() && (event.is_of_the_operator() || self.bound().admit(now, BURST)) {
            write(event, rule, source, fields, message);
        }
    }

    /// Logs another line that a knock of `rule` caused.
    pub(crate) fn line(&self, now: Time, level: Level, rule: &str, message: fmt::Arguments<'_>) {
        self.write_line(now, level, rule, message, BURST);
    }

    /// Logs a line that a command of `rule` wrote.
    pub(crate) fn output(&self, now: Time, rule: &str, message: fmt::Arguments<'_>) {
        self.write_line(now, Level::Info, rule, message, BURST_OF_OUTPUT);
    }

    fn write_line(&self, now: Time, level: Level, rule: &str, message: fmt::Arguments<'_>, burst: u32) {
        if level <= log::max_level() && self.bound().admit(now, burst) {
            log::log!(level, KNOCK_RULE = rule; "{message}");
        }
    }

    /// Says how many lines were left out, where that is due.
    pub(crate) fn summarise(&self, now: Time) {
        if self.next_summary().is_some_and(|due| due <= now) {
            self.say_what_is_left_out();
        }
    }

    /// Says how many lines were left out since that was said last.
    pub(crate) fn say_what_is_left_out(&self) {
        // Not among the arguments, which are not evaluated where warnings are not logged.
        let left_out = mem::take(&mut self.bound().left_out);
        if left_out > 0 {
            log::warn!("{left_out} lines came too fast and are not in the log");
        }
    }

    /// When [`EventLog::summarise`] has something to say.
    pub(crate) fn next_summary(&self) -> Option<Time> {
        let bound = self.bound();
        (bound.left_out > 0).then(|| bound.left_out_since.after(SUMMARY))
    }

    /// How many lines were left out since the start.
    pub(crate) fn left_out_since_start(&self) -> u64 {
        self.bound().left_out_since_start
    }

    /// No code panics while it holds the lock, so what a poisoned one guards is whole.
    fn bound(&self) -> MutexGuard<'_, Bound> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bound {
    /// Whether a line may be logged that may use `burst` lines at once. One that may not is counted.
    fn admit(&mut self, now: Time, burst: u32) -> bool {
        if self.budget.admit(now, burst, REFILL) {
            return true;
        }
        if self.left_out == 0 {
            self.left_out_since = now;
        }
        self.left_out += 1;
        self.left_out_since_start += 1;
        false
    }
}

fn write(
    event: Event,
    rule: Option<&str>,
    source: Option<IpAddr>,
    more: &[(&'static str, String)],
    message: fmt::Arguments<'_>,
) {
    let source = source.map(|source| source.to_string());
    let mut fields = vec![("MESSAGE_ID", Value::from(event.message_id())), ("KNOCK_EVENT", Value::from(event.name()))];
    fields.extend(rule.map(|rule| ("KNOCK_RULE", Value::from(rule))));
    fields.extend(source.as_deref().map(|source| ("KNOCK_SOURCE", Value::from(source))));
    fields.extend(more.iter().map(|(name, value)| (*name, Value::from(value.as_str()))));
    let fields = fields.as_slice();
    let mut record = Record::builder();
    record.level(event.level()).target("knockd").key_values(&fields);
    log::logger().log(&record.args(message).build());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_names_and_ids_of_their_own() {
        for (index, event) in EVENTS.iter().enumerate() {
            assert_eq!(event.message_id().len(), 32);
            assert!(event.message_id().bytes().all(|byte| byte.is_ascii_hexdigit()));
            for other in &EVENTS[..index] {
                assert_ne!(event.message_id(), other.message_id());
                assert_ne!(event.name(), other.name());
            }
        }
    }

    const START: Time = Time::from_millis(1_000_000);

    fn granted(log: &EventLog, now: Time) {
        log.report(now, Event::Granted, None, None, format_args!("granted"));
    }

    fn wrote(log: &EventLog, now: Time) {
        log.output(now, "ssh", format_args!("output"));
    }

    #[test]
    fn a_flood_of_events_is_counted_not_logged() {
        log::set_max_level(log::LevelFilter::Info);
        let log = EventLog::default();
        (0..1000).for_each(|_| granted(&log, START));
        assert_eq!(log.left_out_since_start(), 800);
        let due = log.next_summary().expect("lines were left out");
        assert_eq!(due, START.after(SUMMARY));
        log.summarise(due);
        assert_eq!((log.next_summary(), log.left_out_since_start()), (None, 800));
        // Twenty lines a second are let through.
        (0..1000).for_each(|_| granted(&log, START.after(Duration::from_secs(1))));
        assert_eq!(log.left_out_since_start(), 1780);
    }

    #[test]
    fn one_bound_holds_for_events_and_for_the_lines_of_commands() {
        log::set_max_level(log::LevelFilter::Info);
        let log = EventLog::default();
        let worker = log.clone();
        (0..100).for_each(|_| granted(&log, START));
        let line = |log: &EventLog| log.line(START, Level::Warn, "ssh", format_args!("failed"));
        (0..1000).for_each(|_| line(&worker));
        assert_eq!(log.left_out_since_start(), 900);
        assert_eq!(log.next_summary(), Some(START.after(SUMMARY)));
    }

    #[test]
    fn output_of_commands_leaves_room_for_events() {
        log::set_max_level(log::LevelFilter::Info);
        let log = EventLog::default();
        (0..1000).for_each(|_| wrote(&log, START));
        assert_eq!(log.left_out_since_start(), 900);
        (0..100).for_each(|_| granted(&log, START));
        assert_eq!(log.left_out_since_start(), 900);
    }

    #[test]
    fn acts_of_the_operator_are_logged_during_a_flood_too() {
        log::set_max_level(log::LevelFilter::Info);
        let log = EventLog::default();
        (0..200).for_each(|_| granted(&log, START));
        log.report(START, Event::ReloadFailed, None, None, format_args!("not reloaded"));
        assert_eq!(log.left_out_since_start(), 0);
    }

    #[test]
    fn a_line_below_the_level_takes_no_room() {
        log::set_max_level(log::LevelFilter::Info);
        let log = EventLog::default();
        (0..1000).for_each(|_| log.line(START, Level::Trace, "ssh", format_args!("detail")));
        (0..200).for_each(|_| granted(&log, START));
        assert_eq!(log.left_out_since_start(), 0);
    }
}
