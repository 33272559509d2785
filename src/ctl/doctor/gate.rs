//! Whether the gate drops packets of strangers.

use serde_json::Value;

use super::Finding;
use super::ruleset::{Chain, Rule, Ruleset};
use crate::control::protocol::Table;

/// The priority of the gate (NF_IP_PRI_MANGLE in linux/netfilter_ipv4.h).
const MANGLE: i64 = -150;

/// The findings about the gate.
pub(crate) fn findings(ruleset: &Ruleset, guarded: Option<&[String]>, table: &Table) -> Vec<Finding> {
    let mut findings = vec![gate(ruleset, guarded, table)];
    findings.extend(untracked(ruleset, table));
    findings
}

fn gate(ruleset: &Ruleset, guarded: Option<&[String]>, table: &Table) -> Finding {
    let name = &table.name;
    let broken = |what: &str| {
        Finding::problem("gate", format!("table inet {name} {what}: strangers may reach the guarded ports"))
            .because([format!("nft list table inet {name}")])
            .fix("systemctl restart knockd")
    };
    let Some(found) = ruleset.table("inet", name) else { return broken("does not exist") };
    if found.flags.contains("dormant") {
        return broken("is dormant");
    }
    let mut hooks = Vec::new();
    for name in ["prerouting", "input"] {
        let base = ruleset.base_chains("filter", name);
        let Some(hook) = base.into_iter().find(|chain| chain.family == "inet" && chain.table == table.name) else {
            return broken(&format!("has no chain at {name}"));
        };
        if hook.prio != Some(MANGLE) {
            return broken(&format!("is hooked at {name} with another priority than mangle"));
        }
        if !drops_in_the_end(ruleset, hook, looks_up) {
            return broken(&format!(
                "has no nftables rule at {name} that sends packets for guarded ports to a chain that drops them"
            ));
        }
        hooks.push(hook);
    }
    if !hooks.last().is_some_and(|input| drops_in_the_end(ruleset, input, is_ipv6)) {
        return broken("has no nftables rule at input that drops IPv6 fragments whose port cannot be read");
    }
    if let Some(guarded) = guarded {
        let missing: Vec<&str> = table
            .guarded
            .iter()
            .map(String::as_str)
            .filter(|port| !guarded.iter().any(|other| other == port))
            .collect();
        if !missing.is_empty() {
            return broken(&format!("does not guard {}", missing.join(", ")));
        }
    }
    Finding::ok("gate", format!("strangers are dropped at {}", table.guarded.join(", ")))
        .because(hooks.iter().map(|hook| format!("chain {}, priority {MANGLE}", hook.full_name())))
}

/// Whether an nftables rule of the chain with such a match sends packets to a chain whose last rule drops them.
fn drops_in_the_end(ruleset: &Ruleset, chain: &Chain, matches: fn(&Value) -> bool) -> bool {
    let drops = |rule: &Rule| rule.expr.iter().any(|statement| statement.get("drop").is_some());
    ruleset.rules_of(chain).filter(|rule| rule.expr.iter().any(|statement| matches(&statement["match"]))).any(|rule| {
        let target = rule.expr.iter().find_map(|statement| statement["jump"]["target"].as_str());
        let target = target.and_then(|name| ruleset.chain(chain, name));
        target.is_some_and(|target| ruleset.rules_of(target).last().is_some_and(drops))
    })
}

fn looks_up(condition: &Value) -> bool {
    condition["right"].as_str() == Some("@guarded")
}

fn is_ipv6(condition: &Value) -> bool {
    condition["left"]["meta"]["key"].as_str() == Some("nfproto") && condition["right"].as_str() == Some("ipv6")
}

/// Nftables rules that bypass connection tracking, which the gate needs for guarded UDP ports.
fn untracked(ruleset: &Ruleset, table: &Table) -> Option<Finding> {
    if !table.guarded.iter().any(|port| port.ends_with("/udp")) {
        return None;
    }
    let untracks = |rule: &&Rule| rule.expr.iter().any(|statement| statement.get("notrack").is_some());
    let places: Vec<String> = ruleset.rules.iter().filter(untracks).map(Rule::place).collect();
    (!places.is_empty()).then(|| {
        let text = "some packets bypass connection tracking: where this host itself sends from a guarded UDP port, the \
                    gate drops the answers to such packets";
        Finding::note("gate", text).because(places)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::doctor::{Severity, table};

    fn recorded() -> Ruleset {
        Ruleset::new(&serde_json::from_str(include_str!("rulesets/gate.json")).expect("a recorded ruleset"))
    }

    #[test]
    fn the_gate_that_the_daemon_makes_is_ok() {
        let guarded = ["22/tcp".to_owned(), "51820/udp".to_owned()];
        let finding = gate(&recorded(), Some(&guarded), &table(&["22/tcp", "51820/udp"]));
        assert_eq!(finding.severity, Severity::Ok, "{finding:?}");
    }

    #[test]
    fn a_gate_that_lacks_anything_is_a_problem() {
        let table = table(&["22/tcp"]);
        let broken = |change: &dyn Fn(&mut Ruleset)| {
            let mut ruleset = recorded();
            change(&mut ruleset);
            let finding = gate(&ruleset, None, &table);
            assert_eq!(finding.severity, Severity::Problem, "{finding:?}");
            finding.text
        };
        assert!(broken(&|ruleset| ruleset.tables.clear()).contains("does not exist"));
        for hook in ["prerouting", "input"] {
            let lacks = |what: &str, text: String| assert!(text.contains(&format!("{what} {hook}")), "{text}");
            lacks("no chain at", broken(&|ruleset| ruleset.chains.retain(|chain| chain.name != hook)));
            let elsewhere = |ruleset: &mut Ruleset| {
                let chain = ruleset.chains.iter_mut().find(|chain| chain.name == hook);
                chain.expect("the chain").prio = Some(0);
            };
            lacks("hooked at", broken(&elsewhere));
            lacks("no nftables rule at", broken(&|ruleset| ruleset.rules.retain(|rule| rule.chain != hook)));
        }
        let without_drop = |ruleset: &mut Ruleset, chain: &str| {
            let is_drop = |rule: &Rule| rule.expr.iter().any(|statement| statement.get("drop").is_some());
            ruleset.rules.retain(|rule| rule.chain != chain || !is_drop(rule));
        };
        assert!(broken(&|ruleset| without_drop(ruleset, "gate")).contains("no nftables rule at prerouting"));
        assert!(broken(&|ruleset| without_drop(ruleset, "unreadable")).contains("IPv6 fragments"));
        let unjudged = |rule: &Rule| rule.chain != "input" || !rule.expr.iter().any(|s| is_ipv6(&s["match"]));
        assert!(broken(&|ruleset| ruleset.rules.retain(unjudged)).contains("IPv6 fragments"));
        let finding = gate(&recorded(), Some(&["80/tcp".to_owned()]), &table);
        assert!(finding.text.contains("does not guard 22/tcp"), "{finding:?}");
    }
}
