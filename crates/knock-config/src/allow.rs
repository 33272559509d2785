//! `allow`: the guarded ports or the user sets of a rule.

use std::collections::HashSet;
use std::time::Duration;

use knock_proto::{Family, Port, SetName};

use crate::checker::Checker;
use crate::duration::{SECOND, duration};
use crate::model::Allow;
use crate::path::FieldPath;
use crate::port::port;
use crate::problem::Cause;
use crate::raw::{RawAllow, RawKnock};
use crate::validate::parsed;

/// Checks the `allow` at `path`; `None` after a reported problem.
pub(crate) fn allow(raw: &RawAllow, path: &FieldPath, checker: &mut Checker<'_>) -> Option<Allow> {
    let timeout = timeout(raw, path, checker);
    match (&raw.ports, &raw.set, &raw.set6) {
        (None, None, None) => {
            checker.report(path, Cause::AllowEmpty);
            None
        }
        (Some(ports), None, None) => {
            let ports = guarded_ports(ports, &path.key("ports"), checker);
            Some(Allow::Ports { ports, timeout: timeout? })
        }
        (None, v4, v6) => {
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

fn timeout(raw: &RawAllow, path: &FieldPath, checker: &mut Checker<'_>) -> Option<Duration> {
    match &raw.timeout {
        Some(timeout) => duration(&timeout.0, SECOND).map_err(|cause| checker.report(&path.key("timeout"), cause)).ok(),
        None => {
            checker.report(path, Cause::AllowTimeoutMissing);
            None
        }
    }
}

fn guarded_ports(raw: &[RawKnock], path: &FieldPath, checker: &mut Checker<'_>) -> Vec<Port> {
    if raw.is_empty() {
        checker.report(path, Cause::PortsEmpty);
    }
    let mut seen = HashSet::new();
    let mut ports = Vec::new();
    for (index, value) in raw.iter().enumerate() {
        match port(&value.0) {
            Ok(port) if seen.insert(port) => ports.push(port),
            Ok(port) => checker.report(&path.index(index), Cause::PortTwice { port }),
            Err(cause) => checker.report(&path.index(index), cause),
        }
    }
    ports
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
