//! What the service of the system adds to knockd.conf.

use std::fs;

use super::super::{ImportOptions, import, service_of};

const DOORS: &str =
    "[options]\n\tUseSyslog\n[ssh]\n\tsequence = 7000,8000\n\ttcpflags = syn,!ack\n\tcommand = x %IP%\n";

/// The configuration and the notes for a system with that file.
fn imported(text: &str, file: &str, content: &str, interfaces: &[&str]) -> (String, Vec<String>) {
    let root = tempfile::tempdir().expect("a directory");
    for (path, content) in [("etc/knockd.conf", text), (file, content)] {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, content).expect("a file");
    }
    let options = ImportOptions {
        interfaces: interfaces.iter().map(|name| name.parse().expect("a name")).collect(),
        service: service_of(root.path(), &root.path().join("etc/knockd.conf")),
        ..ImportOptions::default()
    };
    let imported = import("/etc/knockd.conf", text, &options).expect("valid");
    knock_config::parse("config.json", &imported.json).expect("a configuration");
    (imported.json, imported.notes.iter().map(ToString::to_string).collect())
}

const DEFAULT: &str = "etc/default/knockd";

#[test]
fn the_interface_is_the_one_that_knock_listened_on() {
    let written = DOORS.replace("UseSyslog", "Interface = eth7");
    for (text, options, interfaces, expected, note) in [
        (
            DOORS,
            "START_KNOCKD=1\nKNOCKD_OPTS=\"-i ens18\"\n",
            &[][..],
            r#""interface": "ens18""#,
            "/etc/default/knockd:2: the interface `ens18` is from the command line of knock's daemon",
        ),
        (
            &written,
            "KNOCKD_OPTS=\"-i ens18\"\n",
            &[],
            r#""interface": "ens18""#,
            "/etc/default/knockd:1: the interface `ens18` is from the command line of knock's daemon; it overrides Interface \
             = eth7",
        ),
        (&written, "", &[], r#""interface": "eth7""#, ""),
        (DOORS, "KNOCKD_OPTS=\"-i ens18\"\n", &["wan0"], r#""interface": "wan0""#, ""),
        (DOORS, "", &["wan0", "wan1"], r#""interface": ["wan0", "wan1"]"#, ""),
        (
            DOORS,
            "KNOCKD_OPTS=\"-i a/b\"",
            &[],
            r#""interface": "any""#,
            "/etc/default/knockd:1: -i a/b: not the name of an interface; it is ignored",
        ),
    ] {
        let (json, notes) = imported(text, DEFAULT, options, interfaces);
        assert!(json.contains(expected), "{expected}: {json}");
        assert!(note.is_empty() || notes.first().is_some_and(|first| first == note), "{note}: {notes:#?}");
        assert_eq!(notes.iter().any(|note| note.contains("no Interface")), expected.contains("any"), "{notes:#?}");
    }
}

#[test]
fn other_options_of_the_command_line_have_a_note() {
    let (json, notes) =
        imported(DOORS, DEFAULT, "KNOCKD_OPTS=\"-d -4lD -p /run/k.pid -g /var/log/k.log -i eth0\"", &[]);
    assert!(json.contains(r#""command6": ":""#), "{json}");
    for note in [
        "-4: knock ignored IPv6, so IPv6 sources run no command",
        "-l: knockd logs addresses and looks up no names",
        "-D: the option -v of knockd, or `log.level`, logs more",
        "-p /run/k.pid: knockd writes no PID file, because it stays in the foreground",
        "-g /var/log/k.log: knockd writes no log file; it logs to the journal, to syslog or to standard error, which can be \
         redirected to a file",
    ] {
        assert!(notes.contains(&format!("/etc/default/knockd:1: {note}")), "{note}: {notes:#?}");
    }
}

#[test]
fn a_drop_in_that_also_changes_the_unit_of_this_knockd_is_named() {
    let file = "etc/systemd/system/knockd.service.d/interface.conf";
    let drop_in = "[Service]\nExecStart=\nExecStart=/usr/sbin/knockd -i wan0\n";
    let (json, notes) = imported(DOORS, file, drop_in, &[]);
    assert!(json.contains(r#""interface": "wan0""#), "{json}");
    for note in [
        format!("/{file}:3: the interface `wan0` is from the command line of knock's daemon"),
        format!(
            "/{file}:1: this file also changes the unit of this knockd, which is knockd.service too; delete it before the first start"
        ),
    ] {
        assert!(notes.contains(&note), "{note}: {notes:#?}");
    }
}
