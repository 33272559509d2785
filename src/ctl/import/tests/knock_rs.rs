//! The import of configurations of knock-rs: YAML, and JSON of its fork.

use knock_config::{Interfaces, parse};
use proptest::prelude::*;

use super::super::{ImportOptions, Imported, import};

fn imported(file: &str, text: &str, native: bool) -> Imported {
    let options = ImportOptions { native, ..ImportOptions::default() };
    import(file, text, &options).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn notes(imported: &Imported) -> Vec<String> {
    imported.notes.iter().map(ToString::to_string).collect()
}

fn errors(text: &str) -> Vec<String> {
    let errors = import("config.yaml", text, &ImportOptions::default()).expect_err(text);
    errors.iter().map(ToString::to_string).collect()
}

const SERVER: &str = "\
# the server
interface: \"ens3\"
timeout: 8
rules:
  - name: \"open web\"
    command: \"/usr/sbin/iptables -A INPUT -s %IP% -p tcp --dport 443 -j ACCEPT\"
    sequence:
      - 4301
      - 2702
      - 6503
  - name: close_web
    command: /usr/sbin/iptables -D INPUT -s %IP% -p tcp --dport 443 -j ACCEPT
    sequence: [6503, 2702, 4301]
";

#[test]
fn a_yaml_file_becomes_a_configuration() {
    let imported = imported("config.yaml", SERVER, false);
    assert_eq!(
        imported.json,
        r#"{
  "interface": "ens3",
  "timeout": 8,
  "rules": [
    {
      "name": "open_web",
      "sequence": [4301, 2702, 6503],
      "command": "/usr/sbin/iptables -A INPUT -s %IP% -p tcp --dport 443 -j ACCEPT"
    },
    {
      "name": "close_web",
      "sequence": [6503, 2702, 4301],
      "command": "/usr/sbin/iptables -D INPUT -s %IP% -p tcp --dport 443 -j ACCEPT"
    }
  ]
}
"#
    );
    let config = parse("config.json", &imported.json).expect("valid").config;
    assert_eq!(config.interfaces, Interfaces::Named(vec!["ens3".parse().expect("a name")]));
    let notes = notes(&imported);
    for note in [
        "config.yaml:3: the timeout is for the whole sequence; knock-rs counted it from the last knock",
        "config.yaml:5: `open web` becomes rule `open_web`: names are unique and have at most 64 letters, digits, `_`, \
         `.` or `-`",
    ] {
        assert!(notes.contains(&note.to_owned()), "{note}: {notes:#?}");
    }
    let native = self::imported("config.yaml", SERVER, true).json;
    assert!(native.contains(r#""allow": {"ports": [443], "timeout": "1h"}"#), "{native}");
    assert!(native.contains(r#""revoke": "open_web""#) && !native.contains("command"), "{native}");
}

/// As the fork has it, with tabs.
const FORK: &str = "{
\t\"interface\": \"eth0\",
\t\"timeout\": 2500,
\t\"rules\": [
\t\t{
\t\t\t\"name\": \"ssh\",
\t\t\t\"activate\": \"iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT\",
\t\t\t\"deactivate\": \"iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT\",
\t\t\t\"timeout\": 60000,
\t\t\t\"setup\": \"iptables -A INPUT -p tcp --dport 22 -j DROP\",
\t\t\t\"teardown\": \"iptables -D INPUT -p tcp --dport 22 -j DROP\",
\t\t\t\"sequence\": [4301, 2702]
\t\t}
\t]
}
";

#[test]
fn the_fork_counts_in_milliseconds() {
    let kept = imported("config.json", FORK, false);
    for member in [
        r#""timeout": "2500ms""#,
        r#""command": "iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT""#,
        r#""stop_command": "iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT""#,
        r#""stop_after": 60"#,
        r#""setup": "iptables -A INPUT -p tcp --dport 22 -j DROP""#,
        r#""teardown": "iptables -D INPUT -p tcp --dport 22 -j DROP""#,
    ] {
        assert!(kept.json.contains(member), "{member}: {}", kept.json);
    }
    parse("config.json", &kept.json).expect("valid");
    let all = notes(&kept);
    for note in [
        "config.json:3: the timeout is for the whole sequence; knock-rs counted it from the last knock; this fork counted \
         in milliseconds: \"timeout\": \"2500ms\"",
        "config.json:9: this fork counted in milliseconds, so the rule closes after 60s; write another time, such as \
         \"6h\", if that is not what you mean",
    ] {
        assert!(all.contains(&note.to_owned()), "{note}: {all:#?}");
    }

    let native = imported("config.json", FORK, true);
    let json = &native.json;
    assert!(json.contains(r#""allow": {"ports": [22], "timeout": 60}"#), "{json}");
    assert!(!json.contains("setup") && !json.contains("teardown") && !json.contains("command"), "{json}");
    let note = "config.json:5: `setup` and `teardown` that close and open the ports are omitted: the managed table guards \
                them";
    assert!(notes(&native).contains(&note.to_owned()), "{:#?}", notes(&native));

    let default = imported("config.json", &FORK.replace("\t\t\t\"timeout\": 60000,\n", ""), false);
    assert!(default.json.contains(r#""stop_after": "21600ms""#), "{}", default.json);
    // Another port is not guarded by the managed table, so its setup stays.
    let other = imported("config.json", &FORK.replace("--dport 22 -j DROP", "--dport 23 -j DROP"), true);
    assert!(other.json.contains("setup") && other.json.contains("allow"), "{}", other.json);
}

#[test]
fn what_a_shell_does_with_a_command_is_noted() {
    let text = SERVER.replace("--dport 443 -j ACCEPT\"", "--dport 443 -j ACCEPT; logger opened\"");
    let note = "config.yaml:6: /bin/sh runs the command, so quotes, `;`, `|` and the like have their meaning; knock-rs split \
                the command at blanks";
    assert!(notes(&imported("config.yaml", &text, false)).contains(&note.to_owned()));
    assert!(!notes(&imported("config.yaml", SERVER, false)).iter().any(|note| note.contains("/bin/sh")));
}

#[test]
fn a_file_of_the_client_becomes_one_for_knock_cli() {
    let text = "rules:\n- name: ssh\n  host: server.example\n  sequence: [4301, 2702]\n";
    let imported = imported("config.yaml", text, false);
    let rules = knock_config::client::parse("config.json", &imported.json).expect("a client's file");
    assert_eq!(rules.len(), 1);
    assert!(!imported.json.contains("command") && !imported.json.contains("interface"), "{}", imported.json);
    let note = "config.yaml:1: the file has no command, so it becomes a file of the client, knock-cli";
    assert!(notes(&imported).contains(&note.to_owned()), "{:?}", notes(&imported));
}

#[test]
fn a_file_that_needs_no_import_is_named() {
    for text in [
        r#"{"rules": [{"name": "a", "sequence": [3, 1], "allow": {"ports": [22], "timeout": "1h"}}]}"#,
        r#"{"rules": [{"name": "a", "sequence": ["3/udp", 1]}]}"#,
    ] {
        let expected = "config.yaml:1: the file needs no import: knockd and knock-cli read it as it is; check a configuration \
                        of knockd with knockd -t -c config.yaml";
        assert_eq!(errors(text), [expected], "{text}");
    }
}

#[test]
fn an_error_in_yaml_has_its_line() {
    let rule = |lines: &str| format!("rules:\n  - name: a\n    command: x\n{lines}");
    for (text, expected) in [
        ("interface: eth0\n".to_owned(), "1: the file has no `rules`; write a list of rules"),
        ("rules: {}\n".to_owned(), "1: `rules`: an object is not a list; write a list"),
        (
            "rules:\n  - ssh\n".to_owned(),
            "2: `ssh` is not a rule with `name` and `sequence`; write a rule with `name` and `sequence`",
        ),
        (rule("    sequnce: [1]\n    sequence: [1]\n"), "4: knock-rs has no key `sequnce`; correct or delete it"),
        (rule(""), "2: the rule has no `sequence`; write it"),
        (rule("    sequence: 7000\n"), "4: `sequence`: `7000` is not a list of ports; write a list of ports"),
        (
            rule("    sequence: []\n"),
            "4: the sequence is empty, so knock-rs took every packet for it; write 1 to 32 ports",
        ),
        (rule("    sequence: [1, 70000]\n"), "4: `70000` is not a port; write a number from 1 to 65535"),
        (rule("    sequence:\n      - 1\n      - 0\n"), "6: `0` is not a port; write a number from 1 to 65535"),
        (
            format!("timeout: soon\n{}", rule("    sequence: [1]\n")),
            "1: `soon` is not a whole number of seconds from 1 to 31536000; write such a number",
        ),
        (
            format!("interface: a/b\n{}", rule("    sequence: [1]\n")),
            "1: `a/b` is not the name of an interface; write a name such as `eth0`, without quotes",
        ),
        (
            "rules:\n  - name: a\n    sequence: [1]\n  - command: x\n    sequence: [2]\n".to_owned(),
            "2: the rule has no `command`; write it",
        ),
        (rule("    name: b\n    sequence: [1]\n"), "4: duplicate key `name`, first in line 2; delete one of the two"),
        (rule("    sequence: *all\n"), "4: the file is not valid YAML: while parsing node, found unknown anchor"),
        (
            "rules:\n  - name: &n a\n    command: *n\n    sequence: [1]\n".to_owned(),
            "3: an alias (`*name`) is not part of a file of knock-rs; write the value itself",
        ),
        (rule("    sequence: !!seq [1]\n    x: !t y\n"), "5: a tag is not part of a file of knock-rs; delete the tag"),
        ("rules: []\n---\nrules: []\n".to_owned(), "2: a second document is not part of a file of knock-rs; delete it"),
        (
            "a: {[b]: c}\n".to_owned(),
            "1: a key that is not a text is not part of a file of knock-rs; write a text as the key",
        ),
    ] {
        let found = errors(&text);
        assert_eq!(found.first(), Some(&format!("config.yaml:{expected}")), "{text}: {found:?}");
    }
    let deep = format!("rules: {}{}", "[".repeat(40), "]".repeat(40));
    assert_eq!(
        errors(&deep),
        ["config.yaml:1: so deep a nesting is not part of a file of knock-rs; write a list of rules"]
    );
}

proptest! {
    #[test]
    fn no_yaml_panics_and_what_is_imported_is_valid(
        text in "(rules:|\n- |\n  - |\n    |name: |a|sequence: |command: |activate: |timeout: |\\[1, 2\\]|iptables|[ -~]|\n|&|\\*){0,60}",
        native in any::<bool>(),
    ) {
        for text in [text.clone(), format!("rules:\n  - name: x\n    sequence: [1, 2]\n    command: y\n{text}")] {
            if let Ok(imported) = import("config.yaml", &text, &ImportOptions { native, ..ImportOptions::default() }) {
                let client = knock_config::client::parse("config.json", &imported.json).is_ok();
                prop_assert!(client || parse("config.json", &imported.json).is_ok(), "{}", imported.json);
            }
        }
    }
}
