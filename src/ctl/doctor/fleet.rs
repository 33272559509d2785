//! The fleet: whether grants are shared, the clock, nodes that differ or are silent, and records that were refused.

use super::{Facts, Finding};
use crate::control::protocol::{FleetNode, FleetStatus};
use crate::ctl::fleet::state;
use crate::ctl::table::count;

const SUBJECT: &str = "fleet";
/// Records that come later than this, in seconds, are late.
const LAG_MAX: f64 = 10.0;
/// How far the clock may be from that of the store, in seconds. A node whose clock is 5 s ahead is refused by the others.
const CLOCK_MAX: f64 = 2.0;
/// A node is silent that was not seen for so many seconds.
const SILENT: f64 = 120.0;
/// The most nodes that one finding names.
const NAMED: usize = 5;

/// The findings; none where no grant is shared.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let Some(fleet) = facts.status.as_ref().and_then(|status| status.fleet.as_ref()) else { return Vec::new() };
    let mut findings = Vec::new();
    for problem in state::problems(fleet) {
        let fix = if fleet.connected { "knockctl fleet check" } else { "systemctl start knockd-fleet" };
        findings.push(Finding::problem(SUBJECT, problem).fix(fix));
    }
    if fleet.connected {
        store(fleet, &mut findings);
    }
    if fleet.lost > 0 {
        let text = format!("{} lost since the start, because a queue was full", records(fleet.lost));
        findings.push(
            Finding::warning(SUBJECT, text).fix("shorten outages of the store; the nodes publish live grants again"),
        );
    }
    nodes(fleet, &facts.nodes, &mut findings);
    let refused = fleet.refused.iter().filter(|&(_, &number)| number > 0);
    findings.extend(refused.filter_map(|(reason, &number)| refusal(reason, number)));
    if findings.is_empty() {
        let text = format!("grants are shared between {}", count(fleet.nodes, "node"));
        findings.push(Finding::ok(SUBJECT, text));
    }
    findings
}

fn store(fleet: &FleetStatus, findings: &mut Vec<Finding>) {
    if fleet.lag_seconds > LAG_MAX {
        let text = format!("grants of other nodes come {:.0} s late", fleet.lag_seconds);
        let fix = "look at the load of the store, the line to it, and the clocks of the nodes: knockctl fleet nodes";
        findings.push(Finding::warning(SUBJECT, text).fix(fix));
    }
    let offset = fleet.clock_offset_seconds;
    if offset.abs() > CLOCK_MAX {
        let side = if offset > 0.0 { "behind" } else { "ahead of" };
        let text = format!(
            "the clock of this host is {:.1} s {side} that of the store; the others refuse records of a node that is 5 s ahead",
            offset.abs()
        );
        findings
            .push(Finding::warning("clock", text).fix("timedatectl set-ntp true, on this host and that of the store"));
    }
}

fn nodes(fleet: &FleetStatus, nodes: &[FleetNode], findings: &mut Vec<Finding>) {
    let others = || nodes.iter().filter(|node| !node.this && node.name.is_some());
    // Just after a start, nobody is silent.
    let never = others().filter(|node| fleet.nodes_silent > 0 && node.seen_seconds.is_none());
    let never: Vec<&FleetNode> = never.collect();
    let silent: Vec<&FleetNode> =
        others().filter(|node| node.seen_seconds.is_some_and(|seconds| seconds > SILENT)).collect();
    let differing: Vec<&FleetNode> = others().filter(|node| node.same_rules == Some(false)).collect();
    for (nodes, text, fix) in [
        (never, "nodes that were never seen", "there: knockctl fleet status; or delete them from `fleet.nodes`"),
        (silent, "nodes that were not seen for two minutes", "there: knockctl fleet status"),
        (
            differing,
            "nodes with other keys or rules than this one",
            "copy the configuration and `authorized_keys` to all nodes, then: knockctl reload",
        ),
    ] {
        if !nodes.is_empty() {
            findings.push(Finding::warning(SUBJECT, format!("{text}: {}", named(&nodes))).fix(fix));
        }
    }
}

