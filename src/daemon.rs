//! The daemon: everything that it holds, and the loop that waits for the next thing to happen.

pub(crate) mod args;
mod arming;
mod config_copies;
mod config_source;
mod dispatch;
mod doors;
mod ear;
mod fleet;
mod fleet_requests;
mod handlers;
mod hearing;
mod interfaces;
mod observer;
pub(crate) mod plan;
mod questions;
mod reload;
mod reload_thread;
mod runner;
mod signed;
mod signed_requests;
pub(crate) mod startup;
mod trial;
mod watching;

use std::io;
use std::rc::Rc;

use knock_config::OnStop;
use knock_grant::{GrantManager, Nftables};
use knock_proto::{Cooldowns, Time};

use crate::control;
use crate::daemon::arming::Arming;
use crate::daemon::config_source::ConfigSource;
use crate::daemon::ear::Ear;
use crate::daemon::interfaces::Interfaces;
use crate::daemon::observer::RuleCounters;
use crate::daemon::plan::{ActiveConfig, policy};
use crate::daemon::questions::Asker;
use crate::daemon::reload_thread::Reloads;
use crate::daemon::runner::{Runner, stop_time};
use crate::daemon::trial::InForce;
use crate::daemon::watching::Watching;
use crate::fleet::Fleet;
use crate::logging::events::{Event, EventLog};
use crate::os::clock::{Sleep, now, slept};
use crate::os::poller::Poller;
use crate::os::privileges::RequiredPrivileges;
use crate::os::service_manager::Notifier;
use crate::os::signals::Signal;
use crate::triggers::sequences::Sequences;
use crate::triggers::signed_packets::SignedPackets;

/// The events that the loop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Stop,
    HandOver,
    Reload,
    /// The thread that reads the configuration is done.
    Loaded,
    Links,
    Monitor,
    Runner,
    /// The control socket, or a connection to it.
    Control,
    /// The ear has said something.
    Ear,
    /// knockd-fleet connects.
    FleetSocket,
    /// knockd-fleet has said something.
    Fleet,
    /// Records are verified.
    Records,
}

/// Why the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It is stopped.
    Stop,
    /// Another one is about to take its place, as at a restart of the service.
    HandOver,
}

/// What the daemon counts beside engine and kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Completions that did nothing, because of the cooldown of their rule.
    pub(crate) in_cooldown: u64,
    /// Grants that were made or extended.
    pub(crate) grants: u64,
    /// Grants that could not be made.
    pub(crate) failed_grants: u64,
    /// Grants that ended before their time.
    pub(crate) revoked: u64,
    /// Times that the table or a set was restored.
    pub(crate) restored: u64,
    /// Stray elements that were deleted.
    pub(crate) strays: u64,
    /// Reloads that were carried out.
    pub(crate) reloads: u64,
}

/// Everything that the daemon holds while it runs.
pub(crate) struct Daemon {
    pub(crate) source: ConfigSource,
    pub(crate) config: Rc<ActiveConfig>,
    pub(crate) in_force: InForce,
    pub(crate) sequences: Sequences,
    /// `None` where the configuration has no `spa`.
    pub(crate) signed: Option<SignedPackets>,
    /// `None` where the configuration has no `fleet`.
    pub(crate) fleet: Option<Fleet>,
    pub(crate) cooldowns: Cooldowns,
    pub(crate) arming: Arming,
    pub(crate) ear: Ear,
    pub(crate) interfaces: Interfaces,
    pub(crate) grants: GrantManager<Nftables>,
    /// The process that runs commands; `None` where no rule had one at the start.
    pub(crate) runner: Option<Runner>,
    /// `None` where the daemon may not make it at its default place.
    pub(crate) control: Option<control::Server>,
    pub(crate) watching: Watching,
    pub(crate) events: EventLog,
    pub(crate) counters: Counters,
    pub(crate) rule_counters: RuleCounters,
    pub(crate) started: Time,
    pub(crate) stop: Signal,
    pub(crate) hand_over: Signal,
    pub(crate) reload: Signal,
    pub(crate) reloads: Reloads,
    /// The privileges that the daemon has kept.
    pub(crate) privileges: RequiredPrivileges,
    pub(crate) notifier: Notifier,
}

