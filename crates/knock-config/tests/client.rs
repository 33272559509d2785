//! The client's part of a configuration.

use std::path::PathBuf;

use knock_config::Trigger;
use knock_config::client::{ClientRule, parse};
use knock_proto::Knock;

#[test]
fn the_file_of_the_client_needs_only_names_and_sequences() {
    let text = r#"{"rules": [{"name": "a", "sequence": [3, "1/udp"]}, {"name": "b", "sequence": [7]}]}"#;
    let rule = |name: &str, sequence| ClientRule { name: name.to_owned(), trigger: Trigger::Sequence(sequence) };
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
            "c.json:1:12: rules[0]: the rule has no sequence; write `sequence` or `one_time_sequences`",
        ),
        (
            r#"{"rules": [{"name": "a", "sequence": [1], "commmand": "x"}]}"#,
            "c.json:1:43: rules[0].commmand: unknown key `commmand`; did you mean `command`? allowed here: allow, command, \
             command6, command_timeout, cooldown, name, one_time_sequences, revoke, sequence, setup, stop_after, \
             stop_command, stop_command6, stop_on_shutdown, target, tcp_flags, teardown, timeout",
        ),
    ] {
        assert_eq!(parse("c.json", text).expect_err(text).to_string(), expected);
    }
}
