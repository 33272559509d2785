//! Where the kernel opens: the doors of the managed table, and the rules that have one.

use knock_config::{Config, Interfaces, LastKnock, Rule};
use knock_grant::Opens;
use knock_nft::{Door, Doors, GrantKind};
use knock_proto::{Knock, RuleId};

use crate::daemon::plan::opens;
use crate::triggers::sequences::SequencePlan;

/// The doors of a configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct DoorPlan {
    /// For the managed table.
    pub(crate) doors: Doors,
    /// The rules that have a door, in the order of the doors.
    pub(crate) rules: Vec<RuleId>,
    /// Why there is no door though the configuration asks for them.
    pub(crate) problem: Option<&'static str>,
}

impl DoorPlan {
    pub(crate) fn new(config: &Config, sequences: &SequencePlan) -> DoorPlan {
        if config.nftables.last_knock == LastKnock::Daemon {
            return DoorPlan::default();
        }
        let problem = |problem| DoorPlan { problem: Some(problem), ..DoorPlan::default() };
        if sequences.has_one_time() {
            // The kernel would have to know the knock ports of the next one before the ear does.
            return problem("a rule has one-time sequences, whose knock ports change with each use");
        }
        let engine = sequences.engine();
        let (mut doors, mut rules) = (Vec::new(), Vec::new());
        for last in engine.last_knocks() {
            let Some(rule) = config.rules.iter().find(|rule| rule.name == last.rule) else { continue };
            let Some((opens, timeout)) = kinds(rule).zip(rule.allow.as_ref().map(knock_config::Allow::timeout)) else {
                continue;
            };
            let interfaces = match &config.interfaces {
                Interfaces::Any => Vec::new(),
                Interfaces::Named(names) => names.clone(),
            };
            let (last, repeat, tcp_flags, targets) = (last.last, last.repeat, last.tcp_flags, last.targets);
            let door = Door { last, repeat, tcp_flags, targets, interfaces, opens, timeout };
            if door.is_possible() && doors.len() < Doors::MAX {
                doors.push(door);
                rules.push(rule.name.clone());
            }
        }
        if doors.is_empty() {
            return problem("no rule opens guarded ports by a sequence that the kernel can complete");
        }
        let mut watched: Vec<Knock> = engine.watches().into_iter().flat_map(|watch| watch.ports).collect();
        watched.sort_unstable();
        watched.dedup();
        // The kernel counts an element until it has cleared it away, some time after its end.
        let grants = config.limits.grants.saturating_add(Doors::PLACES);
        DoorPlan { doors: Doors { doors, watched, grants }, rules, problem: None }
    }
}

/// What a grant of the rule opens in the managed table; `None`: nothing.
fn kinds(rule: &Rule) -> Option<Vec<GrantKind>> {
    let Opens::Ports(accesses) = opens(rule) else { return None };
    let (prefix4, prefix6) = rule.allow.as_ref()?.prefixes();
    Some(accesses.into_iter().map(|access| GrantKind { access, prefix4, prefix6 }).collect())
}
