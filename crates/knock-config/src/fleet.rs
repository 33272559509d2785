//! `fleet`: the nodes that share their grants, and the store that they share them through.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use knock_fleet::{NodeId, NodePublicKey};
use knock_proto::RuleId;
use knock_spa::{Realm, RuleName};

use crate::checker::Checker;
use crate::excerpt::excerpt;
use crate::fleet_cause::FleetCause;
use crate::model::{Fleet, FleetNode, FleetTls};
use crate::nearest::nearest;
use crate::path::FieldPath;
use crate::problem::Cause;
use crate::raw::{RawFleet, RawFleetNode, RawRule};
use crate::rules::is_name;
use crate::value::absolute_path;

/// The most servers of a fleet's store, in each of the two lists.
pub const FLEET_SERVERS_MAX: usize = 8;
/// The most nodes of a fleet.
pub const FLEET_NODES_MAX: usize = 10_000;
/// The default file of the node's key.
pub const NODE_KEY: &str = "/etc/knockd/node.key";

/// The rules of the file, and which of them have grants.
pub(crate) struct Grants {
    /// Whether the rule of that name has an `allow`; `None`: the file has no list of rules, which is an error of its own.
    by_name: Option<HashMap<String, bool>>,
    /// The rules with `allow`, in the order of the file.
    rules: Vec<RuleId>,
}

impl Grants {
    /// Of two rules with one name, which is an error, the first counts.
    pub(crate) fn of(rules: Option<&Vec<RawRule>>) -> Grants {
        let by_name = rules.map(|rules| {
            let mut by_name = HashMap::new();
            for rule in rules {
                if let Some(name) = &rule.name {
                    by_name.entry(name.clone()).or_insert(rule.allow.is_some());
                }
            }
            by_name
        });
        let granting = rules.into_iter().flatten().filter(|rule| rule.allow.is_some());
        Grants { by_name, rules: granting.filter_map(|rule| rule.name.as_deref()).map(RuleId::from).collect() }
    }

    /// The rules of the list at `path`, in its order; each has grants.
    fn list(&self, raw: Vec<String>, path: &FieldPath, checker: &mut Checker<'_>) -> Vec<RuleName> {
        let Some(by_name) = &self.by_name else { return Vec::new() };
        let mut seen = HashSet::new();
        let mut rules = Vec::new();
        for (index, name) in raw.into_iter().enumerate() {
            let grants = by_name.get(&name);
            if grants == Some(&true) && !seen.contains(&name) {
                // An invalid name is an error of the rule.
                rules.extend(name.parse::<RuleName>());
                seen.insert(name);
                continue;
            }
            let cause = || match grants {
                Some(true) => FleetCause::RuleTwice { name: excerpt(&name) },
                Some(false) => FleetCause::RuleWithoutAllow { name: excerpt(&name) },
                None => {
                    let suggestion = nearest(&name, self.rules.iter().map(RuleId::as_str)).map(excerpt);
                    FleetCause::RuleUnknown { name: excerpt(&name), suggestion }
                }
            };
            checker.report_with(&path.index(index), || cause().into());
        }
        rules
    }
}

/// Checks the `fleet` at `path`; `None` after a reported problem.
pub(crate) fn fleet(raw: RawFleet, grants: &Grants, path: &FieldPath, checker: &mut Checker<'_>) -> Option<Fleet> {
    let realm = required(raw.realm, "realm", path, checker).and_then(|text| {
        let realm = text.parse::<Realm>();
        realm.map_err(|error| checker.report(&path.key("realm"), Cause::Realm(error))).ok()
    });
    let servers = required(raw.servers, "servers", path, checker).map(|list| {
        let path = path.key("servers");
        if list.is_empty() {
            checker.report(&path, Cause::ListLength { count: 0, max: FLEET_SERVERS_MAX });
        }
        server_list(list, &path, checker)
    });
    let read_from = server_list(raw.read_from.unwrap_or_default(), &path.key("read_from"), checker);
    let mut file = |file: Option<String>, path: FieldPath| file.map(|file| absolute_path(file, &path, checker));
    let tls = raw.tls.map(|tls| FleetTls { ca: file(tls.ca, path.key("tls").key("ca")) });
    let password_file = file(raw.password_file, path.key("password_file"));
    let node_key = file(raw.node_key, path.key("node_key")).unwrap_or_else(|| PathBuf::from(NODE_KEY));
    if let Some(user) = &raw.user {
        check_user(user, password_file.is_some(), &path.key("user"), checker);
    }
    let nodes =
        required(raw.nodes, "nodes", path, checker).map(|list| nodes(list, grants, &path.key("nodes"), checker));
    let publish = match raw.publish {
        Some(list) => {
            let rules = grants.list(list, &path.key("publish"), checker);
            rules.iter().map(|rule| RuleId::from(rule.as_str())).collect()
        }
        None => grants.rules.clone(),
    };
    Some(Fleet {
        realm: realm?,
        servers: servers?,
        read_from,
        tls,
        user: raw.user,
        password_file,
        node_key,
        nodes: nodes?,
        publish,
        on_outage: raw.on_outage.unwrap_or_default(),
    })
}

