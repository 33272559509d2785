//! Where the configuration comes from, and the state directory that it names.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use knock_config::{Config, ConfigError, Interfaces, Loaded, Trigger};
use knock_proto::Time;

use crate::commands::stop_schedule::{StopSchedule, boot_id};
use crate::control;
use crate::daemon::config_copies::{ConfigCopies, Copy};
use crate::os::clock::now;
use crate::os::privileges::{GivenUp, Places};
use crate::os::trusted::{Owners, Untrusted};
use crate::triggers::signed_packets::ReplayPlace;

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
pub(crate) enum Unusable {
    /// Others can change it, or it is no file.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// It cannot be read, or is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It was tried, and not confirmed.
    #[error(
        "{}: this configuration was tried and not confirmed; try it again with: knockctl try {}, or put it in force with: \
         knockctl reload", .0.display(), .0.display()
    )]
    Unconfirmed(PathBuf),
    /// It has the daemon write where it no longer can.
    #[error(transparent)]
    GivenUp(#[from] GivenUp),
}

impl ConfigSource {
    /// The configuration in its file.
    ///
    /// # Errors
    ///
    /// Where it is not valid, or others can change it.
    pub(crate) fn load(&self) -> Result<Loaded, Unusable> {
        self.load_file(&self.file)
    }

    /// The configuration in another file, which is held to the same rules.
    ///
    /// # Errors
    ///
    /// Where it is not valid, or others can change it.
    pub(crate) fn load_file(&self, path: &Path) -> Result<Loaded, Unusable> {
        let file = self.owners.open(path, false).map_err(|untrusted| match untrusted {
            Untrusted::Io(error) => ConfigError::Read { path: path.to_owned(), error }.into(),
            untrusted => Unusable::Untrusted(untrusted),
        })?;
        self.complete(knock_config::load_open(path, file)?)
    }

    /// The configuration in a text that was in force before. Messages call it `name`.
    ///
    /// # Errors
    ///
    /// Where it is not valid any more.
    pub(crate) fn load_text(&self, name: &Path, text: &str) -> Result<Loaded, Unusable> {
        self.complete(knock_config::parse(&name.display().to_string(), text)?)
    }

    /// Puts in what the command line says.
    fn complete(&self, mut loaded: Loaded) -> Result<Loaded, Unusable> {
        if let Some(interfaces) = &self.interfaces {
            loaded.config.interfaces = interfaces.clone();
        }
        self.judge_state(&loaded.config)?;
        self.places(&loaded.config).check()?;
        Ok(loaded)
    }

    /// As [`ConfigSource::load`], where the daemon starts: a configuration that was tried and not confirmed is refused,
    /// where there is one to start with instead.
    ///
    /// # Errors
    ///
    /// Where it is not valid, not confirmed, or others can change it.
    pub(crate) fn load_at_start(&self) -> Result<Loaded, Unusable> {
        let loaded = self.load()?;
        let copies = self.copies(&loaded.config);
        // A copy that can't be trusted says nothing.
        let read = |copy| copies.read(copy, self.owners).ok().flatten();
        if read(Copy::Tried).is_some_and(|tried| tried == loaded.text)
            && read(Copy::LastValid).is_some_and(|last| last != loaded.text)
        {
            return Err(Unusable::Unconfirmed(self.file.clone()));
        }
        Ok(loaded)
    }

    /// The last valid configuration and the file that it is in, where there is one.
    ///
    /// # Errors
    ///
    /// Where it is not valid for this version, or others can change it.
    pub(crate) fn last_valid(&self) -> Result<Option<(PathBuf, Loaded)>, Unusable> {
        let text = self.owners.open(&self.file, false).ok().and_then(|file| {
            let mut text = String::new();
            file.take(knock_config::FILE_MAX as u64).read_to_string(&mut text).ok()?;
            Some(text)
        });
        let named = text.as_deref().and_then(knock_config::state_dir_of_invalid);
        for directory in [named, Some(default_state_directory())].into_iter().flatten() {
            let copies = ConfigCopies::new(directory, &self.file);
            if let Some(text) = copies.read(Copy::LastValid, self.owners)? {
                let path = copies.path(Copy::LastValid);
                return self.load_text(&path, &text).map(|loaded| Some((path, loaded)));
            }
        }
        Ok(None)
    }

    /// The copies of configurations in the state directory of that one.
    pub(crate) fn copies(&self, config: &Config) -> ConfigCopies {
        ConfigCopies::new(state_directory(config), &self.file)
    }

    /// What the daemon that starts with this configuration goes on writing to.
    pub(crate) fn places_at_start(&self, config: &Config) -> Places {
        match config.rules.is_empty() {
            // The first rules may be of any kind.
            true => Places { directories: vec![PathBuf::from("/")], files: Vec::new() },
            false => self.places(config),
        }
    }

    /// What the daemon writes to with this configuration.
    fn places(&self, config: &Config) -> Places {
        let sockets = control::place(config).parent().map(Path::to_owned);
        let files = config.rules.iter().filter_map(|rule| match &rule.trigger {
            Some(Trigger::OneTime(file)) => Some(file.clone()),
            _ => None,
        });
        Places { directories: sockets.into_iter().chain([state_directory(config)]).collect(), files: files.collect() }
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

/// Whether stop commands may be pending from an earlier run: there is a schedule.
pub(super) fn has_pending_stops(config: &Config) -> bool {
    StopSchedule::is_in(&state_directory(config))
}

/// Where the accepted packets are remembered.
pub(crate) fn replay_place(config: &Config, owners: Owners) -> ReplayPlace {
    ReplayPlace { directory: state_directory(config).join("replays"), owners, boot: boot_bytes(&boot_id()) }
}

/// The 16 bytes of the id of this boot. Where there is none, one that no other daemon has.
fn boot_bytes(id: &str) -> [u8; 16] {
    let digits = id.replace('-', "");
    u128::from_str_radix(&digits, 16).unwrap_or_else(|_| now().since(Time::default()).as_nanos()).to_be_bytes()
}

/// Whether a rule has a stop command, or some may be pending from an earlier run.
fn uses_stops(config: &Config, state_directory: &Path) -> bool {
    config.rules.iter().any(|rule| rule.stop.is_some()) || StopSchedule::is_in(state_directory)
}

/// Where what must outlive the daemon is kept.
pub(super) fn state_directory(config: &Config) -> PathBuf {
    config.state_dir.clone().unwrap_or_else(default_state_directory)
}

/// The state directory of a configuration that names none.
fn default_state_directory() -> PathBuf {
    from_service_manager().unwrap_or_else(|| PathBuf::from("/var/lib/knockd"))
}

/// The state directory that the service manager made: the first of several (systemd.exec(5), `StateDirectory=`).
fn from_service_manager() -> Option<PathBuf> {
    std::env::var("STATE_DIRECTORY").ok()?.split(':').next().map(PathBuf::from)
}

/// Whether the state directory is one that the daemon may make: its user has named it.
pub(crate) fn is_state_directory_named(config: &Config) -> bool {
    config.state_dir.is_some() || from_service_manager().is_some()
}
