//! From the command line to a daemon that runs, and the exit status where it does not.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use knock_config::{Config, Interfaces, Loaded, LogTarget};
use knock_grant::{GrantManager, Nftables};
use knock_proto::Cooldowns;

use crate::control;
use crate::daemon::args::Args;
use crate::daemon::arming::Arming;
use crate::daemon::config_source::{ConfigSource, Unusable, replay_place};
use crate::daemon::ear::Ear;
use crate::daemon::interfaces;
use crate::daemon::observer::RuleCounters;
use crate::daemon::plan::{ActiveConfig, Plans, cooldowns, policy};
use crate::daemon::reload::put_in_place;
use crate::daemon::reload_thread::{Reloads, keep_last_valid};
use crate::daemon::runner::{Runner, setup_time};
use crate::daemon::trial::InForce;
use crate::daemon::watching::Watching;
use crate::daemon::{Counters, Daemon, End};
use crate::logging;
use crate::logging::events::EventLog;
use crate::os::child::Role;
use crate::os::clock::{clock_reading, now};
use crate::os::privileges::RequiredPrivileges;
use crate::os::service_manager::Notifier;
use crate::os::signals::Signal;
use crate::os::trusted::Owners;
use crate::triggers::sequences::Sequences;
use crate::triggers::signed_packets::SignedPackets;

/// The configuration is not valid: `EX_CONFIG` of sysexits.h(3head).
const EXIT_CONFIGURATION: u8 = 78;
/// Not permitted: `EX_NOPERM`.
const EXIT_NOT_PERMITTED: u8 = 77;
/// Anything else.
const EXIT_OTHER: u8 = 1;

/// The time for start-up beside the setup commands that the daemon asks the service manager for; it takes far less.
const STARTUP_MARGIN: Duration = Duration::from_secs(30);

/// Why the daemon does not run.
enum Failure {
    Configuration(String),
    NotPermitted(String),
    Other(String),
}

impl Failure {
    fn new(not_permitted: bool, error: impl fmt::Display) -> Failure {
        let text = error.to_string();
        if not_permitted { Failure::NotPermitted(text) } else { Failure::Other(text) }
    }
}

/// The program `knockd`.
pub fn knockd_main() -> ExitCode {
    match Role::of_this_process() {
        Some(Role::Ear) => return crate::ear::main(),
        Some(Role::Runner) => return crate::runner::main(),
        None => {}
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_OTHER } else { 0 });
        }
    };
    let (status, text) = match run(&args) {
        Ok(()) => (0, String::new()),
        Err(Failure::Configuration(text)) => (EXIT_CONFIGURATION, text),
        Err(Failure::NotPermitted(text)) => (EXIT_NOT_PERMITTED, text),
        Err(Failure::Other(text)) => (EXIT_OTHER, text),
    };
    for line in text.lines() {
        log::error!("{line}");
    }
    logging::finish();
    ExitCode::from(status)
}

fn run(args: &Args) -> Result<(), Failure> {
    let owners = if args.check { Owners::of_check() } else { Owners::of_daemon() };
    let source =
        ConfigSource { file: args.config.clone(), interfaces: interfaces(args), log_level: args.log_level(), owners };
    if !args.check {
        // Secrets of the configuration stay in memory; only root may read them there, or in a core dump.
        let private = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
        private.map_err(|errno| {
            Failure::Other(format!("cannot protect the memory of the daemon from other processes: {errno}"))
        })?;
    }
    if args.check {
        return check(args, &source);
    }
    let named = source.load_at_start();
    let mut last_valid = if named.is_err() { source.last_valid() } else { Ok(None) };
    let for_the_log = named.as_ref().ok().or(last_valid.as_ref().ok().and_then(|copy| Some(&copy.as_ref()?.1)));
    start_log(args, for_the_log)?;
    let text = named.as_ref().map(|loaded| loaded.text.clone()).unwrap_or_default();
    let started = named
        .map_err(|error| Failure::Configuration(error.to_string()))
        .and_then(|loaded| start(&source, loaded, None));
    let mut daemon = match started {
        Err(Failure::Configuration(reasons)) => {
            if !text.is_empty() {
                // The file could be read, and what it asks for is refused.
                last_valid = source.last_valid();
            }
            start_with_last_valid(&source, reasons, &text, last_valid)?
        }
        started => started?,
    };
    let result = daemon.run();
    if result.is_err() {
        // As at a crash, commands go on, and stop commands stay pending: nobody can knock until the next start.
        daemon.runner = None;
    }
    // After a failure, the gate stays in force for the daemon that is started next.
    let closed = daemon.shut_down(!matches!(result, Ok(End::Stop)));
    result.map_err(|error| {
        Failure::Other(format!("{error}; knockd ends, and the gate stays in force until it is started again"))
    })?;
    closed.map_err(|error| Failure::new(false, error))
}

