//! What packets meant for the rules, for an administrator who looks: `watch` and `explain` of the control protocol.
//!
//! Packets are noted in any case, in bounded memory. What they meant is worked out only while somebody looks.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use knock_grant::Place;
use knock_proto::{Access, Budget, History, Meaning, NotCounted, Packet, Reset, RuleId, Seen, Time, Tracer};

use crate::control::protocol::{Code, Explained, Followed, Following, Refusal, Step, What};
use crate::control::response::Response;
use crate::daemon::Daemon;
use crate::os::clock::{clock_reading, now};

/// Sources that are followed while somebody looks.
const SOURCES: usize = 4096;
/// What happened to grants, that is kept.
const OUTCOMES: usize = 512;
/// The steps of an explanation.
const STEPS: usize = 200;
/// First knocks that one watcher is shown at once, and the time for one more. All later knocks are shown.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_millis(100);
/// How often a watcher learns how much was left out.
const SUMMARY: Duration = Duration::from_secs(1);

/// Packets of the last minutes, and the clients of the control socket that look.
#[derive(Default)]
pub(crate) struct Watching {
    history: History,
    outcomes: VecDeque<Outcome>,
    /// `None` while nobody watches.
    tracer: Option<Tracer>,
    watchers: Vec<Watcher>,
    summarised: Time,
    left_out: u64,
}

/// What came of a completion, or happened to a grant.
struct Outcome {
    at: Time,
    step: Step,
}

struct Watcher {
    /// Its connection.
    slot: usize,
    address: Option<IpAddr>,
    rule: Option<RuleId>,
    first_knocks: Budget,
    left_out: u64,
}

impl Watcher {
    fn wants(&self, step: &Step) -> bool {
        self.address.is_none_or(|address| address == step.address)
            && self.rule.as_ref().is_none_or(|rule| step.rule.as_deref() == Some(rule.as_str()))
    }

    /// Whether it is shown one more of the steps that everybody can cause.
    fn admit(&mut self, now: Time) -> bool {
        let may = self.address.is_some() || self.first_knocks.admit(now, BURST, REFILL);
        self.left_out += u64::from(!may);
        may
    }
}

impl Watching {
    /// Whether somebody watches.
    pub(crate) fn is_active(&self) -> bool {
        !self.watchers.is_empty()
    }

    /// When [`Daemon::tick_watchers`] has something to do.
    pub(crate) fn next_summary(&self) -> Option<Time> {
        self.is_active().then(|| self.summarised.after(SUMMARY))
    }
}

impl Daemon {
    /// Notes a packet that the engine has looked at, and shows what it meant. `knocked`: see
    /// [`knock_proto::Engine::handle`].
    pub(crate) fn note_packet(&mut self, now: Time, packet: &Packet, local: bool, knocked: u8) {
        if !self.sequences.concerns(packet.knock) && !self.watching.is_active() {
            return;
        }
        if !self.watching.history.note(Seen { at: now, packet: *packet, local }, knocked) {
            self.watching.left_out += u64::from(self.watching.is_active());
            return;
        }
        let Some(tracer) = &mut self.watching.tracer else { return };
        let steps = tracer.handle(now, packet, local);
        for step in steps {
            self.show(now, step_of(now, &step));
        }
        self.note_turned_away(now, packet, local);
    }

    fn note_turned_away(&mut self, now: Time, packet: &Packet, local: bool) {
        let port = knock_proto::Port { protocol: packet.knock.protocol, number: packet.knock.port };
        if !local || !self.sequences.is_guarded(port) {
            return;
        }
        let policy = self.grants.policy();
        let is_port = |place: &Place| match place {
            Place::Table(Access::Any) => true,
            Place::Table(Access::Ports(ports)) => ports.contains(port),
            Place::Set(_) => false,
        };
        let opens = |rule| policy.places(rule, packet.source).iter().any(is_port);
        let mut grants = self.grants.ledger().of_address(packet.source);
        if grants.any(|grant| grant.expires > now && opens(&grant.rule)) {
            return;
        }
        drop(grants);
        let step = Step { text: Some(port.to_string()), ..plain(now, now, packet.source, None, What::TurnedAway) };
        self.show(now, step);
    }

    /// Notes what came of a completion, or what happened to a grant.
    pub(crate) fn note_outcome(&mut self, now: Time, address: IpAddr, rule: Option<&str>, what: What, text: String) {
        let step = Step { text: Some(text), ..plain(now, now, address, rule, what) };
        if self.watching.outcomes.len() == OUTCOMES {
            self.watching.outcomes.pop_front();
        }
        self.watching.outcomes.push_back(Outcome { at: now, step: step.clone() });
        self.show(now, step);
    }

    fn show(&mut self, now: Time, step: Step) {
        let Some(control) = &mut self.control else { return };
        let cheap = step.knocked <= 1 && step.what != What::Grant;
        let wanting = self.watching.watchers.iter_mut().filter(|watcher| watcher.wants(&step));
        let slots: Vec<usize> =
            wanting.filter_map(|watcher| (!cheap || watcher.admit(now)).then_some(watcher.slot)).collect();
        if slots.is_empty() {
            return;
        }
        let line = line(&Followed::Step(step));
        slots.into_iter().for_each(|slot| control.push(slot, &line));
    }