impl Daemon {
    /// Runs until a signal says stop.
    ///
    /// # Errors
    ///
    /// Where waiting itself fails, or another process of the daemon has ended.
    pub(crate) fn run(&mut self) -> io::Result<End> {
        let mut poller = Poller::new()?;
        poller.watch(&self.stop, Ready::Stop)?;
        poller.watch(&self.hand_over, Ready::HandOver)?;
        poller.watch(&self.reload, Ready::Reload)?;
        poller.watch(&self.reloads, Ready::Loaded)?;
        poller.watch(&self.ear, Ready::Ear)?;
        poller.watch(&self.interfaces, Ready::Links)?;
        if let Some(runner) = &self.runner {
            poller.watch(runner, Ready::Runner)?;
        }
        self.watch_replaceable(&mut poller)?;
        self.watch_fleet(&mut poller)?;

        let states = self.interfaces.states();
        let interfaces = states.iter().map(|i| format!("{} ({})", i.name, i.state)).collect::<Vec<_>>().join(", ");
        let names = self.config.rule_names();
        let message = format_args!("ready: listening on {interfaces}; rules: {names:.200}");
        self.events.report(now(), Event::Ready, None, None, message);
        let status = self.status_line();
        self.notifier.ready(status);

        let mut sleep = Sleep::new(slept());
        loop {
            poller.wait(self.next_deadline())?;
            while let Some(ready) = poller.next() {
                match ready {
                    Ready::Stop if self.stop.take() => return Ok(End::Stop),
                    Ready::HandOver if self.hand_over.take() => return Ok(End::HandOver),
                    Ready::Reload if self.reload.take() => self.reload(None),
                    Ready::Stop | Ready::HandOver | Ready::Reload => {}
                    Ready::Loaded => {
                        self.finish_reading();
                    }
                    Ready::Ear => {
                        self.listen_to_ear()?;
                    }
                    Ready::Control => self.serve(),
                    Ready::Links => {
                        let lines = self.interfaces.follow();
                        if !lines.is_empty() {
                            self.ear.ask(Asker::Log(lines))?;
                        }
                        self.follow_exempt_interfaces();
                        let status = self.status_line();
                        self.notifier.status(status);
                    }
                    Ready::Monitor => {
                        self.grants.reconcile(now());
                        self.observe_grants(now());
                    }
                    Ready::Runner => self.listen_to_runner()?,
                    Ready::FleetSocket => self.on_fleet_connect(now()),
                    Ready::Fleet => self.listen_to_fleet(now()),
                    Ready::Records => self.follow_records(now()),
                }
            }
            self.tick(now())?;
            self.watch_fleet(&mut poller)?;
            if std::mem::take(&mut self.reloads.has_ended) {
                // It may have closed a descriptor, and opened another in its place.
                self.watch_replaceable(&mut poller)?;
            }
            if sleep.is_over(slept()) {
                // The timeouts of the kernel's elements stood still, those of the grants did not.
                log::info!("the machine was suspended; knockd compares its grants with the elements in the kernel");
                self.disarm_everybody(now());
                self.grants.after_sleep(now());
                self.observe_grants(now());
            }
            if let Some(control) = &mut self.control {
                control.tick(now());
            }
        }
    }

