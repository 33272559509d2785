//! The thread that verifies records: two signatures take as long as many knocks, so the event loop does not wait for them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use knock_fleet::link::RecordBytes;
use knock_fleet::{Peer, Refused, Verified};
use rustix::event::{EventfdFlags, eventfd};

use crate::os::clock::unix_now;

/// The most records that are in the thread, or have come from it and are not taken yet.
const RECORDS_MAX: usize = 1024;

/// A record, and the keys and rules that it was verified by.
pub(super) struct Result {
    pub(super) record: Box<RecordBytes>,
    pub(super) peer: Arc<Peer>,
    pub(super) verified: std::result::Result<Verified, Refused>,
}

/// The thread. It ends when this is dropped.
pub(super) struct Worker {
    records: SyncSender<(Box<RecordBytes>, Arc<Peer>)>,
    results: Receiver<Result>,
    /// Readable when a result has come.
    done: Arc<OwnedFd>,
    inside: usize,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// Where there are no more descriptors or threads.
    pub(super) fn start() -> io::Result<Worker> {
        let done = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (records, incoming) = sync_channel::<(Box<RecordBytes>, Arc<Peer>)>(RECORDS_MAX);
        let (outgoing, results) = sync_channel(RECORDS_MAX);
        let signal = Arc::clone(&done);
        let verify = move || {
            for (record, peer) in incoming {
                let verified = peer.verify(&record[..], unix_now());
                if outgoing.send(Result { record, peer, verified }).is_err() {
                    return;
                }
                // It fails only where the counter is full, and then it is readable.
                let _ = rustix::io::write(&signal, &1_u64.to_ne_bytes());
            }
        };
        thread::Builder::new().name("fleet".to_owned()).spawn(verify)?;
        Ok(Worker { records, results, done, inside: 0 })
    }

    /// Whether it takes no more records for now.
    pub(super) fn is_full(&self) -> bool {
        self.inside >= RECORDS_MAX
    }

    /// Whether it has room for many more.
    pub(super) fn is_half_empty(&self) -> bool {
        self.inside <= RECORDS_MAX / 2
    }

    /// How many records are in it.
    pub(super) fn len(&self) -> usize {
        self.inside
    }

    /// Has a record verified. Returns whether the thread took it.
    pub(super) fn verify(&mut self, record: Box<RecordBytes>, peer: Arc<Peer>) -> bool {
        let taken = self.records.try_send((record, peer)).is_ok();
        self.inside += usize::from(taken);
        taken
    }

    /// Results may have come.
    pub(super) fn on_ready(&self) {
        // Unread, it would stay readable.
        let _ = rustix::io::read(&self.done, &mut [0; 8]);
    }

    /// The next result; `Ok(None)` where none has come.
    ///
    /// # Errors
    ///
    /// Where the thread has ended, which only a fault in it does.
    pub(super) fn next(&mut self) -> std::result::Result<Option<Result>, ()> {
        match self.results.try_recv() {
            Ok(result) => {
                self.inside -= 1;
                Ok(Some(result))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(()),
        }
    }

    /// Has the loop look at it again, where it did not take all results in this turn.
    pub(super) fn look_again(&self) {
        let _ = rustix::io::write(&self.done, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}
