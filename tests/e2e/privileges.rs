//! What the daemon keeps of root's privileges, and what its commands get.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use knock_testkit::Network;
use serde_json::{Value, json};

use crate::doctor::knockctl;
use crate::support::{Daemon, knock, network, wait_until, wire};

/// A field of /proc/PID/status (proc(5)).
fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running daemon");
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("{field} is not in {text}")).to_owned()
}

/// What the thread that writes the log may do is what the first thread may do.
#[track_caller]
fn assert_threads_alike(pid: u32) {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running daemon").flatten();
    let threads: Vec<String> =
        tasks.map(|task| fs::read_to_string(task.path().join("status")).expect("a thread that goes on")).collect();
    assert!(threads.iter().any(|text| text.starts_with("Name:\tlog\n")), "{threads:?}");
    for text in &threads {
        for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"] {
            let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
            assert_eq!(value.expect("the field"), status(pid, field), "{field} in {text}");
        }
    }
}

/// A set of capabilities as /proc shows it (capabilities(7) and linux/capability.h).
fn capabilities(numbers: &[u32]) -> String {
    format!("{:016x}", numbers.iter().fold(0_u64, |set, number| set | 1 << number))
}

const DAC_OVERRIDE: u32 = 1;
const KILL: u32 = 5;
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;

fn ssh() -> Value {
    json!({ "name": "ssh", "sequence": [1000, 3000, 2000], "allow": { "ports": [22], "timeout": "1m" } })
}

#[test]
fn without_commands_all_other_privileges_are_dropped_permanently() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, json!({ "interface": "eth0", "rules": [ssh()] }));
    let kept = capabilities(&[DAC_OVERRIDE, KILL, NET_ADMIN, NET_RAW]);
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(status(daemon.pid(), set), kept, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status(daemon.pid(), set), capabilities(&[]), "{set}");
    }
    assert_eq!(status(daemon.pid(), "NoNewPrivs"), "1");
    assert_eq!(status(daemon.pid(), "Seccomp"), "2", "a system call filter");
    assert_threads_alike(daemon.pid());
    let told = json!({
        "user": 0, "system_call_filter": true, "no_new_privileges": true, "memory_is_private": true, "bounded": true,
        "capabilities": ["CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_NET_ADMIN", "CAP_NET_RAW"], "landlock": true, "own_network": false,
        "no_new_code": true
    });
    assert_eq!(protections(&network, &daemon), told);
}

/// What `knockctl status` says of them.
fn protections(network: &Network, daemon: &Daemon) -> Value {
    let output = knockctl(&network.server, daemon, &["--json", "status"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    document["protections"].clone()
}

/// The state file of a daemon before, with these stop commands, which are due since the start of the machine.
fn leave_stops(directory: &Path, commands: &[String]) {
    let record = |command: &String| {
        json!({
            "rule": "gone", "source": "192.0.2.7", "command": command, "timeout_ms": 30_000, "after_ms": 1000,
            "on_stop": "run", "due_boottime_ns": 0, "due_unix_ms": 0
        })
    };
    let stops: Vec<Value> = commands.iter().map(record).collect();
    let state = json!({ "version": 1, "boot_id": "another", "stops": stops });
    fs::write(directory.join("state/stops.json"), state.to_string()).expect("the state file");
}

#[test]
fn a_state_file_in_which_nothing_is_pending_costs_no_protection() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, json!({ "rules": [ssh()] }));
    let directory = daemon.kill();
    leave_stops(directory.path(), &[]);
    let daemon = Daemon::start_again(&network.server, directory);
    assert_eq!(daemon.runner(), None);
    assert_eq!((status(daemon.pid(), "NoNewPrivs"), status(daemon.pid(), "Seccomp")), ("1".into(), "2".into()));
    assert_eq!(status(daemon.pid(), "CapBnd"), capabilities(&[DAC_OVERRIDE, KILL, NET_ADMIN]));
    assert!(!daemon.path("state/stops.json").exists(), "it goes");
}

#[test]
fn stop_commands_from_before_run_and_the_next_start_has_every_protection() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the command");
    let closed = files.path().join("closed");
    let directory = Daemon::start(&network.server, json!({ "rules": [ssh()] })).kill();
    leave_stops(directory.path(), &[format!("touch {}", closed.display())]);
    let daemon = Daemon::start_again(&network.server, directory);
    daemon.wait_for_log("no rule has a command, but stop commands are pending from an earlier run");
    assert!(daemon.runner().is_some());
    wait_until("it closes", || closed.exists());
    wait_until("the state file goes", || !daemon.path("state/stops.json").exists());
    let daemon = Daemon::start_again(&network.server, daemon.kill());
    assert_eq!(daemon.runner(), None);
}

#[test]
fn a_reload_starts_no_stop_command_where_that_was_given_up() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the command");
    let closed = files.path().join("closed");
    let mut daemon = Daemon::start(&network.server, json!({ "rules": [ssh()] }));
    leave_stops(daemon.directory(), &[format!("touch {}", closed.display())]);
    let mark = daemon.log_mark();
    daemon.reload(json!({ "rules": [ssh()] }));
    daemon.wait_for_log_after(mark, "reloaded");
    assert!(daemon.stop().success(), "it has tried nothing that it may not");
    let _daemon = Daemon::start_again(&network.server, daemon.take_directory());
    wait_until("it closes after the next start", || closed.exists());
}

#[test]
fn a_daemon_for_every_interface_opens_no_further_socket() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, json!({ "rules": [ssh()] }));
    assert_eq!(status(daemon.pid(), "CapEff"), capabilities(&[DAC_OVERRIDE, KILL, NET_ADMIN]));
}

