//! Reload: the daemon reads its configuration again, while everything else continues.
//!
//! A thread reads and checks the files, which may take seconds; then the ear gets ready to receive what the rules need. The
//! loop continues meanwhile, and applies what was read when both are done. One reload runs at a time. A reload that is asked for
//! meanwhile is another one, since the file may have changed after it was read: it begins when the first has ended, for all who
//! asked in between.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use knock_config::Config;
use knock_proto::Time;

use crate::control;
use crate::control::protocol::{Code, Refusal};
use crate::control::response::Response;
use crate::daemon::Daemon;
use crate::daemon::config_copies::Staged;
use crate::daemon::plan::{ActiveConfig, cooldowns, policy};
use crate::daemon::reload_thread::{Applied, Job, NotReloaded, Prepared, Stage, StagedReload, Waiting};
use crate::daemon::trial::InForce;
use crate::logging::events::Event;
use crate::os::clock::now;
use crate::os::privileges::RequiredPrivileges;
use crate::triggers::sequences::Sequences;

/// How long the ear may take to get ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gives a copy of what is in force its name.
pub(super) fn put_in_place(copy: Option<Staged>) {
    if let Some(Err(error)) = copy.map(Staged::put_in_place) {
        log::error!("cannot rename a copy of the configuration in the state directory: {error}");
    }
}

impl Daemon {
    /// Has the configuration file read and then applied. Where it is not valid, or the kernel refuses what it
    /// asks for, everything stays as it is, and the log says why. `asker` is the connection to the control socket that gets
    /// the answer.
    pub(crate) fn reload(&mut self, asker: Option<usize>) {
        match self.reloads.is_busy() {
            false => self.begin_reload(Job::Reload, asker.into_iter().collect()),
            true => self.reloads.next.get_or_insert_default().extend(asker),
        }
    }

    /// As [`Daemon::reload`], for the configuration in another file and for some time.
    pub(crate) fn try_file(&mut self, now: Time, file: PathBuf, time: Duration, asker: usize) {
        if self.reloads.is_busy() {
            let refusal = Refusal::new(Code::Busy, "a reload is under way; try again");
            let Some(control) = &mut self.control else { return };
            return control.answer(asker, Response::refusal(refusal), now);
        }
        self.begin_reload(Job::Try { file, time }, vec![asker]);
    }

    pub(super) fn begin_reload(&mut self, job: Job, askers: Vec<usize>) {
        self.notifier.reloading();
        if let Err((error, askers)) = self.reloads.start(self.source.clone(), job.clone(), askers) {
            self.end_reload(&job, Err(error), &askers);
        }
    }

    /// Has the ear get ready for the configuration that was read. Nothing happens where the thread is not done.
    pub(crate) fn finish_reading(&mut self) {
        let Some(mut running) = self.reloads.take_done() else { return };
        let (askers, outdated) = (std::mem::take(&mut running.askers), running.outdated);
        let (job, read) = running.join();
        if outdated && read.is_ok() {
            return self.read_again(job, askers);
        }
        match read.and_then(|prepared| self.stage(prepared)) {
            Ok(staged) => self.wait_for_ear(Stage::Staged(Box::new(staged)), job, askers),
            Err(reasons) => self.conclude(&job, Err(reasons), &askers),
        }
    }

    /// What was read is old. The clients that asked meanwhile for a reload are served by the other one, which begins now.
    fn read_again(&mut self, job: Job, askers: Vec<usize>) {
        let next = if matches!(job, Job::Reload) { self.reloads.next.take() } else { None };
        let askers = askers.into_iter().chain(next.unwrap_or_default()).collect();
        if let Err((error, askers)) = self.reloads.start(self.source.clone(), job.clone(), askers) {
            self.end_reload(&job, Err(error), &askers);
        }
    }

