//! Translations of destinations (DNAT, redirect): other ways to a guarded service that bypass the gate.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;

use knock_proto::Port;
use serde_json::Value;

use super::Finding;
use super::packet::{Packet, Version, ports};
use super::path::fate;
use super::ruleset::{Rule, Ruleset};
use crate::control::protocol::Table;

/// The fix where a container can be reached at its own address.
const NEIGHBOURS: &str = "load examples/docker-neighbours.nft, or drop in a FORWARD chain all packets that do not come through \
                          the published port; see \"Docker\" in docs/integration.md";

/// A translation of packets to some ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    /// `tcp` or `udp`.
    pub(crate) protocol: String,
    /// The ports that clients connect to.
    pub(crate) from: Vec<u16>,
    /// The new address; `None`: an address of this host.
    pub(crate) address: Option<IpAddr>,
    /// The new port; `None`: the same port.
    pub(crate) port: Option<u16>,
    /// The nftables rule or the line of iptables.
    pub(crate) place: String,
}

/// All translations that can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Translations {
    pub(crate) known: Vec<Translation>,
    /// Why there may be others.
    pub(crate) unknown: Option<String>,
}

/// Reads them from the ruleset, and from iptables, whose targets nft does not show.
pub(crate) fn gather(ruleset: &Ruleset) -> Translations {
    let mut all = Translations::default();
    for rule in &ruleset.rules {
        match of_nft(rule) {
            Some(Ok(translation)) => all.known.push(translation),
            Some(Err(place)) => all.unknown = Some(place),
            None => {}
        }
    }
    let is_iptables = |statement: &Value| {
        matches!(statement["xt"]["name"].as_str(), Some("DNAT" | "REDIRECT")) || statement["xt"].is_null()
    };
    let has = |rule: &Rule| rule.expr.iter().filter(|statement| statement.get("xt").is_some()).any(is_iptables);
    for (program, families) in [("iptables-save", ["ip", "inet"]), ("ip6tables-save", ["ip6", "inet"])] {
        if !ruleset.rules.iter().any(|rule| families.contains(&rule.family.as_str()) && has(rule)) {
            continue;
        }
        match Command::new(program).args(["-t", "nat"]).output() {
            Ok(output) if output.status.success() => {
                all.known.extend(of_iptables(program, &String::from_utf8_lossy(&output.stdout)));
            }
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                all.unknown = Some(format!("{program} -t nat: {}", said.lines().next().unwrap_or("it failed")));
            }
            Err(error) => all.unknown = Some(format!("{program} (package iptables): {error}")),
        }
    }
    for translation in &mut all.known {
        // Only an address of this host can be bound.
        translation.address = translation.address.filter(|address| UdpSocket::bind((*address, 0)).is_err());
    }
    all
}

/// The translation of an nftables rule; an error where its target cannot be read, as with a map.
fn of_nft(rule: &Rule) -> Option<Result<Translation, String>> {
    let to = rule.expr.iter().find_map(|statement| statement.get("redirect").or_else(|| statement.get("dnat")))?;
    let place = format!("rule with {}", rule.place());
    let Some((protocol, from)) = rule.expr.iter().find_map(ports) else { return Some(Err(place)) };
    let port = to["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let address = to["addr"].as_str().and_then(|address| address.parse().ok());
    let is_told = |value: &Value, is_read: bool| value.is_null() || is_read;
    if !is_told(&to["addr"], address.is_some()) || !is_told(&to["port"], port.is_some()) {
        return Some(Err(place));
    }
    Some(Ok(Translation { protocol, from, address, port, place }))
}

/// The rules that iptables-save(8) prints.
fn of_iptables(program: &str, text: &str) -> Vec<Translation> {
    text.lines().filter(|line| line.starts_with("-A ")).filter_map(|line| of_line(program, line)).collect()
}

fn of_line(program: &str, line: &str) -> Option<Translation> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |option: &str| {
        let place = words.iter().position(|word| *word == option)?;
        // A negated match names what it excludes.
        (place == 0 || words[place - 1] != "!").then(|| words.get(place + 1).copied())?
    };
    let list = after("--dport").or_else(|| after("--dports"))?;
    let from: Vec<u16> = list.split(',').filter_map(|port| port.parse().ok()).collect();
    let (address, port) = match after("-j")? {
        "REDIRECT" => (None, after("--to-ports").and_then(|port| port.parse().ok())),
        "DNAT" => {
            let to = after("--to-destination")?;
            let bare = to.trim_start_matches('[').trim_end_matches(']');
            match bare.parse::<IpAddr>() {
                Ok(address) => (Some(address), None),
                Err(_) => {
                    let (address, port) = to.rsplit_once(':')?;
                    let address = address.trim_start_matches('[').trim_end_matches(']');
                    (Some(address.parse().ok()?), Some(port.parse().ok()?))
                }
            }
        }
        _ => return None,
    };
    let protocol = after("-p").filter(|protocol| ["tcp", "udp"].contains(protocol))?.to_owned();
    let place = format!("{program} -t nat: {line}");
    (!from.is_empty()).then_some(Translation { protocol, from, address, port, place })
}

