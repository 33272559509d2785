//! The meaning of a valid file: the defaults, and each field.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use knock_config::{
    Allow, Command, Config, Interfaces, LastKnock, Limits, Log, LogTarget, Nftables, OnStop, Rule, Spa, Stop,
    StopOnShutdown, Trigger, parse,
};
use knock_proto::{Knock, Port, PortRange, Protocol, SetName, TableName, TcpFlags};

fn config(text: &str) -> Config {
    parse("c.json", text).unwrap_or_else(|error| panic!("{error}")).config
}

fn rule(members: &str) -> Rule {
    config(&format!("{{\"rules\": [{{\"name\": \"a\", \"sequence\": [3, 1, 2], {members}}}]}}")).rules.remove(0)
}

#[test]
fn a_rule_alone_has_the_documented_defaults() {
    let config = config(r#"{"rules": [{"name": "a", "command": "x", "sequence": [3, 1, 2]}]}"#);
    let expected = Config {
        timeout: Duration::from_secs(5),
        interfaces: Interfaces::Any,
        rules: vec![Rule {
            name: "a".into(),
            trigger: Some(Trigger::Sequence(vec![Knock::tcp(3), Knock::tcp(1), Knock::tcp(2)])),
            spa: false,
            timeout: Duration::from_secs(5),
            tcp_flags: TcpFlags::FIRST_PACKET,
            targets: Vec::new(),
            command: Some(Command { any: "x".to_owned(), v6: None }),
            stop: None,
            cooldown: None,
            command_timeout: Duration::from_secs(30),
            setup: None,
            teardown: None,
            allow: None,
            revoke: None,
        }],
        nftables: Nftables {
            table: TableName::default(),
            on_stop: OnStop::Remove,
            exempt_interfaces: vec!["lo".parse().expect("a name")],
            owner: true,
            last_knock: LastKnock::Daemon,
        },
        spa: None,
        fleet: None,
        tripwires: true,
        limits: Limits { sources: 65_536, grants: 65_536, commands: 16, command_queue: 256 },
        control_socket: None,
        state_dir: None,
        log: Log { target: None, level: log::LevelFilter::Info },
    };
    assert_eq!(config, expected);
}

#[test]
fn null_means_the_default() {
    let with_null = r#"{"timeout": null, "interface": null, "nftables": null, "limits": {"sources": null}, "log": null,
        "rules": [{"name": "a", "command": "x", "sequence": [3, 1, 2], "allow": null, "target": null}]}"#;
    assert_eq!(config(with_null), config(r#"{"rules": [{"name": "a", "command": "x", "sequence": [3, 1, 2]}]}"#));
}

#[test]
fn every_setting_outside_the_rules_is_used() {
    let config = config(
        r#"{"$schema": "config.schema.json", "interface": ["eth0", "wg0"], "timeout": "500ms", "tripwires": false,
            "nftables": {"table": "gate", "on_stop": "keep", "exempt_interfaces": [], "owner": false,
                "last_knock": "kernel"},
            "limits": {"sources": 1, "grants": 2, "commands": 3, "command_queue": 4},
            "control_socket": "/run/k.sock", "state_dir": "/var/lib/k", "log": {"target": "syslog", "level": "trace"},
            "rules": [{"name": "a", "command": "x", "sequence": [3, 1, 2]}]}"#,
    );
    assert_eq!(
        config.interfaces,
        Interfaces::Named(["eth0", "wg0"].map(|name| name.parse().expect("a name")).to_vec())
    );
    assert_eq!(config.rules[0].timeout, Duration::from_millis(500));
    assert!(!config.tripwires);
    let table = "gate".parse().expect("a name");
    let expected = Nftables {
        table,
        on_stop: OnStop::Keep,
        exempt_interfaces: Vec::new(),
        owner: false,
        last_knock: LastKnock::Kernel,
    };
    assert_eq!(config.nftables, expected);
    assert_eq!(config.limits, Limits { sources: 1, grants: 2, commands: 3, command_queue: 4 });
    assert_eq!(config.control_socket, Some(PathBuf::from("/run/k.sock")));
    assert_eq!(config.state_dir, Some(PathBuf::from("/var/lib/k")));
    assert_eq!(config.log, Log { target: Some(LogTarget::Syslog), level: log::LevelFilter::Trace });
}

#[test]
fn interface_is_a_name_or_any() {
    let interfaces = |value: &str| {
        let rule = r#"{"name": "a", "command": "x", "sequence": [3, 1, 2]}"#;
        config(&format!("{{\"interface\": {value}, \"rules\": [{rule}]}}")).interfaces
    };
    assert_eq!(interfaces("\"any\""), Interfaces::Any);
    assert_eq!(interfaces("\"eth0\""), Interfaces::Named(vec!["eth0".parse().expect("a name")]));
}

#[test]
fn a_rule_with_every_key_is_read() {
    let rule = rule(
        r#""timeout": 0.5, "cooldown": "1m", "tcp_flags": "fin,!ack", "target": "2001:db8::1", "command": "c", "command6": "c6",
           "stop_command": "s", "stop_command6": "s6", "stop_after": "1h", "stop_on_shutdown": "keep", "command_timeout": 9,
           "setup": "up", "teardown": "down", "allow": {"ports": [22, "51820/udp"], "timeout": "1d"}"#,
    );
    assert_eq!(rule.timeout, Duration::from_millis(500));
    assert_eq!(rule.tcp_flags, TcpFlags { set: TcpFlags::FIN, clear: TcpFlags::ACK });
    assert_eq!(rule.targets, ["2001:db8::1".parse::<IpAddr>().expect("an address")]);
    assert_eq!(rule.cooldown, Some(Duration::from_secs(60)));
    let command = Command { any: "c".to_owned(), v6: Some("c6".to_owned()) };
    assert_eq!(rule.command, Some(command));
    let stop = Stop {
        command: Command { any: "s".to_owned(), v6: Some("s6".to_owned()) },
        after: Duration::from_secs(3600),
        on_shutdown: StopOnShutdown::Keep,
    };
    assert_eq!(rule.stop, Some(stop));
    assert_eq!(rule.command_timeout, Duration::from_secs(9));
    assert_eq!((rule.setup.as_deref(), rule.teardown.as_deref()), (Some("up"), Some("down")));
    let ports = vec![Port::tcp(22).into(), Port::udp(51820).into()];
    let allow = Allow::Ports { ports, any: false, prefix4: 32, prefix6: 128, timeout: Duration::from_secs(24 * 3600) };
    assert_eq!(rule.allow, Some(allow));
}

#[test]
fn without_stop_on_shutdown_a_stop_command_runs_at_once_when_the_daemon_stops() {
    let stop = rule(r#""command": "c", "stop_command": "s", "stop_after": 10"#).stop.expect("a stop command");
    assert_eq!(stop.on_shutdown, StopOnShutdown::Run);
}

#[test]
fn guarded_ports_are_single_ones_ranges_or_any() {
    let udp = |first, last| PortRange { protocol: Protocol::Udp, first, last };
    let expected = |ports: &[PortRange], any| {
        Some(Allow::Ports { ports: ports.to_vec(), any, prefix4: 32, prefix6: 128, timeout: Duration::from_secs(60) })
    };
    for (text, allow) in [
        (r#"["60000-61000/udp", 22]"#, expected(&[udp(60000, 61000), Port::tcp(22).into()], false)),
        (r#"["60000-61000:udp", "60500-62000/udp"]"#, expected(&[udp(60000, 61000), udp(60500, 62000)], false)),
        (r#"["53-53/udp", "any"]"#, expected(&[udp(53, 53)], true)),
    ] {
        assert_eq!(rule(&format!(r#""allow": {{"ports": {text}, "timeout": "1m"}}"#)).allow, allow, "{text}");
    }
    let text = r#"{"rules": [
        {"name": "all", "sequence": [3, 1, 2], "allow": {"ports": "any", "timeout": "1m"}},
        {"name": "ssh", "sequence": [5, 9, 7], "allow": {"ports": [22], "timeout": "1m"}}]}"#;
    let rules = knock_config::parse("c.json", text).expect("valid").config.rules;
    assert_eq!(rules[0].allow, expected(&[], true));
}

#[test]
fn a_grant_may_be_for_the_prefix_of_its_source() {
    for (text, expected) in
        [("", (32, 128)), (r#""prefix6": 64,"#, (32, 64)), (r#""prefix4": 8, "prefix6": 16,"#, (8, 16))]
    {
        let rule = rule(&format!(r#""allow": {{"ports": [22], {text} "timeout": "1m"}}"#));
        let Some(Allow::Ports { prefix4, prefix6, .. }) = rule.allow else { panic!("{rule:?}") };
        assert_eq!((prefix4, prefix6), expected, "{text}");
    }
}

#[test]
fn more_different_ranges_than_packets_can_be_compared_with_are_refused() {
    let text = |count: u16| {
        let rules: Vec<String> = (1..=count)
            .map(|n| {
                let allow = format!(r#"{{"ports": ["{n}-60000", "7-9/udp"], "timeout": 5}}"#);
                format!(r#"{{"name": "r{n}", "sequence": [{}, 1, {n}], "allow": {allow}}}"#, n + 60000)
            })
            .collect();
        format!(r#"{{"rules": [{}]}}"#, rules.join(","))
    };
    knock_config::parse("c.json", &text(63)).expect("64 ranges are valid");
    let error = knock_config::parse("c.json", &text(64)).expect_err("one too many").to_string();
    assert!(error.contains("rules[63].allow.ports: the rules have more than 64 different ranges"), "{error}");
}

#[test]
fn user_sets_are_named_for_each_ip_version() {
    let name = |text: &str| text.parse::<SetName>().expect("the name of a set");
    let sets = |v4, v6| Some(Allow::Sets { v4, v6, timeout: Duration::from_secs(60) });
    for (text, expected) in [
        (r#""set": "inet filter k4""#, sets(Some(name("inet filter k4")), None)),
        (r#""set6": "ip6 filter k6""#, sets(None, Some(name("ip6 filter k6")))),
        (
            r#""set": "ip filter k4", "set6": "bridge filter k6""#,
            sets(Some(name("ip filter k4")), Some(name("bridge filter k6"))),
        ),
        (r#""set": "netdev filter k4""#, sets(Some(name("netdev filter k4")), None)),
    ] {
        assert_eq!(rule(&format!(r#""allow": {{{text}, "timeout": "1m"}}"#)).allow, expected, "{text}");
    }
}

#[test]
fn a_rule_can_revoke_a_rule_that_follows_it() {
    let config = config(
        r#"{"rules": [
            {"name": "close", "sequence": [2, 1, 3], "revoke": "open"},
            {"name": "open", "sequence": [3, 1, 2], "allow": {"ports": [22], "timeout": 60}}]}"#,
    );
    assert_eq!(config.rules[0].revoke.as_deref(), Some("open"));
    assert_eq!(config.rules[1].revoke, None);
}

#[test]
fn one_time_sequences_come_from_a_file() {
    let config = config(r#"{"rules": [{"name": "a", "command": "x", "one_time_sequences": "/etc/knockd/once"}]}"#);
    assert_eq!(config.rules[0].trigger, Some(Trigger::OneTime(PathBuf::from("/etc/knockd/once"))));
}

#[test]
fn a_target_is_an_address_or_a_list_in_any_order() {
    let targets = |target: &str| rule(&format!(r#""command": "x", "target": {target}"#)).targets;
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    assert_eq!(targets(r#""192.0.2.1""#), [address("192.0.2.1")]);
    assert_eq!(targets(r#"["2001:db8::1", "192.0.2.1"]"#), [address("192.0.2.1"), address("2001:db8::1")]);
}

#[test]
fn signed_packets_have_the_documented_defaults() {
    let text = r#"{
        "spa": { "realm": "example.com", "authorized_keys": "/k", "cover_files": ["/new", "/old"] },
        "rules": [{ "name": "a", "spa": true, "command": "x" }, { "name": "b", "spa": true, "sequence": [1], "command": "x" }]
    }"#;
    let Config { spa, rules, .. } = config(text);
    let expected = Spa {
        ports: vec![62_201],
        realm: "example.com".parse().expect("a realm"),
        authorized_keys: "/k".into(),
        cover_files: vec!["/new".into(), "/old".into()],
        window: Duration::from_secs(60),
    };
    assert_eq!(spa, Some(expected));
    assert_eq!((rules[0].trigger.clone(), rules[0].spa), (None, true));
    assert_eq!((rules[1].trigger.is_some(), rules[1].spa), (true, true));

    let text = r#"{
        "spa": { "realm": "r", "authorized_keys": "/k", "cover_files": ["/c"], "ports": [443, 53], "window": "10m" },
        "rules": []
    }"#;
    let spa = config(text).spa.expect("it is there");
    assert_eq!((spa.ports, spa.window), (vec![53, 443], Duration::from_secs(600)));
}