/// Checks the configuration, and the files that it names.
fn check(args: &Args, source: &ConfigSource) -> Result<(), Failure> {
    let loaded = source.load();
    start_log(args, loaded.as_ref().ok())?;
    let loaded = loaded.map_err(|error| Failure::Configuration(error.to_string()))?;
    prepare(source, &loaded)?;
    logging::finish();
    let (file, rules) = (args.config.display(), loaded.config.rules.len());
    // Nobody may be reading; the exit status says the same.
    let _ = writeln!(std::io::stdout(), "{file}: valid, {rules} {}", if rules == 1 { "rule" } else { "rules" });
    Ok(())
}

/// Logs the warnings of a configuration, and reads the files that it names.
fn prepare(source: &ConfigSource, loaded: &Loaded) -> Result<Plans, Failure> {
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    let plans = Plans::load(&loaded.config, source.owners);
    let plans = plans.map_err(|error| Failure::Configuration(error.to_string()))?;
    for warning in plans.signed.iter().flat_map(|plan| &plan.warnings) {
        log::warn!("{warning}");
    }
    Ok(plans)
}

/// Starts with the copy of the last valid configuration, so that a mistake in the file neither locks its owner out nor opens
/// the guarded ports. `reasons`: why the file, which has that text, cannot be used.
fn start_with_last_valid(
    source: &ConfigSource,
    reasons: String,
    text: &str,
    last_valid: Result<Option<(PathBuf, Loaded)>, Unusable>,
) -> Result<Daemon, Failure> {
    let copy = match last_valid {
        // It would be refused for the same reason.
        Ok(copy) => copy.filter(|(_, loaded)| loaded.text != text),
        Err(error) => {
            log::error!("the last valid configuration cannot be used either: {error}");
            None
        }
    };
    let Some((path, loaded)) = copy else { return Err(Failure::Configuration(reasons)) };
    for reason in reasons.lines() {
        log::error!("{reason}");
    }
    log::error!(
        "{} is not in force; knockd starts with the last valid configuration, {}; correct the file, then run: knockctl reload",
        source.file.display(),
        path.display()
    );
    start(source, loaded, Some(reasons))
}

/// Starts the log where the command line says, else where the configuration says; a check, and what is wrong with the
/// configuration, goes to the terminal of the user who started it.
fn start_log(args: &Args, loaded: Option<&Loaded>) -> Result<(), Failure> {
    let level = loaded.map_or(log::LevelFilter::Info, |loaded| loaded.config.log.level);
    let target = args.log_target().or_else(|| loaded.and_then(|loaded| loaded.config.log.target));
    let target = if args.check { Some(LogTarget::Stderr) } else { target };
    logging::start(target, args.log_level().unwrap_or(level)).map_err(|error| {
        eprintln!("error: {error}");
        Failure::Other(String::new())
    })
}

fn interfaces(args: &Args) -> Option<Interfaces> {
    match args.interface.as_slice() {
        [] => None,
        names if names.iter().any(|name| **name == *"any") => Some(Interfaces::Any),
        names => {
            let mut names = names.to_vec();
            names.sort();
            names.dedup();
            Some(Interfaces::Named(names))
        }
    }
}

