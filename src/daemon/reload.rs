//! Reading the configuration anew, while everything goes on.
//!
//! A thread reads and checks the files, which may take seconds; the loop goes round meanwhile, and takes up what was read
//! when that is done. One read runs at a time. A reload that is asked for meanwhile is another one, since the file may have
//! changed after it was read: it begins when the first has ended, for all who asked in between.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use knock_config::{Config, Loaded};
use knock_proto::Watch;
use rustix::event::{EventfdFlags, eventfd};

use crate::commands::hooks;
use crate::control;
use crate::daemon::Daemon;
use crate::daemon::plan::{ActiveConfig, engine_settings, policy};
use crate::daemon::startup::{ConfigSource, open_stops};
use crate::logging::events::Event;
use crate::os::clock::now;
use crate::os::privileges::Needs;
use crate::triggers::sequences::SequencePlan;

/// Why the configuration was not read anew: the reasons, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotReloaded {
    /// The file is not valid.
    Invalid(String),
    /// What it asks for could not be had.
    Failed(String),
}

impl NotReloaded {
    fn invalid(reasons: impl fmt::Display) -> NotReloaded {
        NotReloaded::Invalid(reasons.to_string())
    }

    fn failed(reasons: impl fmt::Display) -> NotReloaded {
        NotReloaded::Failed(reasons.to_string())
    }
}

impl fmt::Display for NotReloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (NotReloaded::Invalid(reasons) | NotReloaded::Failed(reasons)) = self;
        f.write_str(reasons)
    }
}

/// A configuration, and what the triggers need of it and of the files that it names.
struct Prepared {
    loaded: Loaded,
    sequences: SequencePlan,
    watches: Vec<Watch>,
}

impl Prepared {
    fn read(source: &ConfigSource) -> Result<Prepared, NotReloaded> {
        let loaded = source.load().map_err(NotReloaded::invalid)?;
        let settings = engine_settings(&loaded.config);
        let sequences = SequencePlan::load(&loaded.config, settings, source.owners).map_err(NotReloaded::invalid)?;
        let watches = sequences.watches();
        Ok(Prepared { loaded, sequences, watches })
    }
}

/// The reload that is under way, and the one after it.
pub(crate) struct Reloads {
    /// Readable when the thread is done.
    done: Arc<OwnedFd>,
    running: Option<Running>,
    /// Those who wait for the one after it, where there is to be one: connections to the control socket, by their slots.
    next: Option<Vec<usize>>,
}

struct Running {
    thread: JoinHandle<Result<Prepared, NotReloaded>>,
    askers: Vec<usize>,
    /// A one-time sequence was used meanwhile, so what was read of its file is old.
    outdated: bool,
}

impl Reloads {
    /// # Errors
    ///
    /// Where there are no more descriptors.
    pub(crate) fn new() -> io::Result<Reloads> {
        let done = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Reloads { done: Arc::new(done), running: None, next: None })
    }

    /// A file of one-time sequences was changed by the daemon itself.
    pub(crate) fn sequence_was_used(&mut self) {
        if let Some(running) = &mut self.running {
            running.outdated = true;
        }
    }

    fn start(&mut self, source: ConfigSource, askers: Vec<usize>) -> Result<(), (NotReloaded, Vec<usize>)> {
        let done = Done(self.done.clone());
        let read = move || {
            let _done = done;
            Prepared::read(&source)
        };
        match thread::Builder::new().name("reload".to_owned()).spawn(read) {
            Ok(thread) => {
                self.running = Some(Running { thread, askers, outdated: false });
                Ok(())
            }
            Err(error) => Err((NotReloaded::failed(format_args!("cannot start a thread: {error}")), askers)),
        }
    }
}

impl AsFd for Reloads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}

/// Tells the loop that a thread is done, whether it has come to its end or has panicked.
struct Done(Arc<OwnedFd>);

