//! knockctl doctor: its diagnosis has to agree with what happens to packets.

use std::fs;
use std::process::{Command, Output};

use knock_testkit::{Echo, Host, Reach};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Client, Daemon, at4, network, wait_until};

/// A host that drops what it does not know.
const DEFAULT_DROP: &str = "table inet filter {
  chain input {
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state established,related accept
    meta l4proto { icmp, ipv6-icmp } accept
  }
}";

fn configuration(allow: &Value) -> Value {
    json!({ "rules": [{ "name": "ssh", "sequence": [7000, 9000, 8000], "allow": allow }] })
}

pub(crate) fn knockctl(server: &Host, daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knockctl"));
    command.arg("--socket").arg(daemon.path("control.sock")).args(arguments);
    server.namespace.run(|| command.output()).expect("the server's namespace").expect("knockctl runs")
}

/// The warnings and problems about that subject, and whether there were none at all.
pub(crate) fn doctor(server: &Host, daemon: &Daemon, subject: &str) -> (Vec<Value>, bool) {
    let output = knockctl(server, daemon, &["doctor", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let mut findings = document["findings"].as_array().expect("a list").clone();
    findings.retain(|finding| {
        finding["subject"] == subject && ["problem", "warning"].map(Value::from).contains(&finding["severity"])
    });
    (findings, output.status.success())
}

fn printed_by(server: &Host, daemon: &Daemon, arguments: &[&str]) -> String {
    let output = knockctl(server, daemon, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn grant(server: &Host, daemon: &Daemon, client: &Host) {
    let address = client.address(at4(22).ip()).to_string();
    printed_by(server, daemon, &["grant", "ssh", &address]);
}

#[test]
fn no_problem_is_found_where_strangers_are_dropped_and_granted_addresses_get_in() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let daemon = Daemon::start(server, configuration(&json!({ "ports": [22], "timeout": "1h" })));
    let output = knockctl(server, &daemon, &["doctor"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(client.tcp(at4(22)), Reach::Filtered);
    grant(server, &daemon, client);
    assert_eq!(client.tcp(at4(22)), Reach::Open);
}

#[test]
fn the_fix_that_it_suggests_opens_a_default_drop() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    server.namespace.nft(DEFAULT_DROP).expect("the administrator's ruleset");
    let daemon = Daemon::start(server, configuration(&json!({ "ports": [22], "timeout": "1h" })));

    let (findings, well) = doctor(server, &daemon, "22/tcp");
    assert!(!well && findings.len() == 1, "{findings:?}");
    assert_eq!(findings[0]["severity"], "problem");
    grant(server, &daemon, client);
    assert_eq!(client.tcp(at4(22)), Reach::Filtered, "it is true");

    let fix: Vec<&str> = findings[0]["fix"].as_array().expect("lines").iter().filter_map(Value::as_str).collect();
    let run = |line: &str| {
        let mut command = Command::new("sh");
        server.namespace.output(command.arg("-c").arg(line), "").expect("the line of the fix");
    };
    // One line is enough, and strangers stay out.
    run(fix[0]);
    assert_eq!(client.tcp(at4(22)), Reach::Open);
    assert_eq!(doctor(server, &daemon, "22/tcp").0, [] as [Value; 0]);
    printed_by(server, &daemon, &["revoke", "--all"]);
    assert_eq!(client.tcp(at4(22)), Reach::Filtered);

    // The other way, from the start.
    server.namespace.nft(&format!("delete table inet filter; {DEFAULT_DROP}")).expect("as before");
    fix.iter().filter_map(|line| line.strip_prefix("or by a user set: ")).for_each(run);
    let sets = json!({ "set": "inet filter knock_22_tcp4", "set6": "inet filter knock_22_tcp6", "timeout": "1h" });
    daemon.reload(configuration(&sets));
    daemon.wait_for_log("reloaded");
    wait_until("the doctor finds nothing", || doctor(server, &daemon, "inet filter knock_22_tcp4").1);
    grant(server, &daemon, client);
    assert_eq!(client.tcp(at4(22)), Reach::Open);
}

#[test]
fn a_redirect_to_a_guarded_port_does_not_bypass_the_gate_and_one_from_it_does() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _services = [22, 80].map(|port| Echo::tcp(&server.namespace, port).expect("an echo service"));
    let daemon = Daemon::start(server, configuration(&json!({ "ports": [22, 8080], "timeout": "1h" })));
    let redirects = "table inet nat {
  chain pre { type nat hook prerouting priority dstnat; tcp dport 2222 redirect to :22; tcp dport 8080 redirect to :80; }
}";
    server.namespace.nft(redirects).expect("the administrator's ruleset");
    assert_eq!(client.tcp(at4(2222)), Reach::Filtered);
    assert_eq!(doctor(server, &daemon, "22/tcp").0, [] as [Value; 0]);
    assert_eq!([client.tcp(at4(8080)), client.tcp(at4(80))], [Reach::Filtered, Reach::Open]);
    let (findings, well) = doctor(server, &daemon, "8080/tcp");
    assert!(!well && findings.len() == 1, "{findings:?}");
    assert!(
        findings[0]["text"].as_str().is_some_and(|text| text.contains("80/tcp, which is not guarded")),
        "{findings:?}"
    );
}

#[test]
fn a_set_that_no_nftables_rule_uses_opens_nothing() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    server.namespace.nft(DEFAULT_DROP).expect("the administrator's ruleset");
    let set = "add set inet filter ssh4 { type ipv4_addr; flags timeout; }";
    server.namespace.nft(set).expect("the administrator's set");
    let daemon = Daemon::start(server, configuration(&json!({ "set": "inet filter ssh4", "timeout": "1h" })));
    grant(server, &daemon, client);
    assert_eq!(client.tcp(at4(22)), Reach::Filtered);
    let (findings, well) = doctor(server, &daemon, "inet filter ssh4");
    assert!(!well && findings.len() == 1, "{findings:?}");
    assert!(findings[0]["text"].as_str().is_some_and(|text| text.contains("no nftables rule uses it")), "{findings:?}");
}

#[test]
fn another_gate_at_the_same_port_keeps_granted_addresses_out_and_is_found() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let mut second = configuration(&json!({ "ports": [22], "timeout": "1h" }));
    let first = Daemon::start(server, second.clone());
    second["nftables"] = json!({ "table": "second" });
    let second = Daemon::start(server, second);
    grant(server, &first, client);
    assert_eq!(client.tcp(at4(22)), Reach::Filtered);
    for (daemon, other) in [(&first, "table inet second"), (&second, "table inet knockd")] {
        let (findings, well) = doctor(server, daemon, "22/tcp");
        assert!(!well && findings.len() == 1, "{findings:?}");
        assert!(findings[0]["text"].as_str().is_some_and(|text| text.contains(other)), "{findings:?}");
    }
    grant(server, &second, client);
    assert_eq!(client.tcp(at4(22)), Reach::Open, "with both grants");
}