    /// An alternative name in `nftables.exempt_interfaces` may be that of another interface now.
    fn follow_exempt_interfaces(&mut self) {
        let exempt = self.interfaces.resolve(&self.config.nftables.exempt_interfaces);
        let table = self.grants.policy().table.as_ref();
        if table.is_none_or(|table| table.exempt_interfaces == exempt) {
            return;
        }
        let names = exempt.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let doors = table.map(|table| table.doors.clone()).unwrap_or_default();
        let (signers, vouchers) = (self.grants.policy().signers.clone(), self.grants.policy().vouchers.clone());
        self.disarm_everybody(now());
        match self.grants.apply(now(), Rc::new(policy(&self.config, exempt, signers, vouchers, doors))) {
            Ok(()) => log::info!("the exempt interfaces are now: {names}"),
            Err(error) => log::error!("cannot change the exempt interfaces to {names}: {error}"),
        }
        self.observe_grants(now());
    }

    /// Watches the descriptors that a reload may have replaced. Those that are watched already stay so.
    fn watch_replaceable(&self, poller: &mut Poller<Ready>) -> io::Result<()> {
        if let Some(control) = &self.control {
            poller.watch(control, Ready::Control)?;
        }
        match self.grants.enforcer().monitor() {
            Some(monitor) => poller.watch(monitor, Ready::Monitor),
            None => Ok(()),
        }
    }

    /// What `systemctl status` shows.
    pub(crate) fn status_line(&self) -> String {
        let states = self.interfaces.states();
        let heard = states.iter().filter(|interface| interface.state == "up").count();
        let (rules, interfaces) = (self.config.rules.len(), states.len());
        let counted = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let warning = match &self.in_force {
            InForce { trial: Some(_), .. } => "a configuration is being tried; ",
            InForce { file_problem: Some(_), .. } => "NOT THE CONFIGURATION OF THE FILE; ",
            _ => "",
        };
        format!("{warning}{}; listening on {heard} of {}", counted(rules, "rule"), counted(interfaces, "interface"))
    }

    /// Does what is due.
    fn tick(&mut self, now: Time) -> io::Result<()> {
        self.grants.tick(now);
        self.tick_arming(now);
        self.observe_grants(now);
        self.end_trial(now);
        self.tick_watchers(now);
        if self.cooldowns.next_old().is_some_and(|due| due <= now) {
            self.cooldowns.forget_old(now);
        }
        self.tick_runner(now);
        self.tick_fleet(now);
        self.events.summarise(now);
        self.tick_ear(now)
    }

    fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.grants.next_deadline(),
            self.control.as_ref().and_then(control::Server::next_deadline),
            self.ear.questions.next_deadline(),
            self.reloads.next_deadline(),
            self.cooldowns.next_old(),
            self.arming.next_end(),
            self.runner.as_ref().and_then(Runner::next_deadline),
            self.fleet.as_ref().and_then(Fleet::next_deadline),
            self.next_trial_end(),
            self.watching.next_summary(),
            self.events.next_summary(),
            self.notifier.next_retry(),
            self.next_ping(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Ends everything: stop commands run, then the gate is removed as the configuration says, or stays for
    /// the daemon that replaces this one.
    ///
    /// # Errors
    ///
    /// Where the table can't be removed.
    pub(crate) fn shut_down(mut self, hand_over: bool) -> Result<(), knock_grant::Error> {
        let time = stop_time(&self.config);
        self.notifier.stopping(time);
        let keep = hand_over || self.config.nftables.on_stop == OnStop::Keep;
        let grants = [("KNOCK_GRANTS", if keep { "kept" } else { "ended" }.to_owned())];
        self.events.report_with(now(), Event::Stopping, None, None, &grants, format_args!("stopping"));
        // From now on, knockctl reports that no daemon answers.
        self.control = None;
        self.fleet = None;
        if let Some(runner) = self.runner.take() {
            runner.stop(hand_over, time);
        }
        self.events.say_what_is_left_out();
        if keep {
            self.disarm_everybody(now());
            self.observe_grants(now());
        }
        if let Some(Err(error)) = self.signed.take().map(SignedPackets::close) {
            log::error!("signed packets will be refused for some time after the next start: {error}");
        }
        self.grants.close(keep)
    }
}
