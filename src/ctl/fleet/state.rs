//! How grants are shared, for `knockctl status` and `knockctl fleet status`.

use crate::control::protocol::FleetStatus;
use crate::ctl::status::verdict;
use crate::ctl::table::{count, table};

/// Why grants are not shared now. Nothing where they are.
pub(in crate::ctl) fn problems(fleet: &FleetStatus) -> Vec<String> {
    if !fleet.connected {
        return vec!["no grant is shared: knockd-fleet is not connected; systemctl start knockd-fleet".to_owned()];
    }
    let what = match (fleet.writes, fleet.reads) {
        (true, true) => return Vec::new(),
        (false, false) => "no grant is shared",
        (false, true) => "the other nodes get no grant of this one",
        (true, false) => "this node gets no grant of the others",
    };
    let why = fleet.problem.as_deref().unwrap_or("the store has not answered yet");
    vec![format!("{what}: {why}")]
}

/// One line of the status: `web1 in web.example.com, 3 nodes, 1 silent`.
pub(in crate::ctl) fn in_words(fleet: &FleetStatus) -> String {
    format!("{} in {}, {}", fleet.node, fleet.realm, nodes(fleet))
}

/// `3 nodes, 1 silent`.
fn nodes(fleet: &FleetStatus) -> String {
    let mut text = count(fleet.nodes, "node");
    for (number, what) in [(fleet.nodes_silent, "silent"), (fleet.nodes_differing, "with other keys or rules")] {
        if number > 0 {
            text.push_str(&format!(", {number} {what}"));
        }
    }
    text
}

/// All of it, the verdict first. Numbers that are zero are left out.
pub(super) fn text(fleet: &FleetStatus) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |label: &str, value: String| rows.push(vec![label.to_owned(), value]);
    row("this node", format!("{} (id {}) in {}", fleet.node, fleet.node_id, fleet.realm));
    row("fleet", nodes(fleet));
    let publish = if fleet.publish.is_empty() { "nothing".to_owned() } else { fleet.publish.join(", ") };
    row("publishes", publish);
    if fleet.connected {
        row("store", store(fleet));
    }
    for (label, numbers) in numbers(fleet) {
        let shown: Vec<String> =
            numbers.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")).collect();
        if !shown.is_empty() {
            row(label, shown.join(", "));
        }
    }
    if !fleet.refused.is_empty() {
        let refused = fleet.refused.iter().map(|(reason, number)| format!("{number} {reason}"));
        row("refused", refused.collect::<Vec<_>>().join(", "));
    }
    let outage = match fleet.on_outage.as_str() {
        "refuse" => "a signed packet that names no address is refused",
        _ => "a signed packet that names no address is granted here",
    };
    row("store away", outage.to_owned());
    verdict(&problems(fleet)) + &table(&["", ""], &rows)
}

/// `in step; records come after 0.2 s; its clock is 0.1 s behind`.
fn store(fleet: &FleetStatus) -> String {
    let step = if fleet.in_step { "in step" } else { "not yet in step" };
    let offset = fleet.clock_offset_seconds;
    let side = if offset < 0.0 { "behind" } else { "ahead" };
    format!("{step}; records come after {:.1} s; its clock is {:.1} s {side}", fleet.lag_seconds, offset.abs())
}

/// The numbers of each row, and what they count.
fn numbers(fleet: &FleetStatus) -> [(&'static str, Vec<(u64, &'static str)>); 2] {
    let now = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    [
        (
            "records",
            vec![
                (fleet.published, "published"),
                (fleet.received, "received"),
                (u64::from(fleet.queue), "waiting for the store"),
                (now(fleet.waiting), "waiting for knockd-fleet"),
                (now(fleet.verifying), "waiting to be verified"),
                (fleet.lost, "lost"),
                (fleet.foreign, "in the store that are no records"),
            ],
        ),
        (
            "grants",
            vec![
                (fleet.granted, "of other nodes made"),
                (fleet.revoked, "ended by other nodes"),
                (now(fleet.known_grants), "remembered"),
                (now(fleet.known_revocations), "remembered as revoked"),
                (now(fleet.claims_pending), "signed packets waiting for the store"),
            ],
        ),
    ]
}

