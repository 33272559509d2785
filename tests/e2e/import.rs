//! `knockctl import` on the files that knock itself ships, up to the door that opens.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use knock_testkit::{Echo, Host, Reach};
use serde_json::{Value, json};

use crate::support::{Client, Daemon, Options, at4, check, knock_cli, network, table_exists, wait_until};

/// What the package has as its configuration.
const CONFIGURATION: &str = "/etc/knockd.conf";
/// Its manual page, whose examples are whole configurations.
const MANUAL: &str = "/usr/share/man/man1/knockd.1.gz";
/// The options of its daemon.
const DEFAULTS: &str = "/etc/default/knockd";
/// Its client.
const CLIENT: &str = "/usr/bin/knock";

fn import(arguments: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knockctl"));
    command.arg("import").args(arguments).arg(file).output().expect("knockctl runs")
}

/// What it prints where it succeeds.
#[track_caller]
fn imported(arguments: &[&str], file: &Path) -> Value {
    let output = import(arguments, file);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// The package's own configuration, with the log where the test reads it: it asks for syslog, and none may run here.
fn packaged_configuration(arguments: &[&str]) -> Value {
    let mut configuration = imported(arguments, &packaged(CONFIGURATION));
    assert_eq!(configuration["log"], json!({ "target": "syslog" }));
    configuration["log"] = json!({ "target": "stderr" });
    configuration
}

/// A file of knock's package.
fn packaged(path: &'static str) -> PathBuf {
    assert!(Path::new(path).exists(), "{path} is missing; run: apt-get install knockd");
    path.into()
}

/// The configurations in knockd(1).
fn examples() -> Vec<String> {
    let output = Command::new("gzip").arg("-dc").arg(packaged(MANUAL)).output().expect("gzip (package gzip)");
    let manual = String::from_utf8(output.stdout).expect("text");
    let mut examples = Vec::new();
    for part in manual.split(".nf\n").skip(1) {
        let example = part.split("\n.fi").next().unwrap_or("").replace("\\-", "-");
        if example.starts_with("[options]") {
            examples.push(example);
        }
    }
    examples
}

#[track_caller]
fn assert_loads(server: &Host, configuration: &Value) {
    let said = check(server, &configuration.to_string(), Options { arguments: &["-t"], ..Options::default() });
    assert_eq!(said.code, Some(0), "{configuration:#}: {}", said.stderr);
}

#[test]
fn every_configuration_that_the_package_ships_is_imported_and_loads() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory");
    let sequences = files.path().join("sequences");
    fs::write(&sequences, " 1000,2000,3000\n").expect("one-time sequences");
    let mut configurations = examples();
    assert_eq!(configurations.len(), 4, "the examples of the manual page");
    configurations.push(fs::read_to_string(packaged(CONFIGURATION)).expect("a text"));
    for text in configurations {
        // A file that the example names and the package does not have.
        let text = text.replace("/etc/knockd/smtp_sequences", sequences.to_str().expect("UTF-8"));
        let file = files.path().join("knockd.conf");
        fs::write(&file, &text).expect("the configuration");
        for arguments in [&[][..], &["--native"]] {
            assert_loads(&network.server, &imported(arguments, &file));
        }
        let doors = text.lines().filter(|line| line.starts_with('[') && *line != "[options]").count();
        assert_eq!(imported(&[], &file)["rules"].as_array().map(Vec::len), Some(doors), "{text}");
    }
}

#[test]
fn the_packages_configuration_and_client_open_and_close_as_they_did() {
    let network = network(1);
    let rules = || {
        let output = network.server.namespace.output(Command::new("iptables").arg("-S"), "");
        output.expect("iptables (package iptables)")
    };
    let _daemon = Daemon::start(&network.server, packaged_configuration(&[]));
    let knock = |ports: [&str; 3]| {
        let mut command = Command::new(packaged(CLIENT));
        command.arg("10.77.0.1").args(ports);
        network.client().namespace.output(&mut command, "").expect("knock's client");
    };
    let rule = "-A INPUT -s 10.77.0.2/32 -p tcp -m tcp --dport 22 -j ACCEPT";
    knock(["7000", "8000", "9000"]);
    wait_until("the rule is there", || rules().contains(rule));
    knock(["9000", "8000", "7000"]);
    wait_until("the rule is gone", || !rules().contains(rule));
}

#[test]
fn the_options_of_the_packages_daemon_give_the_interface() {
    let files = tempfile::tempdir().expect("a directory");
    let defaults = files.path().join("defaults");
    // The file of this host is hidden for a moment, and for this process alone.
    let script = "mount --bind \"$1\" \"$2\" && exec \"$3\" import \"$4\"";
    for (options, interface, says) in [
        ("KNOCKD_OPTS=\"-i ens18 -v\"\n", "ens18", "/etc/default/knockd:1: the interface `ens18` is from"),
        ("START_KNOCKD=1\n", "any", "/etc/knockd.conf:1: no Interface"),
    ] {
        fs::write(&defaults, options).expect("the options");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&defaults).arg(packaged(DEFAULTS));
        command.arg(env!("CARGO_BIN_EXE_knockctl")).arg(packaged(CONFIGURATION));
        let output = command.output().expect("unshare (package util-linux)");
        let notes = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && notes.contains(says), "{options}: {notes}");
        let configuration: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
        assert_eq!(configuration["interface"], json!(interface), "{options}");
    }
}

