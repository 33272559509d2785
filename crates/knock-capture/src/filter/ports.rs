//! Sets of ports as sorted ranges.

use std::ops::RangeInclusive;

/// Disjoint, non-adjacent ranges of ports in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PortSet(Vec<RangeInclusive<u16>>);

impl PortSet {
    pub(super) fn new(ports: impl IntoIterator<Item = u16>) -> PortSet {
        let mut ports: Vec<u16> = ports.into_iter().collect();
        ports.sort_unstable();
        ports.dedup();
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for port in ports {
            match ranges.last_mut() {
                Some(last) if last.end().checked_add(1) == Some(port) => *last = *last.start()..=port,
                _ => ranges.push(port..=port),
            }
        }
        PortSet(ranges)
    }

    pub(super) fn ranges(&self) -> usize {
        self.0.len()
    }

    /// The least superset of at most `most` ranges, found by closing the narrowest gaps.
    pub(super) fn merged_to(&self, most: usize) -> PortSet {
        let most = most.max(1);
        if self.0.len() <= most {
            return self.clone();
        }
        let mut gaps: Vec<(u16, usize)> =
            self.0.windows(2).enumerate().map(|(at, pair)| (pair[1].start() - pair[0].end(), at)).collect();
        gaps.sort_unstable();
        let mut closed = vec![false; gaps.len()];
        for &(_, at) in gaps.iter().take(self.0.len() - most) {
            closed[at] = true;
        }
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(most);
        for (at, range) in self.0.iter().enumerate() {
            match merged.last_mut() {
                Some(last) if at > 0 && closed[at - 1] => *last = *last.start()..=*range.end(),
                _ => merged.push(range.clone()),
            }
        }
        PortSet(merged)
    }

    /// The values at which membership changes, ascending: the first port of each range and the one after its last.
    pub(super) fn boundaries(&self) -> Vec<u32> {
        self.0.iter().flat_map(|range| [u32::from(*range.start()), u32::from(*range.end()) + 1]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_ports_become_one_range() {
        let set = PortSet::new([7, 5, 6, 65535, 9, 9, 65534]);
        assert_eq!(set, PortSet(vec![5..=7, 9..=9, 65534..=65535]));
        assert_eq!(set.boundaries(), [5, 8, 9, 10, 65534, 65536]);
    }

    #[test]
    fn the_narrowest_gaps_are_closed_first() {
        let set = PortSet::new([1, 10, 12, 1000]);
        assert_eq!(set.merged_to(3), PortSet(vec![1..=1, 10..=12, 1000..=1000]));
        assert_eq!(set.merged_to(2), PortSet(vec![1..=12, 1000..=1000]));
        assert_eq!(set.merged_to(0), PortSet(vec![1..=1000]));
        assert_eq!(set.merged_to(4), set);
    }
}
