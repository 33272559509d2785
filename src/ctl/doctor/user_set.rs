//! Whether a user set opens something for the addresses in it, and for no others.

use serde_json::Value;

use super::Finding;
use super::packet::{Packet, Version, ports};
use super::path::{Fate, fate};
use super::ruleset::{Rule, Ruleset, Set};
use crate::control::protocol;

/// The findings about a user set.
pub(crate) fn findings(ruleset: &Ruleset, set: &protocol::Set) -> Vec<Finding> {
    let name = &set.name;
    let listing = || [format!("nft list set {name}")];
    let Some(found) = ruleset.set(name) else {
        let text = "does not exist, so a knock opens nothing; the daemon adds the grants when it exists";
        return vec![
            Finding::problem(name, text)
                .because([format!("nft list table {}", name.rsplit_once(' ').map_or("", |(table, _)| table))])
                .fix(format!("nft add set {name} '{{ type ipv4_addr; flags timeout; }}' (ipv6_addr for a `set6`)")),
        ];
    };
    let version = match (found.kind.contains("ipv4_addr"), found.kind.contains("ipv6_addr")) {
        (true, false) => Version::V4,
        (false, true) => Version::V6,
        _ => return vec![Finding::problem(name, "is not a set of addresses").because(listing())],
    };
    if found.flags.contains("interval") || !found.flags.contains("timeout") {
        let text = "is not a set of single addresses with timeouts: it needs `flags timeout`, without `interval`";
        return vec![Finding::problem(name, text).because(listing()).fix(format!(
            "define it in your nftables.conf with: {}",
            "{ type ipv4_addr; flags timeout; } or ipv6_addr"
        ))];
    }
    if let Some(problem) = &set.problem {
        return vec![Finding::problem(name, problem.clone()).because(listing())];
    }
    let users: Vec<&Rule> = ruleset.rules.iter().filter(|rule| uses(rule, found)).collect();
    if users.is_empty() {
        let keyword = if version == Version::V4 { "ip" } else { "ip6" };
        let text = "no nftables rule uses it, so a knock opens nothing";
        return vec![Finding::problem(name, text).because(listing()).fix(format!(
            "nft insert rule {} {} INPUT-CHAIN {keyword} saddr @{} tcp dport PORT accept",
            found.family, found.table, found.name
        ))];
    }
    users.iter().flat_map(|rule| of_rule(ruleset, found, version, rule)).collect()
}

/// Whether the nftables rule looks up the source in the set.
fn uses(rule: &Rule, set: &Set) -> bool {
    let looks_up = |statement: &Value| {
        statement["match"]["right"].as_str().and_then(|name| name.strip_prefix('@')) == Some(&set.name)
    };
    rule.family == set.family && rule.table == set.table && rule.expr.iter().any(looks_up)
}

/// For each port of the nftables rule: whether addresses in the set reach it, and others do not.
fn of_rule(ruleset: &Ruleset, set: &Set, version: Version, rule: &Rule) -> Vec<Finding> {
    let name = format!("{} {} {}", set.family, set.table, set.name);
    let services: Vec<(String, Option<u16>)> = match rule.expr.iter().find_map(ports) {
        Some((protocol, ports)) => ports.into_iter().map(|port| (protocol.clone(), Some(port))).collect(),
        None => vec![("tcp".to_owned(), None)],
    };
    let mut findings = Vec::new();
    for (protocol, port) in services {
        let service = port.map_or_else(|| "its ports".to_owned(), |port| format!("{port}/{protocol}"));
        let follow = |inside| {
            let member = Some((set.name.clone(), inside));
            let packet = Packet { version, protocol: protocol.clone(), port, member };
            fate(ruleset, &packet, &["ingress", "prerouting", "input"], ("inet", ""))
        };
        findings.push(judge(&name, &service, rule, &follow(true), &follow(false)));
    }
    findings
}

