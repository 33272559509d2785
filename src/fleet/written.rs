//! What this node writes down for the others: its grants, and the revocations of its users.

use std::net::IpAddr;
use std::sync::Arc;

use knock_fleet::link::RecordBytes;
use knock_fleet::{GrantId, Held, KNOWN_MAX, PeerRule, PeerUser, Proof, Record, Statement, Subject};
use knock_grant::{Cause, Grant, GrantEvent, Ledger, User};
use knock_proto::{Prefix, RuleId, Time};
use knock_spa::{RuleName, UnixTime};

use super::Fleet;
use crate::os::clock::unix_now;

/// Revocations that are written down in one turn of the loop, each of which takes as long as a signature.
const WRITTEN_IN_A_ROW: usize = 16;

impl Fleet {
    /// Takes note of what has happened to a grant here, and writes it down if it is to be shared.
    pub(crate) fn note(&mut self, now: Time, event: &GrantEvent) {
        let wall = unix_now();
        match event {
            // Another node has written it down.
            GrantEvent::Granted { cause: Cause::Node { .. }, .. }
            | GrantEvent::Extended { cause: Cause::Node { .. }, .. } => {}
            GrantEvent::Granted { grant, cause } | GrantEvent::Extended { grant, cause } => {
                self.note_granted(now, wall, grant, cause);
            }
            // With the packet that closes a rule, `closed` is called.
            GrantEvent::Revoked { grant, cause: Cause::Operator { .. } | Cause::Rule(_) } => {
                let is_wide = grant.prefix != Prefix::from(grant.address);
                self.revoke_rule(now, wall, &grant.rule, grant.address, is_wide);
            }
            _ => {}
        }
    }

    fn note_granted(&mut self, now: Time, wall: UnixTime, grant: &Grant, cause: &Cause) {
        let Some((rule, _)) = self.rule(&grant.rule) else { return };
        let wide = match cause {
            Cause::Packet { wide, .. } => *wide,
            _ => grant.prefix != Prefix::from(grant.address),
        };
        let statement =
            Statement { rule: rule.clone(), address: grant.address, wide, time: wall, lifetime: grant.timeout };
        // Written down before it is noted: a packet that another node has accepted before is known.
        let record = self.publish.contains(&rule).then(|| self.record_of(statement, cause)).flatten();
        let user = cause.user().map(peer_user);
        let end = wall.after(grant.timeout);
        let held =
            Held { node: Arc::clone(&self.name), voucher: None, user, address: grant.address, wide, time: wall, end };
        self.known.granted(Subject::new(rule, grant.address, grant.prefix.length()), held);
        if let Cause::Packet { proof, .. } = cause {
            self.known.accepted(proof.request.nonce, wall.after(self.window.saturating_mul(2)));
        }
        if let Some(record) = record {
            self.send(now, record);
        }
    }

    /// The record of a grant; `None`: there is one of it already, or there can be none.
    fn record_of(&mut self, statement: Statement, cause: &Cause) -> Option<RecordBytes> {
        match cause {
            Cause::Packet { proof, .. } if self.known.has_packet(&proof.request.nonce) => None,
            Cause::Packet { proof, .. } => {
                let Proof { fingerprint, request, observed } = (**proof).clone();
                Some(self.author.packet(statement, fingerprint, request, !observed))
            }
            Cause::Knock | Cause::OneTime => Some(self.author.sequence(statement, grant_id()?)),
            Cause::Operator { .. } => Some(self.author.manual(statement, grant_id()?)),
            Cause::Node { .. } | Cause::Rule(_) | Cause::Reload | Cause::Limit => None,
        }
    }

    /// A packet has closed a rule for an address. Returns whether it is new: no other node has accepted it.
    pub(crate) fn closed(&mut self, now: Time, rule: &RuleId, address: IpAddr, wide: bool, proof: &Proof) -> bool {
        if self.known.has_packet(&proof.request.nonce) {
            return false;
        }
        let Some((rule, terms)) = self.rule(rule) else { return true };
        let time = self.note_revoked(&rule, terms, address, wide, unix_now());
        let Proof { fingerprint, request, observed } = proof.clone();
        let statement = Statement { rule, address, wide, time, lifetime: terms.lifetime };
        let record = self.author.closing_packet(statement, fingerprint, request, !observed);
        self.send(now, record);
        true
    }

