//! What the event loop waits for: descriptors and one deadline.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use knock_proto::Time;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Descriptors that are ready in one turn at most; the others are ready in the next.
const EVENTS_MAX: usize = 64;
/// The key of the timer. Keys of watched descriptors are greater.
const TIMER: u64 = 0;
/// The key of the timer that expires when the machine was suspended.
const AWAKE: u64 = 1;
/// The bits of a key that are the number of its descriptor. The others count the calls of [`Poller::watch`].
const DESCRIPTOR: u64 = u32::MAX as u64;

/// An epoll(7) instance with a timer on `CLOCK_BOOTTIME`, the clock of [`Time`]. Each descriptor has a value of type
/// `T`, by which the poller reports that it is ready.
pub(crate) struct Poller<T> {
    epoll: OwnedFd,
    timer: OwnedFd,
    awake: OwnedFd,
    deadline: Option<Time>,
    /// The key and the value of each watched descriptor, by its number.
    watched: BTreeMap<u64, (u64, T)>,
    watches: u32,
    events: Vec<epoll::Event>,
    /// How many of the events have been reported.
    reported: usize,
}

impl<T: Copy> Poller<T> {
    /// A poller that waits for nothing yet.
    ///
    /// # Errors
    ///
    /// Where there are no more descriptors.
    pub(crate) fn new() -> io::Result<Poller<T>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        let awake = wake_up_timer()?;
        epoll::add(&epoll, &awake, EventData::new_u64(AWAKE), EventFlags::IN)?;
        Ok(Poller {
            epoll,
            timer,
            awake,
            deadline: None,
            watched: BTreeMap::new(),
            watches: 0,
            events: Vec::with_capacity(EVENTS_MAX),
            reported: 0,
        })
    }

    /// Waits for input on the descriptor too, and reports it by `value`. A descriptor that is watched already keeps its
    /// value. A closed descriptor is watched no longer, and no event of it is reported by the value of a later
    /// descriptor that has its number.
    ///
    /// # Errors
    ///
    /// Where epoll refuses.
    pub(crate) fn watch(&mut self, descriptor: impl AsFd, value: T) -> io::Result<()> {
        let number = u64::from(descriptor.as_fd().as_raw_fd().unsigned_abs());
        // After 2^32 calls, no event of the first is left.
        let watches = self.watches.checked_add(1).unwrap_or(1);
        let key = u64::from(watches) << 32 | number;
        match epoll::add(&self.epoll, descriptor, EventData::new_u64(key), EventFlags::IN) {
            Ok(()) => {
                self.watches = watches;
                self.watched.insert(number, (key, value));
                Ok(())
            }
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for input on the descriptor no longer. One that is not watched stays so.
    ///
    /// # Errors
    ///
    /// Where epoll refuses.
    pub(crate) fn unwatch(&mut self, descriptor: impl AsFd) -> io::Result<()> {
        self.watched.remove(&u64::from(descriptor.as_fd().as_raw_fd().unsigned_abs()));
        match epoll::delete(&self.epoll, descriptor) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until a descriptor is ready or the deadline is reached. A signal ends the wait as well, and so does waking
    /// up from a suspension. [`Poller::next`] says what is ready.
    ///
    /// # Errors
    ///
    /// Where epoll or the timer fails, which they don't.
    pub(crate) fn wait(&mut self, deadline: Option<Time>) -> io::Result<()> {
        self.set_deadline(deadline)?;
        self.events.clear();
        self.reported = 0;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The next descriptor that was ready when the wait ended.
    pub(crate) fn next(&mut self) -> Option<T> {
        while let Some(event) = self.events.get(self.reported) {
            self.reported += 1;
            match event.data.u64() {
                TIMER => {
                    // Unread, it would stay readable.
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                    self.deadline = None;
                }
                // ECANCELED, and it stays armed.
                AWAKE => drop(rustix::io::read(&self.awake, &mut [0; 8])),
                key => match self.watched.get(&(key & DESCRIPTOR)) {
                    Some(&(current, value)) if current == key => return Some(value),
                    _ => {}
                },
            }
        }
        None
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
        let poller = Poller::<()>::new().expect("a poller");
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", poller.awake.as_raw_fd())).expect("proc(5)");
        // `CLOCK_REALTIME`; `TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET`.
        assert!(info.contains("clockid: 0\n") && info.contains("settime flags: 03\n"), "{info}");
        let watched =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", poller.epoll.as_raw_fd())).expect("proc(5)");
        assert!(watched.contains(&format!("tfd: {:8} ", poller.awake.as_raw_fd())), "{watched}");
    }

    #[test]
    fn an_event_of_a_closed_descriptor_is_not_reported_by_the_value_of_its_successor() {
        let mut poller = Poller::new().expect("a poller");
        let readable = || {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
            rustix::io::write(&theirs, b"x").expect("sent");
            (OwnedFd::from(ours), theirs)
        };
        let [(first, _a), (mut second, _b), (successor, _c)] = [readable(), readable(), readable()];
        poller.watch(&first, "first").expect("watched");
        poller.watch(&second, "second").expect("watched");
        poller.watch(&second, "another value").expect("watched already");
        poller.wait(None).expect("ready");
        assert_eq!(poller.next(), Some("first"));
        // It closes the second, and gives its number to the successor.
        rustix::io::dup3(&successor, &mut second, rustix::io::DupFlags::CLOEXEC).expect("the same number");
        poller.watch(&second, "successor").expect("watched");
        assert_eq!(poller.next(), None);
        poller.wait(None).expect("ready");
        let mut ready: Vec<_> = std::iter::from_fn(|| poller.next()).collect();
        ready.sort_unstable();
        assert_eq!(ready, ["first", "successor"]);
    }
}
