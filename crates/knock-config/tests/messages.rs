//! Each error of a configuration, word for word.

use knock_config::parse;

/// The errors of the file `text`.
fn errors(text: &str) -> String {
    parse("c.json", text).expect_err(text).to_string()
}

/// The errors of a file with one rule, which has these members besides its name.
fn rule_errors(members: &str) -> String {
    without_position(&errors(&format!("{{\"rules\": [{{\"name\": \"a\", {members}}}]}}")))
}

/// The errors of a file with these members besides a valid rule.
fn top_errors(members: &str) -> String {
    let rule = "{\"name\": \"a\", \"command\": \"x\", \"sequence\": [3, 1, 2]}";
    without_position(&errors(&format!("{{{members}, \"rules\": [{rule}]}}")))
}

/// The message without `c.json:LINE:COLUMN: `.
fn without_position(message: &str) -> String {
    message.splitn(4, ':').nth(3).unwrap_or(message).trim_start().to_owned()
}

#[test]
fn a_key_in_a_message_has_no_control_characters_and_a_limited_length() {
    let long = format!("\\u001b[31m{}", "x".repeat(5000));
    for text in [format!(r#"{{"{long}": 1}}"#), format!(r#"{{"interface": {{"{long}": 1, "{long}": 2}}}}"#)] {
        let message = errors(&text);
        assert!(!message.chars().any(char::is_control) && message.len() < 1000, "{message:?}");
        assert!(message.contains(r"\u{1b}[31mxxx"), "{message}");
    }
}

#[test]
fn the_former_key_of_a_stop_command_leads_to_its_present_one() {
    let members = r#""sequence": [1, 2], "command": "x", "stop_command": "y", "stop_after": 5, "on_stop": "keep""#;
    assert_eq!(rule_errors(members), "rules[0].on_stop: unknown key `on_stop`; did you mean `stop_on_shutdown`?");
    // Elsewhere the key is only unknown.
    assert!(!top_errors(r#""on_stop": "keep""#).contains("stop_on_shutdown"));
}

#[test]
fn an_unknown_or_duplicate_key_is_named() {
    for (text, expected) in [
        (
            r#""sequence": [1, 2], "command": "x", "sequnce": 1"#,
            "rules[0].sequnce: unknown key `sequnce`; did you mean `sequence`?",
        ),
        (r#""sequence": [1, 2], "activate": "x""#, "rules[0].activate: unknown key `activate`; write `command`"),
        (
            r#""sequence": [1, 2], "seq_cooldown": 5"#,
            "rules[0].seq_cooldown: unknown key `seq_cooldown`; write `cooldown`",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "deactivate": "y""#,
            "rules[0].deactivate: unknown key `deactivate`; write `stop_command`, with `stop_after` for the time between it and `command`",
        ),
        (
            r#""sequence": [1, 2], "Start_Command_6": "x""#,
            "rules[0].Start_Command_6: unknown key `Start_Command_6`; write `command6`",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "timout": 5}"#,
            "rules[0].allow.timout: unknown key `timout`; did you mean `timeout`?",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "command": "y""#,
            "rules[0].command: duplicate key `command`, first in line 1; delete one of the two",
        ),
    ] {
        assert_eq!(rule_errors(text), expected, "{text}");
    }
}

#[test]
fn a_rule_needs_a_sequence_of_ports() {
    for (text, expected) in [
        (
            r#""command": "x""#,
            "rules[0]: the rule has no trigger; write `sequence`, `one_time_sequences` or \"spa\": true",
        ),
        (
            r#""command": "x", "sequence": [1], "one_time_sequences": "/f""#,
            "rules[0].one_time_sequences: the rule has both `sequence` and `one_time_sequences`; delete one of the two",
        ),
        (
            r#""command": "x", "sequence": []"#,
            "rules[0].sequence: the sequence is empty, so every packet would complete it; write 1 to 32 knocks",
        ),
        (
            r#""command": "x", "sequence": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33]"#,
            "rules[0].sequence: 33 knocks are more than the limit of 32; write a shorter sequence",
        ),
        (
            r#""command": "x", "sequence": [70000]"#,
            r#"rules[0].sequence[0]: port 70000 is not between 1 and 65535; write a number in this range, or "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": [0]"#,
            r#"rules[0].sequence[0]: port 0 is not between 1 and 65535; write a number in this range, or "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": [-5]"#,
            r#"rules[0].sequence[0]: port -5 is not between 1 and 65535; write a number in this range, or "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": ["70000/udp"]"#,
            r#"rules[0].sequence[0]: port 70000 is not between 1 and 65535; write a number in this range, or "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": ["-5"]"#,
            r#"rules[0].sequence[0]: port -5 is not between 1 and 65535; write a number in this range, or "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": [99999999999999999999]"#,
            r#"rules[0].sequence[0]: port 1e+20 is not between 1 and 65535; write a number in this range, or "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": [1.5]"#,
            r#"rules[0].sequence[0]: 1.5 is not a port; write 7000 for TCP, "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": ["abc"]"#,
            r#"rules[0].sequence[0]: "abc" is not a port; write 7000 for TCP, "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": [true]"#,
            r#"rules[0].sequence[0]: true is not a port; write 7000 for TCP, "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": ["7000-7010"]"#,
            r#"rules[0].sequence[0]: "7000-7010" is more than one port; write each port as a separate list element"#,
        ),
        (
            r#""command": "x", "sequence": ["7000,8000"]"#,
            r#"rules[0].sequence[0]: "7000,8000" is more than one port; write each port as a separate list element"#,
        ),
        (
            r#""command": "x", "sequence": ["7000/sctp"]"#,
            r#"rules[0].sequence[0]: `sctp` is not a protocol; write tcp or udp, as in "7000/udp""#,
        ),
        (
            r#""command": "x", "sequence": ["7000:UDP"]"#,
            r#"rules[0].sequence[0]: `UDP` is not a protocol; write tcp or udp, as in "7000/udp""#,
        ),
        (
            r#""command": "x", "sequence": 7000"#,
            "rules[0].sequence: integer `7000` is not a list; write a list, as in [7000]",
        ),
        (
            r#""command": "x", "one_time_sequences": "seqs""#,
            r#"rules[0].one_time_sequences: "seqs" is not an absolute path; write a path that begins with `/`"#,
        ),
        (
            r#""command": "x", "one_time_sequences": "/a\u0000b""#,
            "rules[0].one_time_sequences: the path contains a NUL character, which is not valid in a path; delete the character",
        ),
    ] {
        assert_eq!(rule_errors(text), expected, "{text}");
    }
}

#[test]
fn a_duration_is_bounded_and_has_a_unit() {
    for (text, expected) in [
        (
            r#""sequence": [1, 2], "command": "x", "timeout": "abc""#,
            r#"rules[0].timeout: "abc" is not a duration; write seconds (5, 0.5), or a text with the unit ("500ms", "5s", "10m", "1h", "1d")"#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "timeout": true"#,
            r#"rules[0].timeout: true is not a duration; write seconds (5, 0.5), or a text with the unit ("500ms", "5s", "10m", "1h", "1d")"#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "timeout": "5""#,
            r#"rules[0].timeout: "5" has no unit; write the number of seconds without quotes, or a unit: "5s""#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "timeout": 0"#,
            r#"rules[0].timeout: 0 is not longer than zero; write at least "1ms""#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "timeout": -1"#,
            r#"rules[0].timeout: -1 is not longer than zero; write at least "1ms""#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "timeout": 0.0001"#,
            r#"rules[0].timeout: 0.0001 is shorter than the minimum; write at least "1ms""#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "command_timeout": "366d""#,
            r#"rules[0].command_timeout: "366d" is longer than the maximum; write at most 365 days"#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "cooldown": 0"#,
            r#"rules[0].cooldown: 0 is not longer than zero; write at least "1ms""#,
        ),
        (
            r#""one_time_sequences": "/etc/list", "command": "x", "cooldown": 5"#,
            "rules[0].cooldown: a one-time sequence works only once, so it needs no cooldown; delete `cooldown`",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "timeout": "0s"}"#,
            r#"rules[0].allow.timeout: "0s" is not longer than zero; write at least a second"#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "timeout": "999ms"}"#,
            r#"rules[0].allow.timeout: "999ms" is shorter than the minimum; write at least a second"#,
        ),
    ] {
        assert_eq!(rule_errors(text), expected, "{text}");
    }
}

#[test]
fn tcp_flags_and_target_are_checked() {
    for (text, expected) in [
        (
            r#""sequence": [1, 2], "command": "x", "tcp_flags": 2"#,
            r#"rules[0].tcp_flags: 2 is not a list of TCP flags; write ["syn", "!ack"] or "syn,!ack""#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "tcp_flags": ["syn", 2]"#,
            r#"rules[0].tcp_flags: ["syn",2] is not a list of TCP flags; write ["syn", "!ack"] or "syn,!ack""#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "tcp_flags": "syn,foo""#,
            "rules[0].tcp_flags: `foo` is not a TCP flag; write syn, ack, rst, fin, psh or urg, with `!` before a flag that must be clear",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "tcp_flags": []"#,
            r#"rules[0].tcp_flags: the list of TCP flags is empty; write at least one flag, or delete `tcp_flags` for the default, "syn,!ack,!rst,!fin""#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "tcp_flags": """#,
            r#"rules[0].tcp_flags: the list of TCP flags is empty; write at least one flag, or delete `tcp_flags` for the default, "syn,!ack,!rst,!fin""#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "tcp_flags": ["syn", "!syn"]"#,
            "rules[0].tcp_flags: no segment has `syn` both set and clear; write one of `syn` and `!syn`",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "target": "example.com""#,
            r#"rules[0].target: "example.com" is not an IP address; write an address such as "192.0.2.1" or "2001:db8::1", without port, prefix or host name"#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "target": "0.0.0.0""#,
            r#"rules[0].target: "0.0.0.0" is not a destination address; delete `target` to accept knocks to any address of this host"#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "target": "::ffff:192.0.2.1""#,
            r#"rules[0].target: "::ffff:192.0.2.1" is an IPv4 address in IPv6 form; write "192.0.2.1""#,
        ),
    ] {
        assert_eq!(rule_errors(text), expected, "{text}");
    }
}

#[test]
fn a_rule_needs_an_action_with_a_valid_command() {
    for (text, expected) in [
        (
            r#""sequence": [1, 2]"#,
            "rules: no rule has an action, as in a file of knock-cli; name the configuration of knockd with -c, or write at least one of `allow`, `command` and `revoke` in each rule",
        ),
        (
            r#""sequence": [1, 2], "setup": "x""#,
            "rules: no rule has an action, as in a file of knock-cli; name the configuration of knockd with -c, or write at least one of `allow`, `command` and `revoke` in each rule",
        ),
        (
            r#""sequence": [1, 2], "command": """#,
            "rules[0].command: the command is empty; write a command, or delete the key",
        ),
        (
            r#""sequence": [1, 2], "command": " \t ""#,
            "rules[0].command: the command is empty; write a command, or delete the key",
        ),
        (
            r#""sequence": [1, 2], "command": "a\u0000b""#,
            "rules[0].command: the command contains a NUL character, which a shell does not accept; delete the character",
        ),
        (r#""sequence": [1, 2], "command": 5"#, "rules[0].command: integer `5` is not a string; write a string"),
        (
            r#""sequence": [1, 2], "command": "x", "teardown": """#,
            "rules[0].teardown: the command is empty; write a command, or delete the key",
        ),
        (
            r#""sequence": [1, 2], "command6": "x""#,
            r#"rules[0].command6: `command6` needs `command`, the command for IPv4 sources (":" does nothing); write `command` or delete `command6`"#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "stop_command": "y""#,
            "rules[0].stop_command: `stop_command` needs `stop_after`, the time between the two commands; write `stop_after` or delete `stop_command`",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "stop_after": 5"#,
            "rules[0].stop_after: `stop_after` needs `stop_command`, the command that runs after this time; write `stop_command` or delete `stop_after`",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "timeout": 5}, "stop_command": "y", "stop_after": 5"#,
            "rules[0].stop_command: `stop_command` needs `command`, the command that it undoes; write `command` or delete `stop_command`",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "stop_command6": "y""#,
            r#"rules[0].stop_command6: `stop_command6` needs `stop_command`, the command for IPv4 sources (":" does nothing); write `stop_command` or delete `stop_command6`"#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "stop_on_shutdown": "keep""#,
            "rules[0].stop_on_shutdown: `stop_on_shutdown` needs `stop_command`, the command to which it applies; write `stop_command` or delete `stop_on_shutdown`",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "stop_command": "y", "stop_after": 5, "stop_on_shutdown": "remove""#,
            "rules[0].stop_on_shutdown: `remove` is not a valid value; write `run` or `keep`",
        ),
    ] {
        assert_eq!(rule_errors(text), expected, "{text}");
    }
}

#[test]
fn allow_and_revoke_are_checked() {
    for (text, expected) in [
        (
            r#""sequence": [1, 2], "allow": {"timeout": 5}"#,
            "rules[0].allow: `allow` has no ports and no set; write `ports` (for the managed table), or `set` or `set6` (for user sets)",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "set": "ip a b", "timeout": 5}"#,
            "rules[0].allow: `allow` has both `ports` and a set; delete one of the two, and write another rule for it",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22]}"#,
            r#"rules[0].allow: `allow` has no `timeout`; write the duration of a grant, as in "timeout": "1h""#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [], "timeout": 5}"#,
            "rules[0].allow.ports: the list of ports is empty; write at least one port",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22, "22/tcp"], "timeout": 5}"#,
            "rules[0].allow.ports[1]: duplicate port 22/tcp in the list; delete one of the two",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": ["60000-61000/udp", 22, "60500/udp"], "timeout": 5}"#,
            "rules[0].allow.ports[2]: 60500/udp is part of 60000-61000/udp in the same list; delete one of the two",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": ["61000-60000/udp"], "timeout": 5}"#,
            "rules[0].allow.ports[0]: the range 61000-60000 ends below its start; write the lower port first: 60000-61000",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": ["0-10"], "timeout": 5}"#,
            r#"rules[0].allow.ports[0]: port 0 is not between 1 and 65535; write a number in this range, or "7000/udp" for UDP"#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": ["60000 - 61000"], "timeout": 5}"#,
            r#"rules[0].allow.ports[0]: "60000 - 61000" is not a range of ports; write "60000-61000" for TCP, "60000-61000/udp" for UDP"#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": ["22,80"], "timeout": 5}"#,
            r#"rules[0].allow.ports[0]: "22,80" is more than one port; write each port as a separate list element"#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "prefix6": 129, "timeout": 5}"#,
            "rules[0].allow.prefix6: 129 is not a whole number from 16 to 128; write a number in this range",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "prefix4": "/24", "timeout": 5}"#,
            r#"rules[0].allow.prefix4: "/24" is not a whole number from 8 to 32; write a number in this range"#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"set6": "inet a b", "prefix6": 64, "timeout": 5}"#,
            "rules[0].allow.prefix6: `prefix6` needs `ports`, because a user set holds single addresses; delete `prefix6`, or write `ports`",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": 22, "timeout": 5}"#,
            r#"rules[0].allow.ports: 22 is not a list of ports; write a list, as in [22, "60000-61000/udp"], or "any""#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": "any", "timeout": 5}"#,
            r#"rules[0].allow.ports: "any" opens every guarded port, but no rule guards one; write the ports into the list too, or use `set` to open the whole host"#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": ["ssh"], "timeout": 5}"#,
            r#"rules[0].allow.ports[0]: "ssh" is not a port; write 7000 for TCP, "7000/udp" for UDP"#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"set": "filter knock", "timeout": 5}"#,
            r#"rules[0].allow.set: "filter knock" is not the name of a set; write "FAMILY TABLE SET", as in "inet filter knock_ssh4""#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"set": "arp filter knock", "timeout": 5}"#,
            "rules[0].allow.set: \"arp\" is not a family of tables that hold addresses; write ip, ip6, inet, bridge or netdev",
        ),
        (
            r#""sequence": [1, 2], "allow": {"set": "inet filter 4knock", "timeout": 5}"#,
            r#"rules[0].allow.set: "4knock" is not a name that nft can write; write letters, digits, `_`, `.`, `-` and `/`, a letter or `_` first, at most 255"#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"set": "ip6 filter knock", "timeout": 5}"#,
            "rules[0].allow.set: `set` names a set in a table of family ip6, which sees no IPv4 packets; name a set for IPv4 addresses",
        ),
        (
            r#""sequence": [1, 2], "allow": {"set6": "ip filter knock", "timeout": 5}"#,
            "rules[0].allow.set6: `set6` names a set in a table of family ip, which sees no IPv6 packets; name a set for IPv6 addresses",
        ),
        (
            r#""sequence": [1, 2], "allow": {"set": "inet f k", "set6": "inet f k", "timeout": 5}"#,
            "rules[0].allow.set6: `set` and `set6` name the same set, but a set holds addresses of one IP version; name a set of type ipv6_addr in `set6`",
        ),
        (
            r#""sequence": [1, 2], "revoke": "b""#,
            "rules[0].revoke: there is no rule `b`; write the name of a rule with `allow`",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "timeout": 5}, "revoke": "a""#,
            "rules[0].revoke: the rule revokes its own grant; write the name of another rule",
        ),
    ] {
        assert_eq!(rule_errors(text), expected, "{text}");
    }
}

