//! The import of configurations of knock.

mod firewall;
mod knock_rs;
mod service;

use std::fmt::Write;
use std::time::Duration;

use knock_config::{Allow, Trigger, parse};
use knock_proto::{Knock, Port, TcpFlags};
use proptest::prelude::*;

use super::{ImportOptions, Imported, import};

fn imported(text: &str, native: bool) -> Imported {
    let options = ImportOptions { native, ..ImportOptions::default() };
    let imported = import("knockd.conf", text, &options).unwrap_or_else(|errors| panic!("{errors:?}"));
    parse("config.json", &imported.json).unwrap_or_else(|error| panic!("{error}\n{}", imported.json));
    imported
}

fn notes(imported: &Imported) -> Vec<String> {
    imported.notes.iter().map(ToString::to_string).collect()
}

fn errors(text: &str) -> Vec<String> {
    let errors = import("knockd.conf", text, &ImportOptions::default()).expect_err(text);
    errors.iter().map(ToString::to_string).collect()
}

/// Two doors, as the sample that Debian ships: one opens, the other closes.
const TWO_DOORS: &str = "\
[options]
\tUseSyslog
\tInterface = enp1s0

# ssh
[openSSH]
\tsequence    = 7000,8000,9000
\tseq_timeout = 5
\tcommand     = /sbin/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
\ttcpflags    = syn

[closeSSH]
\tsequence    = 9000,8000,7000
\tseq_timeout = 25
\tcommand     = /sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
\ttcpflags    = syn
";

#[test]
fn a_door_to_open_and_one_to_close_keep_their_commands() {
    let imported = imported(TWO_DOORS, false);
    assert_eq!(
        imported.json,
        r#"{
  "interface": "enp1s0",
  "timeout": 25,
  "log": {"target": "syslog"},
  "rules": [
    {
      "name": "openSSH",
      "sequence": [7000, 8000, 9000],
      "timeout": 5,
      "command": "/sbin/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT"
    },
    {
      "name": "closeSSH",
      "sequence": [9000, 8000, 7000],
      "command": "/sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT"
    }
  ]
}
"#
    );
    let syn = "TCPFlags = syn also matches SYN+ACK, the answers to connections of this host; for knockd ACK, RST and FIN \
               must be clear (write \"tcp_flags\": \"syn\" for the meaning of knock)";
    assert_eq!(
        notes(&imported),
        [
            "knockd.conf:6: \"allow\": {\"ports\": [22], \"timeout\": \"1h\"} can replace the command: it runs no shell, and its \
             grant always expires; without an end the port stayed open until another rule closed it, a grant expires after 1h; it \
             is for IPv4 and IPv6 sources, and the managed table drops packets of strangers to the ports: delete a \
             firewall rule or policy of your own that drops them, or use a user set"
                .to_owned(),
            "knockd.conf:6: knockd kills a command after 30 seconds; `command_timeout` sets another limit".to_owned(),
            format!("knockd.conf:10: {syn}"),
            "knockd.conf:12: \"revoke\": \"openSSH\" can replace the command: it revokes the grant of that rule"
                .to_owned(),
        ]
    );
}

#[test]
fn a_native_import_grants_and_revokes() {
    let imported = imported(TWO_DOORS, true);
    let config = parse("config.json", &imported.json).expect("valid").config;
    let allow = Allow::Ports {
        ports: vec![Port::tcp(22).into()],
        any: false,
        prefix4: 32,
        prefix6: 128,
        timeout: Duration::from_secs(3600),
    };
    assert_eq!((config.rules[0].allow.as_ref(), config.rules[0].command.as_ref()), (Some(&allow), None));
    assert_eq!(
        (config.rules[1].revoke.as_ref(), config.rules[1].command.as_ref()),
        (Some(&config.rules[0].name), None)
    );
    assert!(!notes(&imported).iter().any(|note| note.contains("killed")), "no command is left to be killed");
}

