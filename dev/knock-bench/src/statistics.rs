//! What is said about many measurements of one thing.

use std::time::Duration;

use knock_testkit::Opening;
use serde::Serialize;

/// How the port opened in many knocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Openings {
    opened: Vec<Opening>,
    lost: u32,
}

/// [`Openings`] in figures: microseconds from just before the last knock is sent, `None` where none opened.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Summary {
    /// The knocks.
    pub(crate) knocks: usize,
    /// Those that did not open.
    pub(crate) lost: u32,
    /// To the answer of the port, in half of those that opened.
    pub(crate) median_us: Option<f64>,
    /// To the answer of the port, in nine of ten of those that opened.
    pub(crate) p90_us: Option<f64>,
    /// To when the first probe that was let in was sent, in half of those that opened.
    pub(crate) probe_median_us: Option<f64>,
}

impl Openings {
    pub(crate) fn add(&mut self, opening: Option<Opening>) {
        match opening {
            Some(opening) => self.opened.push(opening),
            None => self.lost += 1,
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        let answers: Vec<Duration> = self.opened.iter().map(|opening| opening.answer).collect();
        let probes: Vec<Duration> = self.opened.iter().map(|opening| opening.probe).collect();
        Summary {
            knocks: self.opened.len() + self.lost as usize,
            lost: self.lost,
            median_us: quantile(answers.clone(), 50),
            p90_us: quantile(answers, 90),
            probe_median_us: quantile(probes, 50),
        }
    }
}

/// The smallest of them which that many percent of them do not exceed, in microseconds.
fn quantile(mut values: Vec<Duration>, percent: usize) -> Option<f64> {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100);
    let value = values.get(rank.saturating_sub(1))?;
    // Measured in nanoseconds, but not to the nanosecond.
    Some((value.as_secs_f64() * 1e7).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values = |range: std::ops::RangeInclusive<u64>| range.map(Duration::from_micros).collect::<Vec<_>>();
        assert_eq!(quantile(values(1..=100), 50), Some(50.0));
        assert_eq!(quantile(values(1..=100), 90), Some(90.0));
        assert_eq!(quantile(values(7..=7), 90), Some(7.0));
        assert_eq!(quantile(values(1..=3), 50), Some(2.0));
        assert_eq!(quantile(Vec::new(), 50), None);
    }

    #[test]
    fn a_lost_knock_counts_as_a_knock_and_not_as_a_time() {
        let mut openings = Openings::default();
        let time = Duration::from_micros(30);
        openings.add(Some(Opening { probe: time / 2, answer: time }));
        openings.add(None);
        let summary = openings.summary();
        assert_eq!((summary.knocks, summary.lost), (2, 1));
        assert_eq!((summary.median_us, summary.probe_median_us), (Some(30.0), Some(15.0)));
    }
}