    /// A user revokes what any node has granted to an address: a rule, or all of them.
    pub(crate) fn revoke(&mut self, now: Time, rule: Option<&RuleId>, address: IpAddr) {
        let wall = unix_now();
        if let Some(rule) = rule {
            return self.revoke_rule(now, wall, rule, address, false);
        }
        let peer = Arc::clone(&self.peer);
        let revoked = peer.rules.iter().map(|(rule, &terms)| self.note_revoked(rule, terms, address, false, wall));
        let time = revoked.max().unwrap_or(wall);
        let longest = peer.rules.values().map(|terms| terms.lifetime).max().unwrap_or_default();
        let record = self.author.revocation_of_all(address, time, longest);
        self.send(now, record);
    }

    fn revoke_rule(&mut self, now: Time, wall: UnixTime, rule: &RuleId, address: IpAddr, wide: bool) {
        let Some((rule, terms)) = self.rule(rule) else { return };
        let time = self.note_revoked(&rule, terms, address, wide, wall);
        if self.revoked.len() < KNOWN_MAX {
            self.revoked.push_back(Statement { rule, address, wide, time, lifetime: terms.lifetime });
        }
        // All grants may be revoked at once: the loop does not wait until all of it is signed.
        self.outbox_due = Some(now);
    }

    /// Writes some of the revocations down.
    pub(super) fn write_revocations(&mut self, now: Time) {
        for _ in 0..WRITTEN_IN_A_ROW {
            let Some(statement) = self.revoked.pop_front() else { return };
            let record = self.author.revocation(statement);
            self.send(now, record);
        }
        self.outbox_due = Some(now);
    }

    /// Notes a revocation. Returns its time, which is not before any grant that is known: the clock of the node that made it
    /// may be ahead.
    fn note_revoked(
        &mut self,
        rule: &RuleName,
        terms: PeerRule,
        address: IpAddr,
        wide: bool,
        wall: UnixTime,
    ) -> UnixTime {
        let length = match (wide, address.is_ipv4()) {
            (false, _) => u8::MAX,
            (true, true) => terms.prefixes.0,
            (true, false) => terms.prefixes.1,
        };
        let subject = Subject::new(rule.clone(), address, length);
        let time = self.known.latest(&subject, terms).map_or(wall, |latest| latest.max(wall));
        self.known.revoked(subject, terms, time, wall);
        time
    }

    /// The rule as records name it, and what is demanded of its grants.
    fn rule(&self, rule: &RuleId) -> Option<(RuleName, PeerRule)> {
        let name: RuleName = rule.as_str().parse().ok()?;
        let terms = *self.peer.rules.get(&name)?;
        Some((name, terms))
    }

    /// Takes note of the grants that are live: they were made after revocations of before.
    pub(crate) fn adopt(&mut self, now: Time, ledger: &Ledger) {
        let wall = unix_now();
        for grant in ledger.iter() {
            let Some((rule, _)) = self.rule(&grant.rule) else { continue };
            let left = grant.expires.since(now);
            let since = grant.timeout.saturating_sub(left);
            let user = grant.basis.key.map(|key| PeerUser { name: None, key });
            let held = Held {
                node: Arc::clone(&self.name),
                voucher: grant.basis.voucher,
                user,
                address: grant.address,
                wide: grant.prefix != Prefix::from(grant.address),
                time: wall.before(since),
                end: wall.after(left),
            };
            self.known.granted(Subject::new(rule, grant.address, grant.prefix.length()), held);
        }
    }

    fn send(&mut self, now: Time, bytes: RecordBytes) {
        // It is the author's.
        let Ok(record) = Record::decode(&bytes) else { return };
        self.known.written(&record);
        self.outbox.add(bytes, record.end());
        self.hand_over(now);
    }
}

fn peer_user(user: &User) -> PeerUser {
    PeerUser { name: Some((*user.name).into()), key: user.key }
}

/// A random id; `None`: the kernel has no random numbers, which it always has after the boot.
fn grant_id() -> Option<GrantId> {
    let mut id = GrantId::default();
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
        .ok()
        .filter(|&length| length == id.len())?;
    Some(id)
}
