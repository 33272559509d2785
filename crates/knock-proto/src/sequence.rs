//! The sequences of a track, as one tree: however many rules there are, a packet is a walk of a few steps.
//!
//! A sequence is seen as its *runs*: 1000, 1000, 2000 is two knocks at 1000 and then one at 2000. The tree branches by
//! the port of a run; how many knocks the run needs is checked at the end, against the rules that end there.

use std::collections::BTreeMap;

use crate::Knock;

/// Some knocks at one port, in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) knock: Knock,
    pub(crate) count: u16,
}

/// Splits a sequence into its runs.
pub(crate) fn runs(knocks: &[Knock]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &knock in knocks {
        match runs.last_mut() {
            Some(run) if run.knock == knock => run.count += 1,
            _ => runs.push(Run { knock, count: 1 }),
        }
    }
    runs
}

/// The sequences of several rules, as a tree.
#[derive(Debug)]
pub(crate) struct SequenceTree {
    nodes: Vec<Node>,
    /// The longest run of each port that any sequence has; ports with a run of one are left out.
    repeated: BTreeMap<Knock, u16>,
}

#[derive(Debug, Default)]
struct Node {
    children: BTreeMap<Knock, usize>,
    /// The rules whose last run this is.
    rules: Vec<u64>,
    /// The longest of these last runs.
    longest_run: u16,
}

/// Where a walk ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reached<'a> {
    /// The rules whose sequences have these runs, and none after them.
    pub(crate) rules: &'a [u64],
    /// Whether more knocks may complete a sequence that begins so.
    pub(crate) goes_on: bool,
}

impl SequenceTree {
    /// Builds the tree of these (rule, sequence) pairs. An empty sequence is never completed.
    pub(crate) fn new<'a>(sequences: impl IntoIterator<Item = (u64, &'a [Knock])>) -> SequenceTree {
        let mut tree = SequenceTree { nodes: vec![Node::default()], repeated: BTreeMap::new() };
        for (rule, knocks) in sequences {
            let mut node = 0;
            let mut last = 0;
            for run in runs(knocks) {
                node = tree.child_or_new(node, run.knock);
                last = run.count;
                if run.count > 1 {
                    let longest = tree.repeated.entry(run.knock).or_default();
                    *longest = run.count.max(*longest);
                }
            }
            if node != 0 {
                let end = &mut tree.nodes[node];
                end.rules.push(rule);
                end.longest_run = end.longest_run.max(last);
            }
        }
        tree
    }

    fn child_or_new(&mut self, node: usize, knock: Knock) -> usize {
        let new = self.nodes.len();
        let child = *self.nodes[node].children.entry(knock).or_insert(new);
        if child == new {
            self.nodes.push(Node::default());
        }
        child
    }

    /// How many knocks in a row at this port matter: the longest run of it in any sequence, at least 1.
    pub(crate) fn longest_run(&self, knock: Knock) -> u16 {
        self.repeated.get(&knock).copied().unwrap_or(1)
    }

    /// Walks from the root along the ports of some runs; `None` where no sequence begins so.
    pub(crate) fn walk(&self, ports: impl IntoIterator<Item = Knock>) -> Option<Reached<'_>> {
        let node = self.node(ports)?;
        // Where the last run is to be longer than one knock, it may not be whole yet.
        let goes_on = !node.children.is_empty() || node.longest_run > 1;
        Some(Reached { rules: &node.rules, goes_on })
    }

    /// The rules that have one more run after the ports of these; `None` where that run can be at more ports than `most`.
    pub(crate) fn with_one_more(
        &self,
        ports: impl IntoIterator<Item = Knock>,
        most: usize,
    ) -> Option<impl Iterator<Item = u64>> {
        let children = self.node(ports).map(|node| &node.children);
        let few = children.is_none_or(|children| children.len() <= most);
        let rules = children.into_iter().flat_map(BTreeMap::values).flat_map(|&child| &self.nodes[child].rules);
        few.then(|| rules.copied())
    }

    fn node(&self, ports: impl IntoIterator<Item = Knock>) -> Option<&Node> {
        ports.into_iter().try_fold(&self.nodes[0], |node, knock| Some(&self.nodes[*node.children.get(&knock)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knocks(ports: &[u16]) -> Vec<Knock> {
        ports.iter().map(|&port| Knock::tcp(port)).collect()
    }

    #[test]
    fn a_sequence_is_its_runs() {
        let of = |ports: &[u16]| runs(&knocks(ports)).iter().map(|run| (run.knock.port, run.count)).collect::<Vec<_>>();
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[1, 1, 2, 1]), [(1, 2), (2, 1), (1, 1)]);
    }

    #[test]
    fn the_tree_knows_beginnings_and_ends() {
        let (a, b) = (knocks(&[1, 2, 3]), knocks(&[1, 2, 2]));
        let tree = SequenceTree::new([(0, a.as_slice()), (1, b.as_slice())]);
        assert_eq!(tree.walk(knocks(&[1])), Some(Reached { rules: &[], goes_on: true }));
        assert_eq!(tree.walk(knocks(&[1, 2])), Some(Reached { rules: &[1], goes_on: true }));
        assert_eq!(tree.walk(knocks(&[1, 2, 3])), Some(Reached { rules: &[0], goes_on: false }));
        assert_eq!(tree.walk(knocks(&[2])), None);
        assert_eq!(tree.longest_run(Knock::tcp(2)), 2);
        assert_eq!(tree.longest_run(Knock::tcp(1)), 1);
    }
}
