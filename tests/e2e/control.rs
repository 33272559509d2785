//! The control socket and knockctl, with peers that behave and peers that don't.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use knock_testkit::{Echo, Reach};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Client, Daemon, Options, at4, element, knock, network, table_exists, wait_for_grant, wait_until, wire,
};

/// An ordinary user who is no member of the socket's group.
const NOBODY: u32 = 65_534;

fn rules() -> Value {
    let ssh = json!({ "name": "ssh", "sequence": [7000, 9000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
    let run = json!({ "name": "run", "sequence": [7100, 9100, 8100], "command": "true" });
    json!({ "rules": [ssh, run] })
}

fn knockctl(daemon: &Daemon, arguments: &[&str]) -> Output {
    knockctl_at(&daemon.path("control.sock"), arguments)
}

fn knockctl_at(socket: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knockctl"));
    command.arg("--socket").arg(socket).args(arguments);
    command.output().expect("knockctl runs")
}

/// What it printed, where it succeeded.
#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn status(daemon: &Daemon) -> Value {
    serde_json::from_str(&printed(&knockctl(daemon, &["--json", "status"]))).expect("a document")
}

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.path("control.sock")).expect("the daemon listens");
    stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a socket");
    stream
}

/// What the daemon answers to these bytes.
fn answer(daemon: &Daemon, request: &[u8]) -> Value {
    let mut stream = connect(daemon);
    // It may hang up before it has read all.
    let _ = stream.write_all(request).and_then(|()| stream.shutdown(Shutdown::Write));
    read_answer(stream)
}

fn read_answer(stream: UnixStream) -> Value {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[test]
fn a_grant_by_hand_opens_the_port_and_a_revocation_closes_it() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let daemon = Daemon::start(server, rules());
    let address = client.address(at4(22).ip());
    let text = address.to_string();

    printed(&knockctl(&daemon, &["grant", "ssh", &text, "--timeout", "10m"]));
    assert_eq!(client.tcp(at4(22)), Reach::Open);
    let grant = element(server, address, ("tcp", 22)).expect("an element");
    assert_eq!(grant.timeout, Some(Duration::from_secs(600)));
    daemon.wait_for_log("(by uid 0)");

    let listed: Value = serde_json::from_str(&printed(&knockctl(&daemon, &["grants", "--json"]))).expect("a document");
    assert_eq!(listed["grants"][0]["rule"], "ssh");
    assert_eq!(listed["grants"][0]["address"], json!(address));
    assert_eq!(listed["grants"][0]["opens"], json!(["22/tcp"]));
    let remaining = listed["grants"][0]["remaining_seconds"].as_f64().expect("a number");
    assert!((500.0..=600.0).contains(&remaining), "{remaining}");
    let table = printed(&knockctl(&daemon, &["grants"]));
    assert!(table.contains(&text) && table.contains("9m ") && table.contains("22/tcp"), "{table}");

    assert_eq!(printed(&knockctl(&daemon, &["revoke", &text, "run"])), "0 grants revoked\n");
    assert_eq!(printed(&knockctl(&daemon, &["revoke", &text])), "1 grant revoked\n");
    assert_eq!(client.tcp(at4(22)), Reach::Filtered);

    for last in 1..=9 {
        printed(&knockctl(&daemon, &["grant", "ssh", &format!("192.0.2.{last}")]));
    }
    assert_eq!(printed(&knockctl(&daemon, &["revoke", "--all"])), "9 grants revoked\n");
    assert_eq!(status(&daemon)["grants"], 0);
    assert_eq!(element(server, IpAddr::from([192, 0, 2, 1]), ("tcp", 22)), None);
}

#[test]
fn a_grant_that_is_not_possible_is_refused_with_the_possible_ones() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, rules());
    for (arguments, words) in [
        (["grant", "sssh", "192.0.2.1"].as_slice(), "did you mean ssh?"),
        (&["grant", "ru\u{1b}[2J", "192.0.2.1"], "`allow`: ssh"),
        (&["grant", "run", "192.0.2.1"], "`allow`: ssh"),
        (&["grant", "ssh", "192.0.2.1", "--timeout", "0"], "the timeout: 0"),
        (&["grant", "ssh", "192.0.2.1", "--timeout", "5 weeks"], "5 weeks"),
        (&["revoke", "192.0.2.1", "shs"], "no rule shs"),
        (&["grants", "--rule", "shs"], "no rule shs"),
    ] {
        let output = knockctl(&daemon, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let complaint = complaint(&output);
        assert!(complaint.contains(words), "{arguments:?}: {complaint}");
        assert!(complaint.chars().all(|c| c == '\n' || !c.is_control()), "{complaint:?}");
    }
    assert_eq!(status(&daemon)["grants"], 0);
}

