//! `knockctl spa`: from nothing to a daemon that accepts signed packets, who may ask, and packets that come another way.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use knock_config::client::ClientTrigger;
use knock_spa::KnockUrl;
use serde_json::{Value, json};

use crate::support::spa::{SPA_PORT, Signer, SpaFiles, clock, open, send};
use crate::support::{Daemon, elements, network, wait_for_grant, wait_until, wire};

fn client(number: u8) -> IpAddr {
    [198, 18, 0, number].into()
}

fn rules() -> Value {
    json!([
        { "name": "ssh", "spa": true, "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "web", "spa": true, "allow": { "ports": [443], "timeout": "1h" } },
    ])
}

/// What knockctl does without a daemon.
fn knockctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_knockctl")).args(arguments).output().expect("knockctl runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// The result of `spa init`, which has to succeed.
fn init(config: &Path, more: &[&str]) -> Value {
    let config = config.display().to_string();
    let output = knockctl(&[&["spa", "init", "--json", "--config", &config], more].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Hands that input to the daemon as a packet from an address. Its exit status, and what it says.
pub(crate) fn submit(daemon: &Daemon, from: IpAddr, input: &[u8]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knockctl"));
    command.arg("--socket").arg(daemon.path("control.sock")).args(["spa", "submit", "--from", &from.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("knockctl runs");
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn keys(daemon: &Daemon) -> Vec<Value> {
    let document: Value = serde_json::from_str(&daemon.knockctl(&["spa", "keys", "--json"])).expect("JSON");
    document["keys"].as_array().expect("a list").clone()
}

#[test]
fn what_init_prints_is_all_that_server_and_client_need() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("config.json");
    let printed = init(&config, &["--host", "Web1.example.com", "--port", &SPA_PORT.to_string()]);
    let cover = directory.path().join("cover");
    assert_eq!(fs::metadata(&cover).expect("it was made").mode() & 0o777, 0o600);
    let url = KnockUrl::parse(printed["url"].as_str().expect("a URL")).expect("a valid URL");
    assert_eq!((url.port.get(), url.realm.as_str()), (SPA_PORT, "web1.example.com"));
    assert_eq!(printed["made"].as_array().map(Vec::len), Some(2), "{printed}");

    // A second user, before the configuration is written.
    let again = init(&config, &["--host", "Web1.example.com", "--port", &SPA_PORT.to_string()]);
    assert_eq!((&again["url"], &again["spa"], &again["made"]), (&printed["url"], &printed["spa"], &json!([])));

    let alice = Signer::of_realm(1, &url.cover, url.realm.as_str());
    let keys = directory.path().join("authorized_keys");
    let header = fs::read_to_string(&keys).expect("it was made");
    fs::write(&keys, header + &alice.line("", "alice")).expect("it is ours");
    let configuration = json!({ "spa": printed["spa"], "rules": rules() });
    fs::write(&config, configuration.to_string()).expect("it is ours");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("it is ours");

    let network = network(1);
    let daemon = Daemon::start(&network.server, configuration);
    send(&wire(&network), client(1), &alice.payload(&open("ssh")));
    wait_for_grant(&network.server, client(1), ("tcp", 22));

    // The whole entry for the file of a client.
    let output = knockctl(&["client", "ssh", "--host", "web1.example.com", "-c", &config.display().to_string()]);
    let rules_of_client = knock_config::client::parse("c.json", &text(&output.stdout)).expect("a file for the client");
    let ClientTrigger::Packet(packet) = &rules_of_client[0].trigger else { panic!("{output:?}") };
    assert_eq!((&packet.cover, packet.port, rules_of_client[0].wait), (&url.cover, url.port, Some(22)));
    assert_eq!(packet.rule.as_ref().map(ToString::to_string).as_deref(), Some("ssh"));

    // With `spa` in the configuration, the URL is of that.
    let configured = init(&config, &["--host", "web1.example.com"]);
    assert_eq!(configured["configured"], true);
    assert_eq!(KnockUrl::parse(configured["url"].as_str().expect("a URL")).expect("valid").cover, url.cover);
    let renewed = init(&config, &["--host", "web1.example.com", "--new-cover"]);
    let files = json!([directory.path().join("cover-2"), cover]);
    assert_eq!(renewed["spa"]["cover_files"], files, "the newest is the first");
    let new = KnockUrl::parse(renewed["url"].as_str().expect("a URL")).expect("valid");
    assert_ne!(new.cover, url.cover);
    // Users of both covers get in while both are in the configuration.
    let mark = daemon.log_mark();
    daemon.reload(json!({ "spa": renewed["spa"], "rules": rules() }));
    daemon.wait_for_log_after(mark, "reloaded");
    let renewed = Signer::of_realm(1, &new.cover, "web1.example.com");
    for (signer, source) in [(&alice, client(2)), (&renewed, client(3))] {
        send(&wire(&network), source, &signer.payload(&open("ssh")));
        wait_for_grant(&network.server, source, ("tcp", 22));
    }
}

#[test]
fn init_says_what_to_do_and_changes_nothing_that_exists() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let config = path("config.json");
    // What lacks only what init prints is no reason to print nothing.
    fs::write(&config, json!({ "rules": rules() }).to_string()).expect("written");
    let output = knockctl(&["spa", "init", "--host", "web1.example.com", "--qr", "--config", &config]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for part in [
        "made ",
        "\"realm\": \"web1.example.com\"",
        "SECRET",
        "\nknock://web1.example.com:62201/?realm=web1.example.com&cover=",
        "knock-cli add web1",
        "█",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    for (arguments, status, message) in [
        (&["--host", "h", "--realm", "Not A Realm"][..], 1, "is not a realm"),
        (&["--host", "a b"], 1, "`a b` is no name or address"),
        (&["--host", "h", "--directory", &path("none")], 1, "make the directory first"),
    ] {
        let output = knockctl(&[&["spa", "init", "--config", &config], arguments].concat());
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(text(&output.stderr).contains(message), "{output:?}");
    }
    let files = SpaFiles::new("");
    fs::write(&config, files.configuration(rules(), Duration::from_secs(60)).to_string()).expect("written");
    for (arguments, message) in [
        (["--port", "1"], "port 1 is not one of `spa.ports` in"),
        (["--realm", "other.example.com"], "has `spa` already, with the realm example.com"),
        (["--directory", "/tmp"], "has `spa` already"),
    ] {
        let output = knockctl(&[&["spa", "init", "--host", "h", "--config", &config], &arguments[..]].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(message), "{output:?}");
    }
    fs::write(&config, "{").expect("written");
    let output = knockctl(&["spa", "init", "--config", &config]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}

#[test]
fn each_key_shows_what_it_may_do_and_what_its_user_did() {
    let files = SpaFiles::new("");
    let (alice, bob) = (Signer::new(1, &files.cover), Signer::new(2, &files.cover));
    let options = "rules=\"web\",from=\"198.18.0.0/24\",expiry-time=\"20991231Z\",address=\"strict\",wide";
    files.write_keys(&(alice.line("", "alice") + &bob.line(options, "bob")));
    let network = network(1);
    let daemon = Daemon::start(&network.server, files.configuration(rules(), Duration::from_secs(60)));
    let wire = wire(&network);
    send(&wire, client(1), &alice.payload(&open("ssh")));
    wait_for_grant(&network.server, client(1), ("tcp", 22));
    send(&wire, client(2), &bob.payload(&open("ssh")));
    daemon.wait_for_log("of bob from 198.18.0.2 is refused");

    let [first, second] = &keys(&daemon)[..] else { panic!("two keys") };
    assert_eq!((&first["user"], &first["key"]), (&json!("alice"), &json!(alice.fingerprint())));
    assert_eq!((&first["rules"], &first["expires"], &first["from"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!((&first["accepted"], &first["refused"], &first["grants"]), (&json!(1), &json!(0), &json!(1)));
    assert_eq!((&first["last"]["address"], &first["address"]), (&json!("198.18.0.1"), &json!("source")));
    assert_eq!((&second["rules"], &second["from"]), (&json!(["web"]), &json!("198.18.0.0/24")));
    assert_eq!(
        (&second["address"], &second["wide"], &second["expired"]),
        (&json!("strict"), &json!(true), &json!(false))
    );
    assert_eq!((&second["accepted"], &second["refused"], &second["last"]), (&json!(0), &json!(1), &Value::Null));
    let text = daemon.knockctl(&["spa", "keys"]);
    assert!(text.starts_with("alice\n") && text.contains("until 2099-12-31 00:00 UTC"), "{text}");

    let status = daemon.knockctl(&["status"]);
    assert!(status.contains("signed packets  2 keys at 62201/udp, 1 accepted, 1 refused\n"), "{status}");
    let plan = daemon.knockctl(&["rules"]);
    let line = |name: &str| plan.lines().find(|line| line.starts_with(name)).expect("a line for each rule");
    assert!(line("ssh").split_whitespace().nth(1) == Some("signed"), "{plan}");
    let metrics = daemon.knockctl(&["status", "--prometheus"]);
    let labels = format!("{{user=\"alice\",key=\"{}\"}}", alice.fingerprint());
    for line in [format!("knockd_user_accepted_total{labels} 1"), "knockd_signed_usable 1".to_owned()] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }

    // The numbers of a key that stays outlive a reload.
    let mark = daemon.log_mark();
    files.write_keys(&alice.line("rules=\"ssh\"", "alice"));
    daemon.reload(files.configuration(rules(), Duration::from_secs(60)));
    daemon.wait_for_log_after(mark, "reloaded");
    let [only] = &keys(&daemon)[..] else { panic!("one key") };
    assert_eq!((&only["rules"], &only["accepted"], &only["grants"]), (&json!(["ssh"]), &json!(1), &json!(1)));
}

#[test]
fn where_nothing_can_be_remembered_status_and_doctor_say_so() {
    let files = SpaFiles::new("");
    let alice = Signer::new(1, &files.cover);
    files.write_keys(&alice.line("expiry-time=\"20991231Z\"", "alice"));
    let state = tempfile::tempdir().expect("a directory");
    let replays = state.path().join("replays");
    fs::write(&replays, "in the way").expect("written");
    let mut configuration = files.configuration(rules(), Duration::from_secs(60));
    configuration["state_dir"] = json!(state.path());
    let network = network(1);
    let server = &network.server;
    let daemon = Daemon::start(server, configuration);

    let status = crate::doctor::knockctl(server, &daemon, &["status"]);
    assert_eq!(status.status.code(), Some(1), "{status:?}");
    assert!(text(&status.stdout).starts_with("PROBLEM  no signed packet is accepted: "), "{status:?}");
    let (findings, _) = crate::doctor::doctor(server, &daemon, "signed packets");
    assert_eq!((findings.len(), &findings[0]["severity"]), (1, &json!("problem")), "{findings:?}");

    fs::remove_file(&replays).expect("removed");
    let wire = wire(&network);
    wait_until("packets are accepted again", || {
        send(&wire, client(1), &alice.payload(&open("ssh")));
        !elements(server, "grants4").is_empty()
    });
    let status = crate::doctor::knockctl(server, &daemon, &["status"]);
    assert!(status.status.success() && text(&status.stdout).starts_with("all is well\n"), "{status:?}");
    assert_eq!(crate::doctor::doctor(server, &daemon, "signed packets").0, [] as [Value; 0]);
}

#[test]
fn ten_thousand_keys_are_listed_one_by_one() {
    let files = SpaFiles::new("");
    let line = |number: u32| {
        let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        blob.extend([0; 28]);
        blob.extend(number.to_be_bytes());
        // Half of the numbers are no point of the curve.
        knock_spa::PublicKey::from_blob(&blob).ok().map(|key| format!("{key} user{number}\n"))
    };
    let lines: Vec<String> = (0..).filter_map(line).take(10_000).collect();
    files.write_keys(&lines.concat());
    let network = network(1);
    let daemon = Daemon::start(&network.server, files.configuration(rules(), Duration::from_secs(60)));
    let listed = keys(&daemon);
    assert_eq!(listed.len(), 10_000);
    let user = lines[9_999].trim_end().rsplit(' ').next();
    assert_eq!((listed[9_999]["user"].as_str(), &listed[9_999]["line"]), (user, &json!(10_000)));
}

#[test]
fn a_submitted_packet_is_treated_as_one_that_came_by_udp() {
    let files = SpaFiles::new("");
    let (alice, mallory) = (Signer::new(1, &files.cover), Signer::new(2, &files.cover));
    files.write_keys(&alice.line("", "alice"));
    let network = network(1);
    let server = &network.server;
    let daemon = Daemon::start(server, files.configuration(rules(), Duration::from_secs(60)));
    let packet = alice.payload(&open("ssh"));
    let accepted = (Some(0), "accepted\n".to_owned());
    assert_eq!(submit(&daemon, client(7), &packet), accepted);
    wait_for_grant(server, client(7), ("tcp", 22));
    daemon.wait_for_log("submits a signed packet of alice from 198.18.0.7");

    // The answer is the same for all that is not accepted; the log knows more of users, and nothing of strangers.
    let refused = (Some(1), "error: not accepted; the log of knockd may say why\n".to_owned());
    let late = knock_spa::Request { time: clock(-4000), ..open("web") };
    for input in [packet, alice.payload(&late), mallory.payload(&open("ssh")), vec![0xa5; 300]] {
        assert_eq!(submit(&daemon, client(8), &input), refused);
    }
    daemon.wait_for_log("of alice from 198.18.0.8 is refused: the clock of the client is 400");
    assert_eq!(elements(server, "grants4").len(), 1);
    assert_eq!(daemon.log().matches("submits").count(), 3, "{}", daemon.log());

    // By UDP after it was submitted: a replay.
    let packet = alice.payload(&open("web"));
    assert_eq!(submit(&daemon, "::ffff:198.18.0.9".parse().expect("an address"), &packet), accepted);
    let mark = daemon.log_mark();
    send(&wire(&network), client(9), &packet);
    daemon.wait_for_log_after(mark, "of alice from 198.18.0.9 is refused: ");
    assert_eq!(submit(&daemon, client(9), b"short").0, Some(1));
}

#[test]
fn without_signed_packets_the_answer_says_how_to_begin() {
    let network = network(1);
    let ssh = json!({ "name": "ssh", "sequence": [7000, 9000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
    let daemon = Daemon::start(&network.server, json!({ "rules": [ssh] }));
    let socket = daemon.path("control.sock").display().to_string();
    let output = knockctl(&["--socket", &socket, "spa", "keys"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("has no `spa`") && text(&output.stderr).contains("knockctl spa init"));
    let (status, said) = submit(&daemon, client(1), &[1; 300]);
    assert!(status == Some(1) && said.contains("has no `spa`"), "{said}");
}
