//! What the daemon does with a signed packet.

use std::net::IpAddr;

use knock_config::{Config, Rule};
use knock_grant::{Cause, User};
use knock_proto::Time;
use knock_spa::{Action, Decision};
use log::Level;

use crate::control::protocol::What;
use crate::daemon::Daemon;
use crate::daemon::config_source::replay_place;
use crate::daemon::observer::fields_of_user;
use crate::fleet::Claimant;
use crate::logging::events::Event;
use crate::os::clock::clock_reading;
use crate::triggers::signed_packets::plan::SignedPlan;
use crate::triggers::signed_packets::{Accepted, Denied, Signed, SignedPackets};

impl Daemon {
    /// Does what a user asks for with a packet that came from `source`, or logs why not.
    pub(crate) fn follow_signed(&mut self, now: Time, source: IpAddr, signed: Signed) {
        let Signed { user, result } = signed;
        match result {
            Err(denied) => self.deny(now, source, &user, denied),
            // Sent to another node from another address, it would open that one to whoever caught it.
            Ok(accepted) if accepted.proof.observed && accepted.opens() && self.fleet.is_some() => {
                self.claim(now, Claimant { source, user, accepted });
            }
            // Whoever recorded it could prolong what it opened, or open again what was closed since.
            Ok(accepted) if accepted.opens() && self.has_been_used(&accepted) => {
                let rule = accepted.decision.rule.to_string();
                let reason = "the packet was already used at another node".to_owned();
                let Some(signed) = &mut self.signed else { return };
                let denied = signed.denied(now, &user, Some(rule), reason);
                self.deny(now, source, &user, denied);
            }
            Ok(accepted) => self.follow_accepted(now, user, accepted),
        }
    }

    /// Whether another node has accepted the packet, as far as this one knows.
    fn has_been_used(&self, accepted: &Accepted) -> bool {
        self.fleet.as_ref().is_some_and(|fleet| fleet.has_packet(&accepted.proof.request.nonce))
    }

    /// Does what a packet asks for that no other node has used.
    pub(super) fn follow_accepted(&mut self, now: Time, user: User, accepted: Accepted) {
        let Accepted { decision: Decision { rule, address, wide, action }, proof } = accepted;
        let config = self.config.clone();
        // The rules of packets are those of the configuration.
        let Some(rule) = config.rule(rule.as_str()) else { return };
        let cause = Cause::Packet { user, wide, proof };
        match action {
            Action::Open { lifetime } => {
                if self.begin_cooldown(now, rule, address) {
                    self.complete(now, rule, address, lifetime, cause);
                }
            }
            Action::Close => self.close_for(now, rule, address, cause),
        }
    }

    /// Ends what a rule did for an address.
    fn close_for(&mut self, now: Time, rule: &Rule, address: IpAddr, cause: Cause) {
        self.cooldowns.end(&rule.name, address);
        let mut is_new = true;
        if let (Some(fleet), Cause::Packet { wide, proof, .. }) = (&mut self.fleet, &cause) {
            is_new = fleet.closed(now, &rule.name, address, *wide, proof);
        }
        // What another node has closed by the same packet may have been opened since.
        if rule.allow.is_some() && is_new {
            // An error is in the log.
            let _ = self.grants.revoke(now, &rule.name, address, cause);
            self.observe_grants(now);
        }
        let name = rule.name.as_str();
        if self.runner.as_mut().is_some_and(|runner| !runner.bring_forward(name, address)) {
            let message = format_args!(
                "rule {name}: the stop command for {address} runs at its time: the runner has not taken the commands before it yet"
            );
            self.events.line(now, Level::Warn, name, message);
        }
    }

    pub(super) fn deny(&mut self, now: Time, source: IpAddr, user: &User, denied: Denied) {
        let Denied { rule, reason, logged } = denied;
        self.note_outcome(now, source, rule.as_deref(), What::Refused, format!("{}: {reason}", user.name));
        let Some(left_out) = logged else { return };
        let more = match left_out {
            0 => String::new(),
            number => format!(" ({number} more packets of this user were refused and not logged)"),
        };
        let message = format_args!("a signed packet of {} from {source} is refused: {reason}{more}", user.name);
        let fields = fields_of_user(&user.name, &user.key);
        self.events.report_with(now, Event::Refused, rule.as_deref(), Some(source), &fields, message);
    }

    /// Applies another configuration of signed packets.
    pub(super) fn apply_signed(&mut self, config: &Config, plan: Option<SignedPlan>) {
        match (plan, &mut self.signed) {
            (Some(plan), Some(signed)) => signed.apply(plan),
            (Some(plan), None) => {
                let place = replay_place(config, self.source.owners);
                self.signed = Some(SignedPackets::new(clock_reading(), plan, place));
            }
            (None, _) => {
                if let Some(Err(error)) = self.signed.take().map(SignedPackets::close) {
                    log::error!("{error}");
                }
            }
        }
    }
}
