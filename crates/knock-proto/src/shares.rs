//! Who loses a place when the table is full: the table is shared among groups, and groups within these.

use std::cmp::Reverse;
use std::collections::HashMap;

use smallvec::SmallVec;

/// The group of all members.
const ROOT: u32 = 0;

/// A member, or a group of members or of smaller groups.
#[derive(Debug, Default)]
struct Node {
    /// What tells it from the others of its parent; of a member, its number.
    key: u64,
    /// Counts up whenever one of the members is new or active.
    active: u64,
    parent: u32,
    /// Its members.
    members: u32,
    /// Where it stands in the heap of its parent.
    position: u32,
    /// A binary heap: the one that gives up a place first is the first.
    children: SmallVec<[u32; 4]>,
}

/// Members in groups within groups.
///
/// [`Shares::fullest`] goes from the whole into the group that has the most members, of equal ones the one idle longest,
/// in it again, and so on. So a group that has less than its part of the whole loses no member, however full others
/// are.
#[derive(Debug)]
pub(crate) struct Shares {
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// The groups, by parent and key. Keyed by an unknown key (SipHash), so that nobody can choose prefixes that
    /// collide.
    groups: HashMap<(u32, u64), u32>,
    clock: u64,
}

impl Shares {
    pub(crate) fn new() -> Shares {
        Shares { nodes: vec![Node::default()], free: Vec::new(), groups: HashMap::new(), clock: 0 }
    }

    /// Adds a member to the groups of that path, the outermost first. Returns what [`Shares::remove`] takes.
    pub(crate) fn insert(&mut self, path: &[u64], member: u64) -> u32 {
        let group = path.iter().fold(ROOT, |parent, &key| match self.groups.get(&(parent, key)) {
            Some(&group) => group,
            None => {
                let group = self.add_node(parent, key);
                self.groups.insert((parent, key), group);
                group
            }
        });
        let node = self.add_node(group, member);
        self.clock += 1;
        self.for_each_around(node, |shares, node| {
            shares.node(node).members += 1;
            shares.node(node).active = shares.clock;
            shares.settle(node);
        });
        node
    }

    /// Whether the group of that path, the outermost first, has a member.
    pub(crate) fn contains(&self, path: &[u64]) -> bool {
        let group = path.iter().try_fold(ROOT, |parent, &key| self.groups.get(&(parent, key)).copied());
        group.is_some_and(|group| self.nodes[group as usize].members > 0)
    }

    /// The member was active.
    pub(crate) fn touch(&mut self, node: u32) {
        self.clock += 1;
        self.for_each_around(node, |shares, node| {
            shares.node(node).active = shares.clock;
            shares.settle(node);
        });
    }

    /// Removes a member, and the groups that are empty then.
    pub(crate) fn remove(&mut self, node: u32) {
        self.for_each_around(node, |shares, node| {
            shares.node(node).members -= 1;
            match shares.node(node).members {
                0 if node != ROOT => shares.remove_node(node),
                _ => shares.settle(node),
            }
        });
    }

    /// The member that gives up its place first.
    pub(crate) fn fullest(&self) -> Option<u64> {
        let mut node = ROOT;
        while let Some(&child) = self.nodes[node as usize].children.first() {
            node = child;
        }
        (node != ROOT).then(|| self.nodes[node as usize].key)
    }

    fn node(&mut self, node: u32) -> &mut Node {
        &mut self.nodes[node as usize]
    }

    /// For a member and the groups that it is in, from the smallest to that of all.
    fn for_each_around(&mut self, mut node: u32, mut change: impl FnMut(&mut Shares, u32)) {
        while node != ROOT {
            let parent = self.nodes[node as usize].parent;
            change(self, node);
            node = parent;
        }
        change(self, ROOT);
    }

