//! Somebody else's hands on the managed table: refused where it is owned, restored at once where it is not.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use knock_testkit::{Echo, Host, Network};
use serde_json::{Value, json};

use crate::support::{
    Client, Daemon, Siege, at4, element, knock, network, ruleset, user_set, wait_for_grant, wait_until, wire,
};

/// What others do, by mistake or on purpose; `GRANT` is an element of the set of grants.
const HANDS: [&str; 15] = [
    "flush ruleset",
    "delete table inet knockd",
    "flush table inet knockd",
    "flush chain inet knockd prerouting",
    "flush chain inet knockd gate",
    "flush chain inet knockd prerouting\ndelete chain inet knockd prerouting",
    "flush set inet knockd guarded",
    "flush set inet knockd grants4",
    "delete element inet knockd grants4 { GRANT }",
    "insert rule inet knockd prerouting accept",
    "insert rule inet knockd gate accept",
    "flush chain inet knockd input",
    "insert rule inet knockd unreadable accept",
    "flush chain inet knockd postrouting\ndelete chain inet knockd postrouting",
    "delete table inet knockd\nadd table inet other",
];

/// How long the gate may be open after somebody else's change where the kernel does not refuse it: milliseconds, were it
/// not for the other tests that run on the machine.
const AT_ONCE: Duration = Duration::from_millis(500);

