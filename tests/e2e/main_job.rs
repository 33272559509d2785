//! What knockd is for: a port that is closed, opens for who knocks, and closes again by itself.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use knock_testkit::{Echo, Latency, Reach};
use serde_json::json;

use crate::support::{
    Client, Daemon, at4, at6, element, elements, knock_cli, network, table_exists, wait_for_grant, wait_until, wire,
};

#[test]
fn a_knock_opens_the_port_for_its_source_over_ipv4() {
    a_knock_opens_the_port_for_its_source(at4(22));
}

#[test]
fn a_knock_opens_the_port_for_its_source_over_ipv6() {
    a_knock_opens_the_port_for_its_source(at6(22));
}

fn a_knock_opens_the_port_for_its_source(guarded: SocketAddr) {
    let network = network(2);
    let server = &network.server;
    let (friend, stranger) = (&network.clients[0], &network.clients[1]);
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    assert_eq!(friend.tcp(guarded), Reach::Open, "nothing guards the port yet");

    let rule = json!({ "name": "ssh", "sequence": [7000, 8000, 9000], "allow": { "ports": [22], "timeout": "1h" } });
    let mut daemon = Daemon::start(server, json!({ "rules": [rule] }));
    assert_eq!(friend.tcp(guarded), Reach::Filtered);

    let output = knock_cli(friend, &[&guarded.ip().to_string(), "7000", "8000", "9000"]);
    assert!(output.status.success(), "{output:?}");
    friend.wait_until_open(guarded);
    assert!(friend.session(guarded).is_alive());
    assert_eq!(stranger.tcp(guarded), Reach::Filtered, "who did not knock stays out");

    let address = friend.address(guarded.ip());
    let grant = element(server, address, ("tcp", 22)).expect("the grant is an element of the managed set");
    assert_eq!(grant.timeout, Some(Duration::from_secs(3600)));
    let remaining = grant.expires.expect("a remaining time");
    assert!((3500..=3600).contains(&remaining.as_secs()), "{remaining:?}");
    assert_eq!(grant.comment.as_deref(), Some("ssh"), "`nft list` tells which rule it is");

    assert!(daemon.stop().success());
    assert!(!table_exists(server, "knockd"), "nothing is left behind");
    assert_eq!(stranger.tcp(guarded), Reach::Open, "as if there were no daemon");
}

#[test]
fn a_grant_ends_by_itself_and_its_sessions_go_on() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let rule = json!({ "name": "ssh", "sequence": [7000, 8000, 9000], "allow": { "ports": [22], "timeout": "1s" } });
    let _daemon = Daemon::start(server, json!({ "rules": [rule] }));
    for guarded in [at4(22), at6(22)] {
        // A machine that does much else may be too late for one grant.
        let mut session = wait_until("a session during the grant", || {
            assert!(knock_cli(client, &[&guarded.ip().to_string(), "7000", "8000", "9000"]).status.success());
            client.namespace.run(|| knock_testkit::Session::open(guarded, Duration::from_millis(300))).ok()?.ok()
        });
        let address = client.address(guarded.ip());
        wait_until("the grant has ended", || element(server, address, ("tcp", 22)).is_none());
        assert_eq!(client.tcp(guarded), Reach::Filtered, "closed again");
        assert!(session.is_alive(), "what was established goes on");
    }
}

#[test]
fn a_udp_service_is_guarded_too_and_knocked_by_udp() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _vpn = Echo::udp(&server.namespace, 51820).expect("an echo service");
    let rule = json!({
        "name": "vpn", "sequence": ["7000/udp", 8000, "9000:udp"],
        "allow": { "ports": ["51820/udp"], "timeout": "1h" }
    });
    let _daemon = Daemon::start(server, json!({ "rules": [rule] }));
    for guarded in [at4(51820), at6(51820)] {
        assert_eq!(client.udp(guarded), Reach::Filtered);
        let host = guarded.ip().to_string();
        assert!(knock_cli(client, &[&host, "7000/udp", "8000", "9000/udp"]).status.success());
        wait_until("the port is open", || client.udp(guarded) == Reach::Open);
    }
}

#[test]
fn knocks_of_the_other_protocol_do_not_count() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let rules = json!([
        { "name": "udp", "sequence": ["7000/udp", "8000/udp"], "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "tcp", "sequence": [7100, 8100], "allow": { "ports": [23], "timeout": "1h" } }
    ]);
    let _daemon = Daemon::start(server, json!({ "rules": rules }));
    assert!(knock_cli(client, &["10.77.0.1", "7000", "8000"]).status.success());
    assert!(knock_cli(client, &["10.77.0.1", "7100/udp", "8100/udp"]).status.success());
    // Packets are taken in their order: once this one is granted, the others were judged.
    assert!(knock_cli(client, &["10.77.0.1", "7100", "8100"]).status.success());
    wait_for_grant(server, client.v4.into(), ("tcp", 23));
    assert_eq!(elements(server, "grants4").len(), 1);
    assert_eq!(element(server, IpAddr::from(client.v4), ("tcp", 22)), None);
}

#[test]
fn the_client_knocks_by_the_name_of_a_rule() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let rule = json!({ "name": "ssh", "sequence": [7000, 8000, 9000], "allow": { "ports": [22], "timeout": "1h" } });
    let daemon = Daemon::start(server, json!({ "rules": [rule] }));
    let of_client = daemon.path("client.json");
    std::fs::write(&of_client, r#"{"rules": [{"name": "enable_ssh", "sequence": [7000, 8000, 9000]}]}"#)
        .expect("the client's configuration");
    let of_client = of_client.to_str().expect("a path in UTF-8");
    let output = knock_cli(client, &["-c", of_client, "-r", "enable_ssh", "-h", "10.77.0.1"]);
    assert!(output.status.success(), "{output:?}");
    wait_for_grant(server, client.v4.into(), ("tcp", 22));
}

#[test]
fn the_port_is_open_within_milliseconds_of_the_last_knock() {
    let network = network(1);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let rule = json!({ "name": "ssh", "sequence": [9000, 7000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
    let _daemon = Daemon::start(server, json!({ "rules": [rule] }));
    let latency = Latency {
        server: at4(22).ip(),
        sequence: vec![9000, 7000, 8000],
        port: 22,
        interval: Duration::from_micros(20),
        first_source: [198, 18, 0, 1].into(),
    };
    let rounds = latency.run(&wire(&network), 21).expect("each round opens");
    let mut rounds: Vec<Duration> = rounds.iter().map(|opening| opening.answer).collect();
    rounds.sort();
    // Far above the microseconds that it takes, for the sake of machines that do much else.
    assert!(rounds[10] < Duration::from_millis(250), "the median of {rounds:?}");
}
