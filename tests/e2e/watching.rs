//! Why nothing opened: `knockctl watch` while it happens, `knockctl explain` afterwards.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use knock_testkit::{DEADLINE, Network, Packet, Wire};
use serde_json::{Value, json};

use crate::doctor::knockctl;
use crate::support::{Daemon, at, knock, network, wait_for_grant, wait_until, wire};

fn rules() -> Value {
    let rule = |name: &str, sequence: Value, port: u16| {
        let allow = json!({ "ports": [port], "timeout": "1h" });
        json!({ "name": name, "sequence": sequence, "timeout": "3s", "allow": allow })
    };
    let ssh = rule("ssh", json!([7000, 9000, "8000/udp", 6000]), 22);
    json!({ "rules": [ssh, rule("web", json!([1000, 3000, 2000]), 80)] })
}

/// A running `knockctl --json watch`.
struct Watch {
    child: Child,
    lines: Receiver<Value>,
}

impl Watch {
    fn start(network: &Network, daemon: &Daemon, arguments: &[&str]) -> Watch {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knockctl"));
        command.arg("--socket").arg(daemon.path("control.sock")).args(["--json", "watch"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let spawned = network.server.namespace.run(|| command.spawn()).expect("the server's namespace");
        let mut child = spawned.expect("knockctl runs");
        let stdout = BufReader::new(child.stdout.take().expect("the pipe asked for"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("a line of JSON");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Watch { child, lines }
    }

    /// Waits until it watches: until it shows what another source does.
    fn wait_until_it_watches(&self, wire: &Wire, stranger: IpAddr) {
        wait_until("knockctl watches", || {
            knock(wire, stranger, &[1000]);
            self.lines.recv_timeout(Duration::from_millis(50)).is_ok()
        });
    }

    /// The next steps of that address, as (what, knocked).
    fn steps(&self, address: IpAddr, count: usize) -> Vec<(String, u64)> {
        let mut steps = Vec::new();
        while steps.len() < count {
            let line = self.lines.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no more than {steps:?} came"));
            let step = &line["step"];
            if step["address"] == json!(address) {
                // Without the time, whose digits are any.
                let text = line.to_string().replace(&step["time"].to_string(), "");
                assert!(!["7000", "9000", "8000", "6000"].iter().any(|port| text.contains(port)), "a port: {text}");
                steps.push((
                    step["what"].as_str().unwrap_or_default().to_owned(),
                    step["knocked"].as_u64().unwrap_or(99),
                ));
            }
        }
        steps
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn step(what: &str, knocked: u64) -> (String, u64) {
    (what.to_owned(), knocked)
}

fn udp(wire: &Wire, source: IpAddr, port: u16) {
    wire.send(&Packet::udp((source, 50_000).into(), at(source, port))).expect("the knock is sent");
}

#[test]
fn each_reason_why_nothing_opens_is_shown_and_no_port_of_a_sequence() {
    let network = network(2);
    let daemon = Daemon::start(&network.server, rules());
    let (wire, client) = (wire(&network), IpAddr::from(network.client().v4));
    let other = IpAddr::from(network.clients[1].v4);
    let stranger_wire = network.clients[1].wire(&network.server).expect("a packet socket");
    let watch = Watch::start(&network, &daemon, &[]);
    watch.wait_until_it_watches(&stranger_wire, other);

    knock(&wire, client, &[7000, 9000, 6001]);
    assert_eq!(watch.steps(client, 3), [step("knock", 1), step("knock", 2), step("tripwire", 2)]);
    knock(&wire, client, &[7000, 9000, 6000]);
    assert_eq!(watch.steps(client, 3), [step("knock", 1), step("knock", 2), step("wrong-order", 2)]);
    knock(&wire, client, &[7000, 9000, 8000]);
    assert_eq!(watch.steps(client, 3), [step("knock", 1), step("knock", 2), step("wrong-protocol", 2)]);
    udp(&wire, client, 8000);
    knock(&wire, client, &[6000]);
    assert_eq!(watch.steps(client, 3), [step("knock", 3), step("completed", 4), step("grant", 0)]);
    wait_for_grant(&network.server, client, ("tcp", 22));
    // A guarded port: one without a grant is turned away, one with a grant is not.
    knock(&wire, client, &[22, 80]);
    assert_eq!(watch.steps(client, 1), [step("turned-away", 0)]);
    knock(&stranger_wire, other, &[22]);
    let turned_away = watch.steps(other, 1);
    assert!(turned_away.iter().any(|(what, _)| what == "turned-away" || what == "knock"), "{turned_away:?}");
}

#[test]
fn a_knock_that_is_too_slow_is_explained_afterwards_with_what_to_do() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, rules());
    let (wire, client) = (wire(&network), IpAddr::from(network.client().v4));
    let explain = |arguments: &[&str]| {
        let output = knockctl(&network.server, &daemon, &[&["explain", &client.to_string()], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let text = explain(&[]);
    assert!(text.contains("no packet from") && text.contains("let these ports out"), "{text}");
    knock(&wire, client, &[7000, 9000]);
    // The time for the sequence is 3 seconds.
    thread::sleep(Duration::from_millis(3200));
    udp(&wire, client, 8000);
    wait_until("the packet is noted", || explain(&[]).contains("too slow"));
    let text = explain(&[]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with("●○○○") && lines[1].ends_with("●●○○"), "{text}");
    assert!(lines[2].contains("●●○○ too slow (3.") && lines[2].contains("the limit is 3 s"), "{text}");
    assert!(lines[3].contains("longer timeout"), "{text}");
    let json: Value = serde_json::from_str(&explain(&["--json"])).expect("JSON");
    assert_eq!(json["steps"].as_array().map(Vec::len), Some(3));
    assert_eq!(json["steps"][2]["what"], "too-slow");
}

#[test]
fn watchers_come_and_go_and_no_more_than_two_are_served() {
    let network = network(2);
    let daemon = Daemon::start(&network.server, rules());
    let other = IpAddr::from(network.clients[1].v4);
    let stranger_wire = network.clients[1].wire(&network.server).expect("a packet socket");
    for _ in 0..3 {
        let watches = [Watch::start(&network, &daemon, &[]), Watch::start(&network, &daemon, &["--rule", "web"])];
        watches.iter().for_each(|watch| watch.wait_until_it_watches(&stranger_wire, other));
        let third = knockctl(&network.server, &daemon, &["watch"]);
        assert_eq!(third.status.code(), Some(69), "{third:?}");
        let missing = knockctl(&network.server, &daemon, &["watch", "--rule", "shh"]);
        assert!(String::from_utf8_lossy(&missing.stderr).contains("did you mean ssh?"), "{missing:?}");
        drop(watches);
        wait_until("their places are free", || {
            let watch = Watch::start(&network, &daemon, &[]);
            knock(&stranger_wire, other, &[1000]);
            watch.lines.recv_timeout(Duration::from_millis(200)).is_ok()
        });
    }
}
