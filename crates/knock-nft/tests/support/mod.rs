//! nft, to look into the namespace of a test with, and what tests put into the managed table.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use knock_nft::{Doors, Element, ElementKey, Error, ManagedTable, TableSpec};
use knock_proto::{Port, TableName};
use knock_testkit::wait_until;
use serde_json::Value;

/// Runs nft and returns whether it succeeded, and what it printed.
pub(crate) fn try_nft(arguments: &str) -> (bool, String) {
    let output = Command::new("nft").args(["-j", arguments]).stdin(Stdio::null()).output().expect("nft is installed");
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Runs nft, which has to succeed.
pub(crate) fn nft(arguments: &str) -> String {
    let (success, text) = try_nft(arguments);
    assert!(success, "nft {arguments}: {text}");
    text
}

/// What nft prints for people.
pub(crate) fn nft_text(arguments: &str) -> String {
    let output = Command::new("nft").arg(arguments).stdin(Stdio::null()).output().expect("nft is installed");
    assert!(output.status.success(), "nft {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The objects of a kind in nft's listing of the table `knockd`.
pub(crate) fn objects(kind: &str) -> Vec<Value> {
    let listing: Value = serde_json::from_str(&nft("list table inet knockd")).expect("JSON");
    let objects = listing["nftables"].as_array().expect("a list");
    objects.iter().filter_map(|object| object.get(kind).cloned()).collect()
}

/// The elements of a set of the table `knockd`.
pub(crate) fn elements(set: &str) -> Vec<Value> {
    let sets = objects("set");
    let set = sets.iter().find(|object| object["name"] == set).expect("the set");
    set["elem"].as_array().cloned().unwrap_or_default()
}

/// A table that guards TCP 22.
pub(crate) fn spec() -> TableSpec {
    TableSpec {
        name: TableName::default(),
        guarded: vec![Port::tcp(22).into()],
        grants: Vec::new(),
        exempt_interfaces: vec!["lo".parse().expect("a name")],
        owner: false,
        doors: Doors::default(),
    }
}

/// The managed table, newly made.
pub(crate) fn made(spec: TableSpec) -> ManagedTable {
    let (table, adopted) = ManagedTable::set_up(spec).expect("set up");
    assert_eq!(adopted, []);
    table
}

/// The table and its grants, set up after the socket of another owner was closed. A program that a test beside this one starts
/// has a copy of the socket until it has called execve(2), and the kernel has the owner until then.
pub(crate) fn set_up_after_another(spec: &TableSpec) -> (ManagedTable, Vec<Element>) {
    wait_until("the table is free", || match ManagedTable::set_up(spec.clone()) {
        Err(Error::Owned { .. }) => None,
        result => Some(result.expect("set up")),
    })
}

/// The key of a grant of TCP 22.
pub(crate) fn key(address: &str) -> ElementKey {
    ElementKey { prefix: address.parse::<IpAddr>().expect("an address").into(), access: Port::tcp(22).into() }
}

/// A grant of TCP 22 by the rule `ssh`.
pub(crate) fn element(address: &str, timeout: Duration) -> Element {
    Element { key: key(address), comment: "ssh".to_owned(), timeout, remaining: timeout }
}

/// Grants of TCP 22 to that many addresses.
pub(crate) fn many(count: u32, timeout: Duration) -> Vec<Element> {
    (0..count)
        .map(|index| {
            let address = IpAddr::from((0x0a00_0000 + index).to_be_bytes());
            let key = ElementKey { prefix: address.into(), access: Port::tcp(22).into() };
            Element { key, comment: "ssh".to_owned(), timeout, remaining: timeout }
        })
        .collect()
}

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