    /// Shows a client what packets mean from now on.
    pub(crate) fn watch(&mut self, slot: usize, address: Option<IpAddr>, rule: Option<&str>) {
        let now = now();
        let rule = rule.map(|name| self.rule(name).map(|rule| rule.name.clone())).transpose();
        let Some(control) = &mut self.control else { return };
        let rule = match rule {
            Ok(rule) => rule,
            Err(refusal) => return control.answer(slot, Response::refusal(refusal), now),
        };
        let first = Response::result(&Following { following: true }).into_line();
        if !control.follow(slot, &first, now) {
            return;
        }
        self.watching.watchers.retain(|watcher| watcher.slot != slot);
        let watcher = Watcher { slot, address, rule, first_knocks: Budget::default(), left_out: 0 };
        self.watching.watchers.push(watcher);
        if self.watching.watchers.len() == 1 {
            self.watching.summarised = now;
            self.watching.left_out = 0;
            self.begin_tracing();
        }
    }

    /// Works out what packets mean from now on, with what is known of the last minutes.
    fn begin_tracing(&mut self) {
        let mut tracer = self.sequences.tracer(SOURCES);
        for seen in self.watching.history.iter() {
            tracer.handle(seen.at, &seen.packet, seen.local);
        }
        self.watching.tracer = Some(tracer);
        self.widen_capture();
    }

    /// The packets that are received beside knocks while somebody watches.
    fn widen_capture(&mut self) {
        if let Err(error) = self.packets.reconfigure(&self.config.interfaces, &self.wanted()) {
            log::warn!("knockctl watch shows less: {error}");
        }
    }

    /// The rules have changed: what packets meant before is not known any more.
    pub(crate) fn rules_have_changed(&mut self) {
        self.watching.history.clear();
        if self.watching.is_active() {
            self.begin_tracing();
        }
    }

    /// Ends what watchers that have gone asked for, and tells the others how much was left out.
    pub(crate) fn tick_watchers(&mut self, now: Time) {
        let watching = &mut self.watching;
        if watching.watchers.is_empty() {
            return;
        }
        let following: Vec<usize> = self.control.iter().flat_map(|control| control.followers()).collect();
        watching.watchers.retain(|watcher| following.contains(&watcher.slot));
        if watching.watchers.is_empty() {
            watching.tracer = None;
            return self.widen_capture();
        }
        if watching.next_summary().is_none_or(|due| due > now) {
            return;
        }
        watching.summarised = now;
        let packets = std::mem::take(&mut watching.left_out);
        let Some(control) = &mut self.control else { return };
        for watcher in &mut watching.watchers {
            let left_out = std::mem::take(&mut watcher.left_out) + packets + control.left_out(watcher.slot);
            if left_out > 0 {
                control.push(watcher.slot, &line(&Followed::LeftOut(left_out)));
            }
        }
    }

    /// What the packets of a source meant in the last minutes.
    pub(crate) fn explain(&self, now: Time, address: IpAddr) -> Result<Response, Refusal> {
        if address.is_unspecified() || address.is_multicast() {
            return Err(Refusal::new(Code::BadValue, format!("{address} cannot be the source of a packet")));
        }
        let history = &self.watching.history;
        let mut tracer = self.sequences.tracer(1);
        let mut steps = Vec::new();
        for seen in history.of(address) {
            let meant = tracer.handle(seen.at, &seen.packet, seen.local);
            steps.extend(meant.iter().map(|step| (seen.at, step_of(now, step))));
        }
        let outcomes = self.watching.outcomes.iter().filter(|outcome| outcome.step.address == address);
        steps.extend(outcomes.map(|outcome| (outcome.at, outcome.step.clone())));
        // What follows from a packet comes behind it: the order of equal times stays.
        steps.sort_by_key(|(at, _)| *at);
        let steps = steps.split_off(steps.len().saturating_sub(STEPS));
        Ok(Response::result(&Explained {
            address,
            steps: steps.into_iter().map(|(_, step)| step).collect(),
            since_seconds: history.iter().next().map(|oldest| now.since(oldest.at).as_secs_f64()),
            left_out: history.left_out(),
        }))
    }
}

/// A step without progress.
fn plain(now: Time, at: Time, address: IpAddr, rule: Option<&str>, what: What) -> Step {
    let wall = clock_reading().wall.checked_sub(now.since(at)).unwrap_or(UNIX_EPOCH);
    let time = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    Step { time, address, rule: rule.map(str::to_owned), what, knocked: 0, of: 0, text: None }
}

fn step_of(now: Time, step: &knock_proto::Step) -> Step {
    let (what, text) = match step.meaning {
        Meaning::Knock => (What::Knock, None),
        Meaning::Completed => (What::Completed, None),
        Meaning::Reset(Reset::Tripwire) => (What::Tripwire, None),
        Meaning::Reset(Reset::WrongOrder) => (What::WrongOrder, None),
        Meaning::Reset(Reset::OtherRule) => (What::OtherRule, None),
        Meaning::Reset(Reset::TooSlow { took, timeout }) => {
            (What::TooSlow, Some(format!("{:.1} s, the limit is {} s", took.as_secs_f64(), timeout.as_secs_f64())))
        }
        Meaning::Ignored(NotCounted::Retransmission) => (What::Retransmission, None),
        Meaning::Ignored(NotCounted::Repeated) => (What::Repeated, None),
        Meaning::Ignored(NotCounted::WrongProtocol) => (What::WrongProtocol, None),
        Meaning::Ignored(NotCounted::OtherDestination) => (What::OtherDestination, None),
    };
    let (knocked, of) = (step.knocked, step.of);
    Step { knocked, of, text, ..plain(now, step.at, step.source, Some(step.rule.as_str()), what) }
}

fn line(line: &Followed) -> Vec<u8> {
    // All of it are texts and numbers, so this cannot fail.
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
