//! The plan of the rules: `knockctl rules`. Each knock is a dot; no port of a sequence is ever shown.

use knock_config::printable;

use super::doctor::{Behind, Severity};
use super::table::{count, span, table};
use crate::control::protocol::{RuleState, Status};

/// The way of a packet, what is guarded and what is behind the gate, and what each rule does.
pub(super) fn text(status: &Status, behind: &[Behind]) -> String {
    let mut rows = Vec::new();
    let mut text = String::new();
    if let Some(table) = &status.table {
        text.push_str("everybody ──▶ gate ──▶ your nftables rules ──▶ services\n");
        rows.push(vec!["gate".to_owned(), format!("table inet {}, guards {}", table.name, table.guarded.join(", "))]);
        let exempt = table.exempt_interfaces.iter().filter(|interface| interface.state != "absent");
        let exempt: Vec<&str> = exempt.map(|interface| interface.name.as_str()).collect();
        if !exempt.is_empty() {
            rows.push(vec!["exempt".to_owned(), format!("packets from {} pass the gate", exempt.join(", "))]);
        }
    }
    if !status.sets.is_empty() {
        let sets: Vec<&str> = status.sets.iter().map(|set| set.name.as_str()).collect();
        rows.push(vec!["user sets".to_owned(), format!("your nftables rules use {}", sets.join(", "))]);
    }
    text.push_str(&table(&["", ""], &rows));
    if !behind.is_empty() {
        let rows: Vec<Vec<String>> = behind.iter().map(behind_row).collect();
        text.push_str(&table(&["GUARDED", "YOUR NFTABLES RULES", "SERVICE"], &rows));
    }
    let rules: Vec<Vec<String>> = status.by_rule.iter().map(row).collect();
    text.push_str(&table(&["RULE", "KNOCKS", "WITHIN", "OPEN TO", "DOES"], &rules));
    text
}

fn behind_row(behind: &Behind) -> Vec<String> {
    let rules = match behind.rules {
        None => "unknown: run this as root",
        Some(Severity::Ok | Severity::Note) => "let it through",
        Some(Severity::Warning) => "may drop it: knockctl doctor",
        Some(Severity::Problem) => "DROP it: knockctl doctor",
    };
    let service = if behind.listens { "a program listens" } else { "nothing listens on this host" };
    vec![behind.port.clone(), rules.to_owned(), service.to_owned()]
}

fn row(rule: &RuleState) -> Vec<String> {
    let mut does = Vec::new();
    if let Some(timeout) = rule.timeout_seconds {
        does.push(format!("opens {} for {}", rule.opens.join(", "), span(timeout)));
    }
    does.extend(rule.revoke.iter().map(|other| format!("revokes {other}")));
    does.extend(rule.command.then(|| "runs a command".to_owned()));
    let open_to = match rule.grants {
        0 => String::new(),
        1 => "1 address".to_owned(),
        grants => format!("{grants} addresses"),
    };
    let within = if has_knocks(rule) { span(rule.sequence_seconds) } else { String::new() };
    vec![rule.name.clone(), triggers(rule), within, open_to, does.join("; ")]
}

fn has_knocks(rule: &RuleState) -> bool {
    rule.one_time || rule.tcp_knocks + rule.udp_knocks > 0
}

/// What triggers the rule: knocks, a signed packet, or either.
fn triggers(rule: &RuleState) -> String {
    match (has_knocks(rule), rule.signed_packets) {
        (true, true) => format!("{}, signed", knocks(rule)),
        (true, false) => knocks(rule),
        (false, _) => "signed".to_owned(),
    }
}

/// A dot for each knock, and how many of them are UDP. Their order is not shown.
fn knocks(rule: &RuleState) -> String {
    match (rule.tcp_knocks, rule.udp_knocks) {
        (0, 0) => "one-time".to_owned(),
        (tcp, 0) => "●".repeat(tcp),
        (0, udp) => format!("{} udp", "●".repeat(udp)),
        (tcp, udp) => format!("{} {udp} udp", "●".repeat(tcp + udp)),
    }
}

