//! The client against the real daemon: both IP versions, bad paths, waiting, and what it says where nothing opens.

use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, TcpListener};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use knock_testkit::{Conditions, Echo, Network, RELAYED_V4, Reach, Relay};
use serde_json::{Value, json};

use crate::support::*;

/// The name of the server with both of its addresses.
const SERVER: &str = "server.test";
const SEQUENCE: [u16; 5] = [28731, 4219, 51802, 17660, 40117];

/// A daemon whose rule opens port 22.
fn guard(network: &Network) -> Daemon {
    let rule = json!({ "name": "ssh", "sequence": SEQUENCE, "allow": { "ports": [22], "timeout": "1h" } });
    Daemon::start(&network.server, json!({ "rules": [rule] }))
}

/// The arguments that knock the right sequence.
fn right() -> String {
    SEQUENCE.map(|port| port.to_string()).join(",")
}

fn open(network: &Network, arguments: &[&str]) -> Output {
    knock_cli_by_name(network.client(), arguments)
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_name_with_two_addresses_is_knocked_at_over_both() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let _daemon = guard(&network);
    let output = open(&network, &["-s", &right(), "-h", SERVER]);
    assert!(output.status.success(), "{output:?}");
    wait_for_grant(server, client.v4.into(), ("tcp", 22));
    wait_for_grant(server, client.v6.into(), ("tcp", 22));
}

#[test]
fn a_broken_ip_version_on_the_way_does_not_matter() {
    let network = network(1);
    let _ssh = Echo::tcp(&network.server.namespace, 22).expect("an echo service");
    let daemon = guard(&network);
    for (broken, expected) in [
        ("ip6 daddr fd77::1 meta l4proto { tcp, udp }", "ipv4"),
        ("ip6 saddr fd77::1 meta l4proto { tcp, udp }", "ipv4"),
        ("ip daddr 10.77.0.1 meta l4proto { tcp, udp }", "ipv6"),
        ("ip saddr 10.77.0.1 meta l4proto { tcp, udp }", "ipv6"),
    ] {
        network.block(broken).expect("a rule of the bridge");
        let output = open(&network, &["--json", "--wait", "22", "-s", &right(), "-h", SERVER]);
        let opened = document(&output);
        assert_eq!((&opened["result"], &opened["family"]), (&json!("open"), &json!(expected)), "{broken}: {opened}");
        // Once more with the address that is left.
        let option = if expected == "ipv4" { "-4" } else { "-6" };
        assert!(open(&network, &[option, "--wait", "22", "-s", &right(), "-h", SERVER]).status.success());
        network.unblock().expect("the rules of the bridge are deleted");
        revoke_all(&daemon);
    }
}

#[test]
fn a_wrong_sequence_ends_in_time_and_says_what_to_look_at() {
    let network = network(1);
    let _ssh = Echo::tcp(&network.server.namespace, 22).expect("an echo service");
    let _daemon = guard(&network);
    let start = Instant::now();
    let output = open(&network, &["--within", "2", "--wait", "22", "-s", "28731,4219,9", "-h", SERVER]);
    assert!(start.elapsed() >= Duration::from_secs(2));
    let expected = format!(
        "knock-cli: {SERVER}:22 did not open: 3 knocks over IPv6 and IPv4 in 2 s, no answer.\n  Is it the server's \
         sequence? (There: knockctl status.) Does this network let the ports out?\n"
    );
    assert_eq!((String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code()), (expected, Some(69)));
    let output = open(&network, &["--json", "--within", "0.5", "--wait", "22", "-s", "9", "-h", SERVER]);
    assert_eq!((document(&output)["result"].clone(), output.status.code()), (json!("closed"), Some(69)));
}

