//! What packets meant for the rules, for an administrator who looks: `watch` and `explain` of the control protocol. The ear
//! works it out; here it is shown, with what came of it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use knock_grant::Place;
use knock_proto::{Access, Budget, Port, Protocol, RuleId, Time};

use crate::control::protocol::{self, Code, Followed, Following, Refusal, Step, What};
use crate::control::response::Response;
use crate::daemon::Daemon;
use crate::daemon::ear::Explained;
use crate::daemon::questions::Asker;
use crate::ear::message::{self, Meant};
use crate::os::clock::{clock_reading, now};

/// What happened to grants, that is kept.
const OUTCOMES: usize = 512;
/// The steps of an explanation.
const STEPS: usize = 200;
/// First knocks that one watcher is shown at once, and the time for one more. All later knocks are shown.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_millis(100);
/// How often a watcher learns how much was left out.
const SUMMARY: Duration = Duration::from_secs(1);

/// What came of knocks, and the clients of the control socket that look.
#[derive(Default)]
pub(crate) struct Watching {
    outcomes: VecDeque<Outcome>,
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
    /// Shows what a packet meant.
    pub(super) fn show_meant(&mut self, now: Time, meant: &Meant) {
        if let Some(step) = self.step_of(now, meant) {
            self.show(now, step);
        }
    }

    /// Shows that a packet was turned away, where it was.
    pub(super) fn note_at_guarded_port(&mut self, now: Time, source: IpAddr, (protocol, number): (u8, u16)) {
        let Some(protocol) = Protocol::from_number(protocol) else { return };
        let port = Port { protocol, number };
        if !self.sequences.is_guarded(port) {
            return;
        }
        let policy = self.grants.policy();
        let is_port = |place: &Place| match place {
            Place::Table(Access::Any) => true,
            Place::Table(Access::Ports(ports)) => ports.contains(port),
            Place::Set(_) => false,
        };
        let opens = |rule| policy.places(rule, source).iter().any(is_port);
        let mut grants = self.grants.ledger().of_address(source);
        if grants.any(|grant| grant.expires > now && opens(&grant.rule)) {
            return;
        }
        drop(grants);
        let step = Step { text: Some(port.to_string()), ..plain(now, now, source, None, What::TurnedAway) };
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
            self.trace(true);
        }
    }

    /// Has the ear say what packets mean, or no longer.
    fn trace(&mut self, watched: bool) {
        if let Err(error) = self.ear.trace(watched) {
            log::warn!("knockctl watch shows less: {error}");
        }
    }

    /// The ear has worked out fewer packets than came.
    pub(super) fn note_left_out(&mut self, number: u64) {
        self.watching.left_out = self.watching.left_out.saturating_add(number);
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
            return self.trace(false);
        }
        if watching.next_summary().is_none_or(|due| due > now) {
            return;
        }
        watching.summarised = now;
        let packets = std::mem::take(&mut watching.left_out);
        let Some(control) = &mut self.control else { return };
        for watcher in &mut watching.watchers {
            // The ear may say any number.
            let others = std::mem::take(&mut watcher.left_out) + control.left_out(watcher.slot);
            let left_out = others.saturating_add(packets);
            if left_out > 0 {
                control.push(watcher.slot, &line(&Followed::LeftOut(left_out)));
            }
        }
    }

    /// What the packets of a source meant in the last minutes, once the ear has said it.
    pub(super) fn explain(&mut self, now: Time, slot: usize, address: IpAddr) -> Option<Result<Response, Refusal>> {
        if address.is_unspecified() || address.is_multicast() {
            let message = format!("{address} cannot be the source of a packet");
            return Some(Err(Refusal::new(Code::BadValue, message)));
        }
        self.ask_ear(now, slot, Asker::Explain(slot, address));
        None
    }

    /// That, with what came of it.
    pub(super) fn explanation(&self, now: Time, address: IpAddr, explained: Explained) -> Response {
        let Explained { meant, since, left_out } = explained;
        let mut steps: Vec<(Time, Step)> =
            meant.iter().filter_map(|meant| Some((meant.time(), self.step_of(now, meant)?))).collect();
        let outcomes = self.watching.outcomes.iter().filter(|outcome| outcome.step.address == address);
        steps.extend(outcomes.map(|outcome| (outcome.at, outcome.step.clone())));
        // What follows from a packet comes behind it: the order of equal times stays.
        steps.sort_by_key(|(at, _)| *at);
        let steps = steps.split_off(steps.len().saturating_sub(STEPS));
        Response::result(&protocol::Explained {
            address,
            steps: steps.into_iter().map(|(_, step)| step).collect(),
            since_seconds: since.map(|since| since.as_secs_f64()),
            left_out,
        })
    }

    /// What a packet meant, as a step for people. `None`: the rule has changed since.
    fn step_of(&self, now: Time, meant: &Meant) -> Option<Step> {
        let rule = self.sequences.rule(meant.rule)?;
        let (what, text) = match meant.what {
            message::What::Knock => (What::Knock, None),
            message::What::Completed => (What::Completed, None),
            message::What::Tripwire => (What::Tripwire, None),
            message::What::WrongOrder => (What::WrongOrder, None),
            message::What::OtherRule => (What::OtherRule, None),
            message::What::TooSlow { took, timeout } => {
                (What::TooSlow, Some(format!("{:.1} s, the limit is {} s", took.as_secs_f64(), timeout.as_secs_f64())))
            }
            message::What::Retransmission => (What::Retransmission, None),
            message::What::Repeated => (What::Repeated, None),
            message::What::WrongProtocol => (What::WrongProtocol, None),
            message::What::OtherDestination => (What::OtherDestination, None),
        };
        let (knocked, of) = (meant.knocked.into(), meant.of.into());
        Some(Step { knocked, of, text, ..plain(now, meant.time(), meant.source, Some(rule.as_str()), what) })
    }
}

/// A step without progress.
fn plain(now: Time, at: Time, address: IpAddr, rule: Option<&str>, what: What) -> Step {
    let wall = clock_reading().wall.checked_sub(now.since(at)).unwrap_or(UNIX_EPOCH);
    let time = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    Step { time, address, rule: rule.map(str::to_owned), what, knocked: 0, of: 0, text: None }
}

fn line(line: &Followed) -> Vec<u8> {
    // All of it are texts and numbers, so this cannot fail.
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
