//! Waiting for the port, carrying the connection, and what is said about it.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::*;

/// A port where something listens, for as long as the listener lives.
fn open_port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    (listener, port)
}

fn document(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = run(arguments);
    let text = stdout(&output);
    (
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", stderr(&output))),
        output.status.code(),
    )
}

#[test]
fn an_open_port_ends_the_waiting() {
    let (_listener, port) = open_port();
    let knock = closed_port().to_string();
    let output = run(&["--wait", &port, "-s", &knock, "-h", "127.0.0.1"]);
    let text = stdout(&output);
    assert!(text.starts_with(&format!("127.0.0.1:{port} is open, after ")) && text.ends_with(" ms\n"), "{text}");
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)));
    let text = stdout(&run(&["-v", "--wait", &port, "-s", &knock, "-h", "127.0.0.1"]));
    let expected = format!("knocking at 127.0.0.1\nknocked at {knock}/tcp\n127.0.0.1:{port} is open, after ");
    assert!(text.starts_with(&expected), "{text}");
    // The port behind the host is that to wait for.
    let output = run(&["--wait", "-s", &knock, "-h", &format!("user@127.0.0.1:{port}")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn the_wait_of_a_rule_is_the_default() {
    let (_listener, port) = open_port();
    let port: u16 = port.parse().expect("a port");
    let rule = json!({ "rules": [{ "name": "a", "host": "127.0.0.1", "sequence": [closed_port()], "wait": port }] });
    let directory = with_config(&rule.to_string());
    let text = stdout(&run_in(directory.path(), &["a"]));
    assert!(text.starts_with(&format!("127.0.0.1:{port} is open")), "{text}");
}

#[test]
fn a_port_that_refuses_to_the_end_is_reported_as_that() {
    let (knock, port) = (closed_port().to_string(), closed_port().to_string());
    let start = Instant::now();
    let output = run(&["--within", "0.3", "--wait", &port, "-s", &knock, "-h", "127.0.0.1"]);
    assert!(start.elapsed() >= Duration::from_millis(300));
    let expected = format!(
        "knock-cli: 127.0.0.1:{port} did not open: 1 knock over IPv4 in 0.3 s, connections were refused.\n  Either nothing \
         listens at that port, or a firewall rejects: then the sequence can be wrong. (On the server: knockctl status.)\n"
    );
    assert_eq!((stderr(&output), output.status.code()), (expected, Some(75)));
}

#[test]
fn knocks_that_take_longer_than_the_limit_are_refused_before_the_first() {
    let (udp, port) = udp();
    let knocks = format!("{port}/udp,{port}/udp");
    let expected =
        "knock-cli: the knocks take 2 s, and the limit is 1 s; shorten the gap between them, or raise the limit\n";
    let arguments = ["--within", "1", "-d", "2000", "--wait", "22", "-s", &knocks, "-h", "127.0.0.1"];
    assert_eq!(failure(Path::new("/"), &arguments), (expected.to_owned(), Some(1)));
    udp.set_nonblocking(true).expect("a socket can be non-blocking");
    assert!(udp.recv_from(&mut [0; 9]).is_err(), "nothing was sent");
}

#[test]
fn the_json_has_the_result_and_never_the_sequence() {
    let (_listener, port) = open_port();
    let (knock, shut) = (closed_port().to_string(), closed_port().to_string());
    let (open, status) = document(&["--json", "--wait", &port, "-s", &knock, "-h", "127.0.0.1"]);
    assert_eq!(status, Some(0));
    assert_eq!(
        (&open["result"], &open["address"], &open["family"], &open["attempts"], &open["knocked"], &open["host"]),
        (&json!("open"), &json!("127.0.0.1"), &json!("ipv4"), &json!(1), &json!(1), &json!("127.0.0.1"))
    );
    assert!(open["milliseconds"].is_u64(), "{open}");
    let (refused, status) = document(&["--json", "--within", "0.3", "--wait", &shut, "-s", &knock, "-h", "127.0.0.1"]);
    assert_eq!((&refused["result"], status), (&json!("refused"), Some(75)));
    let (sent, status) = document(&["--json", "-s", &knock, "-h", "127.0.0.1"]);
    assert_eq!((&sent["result"], &sent["port"], status), (&json!("sent"), &Value::Null, Some(0)));
    let (unreachable, status) = document(&["--json", "-s", &knock, "-h", "255.255.255.255"]);
    assert_eq!(
        (&unreachable["result"], &unreachable["address"], status),
        (&json!("unreachable"), &Value::Null, Some(1))
    );
    for text in [open, refused, sent, unreachable].map(|document| document.to_string()) {
        assert!(!text.contains(&knock), "{text}");
    }
}

#[test]
fn a_rehearsal_sends_nothing() {
    let (udp, port) = udp();
    let knocks = format!("{port}/udp,7");
    let output = run(&["--dry-run", "--wait", "22", "-s", &knocks, "-h", "127.0.0.1", "--", "echo", "x"]);
    let expected = "would send 2 knocks to 127.0.0.1 (127.0.0.1), 40 ms apart\nwould wait for port 22, for 10 s at most\n\
                    would run echo\n";
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), (expected, ""));
    let (plan, _) = document(&["--dry-run", "--json", "-s", &knocks, "-h", "127.0.0.1"]);
    assert_eq!((&plan["knocks"], &plan["addresses"]), (&json!(2), &json!(["127.0.0.1"])));
    udp.set_nonblocking(true).expect("a socket can be non-blocking");
    assert!(udp.recv_from(&mut [0; 9]).is_err(), "nothing was sent");
}

