//! `knockctl fleet`: the key of a node, and the answers where the configuration has no fleet.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output};

use knock_fleet::{NodeKey, NodePublicKey};
use serde_json::{Value, json};

use crate::support::{Daemon, network};

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