#[test]
fn status_tells_interfaces_table_and_counters() {
    let network = network(1);
    let mut configuration = rules();
    configuration["interface"] = json!(["nothere0"]);
    let daemon = Daemon::start(&network.server, configuration);
    let status = status(&daemon);
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(status["rules"], 2);
    assert_eq!(status["interfaces"], json!([{ "name": "nothere0", "state": "absent" }]));
    assert_eq!(status["table"]["name"], "knockd");
    assert_eq!(status["table"]["guarded"], json!(["22/tcp"]));
    assert_eq!(status["counters"]["completed"], 0);
    let output = knockctl(&daemon, &["status"]);
    assert_eq!(output.status.code(), Some(1), "no knock is heard: {output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        text.starts_with("PROBLEM  interface nothere0 absent") && text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    let metrics = printed(&knockctl(&daemon, &["status", "--prometheus"]));
    assert!(metrics.contains("\nknockd_interface_up{interface=\"nothere0\"} 0\n"), "{metrics}");

    let document = include_str!("../../docs/control-protocol.md");
    for field in status.as_object().expect("an object").keys() {
        assert!(document.contains(&format!("`{field}`")), "docs/control-protocol.md explains {field}");
    }
    for counter in status["counters"].as_object().expect("an object").keys() {
        assert!(document.contains(&format!("`{counter}`")), "docs/control-protocol.md explains {counter}");
        assert!(metrics.contains(&format!("\nknockd_{counter}_total ")), "{counter} is a metric");
    }
}

#[test]
fn a_reload_by_knockctl_tells_why_a_file_is_refused() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, rules());
    let file = daemon.path("config.json");
    let valid = fs::read_to_string(&file).expect("the configuration");
    fs::write(&file, valid.replace("9000", "70000")).expect("written");
    let output = knockctl(&daemon, &["reload"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let complaint = complaint(&output);
    assert!(complaint.contains("rules[0].sequence[1]") && complaint.contains("70000"), "{complaint}");
    assert_eq!(status(&daemon)["counters"]["reloads"], 0, "the old configuration is in force");

    // As in a unit, where the daemon's own lines about it go to the same journal.
    let journal = tempfile::NamedTempFile::new().expect("a file in place of the journal");
    let metadata = journal.as_file().metadata().expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_knockctl"));
    command.arg("--socket").arg(daemon.path("control.sock")).arg("reload").stderr(journal.reopen().expect("the file"));
    command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
    let output = command.output().expect("knockctl runs");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(78), 0), "{output:?}");
    assert_eq!(fs::read_to_string(journal.path()).expect("text"), "");

    fs::write(&file, valid.replace("ssh", "door")).expect("written");
    assert_eq!(printed(&knockctl(&daemon, &["reload"])), "reloaded: 2 rules\n");
    printed(&knockctl(&daemon, &["grant", "door", "192.0.2.1"]));
    // The listeners of the new configuration are listened on.
    let client = network.client().address(at4(22).ip());
    knock(&wire(&network), client, &[7000, 9000, 8000]);
    wait_for_grant(&network.server, client, ("tcp", 22));

    // The two grants of a rule that is gone are revoked, and counted as that.
    fs::write(&file, valid).expect("written");
    printed(&knockctl(&daemon, &["reload"]));
    assert_eq!(element(&network.server, client, ("tcp", 22)), None);
    let status = status(&daemon);
    assert_eq!((&status["grants"], &status["counters"]["revoked"]), (&json!(0), &json!(2)));
}

#[test]
fn a_reload_may_move_the_socket() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, rules());
    let mut moved: Value =
        serde_json::from_str(&fs::read_to_string(daemon.path("config.json")).expect("it is there")).expect("JSON");
    moved["control_socket"] = json!(daemon.path("moved.sock"));
    fs::write(daemon.path("config.json"), moved.to_string()).expect("written");
    printed(&knockctl(&daemon, &["reload"]));
    let old = daemon.path("control.sock");
    wait_until("the old socket is gone", || !old.exists());
    printed(&knockctl_at(&daemon.path("moved.sock"), &["status"]));
}

