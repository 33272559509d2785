//! Signed packets: which rule a datagram asks for, in whose name, or why it gets nothing. `docs/spa-protocol.md` has the
//! order of the checks.

pub(crate) mod plan;
mod replay_files;
mod users;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use knock_fleet::Proof;
use knock_grant::User;
use knock_proto::Time;
use knock_spa::replay::Replayed;
use knock_spa::{Budgets, Decision, Keyring, Opened, PAYLOAD_MAX, PAYLOAD_MIN, Refusal, Request, Terms};

use crate::os::clock::{ClockReading, unix_time};
use crate::os::trusted::Owners;
use plan::{SignedPlan, user_name};
use replay_files::{ReplayFiles, StoreError};
use users::Users;

/// The shortest grant, as of `allow.timeout`.
const SHORTEST: Duration = Duration::from_secs(1);
/// How long after a failure the files of accepted packets are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What became of datagrams to the ports of signed packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Those of the length of a packet.
    pub(crate) received: u64,
    /// Those that no known key and cover has sealed.
    pub(crate) foreign: u64,
    /// Those whose signature was not checked, because there were too many.
    pub(crate) over_budget: u64,
    /// Those whose signature was wrong.
    pub(crate) wrong_signature: u64,
    /// Those of a user that got nothing.
    pub(crate) refused: u64,
    /// Those of a user that were accepted.
    pub(crate) accepted: u64,
}

/// What a datagram is.
pub(crate) enum Outcome {
    /// Nothing that was sealed here: perhaps a knock.
    Foreign,
    /// Sealed here, but nobody's.
    Dropped,
    /// A user asks for something.
    Signed(Box<Signed>),
}

/// A packet of a user.
pub(crate) struct Signed {
    /// The user.
    pub(crate) user: User,
    /// What follows, or why nothing does.
    pub(crate) result: Result<Accepted, Denied>,
}

/// A packet that was accepted.
pub(crate) struct Accepted {
    /// What follows from it.
    pub(crate) decision: Decision,
    /// What other nodes need to believe it.
    pub(crate) proof: Arc<Proof>,
}

impl Accepted {
    /// Whether it opens something.
    pub(crate) fn opens(&self) -> bool {
        matches!(self.decision.action, knock_spa::Action::Open { .. })
    }
}

/// Why a packet of a user gets nothing.
pub(crate) struct Denied {
    /// The rule that it names.
    pub(crate) rule: Option<String>,
    /// For the log.
    pub(crate) reason: String,
    /// Whether the log gets it, and how many of this user it did not get before.
    pub(crate) logged: Option<u64>,
}

/// Where the files of accepted packets are, and whose they have to be.
#[derive(Clone, Debug)]
pub(crate) struct ReplayPlace {
    pub(crate) directory: PathBuf,
    pub(crate) owners: Owners,
    pub(crate) boot: [u8; 16],
}

/// Accepts signed packets.
pub(crate) struct SignedPackets {
    ports: Vec<u16>,
    keyring: Keyring,
    terms: Terms,
    budgets: Budgets,
    users: Users,
    place: ReplayPlace,
    /// `Err`: why nothing can be remembered, and when that is tried again.
    replays: Result<ReplayFiles, (String, Time)>,
    counters: Counters,
}

impl SignedPackets {
    /// Begins to accept packets. Where the files of accepted packets can't be used, none is accepted until they can.
    pub(crate) fn new(at: ClockReading, plan: SignedPlan, place: ReplayPlace) -> SignedPackets {
        let mut packets = SignedPackets {
            budgets: Budgets::new(plan.keyring.keys()),
            ports: plan.ports,
            keyring: plan.keyring,
            terms: plan.terms,
            users: Users::default(),
            place,
            replays: Err((String::new(), at.boottime)),
            counters: Counters::default(),
        };
        packets.open_files(at);
        packets
    }

    /// Changes to other keys, covers and rules. What was accepted stays remembered.
    pub(crate) fn apply(&mut self, plan: SignedPlan) {
        self.budgets = Budgets::new(plan.keyring.keys());
        (self.ports, self.keyring, self.terms) = (plan.ports, plan.keyring, plan.terms);
        self.users.keep_only(&self.keyring);
        if let Ok(replays) = &mut self.replays {
            replays.set_window(self.terms.window);
        }
    }

    fn open_files(&mut self, at: ClockReading) {
        let ReplayPlace { directory, owners, boot } = &self.place;
        let opened = ReplayFiles::open(directory, *owners, *boot, self.terms.window, unix_time(at.wall));
        self.replays = match opened {
            Ok((replays, gap)) => {
                if let Some(gap) = gap {
                    let seconds = self.terms.window.as_secs();
                    log::warn!("signed packets are refused for the next {seconds} s: {gap}");
                }
                Ok(replays)
            }
            Err(error) => {
                log::error!("signed packets are refused: {error}");
                Err((error.to_string(), at.boottime.after(RETRY)))
            }
        };
    }

