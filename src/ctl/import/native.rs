//! Replaces commands that open and close the firewall by `allow` and `revoke`, or notes the replacement.

use knock_proto::{Family, SetName};
use serde_json::{Value, json};

use super::Findings;
use super::door::{Commands, Door};
use super::firewall::{Act, Opening, recognise};
use super::json::{inline, port};

/// The duration of a grant in place of a door of knock that stayed open until another door closed it.
const OPEN_ENDED: &str = "1h";

/// The effect of the commands of a door on the firewall, for IPv4 and IPv6 sources.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Effect {
    v4: Opening,
    v6: Opening,
}

/// Notes each possible replacement, and with `native` makes it.
pub(super) fn replace(doors: &mut [Door], native: bool, findings: &mut Findings) {
    let starts: Vec<_> = doors.iter().map(|door| effect(&door.start)).collect();
    let stops: Vec<_> = doors.iter().map(|door| effect(&door.stop)).collect();
    let mut allows: Vec<Option<Value>> = vec![None; doors.len()];
    let mut closers: Vec<(usize, usize)> = Vec::new();
    for (index, start) in starts.iter().enumerate() {
        let Some((Act::Open, opened)) = start else { continue };
        let closes = |other: usize| {
            starts[other] == Some((Act::Close, opened.clone())) && doors[other].stop == Commands::default()
        };
        let closed_by: Vec<usize> = (0..doors.len()).filter(|other| closes(*other)).collect();
        let timeout = match &stops[index] {
            Some((Act::Close, closed)) if closed == opened => json!(doors[index].stop_after),
            None if doors[index].stop == Commands::default() && !closed_by.is_empty() => json!(OPEN_ENDED),
            _ => continue,
        };
        if let Some(allow) = allow(opened, timeout) {
            allows[index] = Some(allow);
            closers.extend(closed_by.into_iter().map(|closer| (closer, index)));
        }
    }
    for (index, allow) in allows.into_iter().enumerate() {
        let Some(allow) = allow else { continue };
        let timed = doors[index].stop != Commands::default();
        note_allow(&doors[index], &allow, timed, native, findings);
        if native {
            doors[index].allow = Some(allow);
        }
    }
    for (closer, opener) in closers {
        let name = doors[opener].name.clone();
        if doors[closer].revoke.is_some() {
            continue;
        }
        let replaces = if native { "replaces" } else { "can replace" };
        let text = format!("\"revoke\": \"{name}\" {replaces} the command: it revokes the grant of that rule");
        findings.note(doors[closer].line, text);
        if native {
            doors[closer].revoke = Some(name);
        }
    }
}

/// The effect of both commands, if both are known and have the same kind of effect.
fn effect(commands: &Commands) -> Option<(Act, Effect)> {
    let (act, v4) = recognise(commands.v4.as_deref()?)?;
    let (act6, v6) = recognise(commands.v6.as_deref()?)?;
    (act == act6).then_some((act, Effect { v4, v6 }))
}

fn allow(effect: &Effect, timeout: Value) -> Option<Value> {
    match (&effect.v4, &effect.v6) {
        (Opening::Ports(ports), Opening::Ports(ports6)) if ports == ports6 => {
            let ports: Vec<Value> = ports.iter().map(|opened| port(opened.protocol, opened.number)).collect();
            Some(json!({"ports": ports, "timeout": timeout}))
        }
        (Opening::Set(set), Opening::Set(set6)) if set == set6 => match set.parse::<SetName>().ok()?.family() {
            // One command for both IP versions worked for one of them: for that of the table, else for IPv4.
            Family::Ip6 => Some(json!({"set6": set, "timeout": timeout})),
            _ => Some(json!({"set": set, "timeout": timeout})),
        },
        (Opening::Set(set), Opening::Set(set6)) => {
            let wrong = set.parse::<SetName>().ok()?.family() == Family::Ip6
                || set6.parse::<SetName>().ok()?.family() == Family::Ip;
            (!wrong).then(|| json!({"set": set, "set6": set6, "timeout": timeout}))
        }
        _ => None,
    }
}

fn note_allow(door: &Door, allow: &Value, timed: bool, native: bool, findings: &mut Findings) {
    let shown = inline(allow);
    let commands = if timed { "the start and stop commands" } else { "the command" };
    let mut text = if native {
        format!("\"allow\": {shown} replaces {commands}")
    } else {
        format!("\"allow\": {shown} can replace {commands}: it runs no shell, and its grant always expires")
    };
    if !timed {
        text.push_str(&format!(
            "; a door of knock stayed open until another door closed it, a grant expires after {OPEN_ENDED}"
        ));
    }
    text.push_str(match allow.get("ports") {
        Some(_) => {
            "; it is for IPv4 and IPv6 sources, and the managed table drops packets of strangers to the ports: delete a firewall rule or policy \
             of your own that drops them, or use a user set"
        }
        None => "; the user set must have the timeout flag",
    });
    findings.note(door.line, text);
}
