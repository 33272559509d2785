//! `allow`: the guarded ports or the user sets of a rule.

use std::collections::HashSet;
use std::time::Duration;

use knock_proto::{Family, PortRange, SetName};
use serde_json::Value;

use crate::checker::Checker;
use crate::duration::{SECOND, duration};
use crate::excerpt::excerpt;
use crate::model::{Allow, Rule};
use crate::path::FieldPath;
use crate::port::ports;
use crate::problem::Cause;
use crate::raw::{RawAllow, RawCount};
use crate::value::parsed;

/// In a list of ports: every guarded port.
const ANY: &str = "any";
/// The most different ranges of ports. A packet to a guarded port is compared with each of them.
const RANGES_MAX: usize = 64;

/// Checks the `allow` at `path`; `None` after a reported problem.
pub(crate) fn allow(raw: &RawAllow, path: &FieldPath, checker: &mut Checker<'_>) -> Option<Allow> {
    let timeout = timeout(raw, path, checker);
    match (&raw.ports, &raw.set, &raw.set6) {
        (None, None, None) => {
            checker.report(path, Cause::AllowEmpty);
            None
        }
        (Some(ports), None, None) => {
            let (ports, any) = guarded_ports(&ports.0, &path.key("ports"), checker);
            let prefix4 = prefix("prefix4", raw.prefix4.as_ref(), 8, 32, path, checker);
            let prefix6 = prefix("prefix6", raw.prefix6.as_ref(), 16, 128, path, checker);
            Some(Allow::Ports { ports, any, prefix4, prefix6, timeout: timeout? })
        }
        (None, v4, v6) => {
            for (key, prefix) in [("prefix4", &raw.prefix4), ("prefix6", &raw.prefix6)] {
                if prefix.is_some() {
                    checker.report(&path.key(key), Cause::PrefixInSet { key });
                }
            }
            let v4 = v4.as_deref().and_then(|text| set(text, "set", Family::Ip6, path, checker));
            let v6 = v6.as_deref().and_then(|text| set(text, "set6", Family::Ip, path, checker));
            if v4.is_some() && v4 == v6 {
                checker.report(&path.key("set6"), Cause::SetTwice);
            }
            Some(Allow::Sets { v4, v6, timeout: timeout? })
        }
        (Some(_), _, _) => {
            checker.report(path, Cause::AllowTwice);
            None
        }
    }
}

/// The length of a prefix, from `min` to `max`, which means a whole address.
fn prefix(
    key: &'static str,
    raw: Option<&RawCount>,
    min: u8,
    max: u8,
    path: &FieldPath,
    checker: &mut Checker<'_>,
) -> u8 {
    let Some(RawCount(value)) = raw else { return max };
    let length = value.as_u64().and_then(|length| u8::try_from(length).ok());
    length.filter(|length| (min..=max).contains(length)).unwrap_or_else(|| {
        let value = excerpt(&value.to_string());
        checker.report(&path.key(key), Cause::Count { value, min: min.into(), max: max.into() });
        max
    })
}

fn timeout(raw: &RawAllow, path: &FieldPath, checker: &mut Checker<'_>) -> Option<Duration> {
    match &raw.timeout {
        Some(timeout) => duration(&timeout.0, SECOND).map_err(|cause| checker.report(&path.key("timeout"), cause)).ok(),
        None => {
            checker.report(path, Cause::AllowTimeoutMissing);
            None
        }
    }
}

/// The ports that the rule guards, and whether it opens every guarded port.
fn guarded_ports(raw: &Value, path: &FieldPath, checker: &mut Checker<'_>) -> (Vec<PortRange>, bool) {
    let items = match raw {
        Value::Array(items) => items.as_slice(),
        any if any == ANY => return (Vec::new(), true),
        other => {
            checker.report(path, Cause::PortsType { value: excerpt(&other.to_string()) });
            return (Vec::new(), false);
        }
    };
    if items.is_empty() {
        checker.report(path, Cause::PortsEmpty);
    }
    let mut found: Vec<(usize, PortRange)> = Vec::new();
    for (index, value) in items.iter().enumerate().filter(|(_, value)| *value != ANY) {
        match ports(value) {
            Ok(ports) => found.push((index, ports)),
            Err(cause) => checker.report(&path.index(index), cause),
        }
    }
    let mut seen = HashSet::new();
    let ranges: Vec<PortRange> =
        found.iter().map(|(_, ports)| *ports).filter(|ports| ports.single().is_none()).collect();
    for &(index, port) in &found {
        if !seen.insert(port) {
            checker.report(&path.index(index), Cause::PortTwice { port });
        } else if let Some(&range) = ranges.iter().find(|range| **range != port && range.contains(port)) {
            checker.report(&path.index(index), Cause::PortInRange { port, range });
        }
    }
    (found.into_iter().map(|(_, ports)| ports).collect(), items.iter().any(|value| value == ANY))
}

/// Checks what depends on the ports of all rules.
pub(crate) fn check_guarded(rules: &[Rule], checker: &mut Checker<'_>) {
    let mut ranges = HashSet::new();
    let mut opens_any = None;
    let mut guards = false;
    for (index, rule) in rules.iter().enumerate() {
        let Some(Allow::Ports { ports, any, .. }) = &rule.allow else { continue };
        let path = || FieldPath::default().key("rules").index(index).key("allow").key("ports");
        guards |= !ports.is_empty();
        if *any {
            opens_any = opens_any.or_else(|| Some(path()));
        }
        for range in ports.iter().filter(|range| range.single().is_none()) {
            if ranges.insert(*range) && ranges.len() == RANGES_MAX + 1 {
                checker.report(&path(), Cause::TooManyRanges { max: RANGES_MAX });
            }
        }
    }
    if let Some(path) = opens_any
        && !guards
    {
        checker.report(&path, Cause::AnyOfNothing);
    }
}

/// The set at `key`. A table of family `deaf` never sees a packet with addresses of its IP version.
fn set(text: &str, key: &'static str, deaf: Family, path: &FieldPath, checker: &mut Checker<'_>) -> Option<SetName> {
    let name: SetName = parsed(text, &path.key(key), checker)?;
    if name.family() == deaf {
        let version = if deaf == Family::Ip6 { "IPv4" } else { "IPv6" };
        checker.report(&path.key(key), Cause::SetVersion { key, family: deaf.name(), version });
        return None;
    }
    Some(name)
}