    /// The ear is ready for a configuration, or cannot get ready: applies it, answers the clients that asked for it, and begins
    /// the reload that was asked for meanwhile.
    pub(super) fn on_prepared(&mut self, token: u64, result: Result<(), String>) {
        let is_it = |waiting: &mut Waiting| matches!(&waiting.stage, Stage::Staged(staged) if staged.token == token);
        let Some(Waiting { stage: Stage::Staged(staged), job, askers, outdated, .. }) =
            self.reloads.waiting.take_if(is_it)
        else {
            return;
        };
        if outdated && result.is_ok() {
            self.abort_ear();
            return self.read_again(job, askers);
        }
        match result.map_err(NotReloaded::failed).and_then(|()| self.apply_configuration(*staged)) {
            Ok(applied) => self.wait_for_ear(Stage::Applied(applied), job, askers),
            Err(reasons) => self.conclude(&job, Err(reasons), &askers),
        }
    }

    /// The ear follows the configuration too: knocks of new rules are heard.
    pub(super) fn on_committed(&mut self) {
        let is_it = |waiting: &mut Waiting| matches!(waiting.stage, Stage::Applied(_));
        if let Some(Waiting { stage: Stage::Applied(applied), job, askers, .. }) = self.reloads.waiting.take_if(is_it) {
            self.conclude(&job, Ok(applied), &askers);
        }
    }

    fn wait_for_ear(&mut self, stage: Stage, job: Job, askers: Vec<usize>) {
        let due = now().after(PATIENCE);
        self.reloads.waiting = Some(Waiting { stage, due, job, askers, outdated: false });
    }

    /// Gives up a reload for which the ear does not get ready.
    pub(super) fn give_up_reload(&mut self, now: Time) {
        let Some(Waiting { stage, job, askers, .. }) = self.reloads.waiting.take_if(|waiting| waiting.due <= now)
        else {
            return;
        };
        let result = match stage {
            Stage::Staged(_) => {
                self.abort_ear();
                Err(NotReloaded::failed("the ear does not answer"))
            }
            // It follows it as soon as it reads its messages.
            Stage::Applied(applied) => Ok(applied),
        };
        self.conclude(&job, result, &askers);
    }

    fn abort_ear(&mut self) {
        if let Err(error) = self.ear.abort() {
            log::error!("{error}");
        }
    }

    fn conclude(&mut self, job: &Job, result: Result<Applied, NotReloaded>, askers: &[usize]) {
        self.reloads.has_ended = true;
        self.end_reload(job, result, askers);
        if let Some(askers) = self.reloads.next.take() {
            self.begin_reload(Job::Reload, askers);
        }
    }

    /// Notes what is in force now, says so, and answers the clients that asked.
    fn end_reload(&mut self, job: &Job, result: Result<Applied, NotReloaded>, askers: &[usize]) {
        let now = now();
        let result = match (job, result) {
            (Job::GoBack { .. }, result) => {
                self.went_back(&result.map(|applied| applied.differs_from_file));
                return self.say_ready();
            }
            (_, Err(reasons)) => Err(reasons),
            (Job::Reload, Ok(applied)) => {
                self.in_force = InForce { text: applied.text, file_problem: None, trial: None };
                put_in_place(applied.copy);
                self.source.copies(&self.config).forget_tried();
                self.counters.reloads += 1;
                let names = self.config.rule_names();
                self.events.report(now, Event::Reloaded, None, None, format_args!("reloaded: rules: {names:.200}"));
                Ok(applied.warnings)
            }
            (Job::Try { file, time }, Ok(applied)) => {
                put_in_place(applied.copy);
                self.in_force.start_trial(now, file, *time, applied.text);
                let (file, seconds) = (file.display(), time.as_secs());
                let message = format_args!("{file} is in force for {seconds} seconds, unless it is confirmed");
                self.events.report(now, Event::Tried, None, None, message);
                Ok(applied.warnings)
            }
        };
        if let Err(reasons) = &result {
            let not = if matches!(job, Job::Reload) { "not reloaded" } else { "not tried" };
            for reason in reasons.to_string().lines() {
                self.events.report(now, Event::ReloadFailed, None, None, format_args!("{not}: {reason}"));
            }
            if matches!(job, Job::Reload) {
                self.in_force.file_problem = Some(reasons.to_string());
            }
        }
        self.say_ready();
        for &slot in askers {
            self.answer_reload(slot, job, &result);
        }
    }

    /// Tells the service manager that a reload has ended.
    fn say_ready(&mut self) {
        let status = self.status_line();
        self.notifier.ready(status);
    }