#[test]
fn a_start_and_a_stop_command_become_a_timed_command_or_a_grant() {
    let text = "[options]\nlogfile = /var/log/knockd.log\n[mail]\nsequence = 2222:udp,3333:tcp,4444:UDP\n\
                seq_timeout = 15\ntcpflags = SYN, !ack\n\
                start_command = iptables -I INPUT 1 -p tcp -s %IP%/32 -m state --state NEW -m multiport --dports 25,587 -j ACCEPT\n\
                cmd_timeout = 5\n\
                stop_command = /usr/sbin/iptables -w -D INPUT -s %IP% -p tcp -m multiport --dports 25,587 -j ACCEPT\n";
    let kept = imported(text, false);
    let rule = parse("config.json", &kept.json).expect("valid").config.rules.remove(0);
    let knocks = vec![Knock::udp(2222), Knock::tcp(3333), Knock::udp(4444)];
    assert_eq!(rule.trigger, Some(Trigger::Sequence(knocks)));
    assert_eq!(rule.timeout, Duration::from_secs(15));
    assert_eq!(rule.tcp_flags, TcpFlags { set: TcpFlags::SYN, clear: TcpFlags::ACK });
    assert_eq!(rule.stop.expect("a stop command").after, Duration::from_secs(5));
    let log = "knockd.conf:2: LogFile = /var/log/knockd.log: knockd writes no log file; it logs to the journal, to syslog or to \
               standard error, which can be redirected to a file";
    assert!(notes(&kept).contains(&log.to_owned()));
    let any = "knockd.conf:1: no Interface: the configuration has \"any\", all interfaces; knock took eth0. The option \
               --interface names another";
    assert!(notes(&kept).contains(&any.to_owned()));

    let native = imported(text, true);
    assert!(native.json.contains(r#""allow": {"ports": [25, 587], "timeout": 5}"#), "{}", native.json);
    assert!(!native.json.contains("command"), "{}", native.json);
}

#[test]
fn defaults_of_knock_that_differ_are_written() {
    let text = "[a]\nsequence = 1,2\nstart_command = x\nstop_command = y\n";
    let config = parse("config.json", &imported(text, false).json).expect("valid").config;
    assert_eq!(config.rules[0].timeout, Duration::from_secs(25));
    assert_eq!(config.rules[0].stop.as_ref().expect("a stop command").after, Duration::from_secs(10));
    assert_eq!(config.interfaces, knock_config::Interfaces::Any);
}

#[test]
fn one_time_sequences_target_and_odd_flags_are_kept() {
    let text =
        "[a]\nOne_Time_Sequences = /etc/knockd/smtp_sequences\nTCPFlags = fin,!ack\nTarget = 192.0.2.9\nCommand = x";
    let json = imported(text, false).json;
    for member in [
        r#""one_time_sequences": "/etc/knockd/smtp_sequences""#,
        r#""tcp_flags": "fin,!ack""#,
        r#""target": "192.0.2.9""#,
    ] {
        assert!(json.contains(member), "{json}");
    }
}

#[test]
fn the_cooldown_of_forks_is_kept() {
    let text = "[a]\nsequence = 8211:udp\nSeq_Cooldown = 5\ncommand = x\n";
    let config = parse("config.json", &imported(text, false).json).expect("valid").config;
    assert_eq!(config.rules[0].cooldown, Some(Duration::from_secs(5)));
    let one_time = imported(&text.replace("sequence = 8211:udp", "one_time_sequences = /etc/k"), false);
    assert!(!one_time.json.contains("cooldown"), "{}", one_time.json);
    let note = "knockd.conf:3: Seq_Cooldown is omitted: a one-time sequence works once";
    assert!(notes(&one_time).contains(&note.to_owned()), "{:?}", notes(&one_time));
    let error = "knockd.conf:3: `0` is not a whole number of seconds from 1 to 31536000 (a year); write such a number";
    assert_eq!(errors(&text.replace("= 5", "= 0")), [error]);
}

#[test]
fn ipv6_commands_fall_back_unless_they_are_empty() {
    for (lines, expected) in [
        ("command = a\nstop_command = b", vec![("command", "a"), ("stop_command", "b")]),
        ("command = a\ncommand_6 = c", vec![("command", "a"), ("command6", "c")]),
        ("command = a\ncommand_6 =", vec![("command", "a"), ("command6", ":")]),
        ("command_6 = c", vec![("command", ":"), ("command6", "c")]),
        ("", vec![("command", ":")]),
        ("stop_command = b", vec![("command", ":")]),
        (
            "command = a\nstop_command = b\nstop_command_6 = d",
            vec![("command", "a"), ("stop_command", "b"), ("stop_command6", "d")],
        ),
        ("command = a\nstop_command_6 = d", vec![("command", "a"), ("stop_command", ":"), ("stop_command6", "d")]),
        (
            "command = a\ncommand_6 =\nstop_command = b",
            vec![("command", "a"), ("command6", ":"), ("stop_command", "b"), ("stop_command6", ":")],
        ),
    ] {
        let json = imported(&format!("[a]\nsequence = 1,2\n{lines}\n"), false).json;
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let rule = value["rules"][0].as_object().expect("a rule");
        let commands: Vec<(&str, &str)> = rule
            .iter()
            .filter(|(key, _)| key.contains("command"))
            .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
            .collect();
        assert_eq!(commands, expected, "{lines}");
    }
}

#[test]
fn names_that_are_not_valid_for_a_rule_are_changed() {
    let text =
        "[open ssh]\nsequence=1,2\ncommand=x\n[open_ssh]\nsequence=2,1\ncommand=y\n[ä]\nsequence=3,1\ncommand=z\n";
    let imported = imported(text, false);
    for name in [r#""name": "open_ssh""#, r#""name": "open_ssh-2""#, r#""name": "_""#] {
        assert!(imported.json.contains(name), "{}", imported.json);
    }
    let note = "knockd.conf:1: `open ssh` becomes rule `open_ssh`: names are unique and have at most 64 letters, digits, `_`, `.` or `-`";
    assert!(notes(&imported).contains(&note.to_owned()));
}

#[test]
fn keys_without_an_effect_are_omitted_with_a_note() {
    let imported = imported("[options]\npidfile=/p\n[a]\nsequence=1,2\ncmd_timeout=3\nstop_command=y\n", false);
    let notes = notes(&imported);
    for note in [
        "knockd.conf:2: PidFile: knockd writes no PID file, because it stays in the foreground",
        "knockd.conf:3: door `a` runs no command; the rule runs `:`, which has no effect, and its completion is logged",
        "knockd.conf:3: no TCPFlags: for knock every TCP segment to a port is a knock; for knockd only the first packet of a \
         connection is one (SYN without ACK, RST and FIN)",
        "knockd.conf:5: Cmd_Timeout without a stop command has no effect; it is omitted",
        "knockd.conf:6: a stop command without a start command never ran in knock; it is omitted",
    ] {
        assert!(notes.contains(&note.to_owned()), "{note}: {notes:#?}");
    }
    assert!(!imported.json.contains("stop"), "{}", imported.json);
}

#[test]
fn timed_commands_are_noted_once() {
    let door = |name| format!("[{name}]\nsequence=1,2\ncommand=x\nstop_command=y\ntcpflags=syn,!ack\n");
    let notes = notes(&imported(&format!("[options]\ninterface=eth0\n{}{}", door("a"), door("b")), false));
    assert_eq!(
        notes,
        [
            "knockd.conf:3: knockd kills a command after 30 seconds; `command_timeout` sets another limit",
            "knockd.conf:3: knockd runs a stop command once, after the last completion, also when the daemon stops or is started \
             again; the other daemon ran one for each completion and lost pending ones when it stopped",
        ]
    );
}

#[test]
fn a_line_that_knock_misreads_or_refuses_is_an_error() {
    for (text, expected) in [
        ("", "1: the file has no door; write a section such as [openSSH] with a Sequence"),
        ("x = 1", "1: `x` is before the first [section]; move it into [options] or a door"),
        ("[]\nsequence=1", "1: the section has no name; write one between the brackets"),
        (
            "[Options]\nsequence=1",
            "1: section names of knock are case-sensitive, so [Options] is a door; write [options]",
        ),
        ("[options]\nUseSyslog=1", "2: UseSyslog has no value, and knock refuses one too; write `UseSyslog` alone"),
        ("[options]\nInterface", "2: `Interface` has no value; write `Interface = …`"),
        (
            "[options]\nInterface = a/b",
            "2: `a/b` is not the name of an interface; write a name such as `eth0`, without quotes",
        ),
        ("[options]\nSequence = 1", "2: `Sequence` is a key of a door; move it into a door"),
        ("[options]\nfoo = 1", "2: knock has no key `foo`; correct or delete it"),
        ("[a]\nsequence=1\nLogFile = /x", "3: `LogFile` is a key of [options]; move it into that section"),
        (
            "[a]\nsequence=1\nstart_comand=x",
            "3: knock has no key `start_comand`; did you mean `start_command`? correct or delete it",
        ),
        ("[a]\nsequence=1\n; x", "3: `;` begins no comment in knock, which refuses the line; write # instead"),
        (
            "[a]\nsequence=1\nsequence=2",
            "3: duplicate key `sequence` in the section, first in line 2; delete one of the two",
        ),
        (
            "[a]\nsequence=1\ncommand=x\nstart_command=y",
            "4: duplicate key `start_command` in the section, first in line 3; delete one of the two",
        ),
        ("[a]\ncommand=x", "1: the door has no sequence; write `Sequence` or `One_Time_Sequences`"),
        (
            "[a]\nsequence=1\none_time_sequences=/x",
            "3: the door has both `Sequence` and `One_Time_Sequences`; delete one of the two",
        ),
        (
            "[a]\nsequence=7000-7010",
            "2: `7000-7010` is a range, and knock silently uses only its first port; write each port separately",
        ),
        (
            "[a]\nsequence=abc",
            "2: `abc` is not a port, and knock silently reads it as 0; write a number from 1 to 65535",
        ),
        ("[a]\nsequence=1,,2", "2: `` is not a port, and knock silently reads it as 0; write a number from 1 to 65535"),
        (
            "[a]\nsequence=12 34",
            "2: `12 34` is not a port, and knock silently reads it as 12; write a number from 1 to 65535",
        ),
        (
            "[a]\nsequence=70000",
            "2: port 70000 is not between 1 and 65535, and knock silently reads it as 4464; write the intended port",
        ),
        (
            "[a]\nsequence=-5",
            "2: port -5 is not between 1 and 65535, and knock silently reads it as 65531; write the intended port",
        ),
        (
            "[a]\nsequence=0",
            "2: port 0 is not between 1 and 65535, and knock silently reads it as 0; write the intended port",
        ),
        ("[a]\nsequence=1:sctp", "2: `sctp` is not a protocol; write tcp or udp"),
        (
            "[a]\nsequence=1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6",
            "2: 33 knocks are more than the limit of 32; write a shorter sequence",
        ),
        (
            "[a]\nsequence=1\nseq_timeout=abc",
            "3: `abc` is not a whole number of seconds from 1 to 31536000 (a year); write such a number",
        ),
        (
            "[a]\nsequence=1\ncmd_timeout=0",
            "3: `0` is not a whole number of seconds from 1 to 31536000 (a year); write such a number",
        ),
        (
            "[a]\nsequence=1\ntcpflags=foo",
            "3: `foo` cannot be TCPFlags: `foo` is not a TCP flag; write syn, ack, rst, fin, psh or urg, with `!` before a \
             flag that must be clear",
        ),
        (
            "[a]\nsequence=1\ntarget=host",
            "3: Target: \"host\" is not an IP address; write an address such as \"192.0.2.1\" or \"2001:db8::1\", without port, \
             prefix or host name",
        ),
        ("[a]\none_time_sequences=x", "2: `x` is not an absolute path; begin it with `/`"),
        ("[a]\nsequence=1\ncommand=x\0", "3: the value contains a NUL character; delete the character"),
    ] {
        assert_eq!(errors(text), [format!("knockd.conf:{expected}")], "{text:?}");
    }
}

#[test]
fn flags_that_no_ordinary_client_sends_are_noted() {
    let text = |flags| format!("[a]\nsequence = 1,2\ncommand = x\ntcpflags = {flags}\n");
    let note = |flags| {
        let imported = imported(&text(flags), false);
        notes(&imported).into_iter().find(|note| note.starts_with("knockd.conf:4")).unwrap_or_default()
    };
    assert_eq!(
        note("syn,ack"),
        "knockd.conf:4: TCPFlags = syn,ack does not match the SYN that knock, knock-cli and other clients send, so only a \
         tool that sets flags can knock at the TCP ports; SYN+ACK is the answer to a connection that this host opens, so a \
         server that it connects to can knock; write TCPFlags = syn for ordinary clients"
    );
    let start = "knockd.conf:4: TCPFlags = fin,!ack does not match the SYN that";
    assert!(note("fin,!ack").starts_with(start) && !note("fin,!ack").contains("answer"), "{}", note("fin,!ack"));
    assert_eq!(note("syn,!ack,!fin"), "");
    let twice = format!("{}{}", text("syn"), text("syn").replace("[a]", "[b]").replace("1,2", "2,1"));
    let notes = notes(&imported(&twice, false));
    assert_eq!(notes.iter().filter(|note| note.contains("TCPFlags = syn also")).count(), 1, "{notes:?}");
}

#[test]
fn a_file_as_windows_writes_it_is_read() {
    let text = "\u{feff}[Options]\r\n".replace("Options", "options")
        + "\tINTERFACE = ens3\r\n\r\n[openSSH]\r\n\tSEQUENCE\t=\t7000 , 8000:UDP\r\n\tcommand = \"ls %IP% -l\"\r\n";
    let imported = imported(&text, false);
    for part in [r#""interface": "ens3""#, r#""sequence": [7000, "8000/udp"]"#, r#""command": "\"ls %IP% -l\"""#] {
        assert!(imported.json.contains(part), "{part}: {}", imported.json);
    }
    let notes = notes(&imported);
    for note in [
        "knockd.conf:1: the file begins with a byte order mark, which is ignored here; knock refuses such a file",
        "knockd.conf:6: the quotes make the whole command the name of one program; delete them",
    ] {
        assert!(notes.contains(&note.to_owned()), "{note}: {notes:#?}");
    }
}

#[test]
fn all_errors_are_reported_in_the_order_of_the_lines() {
    let lines: Vec<String> = errors("[a]\nsequence=0,x\nfoo=1\n[b]\n[c]\nsequence=1\ntarget=z\n")
        .iter()
        .filter_map(|error| error.split(':').nth(1).map(str::to_owned))
        .collect();
    assert_eq!(lines, ["2", "2", "3", "4", "7"]);
}

#[test]
fn more_doors_than_rules_are_refused() {
    let mut text = String::new();
    for number in 0..16_385 {
        writeln!(text, "[d{number}]\nsequence={},1\ncommand=x", number + 2).expect("a string can be written");
    }
    assert_eq!(errors(&text), ["knockd.conf:1: 16385 rules are more than the limit of 16384; delete some rules"]);
}

#[test]
fn a_comment_begins_at_the_start_of_a_line() {
    let imported = imported("  # x = 1\n[a]\n# [b]\nsequence = 1,2\ncommand = a # b = c\n", false);
    assert!(imported.json.contains(r##""command": "a # b = c""##), "{}", imported.json);
}

fn door_name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_ äö\"\\\\.-]{1,70}"
        .prop_map(|name| name.trim().to_owned())
        .prop_filter("a name", |name| !name.is_empty() && !name.eq_ignore_ascii_case("options"))
}

fn command() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,30}",
        Just(String::new()),
        Just("iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT".to_owned()),
        Just("iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT".to_owned()),
        Just("nft add element inet f k {%IP%}".to_owned()),
        Just("nft delete element inet f k {%IP%}".to_owned()),
        Just("nft add element ip6 f k {%IP%}".to_owned()),
    ]
}

