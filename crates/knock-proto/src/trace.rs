//! Why a knock does nothing: what each packet of a source meant for the rules, step by step.
//!
//! The engine itself keeps no reasons, which would cost something with each packet. A [`Tracer`] follows the same packets
//! with an engine of its own, and only while somebody looks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::{Engine, Knock, Packet, Rule, RuleId, Settings, Time};

/// What a packet meant for one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When the packet came.
    pub at: Time,
    /// Its source.
    pub source: IpAddr,
    /// The rule.
    pub rule: RuleId,
    /// How many knocks of the rule's sequence the source had knocked: after the packet, or before it where
    /// [`Meaning::Reset`] says that they count no more.
    pub knocked: usize,
    /// How many knocks the sequence has.
    pub of: usize,
    /// What the packet meant.
    pub meaning: Meaning,
}

/// What a packet meant for a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It was the next knock of the sequence.
    Knock,
    /// It was the last knock: the rule is completed.
    Completed,
    /// What the source had knocked counts no more.
    Reset(Reset),
    /// It changed nothing.
    Ignored(NotCounted),
}

/// Why what a source had knocked counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// It touched the neighbour of a knock port.
    Tripwire,
    /// The port is one of the sequence, but not the next.
    WrongOrder,
    /// The port is one of another rule only.
    OtherRule,
    /// The time for the sequence was over.
    TooSlow {
        /// The time since the first knock.
        took: Duration,
        /// The time for the sequence.
        timeout: Duration,
    },
}

/// Why a packet changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotCounted {
    /// It is a packet that came before, sent again.
    Retransmission,
    /// It is the same knock once more.
    Repeated,
    /// The port is the next one of the sequence, but by the other transport protocol.
    WrongProtocol,
    /// Its destination is not an address that the rule has.
    OtherDestination,
}

/// Follows packets as the engine does, and says what each of them meant.
#[derive(Debug)]
pub struct Tracer {
    engine: Engine,
    rules: HashMap<RuleId, Rule>,
    /// The time of the last packet of each source.
    newest: HashMap<IpAddr, Time>,
    sources: usize,
}

impl Tracer {
    /// A tracer for these rules, which remembers at most `sources` sources.
    pub fn new(rules: Vec<Rule>, settings: &Settings, sources: usize) -> Tracer {
        let settings = Settings { sources, ..settings.clone() };
        let engine = Engine::new(rules.clone(), &settings);
        let rules = rules.into_iter().map(|rule| (rule.id.clone(), rule)).collect();
        Tracer { engine, rules, newest: HashMap::new(), sources }
    }

    /// What the packet means for each rule, sorted by rule; `local` as for [`Engine::handle`].
    pub fn handle(&mut self, now: Time, packet: &Packet, local: bool) -> Vec<Step> {
        let source = packet.source;
        if self.newest.len() >= self.sources && !self.newest.contains_key(&source) {
            self.newest.clear();
        }
        let previous = self.newest.insert(source, now).unwrap_or(now);
        let before = self.engine.stages(previous, source);
        let counters = self.engine.counters();
        let mut completions = Vec::new();
        self.engine.handle(now, packet, local, &mut completions);
        let after = self.engine.stages(now, source);
        let now_counters = self.engine.counters();

        let completed = |rule: &RuleId| completions.iter().any(|completion| completion.rule == *rule);
        let retransmission = now_counters.retransmissions > counters.retransmissions;
        let tripwire = now_counters.tripwires > counters.tripwires;
        let ignored = now_counters.ignored > counters.ignored;
        let mut steps = Vec::new();
        let mut rules: Vec<&Rule> = self.rules.values().collect();
        rules.sort_by(|a, b| a.id.cmp(&b.id));
        for rule in rules {
            let was = before.get(&rule.id);
            let knocked = was.map_or(0, |stage| stage.knocked);
            let mut step = |knocked, meaning| {
                let (rule, of) = (rule.id.clone(), rule.sequence.len());
                steps.push(Step { at: now, source, rule, knocked, of, meaning });
            };
            if completed(&rule.id) {
                step(rule.sequence.len(), Meaning::Completed);
            } else if ignored {
                if let Some(reason) = not_for(rule, knocked, packet, local) {
                    step(knocked, Meaning::Ignored(reason));
                }
            } else if retransmission {
                if was.is_some() {
                    step(knocked, Meaning::Ignored(NotCounted::Retransmission));
                }
            } else {
                let is = after.get(&rule.id).map_or(0, |stage| stage.knocked);
                let too_slow = was.map(|stage| now.since(stage.since)).filter(|took| *took > rule.timeout);
                if let Some(took) = too_slow {
                    step(knocked, Meaning::Reset(Reset::TooSlow { took, timeout: rule.timeout }));
                } else if is == knocked && is > 0 {
                    step(is, Meaning::Ignored(NotCounted::Repeated));
                } else if is < knocked {
                    step(knocked, Meaning::Reset(reset(rule, packet.knock, tripwire)));
                }
                if is > 0 && (is != knocked || too_slow.is_some()) {
                    step(is, Meaning::Knock);
                }
            }
        }
        steps
    }
}

/// Why the knocks of a rule count no more, after another packet than the next knock.
fn reset(rule: &Rule, knock: Knock, tripwire: bool) -> Reset {
    match () {
        () if tripwire => Reset::Tripwire,
        () if rule.sequence.contains(&knock) => Reset::WrongOrder,
        () => Reset::OtherRule,
    }
}

/// Why a packet to the next port of the rule is no knock of it; `None` where its port is another one.
fn not_for(rule: &Rule, knocked: usize, packet: &Packet, local: bool) -> Option<NotCounted> {
    let next = rule.sequence.get(knocked)?;
    if *next == packet.knock.by_other_protocol() {
        return Some(NotCounted::WrongProtocol);
    }
    let arrives = if rule.targets.is_empty() { local } else { rule.targets.contains(&packet.destination) };
    (*next == packet.knock && !arrives).then_some(NotCounted::OtherDestination)
}