#[test]
fn a_client_that_stalls_delays_no_other_client_and_is_disconnected() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, rules());
    let mut stalled = connect(&daemon);
    stalled.write_all(b"{\"version\": 1, \"comm").expect("half a request");
    let started = Instant::now();
    let client = network.client().address(at4(22).ip());
    knock(&wire(&network), client, &[7000, 9000, 8000]);
    wait_for_grant(&network.server, client, ("tcp", 22));
    assert_eq!(status(&daemon)["grants"], 1);
    assert_eq!(read_answer(stalled)["error"]["code"], "timeout");
    let took = started.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(14)).contains(&took), "{took:?}");
}

#[test]
fn an_invalid_request_is_refused_and_the_daemon_continues() {
    let network = network(1);
    let mut daemon = Daemon::start(&network.server, rules());
    let garbage: Vec<u8> = (0..4096_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let long = vec![b'x'; 1 << 20];
    let deep = "[".repeat(4000);
    for (request, code) in [
        (garbage.as_slice(), "bad-request"),
        (b"\n", "bad-request"),
        (b"\0\0\0\0\n", "bad-request"),
        (deep.as_bytes(), "bad-request"),
        (b"{\"version\":1,\"command\":\"explode\"}\n", "bad-request"),
        (b"{\"version\":9,\"command\":\"status\"}\n", "version"),
        (b"GET / HTTP/1.1\r\n\r\n", "bad-request"),
        (&long, "too-large"),
    ] {
        let answer = answer(&daemon, request);
        assert_eq!(answer["error"]["code"], code, "{:?}: {answer}", &request[..request.len().min(40)]);
    }
    assert!(daemon.is_running());
    assert_eq!(status(&daemon)["grants"], 0);
}

#[test]
fn twenty_connections_at_once_are_served_or_refused_and_leave_nothing() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, rules());
    let before = daemon.open_files();
    let waiting: Vec<UnixStream> = (0..20).map(|_| connect(&daemon)).collect();
    let mut refused = 0;
    for stream in waiting {
        // The first ones are asked now; those that are one too many have their answer already.
        let mut stream = stream;
        let _ = stream.write_all(b"{\"version\":1,\"command\":\"status\"}\n");
        let answer = read_answer(stream);
        match answer["error"]["code"].as_str() {
            Some(code) => {
                assert_eq!(code, "busy");
                refused += 1;
            }
            None => assert_eq!(answer["result"]["rules"], 2),
        }
    }
    assert!((1..=12).contains(&refused), "{refused} refused");
    wait_until("the connections are closed", || daemon.open_files() == before);
}

#[test]
fn a_client_that_hangs_up_early_leaves_nothing() {
    let network = network(1);
    let mut daemon = Daemon::start(&network.server, rules());
    let before = daemon.open_files();
    for number in 0..200 {
        let Ok(mut stream) = UnixStream::connect(daemon.path("control.sock")) else { panic!("it listens") };
        match number % 3 {
            0 => {}
            1 => drop(stream.write_all(b"{\"version\":1,\"comma")),
            _ => drop(stream.write_all(b"{\"version\":1,\"command\":\"grants\"}\n")),
        }
    }
    // The daemon accepts in order: it has accepted all of them as soon as it answers this one.
    status(&daemon);
    assert!(daemon.is_running());
    wait_until("the connections are closed", || daemon.open_files() == before);
}

