//! The client's part of a configuration.

use std::path::PathBuf;
use std::time::Duration;

use knock_config::client::{CLIENT_KEYS, ClientRule, ClientSpa, ClientTrigger as Trigger, Family, load, parse};
use knock_proto::Knock;

/// A rule without keys of the client.
fn rule(name: &str, trigger: Trigger) -> ClientRule {
    let name = name.to_owned();
    let family = Family::Both;
    ClientRule { name, trigger, hosts: Vec::new(), wait: None, delay: None, family, source: None, identity: None }
}

#[test]
fn the_file_of_the_client_needs_only_names_and_sequences() {
    let text = r#"{"rules": [{"name": "a", "sequence": [3, "1/udp"]}, {"name": "b", "sequence": [7]}]}"#;
    let rule = |name: &str, sequence| rule(name, Trigger::Sequence(sequence));
    assert_eq!(
        parse("c.json", text).expect("valid"),
        [rule("a", vec![Knock::tcp(3), Knock::udp(1)]), rule("b", vec![Knock::tcp(7)])]
    );
}

#[test]
fn the_file_of_the_server_is_accepted_too() {
    let text = r#"{"interface": "eth0", "timeout": 5, "limits": {"sources": 5}, "rules": [
        {"name": "a", "sequence": [3, 1], "command": "x", "stop_command": "y", "stop_after": "5s", "setup": "z"},
        {"name": "once", "one_time_sequences": "/f", "allow": {"ports": [22], "timeout": "1h"}},
        {"name": "b", "sequence": [1, 3], "revoke": "once"}]}"#;
    let rules = parse("c.json", text).expect("valid");
    assert_eq!(rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), ["a", "once", "b"]);
    assert_eq!(rules[1].trigger, Trigger::OneTime(PathBuf::from("/f")));
}

#[test]
fn the_errors_are_those_of_the_file_of_the_server() {
    for (text, expected) in [
        ("{}", "c.json:1:1: `rules` is missing; write a list of rules"),
        (
            r#"{"rules": [{"name": "a", "sequence": [70000]}]}"#,
            "c.json:1:39: rules[0].sequence[0]: port 70000 is not between 1 and 65535; write a number in this range, or \
             \"7000/udp\" for UDP",
        ),
        (
            r#"{"rules": [{"name": "a", "sequence": [1]}, {"name": "a", "sequence": [2]}]}"#,
            "c.json:1:53: rules[1].name: duplicate rule name `a`, first in rules[0]; write a unique name",
        ),
        (
            r#"{"rules": [{"name": "a"}]}"#,
            "c.json:1:12: rules[0]: the rule has no trigger; write `sequence`, `one_time_sequences` or \"spa\": true",
        ),
        (
            r#"{"rules": [{"name": "a", "sequence": [1], "commmand": "x"}]}"#,
            "c.json:1:43: rules[0].commmand: unknown key `commmand`; did you mean `command`?",
        ),
    ] {
        assert_eq!(parse("c.json", text).expect_err(text).to_string(), expected);
    }
}

#[test]
fn a_rule_of_the_client_can_have_hosts_and_how_to_knock() {
    let text = r#"{"rules": [
        {"name": "a", "sequence": [3], "host": "server.example.com", "wait": 22, "delay": "100ms", "family": "ipv4",
         "source": "192.0.2.7"},
        {"name": "b", "sequence": [3], "host": ["one", "2001:db8::1", "fe80::1%eth0", "192.0.2.1"], "wait": "22/tcp",
         "delay": 0.5, "family": "ipv6"},
        {"name": "c", "sequence": [3], "family": "both"}]}"#;
    let rules = parse("c.json", text).expect("valid");
    let a = rule("a", Trigger::Sequence(vec![Knock::tcp(3)]));
    let source = Some("192.0.2.7".parse().expect("an address"));
    let delay = |milliseconds| Some(Duration::from_millis(milliseconds));
    let hosts = vec!["server.example.com".to_owned()];
    assert_eq!(rules[0], ClientRule { hosts, wait: Some(22), delay: delay(100), family: Family::V4, source, ..a });
    assert_eq!(rules[1].hosts, ["one", "2001:db8::1", "fe80::1%eth0", "192.0.2.1"]);
    assert_eq!((rules[1].wait, rules[1].delay, rules[1].family), (Some(22), delay(500), Family::V6));
    assert_eq!(rules[2], rule("c", Trigger::Sequence(vec![Knock::tcp(3)])));
}

