//! Whether the managed table of another daemon guards the same ports.

use knock_proto::PortRange;

use super::Finding;
use super::ruleset::Ruleset;
use crate::control::protocol::Table;

/// The managed table of another daemon, in family inet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OtherGate {
    pub(crate) table: String,
    /// `22/tcp` …
    pub(crate) guarded: Vec<String>,
}

impl OtherGate {
    /// Whether that place of an nftables rule or a policy is in the table.
    pub(super) fn has(&self, place: &str) -> bool {
        place.contains(&format!("chain inet {} ", self.table))
    }

    fn guards(&self, range: &PortRange) -> bool {
        let other = self.guarded.iter().filter_map(|text| text.parse::<PortRange>().ok());
        let overlaps = |other: PortRange| {
            other.protocol == range.protocol && other.first <= range.last && range.first <= other.last
        };
        other.into_iter().any(overlaps)
    }
}

/// The names of the tables of the ruleset that are managed tables by their sets and chains, except that of this daemon.
pub(super) fn tables(ruleset: &Ruleset, own: &str) -> Vec<String> {
    let other = ruleset.tables.iter().filter(|table| table.family == "inet" && table.name != own);
    let has_set = |table: &str, name: &str| ruleset.set(&format!("inet {table} {name}")).is_some();
    let has_gate = |table: &str| {
        ruleset.chains.iter().any(|chain| chain.family == "inet" && chain.table == table && chain.name == "gate")
    };
    let managed =
        other.filter(|table| has_gate(&table.name) && ["guarded", "grants4"].iter().all(|s| has_set(&table.name, s)));
    managed.map(|table| table.name.clone()).collect()
}

/// The findings about each guarded port.
pub(super) fn findings(others: &[OtherGate], table: &Table) -> Vec<Finding> {
    let mut findings = Vec::new();
    for range in table.guarded_ranges() {
        for OtherGate { table, .. } in others.iter().filter(|other| other.guards(&range)) {
            let text = format!(
                "table inet {table} of another knockd guards it too: an address gets in only with a grant of both"
            );
            findings.push(
                Finding::problem(range.to_string(), text)
                    .because([format!("nft list set inet {table} guarded")])
                    .fix(format!("where no knockd uses that table: nft delete table inet {table}"))
                    .fix("else delete the port from `allow.ports` of one of the two configurations, then knockctl reload"),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::doctor::{Severity, table};

    #[test]
    fn the_table_of_another_daemon_is_known_by_its_sets_and_chains() {
        let recorded = include_str!("rulesets/gate.json");
        let ruleset = Ruleset::new(&serde_json::from_str(recorded).expect("a recorded ruleset"));
        assert_eq!(tables(&ruleset, "knockd"), [""; 0]);
        assert_eq!(tables(&ruleset, "k3"), ["knockd"]);
        let recorded = include_str!("rulesets/default-drop.json");
        let ruleset = Ruleset::new(&serde_json::from_str(recorded).expect("a recorded ruleset"));
        assert_eq!(tables(&ruleset, "k3").iter().filter(|name| *name != "knockd").count(), 0);
    }

    #[test]
    fn two_gates_at_one_port_are_a_problem_and_at_different_ports_are_not() {
        let others = |guarded: &str| [OtherGate { table: "k3".to_owned(), guarded: vec![guarded.to_owned()] }];
        for (guarded, subjects) in [
            ("22/tcp", &["22/tcp"][..]),
            ("20-30/tcp", &["22/tcp"]),
            ("60500/udp", &["60000-61000/udp"]),
            ("22/udp", &[]),
            ("23/tcp", &[]),
            ("61001/udp", &[]),
        ] {
            let found = findings(&others(guarded), &table(&["22/tcp", "60000-61000/udp"]));
            let of: Vec<&str> = found.iter().map(|finding| finding.subject.as_str()).collect();
            assert_eq!(of, subjects, "{guarded}");
            assert!(found.iter().all(|finding| finding.severity == Severity::Problem));
        }
    }
}
