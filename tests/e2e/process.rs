//! The daemon as a process: how it ends, what it leaves, what it starts, what it costs.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use knock_testkit::{Echo, Reach};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Client, Daemon, Options, at4, element, knock, network, table_exists, wait_for_grant, wait_until, wire,
};

fn ssh(timeout: &str) -> Value {
    json!({ "name": "ssh", "sequence": [7000, 8000], "allow": { "ports": [22], "timeout": timeout } })
}

#[test]
fn term_and_int_both_stop_it_with_teardown_and_status_zero() {
    let network = network(1);
    for signal in [Signal::TERM, Signal::INT] {
        let files = tempfile::tempdir().expect("a directory for the commands");
        let mut rule = ssh("1h");
        rule["teardown"] = json!(format!("echo done > {}", files.path().join("teardown").display()));
        let mut daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
        assert!(table_exists(&network.server, "knockd"));
        daemon.signal(signal);
        let status = daemon.wait();
        assert!(status.success(), "{signal:?}: {status}; the log:\n{}", daemon.log());
        assert!(!table_exists(&network.server, "knockd"));
        assert_eq!(fs::read_to_string(files.path().join("teardown")).expect("the teardown ran"), "done\n");
    }
}

#[test]
fn a_teardown_that_fails_keeps_nothing_else_from_being_taken_down() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let mut rules = [ssh("1h"), ssh("1h"), ssh("1h")];
    for (number, rule) in rules.iter_mut().enumerate() {
        rule["name"] = json!(format!("rule{number}"));
        rule["sequence"] = json!([7000 + 100 * number, 5000 + 100 * number]);
        rule["teardown"] = json!(format!("echo {number} >> {}", files.path().join("log").display()));
    }
    rules[1]["teardown"] = json!("exit 9");
    let mut daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    daemon.stop();
    let mut ran: Vec<String> =
        fs::read_to_string(files.path().join("log")).expect("teardowns ran").lines().map(str::to_owned).collect();
    ran.sort();
    assert_eq!(ran, ["0", "2"]);
    assert!(!table_exists(&network.server, "knockd"));
    let log = daemon.log();
    assert!(log.lines().any(|line| line.contains("rule1") && line.contains('9')), "the failure is logged:\n{log}");
}

#[test]
fn a_setup_that_fails_is_logged_and_the_others_run() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let mut rules = [ssh("1h"), ssh("1h")];
    rules[0]["setup"] = json!("exit 9");
    rules[1]["name"] = json!("second");
    rules[1]["sequence"] = json!([7100, 5100]);
    rules[1]["setup"] = json!(format!("echo done > {}", files.path().join("setup").display()));
    let daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    assert_eq!(fs::read_to_string(files.path().join("setup")).expect("the other setup ran"), "done\n");
    let log = daemon.log();
    assert!(log.lines().any(|line| line.contains("ssh") && line.contains("setup") && line.contains('9')), "{log}");
}

#[test]
fn grants_over_netlink_start_no_program() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the trace");
    let trace = files.path().join("trace");
    let trace_name = trace.to_str().expect("a path in UTF-8");
    // -D: knockd itself is the child here, so that signals reach it.
    let wrapper = ["strace", "-D", "-f", "-q", "-e", "trace=execve,execveat", "-o", trace_name];
    let close = json!({ "name": "close", "sequence": [8000, 7000], "revoke": "ssh" });
    let rules = json!([ssh("1h"), close]);
    let options = Options { wrapper: &wrapper, ..Options::default() };
    let mut daemon = Daemon::start_with(&network.server, json!({ "rules": rules }), options);
    let wire = wire(&network);
    let source = IpAddr::from(network.client().v4);
    knock(&wire, source, &[7000, 8000]);
    wait_for_grant(&network.server, source, ("tcp", 22));
    knock(&wire, source, &[8000, 7000]);
    wait_until("the grant is revoked", || element(&network.server, source, ("tcp", 22)).is_none());
    daemon.reload(json!({ "rules": [ssh("1h")] }));
    knock(&wire, source, &[7000, 8000]);
    wait_for_grant(&network.server, source, ("tcp", 22));
    assert!(daemon.stop().success());
    let exit = "+++ exited with 0 +++";
    wait_until("the trace is whole", || fs::read_to_string(&trace).unwrap_or_default().contains(exit));
    let trace = fs::read_to_string(&trace).expect("the trace");
    let started: Vec<&str> = trace.lines().filter(|line| line.contains("exec")).collect();
    assert_eq!(started.len(), 2, "knockd and its ear:\n{trace}");
    assert!(started[0].contains("knockd") && started[1].contains("knockd: ear"), "{trace}");
}

#[test]
fn a_killed_daemon_leaves_no_port_open_longer_than_its_grant() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let daemon = Daemon::start(server, json!({ "rules": [ssh("2s")] }));
    let (friend, stranger) = (&network.clients[0], &network.clients[1]);
    knock(&wire(&network), friend.v4.into(), &[7000, 8000]);
    friend.wait_until_open(at4(22));
    let _directory = daemon.kill();
    assert_eq!(stranger.tcp(at4(22)), Reach::Filtered, "the gate stays closed without its daemon");
    wait_until("the kernel ends the grant", || element(server, friend.v4.into(), ("tcp", 22)).is_none());
    assert_eq!(friend.tcp(at4(22)), Reach::Filtered);
}

