//! Each warning, word for word, and what is not warned of.

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
fn a_file_without_rules_guards_nothing() {
    let text = r#"{"rules": []}"#;
    assert_eq!(
        warnings(text),
        ["c.json:1:11: rules: there are no rules: nothing is guarded and nothing is opened; write some"]
    );
}

#[test]
fn a_sequence_of_one_port_is_no_secret() {
    assert_eq!(
        of_sequences(&["7000"], true),
        ["c.json:1:73: rules[0].sequence: a sequence of a single port is no secret: any port scan knocks it; write \
          five or more ports"]
    );
}

#[test]
fn a_sequence_in_the_order_of_a_scan_says_what_stops_the_scan() {
    for (sequences, tripwires, expected) in [
        (
            &["7000, 8000, 9000"][..],
            true,
            "each port is above the one before, the order of an ascending port scan; the tripwires stop a scan of every \
             port, not one that leaves out the neighbours of knock ports; mix the order",
        ),
        (
            &["9000, 8000, 7000"],
            true,
            "each port is below the one before, the order of a descending port scan; the tripwires stop a scan of every \
             port, not one that leaves out the neighbours of knock ports; mix the order",
        ),
        (
            &["7000, 7001, 7002"],
            true,
            "each port is above the one before, the order of an ascending port scan; it opens the rule, for it touches \
             no tripwire on its way; mix the order",
        ),
        (
            &["7000, 8000"],
            false,
            "each port is above the one before, the order of an ascending port scan; it opens the rule, for there are no \
             tripwires; mix the order",
        ),
        (
            &["7000, 8000", "7500, 6000, 6500"],
            false,
            "each port is above the one before, the order of an ascending port scan; only another rule's knock port in \
             between stops it; mix the order",
        ),
        (
            &[r#""53/udp", "67/udp""#],
            false,
            "each port is above the one before, the order of an ascending port scan; it opens the rule, for there are no \
             tripwires; mix the order",
        ),
    ] {
        let warnings = of_sequences(sequences, tripwires);
        let expected = format!("rules[0].sequence: {expected}");
        assert!(warnings.len() == 1 && warnings[0].ends_with(&expected), "{sequences:?}: {warnings:#?}");
    }
}

#[test]
fn a_guarded_neighbour_is_no_tripwire_for_a_scan() {
    let text = |port| {
        format!(
            r#"{{"rules": [{{"name": "a", "sequence": [7000, 7002], "allow": {{"ports": [{port}], "timeout": 60}}}}]}}"#
        )
    };
    assert!(warnings(&text(7001))[0].contains("it opens the rule, for it touches no tripwire"));
    assert!(warnings(&text(7009))[0].contains("the tripwires stop a scan of every port"));
}

#[test]
fn a_mixed_order_or_protocol_is_no_scan() {
    for sequence in ["3, 1, 2", "1, 3, 2", r#"1, "2/udp", 3"#, "1, 1, 2"] {
        assert_eq!(of_sequences(&[sequence], true), [""; 0], "{sequence}");
    }
}

#[test]
fn a_sequence_that_holds_another_ones_also_triggers_that_one() {
    let also = |verb| {
        format!(
            "rules[0].sequence: it {verb} the whole sequence of rule `b`: knocking it also triggers that one; change one of \
             them"
        )
    };
    for (sequences, expected) in [
        (["5, 3, 1, 2", "3, 1, 2"], also("ends with")),
        (["3, 1, 2, 4", "3, 1, 2"], also("contains")),
        (["5, 3, 1, 2, 4", "3, 1, 2"], also("contains")),
        (["5, 3, 1, 1, 2", "3, 1, 2"], also("ends with")),
        (
            ["3, 1, 2", "3, 1, 2"],
            "rules[1].sequence: rule `a` has the same sequence: knocking it triggers both; write another for one of them"
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
fn rules_that_look_at_different_packets_do_not_trigger_each_other() {
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
fn a_knock_at_a_guarded_port_disturbs() {
    let text = r#"{"rules": [
 {"name": "a", "command": "x", "sequence": [300, 22, 200, 22]},
 {"name": "b", "sequence": [400, "22/udp", 500], "allow": {"ports": [22], "timeout": 60}}]}"#;
    assert_eq!(
        warnings(text),
        [
            "c.json:2:50: rules[0].sequence[1]: 22/tcp is also a port that rule `b` opens: each connection to that service \
          is a knock and disturbs the sequences of its source; knock another port"
        ]
    );
}
