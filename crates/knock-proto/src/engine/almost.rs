//! Sources that have knocked all but the last knock of a rule, so that something faster may wait for that.

use std::net::IpAddr;

use super::{Engine, Matcher};
use crate::source::Requirement;
use crate::sources::Key;
use crate::{Knock, RuleId, TcpFlags, Time};

/// With rules of more kinds (flags and targets), no source is looked at: the time for a packet stays bounded.
const TRACKS_MAX: usize = 8;
/// If more sequences than this can follow, a source is almost through with none.
const NEXT_MAX: usize = 8;

/// A source lacks one knock of a rule, and no other.
///
/// Until [`Almost::until`], that knock completes the rule and nothing else, whoever forged or repeated it, if it is the next packet
/// of the source that [`Engine::concerns`] the engine, has the flags of the rule, and is for this host or for one of the
/// rule's targets. A knock at [`Almost::repeat`] changes nothing about this. The engine can lose it in one way: the source
/// loses its place for another one ([`super::Counters::evicted`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Almost {
    /// The rule.
    pub rule: RuleId,
    /// The knock that is missing.
    pub last: Knock,
    /// The port that was knocked last, where another knock at it counts as the same one.
    pub repeat: Option<Knock>,
    /// The end of the time for the sequence.
    pub until: Time,
}

/// The last step of a rule that sources may be almost through with: [`Almost`] without a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastKnock {
    /// The rule.
    pub rule: RuleId,
    /// Its last knock.
    pub last: Knock,
    /// See [`Almost::repeat`].
    pub repeat: Option<Knock>,
    /// How many different ports in a row are knocked before it, as [`Engine::handle`] counts them.
    pub after: u8,
    /// The TCP segments that count.
    pub tcp_flags: TcpFlags,
    /// The destinations that count: [`crate::Rule::targets`].
    pub targets: Vec<IpAddr>,
}

impl Matcher {
    /// Whether a source may ever be almost through: there are two knocks at different ports at least, and the last port is only
    /// at the end, so that no repeat of a knock is the last one.
    fn can_be_almost_complete(&self) -> bool {
        let (Some(last), Some(first)) = (self.rule.sequence.last(), self.rule.sequence.first()) else { return false };
        first != last && self.rule.sequence.iter().filter(|knock| *knock == last).count() == 1
    }
}

impl Engine {
    /// The rule of which a source has knocked all but the last knock, at `now`. `None` also where that knock would complete two
    /// rules, where two different knocks would each complete one, where the port of the last knock is in the sequence before, and
    /// where the source has sent a packet to that port, or completed a rule, so short ago that a late copy may come.
    pub fn almost(&self, now: Time, source: IpAddr) -> Option<Almost> {
        if self.tracks.len() > TRACKS_MAX {
            return None;
        }
        let mut found: Option<(u64, Time)> = None;
        for track in &self.tracks {
            let Some(place) = self.sources.find(&Key { address: source, track: track.number }) else { continue };
            let requirement = |number: u64| {
                let Matcher { rule, runs, since } = &self.matchers[&number];
                Requirement { runs, timeout: rule.timeout, since: *since }
            };
            let next = self.sources.get(place).almost(now, &track.tree, requirement, NEXT_MAX)?;
            for (rule, until) in next {
                match found {
                    Some((other, _)) if other != rule => return None,
                    // Two beginnings of one sequence: the later one lasts longer.
                    Some((_, before)) => found = Some((rule, until.max(before))),
                    None => found = Some((rule, until)),
                }
            }
        }
        let (number, until) = found?;
        let matcher = self.matchers.get(&number).filter(|matcher| matcher.can_be_almost_complete())?;
        let &last = matcher.rule.sequence.last()?;
        let sent_before = |track: &super::Track| {
            let place = self.sources.find(&Key { address: source, track: track.number });
            place.is_some_and(|place| self.sources.get(place).has_sent(now, last))
        };
        let completes_another = |track: &super::Track| track.tree.walk([last]).is_some_and(|end| !end.rules.is_empty());
        if self.tracks.iter().any(|track| sent_before(track) || completes_another(track))
            || self.recent.has_any_of(source)
        {
            return None;
        }
        Some(Almost { rule: matcher.rule.id.clone(), last, repeat: self.repeat(matcher), until })
    }

    /// The knock before the last one, where a repeat of it counts once: no sequence repeats that port.
    fn repeat(&self, matcher: &Matcher) -> Option<Knock> {
        let before = matcher.runs.iter().rev().nth(1).map(|run| run.knock);
        before.filter(|&knock| self.tracks.iter().all(|track| track.tree.longest_run(knock) == 1))
    }

    /// The rules of which [`Engine::almost`] may speak, in their order.
    pub fn last_knocks(&self) -> Vec<LastKnock> {
        if self.tracks.len() > TRACKS_MAX {
            return Vec::new();
        }
        let possible = self.matchers.iter().filter(|(_, matcher)| matcher.can_be_almost_complete());
        let mut possible: Vec<(&u64, &Matcher)> = possible.collect();
        possible.sort_unstable_by_key(|(number, _)| **number);
        let last_knock = |(_, matcher): (&u64, &Matcher)| {
            Some(LastKnock {
                rule: matcher.rule.id.clone(),
                last: *matcher.rule.sequence.last()?,
                repeat: self.repeat(matcher),
                after: u8::try_from(matcher.runs.len().saturating_sub(1)).unwrap_or(u8::MAX),
                tcp_flags: matcher.rule.tcp_flags,
                targets: matcher.rule.targets.clone(),
            })
        };
        possible.into_iter().filter_map(last_knock).collect()
    }
}
