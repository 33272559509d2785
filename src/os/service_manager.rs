//! Notifications to the service manager (sd_notify(3)). Without one, nothing is sent and the daemon is not woken.
//!
//! A service manager that does not read is not waited for. That the daemon is ready, or reads its configuration again, is
//! sent again until it is taken; of the rest the next message says more than the last one.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use knock_proto::Time;
use sd_notify::NotifyState;

use crate::os::clock::now;

/// The time until a message that was not accepted is sent again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Messages that wait at most: reloads while nobody reads.
const WAITING: usize = 64;

/// The connection to the service manager.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    watchdog: Option<Watchdog>,
    status: String,
    /// The messages that must reach the service manager and were not accepted yet, in order.
    waiting: VecDeque<String>,
    retry_due: Option<Time>,
}

/// The time of the next ping, which shows the service manager that the event loop runs.
#[derive(Clone, Copy, Debug)]
struct Watchdog {
    interval: Duration,
    due: Time,
}

impl Notifier {
    /// A notifier that pings the watchdog, where the service manager has one (`WatchdogSec=` of systemd.service(5)).
    pub(crate) fn new(now: Time) -> Notifier {
        Notifier {
            watchdog: sd_notify::watchdog_enabled().and_then(|time| Watchdog::new(now, time)),
            ..Self::default()
        }
    }

    /// Start-up continues, and may take up to `time` from now.
    pub(crate) fn starting(&self, time: Duration) {
        tell(&[NotifyState::ExtendTimeoutUsec(microseconds(time))]);
    }

    /// Start-up is over: the daemon receives knocks, and the guarded ports are closed.
    pub(crate) fn ready(&mut self, status: String) {
        self.must_tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.status = status;
    }

    /// A line for `systemctl status`, sent where it is another than the last one.
    pub(crate) fn status(&mut self, status: String) {
        if status != self.status {
            self.must_tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// A reload begins; [`Notifier::ready`] ends it, whatever its result.
    pub(crate) fn reloading(&mut self) {
        // Without the time, systemd 253 and later takes the reload for failed.
        if let Ok(since) = NotifyState::monotonic_usec_now() {
            self.must_tell(&[NotifyState::Reloading, since]);
        }
    }

    /// The daemon is about to end, and needs up to `time` for that.
    pub(crate) fn stopping(&self, time: Duration) {
        let limit = NotifyState::ExtendTimeoutUsec(microseconds(time));
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping"), limit]);
    }

    /// When the next ping to the watchdog is due.
    pub(crate) fn next_ping(&self) -> Option<Time> {
        self.watchdog.map(|watchdog| watchdog.due)
    }

    /// When a message is sent again.
    pub(crate) fn next_retry(&self) -> Option<Time> {
        self.retry_due
    }

    /// Sends again the messages that the service manager did not accept, where it is time.
    pub(crate) fn retry(&mut self, now: Time) {
        if self.retry_due.is_some_and(|due| due <= now) {
            self.send_waiting(now);
        }
    }

    /// Pings the watchdog.
    pub(crate) fn ping(&mut self, now: Time) {
        if let Some(watchdog) = &mut self.watchdog {
            let taken = tell(&[NotifyState::Watchdog]);
            watchdog.due = now.after(if taken { watchdog.interval } else { watchdog.interval.min(RETRY_PAUSE) });
        }
    }

    /// Sends a message behind those that wait, now or later.
    fn must_tell(&mut self, state: &[NotifyState<'_>]) {
        // The message after a status has another status, now or soon.
        if self.waiting.back().is_some_and(|last| last.starts_with("STATUS=")) {
            self.waiting.pop_back();
        }
        if self.waiting.len() < WAITING {
            self.waiting.push_back(message(state));
        }
        self.send_waiting(now());
    }

    fn send_waiting(&mut self, now: Time) {
        self.retry_due = None;
        while let Some(message) = self.waiting.front() {
            if !offer(message) {
                self.retry_due = Some(now.after(RETRY_PAUSE));
                return;
            }
            self.waiting.pop_front();
        }
    }
}

impl Watchdog {
    /// Half of its time, as sd_watchdog_enabled(3) advises: one ping may be late.
    fn new(now: Time, time: Duration) -> Option<Watchdog> {
        let interval = time / 2;
        (!interval.is_zero()).then(|| Watchdog { interval, due: now.after(interval) })
    }
}

/// At most 71 minutes, which is all that the crate's type holds.
fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

fn message(state: &[NotifyState<'_>]) -> String {
    state.iter().map(|state| format!("{state}\n")).collect()
}

/// Sends a message; whether it was taken. One that is lost is no harm.
fn tell(state: &[NotifyState<'_>]) -> bool {
    offer(&message(state))
}

/// Whether the message needs no other try: it was taken, or never will be. A service manager that does not listen is
/// no reason not to serve.
fn offer(message: &str) -> bool {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return true };
    match send(&place, message) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => {
            log::debug!("cannot notify the service manager: {error}");
            true
        }
        Ok(()) => true,
    }
}

/// As the crate does it, but without waiting.
fn send(place: &OsStr, message: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(place)?;
    socket.send(message.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_watchdog_nothing_wakes_the_daemon() {
        let mut notifier = Notifier::default();
        notifier.ping(Time::from_millis(1));
        assert_eq!(notifier.next_ping(), None);
    }

    #[test]
    fn the_watchdog_is_fed_at_half_of_its_time() {
        let start = Time::from_millis(1_000);
        let watchdog = Watchdog::new(start, Duration::from_secs(30));
        let mut notifier = Notifier { watchdog, ..Notifier::default() };
        assert_eq!(notifier.next_ping(), Some(start.after(Duration::from_secs(15))));
        let late = start.after(Duration::from_secs(16));
        notifier.ping(late);
        assert_eq!(notifier.next_ping(), Some(late.after(Duration::from_secs(15))));
    }

    #[test]
    fn a_watchdog_without_time_is_not_used() {
        assert!(Watchdog::new(Time::from_millis(1), Duration::ZERO).is_none());
    }
}