#[test]
fn a_way_that_is_missing_is_named() {
    let network = network(1);
    let client = network.client();
    let _daemon = guard(&network);
    // Without a route there is no IPv6, which is usual; without both it is an error for each.
    let flush = |family| {
        let mut ip = Command::new("ip");
        client.namespace.output(ip.args([family, "route", "flush", "table", "main"]), "").expect("no route");
    };
    flush("-6");
    let output = open(&network, &["-s", &right(), "-h", SERVER]);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((stdout.as_str(), &output.stderr[..]), ("knocked at 5 ports of 10.77.0.1\n", &b""[..]));
    flush("-4");
    let output = open(&network, &["-s", &right(), "-h", SERVER]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "knock-cli: knock 1 of 5 to fd77::1 was not sent: Network is unreachable (os error 101); there is no IPv6 \
                    route to that address: check the network\nknock 1 of 5 to 10.77.0.1 was not sent: Network is unreachable \
                    (os error 101); there is no IPv4 route to that address: check the network\n";
    assert_eq!((stderr.as_str(), output.status.code()), (expected, Some(1)));
}

#[test]
fn the_own_firewall_is_named() {
    let network = network(1);
    let client = network.client();
    client
        .namespace
        .nft("table inet f { chain out { type filter hook output priority 0; udp dport 7 drop; }; }")
        .expect("a ruleset");
    let output = open(&network, &["-4", "-s", "7/udp", "-h", SERVER]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "knock-cli: knock 1 of 1 to 10.77.0.1 was not sent: Operation not permitted (os error 1); the firewall or \
                    the routing of this machine does not permit it: allow it there\n";
    assert_eq!((stderr.as_str(), output.status.code()), (expected, Some(1)));
}

#[test]
fn a_rejecting_firewall_is_tried_on() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let chain =
        "type filter hook input priority -400; tcp dport 22 ip saddr != @k tcp flags syn reject with tcp reset;";
    let set = "set k { type ipv4_addr; flags timeout; }";
    server.namespace.nft(&format!("table inet fw {{ {set}; chain in {{ {chain} }}; }}")).expect("a ruleset");
    let allow = json!({ "set": "inet fw k", "timeout": "1h" });
    let rule = json!({ "name": "ssh", "sequence": SEQUENCE, "allow": allow });
    let _daemon = Daemon::start(server, json!({ "rules": [rule] }));
    assert_eq!(client.tcp(at4(22)), Reach::Refused);
    let wrong = open(&network, &["--within", "0.5", "-4", "--wait", "22", "-s", "9", "-h", SERVER]);
    assert_eq!(wrong.status.code(), Some(75), "{wrong:?}");
    let output = open(&network, &["-4", "--wait", "22", "-s", &right(), "-h", SERVER]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn the_source_address_is_the_one_that_gets_the_grant() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let listener = server.namespace.run(|| TcpListener::bind("10.77.0.1:22")).expect("inside").expect("a free port");
    let _daemon = guard(&network);
    client.namespace.ip("addr add 10.77.0.99/24 dev eth0").expect("a second address");
    let second: IpAddr = [10, 77, 0, 99].into();
    let output = open(&network, &["--source", "10.77.0.99", "--wait", "22", "-s", &right(), "-h", SERVER]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(listener.accept().expect("a connection").1.ip(), second);
    wait_for_grant(server, second, ("tcp", 22));
    assert_eq!(element(server, client.v4.into(), ("tcp", 22)), None);
}

#[test]
fn the_entry_of_knockctl_is_all_that_a_user_needs() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let daemon = guard(&network);
    let config = daemon.path("config.json");
    let config = config.to_str().expect("UTF-8");
    let entry = knockctl(&["client", "ssh", "--host", "10.77.0.1", "-c", config]);
    assert!(entry.status.success(), "{entry:?}");
    let file = daemon.path("client.json");
    let file = file.to_str().expect("UTF-8");
    let add = || {
        client
            .namespace
            .output(&mut program("knock-cli", &["add", "-c", file]), &String::from_utf8_lossy(&entry.stdout))
    };
    add().expect("the rule is added");
    let opened = knock_cli(client, &["-c", file, "ssh"]);
    assert_eq!(opened.status.code(), Some(0), "{opened:?}");
    wait_for_grant(server, client.v4.into(), ("tcp", 22));
    let output = knockctl(&["client", "shh", "--host", "h", "-c", config]);
    let expected = format!("error: {config} has no rule `shh`; did you mean `ssh`? its rules: ssh\n");
    assert_eq!((String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code()), (expected, Some(1)));
}

/// What a host behind the gate sends to everybody who connects.
fn greet(network: &Network) {
    let listener = network.server.namespace.run(|| TcpListener::bind("[::]:22")).expect("inside").expect("a free port");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            use std::io::Write;
            let _ = (&stream).write_all(b"SSH-2.0-test\r\n");
        }
    });
}

