//! What `nft` shows of the kernel's tables.

use std::collections::HashMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use knock_testkit::Host;
use serde_json::Value;

/// An element of one of the sets of grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    /// The address that has the grant.
    pub(crate) address: IpAddr,
    /// The protocol and the port that it is for.
    pub(crate) service: (String, u16),
    /// How long the grant is from its start; `None`: it never ends.
    pub(crate) timeout: Option<Duration>,
    /// How long it still is, to the second, rounded down.
    pub(crate) expires: Option<Duration>,
    /// The name of its rule.
    pub(crate) comment: Option<String>,
}

/// The elements of set `set` of table `inet knockd`; none where there is no such table.
pub(crate) fn elements(server: &Host, set: &str) -> Vec<Element> {
    elements_of(server, "knockd", set)
}

/// The same, of a table of another name.
pub(crate) fn elements_of(server: &Host, table: &str, set: &str) -> Vec<Element> {
    let listing = list(server, &["set", "inet", table, set]);
    let objects = listing.as_ref().and_then(|listing| listing["nftables"].as_array());
    let found = objects.into_iter().flatten().find_map(|object| object["set"]["elem"].as_array());
    found.into_iter().flatten().map(parse).collect()
}

/// The element of that address and that service (`("tcp", 22)`), in the set for its family.
pub(crate) fn element(server: &Host, address: IpAddr, service: (&str, u16)) -> Option<Element> {
    let set = if address.is_ipv4() { "grants4" } else { "grants6" };
    let wanted = |element: &Element| element.address == address && element.service == (service.0.to_owned(), service.1);
    let mut found = elements(server, set).into_iter().filter(wanted);
    let first = found.next();
    assert_eq!(found.next(), None, "one element for {address} and {service:?}");
    first
}

/// The elements of a user set (`inet filter knock4`), and for how long still, to the second; `None` where
/// there is no such set.
pub(crate) fn user_set(server: &Host, set: &str) -> Option<HashMap<IpAddr, Duration>> {
    let words: Vec<&str> = std::iter::once("set").chain(set.split_whitespace()).collect();
    let listing = list(server, &words)?;
    let objects = listing["nftables"].as_array().into_iter().flatten();
    let found = objects.filter_map(|object| object["set"]["elem"].as_array()).flatten();
    let element = |value: &Value| {
        let fields = &value["elem"];
        let address = fields["val"].as_str().and_then(|text| text.parse().ok());
        let expires = fields["expires"].as_u64().map(Duration::from_secs);
        address.zip(expires).unwrap_or_else(|| panic!("an address with a timeout in {value}"))
    };
    Some(found.map(element).collect())
}

/// The tables, chains, rules, sets and elements that there are, without what changes by itself.
pub(crate) fn ruleset(server: &Host) -> String {
    let mut command = Command::new("nft");
    server.namespace.output(command.args(["--stateless", "list", "ruleset"]), "").expect("nft lists")
}

/// Whether there is a table of that name in family inet.
///
/// Not asked for in JSON: nft 1.0.6 does not know the flag that an owned table keeps without its owner, and what it prints
/// for it then is no JSON.
pub(crate) fn table_exists(server: &Host, table: &str) -> bool {
    nft(server, &["list", "table", "inet", table]).is_some()
}

/// What `nft -j list …` shows of sets; `None` where there is no such set.
fn list(server: &Host, what: &[&str]) -> Option<Value> {
    let shown = nft(server, &[&["-j", "list"], what].concat())?;
    Some(serde_json::from_slice(&shown).expect("nft prints JSON"))
}

/// What nft prints; `None` where it finds no such thing.
fn nft(server: &Host, arguments: &[&str]) -> Option<Vec<u8>> {
    let mut command = Command::new("nft");
    command.args(arguments);
    let output = server.namespace.run(|| command.output()).expect("the server's namespace");
    let output = output.unwrap_or_else(|error| panic!("nft (package nftables): {error}"));
    if output.status.success() {
        return Some(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("No such file or directory"), "{command:?}: {stderr}");
    None
}

/// `{"elem": {"val": {"concat": ["10.77.0.2", "tcp", 22]}, "timeout": 60, "expires": 59, "comment": "ssh"}}`.
fn parse(value: &Value) -> Element {
    let (fields, key) = match value.get("elem") {
        Some(fields) => (fields, &fields["val"]),
        None => (value, value),
    };
    let key = key["concat"].as_array().unwrap_or_else(|| panic!("a concatenated key in {value}"));
    let text = |index: usize| key[index].as_str().unwrap_or_else(|| panic!("text in {value}"));
    let seconds = |name: &str| fields[name].as_u64().map(Duration::from_secs);
    Element {
        address: text(0).parse().unwrap_or_else(|error| panic!("{value}: {error}")),
        service: (text(1).to_owned(), key[2].as_u64().and_then(|port| port.try_into().ok()).expect("a port")),
        timeout: seconds("timeout"),
        expires: seconds("expires"),
        comment: fields["comment"].as_str().map(str::to_owned),
    }
}
