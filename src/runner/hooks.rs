//! The rules' `setup` and `teardown` commands.

use std::collections::HashSet;
use std::time::Duration;

use super::message::{Plan, Rule};
use crate::commands::Commands;

/// A command that runs for a rule, not for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    rule: String,
    /// `setup` or `teardown`.
    what: &'static str,
    line: String,
    timeout: Duration,
}

fn setup(rule: &Rule) -> Option<Hook> {
    let line = rule.setup.clone()?;
    Some(Hook { rule: rule.name.to_string(), what: "setup", line, timeout: rule.timeout })
}

fn teardown(rule: &Rule) -> Option<Hook> {
    let line = rule.teardown.clone()?;
    Some(Hook { rule: rule.name.to_string(), what: "teardown", line, timeout: rule.timeout })
}

/// What runs at start, in the order of the rules.
pub(crate) fn setups(plan: &Plan) -> Vec<Hook> {
    plan.rules.iter().filter_map(setup).collect()
}

/// What runs at stop: what was set up last is torn down first.
pub(crate) fn teardowns(plan: &Plan) -> Vec<Hook> {
    plan.rules.iter().rev().filter_map(teardown).collect()
}

/// What runs at a reload: the teardown of rules that are gone, then the setup of new ones. A rule whose two commands
/// are the same as before is left alone.
pub(crate) fn changes(old: &Plan, new: &Plan) -> Vec<Hook> {
    fn commands(rule: &Rule) -> (&str, Option<&str>, Option<&str>) {
        (&rule.name, rule.setup.as_deref(), rule.teardown.as_deref())
    }
    let [before, after] = [old, new].map(|plan| plan.rules.iter().map(commands).collect::<HashSet<_>>());
    let gone = old.rules.iter().rev().filter(|rule| !after.contains(&commands(rule)));
    let come = new.rules.iter().filter(|rule| !before.contains(&commands(rule)));
    gone.filter_map(teardown).chain(come.filter_map(setup)).collect()
}

/// Runs them one after the other. One that fails is logged, and the others still run.
pub(crate) fn run(commands: &Commands, hooks: &[Hook]) {
    for hook in hooks {
        commands.run_now(&hook.rule, hook.what, &hook.line, hook.timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rules: &[(&str, &str)]) -> Plan {
        let rule = |(name, setup): &(&str, &str)| Rule {
            name: (*name).into(),
            command: None,
            stop: None,
            timeout: Duration::from_secs(10),
            setup: Some((*setup).to_owned()),
            teardown: Some(format!("undo {setup}")),
        };
        Plan {
            rules: rules.iter().map(rule).collect(),
            workers: 1,
            queue: 1,
            state_dir: "/nonexistent".into(),
            log_target: knock_config::LogTarget::Stderr,
            log_level: log::LevelFilter::Info,
        }
    }

    fn lines(hooks: &[Hook]) -> Vec<&str> {
        hooks.iter().map(|hook| hook.line.as_str()).collect()
    }

    #[test]
    fn what_was_set_up_last_is_torn_down_first() {
        let plan = plan(&[("a", "one"), ("b", "two")]);
        assert_eq!(lines(&setups(&plan)), ["one", "two"]);
        assert_eq!(lines(&teardowns(&plan)), ["undo two", "undo one"]);
    }

    #[test]
    fn a_reload_runs_what_changed() {
        let old = plan(&[("a", "one"), ("b", "two"), ("c", "three")]);
        let new = plan(&[("c", "three"), ("b", "zwei"), ("d", "four")]);
        assert_eq!(lines(&changes(&old, &new)), ["undo two", "undo one", "zwei", "four"]);
        assert_eq!(changes(&old, &old), []);
    }
}