/// The findings about them. `listening`: the ports at which this host serves other hosts.
pub(crate) fn findings(
    ruleset: &Ruleset,
    translations: &Translations,
    table: &Table,
    listening: &[String],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(error) = &translations.unknown {
        let text =
            "unknown whether other ports lead to a guarded service: the target of some nftables rules cannot be read";
        findings.push(Finding::warning("gate", text).because([error.clone()]));
    }
    for range in table.guarded_ranges() {
        let of_range = translations.known.iter().flat_map(|translation| {
            let port = |&number| format!("{number}/{}", translation.protocol).parse::<Port>().ok();
            let guarded = move |port: &Port| range.contains(*port);
            translation.from.iter().filter_map(port).filter(guarded).map(move |port| (translation, port))
        });
        for (translation, port) in of_range {
            let (service, to) = (port.to_string(), translation.port.unwrap_or(port.number));
            match translation.address {
                None => findings.extend(beside(&service, translation, to, table, listening)),
                Some(address) => {
                    findings.extend(others(&service, translation, (address, to), translations, table));
                    findings.extend(directly(ruleset, &service, translation, (address, to), table));
                }
            }
        }
    }
    findings.dedup();
    findings
}

/// A guarded port that is redirected to another port of this host: whether that port is guarded too.
fn beside(service: &str, translation: &Translation, to: u16, table: &Table, listening: &[String]) -> Option<Finding> {
    let other = format!("{to}/{}", translation.protocol);
    if table.guards(&other) || !listening.contains(&other) {
        return None;
    }
    let text =
        format!("packets to it are redirected to {other}, which is not guarded: strangers can connect to {other}");
    Some(Finding::warning(service, text).because([translation.place.clone()]).fix(format!(
        "add \"{other}\" to the `ports` of the rule, or let the service listen on the loopback interface only"
    )))
}

/// Other ports that lead to the same service, and are not guarded.
fn others(
    service: &str,
    translation: &Translation,
    (address, to): (IpAddr, u16),
    translations: &Translations,
    table: &Table,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for other in &translations.known {
        if other.protocol != translation.protocol || other.address != Some(address) {
            continue;
        }
        for from in other.from.iter().filter(|from| other.port.unwrap_or(**from) == to) {
            let from = format!("{from}/{}", other.protocol);
            if !table.guards(&from) {
                let text = format!(
                    "{from} leads to the same service, port {to} of {address}, and is not guarded: strangers can connect \
                     to {from}"
                );
                findings.push(
                    Finding::warning(service, text)
                        .because([other.place.clone()])
                        .fix(format!("add \"{from}\" to the `ports` of the rule, or remove the translation")),
                );
            }
        }
    }
    findings
}

/// Whether a neighbour on the link can reach the address directly.
fn directly(
    ruleset: &Ruleset,
    service: &str,
    translation: &Translation,
    (address, to): (IpAddr, u16),
    table: &Table,
) -> Option<Finding> {
    let version = if address.is_ipv4() { Version::V4 } else { Version::V6 };
    let packet = Packet { version, protocol: translation.protocol.clone(), port: Some(to), member: None };
    let follow = |hooks: &[&str]| fate(ruleset, &packet, hooks, ("inet", &table.name));
    let (before, forward) = (follow(&["ingress", "prerouting"]), follow(&["forward"]));
    let forward_drops = forward.dropped.is_some() && forward.perhaps_accepted.is_empty();
    if before.dropped.is_some() || forward_drops || ruleset.rules.iter().any(|rule| drops_to(rule, address)) {
        return None;
    }
    let text = format!(
        "packets to it go to port {to} of {address}; a neighbour on the link can send to that address directly, past \
         the gate, and no nftables rule drops such packets"
    );
    let may = forward.perhaps_accepted.iter().map(|place| format!("possibly accepted by {place}"));
    Some(Finding::warning(service, text).because([translation.place.clone()]).because(may).fix(NEIGHBOURS))
}

/// Whether an nftables rule drops packets to that address, from some interfaces at least.
fn drops_to(rule: &Rule, address: IpAddr) -> bool {
    let names_it = |statement: &Value| {
        let condition = &statement["match"];
        condition["op"] == "=="
            && condition["left"]["payload"]["field"] == "daddr"
            && covers(&condition["right"], address)
    };
    rule.expr.iter().any(|statement| statement.get("drop").is_some()) && rule.expr.iter().any(names_it)
}

/// Whether an address, a prefix or a set of those has the address in it.
fn covers(value: &Value, address: IpAddr) -> bool {
    if let Some(values) = value["set"].as_array() {
        return values.iter().any(|value| covers(value, address));
    }
    let (text, length) = match &value["prefix"] {
        Value::Null => (value, 128),
        prefix => (&prefix["addr"], prefix["len"].as_u64().unwrap_or(128)),
    };
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 4),
        IpAddr::V6(address) => (u128::from(address), 6),
    };
    let Some((network, version)) = text.as_str().and_then(|text| text.parse().ok()).map(bits) else { return false };
    let (own, own_version) = bits(address);
    let hidden = u32::try_from(128_u64.saturating_sub(length)).unwrap_or(0);
    version == own_version && (network ^ own).checked_shr(hidden).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests;
