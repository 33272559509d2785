//! How many packets are looked at in a second.

use std::time::Duration;

/// The signatures of one key that are checked in a second.
const CHECKS_OF_KEY: u64 = 200;
/// The signatures of all keys that are checked in a second.
const CHECKS: u64 = 2_000;
/// The signatures of packets that can't be accepted, and that are checked in a second to say whose they are.
const STALE_CHECKS: u64 = 20;
/// The requests of one key that are followed in a second.
const REQUESTS_OF_KEY: u64 = 10;

const SECOND: u64 = 1_000_000_000;

/// A number of things in a second, which may all come at once after a quiet second.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// What is left, in parts of a thing: as many as there are nanoseconds in a second.
    left: u64,
    since: u64,
}

impl Rate {
    fn full(per_second: u64) -> Rate {
        Rate { left: per_second * SECOND, since: 0 }
    }

    fn refill(&mut self, per_second: u64, now: u64) {
        // A second fills it; with that bound nothing overflows.
        let passed = now.saturating_sub(self.since).min(SECOND);
        self.left = (self.left + passed * per_second).min(per_second * SECOND);
        self.since = self.since.max(now);
    }

    fn has_one(&self) -> bool {
        self.left >= SECOND
    }

    fn take_one(&mut self) {
        self.left -= SECOND;
    }
}

/// What is left for each key of a keyring. A key that uses up its own leaves the others theirs.
#[derive(Clone, Debug)]
pub struct Budgets {
    checks: Rate,
    stale: Rate,
    /// Checks and requests of each key.
    keys: Vec<(Rate, Rate)>,
}

impl Budgets {
    /// For so many keys.
    pub fn new(keys: usize) -> Budgets {
        Budgets {
            checks: Rate::full(CHECKS),
            stale: Rate::full(STALE_CHECKS),
            keys: vec![(Rate::full(CHECKS_OF_KEY), Rate::full(REQUESTS_OF_KEY)); keys],
        }
    }

    /// Whether a signature of the key with that index may be checked now: 200 in a second for each key, 2,000 for all. `now`
    /// is the time on a monotonic clock, since any epoch.
    pub fn may_check(&mut self, key: usize, now: Duration) -> bool {
        let now = nanoseconds(now);
        let Some((of_key, _)) = self.keys.get_mut(key) else { return false };
        of_key.refill(CHECKS_OF_KEY, now);
        self.checks.refill(CHECKS, now);
        let may = of_key.has_one() && self.checks.has_one();
        if may {
            of_key.take_one();
            self.checks.take_one();
        }
        may
    }

    /// Whether the signature of a packet may be checked now that was accepted before or is not of this time: 20 in a second.
    /// Who has recorded a packet can send it again at any rate, and must not use up the checks of its key.
    pub fn may_check_stale(&mut self, now: Duration) -> bool {
        self.stale.refill(STALE_CHECKS, nanoseconds(now));
        let may = self.stale.has_one();
        if may {
            self.stale.take_one();
        }
        may
    }

    /// Whether a request that the key has signed may be followed now: 10 in a second.
    pub fn may_request(&mut self, key: usize, now: Duration) -> bool {
        let Some((_, of_key)) = self.keys.get_mut(key) else { return false };
        of_key.refill(REQUESTS_OF_KEY, nanoseconds(now));
        let may = of_key.has_one();
        if may {
            of_key.take_one();
        }
        may
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(budgets: &mut Budgets, key: usize, tries: usize, now: Duration) -> usize {
        (0..tries).filter(|_| budgets.may_check(key, now)).count()
    }

    #[test]
    fn a_key_that_uses_up_its_checks_leaves_the_others_theirs() {
        let mut budgets = Budgets::new(3);
        let start = Duration::from_secs(5);
        assert_eq!(checks(&mut budgets, 0, 10_000, start), 200);
        assert_eq!(checks(&mut budgets, 1, 10_000, start), 200);
        assert_eq!(checks(&mut budgets, 0, 10_000, start + Duration::from_millis(500)), 100);
        assert_eq!(checks(&mut budgets, 0, 10_000, start + Duration::from_secs(100)), 200, "no more than a second's");
        assert_eq!(checks(&mut budgets, 3, 1, start), 0, "there is no such key");
    }

    #[test]
    fn all_keys_together_have_two_thousand_checks() {
        let mut budgets = Budgets::new(20);
        let all: usize = (0..20).map(|key| checks(&mut budgets, key, 1_000, Duration::ZERO)).sum();
        assert_eq!(all, 2_000);
    }

    #[test]
    fn packets_that_cannot_be_accepted_use_up_checks_of_their_own() {
        let mut budgets = Budgets::new(1);
        let now = Duration::from_secs(5);
        assert_eq!((0..1_000).filter(|_| budgets.may_check_stale(now)).count(), 20);
        assert_eq!(checks(&mut budgets, 0, 1_000, now), 200);
        assert!(budgets.may_check_stale(now + Duration::from_millis(50)));
    }

    #[test]
    fn a_key_has_ten_requests_a_second() {
        let mut budgets = Budgets::new(1);
        let requests = |budgets: &mut Budgets, now| (0..100).filter(|_| budgets.may_request(0, now)).count();
        assert_eq!(requests(&mut budgets, Duration::ZERO), 10);
        assert_eq!(requests(&mut budgets, Duration::from_millis(99)), 0);
        assert_eq!(requests(&mut budgets, Duration::from_millis(100)), 1);
        // A clock that goes back gives nothing.
        assert_eq!(requests(&mut budgets, Duration::ZERO), 0);
        assert_eq!(requests(&mut budgets, Duration::from_millis(150)), 0);
        assert_eq!(requests(&mut budgets, Duration::MAX), 10);
        assert_eq!(requests(&mut budgets, Duration::MAX), 0);
    }
}
