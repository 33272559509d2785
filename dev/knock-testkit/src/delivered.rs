//! What the packet filter of a host let through.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrV6, SocketFlags, SocketType, ipproto, recvfrom, socket_with};

use crate::error::{Attempt, Result};
use crate::namespace::Namespace;
use crate::packet::Flags;

/// What the sockets may hold while the reader waits for a processor.
const RECEIVE_QUEUE: usize = 32 << 20;
/// The most sources and ports that are told apart.
const SEEN_MAX: usize = 1 << 18;
/// How long the reader sleeps before it looks whether it is to end.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// The first segments of TCP connections that reach a host's own TCP, until dropped.
///
/// A raw socket (raw(7)) gets a copy of each segment after all of netfilter, whatever becomes of the rulesets, and
/// whether or not anything listens on the port.
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
        let attempt = || "open a raw socket (it needs CAP_NET_RAW)".to_owned();
        let open = |family| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = namespace.run(|| socket_with(family, SocketType::RAW, flags, Some(ipproto::TCP)))?;
            let socket = socket.attempt(attempt)?;
            // In a user namespace the usual bound holds.
            let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_QUEUE);
            Ok(socket)
        };
        let sockets = [open(AddressFamily::INET)?, open(AddressFamily::INET6)?];
        let (seen, stop) = (Arc::new(Mutex::new(Seen::new())), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut both = [PollFd::new(&sockets[0], PollFlags::IN), PollFd::new(&sockets[1], PollFlags::IN)];
                let _ = poll(&mut both, Some(&WAIT));
                read(&sockets[0], false, &shared);
                read(&sockets[1], true, &shared);
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

/// Takes all that is there.
fn read(socket: &OwnedFd, version6: bool, seen: &Mutex<Seen>) {
    let mut bytes = [0; 2048];
    while let Ok((_, length, from)) = recvfrom(socket, &mut bytes, RecvFlags::TRUNC) {
        // IPv4 comes with its header, IPv6 without (raw(7), ipv6(7)).
        let packet = &bytes[..length.min(bytes.len())];
        let (source, segment) = if version6 {
            let from = from.and_then(|from| SocketAddrV6::try_from(from).ok());
            (from.map(|from| IpAddr::from(*from.ip())), Some(packet))
        } else {
            let header = packet.first().map(|first| usize::from(first & 15) * 4);
            let source = packet.get(12..16).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            (source.map(|source| Ipv4Addr::from(source).into()), header.and_then(|header| packet.get(header..)))
        };
        let (Some(source), Some(&[_, _, high, low, .., flags, _, _, _, _, _, _])) =
            (source, segment.and_then(|segment| segment.get(..20)))
        else {
            continue;
        };
        let flags = Flags(flags);
        if flags.has(Flags::SYN) && !flags.has(Flags::ACK) {
            let now = Instant::now();
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (source, u16::from_be_bytes([high, low]));
            if seen.len() < SEEN_MAX || seen.contains_key(&key) {
                let syns = seen.entry(key).or_insert(Syns { count: 0, first: now, last: now });
                syns.count += 1;
                syns.last = now;
            }
        }
    }
}
