//! The file with the rules: where it is, and what it says.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use knock_config::client::{self, ClientRule, ClientTrigger};
use knock_config::nearest;

use crate::error::Error;
use crate::host::{Host, is_same};

/// The rules of a file.
#[derive(Debug)]
pub(crate) struct Rules {
    path: PathBuf,
    rules: Vec<ClientRule>,
    /// What its user should know, a line for standard error.
    pub(crate) warning: Option<String>,
}

impl Rules {
    /// Reads the file of `-c`, else the first default file that exists.
    pub(crate) fn load(config: Option<&Path>) -> Result<Rules, Error> {
        Rules::load_if_any(config)?.ok_or_else(|| Error::NoConfig { places: places() })
    }

    /// The same; `None` where no file is named and no default file exists.
    pub(crate) fn load_if_any(config: Option<&Path>) -> Result<Option<Rules>, Error> {
        let Some(path) = config.map(Path::to_owned).or_else(find) else { return Ok(None) };
        let file = client::load(&path)?;
        let warning = file.readable.map(|mode| {
            let path = path.display();
            format!(
                "{path}: other users of this machine can read the secrets in it (mode {mode:04o}); run: chmod 600 {path}"
            )
        });
        Ok(Some(Rules { path, rules: file.rules, warning }))
    }

    /// In their order.
    pub(crate) fn all(&self) -> &[ClientRule] {
        &self.rules
    }

    /// The rule of that name.
    pub(crate) fn named(&self, name: &str) -> Result<&ClientRule, Error> {
        self.rules.iter().find(|rule| rule.name == name).ok_or_else(|| self.unknown(name, false))
    }

    /// The rule of that name, else the first with that host.
    pub(crate) fn named_or_with_host(&self, word: &str, host: &str) -> Result<&ClientRule, Error> {
        let named = self.rules.iter().find(|rule| rule.name == word);
        named.or_else(|| self.with_host(host, None)).ok_or_else(|| self.unknown(word, true))
    }

    /// The rule with that host: that which opens `port`, else the first.
    pub(crate) fn with_host(&self, host: &str, port: Option<u16>) -> Option<&ClientRule> {
        let with_host = || self.rules.iter().filter(|rule| rule.hosts.iter().any(|name| is_same(name, host)));
        with_host().find(|rule| port.is_some() && rule.wait == port).or_else(|| with_host().next())
    }

    /// The first rule with a signed packet that has all these hosts.
    pub(crate) fn with_packets_for(&self, hosts: &[Host]) -> Option<&ClientRule> {
        let has = |rule: &ClientRule, host: &Host| rule.hosts.iter().any(|name| is_same(name, &host.name));
        let packets = self.rules.iter().filter(|rule| matches!(rule.trigger, ClientTrigger::Packet(_)));
        packets.into_iter().find(|rule| !hosts.is_empty() && hosts.iter().all(|host| has(rule, host)))
    }

    /// The path of the file, for messages.
    pub(crate) fn file(&self) -> String {
        self.path.display().to_string()
    }

    fn unknown(&self, name: &str, or_host: bool) -> Error {
        let names = || self.rules.iter().map(|rule| rule.name.as_str());
        let hosts = || self.rules.iter().flat_map(|rule| &rule.hosts).map(String::as_str).filter(|_| or_host);
        Error::UnknownRule {
            file: self.file(),
            name: name.to_owned(),
            or_host,
            suggestion: nearest(name, names().chain(hosts())).map(str::to_owned),
            known: names().collect::<Vec<_>>().join(", "),
        }
    }
}

/// The first default file that exists.
fn find() -> Option<PathBuf> {
    // A file that is named, in whatever way, must be there.
    named_by_environment().or_else(|| places().into_iter().find(|path| path.exists()))
}

fn named_by_environment() -> Option<PathBuf> {
    env::var_os("KNOCK_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The default files, in the order in which they are looked for.
fn places() -> Vec<PathBuf> {
    let beside = env::current_exe().ok().map(|program| program.with_file_name("config.json"));
    own().into_iter().chain([PathBuf::from("config.json")]).chain(beside).collect()
}

/// The file of `knock-cli add`: the user's.
pub(crate) fn to_write(config: Option<&Path>) -> Result<PathBuf, Error> {
    config.map(Path::to_owned).or_else(named_by_environment).or_else(own).ok_or(Error::NoHome)
}

/// The user's own file. `%APPDATA%` is Windows'; macOS has `~/.config` too.
fn own() -> Option<PathBuf> {
    let directory = |name: &str| env::var_os(name).filter(|path| Path::new(path).is_absolute()).map(PathBuf::from);
    let base = if cfg!(windows) {
        directory("APPDATA")
    } else {
        // The XDG Base Directory Specification: a relative path is to be ignored.
        directory("XDG_CONFIG_HOME").or_else(|| directory("HOME").map(|home| home.join(OsStr::new(".config"))))
    };
    base.map(|base| base.join("knock").join("config.json"))
}
