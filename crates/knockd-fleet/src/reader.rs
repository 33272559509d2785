//! The thread that reads: once everything that is in the store, then what is new.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use knock_fleet::link::FromFleet;

use crate::backoff::Backoff;
use crate::problem::{Problem, StoreError};
use crate::session::{Ends, Place, Session, Side, now};
use crate::store::{BLOCK, Store, record, written};
use crate::writer::spread;

/// With so many entries in a second, reads are spaced: a store that serves thousands of nodes sends fewer, bigger answers.
const BUSY: usize = 20;
/// The space.
const SPACE: Duration = Duration::from_millis(200);
/// Where it took longer to hand entries on, the stream may have moved on past what it keeps.
const SLOW: Duration = Duration::from_secs(1);

/// The most members that are read: as many live grants as a thousand a second make in an hour, and more.
const MEMBERS_MAX: u64 = 5_000_000;
/// How often the reader looks whether the store is the same.
const TICK: Duration = Duration::from_secs(5);

/// Starts the thread.
pub(crate) fn spawn(session: Arc<Session>) -> io::Result<()> {
    let ends = Ends(session);
    thread::Builder::new().name("reader".to_owned()).spawn(move || run(&ends.0)).map(drop)
}

fn run(session: &Session) {
    let (mut backoff, mut index) = (Backoff::default(), 0);
    while !session.is_stopped() {
        let (server, mut since) = (choose(session, index), None);
        let read = Store::connect(&session.settings, &server)
            .and_then(|mut store| serve(session, &mut store, &server, &mut since));
        let Err(error) = read else {
            index = 0;
            continue;
        };
        session.problem(Side::Reader, Some(error.to_string()), |state| (state.reads, state.in_step) = (false, false));
        index += 1;
        session.sleep(backoff.next(since.map_or(Duration::ZERO, |since: Instant| since.elapsed()), spread()));
    }
}

/// The server to read from: one of those for it, or the one that is written to.
fn choose(session: &Session, index: usize) -> String {
    let settings = &session.settings;
    let servers = if settings.read_from.is_empty() { &settings.servers } else { &settings.read_from };
    let written_to = session.place().filter(|_| settings.read_from.is_empty() && session.writes());
    written_to.map_or_else(|| servers[index % servers.len()].clone(), |place| place.server)
}

/// Until the session ends, or records are written to another server.
fn serve(session: &Session, store: &mut Store, server: &str, since: &mut Option<Instant>) -> Result<(), StoreError> {
    while !session.is_stopped() && !is_left(session, server) {
        let connection = connection(session);
        let epoch = store.epoch()?;
        // Before the rest is read, so that nothing is missed in between.
        let position = store.newest()?;
        let started = Instant::now();
        let total = everything(session, store)?;
        since.get_or_insert_with(Instant::now);
        log::info!("{server}: {total} records are in the store, read in {} ms", started.elapsed().as_millis());
        session.problem(Side::Reader, None, |state| (state.reads, state.in_step) = (true, true));
        follow(session, store, server, position, Began { epoch, connection })?;
        session.report(|state| state.in_step = false);
    }
    Ok(())
}

/// Whether records are written to another server than the one that is read, and there is no other for reading.
fn is_left(session: &Session, server: &str) -> bool {
    let elsewhere = |place: Place| place.server != server;
    session.settings.read_from.is_empty() && session.writes() && session.place().is_some_and(elsewhere)
}

