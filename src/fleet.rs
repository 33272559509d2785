//! The fleet, as this node takes part in it: it writes its grants down for the other nodes, and decides what their records
//! are worth. knockd-fleet, another process, carries records from and to the store; `docs/fleet-protocol.md` is the reference.
//!
//! Nothing here waits: what can't be handed over is kept, and signatures are verified by a thread.

mod claims;
mod connection;
mod listener;
mod outbox;
pub(crate) mod plan;
mod read;
mod status;
mod worker;
mod written;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use knock_config::OnOutage;
use knock_fleet::link::{Claim, FromFleet, Seen, Settings, State, ToFleet};
use knock_fleet::{Author, Held, Known, NodeId, Peer, PeerUser, Statement, Subject};
use knock_proto::{Budget, Time};
use knock_spa::{NONCE_LENGTH, RuleName, UnixTime};

pub(crate) use claims::Claimant;
use claims::Claims;
use connection::{Broken, Connection};
use listener::{Caller, Listener};
use outbox::Outbox;
use plan::FleetPlan;
use worker::Worker;

use crate::os::clock::unix_now;

/// Connections that are accepted in one turn of the loop.
const ACCEPTED_IN_A_ROW: usize = 8;
/// Messages that are taken in one turn of the loop.
const MESSAGES_IN_A_ROW: usize = 64;
/// How soon a record is handed over for which there was no room.
const NO_ROOM: Duration = Duration::from_millis(10);
/// Lines about the fleet that are logged at once, and the time for one more.
const LINES: u32 = 10;
const LINE: Duration = Duration::from_secs(10);
/// Nodes that are not in the configuration, of which is known when they were there.
const STRANGERS_MAX: usize = 100;

/// What was done for other nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    /// Grants of other nodes.
    pub(crate) granted: u64,
    /// Revocations by other nodes.
    pub(crate) revoked: u64,
    /// Records without effect, by the reason.
    pub(crate) refused: BTreeMap<&'static str, u64>,
}

/// The fleet.
pub(crate) struct Fleet {
    name: Arc<str>,
    /// In the order of the configuration.
    nodes: Vec<NodeId>,
    peer: Arc<Peer>,
    settings: Settings,
    publish: BTreeSet<RuleName>,
    on_outage: OnOutage,
    window: Duration,
    author: Author,
    listener: Listener,
    connection: Option<Connection>,
    /// When it was made.
    connected: UnixTime,
    /// The connection is not read until the thread has verified some of what is there.
    is_paused: bool,
    /// Revocations that are to be written down.
    revoked: VecDeque<Statement>,
    outbox: Outbox,
    /// When the next records are written down and handed over.
    outbox_due: Option<Time>,
    known: Known,
    worker: Option<Worker>,
    claims: Claims,
    state: State,
    seen: BTreeMap<NodeId, Seen>,
    counters: Counters,
    lines: Budget,
    /// Lines about those who connect, whom no flood of records is to hide.
    callers: Budget,
    /// Other descriptors than before are to be watched.
    has_changed: bool,
}

/// A packet that has waited for its claim, and whose it is.
pub(crate) type Claimed = (Claimant, Claim);

impl Fleet {
    /// Takes part. `path`: where knockd-fleet connects.
    pub(crate) fn new(now: Time, plan: FleetPlan, path: PathBuf) -> Fleet {
        let FleetPlan { realm, key, name, peer, nodes, settings, publish, on_outage, window } = plan;
        let fleet = Fleet {
            name,
            nodes,
            peer,
            settings,
            publish,
            on_outage,
            window,
            author: Author::new(key, realm, counter()),
            listener: Listener::new(now, path),
            connection: None,
            connected: UnixTime::from_millis(0),
            is_paused: false,
            revoked: VecDeque::new(),
            outbox: Outbox::default(),
            outbox_due: None,
            known: Known::default(),
            worker: None,
            claims: Claims::default(),
            state: State::default(),
            seen: BTreeMap::new(),
            counters: Counters::default(),
            lines: Budget::default(),
            callers: Budget::default(),
            has_changed: true,
        };
        fleet.say_whether_it_listens();
        fleet
    }

