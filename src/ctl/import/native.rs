//! Replaces commands that open and close the firewall by `allow` and `revoke`, or notes the replacement.

use std::collections::HashMap;
use std::time::Duration;

use knock_proto::{Family, SetName};
use serde_json::{Value, json};

use super::findings::Findings;
use super::firewall::{Act, Effect, Opening, effect_of};
use super::json::{inline, ports};
use super::rule::{Commands, Rule, duration};

/// The duration of a grant in place of a rule that stayed open until another rule closed it.
const OPEN_ENDED: &str = "1h";
/// The shortest grant.
const SECOND: Duration = Duration::from_secs(1);

/// What the commands of a rule do for IPv4 and IPv6 sources; `None`: nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Change {
    v4: Option<Opening>,
    v6: Option<Opening>,
}

/// A change, what it does to it, and how long it stays.
struct Known {
    act: Act,
    change: Change,
    expires: Option<Duration>,
    limit: Option<String>,
}

/// A replacement of the commands of a rule.
enum Replacement {
    Allow {
        allow: Value,
        open_ended: bool,
        limit: Option<String>,
    },
    /// The rule with this index is revoked.
    Revoke(usize),
}

/// Notes each possible replacement. With `native`, makes it, and notes why a rule keeps its commands.
pub(super) fn replace(rules: &mut [Rule], native: bool, findings: &mut Findings) {
    let starts: Vec<Result<Known, String>> = rules.iter().map(|rule| known(&rule.start)).collect();
    let mut closing: HashMap<&Change, Vec<usize>> = HashMap::new();
    for (index, start) in starts.iter().enumerate() {
        if let Ok(Known { act: Act::Close, change, .. }) = start
            && rules[index].stop.is_empty()
        {
            closing.entry(change).or_default().push(index);
        }
    }
    let mut outcomes: Vec<Result<Replacement, String>> = Vec::new();
    for (rule, start) in rules.iter().zip(&starts) {
        outcomes.push(match start {
            Ok(opens) if opens.act == Act::Open => opened(rule, opens, closing.contains_key(&opens.change)),
            Ok(Known { act: Act::Close, .. }) if rule.stop.is_empty() => {
                Err("no rule with `allow` opens what it closes".to_owned())
            }
            Ok(Known { act: Act::Close, .. }) => Err("it closes something first and opens it later".to_owned()),
            Ok(Known { act: Act::Guard, .. }) => {
                Err("it closes ports for everybody, which no rule of knockd does".to_owned())
            }
            Ok(_) => Err("it opens ports for everybody, which no grant does".to_owned()),
            Err(reason) => Err(reason.clone()),
        });
    }
    for index in 0..outcomes.len() {
        let (Ok(Replacement::Allow { .. }), Ok(opens)) = (&outcomes[index], &starts[index]) else { continue };
        for closer in closing.get(&opens.change).into_iter().flatten() {
            if outcomes[*closer].is_err() {
                outcomes[*closer] = Ok(Replacement::Revoke(index));
            }
        }
    }
    let names: Vec<String> = rules.iter().map(|rule| rule.name.clone()).collect();
    for (rule, outcome) in rules.iter_mut().zip(outcomes) {
        match outcome {
            Ok(Replacement::Allow { allow, open_ended, limit }) => {
                note_allow(rule, &allow, open_ended, limit, native, findings);
                if native {
                    omit_setup(rule, &allow, findings);
                    rule.allow = Some(allow);
                }
            }
            Ok(Replacement::Revoke(opener)) => {
                let replaces = if native { "replaces" } else { "can replace" };
                let name = &names[opener];
                let text = format!("\"revoke\": \"{name}\" {replaces} the command: it revokes the grant of that rule");
                findings.note(rule.line, text);
                if native {
                    rule.revoke = Some(name.clone());
                }
            }
            Err(reason) if native && !rule.start.is_empty() => {
                findings.note(rule.line, format!("rule `{}` keeps its command: {reason}", rule.name));
            }
            Err(_) => {}
        }
    }
}

/// The replacement of a rule that opens, which another rule may close.
fn opened(rule: &Rule, opens: &Known, closed: bool) -> Result<Replacement, String> {
    let timeout = if rule.stop.is_empty() {
        opens.expires
    } else {
        let stop = known(&rule.stop).map_err(|reason| format!("its stop command cannot be replaced: {reason}"))?;
        if stop.act != Act::Close || stop.change != opens.change {
            return Err("its stop command closes something else than the command opens".to_owned());
        }
        Some(opens.expires.map_or(rule.stop_after, |expires| expires.min(rule.stop_after)))
    };
    if timeout.is_none() && !closed {
        return Err(
            "no stop command and no other rule closes what it opens, so there is no `timeout` for a grant".to_owned()
        );
    }
    let allow = allow(&opens.change, timeout.map_or(json!(OPEN_ENDED), |timeout| duration(timeout.max(SECOND))))?;
    Ok(Replacement::Allow { allow, open_ended: timeout.is_none(), limit: opens.limit.clone() })
}

