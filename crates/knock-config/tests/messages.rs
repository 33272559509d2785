//! Each message about a configuration, word for word.

use knock_config::parse;

/// What is said about the file `text`.
fn errors(text: &str) -> String {
    parse("c.json", text).expect_err(text).to_string()
}

/// What is said about the only rule of a file, which has these members besides its name.
fn rule_errors(members: &str) -> String {
    without_position(&errors(&format!("{{\"rules\": [{{\"name\": \"a\", {members}}}]}}")))
}

/// What is said about a file with these members besides a rule that is right.
fn top_errors(members: &str) -> String {
    let rule = "{\"name\": \"a\", \"command\": \"x\", \"sequence\": [3, 1, 2]}";
    without_position(&errors(&format!("{{{members}, \"rules\": [{rule}]}}")))
}

/// The message without `c.json:LINE:COLUMN: `.
fn without_position(message: &str) -> String {
    message.splitn(4, ':').nth(3).unwrap_or(message).trim_start().to_owned()
}

#[test]
fn a_key_drives_no_terminal_and_is_not_shown_longer_than_a_line() {
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
    assert_eq!(
        rule_errors(members),
        "rules[0].on_stop: unknown key `on_stop`; did you mean `stop_on_shutdown`? allowed here: allow, command, command6, command_timeout, name, one_time_sequences, revoke, sequence, setup, stop_after, stop_command, stop_command6, stop_on_shutdown, target, tcp_flags, teardown, timeout"
    );
    // Elsewhere the key is only unknown.
    assert!(!top_errors(r#""on_stop": "keep""#).contains("stop_on_shutdown"));
}

#[test]
fn an_unknown_or_doubled_key_is_named() {
    for (text, expected) in [
        (
            r#""sequence": [1, 2], "command": "x", "sequnce": 1"#,
            "rules[0].sequnce: unknown key `sequnce`; did you mean `sequence`? allowed here: allow, command, command6, command_timeout, name, one_time_sequences, revoke, sequence, setup, stop_after, stop_command, stop_command6, stop_on_shutdown, target, tcp_flags, teardown, timeout",
        ),
        (r#""sequence": [1, 2], "activate": "x""#, "rules[0].activate: unknown key `activate`; write `command`"),
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
            "rules[0].allow.timout: unknown key `timout`; did you mean `timeout`? allowed here: ports, set, set6, timeout",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "command": "y""#,
            "rules[0].command: the key `command` stands twice, first in line 1; delete one of the two",
        ),
    ] {
        assert_eq!(rule_errors(text), expected, "{text}");
    }
}

#[test]
fn a_rule_needs_a_sequence_of_ports() {
    for (text, expected) in [
        (r#""command": "x""#, "rules[0]: the rule has nothing to knock; write `sequence` (or `one_time_sequences`)"),
        (
            r#""command": "x", "sequence": [1], "one_time_sequences": "/f""#,
            "rules[0].one_time_sequences: the rule has both `sequence` and `one_time_sequences`; write one of them",
        ),
        (
            r#""command": "x", "sequence": []"#,
            "rules[0].sequence: the sequence is empty, which every packet would match; write 1 to 32 knocks",
        ),
        (
            r#""command": "x", "sequence": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33]"#,
            "rules[0].sequence: 33 knocks are more than 32; write a shorter sequence",
        ),
        (
            r#""command": "x", "sequence": [70000]"#,
            r#"rules[0].sequence[0]: port 70000 is not between 1 and 65535; write a number from that range, or "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": [0]"#,
            r#"rules[0].sequence[0]: port 0 is not between 1 and 65535; write a number from that range, or "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": [-5]"#,
            r#"rules[0].sequence[0]: port -5 is not between 1 and 65535; write a number from that range, or "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": ["70000/udp"]"#,
            r#"rules[0].sequence[0]: port 70000 is not between 1 and 65535; write a number from that range, or "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": ["-5"]"#,
            r#"rules[0].sequence[0]: port -5 is not between 1 and 65535; write a number from that range, or "7000/udp" for UDP"#,
        ),
        (
            r#""command": "x", "sequence": [99999999999999999999]"#,
            r#"rules[0].sequence[0]: port 1e+20 is not between 1 and 65535; write a number from that range, or "7000/udp" for UDP"#,
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
            r#"rules[0].sequence[0]: "7000-7010" is more than one port; write each port on its own"#,
        ),
        (
            r#""command": "x", "sequence": ["7000,8000"]"#,
            r#"rules[0].sequence[0]: "7000,8000" is more than one port; write each port on its own"#,
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
            "rules[0].sequence: integer `7000` stands where a list belongs; write a list",
        ),
        (
            r#""command": "x", "one_time_sequences": "seqs""#,
            r#"rules[0].one_time_sequences: "seqs" is not an absolute path; begin it with `/`, for the daemon may run in any directory"#,
        ),
        (
            r#""command": "x", "one_time_sequences": "/a\u0000b""#,
            "rules[0].one_time_sequences: the path holds a NUL character, which no path does; delete it",
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
            r#"rules[0].timeout: 0.0001 is shorter than "1ms", the least that is allowed here"#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "command_timeout": "366d""#,
            r#"rules[0].command_timeout: "366d" is longer than 365 days, the most that is allowed"#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "timeout": "0s"}"#,
            r#"rules[0].allow.timeout: "0s" is not longer than zero; write at least a second"#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "timeout": "999ms"}"#,
            r#"rules[0].allow.timeout: "999ms" is shorter than a second, the least that is allowed here"#,
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
            "rules[0].tcp_flags: `foo` is not a TCP flag; write syn, ack, rst, fin, psh or urg, with `!` before it where it must be clear",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "tcp_flags": []"#,
            r#"rules[0].tcp_flags: there is no TCP flag; name at least one, or leave `tcp_flags` out for "syn,!ack,!rst,!fin""#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "tcp_flags": """#,
            r#"rules[0].tcp_flags: there is no TCP flag; name at least one, or leave `tcp_flags` out for "syn,!ack,!rst,!fin""#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "tcp_flags": ["syn", "!syn"]"#,
            "rules[0].tcp_flags: `syn` must be both set and clear, which no segment is; write one of `syn` and `!syn`",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "target": "example.com""#,
            r#"rules[0].target: "example.com" is not an IP address; write one as in "192.0.2.1" or "2001:db8::1", without port, prefix or name"#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "target": "0.0.0.0""#,
            r#"rules[0].target: "0.0.0.0" is no destination address; leave `target` out for any address of this host"#,
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
fn a_rule_needs_an_action_that_can_run() {
    for (text, expected) in [
        (
            r#""sequence": [1, 2]"#,
            "rules[0]: the rule does nothing; write at least one of `allow`, `command` and `revoke`",
        ),
        (
            r#""sequence": [1, 2], "setup": "x""#,
            "rules[0]: the rule does nothing; write at least one of `allow`, `command` and `revoke`",
        ),
        (
            r#""sequence": [1, 2], "command": """#,
            "rules[0].command: the command is empty; write what to run, or leave the key out",
        ),
        (
            r#""sequence": [1, 2], "command": " \t ""#,
            "rules[0].command: the command is empty; write what to run, or leave the key out",
        ),
        (
            r#""sequence": [1, 2], "command": "a\u0000b""#,
            "rules[0].command: the command holds a NUL character, which no shell takes; delete it",
        ),
        (
            r#""sequence": [1, 2], "command": 5"#,
            "rules[0].command: integer `5` stands where a string belongs; write a string",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "teardown": """#,
            "rules[0].teardown: the command is empty; write what to run, or leave the key out",
        ),
        (
            r#""sequence": [1, 2], "command6": "x""#,
            r#"rules[0].command6: `command6` needs `command`, which is for IPv4 sources (":" does nothing); write `command` or delete `command6`"#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "stop_command": "y""#,
            "rules[0].stop_command: `stop_command` needs `stop_after`, the time between `command` and it; write `stop_after` or delete `stop_command`",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "stop_after": 5"#,
            "rules[0].stop_after: `stop_after` needs `stop_command`, which runs then; write `stop_command` or delete `stop_after`",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "timeout": 5}, "stop_command": "y", "stop_after": 5"#,
            "rules[0].stop_command: `stop_command` needs `command`, which it undoes; write `command` or delete `stop_command`",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "stop_command6": "y""#,
            r#"rules[0].stop_command6: `stop_command6` needs `stop_command`, which is for IPv4 sources (":" does nothing); write `stop_command` or delete `stop_command6`"#,
        ),
        (
            r#""sequence": [1, 2], "command": "x", "stop_on_shutdown": "keep""#,
            "rules[0].stop_on_shutdown: `stop_on_shutdown` needs `stop_command`, to which it applies; write `stop_command` or delete `stop_on_shutdown`",
        ),
        (
            r#""sequence": [1, 2], "command": "x", "stop_command": "y", "stop_after": 5, "stop_on_shutdown": "remove""#,
            "rules[0].stop_on_shutdown: `remove` means nothing here; write `run` or `keep`",
        ),
    ] {
        assert_eq!(rule_errors(text), expected, "{text}");
    }
}

#[test]
fn what_is_opened_and_revoked_is_checked() {
    for (text, expected) in [
        (
            r#""sequence": [1, 2], "allow": {"timeout": 5}"#,
            "rules[0].allow: `allow` opens nothing; write `ports` (for the managed table), or `set` or `set6` (for your own)",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22], "set": "ip a b", "timeout": 5}"#,
            "rules[0].allow: `allow` has both `ports` and a set; write one of them, and another rule for the other",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22]}"#,
            r#"rules[0].allow: `allow` has no `timeout`; write how long a grant lasts, as in "timeout": "1h""#,
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [], "timeout": 5}"#,
            "rules[0].allow.ports: the list of ports is empty; write at least one",
        ),
        (
            r#""sequence": [1, 2], "allow": {"ports": [22, "22/tcp"], "timeout": 5}"#,
            "rules[0].allow.ports[1]: 22/tcp stands twice in the list; delete one of the two",
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
            "rules[0].allow.set: `set` names a set in family ip6, where no IPv4 packet passes; name the IPv4 set",
        ),
        (
            r#""sequence": [1, 2], "allow": {"set6": "ip filter knock", "timeout": 5}"#,
            "rules[0].allow.set6: `set6` names a set in family ip, where no IPv6 packet passes; name the IPv6 set",
        ),
        (
            r#""sequence": [1, 2], "allow": {"set": "inet f k", "set6": "inet f k", "timeout": 5}"#,
            "rules[0].allow.set6: `set` and `set6` are the same set, but a set holds one kind of address; name an ipv6_addr set in `set6`",
        ),
        (
            r#""sequence": [1, 2], "revoke": "b""#,
            "rules[0].revoke: there is no rule `b`; write the name of a rule that has `allow`",
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
fn interfaces_have_names_that_the_kernel_allows() {
    for (text, expected) in [
        (r#""interface": 5"#, r#"interface: 5 is not an interface; write a name, a list of names, or "any""#),
        (
            r#""interface": """#,
            r#"interface: "" is not the name of an interface; write 1 to 15 bytes without blanks, `/` or `:`, as in "eth0""#,
        ),
        (
            r#""interface": "eth0/1""#,
            r#"interface: "eth0/1" is not the name of an interface; write 1 to 15 bytes without blanks, `/` or `:`, as in "eth0""#,
        ),
        (
            r#""interface": "a234567890123456""#,
            r#"interface: "a234567890123456" is not the name of an interface; write 1 to 15 bytes without blanks, `/` or `:`, as in "eth0""#,
        ),
        (r#""interface": []"#, r#"interface: the list of interfaces is empty; write at least one, or "any""#),
        (
            r#""interface": ["eth0", "eth0"]"#,
            "interface[1]: the interface `eth0` stands twice in the list; delete one of the two",
        ),
        (
            r#""interface": ["eth0", "any"]"#,
            r#"interface[1]: "any" stands for every interface and not beside others; write "interface": "any""#,
        ),
        (
            r#""interface": ["eth0", 5]"#,
            r#"interface[1]: 5 is not an interface; write a name, a list of names, or "any""#,
        ),
        (
            r#""nftables": {"exempt_interfaces": ["lo", "a b"]}"#,
            r#"nftables.exempt_interfaces[1]: "a b" is not the name of an interface; write 1 to 15 bytes without blanks, `/` or `:`, as in "eth0""#,
        ),
    ] {
        assert_eq!(top_errors(text), expected, "{text}");
    }
}

#[test]
fn settings_outside_rules_are_checked() {
    for (text, expected) in [
        (
            r#""intreface": "eth0""#,
            "intreface: unknown key `intreface`; did you mean `interface`? allowed here: control_socket, interface, limits, log, nftables, rules, state_dir, timeout, tripwires",
        ),
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
            "nftables.on_stop: `delete` means nothing here; write `remove` or `keep`",
        ),
        (
            r#""nftables": {"owner": "yes"}"#,
            r#"nftables.owner: string "yes" stands where a boolean belongs; write a boolean, true or false"#,
        ),
        (r#""tripwires": 1"#, "tripwires: integer `1` stands where a boolean belongs; write a boolean, true or false"),
        (r#""limits": {"sources": 0}"#, "limits.sources: 0 is not a whole number from 1 to 1048576; write one"),
        (
            r#""limits": {"grants": 1048577}"#,
            "limits.grants: 1048577 is not a whole number from 1 to 1048576; write one",
        ),
        (r#""limits": {"commands": 1.5}"#, "limits.commands: 1.5 is not a whole number from 1 to 1024; write one"),
        (
            r#""limits": {"command_queue": "many"}"#,
            r#"limits.command_queue: "many" is not a whole number from 1 to 65536; write one"#,
        ),
        (r#""limits": {"commands": []}"#, "limits.commands: a list is not a whole number from 1 to 1024; write one"),
        (r#""limits": 5"#, "limits: integer `5` stands where an object belongs; write an object"),
        (
            r#""control_socket": "run/knockd.sock""#,
            r#"control_socket: "run/knockd.sock" is not an absolute path; begin it with `/`, for the daemon may run in any directory"#,
        ),
        (
            r#""control_socket": "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa""#,
            "control_socket: the path is 108 bytes long and a socket's is at most 107 (unix(7)); write a shorter one",
        ),
        (
            r#""state_dir": ".""#,
            r#"state_dir: "." is not an absolute path; begin it with `/`, for the daemon may run in any directory"#,
        ),
        (
            r#""log": {"target": "file"}"#,
            "log.target: `file` means nothing here; write one of `stderr`, `syslog`, `journal`",
        ),
        (
            r#""log": {"level": "loud"}"#,
            "log.level: `loud` means nothing here; write one of `error`, `warn`, `info`, `debug`, `trace`",
        ),
    ] {
        assert_eq!(top_errors(text), expected, "{text}");
    }
}

#[test]
fn a_file_that_is_no_configuration_says_where_and_why() {
    for (text, expected) in [
        ("", "c.json:1:1: the file is empty; a configuration is an object with at least `rules`"),
        (" \n", "c.json:1:1: the file is empty; a configuration is an object with at least `rules`"),
        ("\u{feff}{}", "c.json:1:1: the file begins with a byte order mark; save it as UTF-8 without one"),
        ("[]", r#"c.json:1:1: a configuration is an object, {"rules": […]}, not a list"#),
        ("5", r#"c.json:1:1: a configuration is an object, {"rules": […]}, not a number"#),
        ("{", "c.json:1:1: not valid JSON: EOF while parsing an object"),
        (r#"{"rules": [],}"#, "c.json:1:14: not valid JSON: trailing comma; delete the comma before the bracket"),
        ("{ // x\n}", "c.json:1:3: not valid JSON: key must be a string; JSON has no comments: delete it"),
        ("{'rules': []}", "c.json:1:2: not valid JSON: key must be a string; JSON strings stand in double quotes"),
        (r#"{"rules": [1 2]}"#, "c.json:1:14: not valid JSON: expected `,` or `]`"),
        (r#"{"rules": "\x"}"#, "c.json:1:13: not valid JSON: invalid escape"),
        (r#"{"a": 1} x"#, "c.json:1:10: not valid JSON: trailing characters"),
        ("{}", "c.json:1:1: `rules` is missing; write a list of rules"),
        (r#"{"rules": null}"#, "c.json:1:1: `rules` is missing; write a list of rules"),
        (r#"{"rules": {}}"#, "c.json:1:11: rules: object stands where a list belongs; write a list"),
        (r#"{"rules": [5]}"#, "c.json:1:12: rules[0]: integer `5` stands where an object belongs; write an object"),
        (
            r#"{"rules": [{}]}"#,
            "c.json:1:12: rules[0]: the rule has no name; write `name`, unique among the rules\nc.json:1:12: rules[0]: the rule does nothing; write at least one of `allow`, `command` and `revoke`\nc.json:1:12: rules[0]: the rule has nothing to knock; write `sequence` (or `one_time_sequences`)",
        ),
        (
            r#"{"rules": [{"name": "a b", "sequence": [1, 2], "command": "x"}]}"#,
            r#"c.json:1:21: rules[0].name: "a b" is not a rule name; write 1 to 64 letters, digits, `_`, `.` or `-`"#,
        ),
        (
            "{\"rules\": [{\"name\": \"a\", \"sequence\": [1, 2], \"command\": \"x\"},\n  {\"name\": \"a\", \"sequence\": [2, 1], \"command\": \"x\"}]}",
            "c.json:2:12: rules[1].name: the name `a` is that of rules[0] too; names are unique",
        ),
        (
            "{\"rules\": [{\"name\": \"ssh\", \"sequence\": [1, 2], \"command\": \"x\"},\n  {\"name\": \"b\", \"sequence\": [2, 1], \"revoke\": \"ssh\"}]}",
            "c.json:2:47: rules[1].revoke: rule `ssh` has no `allow`, so there is no grant to revoke; write the name of a rule that has",
        ),
        (
            "{\"rules\": [{\"name\": \"ssh\", \"sequence\": [1, 2], \"allow\": {\"ports\": [22], \"timeout\": 5}},\n  {\"name\": \"b\", \"sequence\": [2, 1], \"revoke\": \"sshh\"}]}",
            "c.json:2:47: rules[1].revoke: there is no rule `sshh`; did you mean `ssh`? write the name of a rule that has `allow`",
        ),
    ] {
        assert_eq!(errors(text), expected, "{text}");
    }
}
