//! `knock-cli add` with a URL: from the administrator's line to a packet that the server accepts.

mod support;

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use support::ssh::{COVER, COVER_OF_URL, Home, accepted, received};
use support::*;

fn url(host: &str, port: u16) -> String {
    format!("knock://{host}:{port}/?realm=example.com&cover={COVER_OF_URL}\n")
}

/// The rules of the user's file.
fn rules(home: &Home) -> Value {
    let text = std::fs::read_to_string(home.path(".config/knock/config.json")).expect("it is there");
    serde_json::from_str::<Value>(&text).expect("JSON")["rules"].clone()
}

#[test]
fn from_the_url_to_a_packet_and_the_line_that_the_server_needs() {
    let home = Home::new();
    home.key("id_ed25519", "ed25519", "");
    let (udp, port) = udp();
    let output = with_input(&mut home.client(&["add", "web"]), &url("127.0.0.1", port));
    let file = home.path(".config/knock/config.json");
    let said = stdout(&output);
    let (first, rest) = said.split_once('\n').expect("two lines");
    assert_eq!(first, format!("added to {}: web", file.display()));
    let (wait, rest) = rest.split_once('\n').expect("two lines");
    assert!(wait.ends_with("knock-cli --wait PORT web"), "{wait}");
    let (how, line) = rest.split_once('\n').expect("two lines");
    assert!(how.ends_with("id_ed25519; the server needs this line in its authorized_keys:"), "{how}");
    assert_eq!(stderr(&output), "");
    assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(
        rules(&home),
        json!([{ "name": "web", "host": "127.0.0.1", "spa": { "port": port, "realm": "example.com", "cover": COVER } }])
    );
    let output = home.client(&["web"]).output().expect("it runs");
    assert_eq!(stdout(&output), "sent a signed packet to 127.0.0.1\n", "{}", stderr(&output));
    accepted(&received(&udp)[0], line);
}

#[test]
fn a_name_and_a_url_can_be_arguments_and_options_go_into_the_rule() {
    let home = Home::new();
    let add = |arguments: &[&str], input: &str| with_input(&mut home.client(&[&["add"], arguments].concat()), input);
    let one = url("one.example.com", 443);
    let one = one.trim();
    assert_eq!(add(&["--wait", "22", "--rule", "ssh", "-i", "~/key", "web", one], "").status.code(), Some(0));
    // The host is the name of the rule where there is none.
    assert_eq!(add(&[one], "").status.code(), Some(0));
    assert_eq!(add(&["--name", "six", "-i", "key"], &url("[2001:db8::1]", 443)).status.code(), Some(0));
    let spa = json!({ "port": 443, "realm": "example.com", "cover": COVER });
    let mut named = spa.clone();
    named["rule"] = "ssh".into();
    assert_eq!(
        rules(&home),
        json!([
            { "name": "web", "host": "one.example.com", "wait": 22, "identity": "~/key", "spa": named },
            { "name": "one.example.com", "host": "one.example.com", "spa": spa },
            { "name": "six", "host": "2001:db8::1", "identity": home.path("key"), "spa": spa },
        ])
    );
}

#[test]
fn another_url_for_a_rule_leaves_the_users_own_keys() {
    let home = Home::new();
    let add = |arguments: &[&str], input: &str| with_input(&mut home.client(&[&["add"], arguments].concat()), input);
    add(&["web", "--wait", "22", "--rule", "ssh"], &url("a.example.com", 443));
    let newer = url("a.example.com", 62201).replace(COVER_OF_URL, &"A".repeat(43));
    assert_eq!(add(&["web"], &newer).status.code(), Some(0));
    let cover = format!("{}=", "A".repeat(43));
    let spa = json!({ "port": 62201, "realm": "example.com", "cover": cover, "rule": "ssh" });
    assert_eq!(rules(&home), json!([{ "name": "web", "host": "a.example.com", "wait": 22, "spa": spa }]));
    assert_eq!(add(&["web", "--wait", "443"], &newer).status.code(), Some(0));
    assert_eq!(rules(&home)[0]["wait"], json!(443));
    // Of another server it is another rule.
    let output = add(&["web"], &url("b.example.com", 443));
    assert!(
        stderr(&output).contains("has another rule `web`, with host a.example.com; choose a name"),
        "{}",
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn a_wrong_url_or_command_line_changes_nothing_and_shows_no_cover() {
    let home = Home::new();
    let add = |arguments: &[&str], input: &str| with_input(&mut home.client(&[&["add"], arguments].concat()), input);
    let good = url("a.example.com", 443);
    let good = good.trim();
    let json = r#"{"rules": [{"name": "a", "sequence": [1]}]}"#;
    for (arguments, input, expected, status) in [
        (&["web"][..], &good[..60], "the cover in the URL ", 78),
        (
            &["web"],
            &good.replace("realm", "relm")[..],
            "there is something else in the URL than `realm` and `cover`",
            78,
        ),
        (&["web"], &good[1..], "the rule cannot be added: ", 78),
        (&["web", &good[1..]], "", "the URL does not begin with `knock://`", 78),
        (&[&good[1..]], "", "the URL does not begin with `knock://`", 78),
        (&["a b", good], "", "\"a b\" is not a rule name", 78),
        (&[], &url("[2001:db8::1]", 443)[..], "it has no name; write one: knock-cli add NAME", 78),
        (&["web", "--name", "web"], good, "the rule has two names", 2),
        (&["--wait", "0", "web"], good, "0 is not in 1..=65535", 2),
        (&["web", good, "more"], "", "unexpected", 2),
        (&["--wait", "22", "web"], json, "--wait, --rule and --identity are for a URL, and this is JSON", 2),
    ] {
        let output = add(arguments, input);
        let said = stderr(&output);
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("BwcHBwc"), "{arguments:?}: {said}");
        assert_eq!((stdout(&output).as_str(), output.status.code()), ("", Some(status)), "{arguments:?}");
        assert!(!home.path(".config/knock/config.json").exists(), "{arguments:?}");
    }
    // JSON can have a name as operand too.
    assert_eq!(add(&["home"], json).status.code(), Some(0));
    assert_eq!(rules(&home), json!([{ "name": "home", "sequence": [1] }]));
}

#[test]
fn a_rule_is_added_also_where_no_key_signs_yet() {
    let home = Home::new();
    let output = with_input(&mut home.client(&["add", "web"]), &url("a.example.com", 443));
    assert!(stdout(&output).contains("\nno key signs yet: there is no ssh key: "), "{}", stdout(&output));
    assert_eq!((output.status.code(), rules(&home)[0]["name"].clone()), (Some(0), json!("web")));
}
