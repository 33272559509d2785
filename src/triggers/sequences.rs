//! Sequences of knocks, one-time sequences among them.

use std::collections::HashMap;

use knock_config::{Config, Trigger};
use knock_proto::{Engine, Knock, Port, PortRange, Rule, RuleId, Settings};

use crate::ear::plan::{Plan, RuleKey, key};
use crate::os::trusted::Owners;
use crate::triggers::one_time::{ConsumeError, OneTime, OneTimeError, Warning};
use crate::triggers::signed_packets::plan::SignedPlan;

/// The data that sequences need from the configuration and from the files that it names.
pub(crate) struct SequencePlan {
    rules: Vec<Rule>,
    settings: Settings,
    one_time: HashMap<RuleId, OneTime>,
}

impl SequencePlan {
    /// Reads the files of one-time sequences, which must be of these owners. `settings` are for the engine.
    ///
    /// # Errors
    ///
    /// Where a file can't be used or trusted.
    pub(crate) fn load(config: &Config, settings: Settings, owners: Owners) -> Result<SequencePlan, OneTimeError> {
        let mut one_time = HashMap::new();
        for rule in &config.rules {
            if let Some(Trigger::OneTime(path)) = &rule.trigger {
                let (sequences, warnings) = OneTime::load(path, owners)?;
                warnings.iter().for_each(|warning| log::warn!("rule {}: {warning}", rule.name));
                one_time.insert(rule.name.clone(), sequences);
            }
        }
        let rules = config.rules.iter().filter_map(|rule| engine_rule(rule, one_time.get(&rule.name))).collect();
        Ok(SequencePlan { rules, settings, one_time })
    }

    /// For the ear: what to listen for, and the rules of which it says that a source lacks the last knock.
    pub(crate) fn for_the_ear(&self, signed: Option<&SignedPlan>, doors: &[RuleId], sockets: Vec<u32>) -> Plan {
        Plan::new(&self.rules, &self.settings, signed.map(SignedPlan::for_the_ear), doors, sockets)
    }

    /// An engine as the ear has it, which nobody knocks at.
    pub(crate) fn engine(&self) -> Engine {
        Engine::new(self.rules.clone(), &Settings { sources: 1, ..self.settings.clone() })
    }

    /// Whether there are one-time sequences.
    pub(crate) fn has_one_time(&self) -> bool {
        !self.one_time.is_empty()
    }
}

/// `None`: no knocks trigger the rule.
fn engine_rule(rule: &knock_config::Rule, one_time: Option<&OneTime>) -> Option<Rule> {
    let sequence = match rule.trigger.as_ref()? {
        Trigger::Sequence(sequence) => sequence.clone(),
        Trigger::OneTime(_) => one_time.and_then(OneTime::current).unwrap_or_default().to_vec(),
    };
    Some(Rule {
        id: rule.name.clone(),
        sequence,
        timeout: rule.timeout,
        tcp_flags: rule.tcp_flags,
        targets: rule.targets.clone(),
    })
}

/// The rules whose sequences the ear follows.
pub(crate) struct Sequences {
    /// By the keys that the ear names them by.
    rules: HashMap<RuleKey, RuleId>,
    one_time: HashMap<RuleId, Current>,
    guarded: Vec<PortRange>,
}

/// A rule with its sequence that is next, and the ones after it.
struct Current {
    rule: Rule,
    sequences: OneTime,
}

/// A rule has another sequence.
pub(crate) struct Next {
    pub(crate) used: RuleKey,
    pub(crate) next: RuleKey,
    pub(crate) sequence: Vec<Knock>,
}

impl Sequences {
    pub(crate) fn new(plan: SequencePlan) -> Sequences {
        let SequencePlan { rules, settings, mut one_time } = plan;
        let keys = rules.iter().map(|rule| (key(rule), rule.id.clone())).collect();
        let current = |rule: Rule| {
            let sequences = one_time.remove(&rule.id)?;
            Some((rule.id.clone(), Current { rule, sequences }))
        };
        Sequences { rules: keys, one_time: rules.into_iter().filter_map(current).collect(), guarded: settings.guarded }
    }

    /// The rule that has that key; `None`: none has, or it has another sequence by now.
    pub(crate) fn rule(&self, key: RuleKey) -> Option<&RuleId> {
        self.rules.get(&key)
    }

    /// Whether that is a port that only a grant opens.
    pub(crate) fn is_guarded(&self, port: Port) -> bool {
        self.guarded.iter().any(|range| range.contains(port))
    }

    /// Notes durably that the rule's one-time sequence is used, and changes to the next, which the ear is to learn. Only where
    /// it was noted may the rule open anything. Returns what the operator should know; `None`: the rule has no one-time
    /// sequences.
    ///
    /// # Errors
    ///
    /// Where its use can't be marked in the file.
    pub(crate) fn consume(&mut self, rule: &RuleId) -> Option<(Result<Vec<Warning>, ConsumeError>, Next)> {
        let Current { rule, sequences } = self.one_time.get_mut(rule)?;
        let used = key(rule);
        let result = sequences.consume();
        rule.sequence = sequences.current().unwrap_or_default().to_vec();
        let next = key(rule);
        self.rules.remove(&used);
        self.rules.insert(next, rule.id.clone());
        Some((result, Next { used, next, sequence: rule.sequence.clone() }))
    }
}
