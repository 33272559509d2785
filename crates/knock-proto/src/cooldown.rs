//! Cooldowns: the time after a completion in which its rule does not complete again for the same source.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use crate::notes::Notes;
use crate::recent::groups;
use crate::{RuleId, Time};

/// The completions of rules with a cooldown, whatever triggered them.
///
/// The memory is bounded. When it is full, the oldest completion of the fullest group makes room; the groups are the
/// rule, the version of IP, the network and the address. That rule then completes again for this source, earlier than it
/// should: the other choice would be that nobody can complete a rule while somebody floods it.
#[derive(Debug)]
pub struct Cooldowns {
    /// The rules with a cooldown.
    rules: HashMap<RuleId, Duration>,
    longest: Duration,
    completions: Notes<(RuleId, IpAddr), ()>,
}

impl Cooldowns {
    /// The cooldown of each rule that has one, and the number of sources that are remembered: so many completions are
    /// remembered too, and at least 1024.
    pub fn new(rules: HashMap<RuleId, Duration>, sources: usize) -> Cooldowns {
        let longest = rules.values().max().copied().unwrap_or_default();
        Cooldowns { rules, longest, completions: Notes::new(sources) }
    }

    /// Changes to other rules. A completion is known on under the name of its rule, and is as old as it was.
    pub fn reconfigure(&mut self, rules: HashMap<RuleId, Duration>, sources: usize) {
        self.completions.retain(|(rule, _)| rules.contains_key(rule));
        self.completions.resize(sources);
        self.longest = rules.values().max().copied().unwrap_or_default();
        self.rules = rules;
    }

    /// Whether this completion counts. If it does, the cooldown of the rule begins for this source.
    pub fn begin(&mut self, now: Time, rule: &RuleId, source: IpAddr) -> bool {
        let Some(&cooldown) = self.rules.get(rule) else { return true };
        self.forget_old(now);
        let key = (rule.clone(), source);
        if let Some((at, ())) = self.completions.get_mut(&key) {
            if now.since(at) < cooldown {
                return false;
            }
            self.completions.remove(&key);
        }
        let mut path = groups(source);
        path.insert(0, self.rules.hasher().hash_one(rule));
        self.completions.insert(now, &path, key, ());
        true
    }

    /// Whether a completion of that rule would do nothing now.
    pub fn is_in(&self, now: Time, rule: &RuleId, source: IpAddr) -> bool {
        let Some(&cooldown) = self.rules.get(rule) else { return false };
        self.completions.time_of(&(rule.clone(), source)).is_some_and(|at| now.since(at) < cooldown)
    }

    /// Nothing came of a completion that counted, so the next one counts too.
    pub fn end(&mut self, rule: &RuleId, source: IpAddr) {
        self.completions.remove(&(rule.clone(), source));
    }

    /// Forgets the completions that are older than each cooldown.
    pub fn forget_old(&mut self, now: Time) {
        self.completions.forget_older(now, self.longest);
    }