    /// Changes to another configuration. What is known stays, but for what is not permitted any more.
    pub(crate) fn apply(&mut self, plan: FleetPlan, path: PathBuf, now: Time) -> Vec<Claimed> {
        let FleetPlan { realm, key, name, peer, nodes, settings, publish, on_outage, window } = plan;
        (self.name, self.nodes, self.peer, self.publish) = (name, nodes, peer, publish);
        (self.on_outage, self.window) = (on_outage, window);
        self.author = Author::new(key, realm, counter());
        if path != self.listener.path() {
            (self.listener, self.has_changed) = (Listener::new(now, path), true);
            self.say_whether_it_listens();
        }
        if settings == self.settings {
            return Vec::new();
        }
        if (&settings.realm, &settings.node) != (&self.settings.realm, &self.settings.node) {
            // What was signed for the one fleet is nothing to the other.
            self.outbox = Outbox::default();
        }
        let peer = Arc::clone(&self.peer);
        self.known.keep_only(|subject, held| is_permitted(&peer, subject, held));
        // It gets the new ones when it connects, and reads what was not permitted before.
        self.settings = settings;
        self.seen.clear();
        self.disconnect()
    }

    fn say_whether_it_listens(&self) {
        if let Some(problem) = self.listener.problem() {
            log::error!("{problem}; trying again; until then nothing is shared with the fleet");
        }
    }

    /// knockd-fleet connects, or somebody else.
    pub(crate) fn on_connect(&mut self, now: Time) {
        for _ in 0..ACCEPTED_IN_A_ROW {
            match self.listener.accept(now) {
                None => break,
                Some(Caller::Refused(reason)) => self.refuse_caller(now, &reason),
                Some(Caller::Admitted(_)) if self.connection.is_some() => {
                    self.refuse_caller(now, "another knockd-fleet is connected already");
                }
                Some(Caller::Admitted(connection)) => self.connect(now, Connection::new(connection)),
            }
        }
        // It may listen no longer, for lack of descriptors.
        self.has_changed |= self.listener.problem().is_some();
    }

    fn refuse_caller(&mut self, now: Time, reason: &str) {
        if self.callers.admit(now, LINES, LINE) {
            log::warn!("{}: refused: {reason}", self.listener.path().display());
        }
    }

    fn connect(&mut self, now: Time, connection: Connection) {
        if self.worker.is_none() {
            match Worker::start() {
                Ok(worker) => self.worker = Some(worker),
                Err(error) => return self.refuse_caller(now, &format!("cannot start a thread: {error}")),
            }
        }
        // A socket that was just made has room.
        if matches!(connection.send(&ToFleet::Settings(Box::new(self.settings.clone()))), Ok(true)) {
            log::info!("knockd-fleet is connected");
            self.connected = unix_now();
            (self.connection, self.is_paused, self.has_changed) = (Some(connection), false, true);
            self.outbox.rewind();
            self.hand_over(now);
        }
    }

    /// Ends the connection. Returns the packets that wait for an answer.
    pub(crate) fn disconnect(&mut self) -> Vec<Claimed> {
        (self.connection, self.state, self.has_changed) = (None, State::default(), true);
        self.claims.take_all().into_iter().map(|claimant| (claimant, Claim::Unknown)).collect()
    }

    fn on_broken(&mut self, now: Time, broken: &Broken) -> Vec<Claimed> {
        if self.lines.admit(now, LINES, LINE) {
            log::warn!("{broken}; until it is connected again, nothing is shared with the fleet");
        }
        self.disconnect()
    }

    /// Takes what knockd-fleet says. Returns the packets that were waiting for that.
    pub(crate) fn receive(&mut self, now: Time) -> Vec<Claimed> {
        let mut claimed = Vec::new();
        for _ in 0..MESSAGES_IN_A_ROW {
            if self.worker.as_ref().is_some_and(Worker::is_full) {
                (self.is_paused, self.has_changed) = (true, true);
                break;
            }
            let message = match self.connection.as_mut().map(Connection::receive) {
                None | Some(Ok(None)) => break,
                Some(Ok(Some(message))) => message,
                Some(Err(broken)) => {
                    claimed.extend(self.on_broken(now, &broken));
                    break;
                }
            };
            match message {
                FromFleet::Record(record) => self.on_record(now, record),
                FromFleet::Claimed { nonce, claim } => {
                    claimed.extend(self.claims.take(&nonce).map(|claimant| (claimant, claim)));
                }
                FromFleet::State(state) => self.state = *state,
                FromFleet::Seen(seen) => self.on_seen(*seen),
            }
        }
        claimed
    }

    fn on_seen(&mut self, seen: Seen) {
        let is_ours = self.peer.trust.node(seen.node).is_some();
        if is_ours || self.seen.contains_key(&seen.node) || self.seen.len() < self.nodes.len() + STRANGERS_MAX {
            self.seen.insert(seen.node, seen);
        }
    }

