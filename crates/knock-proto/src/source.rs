//! What one source has knocked so far.

use std::time::Duration;

use smallvec::SmallVec;

use crate::packet::{Identity, Packet};
use crate::seen::Seen;
use crate::sequence::{Run, SequenceTree};
use crate::stage::Stage;
use crate::{Knock, Time};

/// A knock that counted.
#[derive(Clone, Copy, Debug)]
struct Event {
    /// Strictly later than that of the event before, so that a time also names an event.
    at: Time,
    knock: Knock,
    identity: Identity,
    /// The position in its run of knocks at the same port, from 1; the events of a run that no sequence can need
    /// are not kept.
    run: u16,
}

/// A rule that was completed: what came until then is used up for it.
#[derive(Clone, Copy, Debug)]
struct Completion {
    rule: u64,
    at: Time,
}

/// What one source has knocked so far, as far as it is still the beginning of a sequence.
#[derive(Debug, Default)]
pub(crate) struct Source {
    events: SmallVec<[Event; 2]>,
    seen: Seen,
    completions: Vec<Completion>,
    /// Its runs that begin a sequence.
    progress: u8,
    /// When the last packet of it came that was no retransmission.
    newest: Time,
}

/// What a rule of a track needs to be completed, beside its ports.
pub(crate) struct Requirement<'a> {
    pub(crate) runs: &'a [Run],
    pub(crate) timeout: Duration,
    /// Knocks until then do not count.
    pub(crate) since: Option<Time>,
}

impl Source {
    /// How many runs of a sequence stand.
    pub(crate) fn progress(&self) -> u8 {
        self.progress
    }

    /// What the progress began with.
    pub(crate) fn first(&self) -> Option<Knock> {
        self.events.first().map(|event| event.knock)
    }

    /// When the last packet came that was no retransmission.
    pub(crate) fn newest(&self) -> Time {
        self.newest
    }

