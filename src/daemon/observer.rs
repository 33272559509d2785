//! What becomes of the events of grants: each is counted and logged, here alone.

use std::collections::HashMap;
use std::time::SystemTime;

use knock_grant::{Cause, Grant, GrantEvent};
use knock_proto::{RuleId, Time};
use knock_spa::Fingerprint;
use log::Level;
use time::OffsetDateTime;

use crate::control::protocol::What;
use crate::daemon::Daemon;
use crate::logging::events::Event;
use crate::os::clock::clock_reading;

/// Grants of each rule since the start. A rule keeps its numbers over a reload.
#[derive(Debug, Default)]
pub(crate) struct RuleCounters(HashMap<RuleId, RuleCount>);

/// Grants of a rule since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleCount {
    /// Grants that began or were extended.
    pub(crate) granted: u64,
    /// Grants that could not be made.
    pub(crate) failed: u64,
}

impl RuleCounters {
    /// The numbers of a rule.
    pub(crate) fn of(&self, rule: &RuleId) -> RuleCount {
        self.0.get(rule).copied().unwrap_or_default()
    }

    /// Counts an event of a rule that exists. Rules that exist no longer, `exists` says which, make room: there are never
    /// more numbers than rules.
    fn count(&mut self, event: &GrantEvent, rules: usize, exists: impl Fn(&RuleId) -> bool) {
        let (granted, failed) = match event {
            GrantEvent::Granted { .. } | GrantEvent::Extended { .. } => (1, 0),
            GrantEvent::NotGranted { .. } => (0, 1),
            _ => return,
        };
        let Some(rule) = event.rule().filter(|rule| exists(rule)) else { return };
        if self.0.len() >= rules && !self.0.contains_key(rule) {
            self.0.retain(|rule, _| exists(rule));
        }
        let count = self.0.entry(rule.clone()).or_default();
        count.granted += granted;
        count.failed += failed;
    }
}

/// A time in UTC, to the second (RFC 3339).
fn in_utc(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (hour, minute, second) = time.to_hms();
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", time.date())
}

/// The fields of the journal that name the user of a signed packet; none for other causes.
pub(super) fn user_fields(cause: &Cause) -> Vec<(&'static str, String)> {
    match cause.user() {
        Some(user) => fields_of_user(&user.name, &user.key).into(),
        None => Vec::new(),
    }
}

