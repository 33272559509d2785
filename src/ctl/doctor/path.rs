//! The way of a packet through the chains of a ruleset.

use serde_json::Value;

use super::packet::{Packet, Truth, mentions_source};
use super::ruleset::{Chain, Rule, Ruleset};

/// More jumps than the kernel allows (`NFT_JUMP_STACK_SIZE`).
const JUMPS_MAX: usize = 17;

/// What happens to a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fate {
    /// Where it is dropped, unless a rule of `perhaps_accepted` accepts it.
    pub(crate) dropped: Option<String>,
    /// Earlier rules that may accept it.
    pub(crate) perhaps_accepted: Vec<String>,
    /// Rules that may drop it.
    pub(crate) perhaps_dropped: Vec<String>,
    /// Rules that drop it if it comes from certain sources: those of a list, or of a program that bans.
    pub(crate) dropped_by_source: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
}

/// How a chain ends for a packet.
enum End {
    Decided(Verdict, String),
    Returned,
    /// A verdict in a chain that the packet may not enter is possible.
    Open,
}

/// Follows the packet through all filter chains at these hooks, except those of the table `but`.
pub(crate) fn fate(ruleset: &Ruleset, packet: &Packet, hooks: &[&str], but: (&str, &str)) -> Fate {
    let mut fate = Fate::default();
    let others = |chain: &&Chain| (chain.family.as_str(), chain.table.as_str()) != but;
    for chain in hooks.iter().flat_map(|hook| ruleset.base_chains("filter", hook)).filter(others) {
        if !packet.version.is_seen_by(&chain.family) {
            continue;
        }
        let mut walk = Walk { ruleset, packet, accepts: Vec::new(), drops: Vec::new(), bans: Vec::new() };
        let end = match walk.chain(chain, 0) {
            End::Decided(verdict, place) => (verdict, place),
            _ if chain.policy.as_deref() == Some("drop") => {
                (Verdict::Drop, format!("the policy of chain {}", chain.full_name()))
            }
            _ => (Verdict::Accept, String::new()),
        };
        match end {
            // Other interfaces may have no such chain.
            (Verdict::Drop, place) if chain.hook.as_deref() == Some("ingress") => fate.perhaps_dropped.push(place),
            (Verdict::Drop, place) if fate.dropped.is_none() => {
                fate.dropped = Some(place);
                fate.perhaps_accepted = walk.accepts;
            }
            _ => {}
        }
        fate.perhaps_dropped.append(&mut walk.drops);
        fate.dropped_by_source.append(&mut walk.bans);
    }
    fate
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    packet: &'a Packet,
    accepts: Vec<String>,
    drops: Vec<String>,
    bans: Vec<String>,
}