#[test]
fn the_native_import_opens_the_port_itself() {
    let network = network(1);
    let _ssh = Echo::tcp(&network.server.namespace, 22).expect("a service");
    let daemon = Daemon::start(&network.server, packaged_configuration(&["--native"]));
    assert!(table_exists(&network.server, "knockd"));
    assert_eq!(network.client().tcp(at4(22)), Reach::Filtered);
    let mut command = Command::new(packaged(CLIENT));
    command.args(["10.77.0.1", "7000", "8000", "9000"]);
    network.client().namespace.output(&mut command, "").expect("knock's client");
    network.client().wait_until_open(at4(22));
    let mut command = Command::new(packaged(CLIENT));
    command.args(["10.77.0.1", "9000", "8000", "7000"]);
    network.client().namespace.output(&mut command, "").expect("knock's client");
    daemon.wait_for_log("is revoked");
    assert_eq!(network.client().tcp(at4(22)), Reach::Filtered);
}

/// The server's and the client's file of knock-rs.
const KNOCK_RS: [&str; 2] = [
    "interface: any\ntimeout: 5\nrules:\n  - name: open\n    command: iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT\n    \
     sequence:\n      - 7301\n      - 8402\n      - 9203\n  - name: close\n    command: iptables -D INPUT -s %IP% -p tcp --dport \
     22 -j ACCEPT\n    sequence: [9203, 8402, 7301]\n",
    "rules:\n  - {name: open, sequence: [7301, 8402, 9203]}\n  - {name: close, sequence: [9203, 8402, 7301]}\n",
];

#[test]
fn the_yaml_files_of_knock_rs_open_and_close_after_their_import() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory");
    let _ssh = Echo::tcp(&network.server.namespace, 22).expect("a service");
    let [server, client] = KNOCK_RS.map(|text| {
        let file = files.path().join("config.yaml");
        fs::write(&file, text).expect("the file of knock-rs");
        imported(&["--native"], &file)
    });
    let daemon = Daemon::start(&network.server, server);
    let file = files.path().join("client.json");
    fs::write(&file, client.to_string()).expect("the client's file");
    let knock = |rule: &str| {
        let file = file.to_str().expect("UTF-8");
        let output = knock_cli(network.client(), &["-r", rule, "-h", "10.77.0.1", "-c", file]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    assert_eq!(network.client().tcp(at4(22)), Reach::Filtered);
    knock("open");
    network.client().wait_until_open(at4(22));
    knock("close");
    daemon.wait_for_log("is revoked");
    assert_eq!(network.client().tcp(at4(22)), Reach::Filtered);
}

#[test]
fn a_file_in_another_format_is_named_by_the_daemon() {
    let network = network(1);
    let knock = fs::read_to_string(packaged(CONFIGURATION)).expect("a text");
    for (text, says) in [
        (KNOCK_RS[0], ":1:1: the file is YAML, not JSON; convert a file of knock-rs with `knockctl import`"),
        (&knock, "the file is a knockd.conf of knock, not JSON; convert it with `knockctl import`"),
        (r#"{"rules": [{"name": "a", "sequence": [3, 1, 2]}]}"#, "no rule has an action, as in a file of knock-cli"),
    ] {
        for arguments in [&["-t"][..], &[]] {
            let said = check(&network.server, text, Options { arguments, ..Options::default() });
            assert_eq!(said.code, Some(78), "{text}: {}", said.stderr);
            assert!(said.stderr.contains(says), "{text}: {}", said.stderr);
        }
    }
}

#[test]
fn changes_are_noted_on_standard_error_and_lines_that_knock_misreads_are_refused() {
    let files = tempfile::tempdir().expect("a directory");
    let file = files.path().join("knockd.conf");
    let write = |text: &str| fs::write(&file, text).expect("the configuration");
    write("[options]\n\tlogfile = /var/log/knockd.log\n[a]\n\tsequence = 1000,2000\n\tcommand = echo %IP%\n");
    let output = import(&[], &file);
    assert!(output.status.success());
    let notes = String::from_utf8(output.stderr).expect("text");
    for part in ["note: ", "knockd.conf:2: LogFile", "knockd.conf:3: no TCPFlags"] {
        assert!(notes.contains(part), "`{part}` is missing: {notes}");
    }
    for (sequence, says) in [
        ("7000-7010,1", "`7000-7010` is a range, and knock silently uses only its first port"),
        ("abc", "`abc` is not a port, and knock silently reads it as 0"),
        ("70000", "port 70000 is not between 1 and 65535, and knock silently reads it as 4464"),
        ("-5", "knock silently reads it as 65531"),
    ] {
        write(&format!("[a]\n\tcommand = true\n\tsequence = {sequence}\n"));
        let output = import(&[], &file);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(78), 0), "{sequence}: {output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains("knockd.conf:3: ") && said.contains(says), "{sequence}: {said}");
    }
    let output = import(&[], &files.path().join("nothing"));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
}
