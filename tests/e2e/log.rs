//! A log that nobody reads, and a service manager that does not: the daemon waits for neither.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use knock_testkit::Network;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Daemon, Options, knock, network, table_exists, wait_for_grant, wait_until, wire};

/// Longer than anything here takes.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Each reload warns of each of the other rules, whose sequences are not secret.
fn configuration(target: &str) -> Value {
    let ssh = json!({ "name": "ssh", "sequence": [1000, 3000, 2000], "allow": { "ports": [22], "timeout": "1h" } });
    let other = |number: u16| json!({ "name": number.to_string(), "sequence": [10_000 + 3 * number], "revoke": "ssh" });
    let rules: Vec<Value> = std::iter::once(ssh).chain((0..500).map(other)).collect();
    json!({ "rules": rules, "log": { "target": target, "level": "trace" } })
}

/// In a mount namespace of its own, the daemon finds the socket `$0` at the place where it looks for a log.
const PLACED: &str = r#"
    mount -t tmpfs tmpfs /run
    mkdir -p /run/systemd/journal
    ln -s "$0" /run/systemd/journal/socket
    ln -s "$0" /run/log
    if [ -S /dev/log ]; then mount --bind "$0" /dev/log; fi
    exec "$@"
"#;

fn knockctl(daemon: &Daemon, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knockctl"));
    let output = command.arg("--socket").arg(daemon.path("control.sock")).args(arguments).output().expect("knockctl");
    output.status.success().then(|| String::from_utf8(output.stdout).expect("text"))
}

fn left_out(daemon: &Daemon) -> Option<u64> {
    let status: Value = serde_json::from_str(&knockctl(daemon, &["--json", "status"])?).expect("a document");
    status["counters"]["log_lines_left_out"].as_u64()
}

/// Fills the log of a daemon that nobody reads, and sees that it still does its work.
fn serves_without_a_reader(network: &Network, daemon: &Daemon) {
    wait_until("it answers", || knockctl(daemon, &["status"]));
    let wire = wire(network);
    wait_until("lines are left out", || {
        knockctl(daemon, &["reload"]);
        left_out(daemon).is_some_and(|lines| lines > 0)
    });
    let source = IpAddr::from([198, 18, 0, 2]);
    knock(&wire, source, &[1000, 3000, 2000]);
    wait_for_grant(&network.server, source, ("tcp", 22));
    let shown = knockctl(daemon, &["status"]).expect("it answers");
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.contains("not written because nobody read the log") && !shown.contains(" 0 not written"), "{shown}");
    let metrics = knockctl(daemon, &["status", "--prometheus"]).expect("it answers");
    assert!(metrics.contains("\nknockd_log_lines_left_out_total "), "{metrics}");
}

/// A daemon whose log of that kind is the socket in the directory.
fn launch_with_a_socket(network: &Network, target: &str) -> (TempDir, UnixDatagram, Daemon) {
    let files = tempfile::tempdir().expect("a directory for the socket");
    let place = files.path().join("socket");
    let socket = UnixDatagram::bind(&place).expect("a socket");
    let wrapper = ["unshare", "--mount", "sh", "-ec", PLACED, place.to_str().expect("a path in UTF-8")];
    let options = Options { wrapper: &wrapper, ..Options::default() };
    let daemon = Daemon::launch(&network.server, configuration(target), options);
    (files, socket, daemon)
}

/// The same with a socket as the log. It can be stopped while nobody reads.
fn serves_with_a_socket_that_nobody_reads(target: &str) {
    let network = network(1);
    let (_files, socket, mut daemon) = launch_with_a_socket(&network, target);
    serves_without_a_reader(&network, &daemon);
    let status = daemon.stop();
    assert!(status.success(), "{status}");
    assert!(!table_exists(&network.server, "knockd"));
    let mut first = [0; 4096];
    assert!(received(&socket, &mut first).contains("knockd"), "the socket was the log");
}

