//! What the service manager is told (sd_notify(3)). Without one, nothing is told and nothing is woken for.

use std::time::Duration;

use knock_proto::Time;
use sd_notify::NotifyState;

/// The service manager, as long as the daemon has something to tell it.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    watchdog: Option<Watchdog>,
    status: String,
}

/// When the service manager next wants to hear that the event loop goes round.
#[derive(Clone, Copy, Debug)]
struct Watchdog {
    interval: Duration,
    due: Time,
}

impl Notifier {
    /// A notifier that feeds the watchdog, where the service manager keeps one (`WatchdogSec=` of systemd.service(5)).
    pub(crate) fn new(now: Time) -> Notifier {
        Notifier {
            watchdog: sd_notify::watchdog_enabled().and_then(|time| Watchdog::new(now, time)),
            ..Self::default()
        }
    }

    /// Start-up goes on, and may take up to `time` from now.
    pub(crate) fn starting(&self, time: Duration) {
        tell(&[NotifyState::ExtendTimeoutUsec(microseconds(time))]);
    }

    /// Start-up is over: knocks are heard, and what is guarded is closed.
    pub(crate) fn ready(&mut self, status: String) {
        tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.status = status;
    }

    /// A line for `systemctl status`, sent where it is another than the last one.
    pub(crate) fn status(&mut self, status: String) {
        if status != self.status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// The configuration is about to be read anew; [`Notifier::ready`] ends that, however it went.
    pub(crate) fn reloading(&self) {
        // Without the time, systemd 253 and later takes the reload for failed.
        if let Ok(since) = NotifyState::monotonic_usec_now() {
            tell(&[NotifyState::Reloading, since]);
        }
    }

    /// The daemon is about to end, and needs up to `time` for that.
    pub(crate) fn stopping(&self, time: Duration) {
        let limit = NotifyState::ExtendTimeoutUsec(microseconds(time));
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping"), limit]);
    }

    /// When the watchdog has to be fed next.
    pub(crate) fn next_feeding(&self) -> Option<Time> {
        self.watchdog.map(|watchdog| watchdog.due)
    }

    /// Feeds the watchdog where it is time.
    pub(crate) fn feed(&mut self, now: Time) {
        if let Some(watchdog) = &mut self.watchdog
            && watchdog.due <= now
        {
            tell(&[NotifyState::Watchdog]);
            watchdog.due = now.after(watchdog.interval);
        }
    }
}

impl Watchdog {
    /// Half of its time, as sd_watchdog_enabled(3) advises: one feeding may be late.
    fn new(now: Time, time: Duration) -> Option<Watchdog> {
        let interval = time / 2;
        (!interval.is_zero()).then(|| Watchdog { interval, due: now.after(interval) })
    }
}

/// At most 71 minutes, which is all that the crate's type holds.
fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// A service manager that does not listen is no reason not to serve.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("the service manager was not told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_watchdog_nothing_wakes_the_daemon() {
        let mut notifier = Notifier::default();
        notifier.feed(Time::from_millis(1));
        assert_eq!(notifier.next_feeding(), None);
    }

    #[test]
    fn the_watchdog_is_fed_at_half_of_its_time() {
        let start = Time::from_millis(1_000);
        let watchdog = Watchdog::new(start, Duration::from_secs(30));
        let mut notifier = Notifier { watchdog, status: String::new() };
        assert_eq!(notifier.next_feeding(), Some(start.after(Duration::from_secs(15))));
        notifier.feed(start.after(Duration::from_secs(14)));
        assert_eq!(notifier.next_feeding(), Some(start.after(Duration::from_secs(15))));
        let late = start.after(Duration::from_secs(16));
        notifier.feed(late);
        assert_eq!(notifier.next_feeding(), Some(late.after(Duration::from_secs(15))));
    }

    #[test]
    fn a_watchdog_without_time_is_none() {
        assert!(Watchdog::new(Time::from_millis(1), Duration::ZERO).is_none());
    }
}
