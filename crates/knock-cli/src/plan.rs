//! Finds the knocks to send.

use std::path::{Path, PathBuf};

use knock_config::{Trigger, client, nearest};
use knock_proto::{Knock, Protocol};

use crate::args::Source;
use crate::error::Error;

/// The knocks of `source`; with `udp`, all of them by UDP.
pub(crate) fn knocks(source: Source, udp: bool) -> Result<Vec<Knock>, Error> {
    let mut knocks = match source {
        Source::Knocks(knocks) => knocks,
        Source::Rule { name, config } => {
            let file = config.map_or_else(default_config, Ok)?;
            of_rule(&file, &name)?
        }
    };
    if udp {
        knocks.iter_mut().for_each(|knock| knock.protocol = Protocol::Udp);
    }
    Ok(knocks)
}

/// `config.json` in the current directory, else in the directory of this program.
fn default_config() -> Result<PathBuf, Error> {
    let here = PathBuf::from("config.json");
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("config.json"));
    if here.exists() {
        return Ok(here);
    }
    match beside {
        Some(path) if path.exists() => Ok(path),
        beside => Err(Error::NoConfig { beside }),
    }
}

fn of_rule(file: &Path, name: &str) -> Result<Vec<Knock>, Error> {
    let rules = client::load(file)?;
    let Some(rule) = rules.iter().find(|rule| rule.name == name) else {
        let names = || rules.iter().map(|rule| rule.name.as_str());
        return Err(Error::UnknownRule {
            file: file.display().to_string(),
            name: name.to_owned(),
            suggestion: nearest(name, names()).map(str::to_owned),
            known: names().collect::<Vec<_>>().join(", "),
        });
    };
    match &rule.trigger {
        Trigger::Sequence(knocks) => Ok(knocks.clone()),
        Trigger::OneTime(path) => Err(Error::OneTime { name: name.to_owned(), path: path.clone() }),
    }
}
