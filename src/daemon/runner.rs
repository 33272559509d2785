//! The keeper's end of the runner. Nothing here waits on the event loop; the start and the stop of the daemon do.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use knock_config::Config;
use knock_proto::{RuleId, Time};
use rustix::event::PollFlags;

use crate::commands::Counters;
use crate::control::response::Response;
use crate::daemon::Daemon;
use crate::daemon::config_source::{has_pending_stops, state_directory};
use crate::daemon::questions::{Asker, Questions};
use crate::logging;
use crate::os::channel::{Sent, is_end, seal, unseal};
use crate::os::child::{Child, Role};
use crate::os::clock::now;
use crate::os::privileges::{Protections, RequiredPrivileges};
use crate::runner::SHUTDOWN_COMMAND_TIMEOUT;
use crate::runner::message::{LogCounters, Order, Plan, Report, Rule, next};

/// How long the runner may take until it is ready for orders; it takes far less.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The time after which a plan is sent again that the runner had no room for.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Reports that are taken before packets have their turn.
const REPORTS_IN_A_ROW: usize = 64;

/// The runner, as the keeper knows it. It ends when this is dropped.
pub(crate) struct Runner {
    child: Child,
    protections: Option<Protections>,
    state: State,
    /// A plan that the runner had no room for, and when it is sent again. Orders for its rules come after it.
    unsent: Option<(OwnedFd, Time)>,
    /// What it was asked and has not answered.
    pub(super) questions: Questions,
}

/// What the runner has done, as it said last.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) counters: Counters,
    pub(crate) log: LogCounters,
    /// Failed commands by rule.
    pub(crate) failures: HashMap<Box<str>, u64>,
}

/// What the runner says by itself, or in answer to a question.
#[derive(Debug)]
pub(crate) enum Event {
    /// The rule's command for the address does not run; the runner has logged why.
    Refused { rule: RuleId, address: IpAddr },
    /// [`Runner::state`] is the answer to that question.
    Answered(Asker),
}

