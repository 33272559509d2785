//! Where the configuration comes from, and the state directory that it names.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knock_config::{Config, ConfigError, Interfaces, Loaded};

use crate::commands::stop_schedule::{StopSchedule, boot_id};
use crate::logging::events::EventLog;
use crate::os::clock::clock_reading;
use crate::os::trusted::{Owners, Untrusted};

/// Where the configuration comes from: the file, and what the command line says instead.
#[derive(Clone, Debug)]
pub(crate) struct ConfigSource {
    pub(crate) file: PathBuf,
    pub(crate) interfaces: Option<Interfaces>,
    pub(crate) log_level: Option<log::LevelFilter>,
    /// Those whose file it may be, and that of what it names.
    pub(crate) owners: Owners,
}

/// The reason why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum Unusable {
    /// Others can change it, or it is no file.
    Untrusted(#[from] Untrusted),
    /// It cannot be read, or is not valid.
    Config(#[from] ConfigError),
}

impl ConfigSource {
    pub(crate) fn load(&self) -> Result<Loaded, Unusable> {
        let file = self.owners.open(&self.file, false).map_err(|untrusted| match untrusted {
            Untrusted::Io(error) => ConfigError::Read { path: self.file.clone(), error }.into(),
            untrusted => Unusable::Untrusted(untrusted),
        })?;
        let mut loaded = knock_config::load_open(&self.file, file)?;
        if let Some(interfaces) = &self.interfaces {
            loaded.config.interfaces = interfaces.clone();
        }
        self.judge_state(&loaded.config)?;
        Ok(loaded)
    }

    /// Checks the state directory and its files, where the daemon would use them: their commands are run. Where they are
    /// not there or cannot be looked at, there is nothing to trust.
    fn judge_state(&self, config: &Config) -> Result<(), Untrusted> {
        let directory = state_directory(config);
        if !uses_stops(config, &directory) {
            return Ok(());
        }
        let names = fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let schedules = names.filter(|name| name.as_encoded_bytes().starts_with(b"stops"));
        let schedules = schedules.map(|name| self.owners.open_own(&directory.join(name)));
        std::iter::once(self.owners.open_directory(&directory)).chain(schedules).try_for_each(|judged| match judged {
            Ok(_) | Err(Untrusted::Io(_)) => Ok(()),
            Err(untrusted) => Err(untrusted),
        })
    }
}

/// Opens the schedule of stop commands, where a rule has one or some are pending from an earlier run.
pub(crate) fn open_stops(config: &Config, events: &EventLog) -> Option<Arc<StopSchedule>> {
    let directory = state_directory(config);
    if !uses_stops(config, &directory) {
        return None;
    }
    let (stops, problems) = StopSchedule::open(&directory, clock_reading(), &boot_id(), events.clone());
    for problem in problems {
        log::error!("{problem}");
    }
    let pending = stops.pending_count();
    if pending > 0 {
        log::info!("{pending} stop commands are pending from an earlier run");
    }
    (has_stop_command(config) || pending > 0).then_some(stops)
}

/// Whether a rule has a stop command, or some may be pending from an earlier run.
fn uses_stops(config: &Config, state_directory: &Path) -> bool {
    has_stop_command(config) || StopSchedule::is_in(state_directory)
}

/// Whether a rule has a stop command.
pub(crate) fn has_stop_command(config: &Config) -> bool {
    config.rules.iter().any(|rule| rule.stop.is_some())
}

/// Where what must outlive the daemon is kept.
fn state_directory(config: &Config) -> PathBuf {
    // systemd separates several by colons (systemd.exec(5), StateDirectory=); the first is ours.
    let from_systemd = || std::env::var("STATE_DIRECTORY").ok()?.split(':').next().map(PathBuf::from);
    let configured = config.state_dir.clone();
    configured.or_else(from_systemd).unwrap_or_else(|| PathBuf::from("/var/lib/knockd"))
}
