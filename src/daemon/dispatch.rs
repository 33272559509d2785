//! What the daemon does when a rule was knocked.

use std::net::IpAddr;
use std::time::Duration;

use knock_config::{Rule, Trigger};
use knock_proto::{Completion, Time};
use log::Level;

use crate::commands::{Job, Kind};
use crate::daemon::Daemon;
use crate::gate::{self, Revoked};
use crate::logging::events::Event;
use crate::os::clock::moment;
use crate::triggers::sequences::{engine_rules, engine_settings};

impl Daemon {
    /// Does what follows when rules are completed, and leaves no completion: first what is used up by it, then the grant
    /// that ends, then the one that begins, then the command.
    pub(crate) fn carry_out(&mut self, now: Time, completions: &mut Vec<Completion>) {
        let config = self.config.clone();
        let mut used = false;
        for Completion { rule, source } in completions.drain(..) {
            let Some(index) = config.rules.iter().position(|other| other.name == rule) else { continue };
            let rule = &config.rules[index];
            if matches!(rule.trigger, Trigger::OneTime(_)) {
                used = true;
                // Each opens once, ever: where that can't be noted, it does not open.
                if !self.spend(now, index) {
                    continue;
                }
            }
            // Errors are in the log; a knock has no other answer.
            if let Some(revoked) = &rule.revoke
                && let Some(revoked) = config.rules.iter().position(|other| other.name == *revoked)
            {
                let _ = self.revoke(now, revoked, source, &rule.name);
            }
            if let Some(allow) = &rule.allow {
                let _ = self.grant(now, index, source, allow.timeout(), None);
            }
            self.run_command(now, rule, source);
        }
        if used {
            self.follow_next_sequences(now);
        }
    }

    /// Notes durably that the rule's one-time sequence is used. Returns whether that was done.
    fn spend(&mut self, now: Time, rule: usize) -> bool {
        let Some(one_time) = &mut self.one_time[rule] else { return false };
        self.reloads.sequence_was_used();
        let name = self.config.rules[rule].name.as_str();
        match one_time.spend() {
            Ok(warnings) => {
                for warning in warnings {
                    self.events.line(now, Level::Warn, name, format_args!("{warning}"));
                }
                true
            }
            Err(error) => {
                let message = format_args!("rule {name}: nothing is opened: {error}");
                self.events.line(now, Level::Error, name, message);
                false
            }
        }
    }

    /// Follows the one-time sequences that are next.
    fn follow_next_sequences(&mut self, now: Time) {
        let rules = engine_rules(&self.config, &self.one_time);
        self.engine.reconfigure(now, rules, &engine_settings(&self.config));
        if let Err(error) = self.wire.reconfigure(&self.config.interfaces, &self.engine.watches()) {
            log::error!("the next one-time sequence is not heard: {error}");
        }
    }

    /// Hands the rule's command to a worker.
    fn run_command(&mut self, now: Time, rule: &Rule, source: IpAddr) {
        let Some(command) = &rule.command else { return };
        let name = rule.name.as_str();
        self.events.report(
            now,
            Event::Knocked,
            Some(name),
            Some(source),
            format_args!("rule {name}: {source} has knocked"),
        );
        let job = Job::new(Kind::Start, name, source, command.line(source), rule.command_timeout);
        let job = match (&rule.stop, &self.stops) {
            (Some(stop), Some(stops)) => match stops.arm(moment(), job, stop) {
                Ok(Some(job)) => job,
                Ok(None) => return,
                Err(error) => return self.events.line(now, Level::Error, name, format_args!("rule {name}: {error}")),
            },
            // The schedule is opened with the configuration; without it nothing would be closed again.
            (Some(_), None) => {
                let message = format_args!("rule {name}: there is no schedule of stop commands");
                return self.events.line(now, Level::Error, name, message);
            }
            (None, _) => job,
        };
        // A refusal is logged by the queue.
        let _ = self.commands.submit(job);
    }

    /// Grants a rule to an address; `by` says at whose wish, where it was not a knock.
    pub(crate) fn grant(
        &mut self,
        now: Time,
        rule: usize,
        address: IpAddr,
        timeout: Duration,
        by: Option<&str>,
    ) -> Result<(), gate::NotGranted> {
        let name = self.config.rules[rule].name.as_str();
        let result = self.gate.grant(now, rule, address, timeout);
        let seconds = timeout.as_secs_f64();
        let by = by.map(|by| format!(" (by {by})")).unwrap_or_default();
        match &result {
            Ok(extended) => {
                self.counters.grants += 1;
                let (event, verb) =
                    if *extended { (Event::Extended, "extended for") } else { (Event::Granted, "granted to") };
                let message = format_args!("rule {name}: {verb} {address}, {seconds} s{by}");
                self.events.report(now, event, Some(name), Some(address), message);
            }
            Err(error) => {
                self.counters.failed_grants += 1;
                let message = format_args!("rule {name}: not granted to {address}{by}: {error}");
                self.events.report(now, Event::GrantFailed, Some(name), Some(address), message);
            }
        }
        result.map(|_| ())
    }

    /// Ends the grant of a rule to an address, and what the kernel has of it; `by` says at whose wish.
    pub(crate) fn revoke(&mut self, now: Time, rule: usize, address: IpAddr, by: &str) -> Result<Revoked, gate::Error> {
        let name = self.config.rules[rule].name.as_str();
        let result = self.gate.revoke(now, rule, address);
        match &result {
            Ok(Revoked { grant: true, .. }) => {
                self.counters.revoked += 1;
                let message = format_args!("rule {name}: the grant to {address} is revoked ({by})");
                self.events.report(now, Event::Revoked, Some(name), Some(address), message);
            }
            Ok(Revoked { strays: 1.., .. }) => {
                let message = format_args!("rule {name}: {address} was open without a grant; it is closed ({by})");
                self.events.report(now, Event::Stray, Some(name), Some(address), message);
            }
            Ok(Revoked { .. }) => {
                let message = format_args!("rule {name}: {address} has no grant to revoke ({by})");
                self.events.line(now, Level::Debug, name, message);
            }
            Err(error) => {
                let message = format_args!("rule {name}: the grant to {address} could not be revoked: {error}");
                self.events.report(now, Event::GrantFailed, Some(name), Some(address), message);
            }
        }
        result
    }
}
