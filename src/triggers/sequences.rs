//! From the configuration to what the engine follows.

use std::collections::HashMap;

use knock_config::{Config, Trigger};
use knock_proto::{Rule, RuleId};

use crate::os::trusted::Owners;
use crate::triggers::one_time::{OneTime, OneTimeError};

/// The one-time sequences of the rules that have them.
pub(crate) type OneTimes = HashMap<RuleId, OneTime>;

/// The one-time sequences of each rule that has such, from files of these owners.
///
/// # Errors
///
/// Where a file can't be used or trusted.
pub(crate) fn one_time_sequences(config: &Config, owners: Owners) -> Result<OneTimes, OneTimeError> {
    let mut all = OneTimes::new();
    for rule in &config.rules {
        if let Trigger::OneTime(path) = &rule.trigger {
            let (one_time, warnings) = OneTime::load(path, owners)?;
            warnings.iter().for_each(|warning| log::warn!("rule {}: {warning}", rule.name));
            all.insert(rule.name.clone(), one_time);
        }
    }
    Ok(all)
}

/// The rules for the engine; `one_time` has what [`one_time_sequences`] loaded.
pub(crate) fn engine_rules(config: &Config, one_time: &OneTimes) -> Vec<Rule> {
    let rule = |rule: &knock_config::Rule| {
        let sequence = match &rule.trigger {
            Trigger::Sequence(sequence) => sequence.clone(),
            Trigger::OneTime(_) => one_time.get(&rule.name).and_then(OneTime::current).unwrap_or_default().to_vec(),
        };
        Rule { id: rule.name.clone(), sequence, timeout: rule.timeout, tcp_flags: rule.tcp_flags, target: rule.target }
    };
    config.rules.iter().map(rule).collect()
}
