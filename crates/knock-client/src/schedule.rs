//! When to connect after the last knock, and when to knock again.

use std::time::Duration;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The times after the last knock at which a new socket connects. Each is at most about twice the one before, so that
/// an attempt lives three more steps, about seven times its own age: longer than a round trip.
const CONNECT_AT: [Duration; 10] = [ms(2), ms(5), ms(10), ms(20), ms(40), ms(80), ms(160), ms(320), ms(640), ms(1280)];

/// How much longer than at first a gap can become. A rule has a limit for the time of a whole sequence, by default 5 s.
const GAP_FACTOR_MAX: u32 = 4;

/// A round of knocks, and the attempts to connect after it. The first has number 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round(pub(crate) u32);

impl Round {
    /// The gap between two knocks: twice as long in each round, for a path that delivers them out of order.
    pub(crate) fn gap(self, first: Duration) -> Duration {
        first.saturating_mul(2_u32.saturating_pow(self.0).min(GAP_FACTOR_MAX))
    }

    /// How long it waits after its last knock. A lost packet is the usual cause, so the first rounds are short.
    pub(crate) fn wait(self) -> Duration {
        ms(500) + ms(100).saturating_mul(self.0.min(100))
    }

    /// The times after its last knock at which a new socket connects. Later rounds begin later: on a path with a long
    /// round trip their attempts must not replace those that are about to succeed.
    pub(crate) fn connects(self) -> impl Iterator<Item = Duration> {
        let first = (2 * self.0 as usize).min(CONNECT_AT.len() - 4);
        CONNECT_AT[first..].iter().copied().take_while(move |at| *at < self.wait())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_doubles_up_to_a_limit() {
        let gaps: Vec<u128> = (0..6).map(|round| Round(round).gap(ms(20)).as_millis()).collect();
        assert_eq!(gaps, [20, 40, 80, 80, 80, 80]);
        assert_eq!(Round(40).gap(Duration::ZERO), Duration::ZERO);
        assert_eq!(Round(u32::MAX).gap(ms(60_000)), ms(240_000));
    }

    #[test]
    fn every_round_connects_before_its_end_and_later_ones_begin_later() {
        let mut begin = Duration::ZERO;
        for round in (0..5).map(Round) {
            let times: Vec<Duration> = round.connects().collect();
            assert!(times.len() >= 3 && times[0] > begin || round.0 > 3, "{round:?}: {times:?}");
            assert!(times.iter().all(|at| *at < round.wait()), "{round:?}: {times:?}");
            begin = times[0];
        }
        assert!(Round(u32::MAX).connects().count() >= 3);
    }

    #[test]
    fn five_knocks_are_tried_at_least_seven_times_in_ten_seconds() {
        let mut time = Duration::ZERO;
        let rounds = (0..).map(Round).take_while(|round| {
            time += round.gap(ms(40)) * 4 + round.wait();
            time < Duration::from_secs(10)
        });
        assert!(rounds.count() >= 7);
    }
}
