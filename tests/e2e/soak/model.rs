//! What should be open to whom, worked out from what was done alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The rules that a configuration may have, each with its sequence; the last adds to the administrator's set.
pub(super) const RULES: [(&str, [u16; 3]); 4] =
    [("a", [7000, 9000, 8000]), ("b", [7100, 9100, 8100]), ("c", [7200, 9200, 8200]), ("own", [7300, 9300, 8300])];
/// The ports that rules may guard. Rule `a` always does the first.
pub(super) const PORTS: [u16; 4] = [22, 80, 443, 2222];
/// The port that the administrator's table guards.
pub(super) const OWN_PORT: u16 = 2323;
/// How near the end of a grant nothing is said about it: what asking takes, and the kernel's own grain.
const MARGIN: Duration = Duration::from_millis(500);

/// A configuration.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// For each rule of [`RULES`] that it has: the ports, and how long a grant is.
    pub(super) rules: BTreeMap<&'static str, (Vec<u16>, Duration)>,
    pub(super) table: &'static str,
    pub(super) owner: bool,
    /// Whether the kernel opens at the last knock.
    pub(super) doors: bool,
    pub(super) keep: bool,
    pub(super) any_interface: bool,
}

impl Setting {
    /// The configuration file.
    pub(super) fn configuration(&self) -> Value {
        let rule = |(name, sequence): &(&str, [u16; 3])| {
            let (ports, timeout) = self.rules.get(name)?;
            let timeout = timeout.as_secs();
            let allow = match *name {
                "own" => json!({ "set": "inet filter own4", "set6": "inet filter own6", "timeout": timeout }),
                _ => json!({ "ports": ports, "timeout": timeout }),
            };
            Some(json!({ "name": name, "sequence": sequence, "allow": allow }))
        };
        let mut rules: Vec<Value> = RULES.iter().filter_map(rule).collect();
        if self.keep {
            // The order means nothing, but their numbers change.
            rules.reverse();
        }
        json!({
            "interface": if self.any_interface { json!("any") } else { json!(["eth0", "knock0"]) },
            "nftables": {
                "table": self.table, "owner": self.owner, "on_stop": if self.keep { "keep" } else { "remove" },
                "last_knock": if self.doors { "kernel" } else { "daemon" }
            },
            "rules": rules
        })
    }

    fn covers(&self, rule: &str, port: u16) -> bool {
        self.rules.get(rule).is_some_and(|(ports, _)| ports.contains(&port))
    }

    /// Whether any rule guards that port.
    pub(super) fn guards(&self, port: u16) -> bool {
        port == OWN_PORT || self.rules.values().any(|(ports, _)| ports.contains(&port))
    }
}

/// A live grant.
#[derive(Clone, Copy, Debug)]
struct Grant {
    /// It ends between the two.
    ends: (Instant, Instant),
}

/// What is to be seen of a port from an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Open,
    Closed,
    /// A grant is about to end.
    Either,
}

/// What should be open to whom.
#[derive(Debug, Default)]
pub(super) struct Model {
    grants: BTreeMap<(IpAddr, &'static str), Grant>,
}

impl Model {
    /// A rule was granted, between the two moments.
    pub(super) fn grant(&mut self, rule: &'static str, address: IpAddr, at: (Instant, Instant), timeout: Duration) {
        self.grants.insert((address, rule), Grant { ends: (at.0 + timeout, at.1 + timeout) });
    }

    /// The grants to an address ended, that of one rule or all.
    pub(super) fn revoke(&mut self, address: IpAddr, rule: Option<&str>) {
        self.grants.retain(|(to, of), _| *to != address || rule.is_some_and(|rule| rule != *of));
    }

    /// All grants ended, or those only that the daemon keeps in its own table.
    pub(super) fn end(&mut self, but_own: bool) {
        self.grants.retain(|(_, rule), _| but_own && *rule == "own");
    }

    /// Another configuration is in force.
    pub(super) fn reload(&mut self, setting: &Setting) {
        self.grants.retain(|(_, rule), _| setting.rules.contains_key(rule));
    }

    /// A new daemon adopted the elements that it found: an element names the rule that holds it, the one that lasts longest; a grant
    /// that holds no port is not known any more, and was none that mattered.
    pub(super) fn take_up(&mut self, setting: &Setting) {
        let holds: Vec<(IpAddr, &str)> = self
            .grants
            .keys()
            .filter(|(address, rule)| {
                let (ports, _) = &setting.rules[rule];
                ports.iter().any(|port| self.holder(setting, *address, *port).is_some_and(|holder| holder.0 == *rule))
            })
            .copied()
            .collect();
        self.grants.retain(|key, _| holds.contains(key));
    }

    /// Addresses of which it can't be told which of two rules holds a port, for they end at the same time.
    pub(super) fn ambiguous(&self, setting: &Setting) -> Vec<IpAddr> {
        let clash = |((address, one), first): &(&(IpAddr, &str), &Grant)| {
            self.grants.range((*address, "")..).take_while(|((other, _), _)| other == address).any(
                |((_, other), second)| {
                    other > one
                        && PORTS.iter().any(|port| setting.covers(one, *port) && setting.covers(other, *port))
                        && first.ends.0 <= second.ends.1
                        && second.ends.0 <= first.ends.1
                },
            )
        };
        self.grants.iter().filter(clash).map(|((address, _), _)| *address).collect()
    }

    /// The rule that holds the element for an address and port, and when that ends.
    fn holder(&self, setting: &Setting, address: IpAddr, port: u16) -> Option<(&'static str, Grant)> {
        let of_address = self.grants.range((address, "")..).take_while(|((other, _), _)| *other == address);
        let covering = of_address.filter(|((_, rule), _)| setting.covers(rule, port));
        covering.max_by_key(|(_, grant)| grant.ends.1).map(|((_, rule), grant)| (*rule, *grant))
    }

    /// What is to be seen of a port from an address at any time between the two moments.
    pub(super) fn expected(&self, setting: &Setting, address: IpAddr, port: u16, at: (Instant, Instant)) -> Expected {
        if !setting.guards(port) {
            return Expected::Open;
        }
        match self.holder(setting, address, port) {
            None => Expected::Closed,
            Some((_, grant)) => state(grant, at),
        }
    }

    /// The time that the element for an address and port still has.
    pub(super) fn remaining(&self, setting: &Setting, address: IpAddr, port: u16, now: Instant) -> Option<Duration> {
        self.holder(setting, address, port).map(|(_, grant)| grant.ends.1.saturating_duration_since(now))
    }

    /// What is to be seen of the grant of a rule to an address in the daemon's own record.
    pub(super) fn recorded(&self, address: IpAddr, rule: &str, at: (Instant, Instant)) -> Expected {
        let grant = self.grants.iter().find(|((to, of), _)| *to == address && *of == rule);
        grant.map_or(Expected::Closed, |(_, grant)| state(*grant, at))
    }

    /// When the next grant is surely over.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.grants.values().map(|grant| grant.ends.1 + 2 * MARGIN).min()
    }

    /// Forgets what is over.
    pub(super) fn forget(&mut self, now: Instant) {
        self.grants.retain(|_, grant| grant.ends.1 + 2 * MARGIN > now);
    }

    /// How many grants are live.
    pub(super) fn len(&self) -> usize {
        self.grants.len()
    }
}

fn state(grant: Grant, (from, to): (Instant, Instant)) -> Expected {
    if to + MARGIN < grant.ends.0 {
        Expected::Open
    } else if grant.ends.1 + MARGIN < from {
        Expected::Closed
    } else {
        Expected::Either
    }
}