/// Brings everything up, in the order in which it can be taken down again. `file_problem`: why the configuration is not that
/// of the file.
fn start(source: &ConfigSource, loaded: Loaded, file_problem: Option<String>) -> Result<Daemon, Failure> {
    let plans = prepare(source, &loaded)?;
    let other = |error: std::io::Error| Failure::new(false, format!("cannot handle signals: {error}"));
    let (stop, reload) = (Signal::stop().map_err(other)?, Signal::reload().map_err(other)?);
    let hand_over = Signal::hand_over().map_err(other)?;
    let reloads = Reloads::new().map_err(|error| Failure::new(false, format!("cannot make an eventfd: {error}")))?;
    let copies = source.copies(&loaded.config);
    // The copy is what the daemon starts with; another one would not be valid.
    let copy = if file_problem.is_none() { keep_last_valid(&copies, &loaded) } else { None };
    let in_force = InForce { text: loaded.text, file_problem, trial: None };
    let config = Rc::new(ActiveConfig::new(loaded.config));
    let cooldowns = Cooldowns::new(cooldowns(&config), config.limits.sources);
    let control = open_control(&config)?;
    let denied = |error: knock_capture::Error| Failure::new(error.is_permission(), error);
    let mut interfaces = interfaces::Interfaces::open().map_err(denied)?;
    let sockets = interfaces.open_missing(&config.interfaces).map_err(denied)?;
    let broken = |error: std::io::Error| Failure::new(false, format!("cannot start the ear: {error}"));
    let mut ear = Ear::start().map_err(broken)?;
    let numbers = interfaces.numbers(&config.interfaces, &sockets);
    ear.prepare(&plans.for_the_ear(numbers), &sockets).map_err(broken)?;
    let vouchers = plans.vouchers();
    let sequences = Sequences::new(plans.sequences);
    let events = EventLog::default();
    let exempt = interfaces.resolve(&config.nftables.exempt_interfaces);
    let policy = Rc::new(policy(&config, exempt, plans.signers, vouchers, plans.doors.doors.clone()));
    let grants = GrantManager::open(now(), policy, Nftables::default()).map_err(|error| match error {
        error if error.is_configuration() => Failure::Configuration(error.to_string()),
        error => Failure::new(error.is_permission(), error),
    })?;
    if !grants.ledger().is_empty() {
        log::info!("adopted {} live grants", grants.ledger().len());
    }
    // From here on the guarded ports are closed.
    if let Err(error) = ear.begin() {
        grants.abandon();
        return Err(broken(error));
    }
    interfaces.listen(&config.interfaces, sockets.into_iter().map(|new| new.listener).collect());
    let no_runner = |error: std::io::Error| format!("cannot start the runner, which runs the commands: {error}");
    let mut runner = match Runner::start_where_needed(&config) {
        Ok(runner) => runner,
        Err(error) => {
            grants.abandon();
            return Err(Failure::Other(no_runner(error)));
        }
    };
    let signed =
        plans.signed.map(|plan| SignedPackets::new(clock_reading(), plan, replay_place(&config, source.owners)));
    let notifier = Notifier::new(now());
    let setup_limit = setup_time(&config) + STARTUP_MARGIN;
    if setup_limit > STARTUP_MARGIN {
        notifier.starting(setup_limit);
    }
    let privileges = RequiredPrivileges::of(&config, runner.is_some());
    let dropped = privileges.drop_unneeded(&source.places_at_start(&config)).map_err(|error| error.to_string());
    // Before the setup commands, whose lines may be wanted at once, and with no more privileges than this thread has.
    let logs = || logging::write_from_now_on().map_err(|error| format!("cannot start the thread of the log: {error}"));
    let mut set_up = || runner.as_mut().map_or(Ok(()), |runner| runner.set_up(setup_limit).map_err(no_runner));
    if let Err(error) = dropped.and_then(|()| logs()).and_then(|()| set_up()) {
        grants.abandon();
        return Err(Failure::Other(error));
    }
    if in_force.file_problem.is_none() {
        put_in_place(copy);
        copies.forget_tried();
    }
    let mut daemon = Daemon {
        source: source.clone(),
        config,
        in_force,
        sequences,
        signed,
        fleet: None,
        cooldowns,
        arming: Arming::new(plans.doors),
        ear,
        interfaces,
        grants,
        runner,
        watching: Watching::default(),
        events,
        counters: Counters::default(),
        rule_counters: RuleCounters::default(),
        started: now(),
        stop,
        hand_over,
        control,
        reload,
        reloads,
        privileges,
        notifier,
    };
    daemon.observe_grants(now());
    let config = daemon.config.clone();
    daemon.apply_fleet(now(), &config, plans.fleet);
    Ok(daemon)
}

/// Opens the control socket, before anything that a daemon which runs already would notice. One that can't be made at its
/// default place is left out: everything else works, and another daemon, in another network namespace, may be there.
fn open_control(config: &Config) -> Result<Option<control::Server>, Failure> {
    match control::Socket::listen(&control::place(config)) {
        Ok(socket) => {
            let failed = |error| Failure::Other(format!("cannot serve the control socket: {error}"));
            control::Server::new(socket).map(Some).map_err(failed)
        }
        Err(error) if config.control_socket.is_none() && (error.is_permission() || error.is_in_use()) => {
            log::warn!("{error}; until then knockctl can't reach this daemon");
            Ok(None)
        }
        Err(error) => Err(Failure::new(error.is_permission(), error)),
    }
}
