//! The runner: the process that runs commands, so that no other process of the daemon needs to be able to.
//!
//! The keeper starts it while it still has all its privileges, and only where there may be something to run. It gets the
//! command lines with each configuration that comes into force; an order to run one names a rule and an address. An order for
//! a rule without a command is ignored and logged; with one that has another form, or none, it ends.
//!
//! It writes the log by itself, to the same target as the keeper and with the keeper's standard error. Where the keeper ends,
//! it ends at once: stop commands stay in their journal and run after the next start, and commands that run go on.

pub(crate) mod hooks;
pub(crate) mod message;

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use knock_proto::Time;
use log::Level;
use rustix::process::{
    DumpableBehavior, Pid, Signal, getpid, getppid, set_child_subreaper, set_dumpable_behavior,
    set_parent_process_death_signal,
};

use crate::commands::stop_schedule::{StopSchedule, boot_id};
use crate::commands::{Commands, Job, Kind};
use crate::logging;
use crate::logging::events::EventLog;
use crate::os::channel::{Channel, is_end, of_parent, seal, unseal};
use crate::os::clock::{clock_reading, now};
use crate::os::poller::Poller;
use crate::os::privileges::{Protections, drop_for_commands};
use crate::os::signals;
use message::{LogCounters, Order, Plan, Report, Rule, next};

/// How long commands may continue when the daemon stops. systemd gives a service 90 seconds (systemd.service(5)).
pub(crate) const SHUTDOWN_COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Orders that are taken before stop commands have their turn.
const ORDERS_IN_A_ROW: usize = 512;

/// The process.
pub(crate) fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // The keeper has ended, and waits for nothing.
        Err(error) if is_end(&error) => ExitCode::FAILURE,
        Err(error) => {
            log::error!("the runner ends: {error}");
            logging::finish();
            ExitCode::FAILURE
        }
    }
}

/// Follows orders until the last one.
fn serve() -> io::Result<()> {
    // It also ends where it waits for a command.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() == Some(Pid::INIT) {
        // As process 1 of a container the keeper would be the parent of what commands leave behind, and not know it.
        set_child_subreaper(Some(getpid()))?;
    }
    // Secrets in command lines stay in memory; only root may read them there, or in a core dump.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    signals::leave_to_keeper()?;
    let mut channel = of_parent();
    let mut poller = Poller::new()?;
    poller.watch(&channel, ())?;
    let mut runner = None;
    loop {
        poller.wait(runner.as_ref().and_then(Runner::next_deadline))?;
        while poller.next().is_some() {}
        for _ in 0..ORDERS_IN_A_ROW {
            let Some((order, file)) = next(&mut channel)? else { break };
            match (order, &mut runner) {
                (Order::Configure, None) => match configure(&mut channel, file)? {
                    Some(configured) => runner = Some(configured),
                    None => return Ok(()),
                },
                (Order::Stop { hand_over }, Some(runner)) => {
                    runner.stop(hand_over);
                    logging::finish();
                    channel.send(&Report::Stopped, None)?;
                    return Ok(());
                }
                (order, Some(runner)) => runner.follow(&mut channel, order, file)?,
                (_, None) => return Err(io::Error::new(ErrorKind::InvalidData, "an order came before the first plan")),
            }
        }
        if let Some(runner) = &mut runner {
            runner.tick(now());
        }
    }
}

/// Begins with the first plan, and says so. `None`: it can't, and the keeper knows.
fn configure(channel: &mut Channel<impl AsFd>, file: Option<OwnedFd>) -> io::Result<Option<Runner>> {
    let runner = plan(file).and_then(|plan| prepare(&plan).and_then(|()| Runner::new(plan)));
    let report = match &runner {
        Ok(runner) => Report::Configured { pending: runner.stops.as_ref().map_or(0, |stops| stops.pending_count()) },
        Err(error) => Report::NotConfigured { reason: format!("{error:.300}") },
    };
    let protections = Protections::of_this_process().and_then(|protections| seal(&protections)).ok();
    channel.send(&report, protections.as_ref().map(AsFd::as_fd))?;
    Ok(runner.ok())
}

/// Makes the process ready: its log, and its privileges.
fn prepare(plan: &Plan) -> io::Result<()> {
    logging::start(Some(plan.log_target), plan.log_level).map_err(io::Error::other)?;
    drop_for_commands().map_err(io::Error::other)?;
    logging::write_from_now_on()
}

