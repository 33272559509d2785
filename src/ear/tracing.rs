//! What packets meant, for an administrator who looks.
//!
//! Packets are noted in any case, in bounded memory. What they meant is worked out only while somebody looks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{History, Packet, Rule, RuleId, Seen, Settings, Time, Tracer};

use crate::ear::message::Meant;
use crate::ear::plan::{RuleKey, key};

/// Sources that are followed while somebody looks.
const SOURCES: usize = 4096;
/// The steps of an explanation.
const STEPS: usize = 200;
/// How often the keeper learns how much was left out.
const SUMMARY: Duration = Duration::from_secs(1);

/// Packets of the last minutes.
#[derive(Debug, Default)]
pub(super) struct Tracing {
    history: History,
    /// `None` while nobody watches.
    tracer: Option<Tracer>,
    keys: HashMap<RuleId, RuleKey>,
    summarised: Time,
    left_out: u64,
}

impl Tracing {
    /// The rules are others: what packets meant before is not known any more.
    pub(super) fn rules_have_changed(&mut self, rules: &[Rule], settings: &Settings) {
        self.keys = rules.iter().map(|rule| (rule.id.clone(), key(rule))).collect();
        self.history.clear();
        if self.is_active() {
            self.tracer = Some(Tracer::new(rules.to_vec(), settings, SOURCES));
        }
    }

    /// How the keeper knows a rule.
    pub(super) fn key(&self, rule: &RuleId) -> Option<RuleKey> {
        self.keys.get(rule).copied()
    }

    /// Whether somebody watches.
    pub(super) fn is_active(&self) -> bool {
        self.tracer.is_some()
    }

    /// Works out what packets mean from now on, with what is known of the last minutes.
    pub(super) fn begin(&mut self, now: Time, rules: &[Rule], settings: &Settings) {
        let mut tracer = Tracer::new(rules.to_vec(), settings, SOURCES);
        for seen in self.history.iter() {
            tracer.handle(seen.at, &seen.packet, seen.local);
        }
        (self.tracer, self.summarised, self.left_out) = (Some(tracer), now, 0);
    }

    /// Nobody watches any more.
    pub(super) fn end(&mut self) {
        self.tracer = None;
    }

    /// Notes a packet that the engine has looked at. `knocked`: see [`knock_proto::Engine::handle`]. Returns what it meant,
    /// where somebody watches and it was not too much.
    pub(super) fn note(&mut self, now: Time, packet: &Packet, local: bool, knocked: u8) -> Option<Vec<Meant>> {
        if !self.history.note(Seen { at: now, packet: *packet, local }, knocked) {
            self.left_out += u64::from(self.tracer.is_some());
            return None;
        }
        let steps = self.tracer.as_mut()?.handle(now, packet, local);
        Some(steps.iter().filter_map(|step| Some(Meant::new(step, self.key(&step.rule)?))).collect())
    }

    /// What the packets of a source meant in the last minutes: the newest steps, the oldest of them first.
    pub(super) fn explain(&self, address: IpAddr, rules: &[Rule], settings: &Settings) -> Vec<Meant> {
        let mut tracer = Tracer::new(rules.to_vec(), settings, 1);
        let mut meant = Vec::new();
        for seen in self.history.of(address) {
            let steps = tracer.handle(seen.at, &seen.packet, seen.local);
            meant.extend(steps.iter().filter_map(|step| Some(Meant::new(step, self.key(&step.rule)?))));
        }
        meant.split_off(meant.len().saturating_sub(STEPS))
    }

    /// How long ago the oldest packet came that is kept.
    pub(super) fn since(&self, now: Time) -> Option<Duration> {
        self.history.iter().next().map(|oldest| now.since(oldest.at))
    }

    /// The packets that were not kept.
    pub(super) fn not_kept(&self) -> u64 {
        self.history.left_out()
    }

    /// When [`Tracing::summary`] has something to say.
    pub(super) fn next_summary(&self) -> Option<Time> {
        self.is_active().then(|| self.summarised.after(SUMMARY))
    }

    /// How many packets were not worked out since the last summary, where it is time for one and there are some.
    pub(super) fn summary(&mut self, now: Time) -> Option<u64> {
        if self.next_summary().is_none_or(|due| due > now) {
            return None;
        }
        self.summarised = now;
        Some(std::mem::take(&mut self.left_out)).filter(|&left_out| left_out > 0)
    }
}