/// The next message that is not empty: the first one of the journal's client is.
fn received(socket: &UnixDatagram, buffer: &mut [u8]) -> String {
    socket.set_read_timeout(Some(RECEIVE_TIMEOUT)).expect("a time limit");
    loop {
        let length = match socket.recv(buffer) {
            // With a time limit, a signal ends recv(2) also where a handler asks for a restart (signal(7)).
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            result => result.expect("a message"),
        };
        if length > 0 {
            return String::from_utf8_lossy(&buffer[..length]).into_owned();
        }
    }
}

#[test]
fn a_journal_that_nobody_reads_does_not_stop_the_daemon() {
    serves_with_a_socket_that_nobody_reads("journal");
}

#[test]
fn a_syslog_daemon_that_does_not_read_does_not_stop_the_daemon() {
    serves_with_a_socket_that_nobody_reads("syslog");
}

#[test]
fn a_pipe_that_nobody_reads_does_not_stop_the_daemon_and_its_reader_learns_what_is_missing() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the pipe");
    let pipe = files.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success(), "{made}");
    // Opened for both ways: there is a reader, which does not read.
    let wrapper = ["sh", "-c", r#"exec "$@" 2<>"$0""#, pipe.to_str().expect("a path in UTF-8")];
    let options = Options { wrapper: &wrapper, ..Options::default() };
    let mut daemon = Daemon::launch(&network.server, configuration("stderr"), options);
    serves_without_a_reader(&network, &daemon);
    let (told, line) = mpsc::channel();
    let reader = File::open(&pipe).expect("the pipe");
    thread::spawn(move || {
        let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
        let _ = told.send(lines.find(|line| line.contains("log lines were left out")));
        lines.for_each(drop);
    });
    let line =
        line.recv_timeout(RECEIVE_TIMEOUT).expect("the reader reads").expect("a line about those that are missing");
    assert!(line.starts_with("warning: "), "{line}");
    assert!(daemon.stop().success());
}

#[test]
fn the_journal_gets_the_fields_of_an_event() {
    let network = network(1);
    let (_files, socket, daemon) = launch_with_a_socket(&network, "journal");
    wait_until("it answers", || knockctl(&daemon, &["status"]));
    knock(&wire(&network), IpAddr::from([198, 18, 0, 2]), &[1000, 3000, 2000]);
    let mut buffer = vec![0; 65_536];
    let message = loop {
        let message = received(&socket, &mut buffer);
        if message.contains("granted to") {
            break message;
        }
    };
    for field in ["PRIORITY=5", "SYSLOG_IDENTIFIER=knockd", "TARGET=knockd"] {
        assert!(message.lines().any(|line| line == field), "{field} in {message:?}");
    }
    for (key, value) in [("KNOCK_EVENT", "granted"), ("KNOCK_RULE", "ssh"), ("KNOCK_SOURCE", "198.18.0.2")] {
        let length = char::from(u8::try_from(value.len()).expect("a short value"));
        assert!(message.contains(&format!("{key}\n{length}\0\0\0\0\0\0\0{value}\n")), "{key} in {message:?}");
    }
}

#[test]
fn a_service_manager_that_does_not_read_is_notified_later_that_the_daemon_is_ready() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the socket");
    let place = files.path().join("socket");
    let socket = UnixDatagram::bind(&place).expect("a socket");
    fill(&place);
    let environment = [("NOTIFY_SOCKET", place.to_str().expect("a path in UTF-8"))];
    let options = Options { environment: &environment, ..Options::default() };
    let mut daemon = Daemon::launch(&network.server, configuration("stderr"), options);
    wait_until("it answers", || knockctl(&daemon, &["status"]));
    let mut buffer = [0; 4096];
    while !received(&socket, &mut buffer).starts_with("READY=1\n") {}
    assert!(daemon.stop().success());
}

/// Sends until the socket takes nothing more.
fn fill(place: &Path) {
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.set_nonblocking(true).expect("a socket that does not wait");
    sender.connect(place).expect("the socket listens");
    let error = (0..100_000).find_map(|_| sender.send(b"full").err()).expect("a queue has an end");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}