#[test]
fn a_command_runs_once_the_port_is_open_and_its_status_is_the_result() {
    let (_listener, port) = open_port();
    let (knock, shut) = (closed_port().to_string(), closed_port().to_string());
    let output = run(&["--wait", &port, "-s", &knock, "-h", "127.0.0.1", "--", "sh", "-c", "echo ran; exit 9"]);
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str(), output.status.code()), ("ran\n", "", Some(9)));
    let output = run(&["--within", "0.3", "--wait", &shut, "-s", &knock, "-h", "127.0.0.1", "--", "echo", "ran"]);
    assert_eq!((stdout(&output).as_str(), output.status.code()), ("", Some(75)));
    let output = run(&["--wait", &port, "-s", &knock, "-h", "127.0.0.1", "--", "/nonexistent"]);
    let expected = "knock-cli: cannot run /nonexistent: No such file or directory (os error 2)\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (expected, Some(127)));
}

#[test]
fn the_source_address_knocks_and_connects() {
    let (listener, port) = open_port();
    let (udp, knock) = udp();
    let source = Ipv4Addr::new(127, 0, 0, 5);
    let knock = format!("{knock}/udp");
    let output = run(&["--source", "127.0.0.5", "--wait", &port, "-s", &knock, "-h", "127.0.0.1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(udp.recv_from(&mut [0; 9]).expect("a datagram").1.ip(), source);
    assert_eq!(listener.accept().expect("a connection").1.ip(), source);
    let output = run(&["--source", "::1", "-s", &knock, "-h", "127.0.0.1"]);
    assert!(stderr(&output).starts_with("knock-cli: `127.0.0.1` has no IPv6 address; "), "{}", stderr(&output));
}

/// Ends a client that never closes a half, unless what is returned is dropped before.
fn end_after(time: Duration, process: u32) -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel::<()>();
    thread::spawn(move || {
        if receiver.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").arg(process.to_string()).status();
        }
    });
    sender
}

#[test]
fn a_connection_is_carried_and_each_half_closes_by_itself() {
    let (listener, port) = open_port();
    // A host without a rule: plain.
    let mut child = client(program(), Path::new("/"))
        .args(["--proxy", "127.0.0.1", &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let _watch = end_after(Duration::from_secs(60), child.id());
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout above zero");
    let mut input = child.stdin.take().expect("the pipe asked for");
    let mut output = child.stdout.take().expect("the pipe asked for");

    // The host is done first: standard output ends, and the other half goes on.
    stream.write_all(b"from the host").expect("sent");
    stream.shutdown(Shutdown::Write).expect("half closed");
    let mut text = String::new();
    output.read_to_string(&mut text).expect("the end of standard output");
    assert_eq!(text, "from the host");
    let large = vec![7; 1 << 20];
    let sending = thread::spawn(move || input.write_all(&large).map(|()| drop(input)));
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("the end of standard input");
    assert!(received == vec![7; 1 << 20], "{} bytes", received.len());
    sending.join().expect("a thread").expect("written");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn the_end_of_standard_input_leaves_what_the_host_still_sends() {
    let (listener, port) = open_port();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = String::new();
        stream.read_to_string(&mut request).expect("the end of the request");
        stream.write_all(format!("answer to {request}").as_bytes()).expect("sent");
    });
    let output = with_input(client(program(), Path::new("/")).args(["--proxy", "127.0.0.1", &port]), "a request");
    assert_eq!(
        (stdout(&output).as_str(), stderr(&output).as_str(), output.status.code()),
        ("answer to a request", "", Some(0))
    );
    serving.join().expect("a thread");
}

#[test]
fn the_proxy_knocks_where_a_rule_has_the_host() {
    let (listener, port) = open_port();
    let (udp, knock) = udp();
    let number: u16 = port.parse().expect("a port");
    let rules = json!({ "rules": [
        { "name": "other", "host": "127.0.0.1", "sequence": [closed_port()], "wait": 1 },
        { "name": "a", "host": "127.0.0.1", "sequence": [format!("{knock}/udp")], "wait": number },
        { "name": "b", "host": "127.0.0.2", "sequence": [closed_port()] },
    ]});
    let directory = with_config(&rules.to_string());
    let serving = thread::spawn(move || {
        for _ in 0..2 {
            listener.accept().expect("a connection").0.write_all(b"hello").expect("sent");
        }
    });
    for arguments in [&["--proxy", "127.0.0.1", &port][..], &["-r", "a", "--proxy", "127.0.0.1", &port]] {
        let output = with_input(client(program(), directory.path()).args(arguments), "");
        assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("hello", ""));
        udp.recv_from(&mut [0; 9]).expect("the knock of the rule that opens the port");
    }
    serving.join().expect("a thread");

    let shut = closed_port().to_string();
    let output =
        with_input(client(program(), directory.path()).args(["--within", "0.3", "--proxy", "127.0.0.2", &shut]), "");
    assert!(stderr(&output).starts_with(&format!("knock-cli: 127.0.0.2:{shut} did not open: ")), "{}", stderr(&output));
    assert_eq!((stdout(&output).as_str(), output.status.code()), ("", Some(75)));
    let output = with_input(client(program(), directory.path()).args(["--proxy", "127.0.0.3", &shut]), "");
    let expected = format!(
        "knock-cli: cannot connect to 127.0.0.3:{shut}: Connection refused (os error 111); no rule has that host, so there was \
         no knock\n"
    );
    assert_eq!((stderr(&output), output.status.code()), (expected, Some(75)));
}