    /// Whether a record of the packet with that nonce has been here.
    pub(crate) fn has_packet(&self, nonce: &[u8; NONCE_LENGTH]) -> bool {
        self.known.has_packet(nonce)
    }

    /// Asks whether another node has used a packet; [`Fleet::receive`] or [`Fleet::tick`] has the answer, where it is not known at
    /// once.
    pub(crate) fn claim(&mut self, now: Time, claimant: Claimant) -> Option<Claimed> {
        let nonce = claimant.accepted.proof.request.nonce;
        let lifetime = u32::try_from(self.window.as_secs().saturating_mul(2)).unwrap_or(u32::MAX).max(1);
        if self.known.has_packet(&nonce) {
            // Its record was here before it.
            let by = NodeId::from_bytes([0; 8]);
            return Some((claimant, Claim::Taken { by }));
        }
        let asked = match &self.connection {
            Some(connection) if !self.claims.is_full() => {
                matches!(connection.send(&ToFleet::Claim { nonce, lifetime }), Ok(true))
            }
            _ => false,
        };
        if !asked {
            return Some((claimant, Claim::Unknown));
        }
        self.claims.add(now, claimant);
        None
    }

    /// Whether a packet is accepted of which nobody can say whether another node has used it.
    pub(crate) fn grants_on_outage(&self) -> bool {
        self.on_outage == OnOutage::Grant
    }

    /// The name of a node, as far as it is known.
    pub(crate) fn name_of(&self, node: NodeId) -> String {
        match self.peer.trust.node(node) {
            Some(node) => node.name.to_string(),
            None if *node.as_bytes() == [0; 8] => "another node".to_owned(),
            None => format!("node {node}"),
        }
    }

    /// Hands records over to knockd-fleet, as long as it takes them.
    fn hand_over(&mut self, now: Time) {
        self.outbox_due = (!self.revoked.is_empty()).then_some(now);
        let wall = unix_now();
        let Some(connection) = &self.connection else { return };
        for _ in 0..MESSAGES_IN_A_ROW {
            let Some(record) = self.outbox.next(wall) else { return };
            match connection.send(&ToFleet::Publish(Box::new(*record))) {
                Ok(true) => self.outbox.advance(),
                // An end of the connection is noticed where it is read.
                Ok(false) | Err(_) => break,
            }
        }
        self.outbox_due = Some(now.after(NO_ROOM));
    }

    /// When [`Fleet::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        [self.listener.next_deadline(), self.outbox_due, self.claims.next_deadline()].into_iter().flatten().min()
    }

    /// Does what is due. Returns packets that have waited for too long.
    pub(crate) fn tick(&mut self, now: Time) -> Vec<Claimed> {
        self.has_changed |= self.listener.tick(now);
        if self.outbox_due.is_some_and(|due| due <= now) {
            self.hand_over(now);
            self.write_revocations(now);
        }
        let mut claimed = Vec::new();
        while let Some(claimant) = self.claims.take_overdue(now) {
            claimed.push((claimant, Claim::Unknown));
        }
        claimed
    }

    /// Whether other descriptors are to be watched than when it was asked last.
    pub(crate) fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Where knockd-fleet connects.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.listener.descriptor()
    }

    /// The connection to knockd-fleet, and whether it is to be read.
    pub(crate) fn connection(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.connection.as_ref().map(|connection| (connection.as_fd(), !self.is_paused))
    }

    /// The thread that verifies records.
    pub(crate) fn worker(&self) -> Option<BorrowedFd<'_>> {
        self.worker.as_ref().map(AsFd::as_fd)
    }
}

/// Whether a grant that is known would be granted now.
fn is_permitted(peer: &Peer, subject: &Subject, held: &Held) -> bool {
    let rule = subject.rule();
    let by_key = |user: &PeerUser| {
        let key = peer.packets.as_ref().and_then(|packets| packets.verifier.key(&user.key));
        key.is_some_and(|key| key.options.rules.as_ref().is_none_or(|rules| rules.contains(rule)))
    };
    let by_node = |id| peer.trust.node(id).is_some_and(|node| node.vouch.contains(rule));
    peer.rules.contains_key(rule) && held.user.as_ref().is_none_or(by_key) && held.voucher.is_none_or(by_node)
}

/// The comment of a user's key; its fingerprint, where it has none.
pub(crate) fn name_of_user(user: &PeerUser) -> Arc<str> {
    user.name.as_deref().map_or_else(|| user.key.to_string().into(), Into::into)
}

/// Greater than in any record before: microseconds since 1970.
fn counter() -> u64 {
    unix_now().as_millis().saturating_mul(1000)
}
