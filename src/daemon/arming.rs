//! Sources that the kernel waits for: the two stages in which one is armed, and the end of each.
//!
//! The ear says that a source lacks the last knock of a rule. The keeper makes it pending, has the ear read all packets that have
//! come so far, and arms it where it still lacks that knock: [why](../../docs/studies/armed-knock.md). The completion that the ear
//! then reports makes the grant, in place of what the kernel has opened. What none confirms in time is a stray element.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use knock_config::LastKnock;
use knock_nft::Doors;
use knock_proto::{Budget, RuleId, Time};

use crate::control::protocol;
use crate::daemon::Daemon;
use crate::daemon::doors::DoorPlan;
use crate::ear::plan::RuleKey;

/// For how long a source is pending: the ear answers between two turns of its work.
const PENDING: Duration = Duration::from_secs(1);
/// The kernel stops waiting so long before the time for the sequence is over: its clock is coarse, and the daemon reads the packet
/// later than it comes.
const MARGIN: Duration = Duration::from_millis(50);
/// So long after its end a completion may be on its way.
const GRACE: Duration = Duration::from_millis(500);
/// After the kernel has refused, which takes it 16 ms, nobody is armed for so long. (With the feature of that name, evidence is
/// gathered: each try counts.)
const PAUSE: Duration = Duration::from_millis(if cfg!(feature = "evidence") { 0 } else { 1000 });
/// How many sources of each IP version are made pending at once, and the time for one more: fewer than [`Doors::SPOILED`] in twice
/// [`Doors::LASTS`], and in the two seconds after which the kernel has cleared away what has ended.
const BURST: u32 = 1000;
const EACH: Duration = Duration::from_millis(8);
/// Sources that come to their end in one turn of the loop.
const ENDS: usize = 64;

/// What the kernel waits for.
pub(crate) struct Arming {
    plan: DoorPlan,
    sources: HashMap<IpAddr, Source>,
    ends: BTreeSet<(Time, IpAddr)>,
    /// Of IPv4 and of IPv6.
    counts: [usize; 2],
    budgets: [Budget; 2],
    paused_until: Option<Time>,
    pub(crate) counters: Counters,
}

/// A source that is pending or armed.
struct Source {
    rule: RuleId,
    door: usize,
    stage: Stage,
    /// Until when its knocks count.
    until: Time,
    /// When the keeper ends it.
    end: Time,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The ear was asked with this token.
    Pending(u64),
    Armed,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Sources that were armed.
    pub(crate) armed: u64,
    /// Sources that the kernel did not arm, since they sent something meanwhile.
    pub(crate) refused: u64,
    /// Completions of armed sources.
    pub(crate) confirmed: u64,
    /// Sources to which the kernel opened, and the daemon did not.
    pub(crate) unconfirmed: u64,
}

impl Arming {
    pub(crate) fn new(plan: DoorPlan) -> Arming {
        Arming {
            plan,
            sources: HashMap::new(),
            ends: BTreeSet::new(),
            counts: [0; 2],
            budgets: [Budget::default(); 2],
            paused_until: None,
            counters: Counters::default(),
        }
    }

    /// Other doors are in force, and nobody is armed.
    pub(super) fn follow(&mut self, plan: DoorPlan) {
        self.plan = plan;
    }

    /// The sources that are armed.
    fn armed(&self) -> usize {
        self.sources.values().filter(|source| source.stage == Stage::Armed).count()
    }

    /// When [`Daemon::tick_arming`] has something to do.
    pub(super) fn next_end(&self) -> Option<Time> {
        self.ends.first().map(|(end, _)| *end)
    }

    fn take(&mut self, address: IpAddr) -> Option<Source> {
        let source = self.sources.remove(&address)?;
        self.ends.remove(&(source.end, address));
        self.counts[version(address)] -= 1;
        Some(source)
    }

    fn insert(&mut self, address: IpAddr, source: Source) {
        self.take(address);
        self.ends.insert((source.end, address));
        self.counts[version(address)] += 1;
        self.sources.insert(address, source);
    }

    /// Takes those that come to their end by `now`.
    fn take_due(&mut self, now: Time) -> Vec<(IpAddr, Source)> {
        let due = self.ends.iter().take_while(|(end, _)| *end <= now).take(ENDS).map(|(_, address)| *address);
        let due: Vec<IpAddr> = due.collect();
        due.into_iter().filter_map(|address| Some((address, self.take(address)?))).collect()
    }

    fn take_all(&mut self) -> Vec<(IpAddr, Source)> {
        (self.ends, self.counts) = (BTreeSet::new(), [0; 2]);
        std::mem::take(&mut self.sources).into_iter().collect()
    }

    /// Whether another source of that version may be armed now.
    fn admit(&mut self, now: Time, address: IpAddr) -> bool {
        let version = version(address);
        let is_paused = self.paused_until.is_some_and(|until| now < until);
        !is_paused && self.counts[version] < Doors::PLACES as usize && self.budgets[version].admit(now, BURST, EACH)
    }
}

