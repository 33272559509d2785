//! Whether granted addresses reach the guarded ports past the other tables.

use knock_proto::PortRange;

use super::Finding;
use super::other_gates::OtherGate;
use super::packet::{Packet, Version};
use super::path::{Fate, fate};
use super::ruleset::Ruleset;
use crate::control::protocol::Table;

/// The findings about each guarded port.
pub(crate) fn findings(ruleset: &Ruleset, table: &Table, other_gates: &[OtherGate]) -> Vec<Finding> {
    table.guarded.iter().flat_map(|port| of_port(ruleset, table, other_gates, port)).collect()
}

/// The findings about one. `other_gates` have findings of their own.
pub(super) fn of_port(ruleset: &Ruleset, table: &Table, other_gates: &[OtherGate], service: &str) -> Vec<Finding> {
    let Ok(PortRange { protocol, first, .. }) = service.parse() else { return Vec::new() };
    // Of a range, the first port stands for all.
    let translated = is_translated(ruleset, first);
    let hooks = ["ingress", "prerouting", "input"];
    let hooks = if translated { &hooks[..2] } else { &hooks[..] };
    let follow = |version| {
        let packet = Packet { version, protocol: protocol.to_string(), port: Some(first), member: None };
        let mut fate = fate(ruleset, &packet, hooks, ("inet", &table.name));
        fate.perhaps_dropped.retain(|place| !other_gates.iter().any(|gate| gate.has(place)));
        fate
    };
    let (v4, v6) = (follow(Version::V4), follow(Version::V6));
    let ufw = is_by_ufw(ruleset);
    if v4 == v6 {
        return vec![finding(service, service, &v4, translated, ufw)];
    }
    vec![
        finding(service, &format!("{service} over IPv4"), &v4, translated, ufw),
        finding(service, &format!("{service} over IPv6"), &v6, translated, ufw),
    ]
}

/// Whether packets to that port are sent to another address, as for a published port of a container.
fn is_translated(ruleset: &Ruleset, port: u16) -> bool {
    let number = Some(u64::from(port));
    let to_port = |statement: &serde_json::Value| {
        statement["match"]["left"]["payload"]["field"] == "dport" && statement["match"]["right"].as_u64() == number
    };
    let translates = |statement: &serde_json::Value| {
        statement.get("dnat").is_some() || statement["xt"]["name"].as_str() == Some("DNAT")
    };
    ruleset.rules.iter().any(|rule| rule.expr.iter().any(to_port) && rule.expr.iter().any(translates))
}

/// Whether ufw makes the rules of iptables.
fn is_by_ufw(ruleset: &Ruleset) -> bool {
    let jumps = |statement: &serde_json::Value| {
        statement["jump"]["target"].as_str().is_some_and(|target| target.starts_with("ufw"))
    };
    ruleset.rules.iter().any(|rule| rule.chain == "INPUT" && rule.expr.iter().any(jumps))
}

fn finding(service: &str, subject: &str, fate: &Fate, translated: bool, ufw: bool) -> Finding {
    let Some(place) = &fate.dropped else {
        let text = if translated {
            "granted addresses pass the gate; packets to this port are sent on to another address, so FORWARD chains decide"
        } else {
            "granted addresses reach it"
        };
        if let Some(place) = fate.perhaps_dropped.first() {
            let text = format!("granted addresses may not reach it: {place} may drop their packets");
            let others = fate.perhaps_dropped[1..].iter().map(|place| format!("possibly dropped by {place}"));
            return with_fix(Finding::warning(subject, text).because(others), service, place, ufw);
        }
        if !fate.dropped_by_source.is_empty() {
            let text = format!("{text}; an nftables rule drops packets of certain sources");
            let rules = fate.dropped_by_source.iter().map(|place| format!("dropped by {place}"));
            return Finding::note(subject, text).because(rules);
        }
        return Finding::ok(subject, text);
    };
    let finding = if fate.perhaps_accepted.is_empty() {
        let text = format!("granted addresses do not reach it: {place} drops their packets");
        Finding::problem(subject, text)
    } else {
        let text =
            format!("some granted addresses do not reach it: {place} drops packets that no earlier rule accepts");
        let perhaps = fate.perhaps_accepted.iter().map(|place| format!("possibly accepted by {place}"));
        Finding::warning(subject, text).because(perhaps)
    };
    with_fix(finding, service, place, ufw)
}