#[test]
fn a_daemon_that_starts_again_after_a_kill_takes_over_its_table_and_its_grants() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let daemon = Daemon::start(server, json!({ "rules": [ssh("1h")] }));
    let wire = wire(&network);
    knock(&wire, client.v4.into(), &[7000, 8000]);
    client.wait_until_open(at4(22));
    let directory = daemon.kill();
    let mut daemon = Daemon::start_again(server, directory);
    assert_eq!(client.tcp(at4(22)), Reach::Open, "the grant lives on");
    let remaining = element(server, client.v4.into(), ("tcp", 22)).and_then(|grant| grant.expires);
    assert!(remaining.is_some_and(|remaining| remaining <= Duration::from_secs(3600)), "{remaining:?}");
    knock(&wire, client.v6.into(), &[7000, 8000]);
    wait_for_grant(server, client.v6.into(), ("tcp", 22));
    assert!(daemon.stop().success());
    assert!(!table_exists(server, "knockd"));
}

#[test]
fn on_stop_keep_leaves_the_gate_and_its_grants() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let configuration = json!({ "nftables": { "on_stop": "keep" }, "rules": [ssh("1h")] });
    let mut daemon = Daemon::start(server, configuration);
    let (friend, stranger) = (&network.clients[0], &network.clients[1]);
    knock(&wire(&network), friend.v4.into(), &[7000, 8000]);
    friend.wait_until_open(at4(22));
    assert!(daemon.stop().success());
    assert_eq!(friend.tcp(at4(22)), Reach::Open);
    assert_eq!(stranger.tcp(at4(22)), Reach::Filtered);
    let directory = daemon.take_directory();
    let _daemon = Daemon::start_again(server, directory);
    assert_eq!(friend.tcp(at4(22)), Reach::Open);
}

#[test]
fn a_flush_by_another_program_does_not_open_the_gate() {
    let network = network(2);
    let server = &network.server;
    let (friend, stranger) = (&network.clients[0], &network.clients[1]);
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    for owner in [true, false] {
        let configuration = json!({ "nftables": { "owner": owner }, "rules": [ssh("1h")] });
        let mut daemon = Daemon::start(server, configuration);
        knock(&wire(&network), friend.v4.into(), &[7000, 8000]);
        friend.wait_until_open(at4(22));
        // Where the table is owned, nft may be refused; either way the gate has to stay closed.
        let _ = server.namespace.nft("flush ruleset");
        wait_until("the table is there", || table_exists(server, "knockd"));
        wait_until("the grant is there", || element(server, friend.v4.into(), ("tcp", 22)).is_some());
        assert_eq!(stranger.tcp(at4(22)), Reach::Filtered, "owner: {owner}");
        assert_eq!(friend.tcp(at4(22)), Reach::Open, "owner: {owner}");
        assert!(daemon.stop().success());
    }
}

#[test]
fn a_foreign_table_of_the_same_name_is_refused_and_not_changed() {
    let network = network(1);
    let server = &network.server;
    let theirs = "add table inet knockd
        add set inet knockd grants4 { type ipv4_addr; }
        add chain inet knockd theirs";
    server.namespace.nft(theirs).expect("somebody else's table");
    let listing = || {
        let mut nft = std::process::Command::new("nft");
        server.namespace.output(nft.args(["list", "ruleset"]), "").expect("nft lists")
    };
    let before = listing();
    let mut daemon = Daemon::launch(server, json!({ "rules": [ssh("1h")] }), Options::default());
    let status = daemon.wait();
    assert!(!status.success(), "the log:\n{}", daemon.log());
    assert!(daemon.log().contains("knockd") && daemon.log().contains("table"), "{}", daemon.log());
    assert_eq!(listing(), before);
}

#[test]
fn a_configuration_of_commands_alone_makes_no_table_and_needs_no_cap_net_admin() {
    let network = network(1);
    let rule = json!({ "name": "door", "sequence": [7000, 8000], "command": "true" });
    let wrapper = ["setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all"];
    let options = Options { wrapper: &wrapper, ..Options::default() };
    let mut daemon = Daemon::start_with(&network.server, json!({ "rules": [rule] }), options);
    assert!(!table_exists(&network.server, "knockd"));
    assert!(daemon.stop().success());
}

#[test]
fn an_idle_daemon_sleeps() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, json!({ "rules": [ssh("1h")] }));
    // Sessions on other ports are the traffic that must not wake it.
    let _web = Echo::tcp(&network.server.namespace, 80).expect("an echo service");
    let mut session = network.client().session(at4(80));
    let before = (daemon.context_switches(), daemon.open_files());
    for _ in 0..2000 {
        assert!(session.is_alive());
    }
    let after = (daemon.context_switches(), daemon.open_files());
    assert!(after.0 - before.0 < 20, "{} context switches in 2000 round trips of others", after.0 - before.0);
    assert_eq!(after.1, before.1);
}