fn required<T>(value: Option<T>, key: &'static str, path: &FieldPath, checker: &mut Checker<'_>) -> Option<T> {
    if value.is_none() {
        checker.report(path, FleetCause::Missing { key }.into());
    }
    value
}

fn server_list(raw: Vec<String>, path: &FieldPath, checker: &mut Checker<'_>) -> Vec<String> {
    if raw.len() > FLEET_SERVERS_MAX {
        checker.report(path, Cause::ListLength { count: raw.len(), max: FLEET_SERVERS_MAX });
        return Vec::new();
    }
    for (index, server) in raw.iter().enumerate() {
        let cause = match check_server(server) {
            Err(cause) => cause,
            Ok(()) if raw[..index].contains(server) => FleetCause::ServerTwice { server: server.clone() },
            Ok(()) => continue,
        };
        checker.report(&path.index(index), cause.into());
    }
    raw
}

/// Checks a host and a port: `name:6379`, `192.0.2.1:6379` or `[2001:db8::1]:6379`.
fn check_server(text: &str) -> Result<(), FleetCause> {
    // A URL can hold a password, so no message shows it.
    if text.contains("://") || text.contains('@') {
        return Err(FleetCause::ServerUrl);
    }
    let valid = text.rsplit_once(':').is_some_and(|(host, port)| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        digits && port.parse::<u16>().is_ok_and(|port| port > 0) && is_host(host)
    });
    if valid { Ok(()) } else { Err(FleetCause::Server { value: format!("\"{}\"", excerpt(text)) }) }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    // A name whose last part is a number is an address (RFC 3696, section 2), perhaps a mistyped one.
    let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if host.rsplit('.').next().is_some_and(number) {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    let character = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    host.len() <= 253 && !host.starts_with(['-', '.']) && host.bytes().all(character)
}

fn check_user(user: &str, has_password: bool, path: &FieldPath, checker: &mut Checker<'_>) {
    if user.is_empty() || user.contains(|c: char| c.is_whitespace() || c.is_control()) {
        checker.report(path, FleetCause::User { value: format!("\"{}\"", excerpt(user)) }.into());
    } else if !has_password {
        let why = "the file of the user's password";
        checker.report(path, Cause::Needs { key: "user", needs: "password_file", why });
    }
}

fn nodes(raw: Vec<RawFleetNode>, grants: &Grants, path: &FieldPath, checker: &mut Checker<'_>) -> Vec<FleetNode> {
    if raw.is_empty() || raw.len() > FLEET_NODES_MAX {
        checker.report(path, Cause::ListLength { count: raw.len(), max: FLEET_NODES_MAX });
        return Vec::new();
    }
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut keys: HashMap<NodeId, usize> = HashMap::new();
    let mut nodes = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let path = path.index(index);
        let Some((name, key, vouch)) = node(raw, grants, &path, checker) else { continue };
        if let Some(&first) = names.get(&name) {
            checker.report(&path.key("name"), FleetCause::NodeNameTaken { name: excerpt(&name), first }.into());
        }
        if let Some(&first) = keys.get(&key.id()) {
            checker.report(&path.key("key"), FleetCause::NodeKeyTaken { first }.into());
        }
        keys.entry(key.id()).or_insert(index);
        nodes.push(FleetNode { name: name.as_str().into(), key, vouch: vouch.into_iter().collect() });
        names.entry(name).or_insert(index);
    }
    nodes
}

fn node(
    raw: RawFleetNode,
    grants: &Grants,
    path: &FieldPath,
    checker: &mut Checker<'_>,
) -> Option<(String, NodePublicKey, Vec<RuleName>)> {
    for (key, value) in [("name", &raw.name), ("key", &raw.key)] {
        if value.is_none() {
            checker.report(path, FleetCause::NodeIncomplete { key }.into());
        }
    }
    if let Some(name) = raw.name.as_ref().filter(|name| !is_name(name)) {
        let cause = FleetCause::NodeName { name: format!("\"{}\"", excerpt(name)) };
        checker.report(&path.key("name"), cause.into());
    }
    let key = raw.key.and_then(|text| {
        let key = text.parse::<NodePublicKey>();
        key.map_err(|error| checker.report(&path.key("key"), FleetCause::NodeKey(error).into())).ok()
    });
    let vouch = grants.list(raw.vouch.unwrap_or_default(), &path.key("vouch"), checker);
    Some((raw.name?, key?, vouch))
}