#[test]
fn a_hundred_thousand_grants_are_listed_while_knocks_go_on() {
    const GRANTS: u32 = 100_000;
    let network = network(1);
    let server = &network.server;
    let mut configuration = rules();
    configuration["limits"] = json!({ "grants": 200_000 });
    let daemon = Daemon::start(server, configuration);
    let directory = daemon.kill();
    // The adoption of so many grants after a kill.
    let mut script = String::from("add element inet knockd grants4 {\n");
    for number in 0..GRANTS {
        let address = Ipv4Addr::from_bits(0x0a80_0000 + number);
        script.push_str(&format!("{address} . tcp . 22 timeout 1h comment \"ssh\",\n"));
    }
    script.push_str("}\n");
    server.namespace.nft(&script).expect("the grants are made");
    let daemon = Daemon::start_again(server, directory);
    let before = daemon.status("VmRSS");

    // One reader that does not read, and one that does.
    let mut slow = connect(&daemon);
    slow.write_all(b"{\"version\":1,\"command\":\"grants\"}\n").expect("sent");
    let mut first = [0; 1];
    slow.read_exact(&mut first).expect("the answer begins");
    let client = network.client().address(at4(22).ip());
    knock(&wire(&network), client, &[7000, 9000, 8000]);
    daemon.wait_for_log(&format!("granted to {client}"));
    // It has five seconds for all of it.
    let mut rest = String::from(char::from(first[0]));
    BufReader::new(slow).read_line(&mut rest).expect("the rest");
    let answer: Value = serde_json::from_str(&rest).expect("the slow reader has it all");
    assert_eq!(answer["result"]["grants"].as_array().map(Vec::len), Some(GRANTS as usize), "as it was when it asked");

    let listed: Value = serde_json::from_str(&printed(&knockctl(&daemon, &["grants", "--json"]))).expect("a document");
    assert_eq!(listed["grants"].as_array().map(Vec::len), Some(GRANTS as usize + 1));
    let grown = daemon.status("VmRSS").saturating_sub(before);
    assert!(grown < 40 << 10, "the answers, of 11 MiB each, are not held as text: {grown} KiB more");
    assert_eq!(printed(&knockctl(&daemon, &["revoke", "--all"])), format!("{} grants revoked\n", GRANTS + 1));
    assert_eq!(element(server, client, ("tcp", 22)), None);
}

/// A file as big as it may be, of which every line is wrong.
fn big_and_wrong() -> String {
    let mut text = String::from("{\"rules\": []");
    let mut number = 0;
    while text.len() < (16 << 20) - 32 {
        text.push_str(&format!(",\n\"k{number}\": 1"));
        number += 1;
    }
    text.push('}');
    text
}

fn ask_for_reload(daemon: &Daemon) -> UnixStream {
    let mut stream = connect(daemon);
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    stream.write_all(b"{\"version\":1,\"command\":\"reload\"}\n").expect("sent");
    stream
}

/// Whether an answer has come, or the end.
fn is_answered(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&at_once)).expect("a socket") > 0
}

#[test]
fn status_is_answered_while_files_of_16_mib_are_refused() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, rules());
    fs::write(daemon.path("config.json"), big_and_wrong()).expect("written");
    let reloads: Vec<UnixStream> = (0..6).map(|_| ask_for_reload(&daemon)).collect();
    // The first ones wait for a long time; there are places for others.
    let mut answered = 0;
    while !is_answered(&reloads[0]) {
        let status = answer(&daemon, b"{\"version\":1,\"command\":\"status\"}\n");
        assert_eq!(status["result"]["rules"], 2, "{status}");
        answered += 1;
    }
    assert!(answered > 3, "{answered} answers before that to the reload");
    for (number, stream) in reloads.into_iter().enumerate() {
        let answer = read_answer(stream);
        let code = answer["error"]["code"].as_str().unwrap_or_default();
        assert!(code == "invalid-configuration" || (number > 3 && code == "busy"), "{number}: {code}");
    }
    let log = daemon.log();
    let reads = log.matches("more errors are not shown").count();
    assert!((1..=2).contains(&reads), "those who ask while one is under way share the next: {reads}");
    let client = network.client().address(at4(22).ip());
    knock(&wire(&network), client, &[7000, 9000, 8000]);
    wait_for_grant(&network.server, client, ("tcp", 22));
}

#[test]
fn a_reload_that_is_asked_for_during_another_one_reads_the_file_again() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, rules());
    let file = daemon.path("config.json");
    let valid = fs::read_to_string(&file).expect("the configuration");
    fs::write(&file, big_and_wrong()).expect("written");
    let first = ask_for_reload(&daemon);
    fs::write(daemon.path("new"), valid.replace("ssh", "door")).expect("written");
    fs::rename(daemon.path("new"), &file).expect("renamed");
    let second = ask_for_reload(&daemon);
    assert_eq!(read_answer(second)["result"]["rules"], 2);
    printed(&knockctl(&daemon, &["grant", "door", "192.0.2.1"]));
    // The first may have read the old file or the new one.
    read_answer(first);
}

