//! What becomes of the events of grants: each is counted and logged, here alone.

use knock_grant::GrantEvent;
use knock_proto::Time;
use log::Level;

use crate::control::protocol::What;
use crate::daemon::Daemon;
use crate::logging::events::Event;

impl Daemon {
    /// Counts and logs what has happened to grants since it was called last.
    pub(crate) fn observe_grants(&mut self, now: Time) {
        while let Some(event) = self.grants.poll_event() {
            self.count(&event);
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
            self.events.report(now, kind, rule, event.address(), format_args!("{event}"));
        }
    }

    fn count(&mut self, event: &GrantEvent) {
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
