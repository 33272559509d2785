//! From the command line to a daemon that runs, and the exit status where it does not.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use clap::Parser;
use knock_config::{ConfigError, Interfaces, Loaded};
use knock_proto::Engine;

use crate::args::Args;
use crate::clock::now;
use crate::daemon::{Counters, Daemon};
use crate::events::EventLog;
use crate::gate::Gate;
use crate::logging;
use crate::rules::{engine_rules, engine_settings};
use crate::signals::Signal;
use crate::wire::Wire;

/// The configuration is not valid: `EX_CONFIG` of sysexits.h(3head).
const EXIT_CONFIGURATION: u8 = 78;
/// Not permitted: `EX_NOPERM`.
const EXIT_NOT_PERMITTED: u8 = 77;
/// Anything else.
const EXIT_OTHER: u8 = 1;

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

/// Where the configuration comes from: the file, and what the command line says instead.
#[derive(Debug)]
pub(crate) struct ConfigSource {
    pub(crate) file: PathBuf,
    interfaces: Option<Interfaces>,
}

impl ConfigSource {
    pub(crate) fn load(&self) -> Result<Loaded, ConfigError> {
        let mut loaded = knock_config::load(&self.file)?;
        if let Some(interfaces) = &self.interfaces {
            loaded.config.interfaces = interfaces.clone();
        }
        Ok(loaded)
    }
}

/// The program `knockd`.
pub fn knockd_main() -> ExitCode {
    let args = Args::parse();
    let failure = match run(&args) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let (status, text) = match failure {
        Failure::Configuration(text) => (EXIT_CONFIGURATION, text),
        Failure::NotPermitted(text) => (EXIT_NOT_PERMITTED, text),
        Failure::Other(text) => (EXIT_OTHER, text),
    };
    for line in text.lines() {
        log::error!("{line}");
    }
    ExitCode::from(status)
}

fn run(args: &Args) -> Result<(), Failure> {
    // What is wrong with the configuration is said before the configuration can say where.
    let early_level = args.log_level().unwrap_or(log::LevelFilter::Info);
    let source = ConfigSource { file: args.config.clone(), interfaces: interfaces(args) };
    let loaded = source.load();
    let (target, level) = match &loaded {
        Ok(loaded) => (loaded.config.log.target, args.log_level().unwrap_or(loaded.config.log.level)),
        Err(_) => (None, early_level),
    };
    let target = args.log_target().or(target);
    let checking_or_broken = args.check || loaded.is_err() && args.log.is_none();
    let target = if checking_or_broken && args.check { Some(knock_config::LogTarget::Stderr) } else { target };
    logging::start(target, level).map_err(|error| {
        eprintln!("error: {error}");
        Failure::Other(String::new())
    })?;
    let loaded = loaded.map_err(|error| Failure::Configuration(error.to_string()))?;
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    if args.check {
        println!("{}: valid, {} rules", args.config.display(), loaded.config.rules.len());
        return Ok(());
    }
    let mut daemon = start(source, loaded)?;
    let result = daemon.run();
    let closed = daemon.shut_down();
    result.map_err(|error| Failure::Other(format!("cannot wait for events: {error}")))?;
    closed.map_err(|error| Failure::new(false, error))
}

fn interfaces(args: &Args) -> Option<Interfaces> {
    match args.interface.as_slice() {
        [] => None,
        names if names.iter().any(|name| name == "any") => Some(Interfaces::Any),
        names => {
            let mut names = names.to_vec();
            names.sort();
            names.dedup();
            Some(Interfaces::Named(names))
        }
    }
}

/// Brings everything up, in the order in which it can be taken down again.
fn start(source: ConfigSource, loaded: Loaded) -> Result<Daemon, Failure> {
    let other = |error: std::io::Error| Failure::new(false, format!("cannot handle signals: {error}"));
    let (stop, reload) = (Signal::stop().map_err(other)?, Signal::reload().map_err(other)?);
    let config = Rc::new(loaded.config);
    let engine = Engine::new(engine_rules(&config, |_| Vec::new()), &engine_settings(&config));
    let wire = Wire::open(&config.interfaces, &engine.watches())
        .map_err(|error| Failure::new(error.is_permission(), error))?;
    let gate = Gate::open(config.clone(), now()).map_err(|error| match error {
        knock_nft::Error::UnusableSet { .. } => Failure::Configuration(error.to_string()),
        error => Failure::new(error.is_permission(), error),
    })?;
    Ok(Daemon {
        source,
        config,
        engine,
        wire,
        gate,
        events: EventLog::default(),
        counters: Counters::default(),
        started: now(),
        stop,
        reload,
    })
}