/// The place of the IP version in a pair.
fn version(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

/// For how long the kernel may wait, of the time until `until`; `None`: it is not worth it.
fn patience(now: Time, until: Time) -> Option<Duration> {
    let left = until.since(now).saturating_sub(MARGIN).min(Doors::LASTS);
    (left > MARGIN).then_some(left)
}

impl Daemon {
    /// A source lacks the last knock of a rule: the first stage.
    pub(super) fn on_almost(&mut self, now: Time, key: RuleKey, address: IpAddr, until: Time) {
        let Some(rule) = self.sequences.rule(key).cloned() else { return };
        let Some(door) = self.arming.plan.rules.iter().position(|other| *other == rule) else { return };
        // After a reload, the ear may follow other rules than the kernel for a moment.
        if !self.grants.has_doors() || self.reloads.waiting.is_some() || patience(now, until).is_none() {
            return;
        }
        // A repeat of a knock changes nothing.
        let is_known = |source: &Source| source.rule == rule && source.until == until;
        if self.arming.sources.get(&address).is_some_and(is_known)
            || self.cooldowns.is_in(now, &rule, address)
            || !self.grants.has_room(&rule, address)
            || !self.arming.admit(now, address)
        {
            return;
        }
        if let Err(error) = self.grants.pend(address, PENDING) {
            return self.pause_arming(now, &error);
        }
        match self.ear.ask_whether_almost(key, address) {
            Ok(token) => {
                let (stage, end) = (Stage::Pending(token), now.after(PENDING));
                self.end_before(now, address);
                self.arming.insert(address, Source { rule, door, stage, until, end });
            }
            Err(error) => self.pause_arming(now, &error),
        }
    }

    /// What the kernel opened to a source that is about to be armed again has to be confirmed still.
    fn end_before(&mut self, now: Time, address: IpAddr) {
        if let Some(before) = self.arming.take(address) {
            self.delete_unconfirmed(now, &[(address, before)]);
        }
    }

    /// The ear has read its queue: the second stage.
    pub(super) fn on_still_almost(&mut self, now: Time, token: u64, address: IpAddr, until: Option<Time>) {
        let is_it = |source: &Source| source.stage == Stage::Pending(token);
        if !self.arming.sources.get(&address).is_some_and(is_it) {
            return;
        }
        let Some(source) = self.arming.take(address) else { return };
        let lasts = until.and_then(|until| patience(now, until.min(source.until)));
        let Some(lasts) = lasts else { return self.disarm(now, &[address]) };
        match self.grants.arm(address, source.door, lasts) {
            Ok(true) => {
                self.arming.counters.armed += 1;
                let end = now.after(lasts + MARGIN + GRACE);
                self.arming.insert(address, Source { stage: Stage::Armed, end, ..source });
            }
            Ok(false) => {
                self.arming.counters.refused += 1;
                self.arming.paused_until = Some(now.after(PAUSE));
            }
            Err(error) => {
                self.pause_arming(now, &error);
                self.disarm(now, &[address]);
            }
        }
    }

    /// A source has completed a rule, and what follows was done.
    pub(super) fn confirm_armed(&mut self, now: Time, rule: &RuleId, address: IpAddr) {
        let Some(source) = self.arming.take(address) else { return };
        // The kernel may not have seen the packet as the ear did.
        self.disarm(now, &[address]);
        if source.stage == Stage::Armed && source.rule == *rule && self.grants.is_granted(now, rule, address) {
            self.arming.counters.confirmed += 1;
        } else {
            self.delete_unconfirmed(now, &[(address, source)]);
        }
    }

    /// Stops waiting for a source, since something else than its knock has let it in.
    pub(super) fn stop_waiting(&mut self, now: Time, address: IpAddr) {
        if let Some(source) = self.arming.take(address) {
            self.disarm(now, &[address]);
            self.delete_unconfirmed(now, &[(address, source)]);
        }
    }

    /// Ends what is due.
    pub(super) fn tick_arming(&mut self, now: Time) {
        let due = self.arming.take_due(now);
        self.end_all(now, &due);
    }

    /// Nobody is waited for from now on.
    pub(super) fn disarm_everybody(&mut self, now: Time) {
        let all = self.arming.take_all();
        for some in all.chunks(ENDS) {
            self.end_all(now, some);
        }
    }

    fn end_all(&mut self, now: Time, ended: &[(IpAddr, Source)]) {
        if ended.is_empty() {
            return;
        }
        let addresses: Vec<IpAddr> = ended.iter().map(|(address, _)| *address).collect();
        self.disarm(now, &addresses);
        self.delete_unconfirmed(now, ended);
    }

    fn disarm(&mut self, now: Time, addresses: &[IpAddr]) {
        if let Err(error) = self.grants.disarm(addresses) {
            self.pause_arming(now, &error);
        }
    }

    fn delete_unconfirmed(&mut self, now: Time, ended: &[(IpAddr, Source)]) {
        for (address, source) in ended.iter().filter(|(_, source)| source.stage == Stage::Armed) {
            match self.grants.delete_unconfirmed(now, &[(source.rule.clone(), *address)]) {
                Ok(0) => {}
                Ok(_) => self.arming.counters.unconfirmed += 1,
                Err(error) => log::error!("cannot delete what the kernel may have opened to {address}: {error}"),
            }
        }
    }

    /// Where the kernel opens, for the status; `None` where the configuration does not ask for it.
    pub(super) fn doors(&self) -> Option<protocol::Doors> {
        let nftables = &self.config.nftables;
        if nftables.last_knock == LastKnock::Daemon {
            return None;
        }
        let problem = match self.arming.plan.problem {
            Some(problem) => Some(problem),
            None if self.grants.has_doors() => None,
            None if !nftables.owner => Some("the managed table is not owned: nftables.owner is false"),
            None => Some("the managed table is not owned, which takes Linux 6.9"),
        };
        let rules = if problem.is_none() { self.arming.plan.rules.as_slice() } else { &[] };
        Some(protocol::Doors {
            rules: rules.iter().map(ToString::to_string).collect(),
            armed: self.arming.armed(),
            problem: problem.map(str::to_owned),
        })
    }

    fn pause_arming(&mut self, now: Time, error: &dyn std::fmt::Display) {
        self.arming.paused_until = Some(now.after(PAUSE));
        log::debug!("the kernel waits for no other last knock for a second: {error}");
    }
}
