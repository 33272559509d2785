//! `fleet`: its meaning, its errors and warnings, word for word.

use knock_config::{Fleet, FleetTls, NODE_KEY, OnOutage, parse};
use knock_fleet::NodeKey;

/// The public key of a node.
fn key(seed: u8) -> String {
    NodeKey::from_seed([seed; 32]).public().to_string()
}

fn node(name: &str, seed: u8, vouch: &str) -> String {
    format!(r#"{{ "name": "{name}", "key": "{}", "vouch": [{vouch}] }}"#, key(seed))
}

/// A file with a rule for sequences, one for signed packets, one without a grant, and this `fleet`.
fn file(fleet: &str) -> String {
    format!(
        r#"{{
  "fleet": {fleet},
  "spa": {{ "realm": "r", "authorized_keys": "/k", "cover_files": ["/c"] }},
  "rules": [
    {{ "name": "ssh", "sequence": [3, 1, 2], "allow": {{ "ports": [22], "timeout": 60 }} }},
    {{ "name": "web", "spa": true, "allow": {{ "ports": [443], "timeout": 60 }} }},
    {{ "name": "bell", "sequence": [9, 7, 8], "command": "x" }}
  ]
}}"#
    )
}

/// A `fleet` in which only these members are not as they have to be; one of them can be `nodes` or another required key.
fn with(members: &str) -> String {
    let default = |key: &str, value: &str| {
        if members.contains(&format!("\"{key}\"")) { String::new() } else { format!("\"{key}\": {value}, ") }
    };
    let nodes = format!("[{}]", node("a", 1, "\"ssh\""));
    let fields = [default("realm", "\"r\""), default("servers", "[\"localhost:6379\"]"), default("nodes", &nodes)];
    file(&format!("{{ {}{members} }}", fields.concat())).replace(",  }", " }")
}

fn fleet(text: &str) -> Fleet {
    parse("c.json", text).unwrap_or_else(|error| panic!("{error}")).config.fleet.expect("a fleet")
}

fn lines(messages: &str) -> Vec<String> {
    messages.lines().map(|line| line.splitn(4, ':').nth(3).unwrap_or(line).trim_start().to_owned()).collect()
}

fn errors(text: &str) -> Vec<String> {
    lines(&parse("c.json", text).expect_err(text).to_string())
}

fn warnings(text: &str) -> Vec<String> {
    let loaded = parse("c.json", text).unwrap_or_else(|error| panic!("{error}"));
    loaded.warnings.iter().flat_map(|warning| lines(&warning.to_string())).collect()
}

#[test]
fn a_fleet_has_the_documented_defaults() {
    let fleet = fleet(&with("\"user\": null"));
    assert_eq!(
        (fleet.realm.as_str(), &fleet.servers[..], fleet.read_from.len()),
        ("r", &["localhost:6379".to_owned()][..], 0)
    );
    assert_eq!((&fleet.tls, &fleet.user, &fleet.password_file), (&None, &None, &None));
    assert_eq!((fleet.node_key.to_str(), fleet.on_outage), (Some(NODE_KEY), OnOutage::Grant));
    let publish: Vec<&str> = fleet.publish.iter().map(|rule| rule.as_str()).collect();
    assert_eq!(publish, ["ssh", "web"], "each rule with `allow`");
    assert_eq!((&*fleet.nodes[0].name, fleet.nodes[0].key.to_string()), ("a", key(1)));
    assert!(fleet.nodes[0].vouch.iter().map(|rule| rule.as_str()).eq(["ssh"]));
}