impl Drop for Done {
    fn drop(&mut self) {
        // It fails only where the counter is full, and then it is readable.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl Daemon {
    /// Has the configuration file read, to take up what it says now. Where it is not valid, or the kernel refuses what it
    /// asks for, everything stays as it is, and the log says why. `asker` is the connection to the control socket that gets
    /// the answer.
    pub(crate) fn reload(&mut self, asker: Option<usize>) {
        match (&self.reloads.running, &mut self.reloads.next) {
            (None, _) => self.begin_reload(asker.into_iter().collect()),
            (Some(_), next) => next.get_or_insert_default().extend(asker),
        }
    }

    fn begin_reload(&mut self, askers: Vec<usize>) {
        self.notifier.reloading();
        if let Err((error, askers)) = self.reloads.start(self.source.clone(), askers) {
            self.end_reload(&Err(error), &askers);
        }
    }

    /// Takes up what was read, answers those who asked for it, and begins the reload that was asked for meanwhile.
    /// Nothing happens where the thread is not done.
    pub(crate) fn finish_reload(&mut self) {
        let mut count = [0; 8];
        if rustix::io::read(&self.reloads.done, &mut count).is_err() {
            return;
        }
        let Some(running) = self.reloads.running.take() else { return };
        let panicked = |_| Err(NotReloaded::failed("the thread that reads the configuration has panicked"));
        let read = running.thread.join().unwrap_or_else(panicked);
        if running.outdated && read.is_ok() {
            // Those who asked meanwhile have what they want too: this one begins now.
            let askers = running.askers.into_iter().chain(self.reloads.next.take().unwrap_or_default()).collect();
            if let Err((error, askers)) = self.reloads.start(self.source.clone(), askers) {
                self.end_reload(&Err(error), &askers);
            }
            return;
        }
        let result = read.and_then(|prepared| self.take_up_configuration(prepared));
        self.end_reload(&result, &running.askers);
        if let Some(askers) = self.reloads.next.take() {
            self.begin_reload(askers);
        }
    }

    fn end_reload(&mut self, result: &Result<Vec<String>, NotReloaded>, askers: &[usize]) {
        let status = self.status_line();
        self.notifier.ready(status);
        if let Err(reasons) = result {
            for reason in reasons.to_string().lines() {
                self.events.report(now(), Event::ReloadFailed, None, None, format_args!("not reloaded: {reason}"));
            }
        }
        for &slot in askers {
            self.answer_reload(slot, result);
        }
    }

    fn take_up_configuration(&mut self, prepared: Prepared) -> Result<Vec<String>, NotReloaded> {
        let Prepared { loaded, sequences, watches } = prepared;
        for warning in &loaded.warnings {
            log::warn!("{warning}");
        }
        let config = Rc::new(ActiveConfig::new(loaded.config));
        self.needs.check(Needs::of(&config, false)).map_err(NotReloaded::failed)?;
        let socket = self.other_control_socket(&config).map_err(NotReloaded::failed)?;
        let now = now();

        // The packet source first: that packets are received which mean nothing yet does no harm, and it can be undone.
        self.wire.reconfigure(&config.interfaces, &watches).map_err(NotReloaded::failed)?;
        if let Err(error) = self.grants.apply(now, Rc::new(policy(&config))) {
            if let Err(error) = self.wire.reconfigure(&self.config.interfaces, &self.sequences.watches()) {
                log::error!("{error}");
            }
            return Err(match error.is_configuration() {
                true => NotReloaded::invalid(error),
                false => NotReloaded::failed(error),
            });
        }
        self.observe_grants(now);
        self.sequences.apply(now, sequences);
        for field in fixed_at_start(&self.config, &config) {
            log::warn!("{field} has another value now, which a restart puts in force, not a reload");
        }
        let hooks = hooks::changes(&self.config, &config);
        self.config = config;
        // Without such a rule, what runs stop commands may have been given up.
        if self.stops.is_none() && self.config.rules.iter().any(|rule| rule.stop.is_some()) {
            self.stops = open_stops(&self.config, &self.events);
        }
        if !hooks.is_empty() {
            // Nobody's knock waits for them.
            let commands = self.commands.clone();
            let run = move || hooks::run(&commands, &hooks);
            if let Err(error) = thread::Builder::new().name("hooks".to_owned()).spawn(run) {
                log::error!(
                    "setup and teardown of the rules that changed were not run: cannot start a thread: {error}"
                );
            }
        }
        log::set_max_level(self.source.log_level.unwrap_or(self.config.log.level));
        match (socket, &mut self.control) {
            (Some(socket), Some(control)) => control.replace(socket),
            (Some(socket), None) => match control::Server::new(socket) {
                Ok(control) => self.control = Some(control),
                Err(error) => log::error!("cannot serve the control socket: {error}; knockctl can't reach this daemon"),
            },
            (None, _) => {}
        }
        self.counters.reloads += 1;
        let names = self.config.rule_names();
        let message = format_args!("reloaded: rules: {names:.200}");
        self.events.report(now, Event::Reloaded, None, None, message);
        Ok(loaded.warnings.iter().map(ToString::to_string).collect())
    }

    /// The control socket of that configuration, where it is another one.
    fn other_control_socket(&self, config: &Config) -> Result<Option<control::Socket>, control::Error> {
        let path = control::place(config);
        match &self.control {
            Some(control) if control.path() == path => Ok(None),
            // It could not be made at its default place, which was told at the start.
            None if config.control_socket.is_none() => Ok(None),
            _ => control::Socket::listen(&path).map(Some),
        }
    }
}

/// The fields that differ, and that a daemon takes up at its start only.
fn fixed_at_start(old: &Config, new: &Config) -> Vec<&'static str> {
    let fields = [
        ("limits.commands", old.limits.commands != new.limits.commands),
        ("limits.command_queue", old.limits.command_queue != new.limits.command_queue),
        ("log.target", old.log.target != new.log.target),
        ("state_dir", old.state_dir != new.state_dir),
    ];
    fields.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_restart_can_change_is_told() {
        let config = |text: &str| knock_config::parse("test.json", text).expect("a valid configuration").config;
        let old = config(r#"{"rules": []}"#);
        let new = config(r#"{"rules": [], "limits": {"commands": 2}, "log": {"target": "syslog", "level": "debug"}}"#);
        assert_eq!(fixed_at_start(&old, &new), ["limits.commands", "log.target"]);
        assert!(fixed_at_start(&old, &old).is_empty());
    }
}
