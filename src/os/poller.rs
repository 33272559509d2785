//! What the event loop waits for: descriptors and one deadline.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use knock_proto::Time;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Descriptors that are ready in one turn at most; the others are ready in the next.
const EVENTS_MAX: usize = 64;
/// The number of the timer among the descriptors.
const TIMER: u64 = u64::MAX;
/// That of the timer which tells that the machine has slept.
const AWAKE: u64 = u64::MAX - 1;

/// An epoll(7) instance with a timer on `CLOCK_BOOTTIME`, the clock of [`Time`].
pub(crate) struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    awake: OwnedFd,
    deadline: Option<Time>,
    events: Vec<epoll::Event>,
}

impl Poller {
    /// A poller that waits for nothing yet.
    ///
    /// # Errors
    ///
    /// Where there are no more descriptors.
    pub(crate) fn new() -> io::Result<Poller> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        let awake = wake_up_timer()?;
        epoll::add(&epoll, &awake, EventData::new_u64(AWAKE), EventFlags::IN)?;
        Ok(Poller { epoll, timer, awake, deadline: None, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Waits for input on the descriptor too, and tells of it by `token`. A closed descriptor is forgotten.
    ///
    /// # Errors
    ///
    /// Where epoll refuses, for example because it is watched already.
    pub(crate) fn watch(&self, descriptor: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, descriptor, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Waits for output too, or no longer.
    ///
    /// # Errors
    ///
    /// Where the descriptor is not watched.
    pub(crate) fn watch_output(&self, descriptor: impl AsFd, token: u64, output: bool) -> io::Result<()> {
        let flags = if output { EventFlags::OUT } else { EventFlags::IN };
        Ok(epoll::modify(&self.epoll, descriptor, EventData::new_u64(token), flags)?)
    }

    /// Waits for the descriptor no longer.
    ///
    /// # Errors
    ///
    /// Where it is not watched.
    pub(crate) fn forget(&self, descriptor: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, descriptor)?)
    }

    /// Waits until a descriptor is ready or the deadline is reached, and leaves the tokens of those that are ready in
    /// `ready`. A signal ends the wait as well, and so does waking up from a suspension.
    ///
    /// # Errors
    ///
    /// Where epoll or the timer fails, which they don't.
    pub(crate) fn wait(&mut self, deadline: Option<Time>, ready: &mut Vec<u64>) -> io::Result<()> {
        self.set_deadline(deadline)?;
        self.events.clear();
        ready.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &self.events {
            match event.data.u64() {
                TIMER => {
                    // Unread, it would stay readable.
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                    self.deadline = None;
                }
                // ECANCELED, and it stays armed.
                AWAKE => drop(rustix::io::read(&self.awake, &mut [0; 8])),
                token => ready.push(token),
            }
        }
        Ok(())
    }

    fn set_deadline(&mut self, deadline: Option<Time>) -> io::Result<()> {
        if self.deadline == deadline {
            return Ok(());
        }
        self.deadline = deadline;
        // A time of zero would disarm it.
        let nanoseconds = deadline.map_or(0, |deadline| deadline.as_nanos().max(1));
        let value = Timespec {
            tv_sec: i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanoseconds % 1_000_000_000).unwrap_or(0),
        };
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: interval, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        Ok(())
    }
}

/// A timer that never ends, and that becomes readable where the wall clock jumps (`TFD_TIMER_CANCEL_ON_SET` of
/// timerfd_create(2)). The kernel lets it jump when the machine wakes up (timerfd_resume).
fn wake_up_timer() -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let never = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec { tv_sec: i64::MAX, tv_nsec: 0 },
    };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &never)?;
    Ok(timer)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_jump_of_the_wall_clock_ends_the_wait() {
        // No test may set the clock of the machine that it runs on: the kernel says what the timer waits for.
        let poller = Poller::new().expect("a poller");
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", poller.awake.as_raw_fd())).expect("proc(5)");
        // `CLOCK_REALTIME`; `TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET`.
        assert!(info.contains("clockid: 0\n") && info.contains("settime flags: 03\n"), "{info}");
        let watched =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", poller.epoll.as_raw_fd())).expect("proc(5)");
        assert!(watched.contains(&format!("tfd: {:8} ", poller.awake.as_raw_fd())), "{watched}");
    }
}