/// Why records with that reason come here and what to do; `None`: they are a matter of course.
fn refusal(reason: &str, number: u64) -> Option<Finding> {
    let (why, fix) = match reason {
        "ended" | "known" | "revoked" | "superseded" => return None,
        "unknown-node" => {
            ("of nodes that are not in `fleet.nodes`", "add them on every host, or stop them: knockctl fleet nodes")
        }
        "node-signature" => (
            "that the node did not sign for this fleet: forged, changed on the way, or of another realm",
            "find out who may write to the store, and change the password",
        ),
        "damaged" => {
            ("that are damaged", "the same version of knockd on all nodes; find out who may write to the store")
        }
        "ahead" => ("from the future", "timedatectl set-ntp true, on the nodes; the log names them"),
        "not-vouched" => (
            "for which the word of the node is not enough",
            "add the rule to `vouch` of the node, or take it out of `publish`; the log names both",
        ),
        "unknown-rule" => {
            ("of a rule that is not here", "the same rules on all nodes, or take the rule out of `publish`")
        }
        "not-wide" => {
            ("for a prefix that the rule here does not have", "the same `prefix4` and `prefix6` on all nodes")
        }
        "no-packets" => ("of signed packets, which no rule here accepts", "the same rules on all nodes"),
        "unknown-key" => ("of ssh keys that are not here", "the same `authorized_keys` on all nodes"),
        "denied" => {
            ("that the key or the rule does not permit here", "the same `authorized_keys` and rules on all nodes")
        }
        "client-signature" | "not-as-signed" => (
            "that no client has signed so",
            "the same realm of `spa` on all nodes; where it is, a node lies: take its key out of `fleet.nodes`",
        ),
        "full" => ("that this node has no room to remember", "a fleet of its own for each group of services"),
        _ => ("that are refused", "the log says why"),
    };
    let text = format!("{} refused since the start {why} ({reason})", records(number));
    Some(Finding::warning(SUBJECT, text).fix(fix))
}

fn records(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "record")
}