/// The fields of the journal that name a user.
pub(super) fn fields_of_user(name: &str, key: &Fingerprint) -> [(&'static str, String); 2] {
    [("KNOCK_USER", name.to_owned()), ("KNOCK_KEY", key.to_string())]
}

impl Daemon {
    /// Counts and logs what has happened to grants since it was called last.
    pub(crate) fn observe_grants(&mut self, now: Time) {
        while let Some(event) = self.grants.poll_event() {
            self.count(&event);
            if let Some(fleet) = &mut self.fleet {
                fleet.note(now, &event);
            }
            let kind = match &event {
                GrantEvent::Granted { .. } => Event::Granted,
                GrantEvent::Extended { .. } => Event::Extended,
                GrantEvent::Revoked { .. } => Event::Revoked,
                GrantEvent::Expired { .. } => Event::Expired,
                GrantEvent::NotGranted { .. } | GrantEvent::NotRevoked { .. } | GrantEvent::NotExpired { .. } => {
                    Event::GrantFailed
                }
                GrantEvent::Stray { .. } | GrantEvent::RevokedStrays { .. } => Event::Stray,
                GrantEvent::TableRestored { .. } | GrantEvent::SetsRestored { .. } => Event::Restored,
                GrantEvent::NotRestored { .. } => {
                    log::error!("{event}");
                    continue;
                }
                GrantEvent::Shortened { .. } => {
                    log::info!("{event}");
                    continue;
                }
                GrantEvent::NothingToRevoke { rule, .. } => {
                    self.events.line(now, Level::Debug, rule, format_args!("{event}"));
                    continue;
                }
                GrantEvent::Note { level, rule, .. } => {
                    self.events.line(now, *level, rule, format_args!("{event}"));
                    continue;
                }
            };
            let rule = event.rule().map(|rule| rule.as_str());
            if let Some(address) = event.address() {
                let what = if kind == Event::GrantFailed { What::Failed } else { What::Grant };
                self.note_outcome(now, address, rule, what, event.to_string());
            }
            let fields = self.fields(now, &event);
            let opens = match &event {
                GrantEvent::Granted { grant, .. } | GrantEvent::Extended { grant, .. } => {
                    format!("; opens {}", self.opens(grant))
                }
                _ => String::new(),
            };
            let message = format_args!("{event}{opens}");
            self.events.report_with(now, kind, rule, event.address(), &fields, message);
        }
    }

    /// What a grant opens.
    fn opens(&self, grant: &Grant) -> String {
        let opens = self.grants.policy().places(&grant.rule, grant.address);
        opens.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The fields of an event in the journal, beside rule and address.
    fn fields(&self, now: Time, event: &GrantEvent) -> Vec<(&'static str, String)> {
        let mut fields = Vec::new();
        if let Some(grant) = event.grant() {
            fields.push(("KNOCK_OPENS", self.opens(grant)));
            let prefix = grant.prefix.to_string();
            if prefix != grant.address.to_string() {
                fields.push(("KNOCK_PREFIX", prefix));
            }
            if matches!(event, GrantEvent::Granted { .. } | GrantEvent::Extended { .. }) {
                fields.push(("KNOCK_SECONDS", grant.timeout.as_secs_f64().to_string()));
                fields.push(("KNOCK_UNTIL", in_utc(clock_reading().wall + grant.expires.since(now))));
            }
        }
        fields.extend(event.cause().map(|cause| ("KNOCK_BY", cause.label())));
        match (event.cause(), event.grant().and_then(|grant| grant.basis.key)) {
            (Some(cause), _) if cause.user().is_some() => fields.extend(user_fields(cause)),
            (_, Some(key)) => {
                let signer = self.grants.policy().signers.keys.get(&key);
                // The user of a key that is gone has no name.
                let name = signer.map_or_else(|| key.to_string(), |signer| signer.name.to_string());
                fields.extend(fields_of_user(&name, &key));
            }
            (_, None) => {}
        }
        fields
    }

    fn count(&mut self, event: &GrantEvent) {
        let exists = |rule: &RuleId| self.config.rule(rule.as_str()).is_some();
        self.rule_counters.count(event, self.config.rules.len(), exists);
        let counters = &mut self.counters;
        match event {
            GrantEvent::Granted { .. } | GrantEvent::Extended { .. } => counters.grants += 1,
            GrantEvent::NotGranted { .. } => counters.failed_grants += 1,
            GrantEvent::Revoked { .. } => counters.revoked += 1,
            GrantEvent::Stray { .. } => counters.strays += 1,
            GrantEvent::RevokedStrays { count, .. } => counters.strays += *count as u64,
            GrantEvent::TableRestored { .. } | GrantEvent::SetsRestored { .. } => counters.restored += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use knock_grant::Grant;

    use super::*;

    fn granted(rule: &str) -> GrantEvent {
        let (rule, address) = (RuleId::from(rule), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let (since, expires) = (Time::default(), Time::default());
        let grant = Grant {
            rule,
            prefix: address.into(),
            address,
            since,
            expires,
            timeout: Duration::from_secs(1),
            basis: knock_grant::Basis::default(),
            elements: 1,
        };
        GrantEvent::Granted { grant, cause: Cause::Knock }
    }

    #[test]
    fn a_time_is_written_in_utc() {
        assert_eq!(in_utc(SystemTime::UNIX_EPOCH + Duration::from_secs(951_827_696)), "2000-02-29T12:34:56Z");
    }

    #[test]
    fn a_rule_keeps_its_numbers_and_rules_that_are_gone_make_room() {
        let mut counters = RuleCounters::default();
        let (ssh, web) = (RuleId::from("ssh"), RuleId::from("web"));
        for rule in ["ssh", "ssh", "web"] {
            counters.count(&granted(rule), 2, |_| true);
        }
        counters.count(&granted("gone"), 2, |rule| rule.as_str() != "gone");
        assert_eq!((counters.of(&ssh).granted, counters.of(&web).granted, counters.0.len()), (2, 1, 2));
        counters.count(&granted("new"), 2, |rule| rule.as_str() != "web");
        assert_eq!((counters.of(&ssh).granted, counters.of(&web).granted, counters.0.len()), (2, 0, 2));
    }
}
