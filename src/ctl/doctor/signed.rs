//! Signed packets: whether any can be accepted, the clock, and keys that end.

use std::collections::HashSet;

use super::{Facts, Finding};
use crate::control::protocol::Key;
use crate::ctl::spa::keys::utc;
use crate::ctl::spa::state;
use crate::ctl::table::count;

const SUBJECT: &str = "signed packets";
/// Keys that end within so many seconds are worth a note: 14 days.
const SOON: f64 = 14.0 * 86_400.0;
/// The most keys that one finding names.
const NAMED: usize = 5;

/// The findings; none where no signed packet is received.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let Some(signed) = facts.status.as_ref().and_then(|status| status.signed_packets.as_ref()) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if let Some(problem) = state::problem(signed) {
        let remedy = "remove the cause; knockd tries again with a packet that comes 5 s later";
        findings.push(Finding::problem(SUBJECT, problem).fix(remedy));
    }
    if facts.clock_is_synchronised == Some(false) {
        let text = "the clock of this host is not synchronised; where it is wrong, packets of all users are refused";
        findings.push(Finding::warning("clock", text).fix("timedatectl set-ntp true"));
    }
    let expired: Vec<&Key> = facts.keys.iter().filter(|key| key.expired).collect();
    if !expired.is_empty() {
        let text = format!("expired keys get nothing: {}", named(&expired, |_| String::new()));
        findings
            .push(Finding::note(SUBJECT, text).fix("delete their lines of authorized_keys, or change `expiry-time`"));
    }
    let limit = facts.wall.as_secs_f64() + SOON;
    let ends_soon = |key: &&Key| !key.expired && key.expires.is_some_and(|end| end <= limit);
    let ending: Vec<&Key> = facts.keys.iter().filter(ends_soon).collect();
    if !ending.is_empty() {
        let end = |key: &Key| format!(" ({})", utc(key.expires.unwrap_or_default()));
        let text = format!("keys that expire within 14 days: {}", named(&ending, end));
        findings.push(Finding::note(SUBJECT, text));
    }
    let rules = facts.status.iter().flat_map(|status| &status.by_rule).filter(|rule| rule.signed_packets);
    let known: HashSet<&str> = rules.map(|rule| rule.name.as_str()).collect();
    let unknown = |key: &Key| key.rules.iter().flatten().find(|rule| !known.contains(rule.as_str())).cloned();
    let wrong: Vec<&Key> = facts.keys.iter().filter(|key| unknown(key).is_some()).collect();
    if !wrong.is_empty() {
        let rule = |key: &Key| format!(" names {}", unknown(key).unwrap_or_default());
        let text = format!("keys whose option `rules` names a rule without `spa`: {}", named(&wrong, rule));
        findings.push(Finding::note(SUBJECT, text).fix("write another rule, or \"spa\": true into that rule"));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(SUBJECT, format!("are accepted from {}", count(signed.keys, "key"))));
    }
    findings
}

/// `alice (line 3), bob (line 7) and 2 more`.
fn named(keys: &[&Key], more: impl Fn(&Key) -> String) -> String {
    let name = |key: &&Key| format!("{}{} (line {})", key.user, more(key), key.line);
    let names = keys.iter().take(NAMED).map(name).collect::<Vec<_>>().join(", ");
    match keys.len().checked_sub(NAMED) {
        None | Some(0) => names,
        Some(others) => format!("{names} and {others} more"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::protocol::{SignedPackets, Status};
    use crate::ctl::doctor::Severity;
    use crate::ctl::spa::keys::tests::key;
    use crate::ctl::status::tests::status;

    fn facts(problem: Option<&str>, keys: Vec<Key>) -> Facts {
        let problem = problem.map(str::to_owned);
        let signed = SignedPackets { ports: vec![62_201], keys: keys.len(), remembered: 0, problem };
        Facts {
            status: Some(Status { signed_packets: Some(signed), ..status() }),
            keys,
            wall: Duration::from_secs(1_000_000),
            clock_is_synchronised: Some(true),
            ..Facts::default()
        }
    }

    fn texts(facts: &Facts) -> Vec<(Severity, String)> {
        findings(facts).into_iter().map(|finding| (finding.severity, finding.text)).collect()
    }

    #[test]
    fn where_all_is_well_it_says_so_and_without_signed_packets_nothing() {
        let good = Key { expires: Some(1e9), ..key("alice") };
        assert_eq!(texts(&facts(None, vec![good])), [(Severity::Ok, "are accepted from 1 key".to_owned())]);
        let without = Facts { status: Some(status()), clock_is_synchronised: Some(false), ..Facts::default() };
        assert_eq!(texts(&without), []);
    }

    #[test]
    fn a_full_disk_a_wrong_clock_and_keys_that_end_are_found() {
        let expired = Key { expires: Some(1.0), expired: true, line: 7, ..key("carol") };
        let ending = Key { expires: Some(1_100_000.0), ..key("alice") };
        let mut found = facts(Some("no space left"), vec![expired.clone(), ending]);
        found.clock_is_synchronised = Some(false);
        assert_eq!(
            texts(&found),
            [
                (Severity::Problem, "no signed packet is accepted: no space left".to_owned()),
                (
                    Severity::Warning,
                    "the clock of this host is not synchronised; where it is wrong, packets of all users are refused"
                        .to_owned()
                ),
                (Severity::Note, "expired keys get nothing: carol (line 7)".to_owned()),
                (Severity::Note, "keys that expire within 14 days: alice (1970-01-13 17:33 UTC) (line 1)".to_owned()),
            ]
        );
        let typo = Key { rules: Some(vec!["shh".to_owned()]), line: 2, ..key("bob") };
        let text = "keys whose option `rules` names a rule without `spa`: bob names shh (line 2)";
        assert_eq!(texts(&facts(None, vec![typo])), [(Severity::Note, text.to_owned())]);
        let many = texts(&facts(None, vec![expired; 8]));
        assert!(many[0].1.starts_with("expired keys") && many[0].1.ends_with("and 3 more"), "{many:?}");
    }
}
