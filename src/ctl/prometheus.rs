//! The status in the text format that the textfile collector of Prometheus' node exporter reads.

use std::fmt::Write;

use crate::control::protocol::{RuleState, Status};

/// The status as metrics.
pub(crate) fn metrics(status: &Status) -> String {
    let mut text = String::new();
    let labelled = |name: &str, value: &str| format!("{{{name}=\"{}\"}}", escape(value));
    metric(&mut text, "info", "gauge", "The daemon's version.", [(labelled("version", &status.version), 1.0)]);
    let gauge = |text: &mut String, name, help, value| metric(text, name, "gauge", help, [(String::new(), value)]);
    gauge(&mut text, "uptime_seconds", "Time since the start of the daemon.", status.uptime_seconds);
    let in_force = status.configuration_problem.is_none() && status.trial.is_none();
    gauge(&mut text, "file_in_force", "Whether the configuration in force is that of its file.", flag(in_force));
    gauge(&mut text, "rules", "Rules of the configuration.", number(status.rules));
    gauge(&mut text, "grants", "Live grants.", number(status.grants));
    gauge(&mut text, "sources", "Sources whose knocks are remembered.", number(status.sources));
    gauge(&mut text, "commands_running", "Commands that run.", number(status.commands_running));
    gauge(&mut text, "commands_queued", "Commands that wait in the queue.", number(status.commands_queued));
    let up = status.interfaces.iter().map(|i| (labelled("interface", &i.name), flag(i.state == "up")));
    metric(&mut text, "interface_up", "gauge", "Whether an interface that is listened on is up.", up);
    let owned = status.table.iter().map(|table| (labelled("table", &table.name), flag(table.owned)));
    metric(
        &mut text,
        "table_owned",
        "gauge",
        "Whether the kernel keeps others from changing the managed table.",
        owned,
    );
    let usable = status.sets.iter().map(|set| (labelled("set", &set.name), flag(set.problem.is_none())));
    metric(&mut text, "set_usable", "gauge", "Whether grants can be added to a user set.", usable);
    let rules = || status.by_rule.iter().map(|rule| labelled("rule", &rule.name)).zip(&status.by_rule);
    let live = rules().map(|(label, rule)| (label, number(rule.grants)));
    metric(&mut text, "rule_grants", "gauge", "Live grants of a rule.", live);
    let mut of_rules = |name: &str, help: &str, value: fn(&RuleState) -> u64| {
        if !status.by_rule.is_empty() {
            let _ = write!(text, "# HELP knockd_{name}_total {help}\n# TYPE knockd_{name}_total counter\n");
        }
        for (label, rule) in rules() {
            let _ = writeln!(text, "knockd_{name}_total{label} {}", value(rule));
        }
    };
    of_rules("rule_granted", "Grants of a rule that began or were extended.", |rule| rule.granted);
    of_rules("rule_grants_failed", "Grants of a rule that could not be made.", |rule| rule.grants_failed);
    of_rules("rule_commands_failed", "Commands of a rule that failed or timed out.", |rule| rule.commands_failed);
    for (name, help, value) in status.counters.each() {
        // As f64 would lose the last digits of a great one.
        let _ = write!(text, "# HELP knockd_{name}_total {help}\n# TYPE knockd_{name}_total counter\n");
        let _ = writeln!(text, "knockd_{name}_total {value}");
    }
    text
}

/// A metric with its samples: labels and value. Nothing where there are none.
pub(super) fn metric(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = (String, f64)>,
) {
    let mut samples = samples.into_iter().peekable();
    if samples.peek().is_some() {
        // Text takes everything.
        let _ = write!(text, "# HELP knockd_{name} {help}\n# TYPE knockd_{name} {kind}\n");
    }
    for (labels, value) in samples {
        let _ = writeln!(text, "knockd_{name}{labels} {value}");
    }
}

pub(super) fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

pub(super) fn number(value: usize) -> f64 {
    u32::try_from(value).map_or(f64::from(u32::MAX), f64::from)
}

/// A label's value.
pub(super) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::control::counters::Counters;
    use crate::control::protocol::{Interface, Set, Table};

    fn status() -> Status {
        let rule =
            |name: &str, granted| RuleState { name: name.to_owned(), granted, grants: 2, ..RuleState::default() };
        let counters = Counters { knocks: u64::MAX, ..Counters::default() };
        let interface =
            |name: &str, state: &str| Interface { name: name.to_owned(), state: state.to_owned(), nearest: None };
        Status {
            version: "0.1.0".to_owned(),
            pid: 1,
            uptime_seconds: 1.5,
            configuration: "/etc/knockd/config.json".to_owned(),
            configuration_problem: None,
            trial: None,
            rules: 3,
            interfaces: vec![interface("eth0", "up"), interface("a\"b\\c\nd", "absent")],
            protections: None,
            processes: Vec::new(),
            table: Some(Table {
                name: "knockd".to_owned(),
                owned: true,
                on_stop: "remove".to_owned(),
                guarded: vec!["22/tcp".to_owned()],
                exempt_interfaces: Vec::new(),
            }),
            doors: None,
            sets: vec![Set { name: "inet filter ssh".to_owned(), problem: None }],
            grants: 2,
            sources: 7,
            commands_running: 0,
            commands_queued: 0,
            by_rule: vec![rule("ssh", 7), rule("run", 0)],
            signed_packets: None,
            fleet: None,
            counters,
        }
    }

    /// Reads the text format as strictly as it is written (Prometheus, "Exposition formats"): the samples by name and
    /// labels, the types by name.
    pub(crate) fn parse(text: &str) -> (HashMap<String, f64>, HashMap<String, String>) {
        let (mut samples, mut types, mut helped) = (HashMap::new(), HashMap::new(), HashSet::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a help has words");
                assert!(!words.is_empty() && helped.insert(name.to_owned()), "{line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type has a name and a kind");
                assert!(helped.contains(name), "the help comes first: {line}");
                assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{line}");
            } else {
                let (sample, value) = line.rsplit_once(' ').expect("a sample has a value");
                let name = sample.split('{').next().expect("a name");
                assert!(types.contains_key(name), "the type comes first: {line}");
                assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
                let value = value.parse().expect("a number");
                assert_eq!(samples.insert(sample.to_owned(), value), None, "{line}");
            }
        }
        (samples, types)
    }

    #[test]
    fn the_metrics_are_in_the_text_format_with_names_by_the_conventions() {
        let text = metrics(&status());
        let (samples, types) = parse(&text);
        assert_eq!(samples["knockd_grants"], 2.0);
        assert_eq!(samples["knockd_interface_up{interface=\"eth0\"}"], 1.0);
        assert_eq!(samples["knockd_rule_granted_total{rule=\"ssh\"}"], 7.0);
        assert_eq!(samples["knockd_rule_grants{rule=\"run\"}"], 2.0);
        assert_eq!(samples["knockd_interface_up{interface=\"a\\\"b\\\\c\\nd\"}"], 0.0);
        assert_eq!(samples["knockd_info{version=\"0.1.0\"}"], 1.0);
        assert!(text.contains("\nknockd_knocks_total 18446744073709551615\n"), "{text}");
        for (name, kind) in &types {
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            assert!(name.starts_with("knockd_"), "{name}");
        }
    }

    #[test]
    fn there_is_no_metric_of_what_is_not_there() {
        let text = metrics(&Status { table: None, sets: Vec::new(), by_rule: Vec::new(), ..status() });
        assert!(
            !text.contains("knockd_rule_") && !text.contains("knockd_table") && !text.contains("set_usable"),
            "{text}"
        );
    }
}