    /// When [`Cooldowns::forget_old`] forgets all completions of now: one time, so that an idle daemon wakes once.
    pub fn next_old(&self) -> Option<Time> {
        self.completions.all_older(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notes::CAPACITY_MIN;

    const NOW: Time = Time::from_millis(1000);
    const TEN: Duration = Duration::from_secs(10);
    const CLIENT: [u8; 4] = [192, 0, 2, 7];

    fn rules(rules: &[(&str, u64)]) -> HashMap<RuleId, Duration> {
        rules.iter().map(|&(name, seconds)| (name.into(), Duration::from_secs(seconds))).collect()
    }

    fn begins(cooldowns: &mut Cooldowns, seconds: u64, rule: &str, source: [u8; 4]) -> bool {
        cooldowns.begin(NOW.after(Duration::from_secs(seconds)), &rule.into(), source.into())
    }

    #[test]
    fn a_rule_completes_again_for_a_source_only_after_its_cooldown() {
        let mut cooldowns = Cooldowns::new(rules(&[("game", 10), ("other", 1)]), 1);
        let in_cooldown = |cooldowns: &Cooldowns, seconds| {
            cooldowns.is_in(NOW.after(Duration::from_secs(seconds)), &"game".into(), CLIENT.into())
        };
        assert!(!in_cooldown(&cooldowns, 0));
        assert!(begins(&mut cooldowns, 0, "game", CLIENT));
        assert!(in_cooldown(&cooldowns, 9) && !in_cooldown(&cooldowns, 10));
        assert!(!begins(&mut cooldowns, 0, "game", CLIENT) && !begins(&mut cooldowns, 9, "game", CLIENT));
        assert!(begins(&mut cooldowns, 9, "game", [192, 0, 2, 8]), "another source");
        assert!(begins(&mut cooldowns, 9, "other", CLIENT), "another rule");
        assert!(begins(&mut cooldowns, 10, "game", CLIENT), "what did not count puts nothing off");
        assert!(!begins(&mut cooldowns, 19, "game", CLIENT));
        assert!(begins(&mut cooldowns, 19, "without", CLIENT) && begins(&mut cooldowns, 19, "without", CLIENT));
    }

    #[test]
    fn a_completion_of_which_nothing_came_starts_no_cooldown() {
        let mut cooldowns = Cooldowns::new(rules(&[("game", 10)]), 1);
        assert!(begins(&mut cooldowns, 0, "game", CLIENT));
        cooldowns.end(&"game".into(), CLIENT.into());
        assert!(begins(&mut cooldowns, 0, "game", CLIENT));
    }

    #[test]
    fn a_reload_keeps_the_cooldowns_of_rules_that_stay_and_measures_them_by_the_new_time() {
        let mut cooldowns = Cooldowns::new(rules(&[("game", 10), ("gone", 10), ("short", 10)]), 1);
        for rule in ["game", "gone", "short"] {
            assert!(begins(&mut cooldowns, 0, rule, CLIENT));
        }
        cooldowns.reconfigure(rules(&[("short", 2), ("game", 20)]), 1);
        assert!(begins(&mut cooldowns, 2, "short", CLIENT));
        assert!(!begins(&mut cooldowns, 19, "game", CLIENT) && begins(&mut cooldowns, 20, "game", CLIENT));
        cooldowns.reconfigure(rules(&[("game", 20), ("gone", 20)]), 1);
        assert!(begins(&mut cooldowns, 21, "gone", CLIENT));
    }

    #[test]
    fn a_flood_pushes_out_completions_of_its_own_rule_and_network() {
        let mut cooldowns = Cooldowns::new(rules(&[("game", 1000), ("private", 1000)]), 1);
        assert!(begins(&mut cooldowns, 0, "private", CLIENT) && begins(&mut cooldowns, 0, "game", CLIENT));
        for number in 0..20_000_u32 {
            let [_, _, high, low] = number.to_be_bytes();
            assert!(begins(&mut cooldowns, 1, "game", [198, 51, high, low]));
        }
        assert_eq!(cooldowns.completions.len(), CAPACITY_MIN);
        assert!(!begins(&mut cooldowns, 2, "private", CLIENT) && !begins(&mut cooldowns, 2, "game", CLIENT));
        assert!(begins(&mut cooldowns, 2, "game", [198, 51, 0, 0]), "the oldest of the flood made room");
    }

    #[test]
    fn completions_are_forgotten_after_the_longest_cooldown() {
        let mut cooldowns = Cooldowns::new(rules(&[("game", 10)]), 1);
        assert_eq!(cooldowns.next_old(), None);
        assert!(begins(&mut cooldowns, 0, "game", CLIENT));
        let due = cooldowns.next_old().expect("a completion is known");
        cooldowns.forget_old(NOW.after(TEN));
        assert_eq!(cooldowns.completions.len(), 1);
        cooldowns.forget_old(due);
        assert_eq!((cooldowns.completions.len(), cooldowns.next_old()), (0, None));
    }
}