proptest! {
    #[test]
    fn a_file_that_knock_accepts_becomes_a_valid_configuration(
        doors in proptest::collection::vec(
            (
                door_name(),
                proptest::collection::vec((1u16.., any::<bool>()), 1..33),
                proptest::option::of(1u32..100_000),
                proptest::option::of(proptest::sample::select(vec!["syn", "SYN,!ack", "fin", "!rst, urg"])),
                proptest::collection::vec(proptest::option::of(command()), 4),
                proptest::option::of(1u32..100_000),
            ),
            1..5,
        ),
        syslog in any::<bool>(),
        native in any::<bool>(),
    ) {
        let mut text = String::new();
        if syslog {
            text.push_str("[options]\nUseSyslog\n");
        }
        for (name, knocks, seq_timeout, flags, commands, cmd_timeout) in &doors {
            let knocks: Vec<String> =
                knocks.iter().map(|(port, udp)| format!("{port}{}", if *udp { ":udp" } else { "" })).collect();
            writeln!(text, "[{name}]\nSequence = {}", knocks.join(", ")).expect("a string");
            let timeouts = [("Seq_Timeout", seq_timeout), ("Cmd_Timeout", cmd_timeout)];
            for (key, seconds) in timeouts.iter().filter_map(|(key, value)| value.map(|value| (key, value))) {
                writeln!(text, "{key}={seconds}").expect("a string");
            }
            if let Some(flags) = flags {
                writeln!(text, "TCPFlags={flags}").expect("a string");
            }
            let keys = ["Command", "Start_Command_6", "Stop_Command", "Stop_Command_6"];
            for (key, command) in keys.iter().zip(commands).filter_map(|(key, value)| value.as_ref().map(|value| (key, value))) {
                writeln!(text, "{key} = {command}").expect("a string");
            }
        }
        let imported = import("knockd.conf", &text, &ImportOptions { native, ..ImportOptions::default() });
        let imported = imported.map_err(|errors| TestCaseError::fail(format!("{errors:?}\n{text}")))?;
        let loaded = parse("config.json", &imported.json);
        let config = loaded.map_err(|error| TestCaseError::fail(format!("{error}\n{}", imported.json)))?.config;
        prop_assert_eq!(config.rules.len(), doors.len());
        for (rule, (_, knocks, seq_timeout, ..)) in config.rules.iter().zip(&doors) {
            let knocks = knocks.iter().map(|(port, udp)| if *udp { Knock::udp(*port) } else { Knock::tcp(*port) });
            prop_assert_eq!(&rule.trigger, &Some(Trigger::Sequence(knocks.collect())));
            prop_assert_eq!(rule.timeout, Duration::from_secs(seq_timeout.unwrap_or(25).into()));
        }
    }

    #[test]
    fn no_text_panics(text in "(\\[[a-c]?\\]|sequence|command|=|[ -~]|\n|ä|\0){0,80}", native in any::<bool>()) {
        if let Ok(imported) = import("knockd.conf", &text, &ImportOptions { native, ..ImportOptions::default() }) {
            prop_assert!(parse("config.json", &imported.json).is_ok(), "{}", imported.json);
        }
    }
}
