//! Configurations that are wrong, at start, with `--check` and at a reload; and the exit status of each.

use serde_json::json;

use crate::support::{
    Client, Daemon, Options, at4, check, element, knock, network, table_exists, wait_for_grant, wait_until, wire,
};
use knock_testkit::{Echo, Reach};

const VALID: &str = r#"{
  "rules": [
    {
      "name": "ssh",
      "sequence": [7000, 9000, 8000],
      "allow": { "ports": [22], "timeout": "1h" }
    }
  ]
}"#;

/// Exit statuses that the manual names.
const CONFIGURATION: Option<i32> = Some(78);
const NOT_PERMITTED: Option<i32> = Some(77);

#[test]
fn a_wrong_configuration_is_refused_with_its_place_and_the_rule_that_it_breaks() {
    let network = network(1);
    // What is replaced in the valid one, by what, and what the message must say.
    let cases = [
        ("7000,", "70000,", ":5:20", "rules[0].sequence[0]", "70000"),
        ("7000,", "0,", ":5:20", "rules[0].sequence[0]", "between 1 and 65535"),
        ("[7000, 9000, 8000]", "[]", ":5:19", "rules[0].sequence", "empty"),
        ("\"timeout\": \"1h\"", "\"timeout\": \"soon\"", ":6:44", "rules[0].allow.timeout", "soon"),
        (", \"timeout\": \"1h\"", "", ":6:", "rules[0].allow", "timeout"),
        ("\"sequence\"", "\"sequense\"", ":5:7", "sequense", "sequence"),
        (
            "\"allow\": { \"ports\": [22], \"timeout\": \"1h\" }",
            "\"command\": \"\"",
            ":6:",
            "rules[0].command",
            "empty",
        ),
        (
            "\"allow\": { \"ports\": [22], \"timeout\": \"1h\" }",
            "\"revoke\": \"nobody\"",
            ":6:",
            "rules[0].revoke",
            "nobody",
        ),
        ("8000],", "8000]", ":6:7", "", ""),
    ];
    for (from, to, place, field, says) in cases {
        let text = VALID.replace(from, to);
        assert_ne!(text, VALID);
        for arguments in [&[][..], &["--check"], &["-t"]] {
            let said = check(&network.server, &text, Options { arguments, ..Options::default() });
            assert_eq!(said.code, CONFIGURATION, "{to}: {said:?}");
            for part in ["config.json", place, field, says] {
                assert!(said.stderr.contains(part), "`{part}` is missing for `{to}`: {}", said.stderr);
            }
        }
    }
    assert!(!table_exists(&network.server, "knockd"));
}

#[test]
fn a_table_that_nft_could_not_list_is_refused_by_the_check_and_by_the_start_alike() {
    let network = network(1);
    for name in ["_a", "sets", "destroy", "counters", "not", "rt", "1a", "a b", "", &"a".repeat(256)] {
        let mut configuration: serde_json::Value = serde_json::from_str(VALID).expect("JSON");
        configuration["nftables"] = json!({"table": name});
        for arguments in [&[][..], &["-t"]] {
            let options = Options { arguments, ..Options::default() };
            let said = check(&network.server, &configuration.to_string(), options);
            assert_eq!(said.code, CONFIGURATION, "{name}: {said:?}");
            assert!(said.stderr.contains("nftables.table"), "{name}: {}", said.stderr);
        }
    }
}

#[test]
fn an_interface_of_the_command_line_has_a_name_that_the_kernel_allows() {
    let mut knockd = std::process::Command::new(env!("CARGO_BIN_EXE_knockd"));
    let output = knockd.args(["--check", "-i", "a/b"]).output().expect("knockd runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 to 15 bytes"), "{output:?}");
}

#[test]
fn a_missing_file_is_named() {
    let mut knockd = std::process::Command::new(env!("CARGO_BIN_EXE_knockd"));
    let output = knockd.args(["--check", "-c", "/nonexistent.json"]).output().expect("knockd runs");
    assert_eq!(output.status.code(), CONFIGURATION);
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent.json"));
}

