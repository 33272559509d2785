//! Files and whole texts: unreadable files, the limit of displayed problems, and no panic.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use knock_config::{Concern, FILE_MAX, PROBLEMS_MAX, load, parse};
use proptest::prelude::*;

const VALID: &str = r#"{"rules": [{"name": "a", "command": "x", "sequence": [3, 1, 2]}]}"#;

fn load_bytes(bytes: &[u8]) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("c.json");
    std::fs::write(&path, bytes).expect("the file is written");
    let message = load(&path).expect_err("the file is no configuration").to_string();
    message.replace(&path.display().to_string(), "c.json")
}

#[test]
fn a_missing_file_is_named_with_the_reason() {
    let message = load(Path::new("/nonexistent/config.json")).expect_err("there is none").to_string();
    assert_eq!(
        message,
        "/nonexistent/config.json: cannot read the configuration: No such file or directory (os error 2); \
         is the path right? -c names another file"
    );
}

#[test]
fn a_directory_is_not_a_configuration() {
    let message = load(Path::new("/")).expect_err("a directory").to_string();
    assert_eq!(message, "/: cannot read the configuration: Is a directory (os error 21)");
}

#[test]
fn a_huge_file_is_refused_before_it_is_read_whole() {
    let message = load(Path::new("/dev/zero")).expect_err("endless").to_string();
    assert_eq!(
        message,
        "/dev/zero: the file is bigger than the limit of 16 MiB and is probably not a configuration; name the right file with -c"
    );
    let mut padded = VALID.to_owned();
    padded.push_str(&" ".repeat(FILE_MAX - VALID.len()));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("c.json");
    std::fs::write(&path, &padded).expect("the file is written");
    load(&path).expect("the biggest file that is allowed");
}

#[test]
fn a_byte_that_is_not_utf8_is_located() {
    assert_eq!(load_bytes(b"{\n \"ru\xffles\": []}"), "c.json:2:5: not UTF-8 text; save the file as UTF-8");
}

#[test]
fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
    let deep = format!("{{\"rules\": {}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    assert_eq!(
        load_bytes(deep.as_bytes()),
        "c.json:1:137: not valid JSON: recursion limit exceeded; a configuration needs no such deep nesting"
    );
}

#[test]
fn columns_count_characters_and_lines_may_end_in_crlf() {
    let text = "{\"rules\": [\r\n  {\"name\": \"äöü\", \"command\": \"ü\", \"sequence\": [70000]}]}";
    let message = parse("c.json", text).expect_err("two problems").to_string();
    let places: Vec<&str> = message.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(places, ["c.json:2:12", "c.json:2:48"]);
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_file() {
    let text = "{\n\"timeout\": 0,\n\"interface\": [],\n\"rules\": [\n{\"name\": \"a b\",\n\"sequence\": [0, 70000, 1],\n\
                \"revoke\": \"z\"}],\n\"limits\": {\"commands\": 0}}";
    let message = parse("c.json", text).expect_err("seven problems").to_string();
    let places: Vec<&str> = message.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(
        places,
        ["c.json:2:12", "c.json:3:14", "c.json:5:10", "c.json:6:14", "c.json:6:17", "c.json:7:11", "c.json:8:24"]
    );
}

#[test]
fn a_file_with_many_problems_gets_a_bounded_message() {
    let ports = vec!["0"; 32].join(", ");
    let text = format!(r#"{{"rules": [{{"name": "a", "command": "x", "sequence": [{ports}]}}]}}"#);
    let message = parse("c.json", &text).expect_err("32 problems").to_string();
    assert_eq!(message.lines().count(), PROBLEMS_MAX + 1);
    assert_eq!(message.lines().last(), Some("c.json: 12 more errors are not shown"));
}

#[test]
fn more_rules_than_are_allowed_are_refused() {
    let rule = |index| format!(r#"{{"name": "a{index}", "command": "x", "sequence": [{}, 1]}}"#, index + 2);
    let file = |count| format!("{{\"rules\": [{}]}}", (0..count).map(rule).collect::<Vec<_>>().join(","));
    parse("c.json", &file(16_384)).expect("as many as are allowed");
    let message = parse("c.json", &file(16_385)).expect_err("one more").to_string();
    assert_eq!(message, "c.json:1:11: rules: 16385 rules are more than the limit of 16384; delete some rules");
}

#[test]
fn a_file_that_every_user_can_read_causes_a_warning() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("c.json");
    std::fs::write(&path, VALID).expect("the file is written");
    for (mode, warned) in [(0o644, true), (0o640, false), (0o600, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("the file is ours");
        let warnings = load(&path).expect("valid").warnings;
        assert_eq!(warnings.iter().any(|warning| warning.concern == Concern::WorldReadable { mode }), warned);
        if let [warning] = &warnings[..] {
            assert_eq!(
                warning.to_string(),
                format!(
                    "{}:1:1: every user of this machine can read the secret sequences (mode 0644); run chmod o-rwx on \
                     the file",
                    path.display()
                )
            );
        }
    }
}

/// Any JSON value, shallow, with the keys of a configuration among its keys.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let key = proptest::sample::select(vec![
        "rules",
        "name",
        "sequence",
        "command",
        "allow",
        "timeout",
        "ports",
        "set",
        "revoke",
        "interface",
        "limits",
        "tcp_flags",
        "target",
        "nftables",
        "table",
        "stop_after",
        "x",
    ]);
    let text = prop_oneof![
        any::<String>(),
        proptest::sample::select(vec!["any", "5s", "7000/udp", "inet a b", "syn,!ack", "a"]).prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        (0u32..70000).prop_map(serde_json::Value::from),
        text.prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = parse("c.json", &text).map_err(|error| error.to_string());
    }

    #[test]
    fn no_json_panics(value in json()) {
        let _ = parse("c.json", &value.to_string()).map_err(|error| error.to_string());
        let wrapped = serde_json::json!({"rules": [value]}).to_string();
        let _ = parse("c.json", &wrapped).map_err(|error| error.to_string());
    }

    #[test]
    fn no_mutation_of_a_valid_file_panics(at in 0usize..VALID.len(), byte in 0u8..128) {
        let mut bytes = VALID.as_bytes().to_vec();
        bytes[at] = byte;
        let text = String::from_utf8(bytes).expect("ASCII stays ASCII");
        if let Err(error) = parse("c.json", &text) {
            prop_assert!(error.to_string().starts_with("c.json:"));
        }
    }
}