impl Runner {
    /// Starts the runner where rules have commands, where there are no rules yet, or where stop commands are pending from an
    /// earlier run. This thread must have all privileges that commands may have.
    ///
    /// # Errors
    ///
    /// Where it can't be started, or can't do what the configuration says.
    pub(crate) fn start_where_needed(config: &Config) -> io::Result<Option<Runner>> {
        if !RequiredPrivileges::of(config, has_pending_stops(config)).commands() {
            return Ok(None);
        }
        let plan = seal(&plan(config))?;
        let mut runner = Runner {
            child: Child::start(Role::Runner)?,
            protections: None,
            state: State::default(),
            unsent: None,
            questions: Questions::default(),
        };
        runner.child.channel.send(&Order::Configure, Some(plan.as_fd()))?;
        let answer = |report: &Report| matches!(report, Report::Configured { .. } | Report::NotConfigured { .. });
        let pending = match runner.wait_for(START_LIMIT, answer)? {
            (Report::Configured { pending }, file) => {
                runner.protections = file.as_ref().map(unseal).transpose()?;
                pending
            }
            (Report::NotConfigured { reason }, _) => return Err(io::Error::other(reason)),
            _ => 0,
        };
        if !RequiredPrivileges::of(config, pending > 0).commands() {
            runner.child.end();
            return Ok(None);
        }
        if !RequiredPrivileges::of(config, false).commands() {
            log::warn!(
                "no rule has a command, but stop commands are pending from an earlier run; knockd keeps a process that may run \
                 programs until it is started again"
            );
        }
        Ok(Some(runner))
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its protections, as it said when it began.
    pub(crate) fn protections(&self) -> Option<&Protections> {
        self.protections.as_ref()
    }

    /// Runs the setup commands, and waits for them.
    ///
    /// # Errors
    ///
    /// Where the runner has ended, or is not done in time.
    pub(crate) fn set_up(&mut self, limit: Duration) -> io::Result<()> {
        self.send(&Order::SetUp)?;
        self.wait_for(limit, |report| matches!(report, Report::SetUp)).map(drop)
    }

    /// Has the rule's command run for the address. `false`: the runner has no room for that.
    pub(crate) fn run(&mut self, rule: &str, address: IpAddr) -> bool {
        self.offer(&Order::Run { rule: rule.into(), address })
    }

    /// Has the rule's pending stop commands for the address run now. `false`: the runner has no room for that.
    pub(crate) fn bring_forward(&mut self, rule: &str, address: IpAddr) -> bool {
        self.offer(&Order::BringForward { rule: rule.into(), address })
    }

    /// Asks for the state; [`Event::Answered`] is the answer. Where the runner has no room for that, there is none in time.
    pub(crate) fn ask(&mut self, asker: Asker) {
        let token = self.questions.token();
        self.offer(&Order::Ask { token });
        self.questions.note(now(), token, asker);
    }

    /// What the runner has done, as it said last.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Has the runner use another configuration, now or as soon as it has room for that.
    pub(crate) fn reconfigure(&mut self, config: &Config) {
        match seal(&plan(config)) {
            Ok(plan) => self.unsent = Some((plan, now())),
            Err(error) => log::error!("the commands of the configuration before stay in force: {error}"),
        }
        self.tick(now());
    }

    /// Sends the plan that there was no room for.
    pub(crate) fn tick(&mut self, now: Time) {
        let Some((plan, due)) = &mut self.unsent else { return };
        // An end of the runner is an event of its own.
        match self.child.channel.send(&Order::Reconfigure, Some(plan.as_fd())) {
            Ok(Sent::NoRoom) => *due = now.after(RETRY_PAUSE),
            Ok(Sent::Yes) | Err(_) => self.unsent = None,
        }
    }

    /// When [`Runner::tick`] has something to do, or an answer is no longer waited for.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.questions.next_deadline().into_iter().chain(self.unsent.as_ref().map(|&(_, due)| due)).min()
    }

    /// What the runner says; `None`: nothing more.
    ///
    /// # Errors
    ///
    /// Where the runner has ended.
    pub(crate) fn next_event(&mut self) -> io::Result<Option<Event>> {
        while let Some((report, file)) = next(&mut self.child.channel)? {
            match report {
                Report::Refused { rule, address } => {
                    return Ok(Some(Event::Refused { rule: RuleId::from(&*rule), address }));
                }
                Report::State { token, counters, log } => {
                    let failures = file.as_ref().map(unseal).transpose()?.unwrap_or_default();
                    self.state = State { counters, log, failures };
                    let Some(asker) = self.questions.answered(token) else { continue };
                    return Ok(Some(Event::Answered(asker)));
                }
                Report::Configured { .. } | Report::NotConfigured { .. } | Report::SetUp | Report::Stopped => {}
            }
        }
        Ok(None)
    }

    /// Has it run what runs at the stop of the daemon, and waits until it has ended.
    pub(crate) fn stop(mut self, hand_over: bool, limit: Duration) {
        let stopped = self
            .send(&Order::Stop { hand_over })
            .and_then(|()| self.wait_for(limit, |report| matches!(report, Report::Stopped)));
        match stopped {
            // Its end is all that follows.
            Ok(_) => {
                if self.wait_for(START_LIMIT, |_| false).is_err_and(|error| error.kind() != ErrorKind::TimedOut) {
                    self.child.end();
                }
            }
            Err(error) => log::error!("commands may not have run at the stop: {}", self.describe(&error)),
        }
    }

    /// Sends an order behind the plan that waits. `false`: there is no room for it.
    fn offer(&mut self, order: &Order) -> bool {
        self.tick(now());
        self.unsent.is_none() && matches!(self.child.channel.send(order, None), Ok(Sent::Yes))
    }

