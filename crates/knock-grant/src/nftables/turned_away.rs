//! The sum over all counters that the gate has had: a change of the managed table may make another one, which begins at
//! zero.

use knock_nft::DropCount;

/// The packets that the gate has dropped since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TurnedAway {
    /// Those of earlier counters. What such a counter counted after its last reading is lost.
    earlier: u64,
    last: Option<DropCount>,
}

impl TurnedAway {
    /// Takes a reading of the counter that there is now.
    pub(super) fn read(&mut self, count: DropCount) {
        if let Some(last) = self.last
            && (last.counter != count.counter || last.packets > count.packets)
        {
            self.earlier = self.packets();
        }
        self.last = Some(count);
    }

    pub(super) fn packets(&self) -> u64 {
        self.earlier.saturating_add(self.last.map_or(0, |last| last.packets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_goes_on_over_another_counter_and_over_one_that_was_reset() {
        let mut turned_away = TurnedAway::default();
        assert_eq!(turned_away.packets(), 0);
        let readings = [((1, 9), 5, 5), ((1, 9), 7, 7), ((1, 12), 7, 14), ((2, 12), 9, 23), ((2, 12), 1, 24)];
        for (counter, packets, sum) in readings {
            turned_away.read(DropCount { counter, packets });
            assert_eq!(turned_away.packets(), sum, "{counter:?}");
        }
    }
}
