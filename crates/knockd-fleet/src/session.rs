//! What the three threads share while one knockd is connected.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knock_fleet::link::{Claim, FromFleet, RecordBytes, Settings, State};
use knock_fleet::{NodeId, Record};
use knock_spa::NONCE_LENGTH;

use crate::own::Own;
use crate::socket::Socket;

/// The most claims that wait. knockd asks for one for each signed packet that names no address.
const CLAIMS_MAX: usize = 1000;

/// A record that is older, in milliseconds, is handed over again, or was waiting for a long time.
const AGAIN: u64 = 5000;

/// A claim that waits for the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claiming {
    pub(crate) nonce: [u8; NONCE_LENGTH],
    pub(crate) lifetime: u32,
}

/// Whose problem it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Writer,
    Reader,
}

/// What the writer does next.
pub(crate) enum Work {
    Claim(Claiming),
    Publish(Vec<RecordBytes>),
    /// Nothing came.
    Idle,
}

/// Where records are written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) server: String,
    /// The epoch of the store.
    pub(crate) epoch: Vec<u8>,
    /// The number of the writer's connection, from 1 on, of those that worked.
    pub(crate) connection: u64,
}

/// The work of one connection to knockd.
pub(crate) struct Session {
    pub(crate) settings: Settings,
    pub(crate) node: NodeId,
    socket: Arc<Socket>,
    own: Arc<Mutex<Own>>,
    claims: Mutex<VecDeque<Claiming>>,
    /// Signalled when there is work for the writer; it goes with `claims`.
    work: Condvar,
    state: Mutex<State>,
    /// What the writer and the reader suffer from.
    problems: Mutex<[String; 2]>,
    place: Mutex<Option<Place>>,
    /// A server that is earlier in the list than the one that is written to, and can be written to again.
    better: Mutex<Option<usize>>,
    /// Whether the table of nodes is too long to be read.
    pub(crate) nodes_left_out: AtomicBool,
    stopped: AtomicBool,
}

impl Session {
    /// `None`: the settings are not valid.
    pub(crate) fn new(settings: Settings, socket: Arc<Socket>, own: Arc<Mutex<Own>>) -> Option<Session> {
        let (_, node) = settings.names().filter(|_| !settings.servers.is_empty())?;
        let (claims, work, state, problems, place, better, nodes_left_out, stopped) = Default::default();
        Some(Session {
            settings,
            node,
            socket,
            own,
            claims,
            work,
            state,
            problems,
            place,
            better,
            nodes_left_out,
            stopped,
        })
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.socket.close();
        self.work.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn own(&self) -> MutexGuard<'_, Own> {
        lock(&self.own)
    }

    /// Puts a record of this node into the queue.
    pub(crate) fn publish(&self, bytes: RecordBytes) {
        // It comes from knockd; if it is none, nobody would accept it.
        let Ok(record) = Record::decode(&bytes) else { return };
        let end = record.end().as_millis();
        match record.time.as_millis().saturating_add(AGAIN) < now() {
            true => self.own().add_again(bytes, end),
            false => self.own().add(bytes, end),
        }
        self.wake();
    }

    /// There may be something in the queue.
    pub(crate) fn wake(&self) {
        // Not between the writer's look at the queue and its sleep.
        drop(lock(&self.claims));
        self.work.notify_all();
    }

    /// Asks the store for a claim, if it is there.
    pub(crate) fn claim(&self, nonce: [u8; NONCE_LENGTH], lifetime: u32) {
        let mut claims = lock(&self.claims);
        let accepted = lock(&self.state).writes && claims.len() < CLAIMS_MAX;
        if accepted {
            claims.push_back(Claiming { nonce, lifetime });
        }
        drop(claims);
        match accepted {
            true => self.work.notify_all(),
            false => self.answer(nonce, Claim::Unknown),
        }
    }

    pub(crate) fn answer(&self, nonce: [u8; NONCE_LENGTH], claim: Claim) {
        self.send(&FromFleet::Claimed { nonce, claim });
    }

    /// Waits for work, but no longer than that; ends sooner where a server is offered. Claims go first: a user waits for them.
    pub(crate) fn work(&self, most: usize, wait: Duration) -> Work {
        let (mut claims, mut waited) = (lock(&self.claims), false);
        loop {
            if self.is_stopped() {
                return Work::Idle;
            }
            if let Some(claim) = claims.pop_front() {
                return Work::Claim(claim);
            }
            let batch = self.own().batch(most, now());
            if !batch.is_empty() {
                return Work::Publish(batch);
            }
            if waited || lock(&self.better).is_some() {
                return Work::Idle;
            }
            let (woken, timeout) = self.work.wait_timeout(claims, wait).unwrap_or_else(PoisonError::into_inner);
            (claims, waited) = (woken, timeout.timed_out());
        }
    }

    /// Sleeps, but not longer than the session lasts.
    pub(crate) fn sleep(&self, pause: Duration) {
        let claims = lock(&self.claims);
        let stopped = |_: &mut VecDeque<Claiming>| !self.is_stopped();
        drop(self.work.wait_timeout_while(claims, pause, stopped));
    }

    /// The store can't be written to: no claim can be answered.
    pub(crate) fn drop_claims(&self) {
        let claims = std::mem::take(&mut *lock(&self.claims));
        claims.into_iter().for_each(|claim| self.answer(claim.nonce, Claim::Unknown));
    }

    /// Changes the state and reports it to knockd.
    pub(crate) fn report(&self, change: impl FnOnce(&mut State)) {
        let state = {
            let mut state = lock(&self.state);
            change(&mut state);
            let own = self.own();
            state.queue = u32::try_from(own.waiting()).unwrap_or(u32::MAX);
            state.lost = own.lost;
            state.clone()
        };
        self.send(&FromFleet::State(Box::new(state)));
    }

    /// Counts, without a report.
    pub(crate) fn count(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
    }

    /// Notes what is wrong for the writer or the reader, or that nothing is, in the log and for knockd.
    pub(crate) fn problem(&self, side: Side, problem: Option<String>, change: impl FnOnce(&mut State)) {
        let problem = problem.unwrap_or_default();
        let mut problems = lock(&self.problems);
        // Both mostly suffer from the same, again and again.
        if !problem.is_empty() && !problems.contains(&problem) {
            log::warn!("{problem}; trying again");
        }
        problems[side as usize] = problem;
        let shown = problems.iter().find(|problem| !problem.is_empty()).cloned().unwrap_or_default();
        drop(problems);
        self.report(|state| {
            change(state);
            state.problem = shown;
        });
    }

    /// Where the writer writes; `None` at first.
    pub(crate) fn place(&self) -> Option<Place> {
        lock(&self.place).clone()
    }

    pub(crate) fn set_place(&self, place: Place) {
        *lock(&self.place) = Some(place);
    }

    /// Whether records can be written now.
    pub(crate) fn writes(&self) -> bool {
        lock(&self.state).writes
    }

    /// The server of that number in the list can be written to.
    pub(crate) fn offer(&self, index: usize) {
        *lock(&self.better) = Some(index);
        self.wake();
    }

    /// What was offered last.
    pub(crate) fn offered(&self) -> Option<usize> {
        lock(&self.better).take()
    }

    /// Sends a message to knockd, and waits where it has not read the ones before.
    pub(crate) fn send(&self, message: &FromFleet) {
        self.socket.send(message);
    }
}

/// Ends the session with the thread that holds it, however that ends: nothing works without it.
pub(crate) struct Ends(pub(crate) Arc<Session>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A thread that panicked has left nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