/// Hands on every record that is in the store, and has missing ones of this node written again.
fn everything(session: &Session, store: &mut Store) -> Result<u64, StoreError> {
    session.own().begin_sweep(now());
    // `known`: how many were read of those with the score `from`. They keep their order, and none is removed while it is live;
    // one that is new comes with the stream too.
    let (mut from, mut known, mut total): (Option<f64>, usize, u64) = (None, 0, 0);
    loop {
        let page = store.page(from, known)?;
        for (member, _) in &page.members {
            hand_on(session, member);
            total += 1;
        }
        if session.is_stopped() {
            // What was not read is not missing.
            return Ok(total);
        }
        if page.is_last {
            break;
        }
        let last = page.members.last().map(|(_, score)| *score);
        // A store that counts up, or has no end, is read no further.
        if total > MEMBERS_MAX || last.is_none() || from.is_some_and(|from| last > Some(from)) {
            return Err(store.error(Problem::Answer("ZRANGE")));
        }
        if from != last {
            (from, known) = (last, 0);
        }
        known += page.members.iter().filter(|(_, score)| Some(*score) == last).count();
    }
    let missing = session.own().end_sweep();
    if missing > 0 {
        log::warn!("records of this node that were not in the store: {missing}; writing them again");
        session.wake();
    }
    Ok(total)
}

/// How things were when everything was read.
struct Began {
    epoch: Option<Vec<u8>>,
    connection: u64,
}

/// Hands on what is new, until everything has to be read again.
fn follow(
    session: &Session,
    store: &mut Store,
    server: &str,
    mut position: String,
    began: Began,
) -> Result<(), StoreError> {
    let (mut rate, mut second, mut due) = (0, (Instant::now(), 0), Instant::now());
    while !session.is_stopped() && !is_left(session, server) {
        if due <= Instant::now() {
            due = Instant::now() + TICK;
            if !is_same(session, store, &began)? {
                return Ok(());
            }
        }
        let asked = Instant::now();
        let entries = store.read(&position)?;
        let (handing, count) = (Instant::now(), entries.len());
        for (id, entry) in entries {
            hand_on(session, &entry);
            let lag = written(&id).map_or(0, |written| store.time().saturating_sub(written));
            session.count(|state| state.lag = u32::try_from(lag).unwrap_or(u32::MAX));
            position = id;
        }
        if handing.elapsed() > SLOW && !store.has_entry(&position)? {
            log::warn!("knockd reads too slowly, and the store has dropped entries; reading everything again");
            return Ok(());
        }
        second.1 += count;
        if second.0.elapsed() >= Duration::from_secs(1) {
            rate = second.1;
            second = (Instant::now(), 0);
        }
        // Nothing, and sooner than a store says so, is from one that does not wait.
        if rate.max(second.1) > BUSY || (count == 0 && asked.elapsed() < BLOCK / 2) {
            session.sleep(SPACE);
        }
    }
    Ok(())
}

/// Whether the store has what was read, and the one that is written to has what this node wrote.
fn is_same(session: &Session, store: &mut Store, began: &Began) -> Result<bool, StoreError> {
    let (epoch, place) = (store.epoch()?, session.place());
    let written_to = place.as_ref().map(|place| &place.epoch).filter(|_| session.writes());
    if !session.settings.read_from.is_empty() && written_to.is_some_and(|there| epoch.as_ref() != Some(there)) {
        return Err(store.error(Problem::Stranger));
    }
    if began.epoch != epoch {
        // A store without an epoch had nothing; it may have been emptied again since.
        if began.epoch.is_some() {
            log::warn!("the store was emptied or is another one; reading everything again");
        }
        return Ok(false);
    }
    // A server that comes back may have lost what it had not written to its disk, or to its replica.
    Ok(began.connection == connection(session))
}

/// The number of the writer's connection; the first one makes no difference.
fn connection(session: &Session) -> u64 {
    session.place().map_or(1, |place| place.connection)
}

/// Sends a member or an entry to knockd, if it may be a record.
fn hand_on(session: &Session, bytes: &[u8]) {
    let Some((bytes, record)) = record(bytes) else {
        session.count(|state| state.foreign += 1);
        return;
    };
    if record.node == session.node {
        session.own().seen(&bytes, record.end().as_millis());
    }
    session.send(&FromFleet::Record(Box::new(bytes)));
    session.count(|state| state.received += 1);
}
