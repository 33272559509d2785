//! The fleet, as metrics for Prometheus.

use std::fmt::Write;

use crate::control::protocol::FleetStatus;
use crate::ctl::prometheus::{escape, flag, metric, number};

/// How grants are shared.
pub(in crate::ctl) fn of_fleet(fleet: &FleetStatus) -> String {
    let mut text = String::new();
    let mut gauge = |name, help, value| metric(&mut text, name, "gauge", help, [(String::new(), value)]);
    gauge("fleet_connected", "Whether knockd-fleet is connected.", flag(fleet.connected));
    // What it said last is of no meaning after it went away.
    gauge("fleet_writes", "Whether records can be written to the store.", flag(fleet.connected && fleet.writes));
    gauge("fleet_reads", "Whether records are read from the store.", flag(fleet.connected && fleet.reads));
    let in_step = fleet.connected && fleet.in_step;
    gauge("fleet_in_step", "Whether everything in the store has been read.", flag(in_step));
    gauge("fleet_queue", "Records that wait for the store.", f64::from(fleet.queue));
    gauge("fleet_waiting", "Records that wait for knockd-fleet.", number(fleet.waiting));
    gauge("fleet_verifying", "Records that wait to be verified.", number(fleet.verifying));
    gauge("fleet_lag_seconds", "Age of the newest record when it was read.", fleet.lag_seconds);
    let offset = fleet.clock_offset_seconds;
    gauge("fleet_clock_offset_seconds", "How far the clock of the store is ahead.", offset);
    gauge("fleet_known_grants", "Grants of other nodes that are remembered.", number(fleet.known_grants));
    gauge("fleet_known_revocations", "Revocations that are remembered.", number(fleet.known_revocations));
    gauge("fleet_claims_pending", "Signed packets that wait for the store.", number(fleet.claims_pending));
    gauge("fleet_nodes", "Nodes of the configuration.", number(fleet.nodes));
    gauge("fleet_nodes_differing", "Nodes with other keys or rules.", number(fleet.nodes_differing));
    gauge("fleet_nodes_silent", "Nodes that were not seen for two minutes.", number(fleet.nodes_silent));
    // As f64 would lose the last digits of a great one.
    let mut counter = |name: &str, help: &str, samples: &[(String, u64)]| {
        if !samples.is_empty() {
            let _ = write!(text, "# HELP knockd_{name}_total {help}\n# TYPE knockd_{name}_total counter\n");
        }
        for (labels, value) in samples {
            let _ = writeln!(text, "knockd_{name}_total{labels} {value}");
        }
    };
    for (name, help, value) in [
        ("fleet_published", "Records that were written.", fleet.published),
        ("fleet_received", "Records that were read.", fleet.received),
        ("fleet_lost", "Records that were dropped because a queue was full.", fleet.lost),
        ("fleet_foreign", "What was in the store and is no record.", fleet.foreign),
        ("fleet_granted", "Grants that other nodes have made.", fleet.granted),
        ("fleet_revoked", "Grants that other nodes have ended.", fleet.revoked),
    ] {
        counter(name, help, &[(String::new(), value)]);
    }
    let reason = |(reason, &value): (&String, &u64)| (format!("{{reason=\"{}\"}}", escape(reason)), value);
    let refused: Vec<(String, u64)> = fleet.refused.iter().map(reason).collect();
    counter("fleet_refused", "Records that were refused.", &refused);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ctl::fleet::state::tests::fleet;
    use crate::ctl::prometheus::tests::parse;

    #[test]
    fn the_numbers_of_the_fleet_are_metrics() {
        let refused = BTreeMap::from([("known".to_owned(), 40), ("not-vouched".to_owned(), 2)]);
        let text = of_fleet(&FleetStatus { queue: 3, granted: u64::MAX, refused, ..fleet() });
        let (samples, types) = parse(&text);
        for (sample, value) in [
            ("knockd_fleet_connected", 1.0),
            ("knockd_fleet_queue", 3.0),
            ("knockd_fleet_clock_offset_seconds", -0.14),
            ("knockd_fleet_refused_total{reason=\"not-vouched\"}", 2.0),
        ] {
            assert_eq!(samples[sample].to_bits(), f64::to_bits(value), "{sample}");
        }
        assert!(text.contains("\nknockd_fleet_granted_total 18446744073709551615\n"), "{text}");
        for (name, kind) in &types {
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        }
        assert!(!of_fleet(&fleet()).contains("refused"), "nothing was refused");
    }

    #[test]
    fn what_knockd_fleet_said_before_it_went_away_does_not_count() {
        let (samples, _) = parse(&of_fleet(&FleetStatus { connected: false, ..fleet() }));
        for name in ["connected", "writes", "reads", "in_step"] {
            assert_eq!(samples[&format!("knockd_fleet_{name}")].to_bits(), 0.0_f64.to_bits(), "{name}");
        }
    }
}
