//! Each warning, word for word, and configurations without a warning.

use knock_config::parse;

fn warnings(text: &str) -> Vec<String> {
    let loaded = parse("c.json", text).unwrap_or_else(|error| panic!("{error}"));
    loaded.warnings.iter().map(ToString::to_string).collect()
}

/// The warnings about rules `a`, `b`, … with these sequences, each written as the members of a list.
fn of_sequences(sequences: &[&str], tripwires: bool) -> Vec<String> {
    let rules: Vec<String> = sequences
        .iter()
        .zip('a'..)
        .map(|(sequence, name)| format!(r#"{{"name": "{name}", "command": "x", "sequence": [{sequence}]}}"#))
        .collect();
    warnings(&format!(r#"{{"tripwires": {tripwires}, "rules": [{}]}}"#, rules.join(", ")))
}

#[test]
fn a_file_without_rules_guards_no_port() {
    let text = r#"{"rules": []}"#;
    assert_eq!(
        warnings(text),
        ["c.json:1:11: rules: the list of rules is empty, so knockd guards no port and opens none; write a rule"]
    );
}

#[test]
fn a_sequence_of_one_port_is_not_secret() {
    assert_eq!(
        of_sequences(&["7000"], true),
        [
            "c.json:1:73: rules[0].sequence: a sequence of a single port is not secret, because any port scan completes it; write \
          five or more ports"
        ]
    );
}

#[test]
fn the_warning_about_a_sequence_in_the_order_of_a_scan_names_the_protection_against_the_scan() {
    for (sequences, tripwires, expected) in [
        (
            &["7000, 8000, 9000"][..],
            true,
            "each port is higher than the port before it, as in an ascending port scan; the tripwires stop a scan of all \
             ports, but not a scan that omits the neighbours of knock ports; mix the order of the ports",
        ),
        (
            &["9000, 8000, 7000"],
            true,
            "each port is lower than the port before it, as in a descending port scan; the tripwires stop a scan of all \
             ports, but not a scan that omits the neighbours of knock ports; mix the order of the ports",
        ),
        (
            &["7000, 7001, 7002"],
            true,
            "each port is higher than the port before it, as in an ascending port scan; such a scan completes the \
             sequence, because it touches no tripwire; mix the order of the ports",
        ),
        (
            &["7000, 8000"],
            false,
            "each port is higher than the port before it, as in an ascending port scan; such a scan completes the \
             sequence, because there are no tripwires; mix the order of the ports",
        ),
        (
            &["7000, 8000", "7500, 6000, 6500"],
            false,
            "each port is higher than the port before it, as in an ascending port scan; only a knock port of another \
             rule, between these ports, stops such a scan; mix the order of the ports",
        ),
        (
            &[r#""53/udp", "67/udp""#],
            false,
            "each port is higher than the port before it, as in an ascending port scan; such a scan completes the \
             sequence, because there are no tripwires; mix the order of the ports",
        ),
    ] {
        let warnings = of_sequences(sequences, tripwires);
        let expected = format!("rules[0].sequence: {expected}");
        assert!(warnings.len() == 1 && warnings[0].ends_with(&expected), "{sequences:?}: {warnings:#?}");
    }
}

#[test]
fn a_guarded_neighbour_is_not_a_tripwire_for_a_scan() {
    let text = |port| {
        format!(
            r#"{{"rules": [{{"name": "a", "sequence": [7000, 7002], "allow": {{"ports": [{port}], "timeout": 60}}}}]}}"#
        )
    };
    assert!(warnings(&text(7001))[0].contains("such a scan completes the sequence, because it touches no tripwire"));
    assert!(warnings(&text(7009))[0].contains("the tripwires stop a scan of all ports"));
    // A range as well; the upper neighbour of 7002 is still one.
    let range = text(1).replace("\"ports\": [1]", "\"ports\": [\"7001-7002\"]");
    assert!(warnings(&range)[0].contains("such a scan completes the sequence, because it touches no tripwire"));
}

#[test]
fn a_mixed_order_or_protocol_is_not_that_of_a_scan() {
    for sequence in ["3, 1, 2", "1, 3, 2", r#"1, "2/udp", 3"#, "1, 1, 2"] {
        assert_eq!(of_sequences(&[sequence], true), [""; 0], "{sequence}");
    }
}

#[test]
fn a_sequence_that_contains_that_of_another_rule_also_triggers_that_rule() {
    let also = |verb| {
        format!(
            "rules[0].sequence: the sequence {verb} the whole sequence of rule `b` and also triggers that rule; change one of \
             the two"
        )
    };
    for (sequences, expected) in [
        (["5, 3, 1, 2", "3, 1, 2"], also("ends with")),
        (["3, 1, 2, 4", "3, 1, 2"], also("contains")),
        (["5, 3, 1, 2, 4", "3, 1, 2"], also("contains")),
        (["5, 3, 1, 1, 2", "3, 1, 2"], also("ends with")),
        (
            ["3, 1, 2", "3, 1, 2"],
            "rules[1].sequence: rule `a` has the same sequence, so one knock sequence triggers both rules; change one of the two"
                .to_owned(),
        ),
    ] {
        let warnings = of_sequences(&sequences, true);
        assert!(warnings.len() == 1 && warnings[0].ends_with(&expected), "{sequences:?}: {warnings:#?}");
    }
    assert_eq!(of_sequences(&["5, 3, 9, 1, 2", "3, 1, 2"], true), [""; 0]);
    assert_eq!(of_sequences(&["3, 1, 2, 4", "3, 2, 4"], true), [""; 0]);
}

#[test]
fn rules_for_different_packets_do_not_trigger_each_other() {
    let rules = |one: &str, other: &str| {
        let rule = |name, members| format!(r#"{{"name": "{name}", "command": "x", "sequence": [3, 1, 2], {members}}}"#);
        warnings(&format!(r#"{{"rules": [{}, {}]}}"#, rule("a", one), rule("b", other))).len()
    };
    assert_eq!(rules(r#""tcp_flags": "syn,!ack""#, r#""tcp_flags": "ack""#), 0);
    assert_eq!(rules(r#""target": "192.0.2.1""#, r#""target": "192.0.2.2""#), 0);
    assert_eq!(rules(r#""tcp_flags": "syn""#, r#""tcp_flags": "ack""#), 1);
    assert_eq!(rules(r#""target": "192.0.2.1""#, r#""timeout": 9"#), 1);
}

#[test]
fn a_sequence_whose_neighbours_are_all_in_guarded_ranges_has_no_tripwires() {
    let of = |sequence: &str, ports: &str, tripwires: bool| {
        warnings(&format!(
            r#"{{"tripwires": {tripwires}, "rules": [
 {{"name": "a", "sequence": [{sequence}], "allow": {{"ports": [{ports}], "timeout": 60}}}}]}}"#
        ))
    };
    assert_eq!(
        of("300, 100, 200", r#""1-65535""#, true),
        [
            "c.json:2:28: rules[0].sequence: the neighbours of these ports are guarded ports (1-65535/tcp), so the sequence \
             has no tripwires against port scans; use knock ports outside the guarded ranges"
        ]
    );
    // A knock port in a range is no reason: clients of the service seldom meet it.
    for (sequence, ports) in [
        ("300, 70, 200", r#""99-400""#),
        ("300, 100, 200", r#""1-65535/udp""#),
        ("300, 100, 200", r#"22, "300-400""#),
        ("300, 100, 200", r#"99, 101, 199, 201, 299, 301"#),
    ] {
        assert_eq!(of(sequence, ports, true), [""; 0], "{sequence}, {ports}");
    }
    assert_eq!(of("300, 100, 200", r#""1-65535""#, false), [""; 0]);
}

#[test]
fn a_knock_port_that_is_guarded_disturbs_sequences() {
    let text = r#"{"rules": [
 {"name": "a", "command": "x", "sequence": [300, 22, 200, 22]},
 {"name": "b", "sequence": [400, "22/udp", 500], "allow": {"ports": [22], "timeout": 60}}]}"#;
    assert_eq!(
        warnings(text),
        [
            "c.json:2:50: rules[0].sequence[1]: 22/tcp is a guarded port of rule `b`, so each connection to it is a knock and \
             disturbs the sequences of its source; use another knock port"
        ]
    );
}

#[test]
fn a_cooldown_that_outlasts_the_grant_leaves_the_client_out() {
    let rule = |cooldown: &str, action: &str| {
        let head = r#""name": "a", "sequence": [3000, 1000, 2000]"#;
        warnings(&format!(r#"{{"rules": [{{{head}, "cooldown": {cooldown}, {action}}}]}}"#))
    };
    let allow = r#""allow": {"ports": [22], "timeout": "1m"}"#;
    assert_eq!(
        rule("61", allow),
        [
            "c.json:1:70: rules[0].cooldown: the cooldown is longer than the grant, which expires after 60s; the client can \
          neither extend the grant nor open the ports again before the end of the cooldown; write a shorter cooldown"
        ]
    );
    assert!(rule("60", allow).is_empty());
    assert!(rule("61", r#""command": "x""#).is_empty());
}

#[test]
fn a_time_for_a_sequence_that_may_be_in_milliseconds_is_named_once() {
    let rule = |name, timeout| format!(r#"{{"name": "{name}", "command": "x", "sequence": [3, 1, 2]{timeout}}}"#);
    let text = |top, timeout| format!(r#"{{{top}"rules": [{}]}}"#, rule("a", timeout));
    let long = "5000 seconds are a long time for a sequence; if milliseconds are meant, write \"5000ms\", because a number is \
                in seconds";
    assert_eq!(warnings(&text(r#""timeout": 5000, "#, "")), [format!("c.json:1:13: timeout: {long}")]);
    assert_eq!(warnings(&text("", r#", "timeout": 5000"#)), [format!("c.json:1:76: rules[0].timeout: {long}")]);
    for (top, timeout) in [(r#""timeout": 300, "#, ""), (r#""timeout": "5000ms", "#, ""), ("", r#", "timeout": "5m""#)]
    {
        assert_eq!(warnings(&text(top, timeout)), [] as [&str; 0], "{top}{timeout}");
    }
}
