//! Signed packets, as metrics for Prometheus.

use crate::control::protocol::{Key, Keys, SignedPackets};
use crate::ctl::prometheus::{escape, flag, metric, number};

/// How they are received.
pub(in crate::ctl) fn of_state(signed: &SignedPackets) -> String {
    let mut text = String::new();
    let mut gauge = |name, help, value| metric(&mut text, name, "gauge", help, [(String::new(), value)]);
    gauge("signed_usable", "Whether signed packets can be accepted.", flag(signed.problem.is_none()));
    gauge("signed_keys", "Ssh keys that may sign packets.", number(signed.keys));
    gauge("signed_remembered", "Accepted packets that are remembered.", number(signed.remembered));
    text
}

/// What each user has done. Those who did nothing are left out.
pub(in crate::ctl) fn of_users(keys: &Keys) -> String {
    let mut text = String::new();
    let active: Vec<&Key> = keys.keys.iter().filter(|key| key.accepted + key.refused > 0 || key.grants > 0).collect();
    let mut of = |name, kind, help, value: fn(&Key) -> u64| {
        let sample = |key: &&Key| {
            #[expect(clippy::cast_precision_loss, reason = "nobody sends so many packets")]
            let value = value(key) as f64;
            (format!("{{user=\"{}\",key=\"{}\"}}", escape(&key.user), escape(&key.key)), value)
        };
        metric(&mut text, name, kind, help, active.iter().map(sample));
    };
    of("user_grants", "gauge", "Live grants that a user asked for.", |key| {
        u64::try_from(key.grants).unwrap_or(u64::MAX)
    });
    of("user_accepted_total", "counter", "Signed packets of a user that were accepted.", |key| key.accepted);
    of("user_refused_total", "counter", "Signed packets of a user that were refused.", |key| key.refused);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::spa::keys::tests::key;

    #[test]
    fn each_user_who_did_something_has_metrics() {
        let alice = Key { accepted: 7, grants: 1, ..key("alice \"a\"") };
        let text = of_users(&Keys { keys: vec![key("bob"), alice.clone()] });
        let labels = format!("{{user=\"alice \\\"a\\\"\",key=\"{}\"}}", alice.key);
        for line in [
            format!("knockd_user_accepted_total{labels} 7"),
            format!("knockd_user_refused_total{labels} 0"),
            format!("knockd_user_grants{labels} 1"),
            "# TYPE knockd_user_accepted_total counter".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("bob"), "{text}");
        assert_eq!(of_users(&Keys { keys: vec![key("bob")] }), "");
    }

    #[test]
    fn a_problem_is_worth_an_alert() {
        let signed = SignedPackets { ports: vec![1], keys: 2, remembered: 3, problem: Some("full".to_owned()) };
        let text = of_state(&signed);
        for line in ["knockd_signed_usable 0", "knockd_signed_keys 2", "knockd_signed_remembered 3"] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