#[test]
fn a_client_that_hangs_up_while_it_waits_for_a_reload_costs_no_time_and_leaves_nothing() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, rules());
    let before = daemon.open_files();
    fs::write(daemon.path("config.json"), big_and_wrong()).expect("written");
    let half = ask_for_reload(&daemon);
    half.shutdown(Shutdown::Write).expect("a socket");
    drop(ask_for_reload(&daemon));
    assert_eq!(
        read_answer(half)["error"]["code"],
        "invalid-configuration",
        "the end of a request is not that of its peer"
    );
    wait_until("the connections are closed", || daemon.open_files() == before);
}

#[test]
fn a_stop_does_not_wait_for_a_reload() {
    let network = network(1);
    // The reload may be over before the signal comes, on a machine that does much else.
    let unanswered = (0..5).any(|_| {
        let mut daemon = Daemon::start(&network.server, rules());
        fs::write(daemon.path("config.json"), big_and_wrong()).expect("written");
        let reload = ask_for_reload(&daemon);
        daemon.wait_for_log("asks for a reload");
        assert!(daemon.stop().success());
        assert!(!table_exists(&network.server, "knockd"));
        BufReader::new(reload).read_line(&mut String::new()).expect("the end") == 0
    });
    assert!(unanswered, "the daemon waits for the reload");
}

#[test]
fn the_service_manager_is_notified_of_each_reload_and_its_end() {
    let network = network(1);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    let next = || loop {
        let mut bytes = [0; 4096];
        let count = match manager.recv(&mut bytes) {
            // With a time limit, a signal ends recv(2) also where a handler asks for a restart (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result.expect("a message"),
        };
        let message = String::from_utf8_lossy(&bytes[..count]).into_owned();
        // What systemctl shows may change at any time.
        if !message.lines().all(|line| line.starts_with("STATUS=")) {
            break message;
        }
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().expect("text"))];
    let options = Options { environment: &environment, ..Options::default() };
    let daemon = Daemon::start_with(&network.server, rules(), options);
    assert!(next().contains("READY=1"));
    fs::write(daemon.path("config.json"), big_and_wrong()).expect("written");
    let mut before = 0;
    // Two by signal, the second while the first is under way.
    for number in 0..4 {
        if number == 0 {
            daemon.signal(Signal::HUP);
        }
        let message = next();
        if number % 2 == 1 {
            assert!(message.contains("READY=1") && !message.contains("RELOADING"), "{number}: {message}");
            continue;
        }
        if number == 0 {
            daemon.signal(Signal::HUP);
        }
        let since = message.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
        assert!(message.contains("RELOADING=1") && since.is_some_and(|since| since > before), "{number}: {message}");
        before = since.unwrap_or_default();
    }
}

