//! The process that runs commands: where there is one, and what follows when it or the daemon ends.

use std::fs::{self, File};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use knock_testkit::{Echo, Reach};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};
use rustix::process::{Signal, kill_process};
use serde::Serialize;
use serde_json::{Value, json};

use crate::support::{Client, Daemon, Options, at4, knock, network, process, table_exists, wait_until, wire};

fn ssh() -> Value {
    json!({ "name": "ssh", "sequence": [7000, 8000], "allow": { "ports": [22], "timeout": "1h" } })
}

/// A rule whose commands write a line each.
fn door(file: &Path, stop_after: &str) -> Value {
    json!({
        "name": "door", "sequence": [1000, 2000], "stop_after": stop_after,
        "command": format!("echo open >> {}", file.display()), "stop_command": format!("echo close >> {}", file.display())
    })
}

fn signal(pid: u32, signal: Signal) {
    kill_process(process(pid), signal).expect("a running process");
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn there_is_a_runner_only_where_something_may_have_to_run() {
    let network = network(1);
    let hooks = |key: &str| {
        let mut rule = ssh();
        rule[key] = json!("true");
        json!([rule])
    };
    let command = json!([{ "name": "run", "sequence": [1000, 2000], "command": "true" }]);
    for (rules, is_there) in
        [(json!([ssh()]), false), (json!([]), true), (hooks("setup"), true), (hooks("teardown"), true), (command, true)]
    {
        let mut daemon = Daemon::start(&network.server, json!({ "rules": rules }));
        let runner = daemon.runner();
        assert_eq!(runner.is_some(), is_there, "{rules}");
        assert!(daemon.stop().success());
        wait_until("it ends with the daemon", || !runner.is_some_and(exists));
    }
}

#[test]
fn without_its_runner_the_daemon_ends_and_leaves_the_gate_and_pending_stop_commands_to_the_next() {
    let network = network(2);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let log = files.path().join("log");
    let _echo = Echo::tcp(&network.server.namespace, 22).expect("an echo service");
    let (friend, stranger) = (&network.clients[0], &network.clients[1]);
    let mut daemon = Daemon::start(&network.server, json!({ "rules": [ssh(), door(&log, "2s")] }));
    knock(&wire(&network), friend.v4.into(), &[7000, 8000]);
    friend.wait_until_open(at4(22));
    knock(&wire(&network), friend.v4.into(), &[1000, 2000]);
    wait_until("it opens", || text(&log) == "open\n");
    signal(daemon.runner().expect("a runner"), Signal::KILL);
    assert_eq!(daemon.wait().code(), Some(1), "the service manager starts it again");
    assert!(daemon.log().contains("the runner has ended"), "{}", daemon.log());
    assert!(table_exists(&network.server, "knockd"));
    assert_eq!((friend.tcp(at4(22)), stranger.tcp(at4(22))), (Reach::Open, Reach::Filtered));
    let daemon = Daemon::start_again(&network.server, daemon.take_directory());
    wait_until("it closes", || text(&log) == "open\nclose\n");
    assert_eq!((friend.tcp(at4(22)), stranger.tcp(at4(22))), (Reach::Open, Reach::Filtered));
    assert!(daemon.runner().is_some());
}

#[test]
fn a_daemon_that_is_killed_or_loses_its_ear_takes_its_runner_along_and_leaves_its_commands() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let (pid, go) = (files.path().join("pid"), files.path().join("go"));
    let command = format!("echo $$ > {}; while ! [ -e {} ]; do sleep 0.05; done", pid.display(), go.display());
    let rule = json!({ "name": "slow", "sequence": [1000, 2000], "command": command });
    for is_ear in [false, true] {
        let mut daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
        knock(&wire(&network), network.client().v4.into(), &[1000, 2000]);
        wait_until("the command runs", || text(&pid).ends_with('\n'));
        let runner = daemon.runner().expect("a runner");
        signal(if is_ear { daemon.ear() } else { daemon.pid() }, Signal::KILL);
        assert!(!daemon.wait().success());
        wait_until("the runner is gone", || !exists(runner));
        let command: u32 = text(&pid).trim().parse().expect("a process number");
        assert!(exists(command), "no command is waited for");
        fs::write(&go, "").expect("the command is let go");
        wait_until("the command ends", || !exists(command));
        for file in [&pid, &go] {
            fs::remove_file(file).expect("a file");
        }
    }
}

#[test]
fn in_a_container_a_command_ends_with_what_it_has_left_behind() {
    let network = network(1);
    // It ends before what it has started, in the same process group; the dead one has to be collected to be seen as gone.
    let rule = json!({
        "name": "leaves", "sequence": [1000, 2000], "command": "(sleep 0.3; exit 0) &", "command_timeout": "50s"
    });
    let wrapper = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let options = Options { wrapper: &wrapper, ..Options::default() };
    let daemon = Daemon::start_with(&network.server, json!({ "rules": [rule] }), options);
    knock(&wire(&network), network.client().v4.into(), &[1000, 2000]);
    daemon.wait_for_log("rule leaves: command for 10.77.0.2 succeeded");
}

#[test]
fn a_runner_that_gets_the_signals_of_the_daemon_leaves_them_to_it() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let log = files.path().join("log");
    let mut daemon = Daemon::start(&network.server, json!({ "rules": [door(&log, "1h")] }));
    knock(&wire(&network), network.client().v4.into(), &[1000, 2000]);
    wait_until("it opens", || text(&log) == "open\n");
    // As `pkill knockd` sends them: to both, in any order.
    let runner = daemon.runner().expect("a runner");
    for sent in [Signal::HUP, Signal::INT, Signal::TERM, Signal::USR1] {
        signal(runner, sent);
    }
    assert!(daemon.stop().success(), "{}", daemon.log());
    assert_eq!(text(&log), "open\nclose\n");
}