#[test]
fn each_member_of_a_fleet_is_used() {
    let nodes = format!(r#""nodes": [{}, {{ "name": "b", "key": "{}" }}]"#, node("a", 1, "\"web\", \"ssh\""), key(2));
    let fleet = fleet(&with(&format!(
        r#"{nodes}, "realm": "web.example.com", "servers": ["store.example.com:6379", "192.0.2.1:1", "[2001:db8::1]:65535"],
        "read_from": ["replica:6380"], "tls": {{ "ca": "/ca.pem" }}, "user": "web", "password_file": "/password",
        "node_key": "/node.key", "publish": ["web"], "on_outage": "refuse""#
    )));
    assert_eq!((fleet.servers.len(), &fleet.read_from[..]), (3, &["replica:6380".to_owned()][..]));
    assert_eq!(fleet.tls, Some(FleetTls { ca: Some("/ca.pem".into()) }));
    assert_eq!((fleet.user.as_deref(), fleet.password_file), (Some("web"), Some("/password".into())));
    assert_eq!((fleet.node_key.to_str(), fleet.on_outage), (Some("/node.key"), OnOutage::Refuse));
    assert_eq!((fleet.publish, fleet.nodes[1].vouch.len()), (vec!["web".into()], 0));
    assert_eq!(self::fleet(&with(r#""tls": {}"#)).tls, Some(FleetTls { ca: None }));
}

#[test]
fn a_fleet_is_complete() {
    assert_eq!(
        errors(&file("{}")),
        [
            "fleet: `fleet` has no `realm`; write `realm`, `servers` and `nodes`",
            "fleet: `fleet` has no `servers`; write `realm`, `servers` and `nodes`",
            "fleet: `fleet` has no `nodes`; write `realm`, `servers` and `nodes`",
        ]
    );
    // A misspelt key is one error.
    assert_eq!(
        errors(&with(r#""realm": "r", "sever": ["localhost:1"]"#).replace("\"servers\": [\"localhost:6379\"], ", "")),
        ["fleet.sever: unknown key `sever`; did you mean `servers`?"]
    );
}

#[test]
fn each_value_of_a_fleet_is_checked() {
    let server = |value: &str| {
        format!(
            "{value} is not a server; write a host and a port, as in \"store.example.com:6379\" or \"[2001:db8::1]:6379\""
        )
    };
    for (members, expected) in [
        (r#""realm": "R""#, "fleet.realm: `R` is not a realm; write 1 to 253 lowercase letters, digits, `.`, `-` or `_`, first and last a letter or digit, as in \"example.com\"".to_owned()),
        (r#""servers": []"#, "fleet.servers: the list has 0 items; write 1 to 8".to_owned()),
        (r#""servers": ["a:1","a:2","a:3","a:4","a:5","a:6","a:7","a:8","a:9"]"#, "fleet.servers: the list has 9 items; write 1 to 8".to_owned()),
        (r#""read_from": ["a:1", "b:1", "a:1"]"#, "fleet.read_from[2]: server a:1 is in the list twice; delete one of the two".to_owned()),
        (r#""servers": ["store"]"#, format!("fleet.servers[0]: {}", server("\"store\""))),
        (r#""read_from": ["a:1", "b:0"]"#, format!("fleet.read_from[1]: {}", server("\"b:0\""))),
        (r#""servers": ["rediss://web:secret@store:6379"]"#, "fleet.servers[0]: this is a URL; write only the host and the port, as in \"store.example.com:6379\", and use `tls`, `user` and `password_file` for the rest".to_owned()),
        (r#""tls": {"ca": "ca.pem"}"#, "fleet.tls.ca: \"ca.pem\" is not an absolute path; write a path that begins with `/`".to_owned()),
        (r#""node_key": "k""#, "fleet.node_key: \"k\" is not an absolute path; write a path that begins with `/`".to_owned()),
        (r#""password_file": "p""#, "fleet.password_file: \"p\" is not an absolute path; write a path that begins with `/`".to_owned()),
        (r#""user": "web""#, "fleet.user: `user` needs `password_file`, the file of the user's password; write `password_file` or delete `user`".to_owned()),
        (r#""user": "a b""#, "fleet.user: \"a b\" is not the user of a store; write a name without spaces".to_owned()),
        (r#""on_outage": "deny""#, "fleet.on_outage: `deny` is not a valid value; write `grant` or `refuse`".to_owned()),
        (r#""publish": ["wep"]"#, "fleet.publish[0]: there is no rule `wep`; did you mean `web`? write the name of a rule with `allow`".to_owned()),
        (r#""publish": ["other"]"#, "fleet.publish[0]: there is no rule `other`; write the name of a rule with `allow`".to_owned()),
        (r#""publish": ["bell"]"#, "fleet.publish[0]: rule `bell` has no `allow`, so it has no grants to share; write the name of a rule with `allow`".to_owned()),
        (r#""publish": ["ssh", "ssh"]"#, "fleet.publish[1]: rule `ssh` is in the list twice; delete one of the two".to_owned()),
        (r#""nodes": []"#, "fleet.nodes: the list has 0 items; write 1 to 10000".to_owned()),
    ] {
        assert_eq!(errors(&with(members)), [expected], "{members}");
    }
    for host in
        ["", "-a", ".a", "a b", "a_b/", "256.0.0.1", "1.2.3", "2001:db8::1", "[fe80::1%eth0]", "[192.0.2.1]", "::1"]
    {
        let expected = format!("fleet.servers[0]: {}", server(&format!("\"{host}:1\"")));
        assert_eq!(errors(&with(&format!(r#""servers": ["{host}:1"]"#))), [expected], "{host}");
    }
    for port in ["", "0", "65536", "+1", "a"] {
        let expected = format!("fleet.servers[0]: {}", server(&format!("\"a:{port}\"")));
        assert_eq!(errors(&with(&format!(r#""servers": ["a:{port}"]"#))), [expected], "{port}");
    }
}

#[test]
fn nodes_can_be_told_apart() {
    let nodes = |nodes: &[String]| errors(&with(&format!("\"nodes\": [{}]", nodes.join(", "))));
    let [a, b] = [node("a", 1, ""), node("b", 2, "")];
    assert_eq!(
        nodes(&[a.clone(), b.clone(), node("b", 3, "")]),
        ["fleet.nodes[2].name: duplicate node name `b`, first in fleet.nodes[1]; write a unique name"]
    );
    assert_eq!(
        nodes(&[a.clone(), b, node("c", 2, "")]),
        ["fleet.nodes[2].key: fleet.nodes[1] has the same key; make a key for each node with `knockctl fleet keygen`"]
    );
    assert_eq!(
        nodes(&["{}".to_owned()]),
        [
            "fleet.nodes[0]: the node has no `name`; write `name` and `key`, as `knockctl fleet keygen` prints them",
            "fleet.nodes[0]: the node has no `key`; write `name` and `key`, as `knockctl fleet keygen` prints them",
        ]
    );
    assert_eq!(
        nodes(&[node("a b", 1, "")]),
        ["fleet.nodes[0].name: \"a b\" is not the name of a node; write 1 to 64 letters, digits, `_`, `.` or `-`"]
    );
    assert_eq!(
        nodes(&[a.clone(), node("b", 2, "\"shh\", \"bell\"")]),
        [
            "fleet.nodes[1].vouch[0]: there is no rule `shh`; did you mean `ssh`? write the name of a rule with `allow`",
            "fleet.nodes[1].vouch[1]: rule `bell` has no `allow`, so it has no grants to share; write the name of a rule with `allow`",
        ]
    );
    let secret = NodeKey::from_seed([7; 32]).to_file();
    for (wrong, expected) in [
        (
            secret.trim_end(),
            "fleet.nodes[0].key: this is the private key of a node; write the public key, `ed25519:…`, which `knockctl fleet keygen` printed, and make another key if others may have read this file",
        ),
        (
            "ssh-ed25519 AAAA",
            "fleet.nodes[0].key: this is not the key of a node; write `ed25519:` and 44 characters, as `knockctl fleet keygen` printed them",
        ),
    ] {
        assert_eq!(nodes(&[a.replace(&key(1), wrong)]), [expected]);
    }
}

#[test]
fn a_rule_that_is_wrong_is_not_missed_by_the_fleet_too() {
    let text = with(r#""publish": ["ssh", "web"]"#);
    let of = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        errors(&text.replace(from, to))
    };
    assert_eq!(of(r#""name": "web""#, r#""nam": "web""#), ["rules[1].nam: unknown key `nam`; did you mean `name`?"]);
    assert_eq!(
        of(r#""allow": { "ports": [22]"#, r#""alow": { "ports": [22]"#),
        ["rules[0].alow: unknown key `alow`; did you mean `allow`?"]
    );
    assert_eq!(
        of(r#""ports": [22]"#, r#""ports": []"#),
        ["rules[0].allow.ports: the list of ports is empty; write at least one port"]
    );
    assert_eq!(of("\"rules\"", "\"ruls\""), ["ruls: unknown key `ruls`; did you mean `rules`?"]);
}

#[test]
fn what_others_can_read_or_refuse_is_a_warning() {
    assert_eq!(warnings(&with("\"user\": null")), [""; 0]);
    for members in [r#""servers": ["127.0.0.2:6379", "[::1]:6379"]"#, r#""servers": ["store:6379"], "tls": {}"#] {
        assert_eq!(warnings(&with(members)), [""; 0], "{members}");
    }
    let plain = |place, server| {
        format!(
            "fleet.{place}: the connection to {server} is not encrypted, so others on the way can read addresses and the \
             password; write \"tls\": {{}} into `fleet`, unless the network itself is encrypted"
        )
    };
    assert_eq!(
        warnings(&with(r#""servers": ["localhost:1", "store:2"], "read_from": ["[2001:db8::1]:3"]"#)),
        [plain("servers[1]", "store:2"), plain("read_from[0]", "[2001:db8::1]:3")]
    );
    assert_eq!(
        warnings(&with(r#""publish": []"#)),
        [
            "fleet.publish: no grant is shared with the other nodes, because `publish` names no rule, or no rule has an `allow`; write the rules whose grants the other nodes get"
        ]
    );
    let nodes = format!("\"nodes\": [{}]", node("a", 1, ""));
    assert_eq!(
        warnings(&with(&nodes)),
        [
            "fleet.nodes: the other nodes refuse the grants of rule `ssh`: no packet of it is signed by a user, and no node vouches for it; write `ssh` into `vouch` of the nodes whose word is enough, or write a `publish` without it"
        ]
    );
    assert_eq!(warnings(&with(&format!(r#"{nodes}, "publish": ["web"]"#))), [""; 0]);
}
