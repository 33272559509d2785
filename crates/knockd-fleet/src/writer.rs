//! The thread that writes: claims, records of this node, and that this node is there.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use knock_fleet::link::{Digest, FromFleet};

use crate::backoff::Backoff;
use crate::session::{Session, Side, Work};
use crate::store::{Store, StoreError};

/// How many records are written at once.
const BATCH: usize = 100;
/// How often the store is asked whether it is there, and still the same.
const TICK: Duration = Duration::from_secs(5);
/// How many ticks are between two greetings.
const GREETING: u32 = 6;

/// Starts the thread.
pub(crate) fn spawn(session: Arc<Session>) -> io::Result<()> {
    thread::Builder::new().name("writer".to_owned()).spawn(move || run(&session)).map(drop)
}

fn run(session: &Session) {
    let mut backoff = Backoff::default();
    // Which server is tried next.
    let mut index = 0;
    while !session.is_stopped() {
        let servers = &session.settings.servers;
        let server = &servers[index % servers.len().max(1)];
        let error = match Store::connect(&session.settings, server)
            .and_then(|mut store| serve(session, &mut store, server, &mut backoff))
        {
            Ok(()) => return,
            Err(error) => error,
        };
        session.problem(Side::Writer, Some(error.to_string()), |state| state.writes = false);
        session.drop_claims();
        index += 1;
        // The others first: a replica says at once that it is one.
        let tried_all = index % servers.len().max(1) == 0;
        if tried_all || !error.is_of_replica() {
            session.sleep(backoff.next(spread()));
        }
    }
}

/// Until the session ends.
fn serve(session: &Session, store: &mut Store, server: &str, backoff: &mut Backoff) -> Result<(), StoreError> {
    let digest = session.settings.digest().unwrap_or_default();
    tick(session, store, &digest, true)?;
    backoff.reset();
    log::info!("records are written to {server}");
    session.problem(Side::Writer, None, |state| state.writes = true);
    let (mut due, mut ticks) = (Instant::now() + TICK, 0);
    while !session.is_stopped() {
        match session.work(BATCH, due.saturating_duration_since(Instant::now())) {
            Work::Claim(claim) => match store.claim(&claim, session.node) {
                Ok(answer) => session.answer(claim.nonce, answer),
                Err(error) => {
                    session.answer(claim.nonce, knock_fleet::link::Claim::Unknown);
                    return Err(error);
                }
            },
            Work::Publish(batch) => {
                store.publish(&batch)?;
                session.own().written(&batch);
                session.count(|state| state.published += batch.len() as u64);
            }
            Work::Idle => {}
        }
        if due <= Instant::now() {
            ticks += 1;
            tick(session, store, &digest, ticks % GREETING == 0)?;
            due = Instant::now() + TICK;
        }
    }
    Ok(())
}

/// Looks whether the store is the same, and says that this node is there.
fn tick(session: &Session, store: &mut Store, digest: &Digest, greet: bool) -> Result<(), StoreError> {
    let epoch = match store.epoch()? {
        Some(epoch) => Some(epoch),
        None => store.make_epoch(&random::<16>())?,
    };
    if let Some(epoch) = epoch {
        session.set_epoch(&epoch);
    }
    let ahead = store.measure_clock()?;
    if greet {
        store.greet(session.node, digest, &session.settings.version)?;
        for seen in store.nodes()? {
            session.send(&FromFleet::Seen(Box::new(seen)));
        }
    }
    let ahead = i32::try_from(ahead).unwrap_or(if ahead < 0 { i32::MIN } else { i32::MAX });
    session.report(|state| state.clock = ahead);
    Ok(())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness, early at boot: the time makes epochs differ as well.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        let now = crate::session::now().to_be_bytes();
        bytes.iter_mut().zip(now.iter().cycle()).for_each(|(byte, now)| *byte = *now);
    }
    bytes
}

/// So that nodes do not try again together.
pub(crate) fn spread() -> u8 {
    let [byte] = random();
    byte
}