#[test]
fn a_connection_is_carried_from_closed_to_the_banner() {
    let network = network(1);
    let client = network.client();
    greet(&network);
    let daemon = guard(&network);
    let file = daemon.path("client.json");
    let rule = json!({ "name": "ssh", "host": "10.77.0.1", "sequence": SEQUENCE, "delay": "5ms" });
    std::fs::write(&file, json!({ "rules": [rule] }).to_string()).expect("written");
    let file = file.to_str().expect("UTF-8");
    let mut times = Vec::new();
    for _ in 0..25 {
        revoke_all(&daemon);
        let start = Instant::now();
        let mut child = client
            .namespace
            .run(|| {
                program("knock-cli", &["-q", "-c", file, "--proxy", "10.77.0.1", "22"])
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
            })
            .expect("inside")
            .expect("it runs");
        let mut banner = [0; 14];
        let mut output = child.stdout.take().expect("the pipe asked for");
        output.read_exact(&mut banner).expect("a banner");
        times.push(start.elapsed());
        assert_eq!(&banner, b"SSH-2.0-test\r\n");
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
    }
    // A SYN that is lost to the race would take a second; a busy machine may lose one of them.
    times.sort();
    assert!(times[20] < Duration::from_millis(700), "{times:?}");
}

#[test]
fn a_lost_connection_attempt_costs_no_retransmission() {
    let network = network(1);
    greet(&network);
    let _daemon = guard(&network);
    // The first SYN of the connection, as if it had overtaken the last knock.
    network.block("ip daddr 10.77.0.1 tcp dport 22 quota until 70 bytes").expect("a rule of the bridge");
    let output = open(&network, &["-4", "--json", "--wait", "22", "-s", &right(), "-h", SERVER]);
    let opened = document(&output);
    assert_eq!((&opened["result"], &opened["knocked"]), (&json!("open"), &json!(1)), "{opened}");
    assert!(opened["attempts"].as_u64() >= Some(2), "{opened}");
}

/// How many runs opened after how many rounds of knocks, over a path in these conditions.
fn over_a_bad_path(conditions: Conditions, runs: u32) -> HashMap<u64, u32> {
    let network = network(1);
    let client = network.client();
    greet(&network);
    let daemon = guard(&network);
    let relay = Relay::between(&network.server, client, 7).expect("a relay");
    relay.set(conditions);
    let mut rounds = HashMap::new();
    for _ in 0..runs {
        revoke_all(&daemon);
        let output = knock_cli(client, &["--json", "--wait", "22", "-s", &right(), "-h", &RELAYED_V4.to_string()]);
        let opened = document(&output);
        assert_eq!(opened["result"], json!("open"), "{opened}");
        *rounds.entry(opened["knocked"].as_u64().expect("a number")).or_default() += 1;
    }
    rounds
}

#[test]
fn on_a_path_with_jitter_the_first_knock_opens() {
    let conditions = Conditions { delay: Duration::from_millis(100), jitter: Duration::from_millis(20), loss: 0.0 };
    let rounds = over_a_bad_path(conditions, 12);
    // One more than the gap allows for is a machine that did something else.
    assert!(rounds.get(&1).copied().unwrap_or_default() >= 11, "{rounds:?}");
}

#[test]
fn on_a_path_with_loss_it_opens_in_the_end() {
    let conditions = Conditions { delay: Duration::from_millis(10), jitter: Duration::ZERO, loss: 0.05 };
    let rounds = over_a_bad_path(conditions, 25);
    assert!(rounds.keys().any(|rounds| *rounds > 1), "nothing was lost: {rounds:?}");
}
