//! What the packet filter of a host let through.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::net::ipproto;

use crate::arrivals::Arrivals;
use crate::error::Result;
use crate::namespace::Namespace;

/// The most sources and ports that are counted one by one.
const SEEN_MAX: usize = 1 << 18;
/// How long the reader sleeps before it looks whether it is to end.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// The first segments of TCP connections that reach a host's own TCP, read by a thread until this is dropped.
#[derive(Debug)]
pub struct Delivered {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

type Seen = HashMap<(IpAddr, u16), Syns>;

/// How many came from one source to one port.
#[derive(Clone, Copy, Debug)]
struct Syns {
    count: u64,
    first: Instant,
    last: Instant,
}

/// How many got through, and in which time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// The segments.
    pub segments: u64,
    /// From the first one to the last.
    pub span: Duration,
}

impl Delivered {
    /// Watches a namespace.
    pub fn watch(namespace: &Namespace) -> Result<Delivered> {
        let arrivals = Arrivals::of(namespace, &[ipproto::TCP])?;
        let (seen, stop) = (Arc::new(Mutex::new(Seen::new())), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                arrivals.wait(&WAIT);
                note(&arrivals, &shared);
            }
        });
        Ok(Delivered { seen, stop, thread: Some(thread) })
    }

    /// The SYNs of those sources and ports that `wanted` picks.
    pub fn passed(&self, wanted: impl Fn(IpAddr, u16) -> bool) -> Passed {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let picked: Vec<&Syns> =
            seen.iter().filter(|((source, port), _)| wanted(*source, *port)).map(|e| e.1).collect();
        let first = picked.iter().map(|syns| syns.first).min();
        let last = picked.iter().map(|syns| syns.last).max();
        Passed {
            segments: picked.iter().map(|syns| syns.count).sum(),
            span: first.zip(last).map_or(Duration::ZERO, |(first, last)| last.duration_since(first)),
        }
    }
}

impl Drop for Delivered {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes note of all that is there.
fn note(arrivals: &Arrivals, seen: &Mutex<Seen>) {
    arrivals.read(|arrival| {
        if !arrival.opens {
            return;
        }
        let now = Instant::now();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (arrival.source.ip(), arrival.port);
        if seen.len() < SEEN_MAX || seen.contains_key(&key) {
            let syns = seen.entry(key).or_insert(Syns { count: 0, first: now, last: now });
            syns.count += 1;
            syns.last = now;
        }
    });
}
