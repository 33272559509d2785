//! How long to wait before the store is tried again.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);
/// What lasted so long has worked. A store that accepts and fails at once is not tried in a hurry.
const LASTING: Duration = Duration::from_secs(10);

/// Longer after each failure.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// After another failure, of what has worked for that long. `spread` from 0 to 255 makes it up to half longer, so that nodes that have lost a store
    /// together do not come back together.
    pub(crate) fn next(&mut self, worked: Duration, spread: u8) -> Duration {
        if worked >= LASTING {
            self.failures = 0;
        }
        let pause = SHORTEST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        pause + pause.mul_f64(f64::from(spread) / 512.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_up_to_its_limit() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..7).map(|_| backoff.next(Duration::ZERO, 0).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next(LASTING, 255).as_millis(), 299);
        assert_eq!(backoff.next(LASTING / 2, 0).as_millis(), 400);
        (0..100).for_each(|_| assert!(backoff.next(Duration::ZERO, 255) < Duration::from_secs(8)));
    }
}
