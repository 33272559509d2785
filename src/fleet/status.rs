//! What users are told of the fleet.

use std::net::IpAddr;
use std::time::Duration;

use knock_fleet::Held;
use knock_fleet::link::{Seen, Settings};
use knock_proto::Prefix;
use knock_spa::UnixTime;

use super::Fleet;
use super::worker::Worker;
use crate::control::protocol::{FleetGrant, FleetNode, FleetStatus};

/// A node that was not there for so long is silent: it is there every 30 s.
const SILENT: Duration = Duration::from_secs(120);

impl Fleet {
    /// The state. `wall`: now.
    pub(crate) fn status(&self, wall: UnixTime) -> FleetStatus {
        let (known_grants, known_revocations) = self.known.len();
        let this = self.author.id();
        let seen = || self.nodes.iter().filter(|id| **id != this).map(|id| self.seen.get(id));
        let digest = self.settings.digest();
        let silence = |seen: Option<&Seen>| seen.map_or(wall.since(self.connected), |seen| self.age(seen, wall));
        let problem = self.listener.problem().map(str::to_owned);
        FleetStatus {
            realm: self.settings.realm.clone(),
            node: self.name.to_string(),
            node_id: this.to_string(),
            connected: self.connection.is_some(),
            writes: self.state.writes,
            reads: self.state.reads,
            in_step: self.state.in_step,
            queue: self.state.queue,
            waiting: self.outbox.waiting() + self.revoked.len(),
            lost: self.state.lost + self.outbox.dropped(),
            published: self.state.published,
            received: self.state.received,
            foreign: self.state.foreign,
            lag_seconds: f64::from(self.state.lag) / 1000.0,
            clock_offset_seconds: f64::from(self.state.clock) / 1000.0,
            problem: problem.or_else(|| Some(self.state.problem.clone()).filter(|problem| !problem.is_empty())),
            verifying: self.worker.as_ref().map_or(0, Worker::len),
            known_grants,
            known_revocations,
            granted: self.counters.granted,
            revoked: self.counters.revoked,
            refused: self.counters.refused.iter().map(|(&label, &count)| (label.to_owned(), count)).collect(),
            claims_pending: self.claims.len(),
            nodes: self.nodes.len(),
            nodes_differing: seen().flatten().filter(|seen| digest != Some(seen.digest)).count(),
            nodes_silent: seen().filter(|seen| silence(*seen) > SILENT).count(),
            publish: self.publish.iter().map(ToString::to_string).collect(),
            on_outage: if self.grants_on_outage() { "grant" } else { "refuse" }.to_owned(),
        }
    }

    /// Whether knockd-fleet is connected, and whether the store can be written to.
    pub(crate) fn reach(&self) -> (bool, bool) {
        (self.connection.is_some(), self.state.writes)
    }

    /// The nodes of the configuration, then those that only the store knows.
    pub(crate) fn node_list(&self, wall: UnixTime) -> Vec<FleetNode> {
        let (this, digest) = (self.author.id(), self.settings.digest());
        let entry = |id, name: Option<&str>, vouch: Vec<String>| {
            let seen = self.seen.get(&id);
            FleetNode {
                name: name.map(str::to_owned),
                id: id.to_string(),
                seen_seconds: seen.map(|seen| self.age(seen, wall).as_secs_f64()),
                version: seen.map(|seen| seen.version.clone()),
                same_rules: seen.map(|seen| digest == Some(seen.digest)),
                vouch,
                this: id == this,
            }
        };
        let of_configuration = self.nodes.iter().filter_map(|id| {
            let node = self.peer.trust.node(*id)?;
            Some(entry(*id, Some(&node.name), node.vouch.iter().map(ToString::to_string).collect()))
        });
        let strangers = self.seen.keys().filter(|id| self.peer.trust.node(**id).is_none());
        of_configuration.chain(strangers.map(|id| entry(*id, None, Vec::new()))).collect()
    }

    /// The live grants that other nodes have made, those of a rule or for an address only, in the order in which they end.
    pub(crate) fn grant_list(&self, wall: UnixTime, rule: Option<&str>, address: Option<IpAddr>) -> Vec<FleetGrant> {
        let is_wanted = |(subject, held): &(&knock_fleet::Subject, &Held)| {
            let (first, length) = subject.prefix();
            held.node != self.name
                && held.end > wall
                && rule.is_none_or(|rule| subject.rule().as_str() == rule)
                && address.is_none_or(|address| Prefix::new(first, length).contains(address))
        };
        let mut grants: Vec<_> = self.known.grants().filter(is_wanted).collect();
        grants.sort_by_key(|(_, held)| held.end.as_millis());
        let entry = |(subject, held): (&knock_fleet::Subject, &Held)| FleetGrant {
            rule: subject.rule().to_string(),
            address: held.address.to_string(),
            wide: held.wide,
            node: held.node.to_string(),
            user: held.user.as_ref().map(|user| super::name_of_user(user).to_string()),
            age_seconds: wall.since(held.time).as_secs_f64(),
            remaining_seconds: held.end.since(wall).as_secs_f64(),
        };
        grants.into_iter().map(entry).collect()
    }

    /// What knockd-fleet is told.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How long ago a node was there; its time is that of the store.
    fn age(&self, seen: &Seen, wall: UnixTime) -> Duration {
        let of_store = wall.as_millis().saturating_add_signed(self.state.clock.into());
        Duration::from_millis(of_store.saturating_sub(seen.time))
    }
}