    /// Has the ear get ready for a configuration. That packets are received which mean nothing yet does no harm, and can be
    /// undone.
    fn stage(&mut self, prepared: Prepared) -> Result<StagedReload, NotReloaded> {
        let (config, plans) = (&prepared.loaded.config, &prepared.plans);
        let of_files = plans.signed.as_ref().map(|plan| plan.warnings.clone()).unwrap_or_default();
        let warnings: Vec<String> = prepared.loaded.warnings.iter().map(ToString::to_string).chain(of_files).collect();
        for warning in &warnings {
            log::warn!("{warning}");
        }
        self.privileges.check(RequiredPrivileges::of(config, false)).map_err(NotReloaded::failed)?;
        let socket = self.other_control_socket(config).map_err(NotReloaded::failed)?;
        let added = self.interfaces.open_missing(&config.interfaces).map_err(NotReloaded::failed)?;
        let plan = plans.for_the_ear(self.interfaces.numbers(&config.interfaces, &added));
        let token = self.ear.prepare(&plan, &added).map_err(NotReloaded::failed)?;
        let listeners = added.into_iter().map(|new| new.listener).collect();
        Ok(StagedReload { prepared, warnings, socket, listeners, token })
    }

    fn apply_configuration(&mut self, staged: StagedReload) -> Result<Applied, NotReloaded> {
        let StagedReload { prepared, warnings, socket, listeners, .. } = staged;
        let Prepared { loaded, plans, copy, differs_from_file } = prepared;
        let config = Rc::new(ActiveConfig::new(loaded.config));
        let now = now();
        let exempt = self.interfaces.resolve(&config.nftables.exempt_interfaces);
        let vouchers = plans.vouchers();
        let policy = policy(&config, exempt, plans.signers, vouchers, plans.doors.doors.clone());
        self.disarm_everybody(now);
        if let Err(error) = self.grants.apply(now, Rc::new(policy)) {
            self.abort_ear();
            return Err(match error.is_configuration() {
                true => NotReloaded::invalid(error),
                false => NotReloaded::failed(error),
            });
        }
        if let Err(error) = self.ear.commit() {
            // The loop learns that it has ended, or the watchdog.
            log::error!("{error}");
        }
        self.interfaces.listen(&config.interfaces, listeners);
        self.observe_grants(now);
        self.sequences = Sequences::new(plans.sequences);
        self.arming.follow(plans.doors);
        self.apply_signed(&config, plans.signed);
        self.apply_fleet(now, &config, plans.fleet);
        self.cooldowns.reconfigure(cooldowns(&config), config.limits.sources);
        for field in fixed_at_start(&self.config, &config) {
            log::warn!("{field} has changed, but a reload does not apply it; restart knockd");
        }
        self.config = config;
        log::set_max_level(self.source.log_level.unwrap_or(self.config.log.level));
        if let Some(runner) = &mut self.runner {
            runner.reconfigure(&self.config);
        }
        match (socket, &mut self.control) {
            (Some(socket), Some(control)) => control.replace(socket),
            (Some(socket), None) => match control::Server::new(socket) {
                Ok(control) => self.control = Some(control),
                Err(error) => log::error!("cannot serve the control socket: {error}; knockctl can't reach this daemon"),
            },
            (None, _) => {}
        }
        Ok(Applied { text: loaded.text, warnings, copy, differs_from_file })
    }

    /// The control socket of that configuration, where it is another one.
    fn other_control_socket(&self, config: &Config) -> Result<Option<control::Socket>, control::Error> {
        let path = control::place(config);
        match &self.control {
            Some(control) if control.path() == path => Ok(None),
            // It could not be made at its default place, which was logged at the start.
            None if config.control_socket.is_none() => Ok(None),
            _ => control::Socket::listen(&path).map(Some),
        }
    }
}

/// The changed fields that the daemon applies only at its start.
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
    fn fields_that_only_a_restart_applies_are_reported() {
        let config = |text: &str| knock_config::parse("test.json", text).expect("a valid configuration").config;
        let old = config(r#"{"rules": []}"#);
        let new = config(r#"{"rules": [], "limits": {"commands": 2}, "log": {"target": "syslog", "level": "debug"}}"#);
        assert_eq!(fixed_at_start(&old, &new), ["limits.commands", "log.target"]);
        assert!(fixed_at_start(&old, &old).is_empty());
    }
}