#[test]
fn a_check_needs_no_privilege_and_changes_nothing() {
    let network = network(1);
    for arguments in [&["--check"][..], &["-t"]] {
        let options = Options { arguments, wrapper: WITHOUT_CAPABILITIES, ..Options::default() };
        let said = check(&network.server, VALID, options);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stdout.contains("config.json: valid"), "{}", said.stdout);
        assert_eq!(said.stderr, "", "a good configuration needs no comment");
    }
    assert!(!table_exists(&network.server, "knockd"));
}

#[test]
fn a_check_warns_of_a_sequence_that_a_scan_would_walk() {
    let network = network(1);
    let text = VALID.replace("[7000, 9000, 8000]", "[7000, 7001, 7002]");
    let said = check(&network.server, &text, Options { arguments: &["-t"], ..Options::default() });
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("rules[0].sequence") && said.stderr.contains("scan"), "{}", said.stderr);
}

/// util-linux's setpriv, so that the daemon starts as root without any of root's capabilities.
const WITHOUT_CAPABILITIES: &[&str] = &["setpriv", "--bounding-set=-all", "--inh-caps=-all"];

#[test]
fn without_permission_it_says_what_it_needs() {
    let network = network(1);
    let text = VALID.replacen('{', "{ \"control_socket\": \"/tmp/knockd-e2e-unused\", \"state_dir\": \"/tmp\",", 1);
    let said = check(&network.server, &text, Options { wrapper: WITHOUT_CAPABILITIES, ..Options::default() });
    assert_eq!(said.code, NOT_PERMITTED, "{said:?}");
    assert!(said.stderr.contains("CAP_NET_RAW") || said.stderr.contains("CAP_NET_ADMIN"), "{}", said.stderr);
}

#[test]
fn an_invalid_reload_is_reported_and_the_running_configuration_stays() {
    let network = network(1);
    let server = &network.server;
    let rule = json!({ "name": "ssh", "sequence": [7000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
    let mut daemon = Daemon::start(server, json!({ "rules": [rule] }));
    let mark = daemon.log_mark();
    let wrong = json!({ "name": "ssh", "sequence": [70000], "allow": { "ports": [22], "timeout": "1h" } });
    daemon.reload(json!({ "rules": [wrong] }));
    daemon.wait_for_log_after(mark, "rules[0].sequence[0]");
    assert!(daemon.is_running());
    knock(&wire(&network), network.client().v4.into(), &[7000, 8000]);
    wait_for_grant(server, network.client().v4.into(), ("tcp", 22));
}

#[test]
fn a_reload_applies_and_live_grants_stay() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _services = [22, 23].map(|port| Echo::tcp(&server.namespace, port).expect("an echo service"));
    let rule = json!({ "name": "ssh", "sequence": [7000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
    let daemon = Daemon::start(server, json!({ "rules": [rule] }));
    let wire = wire(&network);
    knock(&wire, client.v4.into(), &[7000, 8000]);
    client.wait_until_open(at4(22));
    assert_eq!(client.tcp(at4(23)), Reach::Open, "nothing guards it yet");

    let more = json!({ "name": "telnet", "sequence": [7100, 8100], "allow": { "ports": [23], "timeout": "1h" } });
    daemon.reload(json!({ "rules": [rule, more] }));
    wait_until("the other port is guarded", || client.tcp(at4(23)) == Reach::Filtered);
    assert_eq!(client.tcp(at4(22)), Reach::Open, "the grant is still there");
    knock(&wire, client.v4.into(), &[7100, 8100]);
    client.wait_until_open(at4(23));

    daemon.reload(json!({ "rules": [more] }));
    wait_until("the grant of the rule that is gone is gone", || {
        element(server, client.v4.into(), ("tcp", 22)).is_none()
    });
    assert!(element(server, client.v4.into(), ("tcp", 23)).is_some());
}

#[test]
fn a_command_line_that_is_wrong_is_no_invalid_configuration() {
    for (argument, status) in [("--nonsense", 1), ("--help", 0)] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_knockd")).arg(argument).output().expect("it runs");
        assert_eq!(output.status.code(), Some(status), "{argument}: {output:?}");
    }
}
