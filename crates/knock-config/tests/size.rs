//! The biggest files: the time that a check takes grows with the file, not with its square.
//!
//! Each of these takes a second or two. It would take from half a minute to hours if each problem were looked up from the
//! start of the file, or if each pair of rules were compared.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use knock_config::{Concern, FILE_MAX, FLEET_NODES_MAX, Loaded, PROBLEMS_MAX, RULES_MAX, WARNINGS_MAX, parse};
use knock_fleet::NodeKey;

/// Far more than the check takes on an overloaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The configuration in `text`, or the last line of its errors.
#[track_caller]
fn checked(text: String) -> Result<Loaded, String> {
    let (done, result) = mpsc::channel();
    thread::spawn(move || drop(done.send(parse("c.json", &text))));
    match result.recv_timeout(PATIENCE).expect("it is checked in time") {
        Ok(loaded) => Ok(loaded),
        Err(error) => {
            let message = error.to_string();
            assert!(message.lines().count() <= PROBLEMS_MAX + 1, "{message:.2000}");
            assert!(message.len() < 16_384, "{} bytes", message.len());
            Err(message.lines().last().unwrap_or_default().to_owned())
        }
    }
}

/// As many members as fit into a file, each made by `line`.
fn full_of(line: impl Fn(usize) -> String) -> (String, usize) {
    let mut text = String::from("{\"rules\": []");
    let mut count = 0;
    while text.len() < FILE_MAX - 64 {
        text.push_str(",\n");
        text.push_str(&line(count));
        count += 1;
    }
    text.push('}');
    (text, count)
}

/// As many rules as a file can have.
fn rules(members: impl Fn(usize) -> String) -> String {
    let rules: Vec<String> =
        (0..RULES_MAX).map(|index| format!(r#"{{"name": "r{index:05}", {}}}"#, members(index))).collect();
    format!(r#"{{"rules": [{}]}}"#, rules.join(",\n"))
}

/// A sequence of that many knocks, another one for each number, in no order.
fn sequence(number: usize, length: usize) -> String {
    let knock = |step: usize| 1 + ((number * 33 + step).wrapping_mul(2_654_435_761) >> 9) % 65_535;
    let knocks: Vec<String> = (0..length).map(|step| knock(step).to_string()).collect();
    format!(r#""sequence": [{}]"#, knocks.join(", "))
}

#[test]
fn a_file_of_unknown_keys_is_refused_in_time() {
    let (text, count) = full_of(|index| format!("\"k{index}\": 1"));
    assert_eq!(
        checked(text).expect_err("wrong"),
        format!("c.json: {} more errors are not shown", count - PROBLEMS_MAX)
    );
}

#[test]
fn a_file_of_duplicate_keys_is_refused_in_time() {
    let (text, count) = full_of(|_| "\"timeout\": 1".to_owned());
    let more = count - 1 - PROBLEMS_MAX;
    assert_eq!(checked(text).expect_err("wrong"), format!("c.json: {more} more errors are not shown"));
}

#[test]
fn keys_below_a_key_as_long_as_half_the_file_are_read_in_time() {
    let members: Vec<String> = (0..200_000).map(|index| format!("\"k{index}\": {{}}")).collect();
    let text =
        format!(r#"{{"rules": [], "interface": {{"{}": {{{}}}}}}}"#, "x".repeat(FILE_MAX / 2), members.join(","));
    let message = checked(text).expect_err("wrong");
    assert!(message.starts_with("c.json:1:28: interface: {\"xxxx"), "{message}");
}

#[test]
fn rules_that_revoke_unknown_rules_are_refused_in_time() {
    let allow = r#""allow": {"ports": [22], "timeout": 60}"#;
    let text = rules(|index| format!(r#"{}, {allow}, "revoke": "q{index:05}""#, sequence(index, 3)));
    let more = RULES_MAX - PROBLEMS_MAX;
    assert_eq!(checked(text).expect_err("wrong"), format!("c.json: {more} more errors are not shown"));
    let name = "q".repeat(FILE_MAX / 2);
    let text = rules(|index| {
        format!(
            r#"{}, {allow}{}"#,
            sequence(index, 3),
            match index {
                0 => format!(r#", "revoke": "{name}""#),
                _ => String::new(),
            }
        )
    });
    assert!(checked(text).expect_err("wrong").contains("there is no rule `qqqq"));
}

#[test]
fn rules_with_different_sequences_are_compared_in_time() {
    let text = rules(|index| format!(r#"{}, "command": "x""#, sequence(index, if index % 2 == 0 { 32 } else { 16 })));
    assert_eq!(checked(text).expect("valid").warnings.len(), 0);
}

#[test]
fn rules_with_one_sequence_for_as_many_targets_are_compared_in_time() {
    let target = |index: usize| format!("10.0.{}.{}", index >> 8, index & 255);
    let text = rules(|index| format!(r#""sequence": [3, 1, 2], "command": "x", "target": "{}""#, target(index)));
    assert_eq!(checked(text).expect("valid").warnings.len(), 0);
    // With one target for two of them, there is a warning.
    let text = rules(|index| format!(r#""sequence": [3, 1, 2], "command": "x", "target": "{}""#, target(index.max(1))));
    let warnings = checked(text).expect("valid").warnings;
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(matches!(&warning.concern, Concern::Contains { rule, .. } if rule == "r00000"), "{warning}");
}

#[test]
fn warnings_about_rules_with_one_sequence_are_found_in_time() {
    let text = rules(|_| r#""sequence": [3, 1, 2], "command": "x""#.to_owned());
    assert_eq!(checked(text).expect("valid").warnings.len(), WARNINGS_MAX);
}

#[test]
fn a_fleet_of_as_many_nodes_as_possible_is_read_in_time() {
    let fleet = |vouch: &dyn Fn(usize) -> String| {
        let node = |index: usize| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&index.to_le_bytes());
            let key = NodeKey::from_seed(seed).public();
            format!(r#"{{"name": "n{index}", "key": "{key}", "vouch": [{}]}}"#, vouch(index))
        };
        let nodes: Vec<String> = (0..FLEET_NODES_MAX).map(node).collect();
        format!(
            r#"{{"fleet": {{"realm": "r", "servers": ["localhost:1"], "nodes": [{}]}},
            "rules": [{{"name": "ssh", "sequence": [3, 1, 2], "allow": {{"ports": [22], "timeout": 60}}}}]}}"#,
            nodes.join(",\n")
        )
    };
    let config = checked(fleet(&|_| r#""ssh""#.to_owned())).expect("valid").config;
    assert_eq!(config.fleet.expect("a fleet").nodes.len(), FLEET_NODES_MAX);
    let unknown = 300;
    let text = fleet(&|_| vec![r#""x""#; unknown].join(","));
    let more = unknown * FLEET_NODES_MAX - PROBLEMS_MAX;
    assert_eq!(checked(text).expect_err("wrong"), format!("c.json: {more} more errors are not shown"));
}
