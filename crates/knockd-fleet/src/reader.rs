//! The thread that reads: once everything that is in the store, then what is new.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use knock_fleet::link::FromFleet;

use crate::backoff::Backoff;
use crate::session::{Session, Side, now};
use crate::store::{Store, StoreError, record, written};
use crate::writer::spread;

/// With so many entries in a second, reads are spaced: a store that serves thousands of nodes sends fewer, bigger answers.
const BUSY: usize = 20;
/// The space.
const SPACE: Duration = Duration::from_millis(200);
/// Where it took longer to hand entries on, the stream may have moved on past what it keeps.
const SLOW: Duration = Duration::from_secs(1);

/// Starts the thread.
pub(crate) fn spawn(session: Arc<Session>) -> io::Result<()> {
    thread::Builder::new().name("reader".to_owned()).spawn(move || run(&session)).map(drop)
}

fn run(session: &Session) {
    let settings = &session.settings;
    let servers = if settings.read_from.is_empty() { &settings.servers } else { &settings.read_from };
    let (mut backoff, mut index) = (Backoff::default(), 0);
    while !session.is_stopped() {
        let server = &servers[index % servers.len().max(1)];
        let read =
            Store::connect(settings, server).and_then(|mut store| serve(session, &mut store, server, &mut backoff));
        let Err(error) = read else { return };
        session.problem(Side::Reader, Some(error.to_string()), |state| (state.reads, state.in_step) = (false, false));
        index += 1;
        session.sleep(backoff.next(spread()));
    }
}

/// Until the session ends.
fn serve(session: &Session, store: &mut Store, server: &str, backoff: &mut Backoff) -> Result<(), StoreError> {
    while !session.is_stopped() {
        let epoch = session.epoch();
        // Before the rest is read, so that nothing is missed in between.
        let position = store.newest()?;
        let started = Instant::now();
        let total = everything(session, store)?;
        backoff.reset();
        log::info!("{server}: {total} records are in the store, read in {} ms", started.elapsed().as_millis());
        session.problem(Side::Reader, None, |state| (state.reads, state.in_step) = (true, true));
        follow(session, store, position, epoch)?;
        session.report(|state| state.in_step = false);
    }
    Ok(())
}

/// Hands on every record that is in the store, and has missing ones of this node written again.
fn everything(session: &Session, store: &mut Store) -> Result<u64, StoreError> {
    session.own().begin_sweep(now());
    let (mut from, mut total): (Option<f64>, u64) = (None, 0);
    // Those with the last score of the page before.
    let mut known: HashSet<Vec<u8>> = HashSet::new();
    loop {
        let page = store.page(from, known.len())?;
        let last = page.members.last().map(|(_, score)| *score);
        for (member, score) in &page.members {
            if from != Some(*score) || !known.contains(member) {
                hand_on(session, member);
                total += 1;
            }
        }
        if page.is_last || session.is_stopped() {
            break;
        }
        if from != last {
            known.clear();
            from = last;
        }
        known.extend(page.members.into_iter().filter(|(_, score)| Some(*score) == last).map(|(member, _)| member));
    }
    let missing = session.own().end_sweep();
    if missing > 0 {
        log::warn!("records of this node that were not in the store: {missing}; writing them again");
        session.wake();
    }
    Ok(total)
}

/// Hands on what is new, until the store is another one or has dropped entries that were not read.
fn follow(
    session: &Session,
    store: &mut Store,
    mut position: String,
    mut epoch: Option<Vec<u8>>,
) -> Result<(), StoreError> {
    let (mut rate, mut second) = (0, (Instant::now(), 0));
    while !session.is_stopped() {
        // The writer gives a store its first epoch, perhaps after this has begun to read.
        epoch = epoch.or_else(|| session.epoch());
        if session.epoch() != epoch {
            log::warn!("the store was emptied or is another one; reading everything again");
            return Ok(());
        }
        let entries = store.read(&position)?;
        let began = Instant::now();
        let count = entries.len();
        for (id, entry) in entries {
            hand_on(session, &entry);
            let lag = written(&id).map_or(0, |written| store.time().saturating_sub(written));
            session.count(|state| state.lag = u32::try_from(lag).unwrap_or(u32::MAX));
            position = id;
        }
        if began.elapsed() > SLOW && !store.has_entry(&position)? {
            log::warn!("knockd reads too slowly, and the store has dropped entries; reading everything again");
            return Ok(());
        }
        second.1 += count;
        if second.0.elapsed() >= Duration::from_secs(1) {
            rate = second.1;
            second = (Instant::now(), 0);
        }
        if rate.max(second.1) > BUSY {
            session.sleep(SPACE);
        }
    }
    Ok(())
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
