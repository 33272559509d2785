//! The thread that writes: claims, records of this node, and that this node is there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use knock_fleet::link::{Claim, FromFleet};

use crate::backoff::Backoff;
use crate::problem::StoreError;
use crate::session::{Ends, Place, Session, Side, Work};
use crate::store::Store;

/// How many records are written at once.
const BATCH: usize = 100;
/// How often the store is asked whether it is there, and still the same.
const TICK: Duration = Duration::from_secs(5);
/// How many ticks are between two greetings.
const GREETING: u32 = 6;

/// Starts the thread.
pub(crate) fn spawn(session: Arc<Session>) -> io::Result<()> {
    let ends = Ends(session);
    thread::Builder::new().name("writer".to_owned()).spawn(move || run(&ends.0)).map(drop)
}

fn run(session: &Arc<Session>) {
    let (mut backoff, mut connection) = (Backoff::default(), 1);
    let servers = &session.settings.servers;
    // Which server is tried.
    let mut index = 0;
    while !session.is_stopped() {
        let mut since = None;
        let served = Store::connect(&session.settings, &servers[index])
            .and_then(|mut store| Writing { session, index, connection }.serve(&mut store, &mut since));
        connection += u64::from(since.is_some());
        let error = match served {
            Ok(better) => {
                index = better;
                continue;
            }
            Err(error) => error,
        };
        session.problem(Side::Writer, Some(error.to_string()), |state| state.writes = false);
        session.drop_claims();
        index = (index + 1) % servers.len();
        // The others first: a replica says at once that it is one.
        if index == 0 || !error.is_of_replica() {
            session.sleep(backoff.next(since.map_or(Duration::ZERO, |since: Instant| since.elapsed()), spread()));
        }
    }
}

/// One connection of the writer.
struct Writing<'s> {
    session: &'s Arc<Session>,
    /// Which server of the list.
    index: usize,
    /// The number of the connection, of those that worked.
    connection: u64,
}

impl Writing<'_> {
    /// Until the session ends, or a server that is earlier in the list can be written to; returns which.
    fn serve(&self, store: &mut Store, since: &mut Option<Instant>) -> Result<usize, StoreError> {
        let session = self.session;
        self.tick(store, true)?;
        *since = Some(Instant::now());
        log::info!("records are written to {}", self.server());
        session.problem(Side::Writer, None, |state| state.writes = true);
        let (mut due, mut ticks) = (Instant::now() + TICK, 0);
        while !session.is_stopped() {
            if let Some(better) = session.offered().filter(|better| *better < self.index) {
                return Ok(better);
            }
            match session.work(BATCH, due.saturating_duration_since(Instant::now())) {
                Work::Claim(claim) => match store.claim(&claim, session.node) {
                    Ok(answer) => session.answer(claim.nonce, answer),
                    Err(error) => {
                        session.answer(claim.nonce, Claim::Unknown);
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
                self.tick(store, ticks % GREETING == 0)?;
                due = Instant::now() + TICK;
            }
        }
        Ok(self.index)
    }

    fn server(&self) -> &str {
        &self.session.settings.servers[self.index]
    }

    /// Looks whether the store is the same, and says that this node is there.
    fn tick(&self, store: &mut Store, greet: bool) -> Result<(), StoreError> {
        let session = self.session;
        let epoch = match store.epoch()? {
            Some(epoch) => Some(epoch),
            None => store.make_epoch(&random::<16>())?,
        };
        if let Some(epoch) = epoch {
            session.set_place(Place { server: self.server().to_owned(), epoch, connection: self.connection });
        }
        let ahead = store.measure_clock()?;
        if greet {
            let digest = session.settings.digest().unwrap_or_default();
            store.greet(session.node, &digest, &session.settings.version)?;
            self.read_nodes(store)?;
            if self.index > 0 {
                look_back(session, self.index);
            }
        }
        let ahead = i32::try_from(ahead).unwrap_or(if ahead < 0 { i32::MIN } else { i32::MAX });
        session.report(|state| state.clock = ahead);
        Ok(())
    }

    /// Reports the nodes that were there. A table that is too long, of which this node alone may not delete anything, costs one
    /// connection, and is left out from then on.
    fn read_nodes(&self, store: &mut Store) -> Result<(), StoreError> {
        let session = self.session;
        if session.nodes_left_out.load(Ordering::Relaxed) {
            return Ok(());
        }
        let nodes = store.nodes().inspect_err(|error| {
            if error.is_long() {
                session.nodes_left_out.store(true, Ordering::Relaxed);
                let realm = &session.settings.realm;
                log::warn!("the table of nodes is too long and is not read any more; delete knock:{{{realm}}}:nodes");
            }
        });
        for seen in nodes? {
            session.send(&FromFleet::Seen(Box::new(seen)));
        }
        Ok(())
    }
}

/// Looks whether a server that is earlier in the list can be written to again: all nodes come back to the first, or half of
/// them would not hear from the other half. Beside the writer, since a server that is away takes seconds to say so.
fn look_back(session: &Arc<Session>, index: usize) {
    let session = Arc::clone(session);
    let look = move || {
        let digest = session.settings.digest().unwrap_or_default();
        let writable = |server: &String| {
            let greet = |mut store: Store| store.greet(session.node, &digest, &session.settings.version);
            Store::connect(&session.settings, server).and_then(greet).is_ok()
        };
        if let Some(better) = session.settings.servers[..index].iter().position(writable) {
            session.offer(better);
        }
    };
    // Without a thread: the next time.
    drop(thread::Builder::new().name("look-back".to_owned()).spawn(look));
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