#[cfg(test)]
pub(in crate::ctl) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A node that is well, and did nothing yet.
    pub(in crate::ctl) fn fleet() -> FleetStatus {
        FleetStatus {
            realm: "web.example.com".to_owned(),
            node: "web1".to_owned(),
            node_id: "34750f98bd59fcfc".to_owned(),
            connected: true,
            writes: true,
            reads: true,
            in_step: true,
            queue: 0,
            waiting: 0,
            lost: 0,
            published: 0,
            received: 0,
            foreign: 0,
            lag_seconds: 0.04,
            clock_offset_seconds: -0.14,
            problem: None,
            verifying: 0,
            known_grants: 0,
            known_revocations: 0,
            granted: 0,
            revoked: 0,
            refused: BTreeMap::new(),
            claims_pending: 0,
            nodes: 3,
            nodes_differing: 0,
            nodes_silent: 0,
            publish: vec!["ssh".to_owned(), "web".to_owned()],
            on_outage: "grant".to_owned(),
        }
    }

    fn plain(fleet: &FleetStatus) -> String {
        anstream::adapter::strip_str(&text(fleet)).to_string()
    }

    #[test]
    fn the_verdict_is_first_and_zeros_are_left_out() {
        assert_eq!(
            plain(&fleet()),
            "all is well\n\
             this node   web1 (id 34750f98bd59fcfc) in web.example.com\n\
             fleet       3 nodes\n\
             publishes   ssh, web\n\
             store       in step; records come after 0.0 s; its clock is 0.1 s behind\n\
             store away  a signed packet that names no address is granted here\n"
        );
        let busy = FleetStatus {
            nodes_silent: 1,
            nodes_differing: 2,
            published: 12,
            received: 340,
            queue: 3,
            granted: 300,
            known_grants: 120,
            refused: BTreeMap::from([("known".to_owned(), 40), ("not-vouched".to_owned(), 2)]),
            in_step: false,
            on_outage: "refuse".to_owned(),
            publish: Vec::new(),
            ..fleet()
        };
        let text = plain(&busy);
        for line in [
            "fleet       3 nodes, 1 silent, 2 with other keys or rules",
            "publishes   nothing",
            "store       not yet in step; records come after 0.0 s; its clock is 0.1 s behind",
            "records     12 published, 340 received, 3 waiting for the store",
            "grants      300 of other nodes made, 120 remembered",
            "refused     40 known, 2 not-vouched",
            "store away  a signed packet that names no address is refused",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert_eq!(in_words(&busy), "web1 in web.example.com, 3 nodes, 1 silent, 2 with other keys or rules");
    }

    #[test]
    fn what_is_not_shared_and_why_is_in_the_first_line() {
        let away = Some("the password is wrong".to_owned());
        for (writes, reads, problem, expected) in [
            (false, false, away.clone(), "no grant is shared: the password is wrong"),
            (false, true, away.clone(), "the other nodes get no grant of this one: the password is wrong"),
            (true, false, None, "this node gets no grant of the others: the store has not answered yet"),
        ] {
            let fleet = FleetStatus { writes, reads, problem, ..fleet() };
            assert_eq!(problems(&fleet), [expected]);
            assert!(plain(&fleet).starts_with("PROBLEM  "), "{}", plain(&fleet));
        }
        let alone = FleetStatus { connected: false, ..fleet() };
        assert!(problems(&alone)[0].contains("knockd-fleet is not connected"), "{:?}", problems(&alone));
        assert!(!plain(&alone).contains("in step"), "what it was is of no meaning");
        // A problem that left both ways open is none.
        assert_eq!(problems(&FleetStatus { problem: away, ..fleet() }), [""; 0]);
    }
}