    /// The UDP ports.
    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Looks at the payload of a datagram that is said to have come from `source`.
    pub(crate) fn handle(&mut self, at: ClockReading, payload: &[u8], source: IpAddr) -> Outcome {
        if !(PAYLOAD_MIN..=PAYLOAD_MAX).contains(&payload.len()) {
            return Outcome::Foreign;
        }
        self.counters.received += 1;
        let now = unix_time(at.wall);
        self.keyring.set_time(now);
        let Ok(opened) = self.keyring.open(payload) else {
            self.counters.foreign += 1;
            return Outcome::Foreign;
        };
        self.judge(at, opened, source)
    }

    /// Looks at a packet that the ear has opened, or says that it has.
    pub(crate) fn take_over(&mut self, at: ClockReading, bytes: &[u8], source: IpAddr) -> Outcome {
        self.keyring.set_time(unix_time(at.wall));
        match self.keyring.take_over(bytes) {
            Some(opened) => self.judge(at, opened, source),
            None => Outcome::Foreign,
        }
    }

    fn judge(&mut self, at: ClockReading, opened: Opened, source: IpAddr) -> Outcome {
        let now = unix_time(at.wall);
        // What was recorded and is sent again opens too, but must not use up what the user's next packet needs.
        let is_known = self.replays.as_ref().is_ok_and(|replays| replays.has_seen(opened.nonce()));
        let monotonic = at.boottime.since(Time::default());
        let may_check = match !is_known && self.terms.is_in_window(opened.claimed_time(), now) {
            true => self.budgets.may_check(opened.key_index(), monotonic),
            false => self.budgets.may_check_stale(monotonic),
        };
        if !may_check {
            self.counters.over_budget += 1;
            return Outcome::Dropped;
        }
        let request = match self.keyring.verify(&opened) {
            Err(Refusal::Signature(error)) => {
                self.counters.wrong_signature += 1;
                log::trace!("ignored a packet: {error}");
                return Outcome::Dropped;
            }
            request => request,
        };
        let rule = request.as_ref().ok().and_then(|request| request.rule.as_ref()).map(ToString::to_string);
        let result = request.map_err(|refusal| refusal.to_string());
        let result = result.and_then(|request| match is_known {
            true => Err(Replayed::Seen.to_string()),
            false => self.decide(at, &opened, &request, source).map(|decision| (decision, request.address.is_none())),
        });
        let key = self.keyring.key(&opened);
        let user = User { name: user_name(key).into(), key: key.key.fingerprint() };
        let state = self.users.of(&user);
        let result = match result {
            Ok((decision, observed)) => {
                self.counters.accepted += 1;
                state.accepted(at, source);
                let proof = Proof { fingerprint: user.key, request: opened.signed_request(), observed };
                Ok(Accepted { decision, proof: Arc::new(proof) })
            }
            Err(reason) => {
                self.counters.refused += 1;
                Err(Denied { rule, reason, logged: state.refused(at.boottime) })
            }
        };
        Outcome::Signed(Box::new(Signed { user, result }))
    }

    /// Decides on a verified request of a packet that is new, and remembers the packet where something follows.
    fn decide(
        &mut self,
        at: ClockReading,
        opened: &Opened,
        request: &Request,
        source: IpAddr,
    ) -> Result<Decision, String> {
        let now = unix_time(at.wall);
        let key = self.keyring.key(opened);
        let mut decision = key.decide(request, source, now, &self.terms).map_err(|denial| denial.to_string())?;
        if !self.budgets.may_request(opened.key_index(), at.boottime.since(Time::default())) {
            return Err("the user has sent more than 10 packets in a second".to_owned());
        }
        // A grant ends with its key, but no sooner than grants can: the kernel takes a part of a jiffy for no timeout.
        if let (knock_spa::Action::Open { lifetime }, Some(end)) = (&mut decision.action, key.options.expires) {
            *lifetime = (*lifetime).min(end.since(now).max(SHORTEST));
        }
        if matches!(&self.replays, Err((_, retry)) if *retry <= at.boottime) {
            self.open_files(at);
        }
        let replays = self.replays.as_mut().map_err(|(problem, _)| problem.clone())?;
        replays.accept(*opened.nonce(), request.time, now).map_err(|error| error.to_string())?;
        Ok(decision)
    }

    /// A packet that was accepted gets nothing after all.
    pub(crate) fn denied(&mut self, now: Time, user: &User, rule: Option<String>, reason: String) -> Denied {
        self.counters.refused += 1;
        Denied { rule, reason, logged: self.users.of(user).refused(now) }
    }

    /// Why no packet can be accepted.
    pub(crate) fn problem(&self) -> Option<&str> {
        match &self.replays {
            Ok(replays) => replays.problem(),
            Err((problem, _)) => Some(problem),
        }
    }

    /// How many accepted packets are remembered.
    pub(crate) fn remembered(&self) -> usize {
        self.replays.as_ref().map_or(0, ReplayFiles::len)
    }

    /// What became of datagrams so far.
    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// The keys.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// What the users have done.
    pub(crate) fn users(&self) -> &Users {
        &self.users
    }

    /// Ends: after a restart, no packet of the past is accepted again.
    ///
    /// # Errors
    ///
    /// Where the files can't be written; the next daemon refuses packets for some time then.
    pub(crate) fn close(self) -> Result<(), StoreError> {
        self.replays.map_or(Ok(()), ReplayFiles::close)
    }
}