#[test]
fn interfaces_have_names_that_the_kernel_accepts() {
    for (text, expected) in [
        (r#""interface": 5"#, r#"interface: 5 is not an interface; write a name, a list of names, or "any""#),
        (
            r#""interface": """#,
            r#"interface: "" is not the name of an interface; write 1 to 15 bytes without blanks, `/`, `:` or `%`, as in "eth0""#,
        ),
        (
            r#""interface": "eth0/1""#,
            r#"interface: "eth0/1" is not the name of an interface; write 1 to 15 bytes without blanks, `/`, `:` or `%`, as in "eth0""#,
        ),
        (
            r#""interface": "eth0:1""#,
            r#"interface: "eth0:1" is the label of an address and not the name of an interface; write the part before the `:`, as in "eth0""#,
        ),
        (
            r#""interface": "Any""#,
            r#"interface: "Any" is not the name of an interface; write "any" for every interface"#,
        ),
        (r#""interface": []"#, r#"interface: the list of interfaces is empty; write at least one interface, or "any""#),
        (
            r#""interface": ["eth0", "eth0"]"#,
            "interface[1]: duplicate interface `eth0` in the list; delete one of the two",
        ),
        (
            r#""interface": ["eth0", "any"]"#,
            r#"interface[1]: "any" means every interface and cannot be in a list; write "interface": "any""#,
        ),
        (
            r#""interface": ["eth0", 5]"#,
            r#"interface[1]: 5 is not an interface; write a name, a list of names, or "any""#,
        ),
        (
            r#""nftables": {"exempt_interfaces": ["lo", "a b"]}"#,
            r#"nftables.exempt_interfaces[1]: "a b" is more than one name; write each name as an element of a list, ["eth0", "eth1"]"#,
        ),
        (
            r#""nftables": {"exempt_interfaces": ["lo", "ALL"]}"#,
            r#"nftables.exempt_interfaces[1]: "ALL" would exempt every interface, so that the gate guards nothing; write the names of the interfaces from which no knock is needed"#,
        ),
    ] {
        assert_eq!(top_errors(text), expected, "{text}");
    }
}

#[test]
fn settings_outside_rules_are_checked() {
    for (text, expected) in [
        (r#""intreface": "eth0""#, "intreface: unknown key `intreface`; did you mean `interface`?"),
        (
            r#""timeout": []"#,
            r#"timeout: [] is not a duration; write seconds (5, 0.5), or a text with the unit ("500ms", "5s", "10m", "1h", "1d")"#,
        ),
        (
            r#""nftables": {"table": "a b"}"#,
            r#"nftables.table: "a b" is not a name that nft can write; write letters, digits, `_`, `.`, `-` and `/`, a letter first, at most 255"#,
        ),
        (
            r#""nftables": {"table": "rt"}"#,
            "nftables.table: \"rt\" is a word of nft's language, so nft could not list that table; write another name, such as `knockd`",
        ),
        (
            r#""nftables": {"on_stop": "delete"}"#,
            "nftables.on_stop: `delete` is not a valid value; write `remove` or `keep`",
        ),
        (
            r#""nftables": {"last_knock": "both"}"#,
            "nftables.last_knock: `both` is not a valid value; write `daemon` or `kernel`",
        ),
        (
            r#""nftables": {"owner": "yes"}"#,
            r#"nftables.owner: string "yes" is not a boolean; write a boolean, true or false"#,
        ),
        (r#""tripwires": 1"#, "tripwires: integer `1` is not a boolean; write a boolean, true or false"),
        (
            r#""limits": {"sources": 0}"#,
            "limits.sources: 0 is not a whole number from 1 to 1048576; write a number in this range",
        ),
        (
            r#""limits": {"grants": 1048577}"#,
            "limits.grants: 1048577 is not a whole number from 1 to 1048576; write a number in this range",
        ),
        (
            r#""limits": {"commands": 1.5}"#,
            "limits.commands: 1.5 is not a whole number from 1 to 1024; write a number in this range",
        ),
        (
            r#""limits": {"command_queue": "many"}"#,
            r#"limits.command_queue: "many" is not a whole number from 1 to 65536; write a number in this range"#,
        ),
        (
            r#""limits": {"commands": []}"#,
            "limits.commands: a list is not a whole number from 1 to 1024; write a number in this range",
        ),
        (r#""limits": 5"#, "limits: integer `5` is not an object; write an object"),
        (
            r#""control_socket": "run/knockd.sock""#,
            r#"control_socket: "run/knockd.sock" is not an absolute path; write a path that begins with `/`"#,
        ),
        (
            r#""control_socket": "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa""#,
            "control_socket: the path is 108 bytes long, but the path of a socket has at most 107 bytes (unix(7)); write a shorter path",
        ),
        (r#""state_dir": ".""#, r#"state_dir: "." is not an absolute path; write a path that begins with `/`"#),
        (
            r#""log": {"target": "file"}"#,
            "log.target: `file` is not a valid value; write one of `stderr`, `syslog`, `journal`",
        ),
        (
            r#""log": {"level": "loud"}"#,
            "log.level: `loud` is not a valid value; write one of `error`, `warn`, `info`, `debug`, `trace`",
        ),
    ] {
        assert_eq!(top_errors(text), expected, "{text}");
    }
}

#[test]
fn a_file_that_is_not_a_configuration_is_refused_with_place_and_reason() {
    for (text, expected) in [
        ("", "c.json:1:1: the file is empty; write an object with at least `rules`"),
        (" \n", "c.json:1:1: the file is empty; write an object with at least `rules`"),
        ("\u{feff}{}", "c.json:1:1: the file begins with a byte order mark; save the file as UTF-8 without this mark"),
        ("[]", r#"c.json:1:1: a configuration must be an object, but the file contains a list; write {"rules": […]}"#),
        ("5", r#"c.json:1:1: a configuration must be an object, but the file contains a number; write {"rules": […]}"#),
        (
            "{",
            "c.json:1:1: not valid JSON: EOF while parsing an object; the text ends too early: a quote or a bracket is missing",
        ),
        (
            r#"{"rules": ["#,
            "c.json:1:11: not valid JSON: EOF while parsing a list; the text ends too early: a quote or a bracket is missing",
        ),
        (r#"{"name": ssh}"#, "c.json:1:10: not valid JSON: expected value; write JSON strings in double quotes"),
        (r#"{"name": test}"#, "c.json:1:11: not valid JSON: expected ident; write JSON strings in double quotes"),
        (r#"{"rules": [],}"#, "c.json:1:14: not valid JSON: trailing comma; delete the comma before the bracket"),
        ("{ // x\n}", "c.json:1:3: not valid JSON: key must be a string; JSON has no comments: delete the comment"),
        ("{'rules': []}", "c.json:1:2: not valid JSON: key must be a string; write JSON strings in double quotes"),
        (r#"{"rules": [1 2]}"#, "c.json:1:14: not valid JSON: expected `,` or `]`"),
        (r#"{"rules": "\x"}"#, "c.json:1:13: not valid JSON: invalid escape"),
        (r#"{"a": 1} x"#, "c.json:1:10: not valid JSON: trailing characters"),
        ("{}", "c.json:1:1: `rules` is missing; write a list of rules"),
        (r#"{"rules": null}"#, "c.json:1:1: `rules` is missing; write a list of rules"),
        (r#"{"rules": {}}"#, "c.json:1:11: rules: object is not a list; write a list"),
        (r#"{"rules": [5]}"#, "c.json:1:12: rules[0]: integer `5` is not an object; write an object"),
        (
            r#"{"rules": [{}]}"#,
            "c.json:1:11: rules: no rule has an action, as in a file of knock-cli; name the configuration of knockd with -c, or write at least one of `allow`, `command` and `revoke` in each rule\nc.json:1:12: rules[0]: the rule has no name; write a unique `name`\nc.json:1:12: rules[0]: the rule has no trigger; write `sequence`, `one_time_sequences` or \"spa\": true",
        ),
        (
            r#"{"rules": [{"name": "a b", "sequence": [1, 2], "command": "x"}]}"#,
            r#"c.json:1:21: rules[0].name: "a b" is not a rule name; write 1 to 64 letters, digits, `_`, `.` or `-`"#,
        ),
        (
            "{\"rules\": [{\"name\": \"a\", \"sequence\": [1, 2], \"command\": \"x\"},\n  {\"name\": \"a\", \"sequence\": [2, 1], \"command\": \"x\"}]}",
            "c.json:2:12: rules[1].name: duplicate rule name `a`, first in rules[0]; write a unique name",
        ),
        (
            "{\"rules\": [{\"name\": \"ssh\", \"sequence\": [1, 2], \"command\": \"x\"},\n  {\"name\": \"b\", \"sequence\": [2, 1], \"revoke\": \"ssh\"}]}",
            "c.json:2:47: rules[1].revoke: rule `ssh` has no `allow`, so there is no grant to revoke; write the name of a rule with `allow`",
        ),
        (
            "{\"rules\": [{\"name\": \"ssh\", \"sequence\": [1, 2], \"allow\": {\"ports\": [22], \"timeout\": 5}},\n  {\"name\": \"b\", \"sequence\": [2, 1], \"revoke\": \"sshh\"}]}",
            "c.json:2:47: rules[1].revoke: there is no rule `sshh`; did you mean `ssh`? write the name of a rule with `allow`",
        ),
    ] {
        assert_eq!(errors(text), expected, "{text}");
    }
}

#[test]
fn a_file_in_another_format_is_named_with_its_remedy() {
    let knock = "the file is a knockd.conf of knock, not JSON; convert it with `knockctl import`, and name the new file with -c";
    let yaml =
        "the file is YAML, not JSON; convert a file of knock-rs with `knockctl import`, and name the new file with -c";
    for (text, expected) in [
        ("# knock\n[options]\n\tUseSyslog\n", format!("c.json:2:1: {knock}")),
        ("\u{feff}[openSSH]\r\n", format!("c.json:1:1: {knock}")),
        ("interface: \"eth0\"\ntimeout: 5\nrules:\n", format!("c.json:1:1: {yaml}")),
        ("---\nrules: []\n", format!("c.json:1:1: {yaml}")),
    ] {
        assert_eq!(errors(text), expected, "{text:?}");
        let client = knock_config::client::parse("c.json", text).expect_err("it is no JSON");
        assert_eq!(client.to_string(), expected, "{text:?}");
    }
}

#[test]
fn one_rule_without_an_action_among_others_is_named() {
    let text = r#"{"rules": [{"name": "a", "command": "x", "sequence": [3, 1]}, {"name": "b", "sequence": [1, 3]}]}"#;
    assert_eq!(
        errors(text),
        "c.json:1:63: rules[1]: the rule has no action; write at least one of `allow`, `command` and `revoke`"
    );
}

#[test]
fn each_of_several_targets_is_an_address() {
    for (target, expected) in [
        (
            "[]",
            "rules[0].target: the list of destination addresses is empty, so no knock would count; write at least one address, or delete `target` to accept knocks to any address of this host",
        ),
        (
            r#"["192.0.2.1", "2001:DB8::1", "2001:db8::1"]"#,
            "rules[0].target[2]: duplicate destination address 2001:db8::1 in the list; delete one of the two",
        ),
        (
            r#"["192.0.2.1", 5]"#,
            r#"rules[0].target[1]: 5 is not an IP address; write an address such as "192.0.2.1" or "2001:db8::1", without port, prefix or host name"#,
        ),
    ] {
        assert_eq!(rule_errors(&format!(r#""sequence": [1, 2], "command": "x", "target": {target}"#)), expected);
    }
}

#[test]
fn spa_is_complete_and_in_its_limits() {
    let with = |members: &str| top_errors(&format!("\"spa\": {{{members}}}"));
    let files = r#""authorized_keys": "/k", "cover_files": ["/c"]"#;
    let realm = r#""realm": "example.com""#;
    for (members, expected) in [
        (
            files.to_owned(),
            "spa: `spa` has no `realm`; write `realm`, `authorized_keys` and `cover_files`, as `knockctl spa init` prints them",
        ),
        (
            format!(r#"{files}, "realm": "Example.com""#),
            "spa.realm: `Example.com` is not a realm; write 1 to 253 lowercase letters, digits, `.`, `-` or `_`, first and last a letter or digit, as in \"example.com\"",
        ),
        (format!(r#"{files}, {realm}, "ports": []"#), "spa.ports: the list has 0 items; write 1 to 8"),
        (
            format!(r#"{files}, {realm}, "ports": [1, 1]"#),
            "spa.ports[1]: port 1 is in the list twice; delete one of the two",
        ),
        (
            format!(r#"{files}, {realm}, "ports": [65536]"#),
            "spa.ports[0]: 65536 is not a whole number from 1 to 65535; write a number in this range",
        ),
        (
            format!(r#"{files}, {realm}, "window": "11m""#),
            "spa.window: the window is longer than ten minutes, but each packet must be remembered for twice that time; write at most \"10m\"",
        ),
        (
            format!(r#"{realm}, "authorized_keys": "k", "cover_files": ["/c"]"#),
            "spa.authorized_keys: \"k\" is not an absolute path; write a path that begins with `/`",
        ),
        (
            format!(r#"{realm}, "authorized_keys": "/k", "cover_files": []"#),
            "spa.cover_files: the list has 0 items; write 1 to 8",
        ),
    ] {
        assert_eq!(with(&members), expected, "{members}");
    }
}

#[test]
fn a_rule_for_signed_packets_needs_spa_and_has_no_key_about_knocks() {
    assert_eq!(
        rule_errors(r#""spa": true, "command": "x""#),
        "rules[0].spa: the rule accepts signed packets, but the file does not say how they are received; run `knockctl spa init`, and write the `spa` that it prints beside `rules`"
    );
    let spa = r#""spa": { "realm": "r", "authorized_keys": "/k", "cover_files": ["/c"] }"#;
    for (key, value) in [("timeout", "3"), ("tcp_flags", "\"syn\""), ("target", "\"192.0.2.1\"")] {
        let rule = format!(r#"{{{spa}, "rules": [{{"name": "a", "spa": true, "command": "x", "{key}": {value}}}]}}"#);
        assert_eq!(
            without_position(&errors(&rule)),
            format!(
                "rules[0].{key}: `{key}` needs `sequence`, the knocks that it is about; signed packets have none; write `sequence` or delete `{key}`"
            )
        );
        parse("c.json", &rule.replace("\"spa\": true", "\"spa\": true, \"sequence\": [1]")).expect("it has knocks too");
    }
}
