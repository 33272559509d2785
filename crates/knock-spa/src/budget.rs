//! How many packets are looked at in a second.

use std::time::Duration;

use crate::authorized_keys::AuthorizedKey;
use crate::key_type::KeyType;

/// The signatures of one key that are checked in a second, where a check costs 1.
const CHECKS_OF_KEY: u64 = 200;
/// The signatures of all keys that are checked in a second, where a check costs 1.
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

    fn has(&self, things: u64) -> bool {
        self.left >= things * SECOND
    }

    fn take(&mut self, things: u64) {
        self.left -= things * SECOND;
    }
}

/// What is left for each key of a keyring. A key that uses up its own leaves the others theirs.
#[derive(Clone, Debug)]
pub struct Budgets {
    checks: Rate,
    stale: Rate,
    keys: Vec<OfKey>,
}

#[derive(Clone, Debug)]
struct OfKey {
    /// What a check of a signature costs.
    cost: u64,
    checks: Rate,
    requests: Rate,
}

impl Budgets {
    /// For these keys, in the order of the keyring.
    pub fn new(keys: &[AuthorizedKey]) -> Budgets {
        Budgets::with_costs(keys.iter().map(|key| cost(key.key.key_type())))
    }

    /// For that many keys, whatever a check costs.
    pub fn of_count(keys: usize) -> Budgets {
        Budgets::with_costs(std::iter::repeat_n(1, keys))
    }

    fn with_costs(costs: impl Iterator<Item = u64>) -> Budgets {
        let (checks, requests) = (Rate::full(CHECKS_OF_KEY), Rate::full(REQUESTS_OF_KEY));
        let keys = costs.map(|cost| OfKey { cost, checks, requests }).collect();
        Budgets { checks: Rate::full(CHECKS), stale: Rate::full(STALE_CHECKS), keys }
    }

    /// Whether a signature of the key with that index may be checked now: 200 in a second for each key, 2,000 for all; 25 and
    /// 250 where they are of ECDSA. `now` is the time on a monotonic clock, since any epoch.
    pub fn may_check(&mut self, key: usize, now: Duration) -> bool {
        let now = nanoseconds(now);
        let Some(OfKey { cost, checks, .. }) = self.keys.get_mut(key) else { return false };
        checks.refill(CHECKS_OF_KEY, now);
        self.checks.refill(CHECKS, now);
        let may = checks.has(*cost) && self.checks.has(*cost);
        if may {
            checks.take(*cost);
            self.checks.take(*cost);
        }
        may
    }

    /// Whether the signature of a packet may be checked now that was accepted before or is not of this time: 20 in a second.
    /// Who has recorded a packet can send it again at any rate, and must not use up the checks of its key.
    pub fn may_check_stale(&mut self, now: Duration) -> bool {
        self.stale.refill(STALE_CHECKS, nanoseconds(now));
        let may = self.stale.has(1);
        if may {
            self.stale.take(1);
        }
        may
    }

    /// Whether a request that the key has signed may be followed now: 10 in a second.
    pub fn may_request(&mut self, key: usize, now: Duration) -> bool {
        let Some(OfKey { requests, .. }) = self.keys.get_mut(key) else { return false };
        requests.refill(REQUESTS_OF_KEY, nanoseconds(now));
        let may = requests.has(1);
        if may {
            requests.take(1);
        }
        may
    }
}

/// A check of ECDSA takes up to eight times as long as one of Ed25519, of which 2,000 take a tenth of a second.
fn cost(key_type: KeyType) -> u64 {
    match key_type {
        KeyType::Ed25519 | KeyType::FidoEd25519 => 1,
        KeyType::EcdsaP256 | KeyType::FidoEcdsaP256 => 8,
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
        let mut budgets = Budgets::with_costs(std::iter::repeat_n(1, 3));
        let start = Duration::from_secs(5);
        assert_eq!(checks(&mut budgets, 0, 10_000, start), 200);
        assert_eq!(checks(&mut budgets, 1, 10_000, start), 200);
        assert_eq!(checks(&mut budgets, 0, 10_000, start + Duration::from_millis(500)), 100);
        assert_eq!(checks(&mut budgets, 0, 10_000, start + Duration::from_secs(100)), 200, "no more than a second's");
        assert_eq!(checks(&mut budgets, 3, 1, start), 0, "there is no such key");
    }

    #[test]
    fn all_keys_together_have_two_thousand_checks() {
        let mut budgets = Budgets::with_costs(std::iter::repeat_n(1, 20));
        let all: usize = (0..20).map(|key| checks(&mut budgets, key, 1_000, Duration::ZERO)).sum();
        assert_eq!(all, 2_000);
    }

    #[test]
    fn packets_that_cannot_be_accepted_use_up_checks_of_their_own() {
        let mut budgets = Budgets::with_costs(std::iter::once(1));
        let now = Duration::from_secs(5);
        assert_eq!((0..1_000).filter(|_| budgets.may_check_stale(now)).count(), 20);
        assert_eq!(checks(&mut budgets, 0, 1_000, now), 200);
        assert!(budgets.may_check_stale(now + Duration::from_millis(50)));
    }

    #[test]
    fn a_check_of_ecdsa_costs_eight() {
        let p256 = |number| crate::PrivateKey::from_p256([number; 32], "").expect("a number of the group");
        let keys = (1..=12).map(|number| match number {
            1 => crate::PrivateKey::from_seed([1; 32], ""),
            _ => p256(number),
        });
        let file: String = keys.map(|key| format!("{}\n", key.public_key())).collect();
        let keys = crate::AuthorizedKeys::parse(file.as_bytes()).keys;
        let mut budgets = Budgets::new(&keys);
        let all: Vec<usize> = (0..12).map(|key| checks(&mut budgets, key, 1_000, Duration::ZERO)).collect();
        assert_eq!(all, [200, 25, 25, 25, 25, 25, 25, 25, 25, 25, 0, 0]);
        // A part of what a check costs is kept for the next.
        let mut budgets = Budgets::new(&keys);
        checks(&mut budgets, 1, 1_000, Duration::ZERO);
        assert_eq!(checks(&mut budgets, 1, 1_000, Duration::from_millis(39)), 0);
        assert_eq!(checks(&mut budgets, 1, 1_000, Duration::from_millis(40)), 1);
    }

    #[test]
    fn a_key_has_ten_requests_a_second() {
        let mut budgets = Budgets::with_costs(std::iter::once(1));
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
