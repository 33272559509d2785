//! From the configuration to what the engine follows.

use knock_config::{Config, Trigger};
use knock_proto::{Actions, Knock, Rule, Settings};

use crate::gate::guarded_ports;

/// The rules for the engine, with the same numbers; `one_time` gives the sequence that is next for a rule with a file
/// of them.
pub(crate) fn engine_rules(config: &Config, one_time: impl Fn(usize) -> Vec<Knock>) -> Vec<Rule> {
    let rule = |(index, rule): (usize, &knock_config::Rule)| {
        let (sequence, spend) = match &rule.trigger {
            Trigger::Sequence(sequence) => (sequence.clone(), false),
            Trigger::OneTime(_) => (one_time(index), true),
        };
        Rule {
            sequence,
            timeout: rule.timeout,
            tcp_flags: rule.tcp_flags,
            target: rule.target,
            actions: Actions { spend, revoke: rule.revoke, grant: rule.allow.is_some(), run: rule.command.is_some() },
        }
    };
    config.rules.iter().enumerate().map(rule).collect()
}

/// What bounds the engine.
pub(crate) fn engine_settings(config: &Config) -> Settings {
    Settings { sources: config.limits.sources, tripwires: config.tripwires, guarded: guarded_ports(config) }
}