/// The same as a graph in the language of Graphviz (dot(1)).
pub(super) fn dot(status: &Status) -> String {
    let mut text = "digraph knockd {\n  rankdir=LR;\n  node [shape=box];\n".to_owned();
    let mut line = |line: &str| text.push_str(&format!("  {line}\n"));
    if let Some(table) = &status.table {
        line(&format!("everybody -> gate; gate [label={}];", quoted(&format!("gate\ninet {}", table.name))));
        for port in &table.guarded {
            line(&format!("gate -> {} [style=dotted, label=\"closed\"];", quoted(port)));
        }
    }
    for rule in &status.by_rule {
        let node = quoted(&format!("rule {}", rule.name));
        let within = if has_knocks(rule) { format!(" within {}", span(rule.sequence_seconds)) } else { String::new() };
        let label = format!("{}\n{}{within}", rule.name, triggers(rule));
        line(&format!("{node} [shape=ellipse, label={}];", quoted(&label)));
        let timeout = rule.timeout_seconds.map(span).unwrap_or_default();
        for opened in &rule.opens {
            let label = match rule.grants {
                0 => timeout.clone(),
                grants => format!("{timeout}, {} now", count(grants, "grant")),
            };
            let opened = if opened == "any" { "every guarded port" } else { opened.as_str() };
            line(&format!("{node} -> {} [label={}];", quoted(opened), quoted(&label)));
        }
        if let Some(other) = &rule.revoke {
            line(&format!("{node} -> {} [style=dashed, label=\"revokes\"];", quoted(&format!("rule {other}"))));
        }
        if rule.command {
            line(&format!("{node} -> {};", quoted(&format!("command of {}", rule.name))));
        }
    }
    text.push_str("}\n");
    text
}

/// A quoted string of that language; a newline is one of the label.
fn quoted(text: &str) -> String {
    let lines: Vec<String> =
        text.split('\n').map(|line| printable(line).replace('\\', "\\\\").replace('"', "\\\"")).collect();
    format!("\"{}\"", lines.join("\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::status::tests::status;

    #[test]
    fn the_plan_shows_what_each_rule_does_and_a_dot_for_each_knock() {
        let behind = |port: &str, rules, listens| Behind { port: port.to_owned(), rules, listens };
        let behind = [
            behind("22/tcp", Some(Severity::Ok), true),
            behind("51820/udp", Some(Severity::Problem), false),
            behind("53/udp", None, true),
        ];
        assert_eq!(
            text(&status(), &behind),
            "everybody ──▶ gate ──▶ your nftables rules ──▶ services\n\
             gate  table inet knockd, guards 22/tcp, 51820/udp\n\
             GUARDED    YOUR NFTABLES RULES        SERVICE\n\
             22/tcp     let it through             a program listens\n\
             51820/udp  DROP it: knockctl doctor   nothing listens on this host\n\
             53/udp     unknown: run this as root  a program listens\n\
             RULE    KNOCKS       WITHIN  OPEN TO      DOES\n\
             ssh     ●●●●● 1 udp  5s      2 addresses  opens 22/tcp, 51820/udp for 1h\n\
             close   ●●●●         5s                   revokes ssh\n\
             notify  one-time     5s                   runs a command\n"
        );
        let signed = RuleState { name: "vpn".to_owned(), signed_packets: true, ..RuleState::default() };
        assert_eq!((triggers(&signed).as_str(), row(&signed)[2].as_str()), ("signed", ""));
        let either = RuleState { tcp_knocks: 2, ..signed };
        assert_eq!(triggers(&either), "●●, signed");
        let nothing = text(&Status { table: None, ..status() }, &[]);
        assert!(nothing.starts_with("RULE "), "{nothing}");
    }

    #[test]
    fn the_graph_has_a_node_for_each_rule_and_an_edge_for_all_that_it_does() {
        let mut status = status();
        status.by_rule[2].opens = vec!["any".to_owned()];
        let graph = dot(&status);
        for line in [
            "  everybody -> gate; gate [label=\"gate\\ninet knockd\"];\n",
            "  gate -> \"22/tcp\" [style=dotted, label=\"closed\"];\n",
            "  \"rule ssh\" [shape=ellipse, label=\"ssh\\n●●●●● 1 udp within 5s\"];\n",
            "  \"rule ssh\" -> \"22/tcp\" [label=\"1h, 2 grants now\"];\n",
            "  \"rule close\" -> \"rule ssh\" [style=dashed, label=\"revokes\"];\n",
            "  \"rule notify\" -> \"every guarded port\" [label=\"\"];\n",
            "  \"rule notify\" -> \"command of notify\";\n",
        ] {
            assert!(graph.contains(line), "{line}: {graph}");
        }
        assert!(graph.starts_with("digraph knockd {\n") && graph.ends_with("\n}\n"), "{graph}");
        assert_eq!(quoted("a\"b\\c\u{1b}"), format!("\"a\\\"b\\\\c{}\"", printable("\u{1b}").replace('\\', "\\\\")));
    }
}