fn plan(file: Option<OwnedFd>) -> io::Result<Plan> {
    unseal(&file.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "there is no plan beside the order"))?)
}

struct Runner {
    plan: Plan,
    rules: HashMap<Box<str>, usize>,
    commands: Arc<Commands>,
    /// `None` where no rule has ever had a stop command.
    stops: Option<Arc<StopSchedule>>,
    /// Whether the setup commands have run. Stop commands that are due run after them.
    set_up: bool,
    /// Whether an order for an unknown rule was logged.
    warned: bool,
    log: EventLog,
}

impl Runner {
    fn new(plan: Plan) -> io::Result<Runner> {
        let log = EventLog::default();
        let commands = Commands::new(plan.workers, plan.queue, log.clone())?;
        let (stops, rules) = (open_stops(&plan, &log), by_name(&plan));
        Ok(Runner { plan, rules, commands, stops, set_up: false, warned: false, log })
    }

    fn follow(&mut self, channel: &mut Channel<impl AsFd>, order: Order, file: Option<OwnedFd>) -> io::Result<()> {
        match order {
            Order::SetUp => {
                hooks::run(&self.commands, &hooks::setups(&self.plan));
                self.set_up = true;
                channel.send(&Report::SetUp, None)?;
            }
            Order::Run { rule, address } => {
                if !self.run(&rule, address) {
                    channel.send(&Report::Refused { rule, address }, None)?;
                }
            }
            Order::BringForward { rule, address } => {
                if let Some(stops) = &self.stops {
                    stops.bring_forward(clock_reading(), &rule, address);
                }
            }
            Order::Reconfigure => self.reconfigure(plan(file)?),
            Order::Ask { token } => {
                let failures = self.commands.failures();
                let file = if failures.is_empty() { None } else { Some(seal(&failures)?) };
                let log = LogCounters { too_fast: self.log.left_out_since_start(), left_out: logging::left_out() };
                let state = Report::State { token, counters: self.commands.counters(), log };
                channel.send(&state, file.as_ref().map(AsFd::as_fd))?;
            }
            Order::Configure | Order::Stop { .. } => {}
        }
        Ok(())
    }

    /// Hands the rule's command to a worker. `false`: there is no room for it, or for its stop command, which is logged.
    fn run(&mut self, name: &str, source: IpAddr) -> bool {
        let rule = self.rules.get(name).map(|&index| &self.plan.rules[index]);
        let Some((rule, command)) = rule.and_then(|rule| Some((rule, rule.command.as_ref()?))) else {
            if !std::mem::replace(&mut self.warned, true) {
                let message = format_args!("ignored an order to run a command of rule {name:.64}, which has none");
                self.log.line(now(), Level::Warn, name, message);
            }
            return true;
        };
        let job = Job::new(Kind::Start, name, source, command.line(source), rule.timeout);
        let job = match (&rule.stop, &self.stops) {
            (Some(stop), Some(stops)) => match stops.arm(clock_reading(), job, stop) {
                Ok(Some(job)) => job,
                Ok(None) => return true,
                Err(error) => {
                    self.log.line(now(), Level::Error, name, format_args!("rule {name}: {error}"));
                    return false;
                }
            },
            // The schedule is opened with the plan; without it nothing would be closed again.
            (Some(_), None) => {
                let message = format_args!("rule {name}: there is no schedule of stop commands");
                self.log.line(now(), Level::Error, name, message);
                return false;
            }
            (None, _) => job,
        };
        // A refusal is logged by the queue.
        self.commands.submit(job).is_ok()
    }

    fn reconfigure(&mut self, plan: Plan) {
        log::set_max_level(plan.log_level);
        let hooks = hooks::changes(&self.plan, &plan);
        self.rules = by_name(&plan);
        self.plan = plan;
        // Without such a rule, there may be no schedule of stop commands yet.
        if self.stops.is_none() && has_stop_command(&self.plan) {
            self.stops = open_stops(&self.plan, &self.log);
        }
        if !hooks.is_empty() {
            // No knock waits for these commands.
            let commands = self.commands.clone();
            let run = move || hooks::run(&commands, &hooks);
            if let Err(error) = thread::Builder::new().name("hooks".to_owned()).spawn(run) {
                log::error!(
                    "setup and teardown of the rules that changed were not run: cannot start a thread: {error}"
                );
            }
        }
    }

    /// Does what is due.
    fn tick(&mut self, now: Time) {
        if self.next_stop().is_some_and(|due| due <= now)
            && let Some(stops) = &self.stops
        {
            for job in stops.due(now) {
                // A refusal is logged, and tried again.
                let _ = self.commands.submit(job);
            }
        }
        self.log.summarise(now);
    }

