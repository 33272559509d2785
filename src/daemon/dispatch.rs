//! What the daemon does when a rule is completed.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use knock_config::{Allow, Rule, Trigger};
use knock_grant::Cause;
use knock_proto::{RuleId, Time};
use log::Level;

use crate::control::protocol::What;
use crate::daemon::Daemon;
use crate::daemon::observer::user_fields;
use crate::logging::events::Event;
use crate::triggers::sequences::Next;

impl Daemon {
    /// Does what follows when a source has completed a rule. What is used up by it comes first: a one-time sequence, of which
    /// the ear learns the next before the client can see that the last one has worked.
    ///
    /// # Errors
    ///
    /// Where the ear has ended.
    pub(super) fn carry_out(&mut self, now: Time, rule: &RuleId, source: IpAddr) -> io::Result<()> {
        let config = self.config.clone();
        let Some(rule) = config.rule(rule) else { return Ok(()) };
        if !self.begin_cooldown(now, rule, source) {
            return Ok(());
        }
        let mut cause = Cause::Knock;
        if matches!(rule.trigger, Some(Trigger::OneTime(_))) {
            cause = Cause::OneTime;
            let Some((is_marked, next)) = self.consume_one_time(now, &rule.name) else { return Ok(()) };
            self.ear.follow_next(&next)?;
            // Each sequence works once, ever: where its use can't be marked, it does nothing.
            if !is_marked {
                let text = "the use of the one-time sequence could not be marked; see the log".to_owned();
                self.note_outcome(now, source, Some(rule.name.as_str()), What::Failed, text);
                return Ok(());
            }
        }
        let timeout = rule.allow.as_ref().map(Allow::timeout).unwrap_or_default();
        self.complete(now, rule, source, timeout, cause);
        Ok(())
    }

    /// Begins the cooldown of a rule that was triggered. Returns whether the rule does what it does, so that it was not in one.
    pub(super) fn begin_cooldown(&mut self, now: Time, rule: &Rule, source: IpAddr) -> bool {
        if self.cooldowns.begin(now, &rule.name, source) {
            return true;
        }
        self.counters.in_cooldown += 1;
        let name = rule.name.as_str();
        let message = format_args!("rule {name}: {source} has knocked again in the cooldown, which does nothing");
        self.events.line(now, Level::Debug, name, message);
        let text = "the rule does nothing in its cooldown".to_owned();
        self.note_outcome(now, source, Some(name), What::Cooldown, text);
        false
    }

    /// Does what a rule does for an address: first the grant that ends, then the one that begins, for `timeout`, then the
    /// command.
    pub(super) fn complete(&mut self, now: Time, rule: &Rule, address: IpAddr, timeout: Duration, cause: Cause) {
        let mut done = true;
        // Errors are in the log; a knock has no other answer.
        if let Some(revoked) = &rule.revoke {
            done &= self.grants.revoke(now, revoked, address, Cause::Rule(rule.name.clone())).is_ok();
        }
        if rule.allow.is_some() {
            done &= self.grants.grant(now, &rule.name, address, timeout, cause.clone()).is_ok();
        }
        if cause != Cause::Knock {
            // In a cooldown that begins now, its last knock does nothing.
            self.stop_waiting(now, address);
        }
        self.observe_grants(now);
        done &= self.run_command(now, rule, address, &cause);
        if !done {
            // The client may try again at once.
            self.cooldowns.end(&rule.name, address);
        }
    }

    /// Notes durably that the rule's one-time sequence is used. Returns whether that was done, and the next one.
    fn consume_one_time(&mut self, now: Time, name: &RuleId) -> Option<(bool, Next)> {
        self.reloads.sequence_was_used();
        let (result, next) = self.sequences.consume(name)?;
        match &result {
            Ok(warnings) => {
                for warning in warnings {
                    self.events.line(now, Level::Warn, name, format_args!("{warning}"));
                }
            }
            Err(error) => {
                let message = format_args!("rule {name}: nothing is opened: {error}");
                self.events.line(now, Level::Error, name, message);
            }
        }
        Some((result.is_ok(), next))
    }

    /// Hands the rule's command, if it has one, to the runner. Returns whether that was done, or was not needed.
    fn run_command(&mut self, now: Time, rule: &Rule, source: IpAddr, cause: &Cause) -> bool {
        if rule.command.is_none() {
            return true;
        }
        let name = rule.name.as_str();
        let by = match cause {
            Cause::Packet { user, .. } => format!(" with a signed packet of {}", user.name),
            _ => String::new(),
        };
        let message = format_args!("rule {name}: {source} has knocked{by}");
        self.events.report_with(now, Event::Knocked, Some(name), Some(source), &user_fields(cause), message);
        self.note_outcome(now, source, Some(name), What::Command, "its command is to run".to_owned());
        let sent = self.runner.as_mut().is_some_and(|runner| runner.run(name, source));
        if !sent {
            let message = format_args!(
                "rule {name}: the command for {source} was not run: the runner has not taken the commands before it yet"
            );
            self.events.line(now, Level::Warn, name, message);
        }
        sent
    }
}