#[test]
fn with_the_daemon_dead_it_says_whether_the_ports_are_closed_and_what_is_wrong_with_the_file() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let mut daemon = Daemon::start(server, configuration(&json!({ "ports": [22], "timeout": "1h" })));
    let file = daemon.path("config.json");
    daemon.signal(Signal::KILL);
    daemon.wait();
    let found = || {
        let output = knockctl(server, &daemon, &["doctor", "--config", file.to_str().expect("UTF-8")]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stdout).expect("text").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(client.tcp(at4(22)), Reach::Filtered);
    let text = found();
    assert!(text.contains("to fix: systemctl start knockd"), "{text}");
    assert!(text.contains("PROBLEM gate: table inet knockd is in force without the daemon"), "{text}");

    server.namespace.nft("delete table inet knockd").expect("nobody owns it now");
    assert_eq!(client.tcp(at4(22)), Reach::Open);
    let text = found();
    assert!(text.contains("PROBLEM gate: there is no table inet knockd: strangers reach 22/tcp"), "{text}");

    fs::write(&file, "{ \"rules\": [ }").expect("a mistake");
    let text = found();
    assert!(text.contains("PROBLEM configuration:") && text.contains("config.json:1:"), "{text}");
    assert!(text.contains("to fix: correct "), "{text}");
}