#[test]
fn a_reload_changes_what_the_runner_runs_and_how_much_it_logs() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let log = files.path().join("log");
    let rule = |line: &str| json!({ "name": "run", "sequence": [1000, 2000], "command": format!("echo {line} >> {}", log.display()) });
    let daemon = Daemon::start(&network.server, json!({ "log": { "level": "info" }, "rules": [] }));
    let wire = wire(&network);
    for (line, level) in [("first", "info"), ("second", "debug")] {
        let mark = daemon.log_mark();
        daemon.reload(json!({ "log": { "level": level }, "rules": [rule(line)] }));
        daemon.wait_for_log_after(mark, "reloaded");
        knock(&wire, network.client().v4.into(), &[1000, 2000]);
        daemon.wait_for_log_after(mark, "rule run: command for 10.77.0.2 succeeded");
        assert!(text(&log).ends_with(&format!("{line}\n")));
        assert_eq!(daemon.log().contains("debug: rule run: command for 10.77.0.2 starts"), level == "debug");
    }
    assert_eq!(daemon.control_status()["counters"]["commands_succeeded"], 2);
}

/// A runner whose keeper is this test. It writes messages as the daemon does (postcard).
struct Forged {
    process: Child,
    channel: OwnedFd,
}

impl Forged {
    fn start() -> Forged {
        let (channel, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a channel");
        let mut command = Command::new(env!("CARGO_BIN_EXE_knockd"));
        command.arg0("knockd: runner").stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        Forged { process: command.spawn().expect("a runner"), channel }
    }

    fn send(&self, order: &impl Serialize, file: Option<&File>) {
        let bytes = postcard::to_allocvec(order).expect("a message");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = file.map(|file| [file.as_fd()]);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        sendmsg(&self.channel, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).expect("sent");
    }

    /// The next report; empty where the runner has ended.
    fn report(&self) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        let length = rustix::io::read(&self.channel, &mut bytes).unwrap_or(0);
        bytes.truncate(length);
        bytes
    }

    fn configure(&self, directory: &Path, rules: &[(&str, Option<&str>)]) {
        let second = Duration::from_secs(1);
        let none: Option<&str> = None;
        // Name, command, stop command, time limit, setup, teardown.
        let rule = |&(name, line): &(&str, Option<&str>)| {
            (name.to_owned(), line.map(|line| (line.to_owned(), none)), none, second, none, Some("true"))
        };
        let rules: Vec<_> = rules.iter().map(rule).collect();
        // Then workers, queue, state directory, standard error, level info.
        let plan = (rules, 2_u64, 2_u64, directory, 0_u32, 3_u32);
        let mut file = File::from(memfd_create("plan", MemfdFlags::CLOEXEC).expect("a file"));
        file.write_all(&postcard::to_allocvec(&plan).expect("a plan")).expect("written");
        self.send(&CONFIGURE, Some(&file));
        assert_eq!(self.report(), [0, 0], "it is ready, and nothing is pending");
    }

    /// How many commands it has started.
    fn started(&self) -> u64 {
        self.send(&(ASK, 7_u64), None);
        let report = self.report();
        let (kind, token, started): (u32, u64, u64) =
            postcard::take_from_bytes(&report).unwrap_or_else(|error| panic!("{report:?}: {error}")).0;
        assert_eq!((kind, token), (4, 7), "the state");
        started
    }
}

impl Drop for Forged {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The numbers of orders.
const CONFIGURE: u32 = 0;
const RUN: u32 = 2;
const BRING_FORWARD: u32 = 3;
const RECONFIGURE: u32 = 4;
const ASK: u32 = 5;

#[test]
fn an_order_runs_the_line_of_its_rule_or_nothing() {
    let files = tempfile::tempdir().expect("a directory for the commands");
    let file = files.path().join("file");
    let touch = format!("touch {}", file.display());
    let client = IpAddr::from([192, 0, 2, 7]);
    let runner = Forged::start();
    let line = format!("echo %IP% >> {}", file.display());
    runner.configure(files.path(), &[("door", Some(&line)), ("hooks", None)]);
    for name in ["", "gone", "hooks", "door\n", "door; true", &touch, &"x".repeat(400)] {
        runner.send(&(RUN, name, client), None);
        runner.send(&(BRING_FORWARD, name, client), None);
    }
    assert_eq!(runner.started(), 0);
    runner.send(&(RUN, "door", client), None);
    wait_until("the rule's command runs", || text(&file) == "192.0.2.7\n");
    assert_eq!(runner.started(), 1);
}

#[test]
fn a_runner_that_gets_no_order_ends() {
    let files = tempfile::tempdir().expect("a directory");
    type Send = fn(&Forged);
    let cases: [(&str, Send); 4] = [
        ("no such order", |runner| runner.send(&200_u32, None)),
        ("more than an order", |runner| runner.send(&(ASK, 7_u64, 0_u8), None)),
        ("less than an order", |runner| runner.send(&RUN, None)),
        ("a plan that is missing", |runner| runner.send(&RECONFIGURE, None)),
    ];
    for (what, send) in cases {
        let mut runner = Forged::start();
        runner.configure(files.path(), &[]);
        send(&runner);
        assert!(runner.report().is_empty(), "{what}");
        assert!(!runner.process.wait().expect("it ends").success(), "{what}");
    }
    // Before there is a plan, no order is followed.
    let runner = Forged::start();
    runner.send(&(ASK, 7_u64), None);
    assert!(runner.report().is_empty());
}