#[test]
fn no_answer_shows_a_sequence_to_a_member_of_the_sockets_group() {
    let network = network(1);
    let rule = json!({
        "name": "ssh", "sequence": [28731, 4219, 17660], "allow": { "ports": [22], "timeout": "1h" }
    });
    let run = json!({ "name": "run", "sequence": [28732, 4218, 17661], "command": "echo h1dd3n" });
    let daemon = Daemon::start(&network.server, json!({ "rules": [rule, run] }));
    let (socket, file) = (daemon.path("control.sock"), daemon.path("config.json"));
    fs::set_permissions(daemon.directory(), Permissions::from_mode(0o755)).expect("the directory is ours");
    std::os::unix::fs::chown(&socket, None, Some(NOBODY)).expect("the socket is ours");
    let valid = fs::read_to_string(&file).expect("the configuration");
    let told = |arguments: &[&str], status| {
        let output = as_nobody(&daemon, arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {output:?}");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), complaint(&output));
        for secret in ["28731", "4219", "17660", "28732", "4218", "17661", "h1dd3n"] {
            assert!(!said.contains(secret), "{arguments:?} tells {secret}: {said}");
        }
        said
    };
    told(&["grant", "ssh", "192.0.2.1"], 0);
    told(&["--json", "status"], 0);
    told(&["status", "--prometheus"], 0);
    told(&["--json", "grants"], 0);
    told(&["grant", "run", "192.0.2.1"], 1);
    told(&["grant", "sssh", "192.0.2.1"], 1);
    told(&["revoke", "192.0.2.1"], 0);
    told(&["reload"], 0);
    // Each of these is quoted to who may know it.
    for (from, to) in [
        ("[28731,4219,17660]", "\"28731,4219,17660\""),
        ("28731", "\"28731-28740\""),
        ("[28731,4219,17660]", "[4219,17660,4219171660]"),
        ("\"sequence\":[28731,4219,17660]", "\"28731 4219\":1"),
    ] {
        let wrong = valid.replacen(from, to, 1);
        assert_ne!(wrong, valid, "{from}");
        fs::write(&file, wrong).expect("written");
        let said = told(&["reload"], 78);
        assert!(said.contains("only root sees the error"), "{said}");
        let said = complaint(&knockctl(&daemon, &["reload"]));
        assert!(
            ["28731", "4219", "17660", "h1dd3n"].iter().any(|secret| said.contains(secret)),
            "root sees it: {said}"
        );
    }
    // A warning quotes too: a port that is knocked and guarded.
    fs::write(&file, valid.replacen("[22]", "[4218]", 1)).expect("written");
    let said = told(&["reload"], 0);
    assert!(said.contains("1 warning; as the configuration is secret"), "{said}");
    let list = daemon.path("list");
    fs::write(&list, " 28731,4219,x\n").expect("written");
    fs::set_permissions(&list, Permissions::from_mode(0o600)).expect("the list is ours");
    let once = format!("\"one_time_sequences\":\"{}\"", list.display());
    fs::write(&file, valid.replacen("\"sequence\":[28731,4219,17660]", &once, 1)).expect("written");
    told(&["reload"], 78);
}

/// Runs knockctl as an ordinary user.
fn as_nobody(daemon: &Daemon, arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("the directory is ours");
    // The one that was built may be where nobody can go.
    let program = directory.path().join("knockctl");
    fs::copy(env!("CARGO_BIN_EXE_knockctl"), &program).expect("a copy");
    let mut command = Command::new(&program);
    command.arg("--socket").arg(daemon.path("control.sock")).args(arguments).uid(NOBODY).gid(NOBODY);
    let output = command.output();
    output.unwrap_or_else(|error| panic!("cannot run as uid {NOBODY}: {error}; this test needs root, not a namespace"))
}

#[test]
fn another_user_may_not_ask_even_where_the_socket_is_open_to_all() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, rules());
    let socket = daemon.path("control.sock");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!(mode(&socket), 0o660);
    fs::set_permissions(daemon.directory(), Permissions::from_mode(0o755)).expect("the directory is ours");

    let output = as_nobody(&daemon, &["status"]);
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert!(complaint(&output).contains("run this as root"), "{output:?}");

    fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("the socket is ours");
    let output = as_nobody(&daemon, &["status"]);
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert!(complaint(&output).contains("members of the group"), "{output:?}");
    daemon.wait_for_log("refused uid 65534");

    // A member of the group may.
    fs::set_permissions(&socket, Permissions::from_mode(0o660)).expect("the socket is ours");
    std::os::unix::fs::chown(&socket, None, Some(NOBODY)).expect("the socket is ours");
    printed(&as_nobody(&daemon, &["status"]));
}

#[test]
fn the_socket_of_a_dead_daemon_is_replaced_and_that_of_a_living_one_is_not() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, rules());
    let directory = daemon.kill();
    assert!(directory.path().join("control.sock").exists(), "a daemon that is killed leaves its socket");
    let mut daemon = Daemon::start_again(&network.server, directory);
    status(&daemon);

    let mut second = rules();
    second["control_socket"] = json!(daemon.path("control.sock"));
    second["nftables"] = json!({ "table": "second" });
    let mut second = Daemon::launch(&network.server, second, Options::default());
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.log().contains("another knockd is running"), "{}", second.log());
    assert!(!table_exists(&network.server, "second"), "it touched nothing");
    status(&daemon);

    let socket = daemon.path("control.sock");
    assert!(daemon.stop().success());
    assert!(!socket.exists(), "a daemon that is stopped takes its socket along");
    let output = knockctl(&daemon, &["status"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(complaint(&output).contains("systemctl start knockd"), "{output:?}");
}

#[test]
fn a_control_socket_that_cannot_be_made_stops_the_start() {
    let network = network(1);
    let mut configuration = rules();
    configuration["control_socket"] = json!("/proc/control.sock");
    let mut daemon = Daemon::launch(&network.server, configuration, Options::default());
    assert!(matches!(daemon.wait().code(), Some(1 | 77)));
    assert!(daemon.log().contains("/proc/control.sock"), "{}", daemon.log());
    assert!(!table_exists(&network.server, "knockd"), "it touched nothing");
}