    /// Makes it a source that nothing is known of, and keeps its memory for the next.
    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.seen.clear();
        self.completions.clear();
        self.progress = 0;
        self.newest = Time::ZERO;
    }

    /// Notes the packet; true where it is a retransmission: see [`Seen::is_retransmission`].
    pub(crate) fn is_retransmission(&mut self, now: Time, packet: &Packet, tripwire: bool, most: usize) -> bool {
        self.seen.is_retransmission(now, packet.knock, packet.identity, tripwire, most)
    }

    /// A tripwire was touched: what was knocked counts no more.
    pub(crate) fn trip(&mut self, now: Time) {
        self.newest = now;
        self.forget_before(self.events.len());
    }

    /// Notes a knock, and calls `completed` for each rule that it completes. Returns the packets that counted for these,
    /// as far as a retransmission of one can be told from another packet.
    pub(crate) fn knock<'a>(
        &mut self,
        now: Time,
        knock: Knock,
        identity: Identity,
        tree: &SequenceTree,
        requirement: impl Fn(u64) -> Requirement<'a>,
        mut completed: impl FnMut(u64),
    ) -> SmallVec<[(Knock, Identity); 4]> {
        self.newest = now;
        self.push(now, knock, identity, tree.longest_run(knock));
        // From each beginning of a run, the oldest first: where a longer sequence can follow, the progress starts,
        // and where one ends, its rules may be complete.
        let mut keep_from = None;
        let mut ends: SmallVec<[(usize, u64); 4]> = SmallVec::new();
        for start in 0..self.events.len() {
            if !self.begins_run(start) {
                continue;
            }
            let Some(reached) = tree.walk(self.ports_from(start)) else { continue };
            if reached.goes_on {
                keep_from.get_or_insert(start);
            }
            ends.extend(reached.rules.iter().map(|&rule| (start, rule)));
        }
        let mut counted = self.events.len();
        for (start, rule) in ends {
            if let Some(begin) = self.completes(start, now, rule, &requirement(rule)) {
                counted = counted.min(begin);
                self.completions.retain(|completion| completion.rule != rule);
                let at = self.events.last().map_or(now, |event| event.at);
                self.completions.push(Completion { rule, at });
                completed(rule);
            }
        }
        let counted = self.events[counted..].iter().map(|event| (event.knock, event.identity));
        let counted = counted.filter(|&(knock, identity)| !self.seen.is_ambiguous(knock, identity)).collect();
        self.forget_before(keep_from.unwrap_or(self.events.len()));
        counted
    }

    /// The rules that one more knock, the last one of their sequence, would complete at `now`, and until when; `None` where they
    /// are too many to look at.
    pub(crate) fn almost<'a>(
        &self,
        now: Time,
        tree: &SequenceTree,
        requirement: impl Fn(u64) -> Requirement<'a>,
        most: usize,
    ) -> Option<SmallVec<[(u64, Time); 2]>> {
        let mut found = SmallVec::new();
        for start in (0..self.events.len()).filter(|&start| self.begins_run(start)) {
            for (number, rule) in tree.with_one_more(self.ports_from(start), most)?.enumerate() {
                if number >= most {
                    return None;
                }
                let requirement = requirement(rule);
                let Some((last, before)) = requirement.runs.split_last() else { continue };
                if last.count == 1
                    && let Some(begin) = self.fits(start, now, rule, &requirement, before)
                {
                    found.push((rule, self.events[begin].at.after(requirement.timeout)));
                }
            }
        }
        Some(found)
    }

    /// Whether it has sent a packet to that port of which a copy may come.
    pub(crate) fn has_sent(&self, now: Time, knock: Knock) -> bool {
        self.seen.has(now, knock)
    }

    /// How far it is with a rule, by the knocks that count at `now`; `None` where it has none of the sequence.
    pub(crate) fn stage(&self, now: Time, requirement: &Requirement<'_>) -> Option<Stage> {
        let in_time =
            |at: Time| now.since(at) <= requirement.timeout && requirement.since.is_none_or(|since| at > since);
        let starts = (0..self.events.len()).filter(|&start| self.begins_run(start));
        starts.filter_map(|start| self.beginning(start, requirement.runs, in_time)).max_by_key(|stage| stage.knocked)
    }

    /// The knocks from the run at `start` to the last event, where they are the beginning of these runs.
    fn beginning(&self, start: usize, runs: &[Run], in_time: impl Fn(Time) -> bool) -> Option<Stage> {
        let mut knocked = 0;
        let mut begin = start;
        let mut next = start;
        for (position, run) in runs.iter().enumerate() {
            if next == self.events.len() {
                break;
            }
            if self.events[next].knock != run.knock {
                return None;
            }
            let end = (next + 1..self.events.len()).find(|&i| self.begins_run(i)).unwrap_or(self.events.len());
            let count = usize::from(run.count).min(end - next);
            // More knocks at the first port than the sequence has: its last ones count.
            if position == 0 {
                begin = end - count;
            }
            knocked += count;
            next = end;
        }
        let since = self.events.get(begin)?.at;
        (next == self.events.len() && knocked > 0 && in_time(since)).then_some(Stage { knocked, since })
    }

    fn push(&mut self, now: Time, knock: Knock, identity: Identity, longest_run: u16) {
        let mut event = Event { at: now, knock, identity, run: 1 };
        if let Some(last) = self.events.last() {
            event.at = now.max(last.at.after(Duration::from_nanos(1)));
            if last.knock == knock {
                event.run = last.run.saturating_add(1);
            }
        }
        if event.run > longest_run {
            // Of a run, as many knocks are kept as the longest sequence can need: the newest.
            let oldest = self.events.len() - usize::from(longest_run);
            self.events.remove(oldest);
        }
        self.events.push(event);
    }

    /// Whether the run of this event begins with it, of what is kept.
    fn begins_run(&self, index: usize) -> bool {
        index == 0 || self.events[index - 1].knock != self.events[index].knock
    }

    /// The ports of the runs from that event on.
    fn ports_from(&self, start: usize) -> impl Iterator<Item = Knock> + '_ {
        (start..self.events.len()).filter(move |&i| i == start || self.begins_run(i)).map(|i| self.events[i].knock)
    }

    /// Where the events from the run that begins at `start`, which have the ports of the rule, complete it: the first
    /// that counts for that.
    fn completes(&self, start: usize, now: Time, rule: u64, requirement: &Requirement<'_>) -> Option<usize> {
        self.fits(start, now, rule, requirement, requirement.runs)
    }

    /// The same, where these runs, which are the beginning of the rule, are all that is asked for.
    fn fits(&self, start: usize, now: Time, rule: u64, requirement: &Requirement<'_>, runs: &[Run]) -> Option<usize> {
        let (first, others) = runs.split_first()?;
        let is_whole = runs.len() == requirement.runs.len();
        let after_first_run =
            (start..self.events.len()).find(|&i| i > start && self.begins_run(i)).unwrap_or(self.events.len());
        // The first run may be longer than it need be: its last knocks count.
        let first = after_first_run.checked_sub(usize::from(first.count)).filter(|&first| first >= start)?;
        let begin = self.events[first].at;
        if now.since(begin) > requirement.timeout || requirement.since.is_some_and(|since| begin <= since) {
            return None;
        }
        let used_up = |completion: &Completion| completion.rule == rule && begin <= completion.at;
        if self.completions.iter().any(used_up) {
            return None;
        }
        let mut end = after_first_run;
        for (position, run) in others.iter().enumerate() {
            end = (end + 1..self.events.len()).find(|&i| self.begins_run(i)).unwrap_or(self.events.len());
            let count = self.events[end - 1].run;
            let last = is_whole && position + 1 == others.len();
            // A repeat of the same port counts once, unless the sequence itself repeats it. The last run completes
            // the rule when it is long enough, not again with each further knock.
            let enough = if run.count == 1 && !last { true } else { count == run.count };
            if !enough {
                return None;
            }
        }
        (end == self.events.len()).then_some(first)
    }

    fn forget_before(&mut self, start: usize) {
        self.events.drain(..start);
        let runs = (0..self.events.len()).filter(|&i| self.begins_run(i)).count();
        self.progress = u8::try_from(runs).unwrap_or(u8::MAX);
        match self.events.first().map(|event| event.at) {
            Some(oldest) => self.completions.retain(|completion| completion.at >= oldest),
            None => self.completions.clear(),
        }
    }
}
