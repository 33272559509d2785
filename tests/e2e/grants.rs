//! The life of a grant: refreshed by another knock, taken back by a revoking one, its own for each address.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use knock_testkit::{Echo, Reach};
use serde_json::json;

use crate::support::{Client, Daemon, at4, at6, element, elements, knock, network, wait_for_grant, wait_until, wire};

#[test]
fn knocking_again_renews_the_one_element() {
    let network = network(1);
    let server = &network.server;
    let rule = json!({ "name": "ssh", "sequence": [7000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
    let _daemon = Daemon::start(server, json!({ "rules": [rule] }));
    let wire = wire(&network);
    for source in [IpAddr::from(network.client().v4), IpAddr::from(network.client().v6)] {
        knock(&wire, source, &[7000, 8000]);
        let first = wait_for_grant(server, source, ("tcp", 22));
        let full = first.timeout.expect("a timeout");
        wait_until("some of its time is over", || {
            let expires = wait_for_grant(server, source, ("tcp", 22)).expires.expect("a remaining time");
            expires + Duration::from_secs(2) <= full
        });
        knock(&wire, source, &[7000, 8000]);
        wait_until("it has its full time again", || {
            let expires = wait_for_grant(server, source, ("tcp", 22)).expires.expect("a remaining time");
            expires + Duration::from_secs(1) >= full
        });
    }
    assert_eq!(elements(server, "grants4").len(), 1);
    assert_eq!(elements(server, "grants6").len(), 1);
}

#[test]
fn a_revoking_knock_ends_the_grant_of_its_source_alone() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let rules = json!([
        { "name": "open", "sequence": [7000, 8000, 9000], "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "close", "sequence": [9000, 8000, 7000], "revoke": "open" }
    ]);
    let _daemon = Daemon::start(server, json!({ "rules": rules }));
    let wire = wire(&network);
    let (one, other) = (&network.clients[0], &network.clients[1]);
    for guarded in [at4(22), at6(22)] {
        for client in [one, other] {
            knock(&wire, client.address(guarded.ip()), &[7000, 8000, 9000]);
            client.wait_until_open(guarded);
        }
        knock(&wire, one.address(guarded.ip()), &[9000, 8000, 7000]);
        wait_until("the grant is revoked", || element(server, one.address(guarded.ip()), ("tcp", 22)).is_none());
        assert_eq!(one.tcp(guarded), Reach::Filtered);
        assert_eq!(other.tcp(guarded), Reach::Open);
    }
}

#[test]
fn a_rule_opens_all_of_its_ports_and_no_others() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _services = [22, 80, 443].map(|port| Echo::tcp(&server.namespace, port).expect("an echo service"));
    let _dns = Echo::udp(&server.namespace, 53).expect("an echo service");
    let rules = json!([
        { "name": "many", "sequence": [7000, 8000], "allow": { "ports": [22, 80, "53/udp"], "timeout": "1h" } },
        { "name": "web", "sequence": [7100, 8100], "allow": { "ports": [443], "timeout": "1h" } }
    ]);
    let _daemon = Daemon::start(server, json!({ "rules": rules }));
    knock(&wire(&network), client.v4.into(), &[7000, 8000]);
    for port in [22, 80] {
        client.wait_until_open(at4(port));
    }
    wait_until("the UDP port is open", || client.udp(at4(53)) == Reach::Open);
    assert_eq!(client.tcp(at4(443)), Reach::Filtered);
    assert_eq!(client.tcp(at6(22)), Reach::Filtered, "the other family's address did not knock");
    assert_eq!(elements(server, "grants4").len(), 3);
}

#[test]
fn a_hundred_sources_at_once_each_get_their_own_grant() {
    let network = network(1);
    let server = &network.server;
    let rule = json!({ "name": "ssh", "sequence": [7000, 8000, 9000], "allow": { "ports": [22], "timeout": "1h" } });
    let _daemon = Daemon::start(server, json!({ "rules": [rule] }));
    let wire = wire(&network);
    let sources: Vec<IpAddr> = (1..=100).map(|last| Ipv4Addr::new(198, 18, 0, last).into()).collect();
    // All first knocks, then all second ones: the sequences are interleaved.
    for port in [7000, 8000, 9000] {
        for source in &sources {
            knock(&wire, *source, &[port]);
        }
    }
    wait_until("a hundred grants", || elements(server, "grants4").len() == 100);
    let granted = elements(server, "grants4");
    assert!(sources.iter().all(|source| granted.iter().any(|element| element.address == *source)));
}

#[test]
fn a_grant_in_a_set_of_the_administrators_own_is_an_element_with_a_timeout() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let ruleset = "add table inet filter
        add set inet filter knock4 { type ipv4_addr; flags timeout; }
        add set inet filter knock6 { type ipv6_addr; flags timeout; }
        add chain inet filter input { type filter hook input priority 0; policy drop; }
        add rule inet filter input ct state established,related accept
        add rule inet filter input meta l4proto icmpv6 accept
        add rule inet filter input ip saddr @knock4 tcp dport 22 accept
        add rule inet filter input ip6 saddr @knock6 tcp dport 22 accept";
    server.namespace.nft(ruleset).expect("a host that drops by default");
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let rule = json!({
        "name": "ssh", "sequence": [7000, 8000],
        "allow": { "set": "inet filter knock4", "set6": "inet filter knock6", "timeout": "1h" }
    });
    let mut daemon = Daemon::start(server, json!({ "rules": [rule] }));
    assert!(!crate::support::table_exists(server, "knockd"), "no rule needs a table of ours");
    let wire = wire(&network);
    for guarded in [at4(22), at6(22)] {
        assert_eq!(client.tcp(guarded), Reach::Filtered);
        knock(&wire, client.address(guarded.ip()), &[7000, 8000]);
        client.wait_until_open(guarded);
    }
    assert!(daemon.stop().success());
    assert!(crate::support::table_exists(server, "filter"), "the administrator's table stays");
}
