//! Stray elements, and elements that outlast their grants. (What the clock of the record says and that of
//! the kernel does not is tested in `src/gate/tests.rs`, at times that the test chooses.)

use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;

use crate::support::{Daemon, element, elements, knock, network, user_set, wait_for_grant, wait_until, wire};

const SEQUENCE: [u16; 3] = [7000, 9000, 8000];

fn reports(daemon: &Daemon, address: &str) -> usize {
    let needle = format!("which belongs to no grant: {address},");
    daemon.log().lines().filter(|line| line.contains(&needle)).count()
}

#[test]
fn a_stray_in_a_watched_table_is_reported_once_and_deleted() {
    let network = network(1);
    let server = &network.server;
    let daemon = Daemon::start(
        server,
        json!({ "nftables": { "owner": false }, "rules": [
            { "name": "ssh", "sequence": SEQUENCE, "allow": { "ports": [22], "timeout": "1h" } }
        ] }),
    );
    let client = IpAddr::from(network.client().v4);
    knock(&wire(&network), client, &SEQUENCE);
    wait_for_grant(server, client, ("tcp", 22));
    let strays = "198.18.1.1 . tcp . 22, 198.18.1.2 . tcp . 22 timeout 1h comment \"ssh\"";
    server.namespace.nft(&format!("add element inet knockd grants4 {{ {strays} }}")).expect("anybody may");
    for address in ["198.18.1.1", "198.18.1.2"] {
        daemon.wait_for_log(&format!("which belongs to no grant: {address}, 22/tcp in table inet knockd"));
    }
    wait_until("the strays are gone", || elements(server, "grants4").len() == 1);
    // What comes later finds nothing more to report.
    server.namespace.nft("add element inet knockd grants4 { 198.18.1.3 . tcp . 22 }").expect("anybody may");
    daemon.wait_for_log("which belongs to no grant: 198.18.1.3,");
    for address in ["198.18.1.1", "198.18.1.2", "198.18.1.3"] {
        assert_eq!(reports(&daemon, address), 1, "{}", daemon.log());
    }
    assert!(element(server, client, ("tcp", 22)).is_some(), "what is granted stays");
}

#[test]
fn in_a_user_set_only_elements_with_the_name_of_a_rule_are_stray_and_no_element_outlasts_its_grant() {
    let network = network(1);
    let server = &network.server;
    let set = "inet filter knock4";
    server
        .namespace
        .nft("add table inet filter\nadd set inet filter knock4 { type ipv4_addr; flags timeout; }")
        .expect("a set");
    let daemon = Daemon::start(
        server,
        json!({ "rules": [{ "name": "ssh", "sequence": SEQUENCE, "allow": { "set": set, "timeout": "10s" } }] }),
    );
    let client = IpAddr::from(network.client().v4);
    let mark = daemon.log_mark();
    knock(&wire(&network), client, &SEQUENCE);
    let held =
        |address: &str| user_set(server, set).is_some_and(|all| all.contains_key(&address.parse().expect("one")));
    wait_until("it is granted", || held(&client.to_string()));
    server
        .namespace
        .nft(&format!(
            "delete element {set} {{ {client} }}
            add element {set} {{ {client} timeout 1h comment \"ssh\", 198.18.1.1 timeout 1h comment \"ssh\",
                198.18.1.2 timeout 1h comment \"office\", 198.18.1.3 timeout 1h }}"
        ))
        .expect("the administrator may");
    daemon.wait_for_log("which belongs to no grant: 198.18.1.1, set inet filter knock4");
    daemon.wait_for_log_after(mark, &format!("the grant to {client} has ended"));
    assert!(!held(&client.to_string()), "what the log says has ended is closed");
    assert!(!held("198.18.1.1") && held("198.18.1.2") && held("198.18.1.3"));
    assert!(user_set(server, set).is_some_and(|all| all.values().all(|left| *left > Duration::from_secs(3000))));
}