fn judge(name: &str, service: &str, rule: &Rule, member: &Fate, stranger: &Fate) -> Finding {
    let seen = format!("rule with {}", rule.place());
    match (&member.dropped, &stranger.dropped) {
        (Some(place), _) if member.perhaps_accepted.is_empty() => {
            let text = format!("addresses in it do not reach {service}: {place} comes first");
            Finding::problem(name, text)
                .because([seen])
                .fix("move the nftables rule with the set before the drop (nft -a list ruleset shows the order)")
        }
        (Some(place), _) => {
            let text =
                format!("some addresses in it do not reach {service}: {place} drops packets that no rule accepts");
            let perhaps = member.perhaps_accepted.iter().map(|place| format!("possibly accepted by {place}"));
            Finding::warning(name, text)
                .because([seen])
                .because(perhaps)
                .fix("move the nftables rule with the set before the drop (nft -a list ruleset shows the order)")
        }
        (None, None) => {
            let text =
                format!("strangers reach {service} too: no nftables rule drops addresses that are not in the set");
            Finding::problem(name, text).because([seen]).fix(format!(
                "end the chain with a drop, for example: nft add rule {} {} {} drop; or guard the port with \"allow\": \
                 {{\"ports\": …}}",
                rule.family, rule.table, rule.chain
            ))
        }
        (None, Some(place)) => {
            let text = format!("addresses in it reach {service}, and strangers are dropped by {place}");
            let perhaps = stranger.perhaps_accepted.iter().map(|place| format!("others possibly accepted by {place}"));
            Finding::ok(name, text).because([seen]).because(perhaps)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::doctor::Severity;

    fn recorded() -> Ruleset {
        let text = include_str!("rulesets/default-drop.json");
        Ruleset::new(&serde_json::from_str(text).expect("a recorded ruleset"))
    }

    fn of(ruleset: &Ruleset, name: &str) -> Finding {
        let set = protocol::Set { name: name.to_owned(), problem: None };
        let mut found = findings(ruleset, &set);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn a_set_that_opens_a_port_for_its_addresses_and_no_others_is_ok() {
        let finding = of(&recorded(), "inet filter knock_ssh4");
        assert_eq!(finding.severity, Severity::Ok, "{finding:?}");
        assert!(finding.text.contains("22/tcp") && finding.text.contains("policy of chain inet filter input"));
    }

    #[test]
    fn a_set_that_opens_nothing_is_a_problem() {
        let mut ruleset = recorded();
        ruleset.rules.retain(|rule| rule.handle != 20);
        let finding = of(&ruleset, "inet filter knock_ssh4");
        assert_eq!(finding.severity, Severity::Problem);
        assert!(finding.text.contains("no nftables rule uses it"), "{finding:?}");

        let finding = of(&recorded(), "inet filter knock_ssh6");
        assert!(finding.text.contains("does not exist") && finding.severity == Severity::Problem);
        let finding = of(&recorded(), "inet filter trusted");
        assert!(finding.text.contains("interval") && finding.severity == Severity::Problem);
    }

    #[test]
    fn a_set_behind_a_drop_or_without_one_is_a_problem() {
        let mut ruleset = recorded();
        let input = ruleset.chains.iter_mut().find(|chain| chain.name == "input").expect("it was recorded");
        input.policy = Some("accept".to_owned());
        let finding = of(&ruleset, "inet filter knock_ssh4");
        assert!(finding.text.contains("strangers reach 22/tcp") && finding.severity == Severity::Problem);

        let mut ruleset = recorded();
        let invalid = |rule: &&mut Rule| rule.table == "filter" && rule.handle == 13;
        let rule = ruleset.rules.iter_mut().find(invalid).expect("it was recorded");
        rule.expr.remove(0);
        let finding = of(&ruleset, "inet filter knock_ssh4");
        assert!(finding.text.contains("do not reach 22/tcp") && finding.severity == Severity::Problem, "{finding:?}");
    }
}
