//! `knockctl fleet`: the key of a node, a fleet that runs, and the answers where the configuration has none.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output};

use knock_fleet::{NodeKey, NodePublicKey};
use knock_testkit::{Store, store_engines};
use serde_json::{Value, json};

use crate::support::fleet::Fleet;
use crate::support::{Daemon, network, program, wait_until};

fn knockctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_knockctl")).args(arguments).output().expect("knockctl runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn keygen_makes_a_key_once_and_prints_its_public_half_each_time() {
    let directory = tempfile::tempdir().expect("a directory");
    // As the package makes /etc/knockd: what root makes there is for the group of the daemon.
    fs::set_permissions(directory.path(), Permissions::from_mode(0o2750)).expect("ours");
    let file = directory.path().join("node.key");
    let name = file.display().to_string();
    let first = knockctl(&["fleet", "keygen", &name]);
    assert!(first.status.success(), "{first:?}");
    assert_eq!(fs::metadata(&file).expect("it is there").mode() & 0o7777, 0o640);
    let content = fs::read(&file).expect("readable");
    let key = NodeKey::from_file(&content).expect("a key");
    let public = text(&first.stdout);
    assert_eq!(public, format!("{}\n", key.public()), "standard output has the public key alone");
    let said = text(&first.stderr);
    let entry: Value =
        serde_json::from_str(said.lines().last().expect("a line")).expect("an entry for the configuration");
    assert_eq!((&entry["key"], &entry["vouch"]), (&json!(public.trim_end()), &json!([])));
    assert!(entry["name"].is_string() && said.starts_with("made "), "{said}");

    let again = knockctl(&["fleet", "keygen", &name]);
    assert_eq!((again.status.code(), text(&again.stdout)), (Some(0), public.clone()));
    assert!(text(&again.stderr).starts_with("unchanged, as it is there already: "), "{again:?}");
    let document: Value =
        serde_json::from_slice(&knockctl(&["fleet", "keygen", "--json", &name]).stdout).expect("JSON");
    assert_eq!((&document["made"], &document["node"]["key"]), (&json!(false), &json!(public.trim_end())));
    assert!(document["node"]["key"].as_str().expect("a text").parse::<NodePublicKey>().is_ok());
    assert_eq!(fs::read(&file).expect("readable"), content, "the key is the same");
    // Not even in an error is there anything of the private half.
    let secret = text(&content);
    let secret = secret.trim_end().trim_start_matches("ed25519-secret:");
    fs::write(&file, format!("x{secret}")).expect("writable");
    let damaged = knockctl(&["fleet", "keygen", &name]);
    assert_eq!(damaged.status.code(), Some(1));
    let said = text(&damaged.stdout) + &text(&damaged.stderr);
    assert!(said.contains("node.key: this is not the key of a node") && !said.contains(secret), "{said}");
}

#[test]
fn without_a_fleet_the_answer_says_how_to_begin() {
    let network = network(1);
    let ssh = json!({ "name": "ssh", "sequence": [7000, 9000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
    let daemon = Daemon::start(&network.server, json!({ "rules": [ssh] }));
    let socket = daemon.path("control.sock").display().to_string();
    let address = IpAddr::from(network.client().v4).to_string();
    for command in [&["status"][..], &["nodes"], &["grants", "--rule", "ssh"], &["revoke", &address, "ssh"], &["check"]]
    {
        let output = knockctl(&[&["--socket", &socket, "fleet"], command].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains("has no `fleet`") && said.contains("knockctl fleet keygen"), "{said}");
    }
    let status: Value = serde_json::from_str(&daemon.knockctl(&["status", "--json"])).expect("JSON");
    assert_eq!(status["fleet"], Value::Null);
    assert!(!daemon.knockctl(&["status", "--prometheus"]).contains("fleet"));
}

#[test]
fn a_fleet_that_runs_is_shown_checked_and_revoked() {
    let fleet = Fleet::new(2);
    let _store = Store::start(store_engines()[0], &fleet.network.server.namespace, "");
    let nodes = fleet.start_all();
    let client = IpAddr::from([198, 18, 0, 1]);
    nodes[0].knock(client);
    wait_until("web2 follows", || nodes[1].is_open(client));
    let web2 = &nodes[1].knockd;
    let ask = |arguments: &[&str]| {
        let output = web2.knockctl(&[&["fleet"], arguments, &["--json"]].concat());
        serde_json::from_str::<Value>(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    };
    let status = ask(&["status"]);
    assert_eq!((&status["node"], &status["connected"], &status["granted"]), (&json!("web2"), &json!(true), &json!(1)));
    wait_until("both have been seen", || {
        let nodes = ask(&["nodes"]);
        let of = |index: usize| (nodes["nodes"][index]["name"].clone(), nodes["nodes"][index]["same_rules"].clone());
        of(0) == (json!("web1"), json!(true)) && of(1) == (json!("web2"), json!(true))
    });
    let grants = ask(&["grants"]);
    let grant = &grants["grants"][0];
    assert_eq!((&grant["node"], &grant["address"]), (&json!("web1"), &json!("198.18.0.1")));
    assert_eq!(ask(&["grants", "198.18.0.2"])["grants"], json!([]));
    let text = web2.knockctl(&["status"]);
    assert!(text.contains("web2 in web.example.com, 2 nodes"), "{text}");
    let metrics = web2.knockctl(&["status", "--prometheus"]);
    assert!(metrics.lines().any(|line| line.starts_with("knockd_fleet_") && line.ends_with(" 1")), "{metrics}");

    let socket = web2.path("control.sock");
    let mut check = program("knockctl", &["--socket", socket.to_str().expect("UTF-8"), "fleet", "check"]);
    let checked = nodes[1].host().namespace.output(&mut check, "").unwrap_or_else(|error| panic!("{error}"));
    assert!(checked.contains("ok: ") && !checked.contains("error: "), "{checked}");

    let revoked = ask(&["revoke", "198.18.0.1"]);
    assert_eq!(revoked, json!({ "revoked": 1, "strays": 0, "connected": true, "writes": true }));
    wait_until("web1 follows", || !nodes[0].is_open(client));
}