/// Adds how to let granted addresses through the chain that drops.
fn with_fix(mut finding: Finding, service: &str, place: &str, ufw: bool) -> Finding {
    let Some((port, protocol)) = service.split_once('/') else { return finding };
    let words: Vec<&str> = place.rsplit("chain ").next().unwrap_or("").split(' ').collect();
    let [family, table, chain] = words.as_slice() else { return finding };
    finding.text.push_str(
        "; let the port in there: the gate comes first and keeps strangers out, with nftables.on_stop \"keep\" also while \
         knockd is stopped",
    );
    let finding = finding.because([format!("nft -a list chain {family} {table} {chain}")]);
    match (*family, *table, *chain) {
        (_, "firewalld", _) => {
            finding.fix(format!("firewall-cmd --permanent --add-port={service} && firewall-cmd --reload"))
        }
        ("ip" | "ip6", "filter", "INPUT" | "FORWARD") if ufw => {
            finding.fix(format!("ufw allow {}/{protocol}", port.replace('-', ":")))
        }
        ("ip" | "ip6", "filter", "INPUT" | "FORWARD") => {
            let program = if *family == "ip" { "iptables" } else { "ip6tables" };
            let port = port.replace('-', ":");
            finding.fix(format!("{program} -I {chain} -p {protocol} --dport {port} -j ACCEPT"))
        }
        _ => {
            let set = |version: &str| format!("knock_{}_{protocol}{version}", port.replace('-', "_"));
            let versions: &[(&str, &str, &str)] = match *family {
                "ip" => &[("4", "ip", "ipv4_addr")],
                "ip6" => &[("6", "ip6", "ipv6_addr")],
                _ => &[("4", "ip", "ipv4_addr"), ("6", "ip6", "ipv6_addr")],
            };
            let mut finding =
                finding.fix(format!("nft insert rule {family} {table} {chain} {protocol} dport {port} accept"));
            finding = finding.fix("and add the same line to your nftables.conf");
            for (version, protocol_name, kind) in versions {
                let set = set(version);
                finding = finding.fix(format!(
                    "or by a user set: nft add set {family} {table} {set} '{{ type {kind}; flags timeout; }}' && nft insert \
                     rule {family} {table} {chain} {protocol_name} saddr @{set} {protocol} dport {port} accept"
                ));
            }
            let keys: Vec<String> = versions
                .iter()
                .map(|(version, ..)| {
                    let key = if *version == "4" { "set" } else { "set6" };
                    format!("\"{key}\": \"{family} {table} {}\"", set(version))
                })
                .collect();
            finding.fix(format!(
                "with a user set, add its lines to your nftables.conf, and in the configuration of knockd replace `ports` of the rule: \
                 \"allow\": {{{}, \"timeout\": …}}",
                keys.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::doctor::Severity;

    fn examine(text: &str, guarded: &[&str]) -> Vec<Finding> {
        let ruleset = Ruleset::new(&serde_json::from_str(text).expect("a recorded ruleset"));
        let table = Table {
            name: "knockd".to_owned(),
            owned: true,
            on_stop: "remove".to_owned(),
            guarded: guarded.iter().map(|&port| port.to_owned()).collect(),
            exempt_interfaces: Vec::new(),
        };
        findings(&ruleset, &table, &[])
    }

    /// The ruleset of a host that has this nftables rule before it accepts all, as `nft -j` prints it.
    fn with_rule(expr: &str) -> String {
        format!(
            r#"{{"nftables": [
                {{"chain": {{"family": "inet", "table": "f", "name": "in", "type": "filter", "hook": "input", "prio": 0,
                    "policy": "accept"}}}},
                {{"rule": {{"family": "inet", "table": "f", "chain": "in", "handle": 7, "expr": {expr}}}}}
            ]}}"#
        )
    }

    #[test]
    fn an_nftables_rule_that_may_drop_is_a_warning_and_a_ban_of_sources_is_a_note() {
        let limit = r#"[{"limit": {"rate": 3, "per": "minute", "inv": true}}, {"drop": null}]"#;
        let found = examine(&with_rule(limit), &["22/tcp"]);
        assert_eq!(found[0].severity, Severity::Warning, "{found:?}");
        assert!(found[0].text.contains("handle 7 of chain inet f in may drop"), "{found:?}");
        assert_eq!(found[0].fix[0], "nft insert rule inet f in tcp dport 22 accept");
        let left = r#"{"payload": {"protocol": "ip", "field": "saddr"}}"#;
        let ban = |op: &str| {
            format!(r#"[{{"match": {{"op": "{op}", "left": {left}, "right": "@banned"}}}}, {{"drop": null}}]"#)
        };
        let found = examine(&with_rule(&ban("==")), &["22/tcp"]);
        assert_eq!(found.iter().map(|f| f.severity).max(), Some(Severity::Note), "{found:?}");
        let found = examine(&with_rule(&ban("!=")), &["22/tcp"]);
        assert_eq!(
            found.iter().map(|f| f.severity).max(),
            Some(Severity::Warning),
            "a list of whom to let in: {found:?}"
        );
    }

    #[test]
    fn the_gate_alone_lets_granted_addresses_through() {
        let found = examine(include_str!("rulesets/gate.json"), &["22/tcp"]);
        assert_eq!(found, [Finding::ok("22/tcp", "granted addresses reach it")]);
    }

    #[test]
    fn a_default_drop_of_another_table_is_found_with_the_lines_to_add() {
        let found = examine(include_str!("rulesets/default-drop.json"), &["22/tcp"]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].severity, found[0].subject.as_str()), (Severity::Warning, "22/tcp over IPv4"));
        assert_eq!((found[1].severity, found[1].subject.as_str()), (Severity::Problem, "22/tcp over IPv6"));
        assert_eq!(found[1].fix[0], "nft insert rule inet filter input tcp dport 22 accept", "the shortest is first");
        let fix = found[1].fix.join("\n");
        assert!(fix.contains("nft add set inet filter knock_22_tcp6 '{ type ipv6_addr; flags timeout; }'"), "{fix}");
        assert!(
            fix.contains("nft insert rule inet filter input ip6 saddr @knock_22_tcp6 tcp dport 22 accept"),
            "{fix}"
        );
        assert!(fix.contains("\"set6\": \"inet filter knock_22_tcp6\""), "{fix}");
    }

    #[test]
    fn a_range_is_one_finding_with_lines_that_the_programs_take() {
        let found = examine(include_str!("rulesets/gate.json"), &["60000-61000/udp"]);
        assert_eq!(found, [Finding::ok("60000-61000/udp", "granted addresses reach it")]);
        let found = examine(include_str!("rulesets/default-drop.json"), &["60000-61000/udp"]);
        let fix = found.last().expect("a finding").fix.join("\n");
        assert!(fix.contains("saddr @knock_60000_61000_udp6 udp dport 60000-61000 accept"), "{fix}");
        let found = examine(include_str!("rulesets/iptables.json"), &["60000-61000/udp"]);
        let fix = found[0].fix.join("\n");
        assert!(fix.contains("-p udp --dport 60000:61000 -j ACCEPT"), "{fix}");
        let jump = r#"{"rule": {"family": "ip", "table": "filter", "chain": "INPUT", "handle": 99, "expr": [{"jump": {"target": "ufw-before-input"}}]}}"#;
        let by_ufw = include_str!("rulesets/iptables.json").replacen("[", &format!("[{jump}, "), 1);
        let found = examine(&by_ufw, &["60000-61000/udp"]);
        assert_eq!(found[0].fix, ["ufw allow 60000:61000/udp"]);
    }

    #[test]
    fn a_set_is_not_put_into_a_table_of_iptables() {
        let found = examine(include_str!("rulesets/iptables.json"), &["22/tcp"]);
        assert_eq!(found[0].subject, "22/tcp over IPv4");
        let fix = found[0].fix.join("\n");
        assert!(fix.contains("iptables -I INPUT -p tcp --dport 22 -j ACCEPT") && !fix.contains("nft add"), "{fix}");
        assert_eq!(found[1].severity, Severity::Ok, "nothing drops IPv6");
    }

    #[test]
    fn a_published_port_is_not_judged_by_input_chains() {
        let found = examine(include_str!("rulesets/default-drop.json"), &["8080/tcp"]);
        assert!(found.iter().all(|finding| finding.severity <= Severity::Note), "{found:?}");
    }
}
