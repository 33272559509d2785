//! Sources that may lack one knock: the keeper learns of them, so that the kernel can wait for it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Almost, Budget, Engine, RuleId, Time};

/// Sources that are noted between two looks at them; what is more is not waited for.
const NOTED: usize = 64;
/// What the keeper is told, at once and in a second: more than it arms.
const TOLD: u32 = 1000;
const TOLD_AGAIN: Duration = Duration::from_millis(2);

/// The rules with a door, and the sources that have come near to the last knock of one since the last look.
#[derive(Debug)]
pub(super) struct LastKnocks {
    rules: HashSet<RuleId>,
    /// How many different ports in a row have to be knocked before the last one, at least.
    after: u8,
    near: Vec<IpAddr>,
    told: Budget,
}

impl LastKnocks {
    /// `engine`: the one that follows those rules.
    pub(super) fn new(rules: Vec<RuleId>, engine: &Engine) -> LastKnocks {
        let rules: HashSet<RuleId> = rules.into_iter().collect();
        let known = engine.last_knocks().into_iter().filter(|last| rules.contains(&last.rule));
        let after = known.map(|last| last.after).min().unwrap_or(u8::MAX);
        LastKnocks { rules, after, near: Vec::new(), told: Budget::default() }
    }

    /// Notes that a source has knocked so many different ports in a row. Nearly every packet of a flood ends here.
    pub(super) fn note(&mut self, source: IpAddr, knocked: u8) {
        if knocked >= self.after && self.near.len() < NOTED && !self.near.contains(&source) {
            self.near.push(source);
        }
    }

    /// Whether there is somebody to look at.
    pub(super) fn is_somebody_near(&self) -> bool {
        !self.near.is_empty()
    }

    /// The sources that lack one knock, of those that were noted since.
    pub(super) fn take(&mut self, now: Time, engine: &Engine) -> Vec<(IpAddr, Almost)> {
        let near = std::mem::take(&mut self.near).into_iter();
        let mut almost: Vec<_> = near.filter_map(|source| Some((source, self.almost(now, engine, source)?))).collect();
        almost.retain(|_| self.told.admit(now, TOLD, TOLD_AGAIN));
        almost
    }

    /// Whether a source lacks one knock of a rule with a door.
    pub(super) fn almost(&self, now: Time, engine: &Engine, source: IpAddr) -> Option<Almost> {
        engine.almost(now, source).filter(|almost| self.rules.contains(&almost.rule))
    }
}