    fn add_node(&mut self, parent: u32, key: u64) -> u32 {
        let node = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            index(self.nodes.len() - 1)
        });
        let position = index(self.nodes[parent as usize].children.len());
        *self.node(node) = Node { key, active: self.clock, parent, members: 0, position, children: SmallVec::new() };
        self.node(parent).children.push(node);
        node
    }

    fn remove_node(&mut self, node: u32) {
        let Node { key, parent, position, .. } = self.nodes[node as usize];
        let siblings = &mut self.node(parent).children;
        siblings.swap_remove(position as usize);
        if let Some(&moved) = siblings.get(position as usize) {
            self.node(moved).position = position;
            self.settle(moved);
        }
        // A member is in no index; no group has both members and groups in it, so no other is found under its key.
        self.groups.remove(&(parent, key));
        self.free.push(node);
    }

    /// What comes first in a heap is the greatest.
    fn rank(&self, node: u32) -> (u32, Reverse<u64>) {
        let node = &self.nodes[node as usize];
        (node.members, Reverse(node.active))
    }

    /// Brings a node to its place in the heap that it is in.
    fn settle(&mut self, node: u32) {
        if node == ROOT {
            return;
        }
        let rank = self.rank(node);
        let parent = self.nodes[node as usize].parent;
        let child = |shares: &Shares, position: usize| shares.nodes[parent as usize].children.get(position).copied();
        let mut position = self.nodes[node as usize].position as usize;
        while position > 0 {
            let up = (position - 1) / 2;
            match child(self, up).filter(|&other| self.rank(other) < rank) {
                Some(other) => self.put(parent, position, other),
                None => break,
            }
            position = up;
        }
        loop {
            let below = [2 * position + 1, 2 * position + 2].into_iter();
            let of_below = below.filter_map(|position| Some((position, child(self, position)?)));
            match of_below.max_by_key(|(_, other)| self.rank(*other)).filter(|(_, other)| self.rank(*other) > rank) {
                Some((down, other)) => {
                    self.put(parent, position, other);
                    position = down;
                }
                None => break,
            }
        }
        self.put(parent, position, node);
    }

    fn put(&mut self, parent: u32, position: usize, node: u32) {
        self.node(parent).children[position] = node;
        self.node(node).position = index(position);
    }
}

/// There are some five nodes for each of at most `u32::MAX` / 8 members.
fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A member, its path, and when it was active.
    type Member = (u64, Vec<u64>, u64);

    /// Whether that member may go first: each group that it is in is a fullest one of its parent, and in the smallest
    /// it is idle longest. By looking at all members each time.
    fn may_go_first(member: &Member, members: &[Member]) -> bool {
        let path = &member.1;
        let size = |group: &[u64]| members.iter().filter(|other| other.1.starts_with(group)).count();
        let fullest = |depth: usize| {
            let siblings = members.iter().filter(|other| other.1.starts_with(&path[..depth]));
            siblings.map(|other| size(&other.1[..=depth])).max() == Some(size(&path[..=depth]))
        };
        let neighbours = members.iter().filter(|other| other.1 == *path);
        (0..path.len()).all(fullest) && neighbours.map(|other| other.2).min() == Some(member.2)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn the_fullest_group_at_each_level_gives_up_its_longest_idle_member(
            steps in prop::collection::vec((0..4_u8, 0..8_usize, prop::collection::vec(0..4_u64, 3)), 1..200),
        ) {
            let mut shares = Shares::new();
            let mut members: Vec<Member> = Vec::new();
            let mut nodes = HashMap::new();
            for (time, (step, which, path)) in (1..).zip(steps) {
                let chosen = members.get(which).map(|member| member.0);
                match (step, chosen) {
                    (0, Some(member)) => {
                        shares.remove(nodes[&member]);
                        members.remove(which);
                    }
                    (1, Some(member)) => {
                        shares.touch(nodes[&member]);
                        members[which].2 = time;
                    }
                    _ => {
                        nodes.insert(time, shares.insert(&path, time));
                        members.push((time, path, time));
                    }
                }
                let first = shares.fullest();
                let found = members.iter().find(|member| Some(member.0) == first);
                prop_assert_eq!(found.is_some(), !members.is_empty());
                prop_assert!(found.is_none_or(|member| may_go_first(member, &members)), "{:?} of {:?}", found, members);
                prop_assert_eq!(shares.nodes[ROOT as usize].members as usize, members.len());
                prop_assert!(shares.nodes.len() - shares.free.len() <= 1 + 4 * members.len());
            }
        }
    }

    #[test]
    fn a_group_with_less_than_its_part_loses_nothing() {
        let mut shares = Shares::new();
        let mut nodes = vec![shares.insert(&[1, 1], 0)];
        for member in 1..100 {
            nodes.push(shares.insert(&[2, member], member));
        }
        for expected in 1..99 {
            let member = shares.fullest().expect("there are members");
            assert_eq!(member, expected, "the longest idle of the fullest group");
            shares.remove(nodes[usize::try_from(member).expect("few members")]);
        }
    }
}