fn configuration(owner: bool) -> Value {
    let ssh = json!({ "name": "ssh", "sequence": [7000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
    json!({ "nftables": { "owner": owner }, "rules": [ssh] })
}

/// Has client 1 knock in both families, and waits until some of the grants' time is over.
fn grant(network: &Network) -> [IpAddr; 2] {
    let (server, friend) = (&network.server, &network.clients[1]);
    let wire = friend.wire(server).expect("a packet socket for the client");
    let addresses = [IpAddr::from(friend.v4), friend.v6.into()];
    for address in addresses {
        knock(&wire, address, &[7000, 8000]);
        wait_for_grant(server, address, ("tcp", 22));
    }
    wait_until("some of its time is over", || remaining(server, addresses[1]) < Duration::from_secs(3599));
    addresses
}

fn remaining(server: &Host, address: IpAddr) -> Duration {
    element(server, address, ("tcp", 22)).expect("a grant").expires.expect("a remaining time")
}

fn lay_hands(server: &Host, hands: &str) -> Result<String, knock_testkit::Error> {
    server.namespace.nft(&hands.replace("GRANT", "10.77.0.3 . tcp . 22"))
}

/// What an earlier version made, with grants for client 1.
const LAYOUT_1: &str = "table inet knockd {
    comment \"managed by knockd, layout 1\"
    set guarded { type inet_proto . inet_service; elements = { tcp . 22 }; }
    set grants4 {
        type ipv4_addr . inet_proto . inet_service; size 65536; flags timeout
        elements = { 10.77.0.3 . tcp . 22 timeout 1h comment \"ssh\" }
    }
    set grants6 {
        type ipv6_addr . inet_proto . inet_service; size 65536; flags timeout
        elements = { fd77::3 . tcp . 22 timeout 1h comment \"ssh\" }
    }
    chain gate {
        tcp flags rst,ack accept
        iifname lo accept
        fib daddr type unicast accept
        ip saddr . meta l4proto . th dport @grants4 accept
        ip6 saddr . meta l4proto . th dport @grants6 accept
        counter drop
    }
    chain prerouting {
        type filter hook prerouting priority mangle
        meta l4proto . th dport @guarded jump gate
    }
}";

#[test]
fn a_table_of_an_earlier_layout_is_adopted_without_a_gap() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    for owner in [true, false] {
        server.namespace.nft(LAYOUT_1).expect("the table of an earlier version");
        let siege = Siege::begin(&network, 22, &[1]);
        let mut daemon = Daemon::start(server, configuration(owner));
        siege.go_on();
        siege.end().assert_held();
        assert!(ruleset(server).contains("layout 2"), "{}", ruleset(server));
        let addresses = [IpAddr::from(network.clients[1].v4), network.clients[1].v6.into()];
        assert!(addresses.iter().all(|address| element(server, *address, ("tcp", 22)).is_some()));
        assert!(daemon.stop().success());
    }
}

#[test]
fn an_owned_table_stays_whatever_others_do() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let daemon = Daemon::start(server, configuration(true));
    grant(&network);
    let before = ruleset(server);
    let siege = Siege::begin(&network, 22, &[1]);
    for hands in HANDS {
        let result = lay_hands(server, hands);
        // A flush of all rulesets leaves out what others own (nft(8)); everything else is refused.
        assert_eq!(result.is_ok(), hands == "flush ruleset", "{hands}: {result:?}");
        siege.go_on();
        assert_eq!(ruleset(server), before, "{hands}");
    }
    siege.end().assert_held();
    assert!(!daemon.log().contains("restored"), "{}", daemon.log());
}

#[test]
fn a_table_without_an_owner_is_restored_at_once_with_the_remaining_time_of_its_grants() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let daemon = Daemon::start(server, configuration(false));
    let addresses = grant(&network);
    let before = ruleset(server);
    let siege = Siege::begin(&network, 22, &[1]);
    let mut report = String::new();
    for hands in HANDS {
        let mark = daemon.log_mark();
        let (start, passed) = (Instant::now(), siege.passed().segments);
        lay_hands(server, hands).unwrap_or_else(|error| panic!("{hands}: {error}"));
        daemon.wait_for_log_after(mark, "restored");
        let back = start.elapsed();
        wait_until(hands, || ruleset(server).replace("table inet other {\n}\n", "").trim() == before.trim());
        for address in addresses {
            assert!(remaining(server, address) < Duration::from_secs(3600), "{hands}: it keeps its time");
        }
        siege.go_on();
        let got_in = siege.passed().segments - passed;
        siege.go_on();
        assert_eq!(siege.passed().segments - passed, got_in, "{hands}: the gate is closed again");
        report += &format!("{hands:?}: back within {back:?} with nft's own run, {got_in} strangers got in\n");
        // 16,000 come in a second.
        let bound = 16 * u64::try_from(AT_ONCE.as_millis()).unwrap_or(0);
        assert!(got_in <= bound, "{report}");
    }
    assert!(daemon.log().contains("was changed by `nft`"), "the log names the program: {}", daemon.log());
    let toll = siege.end();
    eprintln!(
        "{report}{} granted SYNs of {} were dropped while the grants were flushed",
        toll.kept_out(),
        toll.granted
    );
    assert_eq!(toll.broken, 0, "sessions go on");
    // The clients send up to 2000 in a second, and three of the changes take their grants away.
    assert!(toll.kept_out() <= 3 * 2 * u64::try_from(AT_ONCE.as_millis()).unwrap_or(0), "{toll:?}");
}

#[test]
fn a_knock_while_the_table_is_gone_opens_and_puts_it_back() {
    let network = network(2);
    let server = &network.server;
    let client = network.client();
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let _daemon = Daemon::start(server, configuration(false));
    let wire = wire(&network);
    for round in 0..20 {
        server.namespace.nft("delete table inet knockd").expect("anybody may");
        knock(&wire, client.v4.into(), &[7000, 8000]);
        wait_for_grant(server, client.v4.into(), ("tcp", 22));
        client.wait_until_open(at4(22));
        let stranger = network.clients[1].tcp(at4(22));
        assert_eq!(stranger, knock_testkit::Reach::Filtered, "round {round}");
    }
}

#[test]
fn one_flush_of_all_rulesets_is_made_good_in_the_table_and_in_the_administrators_set() {
    let network = network(1);
    let (server, client) = (&network.server, IpAddr::from(network.client().v4));
    let administrators = "table inet filter { set knock4 { type ipv4_addr; flags timeout; }; }";
    server.namespace.nft(administrators).expect("a set");
    let mut both = configuration(false);
    let own = json!({ "set": "inet filter knock4", "timeout": "1h" });
    let own = json!({ "name": "own", "sequence": [7100, 9100, 8100], "allow": own });
    both["rules"].as_array_mut().expect("the rules").push(own);
    let daemon = Daemon::start(server, both);
    let wire = wire(&network);
    knock(&wire, client, &[7000, 8000]);
    knock(&wire, client, &[7100, 9100, 8100]);
    let is_held = || user_set(server, "inet filter knock4").is_some_and(|set| set.contains_key(&client));
    wait_until("both are granted", || element(server, client, ("tcp", 22)).is_some() && is_held());
    for _ in 0..5 {
        let mark = daemon.log_mark();
        server.namespace.nft(&format!("flush ruleset\n{administrators}")).expect("as at a reload of nftables.service");
        daemon.wait_for_log_after(mark, "removed 1 live grants from user sets");
        wait_until("both are granted again", || element(server, client, ("tcp", 22)).is_some() && is_held());
    }
}

#[test]
fn a_storm_of_changes_by_others_leaves_the_table_whole_and_the_daemon_idle_after_it() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let daemon = Daemon::start(server, configuration(false));
    grant(&network);
    let before = ruleset(server);
    let mut script = String::new();
    for _ in 0..50 {
        script +=
            "add table inet storm\nadd set inet storm s { type ipv4_addr; }\nadd element inet storm s { 10.0.0.1 }\n";
        script += "delete table inet storm\n";
    }
    let destroy = "flush set inet knockd grants4\nflush set inet knockd guarded\nflush set inet knockd grants6\n";
    for _ in 0..10 {
        server.namespace.nft(&script).expect("a storm elsewhere");
        server.namespace.nft(destroy).expect("and here");
    }
    wait_until("the table is whole", || ruleset(server) == before);
    let switches = daemon.context_switches();
    let files = daemon.open_files();
    network.clients[1].wait_until_open(at4(22));
    assert!(daemon.context_switches() - switches < 50, "it does not chase its own changes");
    assert_eq!(daemon.open_files(), files);
}

#[test]
fn changes_to_other_tables_are_ignored() {
    let network = network(1);
    let server = &network.server;
    for owner in [true, false] {
        let mut daemon = Daemon::start(server, configuration(owner));
        let mark = daemon.log_mark();
        for _ in 0..20 {
            server
                .namespace
                .nft("add table inet theirs\nadd chain inet theirs c\ndelete table inet theirs")
                .expect("nft");
        }
        let client = IpAddr::from(network.client().v4);
        knock(&wire(&network), client, &[7000, 8000]);
        daemon.wait_for_log_after(mark, "granted to");
        assert!(!daemon.log().contains("restored"), "{}", daemon.log());
        assert!(daemon.stop().success());
    }
}
