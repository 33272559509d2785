//! Sequences of knocks, one-time sequences among them.

use std::collections::HashMap;

use knock_config::{Config, Trigger};
use knock_proto::{Completion, Counters, Engine, Knock, Packet, Port, Rule, RuleId, Settings, Time, Tracer, Watch};

use crate::os::trusted::Owners;
use crate::triggers::one_time::{ConsumeError, OneTime, OneTimeError, Warning};

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

    /// The packets that the packet source has to deliver.
    pub(crate) fn watches(&self) -> Vec<Watch> {
        Engine::new(self.rules.clone(), &self.settings).watches()
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

/// Follows the knocks of all sources.
pub(crate) struct Sequences {
    engine: Engine,
    rules: Vec<Rule>,
    settings: Settings,
    one_time: HashMap<RuleId, OneTime>,
}

impl Sequences {
    pub(crate) fn new(plan: SequencePlan) -> Sequences {
        let SequencePlan { rules, settings, one_time } = plan;
        Sequences { engine: Engine::new(rules.clone(), &settings), rules, settings, one_time }
    }

    /// Changes to other rules. Progress is kept for rules that do not change.
    pub(crate) fn apply(&mut self, now: Time, plan: SequencePlan) {
        (self.rules, self.settings, self.one_time) = (plan.rules, plan.settings, plan.one_time);
        self.engine.reconfigure(now, self.rules.clone(), &self.settings);
    }

    /// The packets that the packet source has to deliver.
    pub(crate) fn watches(&self) -> Vec<Watch> {
        self.engine.watches()
    }

    /// Looks at a packet; `local`: whether its destination is an address of this host. Each rule that it completes is
    /// appended to `completions`.
    ///
    /// Returns how far the source is, as [`Engine::handle`].
    pub(crate) fn handle(&mut self, now: Time, packet: &Packet, local: bool, completions: &mut Vec<Completion>) -> u8 {
        self.engine.handle(now, packet, local, completions)
    }

    /// Whether that is a knock port or a tripwire.
    pub(crate) fn concerns(&self, knock: Knock) -> bool {
        self.engine.concerns(knock)
    }

    /// A tracer that says what packets mean for these rules.
    pub(crate) fn tracer(&self, sources: usize) -> Tracer {
        Tracer::new(self.rules.clone(), &self.settings, sources)
    }

    /// The packets that a look at clients' mistakes needs too.
    pub(crate) fn watches_of_mistakes(&self) -> Vec<Watch> {
        self.engine.watches_of_mistakes(&self.settings.guarded)
    }

    /// Whether that is a port that only a grant opens.
    pub(crate) fn is_guarded(&self, port: Port) -> bool {
        self.settings.guarded.iter().any(|range| range.contains(port))
    }

    /// Notes durably that the rule's one-time sequence is used. Only where that was done may the rule open anything.
    /// Returns what the operator should know; `None`: the rule has no one-time sequences. [`Sequences::follow_next`] is to
    /// be called after it.
    ///
    /// # Errors
    ///
    /// Where its use can't be marked in the file.
    pub(crate) fn consume(&mut self, rule: &RuleId) -> Option<Result<Vec<Warning>, ConsumeError>> {
        let one_time = self.one_time.get_mut(rule)?;
        let result = one_time.consume();
        if let Some(rule) = self.rules.iter_mut().find(|other| other.id == *rule) {
            rule.sequence = one_time.current().unwrap_or_default().to_vec();
        }
        Some(result)
    }

    /// Follows the one-time sequences that are next.
    pub(crate) fn follow_next(&mut self, now: Time) {
        self.engine.reconfigure(now, self.rules.clone(), &self.settings);
    }

    /// Forgets what is too old.
    pub(crate) fn tick(&mut self, now: Time) {
        if self.next_deadline().is_some_and(|due| due <= now) {
            self.engine.forget_silent(now);
        }
    }

    /// When [`Sequences::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.engine.next_silent()
    }

    /// The sources that are remembered.
    pub(crate) fn sources(&self) -> usize {
        self.engine.sources()
    }

    /// The counters so far.
    pub(crate) fn counters(&self) -> Counters {
        self.engine.counters()
    }
}
