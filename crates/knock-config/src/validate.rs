//! From the raw configuration to a valid one that needs no further check.
//!
//! Each function reports a problem and continues with a placeholder, so that one run finds every problem. The result
//! is used only if no problem was reported.

use std::collections::HashSet;
use std::time::Duration;

use knock_proto::InterfaceName;
use serde_json::Value;

use crate::checker::Checker;
use crate::duration::MILLISECOND;
use crate::excerpt::excerpt;
use crate::fleet::{Grants, fleet};
use crate::model::{Config, Interfaces, Limits, Log, Nftables};
use crate::path::FieldPath;
use crate::problem::Cause;
use crate::raw::{RawConfig, RawCount, RawLimits, RawLog, RawLogLevel, RawNftables};
use crate::rules;
use crate::spa::spa;
use crate::value::{absolute_path, count, optional_duration, parsed};

/// The default time for a sequence.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest path of a socket: sun_path of unix(7) without its final NUL.
const SOCKET_PATH_MAX: usize = 107;

/// The whole configuration.
pub(crate) fn config(raw: RawConfig, checker: &mut Checker<'_>) -> Config {
    let top = FieldPath::default();
    let interfaces = match raw.interface {
        Some(interface) => interfaces(&interface.0, &top.key("interface"), checker),
        None => Interfaces::Any,
    };
    let timeout = optional_duration(raw.timeout.as_ref(), MILLISECOND, &top.key("timeout"), checker).unwrap_or(TIMEOUT);
    let control_socket = raw.control_socket.map(|path| absolute_path(path, &top.key("control_socket"), checker));
    if let Some(length) = control_socket.as_ref().map(|path| path.as_os_str().len())
        && length > SOCKET_PATH_MAX
    {
        checker.report(&top.key("control_socket"), Cause::SocketPathTooLong { length });
    }
    let has_spa = raw.spa.is_some();
    let grants = Grants::of(raw.rules.as_ref());
    Config {
        interfaces,
        timeout,
        rules: rules::rules(raw.rules, timeout, has_spa, checker),
        spa: raw.spa.and_then(|raw| spa(raw, &top.key("spa"), checker)),
        fleet: raw.fleet.and_then(|raw| fleet(raw, &grants, &top.key("fleet"), checker)),
        nftables: nftables(raw.nftables.unwrap_or_default(), &top.key("nftables"), checker),
        tripwires: raw.tripwires.unwrap_or(true),
        limits: limits(&raw.limits.unwrap_or_default(), &top.key("limits"), checker),
        control_socket,
        state_dir: raw.state_dir.map(|path| absolute_path(path, &top.key("state_dir"), checker)),
        log: log(&raw.log.unwrap_or_default()),
    }
}

fn interfaces(value: &Value, path: &FieldPath, checker: &mut Checker<'_>) -> Interfaces {
    let mut named = Vec::new();
    match value {
        Value::String(name) if name == "any" => return Interfaces::Any,
        Value::String(name) => named.extend(parsed(name, path, checker)),
        Value::Array(items) if items.is_empty() => checker.report(path, Cause::InterfacesEmpty),
        Value::Array(items) => {
            let mut names = Vec::new();
            for (index, item) in items.iter().enumerate() {
                match item.as_str() {
                    Some("any") => checker.report(&path.index(index), Cause::InterfaceAnyInList),
                    Some(name) => names.push(name),
                    None => {
                        checker.report(&path.index(index), Cause::InterfaceType { value: excerpt(&item.to_string()) });
                        return Interfaces::Any;
                    }
                }
            }
            named = interface_names(names, path, checker);
        }
        other => checker.report(path, Cause::InterfaceType { value: excerpt(&other.to_string()) }),
    }
    Interfaces::Named(named)
}

fn interface_names<'n>(
    names: impl IntoIterator<Item = &'n str>,
    path: &FieldPath,
    checker: &mut Checker<'_>,
) -> Vec<InterfaceName> {
    let mut seen = HashSet::new();
    let mut parsed_names = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        parsed_names.extend(parsed(name, &path.index(index), checker));
        if !seen.insert(name) {
            checker.report(&path.index(index), Cause::InterfaceTwice { name: excerpt(name) });
        }
    }
    parsed_names
}

fn nftables(raw: RawNftables, path: &FieldPath, checker: &mut Checker<'_>) -> Nftables {
    let table = raw.table.and_then(|table| parsed(&table, &path.key("table"), checker));
    let mut exempt = raw.exempt_interfaces.unwrap_or_else(|| vec!["lo".to_owned()]);
    let path_of_exempt = path.key("exempt_interfaces");
    let every = |name: &String| ["any", "all", "*", "+"].iter().any(|every| name.eq_ignore_ascii_case(every));
    if let Some(index) = exempt.iter().position(every) {
        let cause = Cause::ExemptAll { value: format!("\"{}\"", exempt[index]) };
        checker.report(&path_of_exempt.index(index), cause);
        exempt.clear();
    }
    Nftables {
        table: table.unwrap_or_default(),
        on_stop: raw.on_stop.unwrap_or_default(),
        exempt_interfaces: interface_names(exempt.iter().map(String::as_str), &path_of_exempt, checker),
        owner: raw.owner.unwrap_or(true),
        last_knock: raw.last_knock.unwrap_or_default(),
    }
}

fn limits(raw: &RawLimits, path: &FieldPath, checker: &mut Checker<'_>) -> Limits {
    let mut limit = |key, raw: &Option<RawCount>, default, max| match raw {
        Some(RawCount(value)) => count(value, max).unwrap_or_else(|cause| {
            checker.report(&path.key(key), cause);
            default
        }),
        None => default,
    };
    Limits {
        sources: limit("sources", &raw.sources, 65_536, 1 << 20) as usize,
        grants: limit("grants", &raw.grants, 65_536, 1 << 20),
        commands: limit("commands", &raw.commands, 16, 1024) as usize,
        command_queue: limit("command_queue", &raw.command_queue, 256, 65_536) as usize,
    }
}

fn log(raw: &RawLog) -> Log {
    Log {
        target: raw.target,
        level: match raw.level {
            Some(RawLogLevel::Error) => log::LevelFilter::Error,
            Some(RawLogLevel::Warn) => log::LevelFilter::Warn,
            Some(RawLogLevel::Info) | None => log::LevelFilter::Info,
            Some(RawLogLevel::Debug) => log::LevelFilter::Debug,
            Some(RawLogLevel::Trace) => log::LevelFilter::Trace,
        },
    }
}
