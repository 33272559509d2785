//! Finds the rules whose whole sequence is part of the sequence of another rule, without a comparison of all pairs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use knock_proto::{Knock, TcpFlags};

use crate::model::{Rule, Trigger};
use crate::warning::Place;

pub(crate) fn sequence(rule: &Rule) -> Option<&[Knock]> {
    match &rule.trigger {
        Some(Trigger::Sequence(sequence)) => Some(sequence),
        Some(Trigger::OneTime(_)) | None => None,
    }
}

/// The rules by their sequence, and by the packets that are knocks for them.
pub(crate) struct SequenceIndex<'c> {
    rules: HashMap<&'c [Knock], BTreeMap<(u8, u8), SameFlags>>,
    /// The lengths that sequences have: parts of other lengths are skipped.
    lengths: BTreeSet<usize>,
}

/// The rules with one sequence and the same TCP flags, each list in ascending order.
#[derive(Default)]
struct SameFlags {
    all: Vec<usize>,
    any_target: Vec<usize>,
    by_target: HashMap<IpAddr, Vec<usize>>,
}

impl<'c> SequenceIndex<'c> {
    pub(crate) fn of(rules: &'c [Rule]) -> SequenceIndex<'c> {
        let mut index = SequenceIndex { rules: HashMap::new(), lengths: BTreeSet::new() };
        for (number, rule) in rules.iter().enumerate() {
            let Some(sequence) = sequence(rule) else { continue };
            index.lengths.insert(sequence.len());
            let TcpFlags { set, clear } = rule.tcp_flags;
            let same = index.rules.entry(sequence).or_default().entry((set, clear)).or_default();
            same.all.push(number);
            if rule.targets.is_empty() {
                same.any_target.push(number);
            }
            for &target in &rule.targets {
                same.by_target.entry(target).or_default().push(number);
            }
        }
        index
    }

    /// The rules whose whole sequence is part of `own`, the sequence of rule `number`, each with its place; at most
    /// `most`. A rule counts only if one packet can be a knock for it and for `rule`. Of two rules with one sequence the earlier
    /// is found in the later.
    pub(crate) fn contained_in(&self, number: usize, rule: &Rule, own: &[Knock], most: usize) -> Vec<(usize, Place)> {
        // A repeat of a port counts once for a sequence that does not repeat it itself.
        let mut once = own.to_vec();
        once.dedup();
        let mut parts = BTreeMap::new();
        self.find_parts(&once, &mut parts);
        self.find_parts(own, &mut parts);
        let mut found = Vec::new();
        for (part, place) in parts {
            let before = if part == own { number } else { usize::MAX };
            for ((set, clear), same) in self.rules.get(part).into_iter().flatten() {
                if rule.tcp_flags.set & clear == 0 && set & rule.tcp_flags.clear == 0 {
                    let others = same.candidates(&rule.targets, before).filter(|other| *other != number);
                    found.extend(others.map(|other| (other, place)).take(most.saturating_sub(found.len())));
                }
            }
        }
        found.sort_by_key(|(other, _)| *other);
        found
    }

    /// Adds the parts of `sequence` that are whole sequences of rules; the last place of each counts.
    fn find_parts<'s>(&self, sequence: &'s [Knock], parts: &mut BTreeMap<&'s [Knock], Place>) {
        for &length in self.lengths.range(..=sequence.len()) {
            for (start, part) in sequence.windows(length).enumerate() {
                if self.rules.contains_key(part) {
                    let place = match (start, sequence.len() - length - start) {
                        (0, 0) => Place::Whole,
                        (_, 0) => Place::End,
                        _ => Place::Inside,
                    };
                    parts.insert(part, place);
                }
            }
        }
    }
}

impl SameFlags {
    /// The rules before rule `before` for which a packet to one of `targets` (none: to any address) can be a knock.
    fn candidates(&self, targets: &[IpAddr], before: usize) -> impl Iterator<Item = usize> {
        let lists: Vec<&[usize]> = if targets.is_empty() {
            vec![&self.all]
        } else {
            let by_target = targets.iter().filter_map(|target| self.by_target.get(target));
            [&self.any_target].into_iter().chain(by_target).map(Vec::as_slice).collect()
        };
        let before = move |list: &'_ [usize]| list.partition_point(|number| *number < before);
        // A rule with several of the targets is in several lists.
        let mut seen = HashSet::new();
        let rules = lists.into_iter().flat_map(move |list| list[..before(list)].iter().copied());
        rules.filter(move |number| seen.insert(*number))
    }
}