/// `web1, web2 and 7 more`.
fn named(nodes: &[&FleetNode]) -> String {
    let names: Vec<&str> = nodes.iter().take(NAMED).filter_map(|node| node.name.as_deref()).collect();
    match nodes.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        others => format!("{} and {others} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use knock_fleet::{NodeId, RecordError, Refused};

    use super::*;
    use crate::control::protocol::Status;
    use crate::ctl::doctor::Severity;
    use crate::ctl::fleet::state::tests::fleet;
    use crate::ctl::status::tests::status;

    fn texts(fleet: FleetStatus, nodes: Vec<FleetNode>) -> Vec<(Severity, String)> {
        let facts = Facts { status: Some(Status { fleet: Some(fleet), ..status() }), nodes, ..Facts::default() };
        findings(&facts).into_iter().map(|finding| (finding.severity, finding.text)).collect()
    }

    fn node(name: &str) -> FleetNode {
        FleetNode {
            name: Some(name.to_owned()),
            id: "34750f98bd59fcfc".to_owned(),
            seen_seconds: Some(30.0),
            version: None,
            same_rules: Some(true),
            vouch: Vec::new(),
            this: false,
        }
    }

    #[test]
    fn where_all_is_well_it_says_so_and_without_a_fleet_nothing() {
        let well = FleetStatus { lag_seconds: 10.0, clock_offset_seconds: -2.0, ..fleet() };
        let expected = (Severity::Ok, "grants are shared between 3 nodes".to_owned());
        assert_eq!(texts(well, vec![node("web1"), node("web2")]), [expected]);
        assert_eq!(findings(&Facts { status: Some(status()), ..Facts::default() }), []);
    }

    #[test]
    fn a_store_that_is_away_late_or_of_another_time_is_found() {
        let alone = texts(FleetStatus { connected: false, lag_seconds: 99.0, ..fleet() }, Vec::new());
        assert!(
            alone.len() == 1 && alone[0].0 == Severity::Problem && alone[0].1.contains("not connected"),
            "{alone:?}"
        );
        let ill = FleetStatus {
            writes: false,
            problem: Some("NOPERM".to_owned()),
            lag_seconds: 12.4,
            clock_offset_seconds: 3.04,
            lost: 1,
            ..fleet()
        };
        assert_eq!(
            texts(ill.clone(), Vec::new()),
            [
                (Severity::Problem, "the other nodes get no grant of this one: NOPERM".to_owned()),
                (Severity::Warning, "grants of other nodes come 12 s late".to_owned()),
                (
                    Severity::Warning,
                    "the clock of this host is 3.0 s behind that of the store; the others refuse records of a node that is 5 s \
                     ahead"
                        .to_owned()
                ),
                (Severity::Warning, "1 record lost since the start, because a queue was full".to_owned()),
            ]
        );
        let ahead = texts(FleetStatus { clock_offset_seconds: -2.1, ..fleet() }, Vec::new());
        assert!(ahead[0].1.starts_with("the clock of this host is 2.1 s ahead of that of the store"), "{ahead:?}");
    }

    #[test]
    fn nodes_that_are_silent_or_differ_are_named() {
        let never = FleetNode { seen_seconds: None, same_rules: None, ..node("web2") };
        let silent = FleetNode { seen_seconds: Some(121.0), ..node("web3") };
        let differs = FleetNode { same_rules: Some(false), ..node("web4") };
        // This one, and one that is not in the configuration, which is another finding.
        let this = FleetNode { this: true, ..never.clone() };
        let unknown = FleetNode { name: None, ..silent.clone() };
        assert_eq!(
            texts(FleetStatus { nodes_silent: 2, ..fleet() }, vec![this, never.clone(), silent, differs, unknown]),
            [
                (Severity::Warning, "nodes that were never seen: web2".to_owned()),
                (Severity::Warning, "nodes that were not seen for two minutes: web3".to_owned()),
                (Severity::Warning, "nodes with other keys or rules than this one: web4".to_owned()),
            ]
        );
        let many = texts(FleetStatus { nodes_silent: 8, ..fleet() }, vec![never.clone(); 8]);
        assert!(many[0].1.ends_with("web2, web2, web2, web2, web2 and 3 more"), "{many:?}");
        assert_eq!(texts(fleet(), vec![never])[0].0, Severity::Ok, "just after a start");
    }

    #[test]
    fn each_reason_to_refuse_a_record_has_a_remedy_unless_it_is_a_matter_of_course() {
        let rule: knock_spa::RuleName = "ssh".parse().expect("a name");
        let node: std::sync::Arc<str> = "web1".into();
        let id = NodeId::from_bytes([1; 8]);
        let fingerprint = "SHA256:fe85JkIjo8VPe+XqXJGH5MautEMFdK1OdKvJUFicyA8".parse().expect("one");
        let reasons = [
            Refused::Damaged(RecordError::Rule),
            Refused::UnknownNode { node: id },
            Refused::NodeSignature { node: node.clone() },
            Refused::Ahead { by: Duration::from_secs(6) },
            Refused::Ended,
            Refused::NoPackets,
            Refused::UnknownKey { fingerprint },
            Refused::Client(knock_spa::Refusal::Padding),
            Refused::Denied(knock_spa::Denial::Expired),
            Refused::NotAsSigned { field: "rule" },
            Refused::UnknownRule { rule: rule.clone() },
            Refused::NotWide { rule: rule.clone() },
            Refused::NotVouched { node, rule },
            Refused::Known,
            Refused::Revoked,
            Refused::Superseded,
            Refused::Full,
        ];
        for refused in reasons {
            let label = refused.label();
            let found = texts(FleetStatus { refused: BTreeMap::from([(label.to_owned(), 2)]), ..fleet() }, Vec::new());
            assert_eq!(found[0].0 == Severity::Ok, refused.is_expected(), "{label}: {found:?}");
            assert!(!found[0].1.contains("that are refused"), "{label} has words of its own");
            let none = texts(FleetStatus { refused: BTreeMap::from([(label.to_owned(), 0)]), ..fleet() }, Vec::new());
            assert_eq!(none[0].0, Severity::Ok, "{label}");
        }
    }
}