#[test]
fn commands_of_root_have_the_powers_of_root_and_only_the_runner_can_start_them() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the command");
    let output = files.path().join("status");
    let rule = json!({
        "name": "who", "sequence": [1000, 3000, 2000],
        "command": format!("cat /proc/self/status > {0}.new && mv {0}.new {0}", output.display())
    });
    let daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
    let runner = daemon.runner().expect("a runner");
    assert_eq!(status(runner, "CapEff"), capabilities(&[DAC_OVERRIDE, KILL]));
    assert_eq!(status(runner, "NoNewPrivs"), "0");
    assert_eq!(status(runner, "Seccomp"), "0", "commands would inherit a filter");
    assert_threads_alike(runner);
    assert_eq!(status(daemon.pid(), "CapEff"), capabilities(&[DAC_OVERRIDE, KILL]));
    assert_eq!(status(daemon.pid(), "CapBnd"), capabilities(&[DAC_OVERRIDE, KILL]));
    assert_eq!((status(daemon.pid(), "NoNewPrivs"), status(daemon.pid(), "Seccomp")), ("1".into(), "2".into()));
    assert_threads_alike(daemon.pid());
    let told = protections(&network, &daemon);
    let has =
        ["system_call_filter", "no_new_privileges", "bounded", "memory_is_private"].map(|name| told[name] == true);
    assert_eq!(has, [true; 4], "{told}");
    knock(&wire(&network), IpAddr::from([10, 77, 0, 2]), &[1000, 3000, 2000]);
    wait_until("the command ran", || output.exists());
    let told = fs::read_to_string(&output).expect("what the command wrote");
    let all = status(std::process::id(), "CapBnd");
    assert!(told.contains(&format!("CapEff:\t{all}\n")), "{told}");
}

#[test]
fn a_reload_does_not_regain_dropped_privileges() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, json!({ "rules": [ssh()] }));
    let run = json!({ "name": "run", "sequence": [4000, 6000, 5000], "command": "true" });
    let mark = daemon.log_mark();
    daemon.reload(json!({ "rules": [ssh(), run] }));
    let line = daemon.wait_for_log_after(mark, "not reloaded");
    assert!(line.contains("as no rule had one at start, there is no process that may run programs"), "{line}");
    assert!(line.contains("restart knockd"), "{line}");
}

#[test]
fn a_reload_cannot_have_files_changed_where_that_was_given_up() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory elsewhere");
    let codes = files.path().join("codes");
    fs::write(&codes, " 4000,6000,5000\n").expect("a file");
    fs::set_permissions(&codes, fs::Permissions::from_mode(0o600)).expect("our file");
    let once = json!({ "name": "once", "one_time_sequences": codes, "allow": { "ports": [22], "timeout": "1m" } });
    let mut daemon = Daemon::start(&network.server, json!({ "rules": [ssh()] }));
    let mark = daemon.log_mark();
    daemon.reload(json!({ "rules": [ssh(), once] }));
    let line = daemon.wait_for_log_after(mark, "not reloaded");
    assert!(line.contains(&format!("{}: knockd gave up at start to write there", codes.display())), "{line}");
    assert!(line.contains("restart knockd"), "{line}");
    assert!(daemon.stop().success());
    // Without rules nothing is given up.
    let daemon = Daemon::start(&network.server, json!({ "rules": [] }));
    let mark = daemon.log_mark();
    daemon.reload(json!({ "rules": [once] }));
    daemon.wait_for_log_after(mark, "reloaded");
    knock(&wire(&network), IpAddr::from([10, 77, 0, 2]), &[4000, 6000, 5000]);
    wait_until("it is marked", || fs::read_to_string(&codes).is_ok_and(|text| text.starts_with('#')));
}

/// The process of that daemon that reads the packets of strangers.
fn ear(daemon: &Daemon) -> u32 {
    let numbers =
        fs::read_dir("/proc").expect("proc(5)").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_ear = |number: &u32| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{number}/{file}")).unwrap_or_default();
        read("cmdline").starts_with("knockd: ear") && read("status").contains(&format!("PPid:\t{}\n", daemon.pid()))
    };
    numbers.into_iter().find(is_ear).expect("an ear")
}

#[test]
fn the_ear_has_no_privilege_no_network_and_no_file() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, json!({ "interface": "eth0", "rules": [ssh()] }));
    let ear = ear(&daemon);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(ear, set), capabilities(&[]), "{set}");
    }
    assert_eq!(["NoNewPrivs", "Seccomp", "Threads"].map(|field| status(ear, field)), ["1", "2", "1"]);
    let network_of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).expect("a running process");
    assert_ne!(network_of(ear), network_of(daemon.pid()));
    for entry in fs::read_dir(format!("/proc/{ear}/fd")).expect("a running process").flatten() {
        let open = fs::read_link(entry.path()).expect("an open descriptor");
        let open = open.to_str().expect("UTF-8");
        assert!(["socket:", "anon_inode:"].iter().any(|kind| open.starts_with(kind)), "{open}");
    }
}

#[test]
fn the_ear_ends_with_the_daemon_also_where_that_is_killed() {
    let network = network(1);
    let daemon = Daemon::start(&network.server, json!({ "rules": [ssh()] }));
    let ear = ear(&daemon);
    let _directory = daemon.kill();
    let is_there = || fs::read_to_string(format!("/proc/{ear}/stat")).is_ok_and(|text| !text.contains(") Z "));
    wait_until("it ends", || !is_there());
}
