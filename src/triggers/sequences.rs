//! From the configuration to what the engine follows.

use knock_config::{Config, Trigger};
use knock_proto::{Rule, Settings};

use crate::gate::guarded_ports;
use crate::os::trusted::Owners;
use crate::triggers::one_time::{OneTime, OneTimeError};

/// The one-time sequences of each rule that has such, from files of these owners.
///
/// # Errors
///
/// Where a file can't be used or trusted.
pub(crate) fn one_time_sequences(config: &Config, owners: Owners) -> Result<Vec<Option<OneTime>>, OneTimeError> {
    let load = |rule: &knock_config::Rule| {
        let Trigger::OneTime(path) = &rule.trigger else { return Ok(None) };
        let (one_time, warnings) = OneTime::load(path, owners)?;
        warnings.iter().for_each(|warning| log::warn!("rule {}: {warning}", rule.name));
        Ok(Some(one_time))
    };
    config.rules.iter().map(load).collect()
}

/// The rules for the engine; `one_time` has what [`one_time_sequences`] loaded.
pub(crate) fn engine_rules(config: &Config, one_time: &[Option<OneTime>]) -> Vec<Rule> {
    let rule = |(rule, one_time): (&knock_config::Rule, &Option<OneTime>)| {
        let sequence = match &rule.trigger {
            Trigger::Sequence(sequence) => sequence.clone(),
            Trigger::OneTime(_) => one_time.as_ref().and_then(OneTime::current).unwrap_or_default().to_vec(),
        };
        Rule { id: rule.name.clone(), sequence, timeout: rule.timeout, tcp_flags: rule.tcp_flags, target: rule.target }
    };
    config.rules.iter().zip(one_time).map(rule).collect()
}

/// What bounds the engine.
pub(crate) fn engine_settings(config: &Config) -> Settings {
    Settings { sources: config.limits.sources, tripwires: config.tripwires, guarded: guarded_ports(config) }
}
