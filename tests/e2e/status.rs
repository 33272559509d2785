//! knockctl status: the verdict, and the numbers of each rule.

use std::net::IpAddr;

use knock_testkit::Host;
use serde_json::{Value, json};

use crate::doctor::knockctl;
use crate::support::{Daemon, knock, network, wait_for_grant, wait_until, wire};

fn configuration(set: Option<&str>) -> Value {
    let ssh = json!({ "name": "ssh", "sequence": [7000, 9000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
    let run = json!({ "name": "run", "sequence": [7100, 9100, 8100], "command": "exit 3" });
    let set = set
        .map(|set| json!({ "name": "set", "sequence": [7200, 9200, 8200], "allow": { "set": set, "timeout": "1h" } }));
    let rules: Vec<Value> = [Some(ssh), Some(run), set].into_iter().flatten().collect();
    json!({ "rules": rules })
}

fn rule(server: &Host, daemon: &Daemon, name: &str) -> Value {
    let output = knockctl(server, daemon, &["status", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rules = document["by_rule"].as_array().expect("a list").clone();
    rules.into_iter().find(|rule| rule["name"] == name).expect("the rule")
}

/// The lines that it prints, with single blanks, and its exit status.
fn lines(server: &Host, daemon: &Daemon) -> (Vec<String>, Option<i32>) {
    let output = knockctl(server, daemon, &["status"]);
    let text = String::from_utf8(output.stdout).expect("text");
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    (text.lines().map(line).collect(), output.status.code())
}

#[test]
fn each_rule_shows_what_it_opened_and_what_failed_also_after_a_reload() {
    let network = network(1);
    let server = &network.server;
    let daemon = Daemon::start(server, configuration(None));
    let (wire, source) = (wire(&network), IpAddr::from([198, 18, 0, 2]));
    knock(&wire, source, &[7000, 9000, 8000]);
    wait_for_grant(server, source, ("tcp", 22));
    knock(&wire, source, &[7100, 9100, 8100]);
    wait_until("the command has failed", || rule(server, &daemon, "run")["commands_failed"] == 1);

    let mark = daemon.log_mark();
    daemon.reload(configuration(None));
    daemon.wait_for_log_after(mark, "reloaded: rules");
    let ssh = rule(server, &daemon, "ssh");
    assert_eq!((&ssh["granted"], &ssh["grants"], &ssh["opens"]), (&json!(1), &json!(1), &json!(["22/tcp"])));
    assert_eq!((&ssh["tcp_knocks"], &ssh["udp_knocks"]), (&json!(3), &json!(0)));
    let (lines, status) = lines(server, &daemon);
    assert_eq!((lines[0].as_str(), status), ("all is well", Some(0)));
    let of = |name: &str| lines.iter().find(|line| line.starts_with(name)).expect("a line for each rule");
    assert!(of("ssh ").starts_with("ssh 1h 1, ends in 59m") && of("ssh ").ends_with("s 1 22/tcp"), "{lines:?}");
    assert_eq!(of("run "), "run 1 runs a command");
}

#[test]
fn the_first_line_and_the_exit_status_say_what_is_not_well() {
    let network = network(1);
    let server = &network.server;
    server.namespace.nft("table inet f { set s { type ipv4_addr; flags timeout; }; }").expect("a user set");
    let daemon = Daemon::start(server, configuration(Some("inet f s")));
    assert_eq!(lines(server, &daemon).1, Some(0));
    server.namespace.nft("delete table inet f").expect("the user set goes");
    wait_until("it is noticed", || lines(server, &daemon).1 == Some(1));
    let (lines, _) = lines(server, &daemon);
    assert!(
        lines[0].starts_with("PROBLEM user set inet f s: ") && !lines.contains(&"all is well".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn the_plan_of_the_rules_shows_what_is_open_and_no_port_of_a_sequence() {
    let network = network(1);
    let server = &network.server;
    let daemon = Daemon::start(server, configuration(None));
    assert!(knockctl(server, &daemon, &["grant", "ssh", "192.0.2.7"]).status.success());
    for (arguments, shown) in [
        (&["rules"][..], &["guards 22/tcp", "ssh   ●●●", "1 address  opens 22/tcp for 1h"][..]),
        (&["rules", "--dot"], &["digraph knockd {", "\"rule ssh\" -> \"22/tcp\" [label=\"1h, 1 grant now\"]"]),
        (&["rules", "--json"], &["\"tcp_knocks\": 3", "\"granted\": 1"]),
    ] {
        let output = knockctl(server, &daemon, arguments);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(shown.iter().all(|part| text.contains(part)), "{text}");
        // Whole numbers: a fraction of a second has any digits.
        let mut numbers = text.split(|character: char| !character.is_ascii_digit());
        assert!(!numbers.any(|number| ["7000", "9000", "8000", "7100", "9100", "8100"].contains(&number)), "{text}");
    }
}

fn turned_away(server: &Host, daemon: &Daemon) -> u64 {
    let output = knockctl(server, daemon, &["status", "--prometheus"]);
    let text = String::from_utf8(output.stdout).expect("text");
    let value = text.lines().find_map(|line| line.strip_prefix("knockd_turned_away_total ")).expect("the metric");
    value.parse().expect("a number")
}

/// What the counter of the gate itself says.
fn dropped(server: &Host) -> u64 {
    let listing = server.namespace.nft("list chain inet knockd gate").expect("the gate");
    let counter = listing.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    counter.and_then(|number| number.parse().ok()).expect("a counter")
}

#[test]
fn packets_turned_away_are_counted_and_the_count_goes_on_over_another_table() {
    let network = network(1);
    let server = &network.server;
    let unowned = |ports: &[u16]| {
        let ssh =
            json!({ "name": "ssh", "sequence": [7000, 9000, 8000], "allow": { "ports": ports, "timeout": "1h" } });
        json!({ "nftables": { "owner": false }, "rules": [ssh] })
    };
    let daemon = Daemon::start(server, unowned(&[22]));
    let (wire, source) = (wire(&network), IpAddr::from([198, 18, 0, 2]));
    assert_eq!(turned_away(server, &daemon), 0);
    knock(&wire, source, &[22, 22, 22, 23]);
    wait_until("three packets are dropped", || dropped(server) == 3);

    // After a reload another nftables rule drops, and then the one of another table.
    let mark = daemon.log_mark();
    daemon.reload(unowned(&[22, 23]));
    daemon.wait_for_log_after(mark, "reloaded: rules");
    assert_eq!(turned_away(server, &daemon), 3);
    knock(&wire, source, &[22, 23]);
    wait_until("two packets are dropped", || dropped(server) == 2);
    assert_eq!(turned_away(server, &daemon), 5);
    let mark = daemon.log_mark();
    server.namespace.nft("delete table inet knockd").expect("the table goes");
    daemon.wait_for_log_after(mark, "restored");
    assert_eq!(turned_away(server, &daemon), 5);
    knock(&wire, source, &[23]);
    wait_until("six packets are counted", || turned_away(server, &daemon) == 6);
    let (lines, _) = lines(server, &daemon);
    assert!(lines.contains(&"gate 6 packets turned away".to_owned()), "{lines:?}");
}