#[test]
fn the_keys_of_the_client_are_checked() {
    let host = |value: &str| {
        format!("host: {value} is not a host; write a name or an address, without user, port or brackets")
    };
    let cases = [
        (r#""host": "a b""#, host(r#""a b""#)),
        (r#""host": "user@a""#, host(r#""user@a""#)),
        (r#""host": "a:22""#, host(r#""a:22""#)),
        (r#""host": "[::1]""#, host(r#""[::1]""#)),
        (r#""host": "-oProxyCommand=x""#, host(r#""-oProxyCommand=x""#)),
        (r#""host": 7"#, host("7")),
        (r#""host": []"#, "host: 0 hosts are not between 1 and 256; write a name, or a list of names in this range".to_owned()),
        (
            r#""wait": "53/udp""#,
            "wait: \"53/udp\" is a UDP port, which sends no answer to wait for; write a TCP port that the rule opens, or \
             delete `wait`"
                .to_owned(),
        ),
        (
            r#""wait": 0"#,
            "wait: port 0 is not between 1 and 65535; write a number in this range, or \"7000/udp\" for UDP".to_owned(),
        ),
        (r#""delay": "61s""#, "delay: \"61s\" is longer than the maximum; write at most 60 seconds".to_owned()),
        (r#""family": "4""#, "family: \"4\" is not an IP version; write \"both\", \"ipv4\" or \"ipv6\"".to_owned()),
        (
            r#""source": "eth0""#,
            "source: \"eth0\" is not a source address; write an address of this machine, such as \"192.0.2.7\"".to_owned(),
        ),
    ];
    for (key, expected) in cases {
        let text = format!(r#"{{"rules": [{{"name": "a", "sequence": [1], {key}}}]}}"#);
        let error = parse("c.json", &text).expect_err(key).to_string();
        assert!(error.ends_with(&format!(": rules[0].{expected}")), "{error}");
    }
    let text = r#"{"rules": [{"name": "a", "sequence": [1], "host": ["a", "b c"]}]}"#;
    let error = parse("c.json", text).expect_err("a blank").to_string();
    assert!(error.starts_with("c.json:1:57: rules[0].host[1]: \"b c\" is not a host; "), "{error}");
}

/// The cover of 32 zero bytes, as in a cover file.
const COVER: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A file with a rule of these keys, beside its name.
fn packet(keys: &str) -> String {
    format!(r#"{{"rules": [{{"name": "a", {keys}}}]}}"#)
}

#[test]
fn a_rule_can_be_asked_for_with_a_signed_packet() {
    let text = packet(&format!(
        r#""host": "a.example.com", "wait": 22, "identity": "~/.ssh/id_ed25519",
           "spa": {{"port": 62201, "realm": "example.com", "cover": "{COVER}"}}"#
    ));
    let rules = parse("c.json", &text).expect("valid");
    let spa = ClientSpa {
        port: 62201.try_into().expect("not 0"),
        realm: "example.com".parse().expect("a realm"),
        cover: knock_spa::Cover::from_bytes([0; 32]),
        rule: None,
    };
    let a = rule("a", Trigger::Packet(Box::new(spa.clone())));
    let (hosts, identity) = (vec!["a.example.com".to_owned()], Some(PathBuf::from("~/.ssh/id_ed25519")));
    assert_eq!(rules, [ClientRule { hosts, wait: Some(22), identity, ..a }]);
    let named = packet(&format!(r#""spa": {{"rule": "ssh", "port": 1, "realm": "example.com", "cover": "{COVER}"}}"#));
    let spa = ClientSpa { port: 1.try_into().expect("not 0"), rule: Some("ssh".parse().expect("a name")), ..spa };
    assert_eq!(parse("c.json", &named).expect("valid")[0].trigger, Trigger::Packet(Box::new(spa)));
}

#[test]
fn a_servers_file_says_that_a_rule_takes_packets_and_not_how_to_send_them() {
    let text = r#"{"rules": [{"name": "a", "spa": true, "allow": {"ports": [22], "timeout": "1h"}},
        {"name": "b", "spa": true, "sequence": [3], "command": "x"}, {"name": "c", "spa": false, "sequence": [3]}]}"#;
    let triggers: Vec<Trigger> = parse("c.json", text).expect("valid").into_iter().map(|rule| rule.trigger).collect();
    let sequence = Trigger::Sequence(vec![Knock::tcp(3)]);
    assert_eq!(triggers, [Trigger::PacketOfServer, sequence.clone(), sequence]);
}

#[test]
fn what_is_wrong_about_packets_is_named_without_a_part_of_the_cover() {
    let add = "put the URL that `knockctl spa init` printed into the file with `knock-cli add`";
    let realm = "is not a realm; write 1 to 253 lowercase letters, digits, `.`, `-` or `_`, first and last a letter or digit, as \
                 in \"example.com\"";
    let half = &COVER[..20];
    for (spa, expected) in [
        ("7".to_owned(), format!("spa: `spa` is not an object with `port`, `realm` and `cover`; {add}")),
        (r#"{"port": 1, "realm": "b"}, "wait": 22"#.to_owned(), format!("spa: `spa` has no `cover`; {add}")),
        (format!(r#"{{"realm": "b", "cover": "{COVER}"}}"#), format!("spa: `spa` has no `port`; {add}")),
        (format!(r#"{{"port": 1, "cover": "{COVER}"}}"#), format!("spa: `spa` has no `realm`; {add}")),
        (
            format!(r#"{{"port": 65536, "realm": "b", "cover": "{COVER}"}}"#),
            "spa.port: 65536 is not a UDP port; write a number from 1 to 65535".to_owned(),
        ),
        (
            format!(r#"{{"port": "1/udp", "realm": "b", "cover": "{COVER}"}}"#),
            "spa.port: \"1/udp\" is not a UDP port; write a number from 1 to 65535".to_owned(),
        ),
        (format!(r#"{{"port": 1, "realm": "B", "cover": "{COVER}"}}"#), format!("spa.realm: `B` {realm}")),
        (
            format!(r#"{{"port": 1, "realm": 7, "cover": "{COVER}"}}"#),
            "spa.realm: 7 is not a text; write the realm in quotes".to_owned(),
        ),
        (
            format!(r#"{{"port": 1, "realm": "b", "cover": "{half}"}}"#),
            "spa.cover: the cover has 15 bytes instead of 32; copy it again from where it was made".to_owned(),
        ),
        (
            format!(r#"{{"port": 1, "realm": "b", "cover": ["{COVER}"]}}"#),
            "spa.cover: the cover is not a text; write the line of the cover file, in quotes".to_owned(),
        ),
        (
            format!(r#"{{"port": 1, "realm": "b", "cover": "{COVER}", "rule": "a b"}}"#),
            "spa.rule: `a b` is not a rule name; write 1 to 64 letters, digits, `_`, `.` or `-`".to_owned(),
        ),
        (
            format!(r#"{{"port": 1, "realm": "b", "cover": "{COVER}", "prot": 1}}"#),
            "spa.prot: unknown key `prot`; did you mean `port`?".to_owned(),
        ),
        (
            format!(r#"{{"port": 1, "realm": "b", "cover": "{COVER}"}}, "sequence": [1]"#),
            "spa: the rule has `spa` and a sequence; delete one of the two".to_owned(),
        ),
        (
            "true, \"identity\": 7".to_owned(),
            "identity: 7 is not the path of a file; write the file of a private key, as in \"~/.ssh/id_ed25519\"".to_owned(),
        ),
        (
            "false, \"sequence\": [1], \"identity\": \"f\"".to_owned(),
            "identity: `identity` is the key of a signed packet, which this rule does not send; delete `identity`, or write \
             `spa`"
                .to_owned(),
        ),
    ] {
        let error = parse("c.json", &packet(&format!(r#""spa": {spa}"#))).expect_err(&spa).to_string();
        let (first, _) = error.split_once('\n').unwrap_or((&error, ""));
        assert!(first.ends_with(&format!(": rules[0].{expected}")), "{error}\n{expected}");
        assert!(!error.contains(half), "{error}");
    }
}

#[test]
fn the_daemon_recognises_the_file_of_a_client() {
    for key in CLIENT_KEYS {
        let text = format!(r#"{{"rules": [{{"name": "a", "sequence": [1], "command": "x", "{key}": 1}}]}}"#);
        let expected = format!(
            "f.json:1:59: rules[0].{key}: `{key}` is a key of a client's file, which knock-cli reads; name the server's file \
             with -c, or delete the key"
        );
        assert_eq!(knock_config::parse("f.json", &text).expect_err(key).to_string(), expected);
    }
}

#[test]
fn another_format_is_recognised() {
    for (text, expected) in [
        ("# comment\n\n[options]\n logfile = x\n", "f:3:1: the file is a knockd.conf of knock, not JSON; "),
        ("rules:\n  - name: ssh\n", "f:1:1: the file is YAML, not JSON; "),
        ("---\nrules: []\n", "f:1:1: the file is YAML, not JSON; "),
        ("[1, x]\n", "f:1:5: not valid JSON: "),
        ("{\"rules\": [}\n", "f:1:12: not valid JSON: "),
    ] {
        let error = parse("f", text).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(error.contains("`knockctl import`"), !expected.contains("valid"));
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_others_can_read_is_noticed() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("c.json");
    for (text, mode, readable) in [
        (r#"{"rules": [{"name": "a", "sequence": [1]}]}"#, 0o644, Some(0o644)),
        (r#"{"rules": [{"name": "a", "sequence": [1]}]}"#, 0o600, None),
        (r#"{"rules": [{"name": "a", "one_time_sequences": "/f"}]}"#, 0o644, None),
        (r#"{"rules": [{"name": "a", "spa": true}]}"#, 0o644, None),
        (&packet(&format!(r#""spa": {{"port": 1, "realm": "b", "cover": "{COVER}"}}"#)), 0o644, Some(0o644)),
    ] {
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
        assert_eq!(load(&path).expect("valid").readable, readable, "{mode:o}");
    }
}