/// The effect of both commands, if both are known and have the same kind of effect.
fn known(commands: &Commands) -> Result<Known, String> {
    let effect = |command: &Option<String>| command.as_deref().map(effect_of).transpose();
    let opening = |effect: &Option<Effect>| effect.as_ref().map(|effect| effect.opening.clone());
    let v4 = effect(&commands.v4)?;
    let v6 = effect(&commands.v6)?;
    let change = Change { v4: opening(&v4), v6: opening(&v6) };
    let one = v4.clone().or_else(|| v6.clone()).ok_or("it has no command")?;
    let other = v6.or(v4).unwrap_or_else(|| one.clone());
    if one.act != other.act {
        return Err("its commands for IPv4 and for IPv6 sources do different things".to_owned());
    }
    Ok(Known { act: one.act, change, expires: one.expires.max(other.expires), limit: one.limit.or(other.limit) })
}

fn allow(change: &Change, timeout: Value) -> Result<Value, String> {
    let family = |set: &String| set.parse::<SetName>().ok().map(|name| name.family());
    match (&change.v4, &change.v6) {
        (Some(Opening::Ports(opened)), Some(Opening::Ports(opened6))) if opened == opened6 => {
            let ports: Vec<Value> = opened.iter().copied().map(ports).collect();
            Ok(json!({"ports": ports, "timeout": timeout}))
        }
        // One command for both IP versions worked for one of them: for that of the table, else for IPv4.
        (Some(Opening::Set(set)), Some(Opening::Set(set6))) if set == set6 => {
            let key = if family(set) == Some(Family::Ip6) { "set6" } else { "set" };
            Ok(json!({key: set, "timeout": timeout}))
        }
        (Some(Opening::Set(set)), _) if family(set) == Some(Family::Ip6) => {
            Err("its command for IPv4 sources names a set in an IPv6 table".to_owned())
        }
        (_, Some(Opening::Set(set))) if family(set) == Some(Family::Ip) => {
            Err("its command for IPv6 sources names a set in an IPv4 table".to_owned())
        }
        (Some(Opening::Set(set)), Some(Opening::Set(set6))) => {
            Ok(json!({"set": set, "set6": set6, "timeout": timeout}))
        }
        (Some(Opening::Set(set)), None) => Ok(json!({"set": set, "timeout": timeout})),
        (None, Some(Opening::Set(set6))) => Ok(json!({"set6": set6, "timeout": timeout})),
        (None, _) => Err("it does nothing for IPv4 sources, but a grant of ports is for both IP versions".to_owned()),
        (_, None) => Err("it does nothing for IPv6 sources, but a grant of ports is for both IP versions".to_owned()),
        _ => Err("its commands for IPv4 and for IPv6 sources open different things".to_owned()),
    }
}

/// Omits `setup` and `teardown` that close and open the ports, which the managed table does now.
fn omit_setup(rule: &mut Rule, allow: &Value, findings: &mut Findings) {
    let guards = |command: &Option<String>, act: Act| {
        let effect = command.as_deref().map(effect_of)?.ok().filter(|effect| effect.act == act)?;
        let Opening::Ports(closed) = effect.opening else { return None };
        let guarded = allow.get("ports")?.as_array()?;
        closed.into_iter().all(|closed| guarded.contains(&ports(closed))).then_some(())
    };
    if rule.setup.is_some() && guards(&rule.setup, Act::Guard).is_some() {
        rule.setup = None;
        if guards(&rule.teardown, Act::Unguard).is_some() {
            rule.teardown = None;
        }
        findings.note(
            rule.line,
            "`setup` and `teardown` that close and open the ports are omitted: the managed table guards them",
        );
    }
}

fn note_allow(
    rule: &Rule,
    allow: &Value,
    open_ended: bool,
    limit: Option<String>,
    native: bool,
    findings: &mut Findings,
) {
    let shown = inline(allow);
    let commands = if rule.stop.is_empty() { "the command" } else { "the start and stop commands" };
    let mut text = if native {
        format!("\"allow\": {shown} replaces {commands}")
    } else {
        format!("\"allow\": {shown} can replace {commands}: it runs no shell, and its grant always expires")
    };
    if open_ended {
        text.push_str(&format!(
            "; without an end the port stayed open until another rule closed it, a grant expires after {OPEN_ENDED}"
        ));
    }
    if let Some(limit) = limit {
        text.push_str(&format!("; the grant is for all interfaces, the command was for `{limit}`"));
    }
    text.push_str(match allow.get("ports") {
        Some(_) => {
            "; it is for IPv4 and IPv6 sources, and the managed table drops packets of strangers to the ports: delete a \
             firewall rule or policy of your own that drops them, or use a user set"
        }
        None => "; the user set must have the timeout flag",
    });
    findings.note(rule.line, text);
}
