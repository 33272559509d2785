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

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All ports from the lowest to the highest one of these sets.
    pub(super) fn cover<'a>(sets: impl IntoIterator<Item = &'a PortSet>) -> PortSet {
        let ranges = sets.into_iter().flat_map(|set| set.0.iter().cloned());
        PortSet(ranges.reduce(|a, b| *a.start().min(b.start())..=*a.end().max(b.end())).into_iter().collect())
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
    fn sets_are_covered_by_one_range() {
        let (low, high) = (PortSet::new([1, 10, 12]), PortSet::new([5, 1000]));
        assert_eq!(PortSet::cover([&low, &high]), PortSet(vec![1..=1000]));
        assert!(PortSet::cover([&PortSet::default()]).is_empty());
    }
}