    /// Sends an order, and waits for room for it.
    fn send(&mut self, order: &Order) -> io::Result<()> {
        let deadline = now().after(START_LIMIT);
        while self.child.channel.send(order, None)? == Sent::NoRoom {
            self.child.channel.wait(PollFlags::OUT, deadline)?;
        }
        Ok(())
    }

    /// Waits for that report; others are left out.
    fn wait_for(&mut self, limit: Duration, is_it: impl Fn(&Report) -> bool) -> io::Result<(Report, Option<OwnedFd>)> {
        let deadline = now().after(limit);
        loop {
            match next(&mut self.child.channel)? {
                Some((report, file)) if is_it(&report) => return Ok((report, file)),
                Some(_) => {}
                None => self.child.channel.wait(PollFlags::IN, deadline)?,
            }
        }
    }

    /// Why it can't be reached.
    fn describe(&mut self, error: &io::Error) -> String {
        match self.child.ended() {
            Some(status) => format!("the runner has ended: {status}"),
            None if is_end(error) => "the runner has ended".to_owned(),
            None => format!("the runner cannot be reached: {error}"),
        }
    }
}

impl AsFd for Runner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

impl Daemon {
    /// Does what follows from what the runner says.
    ///
    /// # Errors
    ///
    /// Where it has ended, or says what no runner says. Commands would not run any more.
    pub(super) fn listen_to_runner(&mut self) -> io::Result<()> {
        for _ in 0..REPORTS_IN_A_ROW {
            let Some(runner) = &mut self.runner else { break };
            match runner.next_event() {
                Ok(None) => break,
                // The client may try again at once.
                Ok(Some(Event::Refused { rule, address })) => self.cooldowns.end(&rule, address),
                Ok(Some(Event::Answered(asker))) => self.on_state(now(), asker),
                Err(error) => {
                    let reason = runner.describe(&error);
                    self.runner = None;
                    return Err(io::Error::other(reason));
                }
            }
        }
        Ok(())
    }

    /// Asks the runner, where there is one, after the ear and before the asker gets an answer.
    pub(super) fn ask_runner(&mut self, now: Time, asker: Asker) {
        match &mut self.runner {
            Some(runner) => runner.ask(asker),
            None => self.on_state(now, asker),
        }
    }

    /// Ear and runner have answered.
    fn on_state(&mut self, now: Time, asker: Asker) {
        match asker {
            Asker::Status(slot) => {
                let Some(peer) = self.control.as_ref().and_then(|control| control.peer(slot)) else { return };
                let answer = Response::result(&self.status(now, peer));
                self.answer(now, slot, answer);
            }
            Asker::Watchdog => self.notifier.ping(now),
            Asker::Log(_) | Asker::Explain(..) => {}
        }
    }

    /// Does what is due with the runner.
    pub(super) fn tick_runner(&mut self, now: Time) {
        if let Some(runner) = &mut self.runner {
            runner.tick(now);
        }
        while let Some(asker) = self.runner.as_mut().and_then(|runner| runner.questions.overdue(now)) {
            log::error!("the runner does not answer");
            if !matches!(asker, Asker::Watchdog) {
                self.on_state(now, asker);
            }
        }
    }
}

/// The longest that the setup commands can take.
pub(crate) fn setup_time(config: &Config) -> Duration {
    config.rules.iter().filter(|rule| rule.setup.is_some()).map(|rule| rule.command_timeout).sum()
}

/// The longest that the last commands and the teardown commands can take.
pub(crate) fn stop_time(config: &Config) -> Duration {
    let teardowns = config.rules.iter().filter(|rule| rule.teardown.is_some());
    teardowns.map(|rule| rule.command_timeout).sum::<Duration>() + 2 * SHUTDOWN_COMMAND_TIMEOUT
}

fn plan(config: &Config) -> Plan {
    Plan {
        rules: config.rules.iter().filter_map(Rule::of).collect(),
        workers: config.limits.commands,
        queue: config.limits.command_queue,
        state_dir: state_directory(config),
        log_target: logging::target(),
        log_level: log::max_level(),
    }
}
