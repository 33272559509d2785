//! What the daemon does for the other nodes of the fleet, and asks of them.

use std::io;
use std::time::Duration;

use knock_config::Config;
use knock_fleet::link::Claim;
use knock_fleet::{Action, PeerGrant, PeerRevocation, PeerUser};
use knock_grant::{Cause, User};
use knock_proto::{Prefix, RuleId, Time};

use crate::control;
use crate::daemon::{Daemon, Ready};
use crate::fleet::plan::FleetPlan;
use crate::fleet::{Claimant, Claimed, Fleet, name_of_user};
use crate::os::poller::Poller;

/// A grant that ends so much sooner than one that is live changes nothing: nodes count in seconds.
const SAME: Duration = Duration::from_secs(1);

impl Daemon {
    /// Watches what the fleet waits for, where that has changed.
    pub(super) fn watch_fleet(&mut self, poller: &mut Poller<Ready>) -> io::Result<()> {
        let Some(fleet) = &mut self.fleet else { return Ok(()) };
        if !fleet.has_changed() {
            return Ok(());
        }
        if let Some(socket) = fleet.socket() {
            poller.watch(socket, Ready::FleetSocket)?;
        }
        if let Some(worker) = fleet.worker() {
            poller.watch(worker, Ready::Records)?;
        }
        match fleet.connection() {
            Some((connection, true)) => poller.watch(connection, Ready::Fleet),
            // knockd-fleet waits until the thread has done some of what is there.
            Some((connection, false)) => poller.unwatch(connection),
            None => Ok(()),
        }
    }

    pub(super) fn on_fleet_connect(&mut self, now: Time) {
        if let Some(fleet) = &mut self.fleet {
            fleet.on_connect(now);
        }
    }

    /// Takes what knockd-fleet says.
    pub(super) fn listen_to_fleet(&mut self, now: Time) {
        let claimed = self.fleet.as_mut().map(|fleet| fleet.receive(now)).unwrap_or_default();
        self.follow_claims(now, claimed);
    }

    /// Does what is due with the fleet.
    pub(super) fn tick_fleet(&mut self, now: Time) {
        let claimed = self.fleet.as_mut().map(|fleet| fleet.tick(now)).unwrap_or_default();
        self.follow_claims(now, claimed);
    }

    /// Has a packet wait until it is known whether another node has used it.
    pub(super) fn claim(&mut self, now: Time, claimant: Claimant) {
        let Some(fleet) = &mut self.fleet else { return };
        if let Some(claimed) = fleet.claim(now, claimant) {
            self.follow_claims(now, vec![claimed]);
        }
    }

    fn follow_claims(&mut self, now: Time, claimed: Vec<Claimed>) {
        for (Claimant { source, user, accepted }, claim) in claimed {
            let grants_on_outage = self.fleet.as_ref().is_none_or(Fleet::grants_on_outage);
            let reason = match claim {
                Claim::Ours => None,
                Claim::Unknown if grants_on_outage => None,
                Claim::Unknown => Some(
                    "the packet names no address, and the store of the fleet can't say whether another node has used it \
                     (fleet.on_outage is \"refuse\")"
                        .to_owned(),
                ),
                Claim::Taken { by } => {
                    let node = self.fleet.as_ref().map(|fleet| fleet.name_of(by)).unwrap_or_default();
                    Some(format!("the packet was already used at {node}"))
                }
            };
            match reason {
                None => self.follow_accepted(now, user, accepted),
                Some(reason) => {
                    let rule = accepted.decision.rule.to_string();
                    let Some(signed) = &mut self.signed else { continue };
                    let denied = signed.denied(now, &user, Some(rule), reason);
                    self.deny(now, source, &user, denied);
                }
            }
        }
    }

    /// Does what follows from records that are verified.
    pub(super) fn follow_records(&mut self, now: Time) {
        let actions = self.fleet.as_mut().map(|fleet| fleet.take_verified(now)).unwrap_or_default();
        for action in actions {
            match action {
                Action::Grant(grant) => self.grant_for_node(now, grant),
                Action::Revoke(revocation) => self.revoke_for_node(now, revocation),
            }
        }
        self.observe_grants(now);
    }

    fn grant_for_node(&mut self, now: Time, grant: PeerGrant) {
        let PeerGrant { node, voucher, user, rule, address, wide, lifetime } = grant;
        let rule = RuleId::from(rule.as_str());
        let prefix = if wide { self.grants.policy().prefix(&rule, address) } else { address.into() };
        let until = now.after(lifetime);
        if self.grants.ledger().get(&rule, prefix).is_some_and(|live| live.expires.after(SAME) >= until) {
            return;
        }
        let cause = Cause::Node { node, voucher, user: user.as_ref().map(user_of), wide };
        // An error is in the log.
        let _ = self.grants.grant(now, &rule, address, lifetime, cause);
    }

    fn revoke_for_node(&mut self, now: Time, revocation: PeerRevocation) {
        let PeerRevocation { node, user, subjects, again } = revocation;
        let cause = Cause::Node { node, voucher: None, user: user.as_ref().map(user_of), wide: false };
        for subject in subjects {
            let rule = RuleId::from(subject.rule().as_str());
            let (first, length) = subject.prefix();
            // An error is in the log.
            let _ = self.grants.revoke_overlapping(now, &rule, Prefix::new(first, length), cause.clone());
        }
        again.into_iter().for_each(|grant| self.grant_for_node(now, grant));
    }

    /// Applies another configuration of the fleet.
    pub(super) fn apply_fleet(&mut self, now: Time, config: &Config, plan: Option<FleetPlan>) {
        let path = control::fleet_place(config);
        match (plan, self.fleet.take()) {
            (None, None) => {}
            // There is no other node that could have used the packets which wait.
            (None, Some(mut fleet)) => self.follow_claims(now, fleet.disconnect()),
            (Some(plan), None) => {
                let mut fleet = Fleet::new(now, plan, path);
                fleet.adopt(now, self.grants.ledger());
                self.fleet = Some(fleet);
            }
            (Some(plan), Some(mut fleet)) => {
                let claimed = fleet.apply(plan, path, now);
                self.fleet = Some(fleet);
                self.follow_claims(now, claimed);
            }
        }
    }
}

fn user_of(user: &PeerUser) -> User {
    User { name: name_of_user(user), key: user.key }
}
