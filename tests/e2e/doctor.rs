//! knockctl doctor: its diagnosis has to agree with what happens to packets.

use std::process::{Command, Output};

use knock_testkit::{Echo, Host, Reach};
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
    findings.retain(|finding| finding["subject"] == subject && finding["severity"] != "ok");
    (findings, output.status.success())
}

fn grant(server: &Host, daemon: &Daemon, client: &Host) {
    let address = client.address(at4(22).ip()).to_string();
    let output = knockctl(server, daemon, &["grant", "ssh", &address]);
    assert!(output.status.success(), "{output:?}");
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

    for line in findings[0]["fix"].as_array().expect("lines").iter().filter_map(Value::as_str) {
        if line.starts_with("nft ") {
            let mut command = Command::new("sh");
            server.namespace.output(command.arg("-c").arg(line), "").expect("the line of the fix");
        }
    }
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