impl Walk<'_> {
    fn chain(&mut self, chain: &Chain, depth: usize) -> End {
        if depth > JUMPS_MAX {
            return End::Open;
        }
        let ruleset = self.ruleset;
        let mut entered = Truth::Yes;
        for rule in ruleset.rules_of(chain) {
            let mut met = entered;
            for statement in &rule.expr {
                match self.statement(chain, rule, statement, &mut met, depth) {
                    Some(End::Returned) if met == Truth::Yes => return End::Returned,
                    // The packet may not reach the rules that follow.
                    Some(End::Returned) => entered = Truth::Maybe,
                    Some(end) => return end,
                    None => {}
                }
                if met == Truth::No {
                    break;
                }
            }
        }
        End::Open
    }

    /// What a statement does with a packet that reaches it; `None` where the next statement follows.
    fn statement(
        &mut self,
        chain: &Chain,
        rule: &Rule,
        statement: &Value,
        met: &mut Truth,
        depth: usize,
    ) -> Option<End> {
        let (name, value) = statement.as_object().and_then(|object| object.iter().next())?;
        match name.as_str() {
            "match" => *met = met.and(self.packet.meets(value)),
            "vmap" => {
                for entry in value["data"]["set"].as_array().into_iter().flatten() {
                    let truth = met.and(self.packet.is(&value["key"], &entry[0]));
                    if let Some(end) = self.verdict(chain, rule, &entry[1], truth, depth) {
                        return Some(end);
                    }
                }
                if value["data"].is_string() {
                    self.accepts.push(format!("the verdict map of the rule with {}", rule.place()));
                }
            }
            // An extension of iptables: nft shows at most its name.
            "xt" => match (value["type"].as_str(), value["name"].as_str()) {
                (Some("target"), Some("REJECT" | "DROP")) => {
                    return self.verdict(chain, rule, &serde_json::json!({ "drop": null }), *met, depth);
                }
                (Some("target"), _) => {}
                _ => *met = met.and(Truth::Maybe),
            },
            "counter" | "log" | "notrack" | "mangle" | "flow" | "set" | "comment" | "map" => {}
            "accept" | "drop" | "reject" | "queue" | "jump" | "goto" | "return" => {
                return self.verdict(chain, rule, statement, *met, depth);
            }
            // A limit, a quota, or something newer: it may end the rule.
            _ => *met = met.and(Truth::Maybe),
        }
        None
    }

    fn verdict(&mut self, chain: &Chain, rule: &Rule, verdict: &Value, met: Truth, depth: usize) -> Option<End> {
        let (name, value) = verdict.as_object().and_then(|object| object.iter().next())?;
        let place = || format!("the rule with {}", rule.place());
        let end = match name.as_str() {
            "accept" => End::Decided(Verdict::Accept, place()),
            "drop" | "reject" => End::Decided(Verdict::Drop, place()),
            "return" => End::Returned,
            "jump" | "goto" if met != Truth::No => {
                let target = value["target"].as_str().and_then(|target| self.ruleset.chain(chain, target))?;
                let end = self.chain(target, depth + 1);
                match (end, name.as_str()) {
                    (End::Decided(verdict, place), _) => End::Decided(verdict, place),
                    // After a goto the rest of this chain is passed over.
                    (_, "goto") => End::Returned,
                    _ => return None,
                }
            }
            // A program decides.
            "queue" if met != Truth::No => {
                self.drops.push(place());
                return None;
            }
            _ => return None,
        };
        match (met, end) {
            (Truth::No, _) => None,
            (Truth::Yes, end) => Some(end),
            (Truth::Maybe, End::Decided(Verdict::Accept, place)) => {
                self.accepts.push(place);
                None
            }
            (Truth::Maybe, End::Decided(Verdict::Drop, place)) => {
                let by_source = |statement: &Value| {
                    let condition = &statement["match"];
                    condition["op"] != "!=" && mentions_source(&condition["left"])
                };
                let drops = if rule.expr.iter().any(by_source) { &mut self.bans } else { &mut self.drops };
                drops.push(place);
                None
            }
            (Truth::Maybe, end) => Some(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::doctor::packet::Version;

    fn ruleset(text: &str) -> Ruleset {
        Ruleset::new(&serde_json::from_str(text).expect("a recorded ruleset"))
    }

    fn default_drop() -> Ruleset {
        ruleset(include_str!("rulesets/default-drop.json"))
    }

    fn packet(version: Version, protocol: &str, port: u16) -> Packet {
        Packet { version, protocol: protocol.to_owned(), port: Some(port), member: None }
    }

    fn input(ruleset: &Ruleset, packet: &Packet) -> Fate {
        fate(ruleset, packet, &["prerouting", "input"], ("inet", "knockd"))
    }

    #[test]
    fn a_port_that_is_accepted_in_a_chain_that_is_jumped_to_is_reached() {
        let ruleset = default_drop();
        for (protocol, port) in [("tcp", 80), ("tcp", 443), ("udp", 5000), ("udp", 6000), ("tcp", 25)] {
            let fate = input(&ruleset, &packet(Version::V6, protocol, port));
            assert_eq!(fate.dropped, None, "{port}/{protocol}");
        }
        for (protocol, port) in [("udp", 80), ("udp", 4999), ("udp", 6001), ("tcp", 26), ("tcp", 5000)] {
            let fate = input(&ruleset, &packet(Version::V6, protocol, port));
            assert!(fate.dropped.is_some(), "{port}/{protocol}");
        }
    }

    #[test]
    fn a_default_drop_names_its_chain_and_the_rules_that_may_accept() {
        let ruleset = default_drop();
        let fate = input(&ruleset, &packet(Version::V4, "tcp", 22));
        assert_eq!(fate.dropped.as_deref(), Some("the policy of chain inet filter input"));
        assert_eq!(fate.perhaps_accepted.len(), 2, "trusted sources, and members of the set: {fate:?}");
        let fate = input(&ruleset, &packet(Version::V6, "tcp", 22));
        assert_eq!((fate.dropped.is_some(), fate.perhaps_accepted.len()), (true, 0), "both are of IPv4: {fate:?}");
    }

    #[test]
    fn an_address_in_a_set_is_accepted_and_another_is_not() {
        let ruleset = default_drop();
        let mut packet = packet(Version::V4, "tcp", 22);
        packet.member = Some(("knock_ssh4".to_owned(), true));
        assert_eq!(input(&ruleset, &packet).dropped, None);
        packet.member = Some(("knock_ssh4".to_owned(), false));
        assert_eq!(input(&ruleset, &packet).perhaps_accepted.len(), 1, "trusted sources only");
    }

    #[test]
    fn iptables_rules_are_followed_as_far_as_nft_shows_them() {
        let ruleset = ruleset(include_str!("rulesets/iptables.json"));
        assert_eq!(input(&ruleset, &packet(Version::V4, "tcp", 80)).dropped, None);
        let fate = input(&ruleset, &packet(Version::V4, "tcp", 22));
        assert!(fate.dropped.is_some_and(|place| place.contains("ip filter INPUT")));
        assert_eq!(fate.perhaps_accepted.len(), 2, "conntrack and multiport may");
        assert_eq!(input(&ruleset, &packet(Version::V6, "tcp", 22)).dropped, None);
    }

    #[test]
    fn a_loop_of_jumps_ends() {
        let text = r#"{"nftables": [
            {"chain": {"family": "inet", "table": "t", "name": "a", "type": "filter", "hook": "input", "prio": 0,
                "policy": "drop"}},
            {"rule": {"family": "inet", "table": "t", "chain": "a", "handle": 1, "expr": [{"jump": {"target": "a"}}]}}
        ]}"#;
        assert!(input(&ruleset(text), &packet(Version::V4, "tcp", 22)).dropped.is_some());
    }
}