    fn next_stop(&self) -> Option<Time> {
        self.stops.as_ref().filter(|_| self.set_up)?.next_due()
    }

    fn next_deadline(&self) -> Option<Time> {
        [self.next_stop(), self.log.next_summary()].into_iter().flatten().min()
    }

    /// The daemon stops: waits for the last commands, then runs the teardown commands.
    fn stop(&self, hand_over: bool) {
        self.commands.close();
        if let Some(stops) = &self.stops
            && !hand_over
        {
            for job in stops.at_stop(clock_reading()) {
                let _ = self.commands.submit(job);
            }
        }
        self.commands.drain(SHUTDOWN_COMMAND_TIMEOUT);
        self.log.say_what_is_left_out();
        if let Some(stops) = &self.stops
            && let Err(error) = stops.flush()
        {
            log::error!("{error}");
        }
        hooks::run(&self.commands, &hooks::teardowns(&self.plan));
    }
}

fn by_name(plan: &Plan) -> HashMap<Box<str>, usize> {
    plan.rules.iter().enumerate().map(|(index, rule)| (rule.name.clone(), index)).collect()
}

fn has_stop_command(plan: &Plan) -> bool {
    plan.rules.iter().any(|rule: &Rule| rule.stop.is_some())
}

/// Opens the schedule of stop commands, where a rule has one or some are pending from an earlier run.
fn open_stops(plan: &Plan, log: &EventLog) -> Option<Arc<StopSchedule>> {
    if !has_stop_command(plan) && !StopSchedule::is_in(&plan.state_dir) {
        return None;
    }
    let (stops, problems) = StopSchedule::open(&plan.state_dir, clock_reading(), &boot_id(), log.clone());
    for problem in problems {
        log::error!("{problem}");
    }
    let pending = stops.pending_count();
    if pending > 0 {
        log::info!("{pending} stop commands are pending from an earlier run");
    }
    (has_stop_command(plan) || pending > 0).then_some(stops)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use knock_config::{Command, LogTarget};

    use super::*;
    use crate::commands::Counters;
    use crate::os::channel::pair;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn rule(name: &str, command: Option<String>, setup: Option<String>) -> Rule {
        let command = command.map(|any| Command { any, v6: None });
        Rule { name: name.into(), command, stop: None, timeout: Duration::from_secs(10), setup, teardown: None }
    }

    fn runner(directory: &Path, rules: Vec<Rule>) -> Runner {
        let plan = Plan {
            rules,
            workers: 2,
            queue: 2,
            state_dir: directory.to_owned(),
            log_target: LogTarget::Stderr,
            log_level: log::LevelFilter::Info,
        };
        Runner::new(plan).expect("a runner")
    }

    /// Has it follow orders, waits for what they started, and returns what it says of that.
    fn counters(runner: &mut Runner, orders: &[Order]) -> Counters {
        let (mut ours, _theirs) = pair().expect("a pair");
        for order in orders {
            runner.follow(&mut ours, order.clone(), None).expect("followed");
        }
        runner.commands.close();
        runner.commands.drain(Duration::from_secs(10));
        runner.commands.counters()
    }

    #[test]
    fn an_order_for_no_rule_or_one_without_a_command_runs_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        let touch = format!("touch {}", file.display());
        let run = |rule: &str| Order::Run { rule: rule.into(), address: CLIENT };
        let bring = |rule: &str| Order::BringForward { rule: rule.into(), address: CLIENT };
        let mut runner = runner(directory.path(), vec![rule("hooks", None, Some(touch.clone()))]);
        let names = ["", "hooks", "gone", "touch", &touch, "hooks\0", "../hooks"];
        let orders: Vec<Order> = names.iter().flat_map(|name| [run(name), bring(name)]).collect();
        assert_eq!(counters(&mut runner, &orders), Counters::default());
        assert!(!file.exists());
    }

    #[test]
    fn an_order_runs_the_line_of_the_plan_for_its_address() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        let mut runner =
            runner(directory.path(), vec![rule("door", Some(format!("echo %IP% > {}", file.display())), None)]);
        let (mut ours, _theirs) = pair().expect("a pair");
        runner.follow(&mut ours, Order::Run { rule: "door".into(), address: CLIENT }, None).expect("followed");
        runner.commands.drain(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(file).expect("it ran"), "192.0.2.7\n");
    }
}
