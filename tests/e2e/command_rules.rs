//! What commands and stop commands are held to: bounds, ends, environment, and what outlives the daemon.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use knock_testkit::{Flags, Packet};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Daemon, Options, check, knock, network, wait_for_grant, wait_until, wire};

/// Files that commands write. Processes that wrote their number to `pids` end with the test.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a directory for the commands"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn lines(&self, name: &str) -> Vec<String> {
        self.text(name).lines().map(str::to_owned).collect()
    }

    fn kill(&self) {
        for pid in self.lines("pids").iter().filter(|pid| state(pid).is_some()) {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The state of a process (proc_pid_stat(5)); `None` where there is none.
fn state(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Waits until no process of a command is left, dead ones included.
fn wait_until_no_child_is_left(daemon: &Daemon) {
    assert!(daemon.runner().is_some(), "commands have a runner");
    wait_until("the commands' processes are collected", || daemon.commands().is_empty());
}

/// Seconds since the machine was started, on the daemon's clock: the first number of a line of /proc/uptime.
fn seconds(line: &str) -> f64 {
    line.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{line} is no time"))
}

/// The time that follows `event` in the file `log`; the event has to be there once.
fn time_of(files: &Files, event: &str) -> f64 {
    let lines = files.lines("log");
    let times: Vec<f64> = lines.iter().filter_map(|line| line.strip_prefix(event)).map(seconds).collect();
    assert_eq!(times.len(), 1, "{event} is once in {lines:?}");
    times[0]
}

/// The lines of the state file.
fn journal(directory: &Path) -> Vec<Value> {
    let text = fs::read_to_string(directory.join("state/stops.json")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// When the rule's stop command is due by the state file, in seconds since the machine was started.
fn due(directory: &Path, rule: &str) -> f64 {
    let journal = journal(directory);
    let last = journal.iter().rev().map(|line| &line["pending"][1]).find(|record| record["rule"] == rule);
    last.and_then(|record| record["due_boottime_ns"].as_f64()).unwrap_or_else(|| panic!("{rule}: {journal:?}")) / 1e9
}

/// Makes the rule's stop command due earlier, as if time had passed: no test waits for it.
fn bring_forward(directory: &Path, rule: &str, to: f64) {
    let mut journal = journal(directory);
    let nanoseconds = u64::try_from(Duration::from_secs_f64(to).as_nanos()).expect("a machine's uptime");
    for record in journal.iter_mut().filter_map(|line| line.pointer_mut("/pending/1")) {
        if record["rule"] == rule {
            record["due_boottime_ns"] = json!(nanoseconds);
        }
    }
    let lines: String = journal.iter().map(|line| format!("{line}\n")).collect();
    fs::write(directory.join("state/stops.json"), lines).expect("the state file");
}

/// Whether a descriptor of this process stays open at execve(2): the close-on-exec flag in proc_pid_fdinfo(5).
fn is_inheritable(fd: &str) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| flags & 0o2_000_000 == 0)
}

/// The blocked and the ignored signals in the text of a proc_pid_status(5).
fn signals(status: &str) -> (u64, u64) {
    let mask = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        value.and_then(|value| u64::from_str_radix(value, 16).ok()).unwrap_or_else(|| panic!("{status} has no {name}"))
    };
    (mask("SigBlk"), mask("SigIgn"))
}

fn client(number: u8) -> IpAddr {
    [198, 18, 0, number].into()
}

#[test]
fn grants_stay_quick_while_all_workers_hang_and_commands_without_room_are_refused_and_counted() {
    let network = network(1);
    let files = Files::new();
    let rules = json!([
        { "name": "hangs", "sequence": [1000, 2000], "command_timeout": "1h",
          "command": format!("echo $$ >> {}; exec sleep 120", files.shown("pids")) },
        { "name": "ssh", "sequence": [3000, 4000], "allow": { "ports": [22], "timeout": "1h" } }
    ]);
    let limits = json!({ "commands": 16, "command_queue": 4 });
    let daemon = Daemon::start(&network.server, json!({ "rules": rules, "limits": limits }));
    let wire = wire(&network);
    (1..=30).for_each(|number| knock(&wire, client(number), &[1000, 2000]));
    let line = daemon.wait_for_log("which is the limit; raise limits.commands or limits.command_queue");
    assert!(line.contains("the command for 198.18.0.21 was not run"), "sixteen and four are taken: {line}");
    for number in 1..=5 {
        knock(&wire, client(number), &[3000, 4000]);
        wait_for_grant(&network.server, client(number), ("tcp", 22));
    }
    wait_until("sixteen commands run", || files.lines("pids").len() == 16);
    assert!(
        files.lines("pids").iter().all(|pid| state(pid).is_some_and(|state| state != 'Z')),
        "all of them hang while it grants"
    );
    assert_eq!(daemon.log().matches("more are only counted").count(), 1, "a flood of knocks is no flood of warnings");

    files.kill();
    wait_until("those that waited run", || files.lines("pids").len() == 20);
    daemon.wait_for_log("10 commands were not run while the queue was full");
    daemon.wait_for_log("signal 9 (SIGKILL)");
    files.kill();
    wait_until_no_child_is_left(&daemon);
}

#[test]
fn a_command_that_ignores_its_time_limit_is_killed_with_its_grandchildren_and_reported() {
    let network = network(1);
    let files = Files::new();
    let pids = files.shown("pids");
    let command = format!(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >> {pids}; while :; do sleep 0.1; done' & \
         echo $$ >> {pids}; while :; do sleep 0.1; done"
    );
    let rule = json!({ "name": "stubborn", "sequence": [1000, 2000], "command": command, "command_timeout": "2s" });
    let daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
    knock(&wire(&network), client(1), &[1000, 2000]);
    wait_until("both run", || files.lines("pids").len() == 2);
    daemon.wait_for_log("was ended at its time limit of 2s");
    assert!(files.lines("pids").iter().all(|pid| state(pid).is_none_or(|state| state == 'Z')), "both are gone");
    wait_until_no_child_is_left(&daemon);
}

#[test]
fn a_process_left_in_the_group_ends_at_the_limit_and_one_with_its_own_session_goes_on() {
    let network = network(1);
    let files = Files::new();
    let pids = files.shown("pids");
    let rules = json!([
        { "name": "leaves", "sequence": [1000, 2000], "command_timeout": "2s",
          "command": format!("sleep 120 & echo $! >> {pids}") },
        { "name": "detaches", "sequence": [3000, 4000], "command_timeout": "1h",
          "command": format!("setsid sh -c 'echo $$ >> {pids}; exec sleep 120' >/dev/null 2>&1 & echo started") }
    ]);
    let daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    knock(&wire, client(1), &[1000, 2000]);
    let line = daemon.wait_for_log("left processes behind");
    assert!(line.contains("exit status 0") && line.contains("setsid"), "{line}");
    assert_eq!(files.lines("pids").iter().filter(|pid| state(pid).is_some_and(|state| state != 'Z')).count(), 0);

    knock(&wire, client(2), &[3000, 4000]);
    daemon.wait_for_log("rule detaches: command for 198.18.0.2 succeeded");
    wait_until("the detached process runs", || files.lines("pids").len() == 2);
    assert!(state(&files.lines("pids")[1]).is_some_and(|state| state != 'Z'), "it goes on");
    wait_until_no_child_is_left(&daemon);
}

/// The memory of the daemon and of its runner, in KiB.
fn resident(daemon: &Daemon) -> u64 {
    let of = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
        let value =
            text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        value.unwrap_or_else(|| panic!("{text} has no VmRSS"))
    };
    of(daemon.pid()) + of(daemon.runner().expect("a runner"))
}

#[test]
fn a_flood_of_output_fills_neither_the_log_nor_memory() {
    let network = network(1);
    let rules = json!([
        { "name": "floods", "sequence": [1000, 2000], "command": format!("yes {:063} | head -c 50000000", 0) },
        { "name": "quick", "sequence": [3000, 4000], "command": "echo quick" }
    ]);
    let daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    let before = resident(&daemon);
    knock(&wire, client(1), &[1000, 2000]);
    knock(&wire, client(1), &[3000, 4000]);
    daemon.wait_for_log("rule quick: command for 198.18.0.1: quick");
    daemon.wait_for_log("(49995904 more bytes, not shown)");
    daemon.wait_for_log("rule floods: command for 198.18.0.1 succeeded");
    assert!(daemon.log().len() < 100_000, "the log has {} bytes", daemon.log().len());
    let grown = resident(&daemon).saturating_sub(before);
    assert!(grown < 8192, "{grown} KiB more");
}

#[test]
fn how_a_command_ends_is_logged_with_what_to_do() {
    let network = network(1);
    let files = Files::new();
    let rule = |name: &str, port: u16, command: &str| json!({ "name": name, "sequence": [port], "command": command });
    fs::write(files.path("data"), "no program").expect("a file");
    let rules = json!([
        rule("status", 1000, "echo why >&2; exit 3"),
        rule("signal", 2000, "kill -SEGV $$"),
        rule("missing", 3000, "/nonexistent/program"),
        rule("data", 4000, &files.shown("data"))
    ]);
    let daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    for (port, patterns) in [
        (
            1000,
            ["rule status: command for 198.18.0.1: why", "rule status: command for 198.18.0.1 failed: exit status 3"],
        ),
        (2000, ["rule signal: command for 198.18.0.1 failed: signal 11 (SIGSEGV)", ""]),
        (3000, ["exit status 127, which is a program that the shell did not find", "/nonexistent/program"]),
        (4000, ["exit status 126, which is a program that could not be executed", ""]),
    ] {
        knock(&wire, client(1), &[port]);
        patterns.iter().for_each(|pattern| drop(daemon.wait_for_log(pattern)));
    }
    wait_until_no_child_is_left(&daemon);
}

#[test]
fn a_command_has_a_clean_environment_and_nothing_of_the_daemons_but_its_privileges() {
    let network = network(1);
    let files = Files::new();
    let command = format!(
        "ls -l /proc/$$/fd > {0}/fds; env | cut -d= -f1 | sort > {0}/names; pwd > {0}/directory; \
         readlink /proc/$$/fd/0 > {0}/stdin; grep -E 'Sig(Blk|Ign)' /proc/self/status > {0}/signals; \
         cut -d' ' -f1,5 /proc/$$/stat > {0}/group; echo \"$KNOCK_IP $KNOCK_FAMILY $KNOCK_RULE $TZ\" > {0}/values",
        files.0.path().display()
    );
    let rule = json!({ "name": "look", "sequence": [1000, 2000], "command": command });
    let environment = [("SECRET", "x"), ("LD_BIND_NOW", "1"), ("TZ", "UTC"), ("LANG", "C")];
    let options = Options { environment: &environment, ..Options::default() };
    let daemon = Daemon::start_with(&network.server, json!({ "rules": [rule] }), options);
    let wire = wire(&network);
    for (source, values) in
        [(client(1), "198.18.0.1 4 look UTC\n"), (network.client().v6.into(), "fd77::2 6 look UTC\n")]
    {
        knock(&wire, source, &[1000, 2000]);
        wait_until(values, || files.text("values") == values);
    }
    // ` … 11 -> pipe:[123]`. The shell keeps copies of its output, and what runs the tests may leave descriptors to all
    // that it starts.
    let listing = files.text("fds");
    let fds = listing.lines().filter_map(|line| line.split_once(" -> "));
    let fds: Vec<(&str, &str)> = fds.filter_map(|(line, to)| Some((line.rsplit(' ').next()?, to))).collect();
    let output = fds.iter().find(|(fd, _)| *fd == "2").map(|(_, to)| *to).expect("standard error");
    let left = |(fd, to): &&(&str, &str)| *fd != "0" && *to != output && !is_inheritable(fd);
    let left: Vec<_> = fds.iter().filter(left).filter(|(fd, _)| *fd != "1").collect();
    assert!(left.is_empty(), "descriptors of the daemon: {left:?}");
    // PWD is the shell's own.
    assert_eq!(files.lines("names"), ["KNOCK_FAMILY", "KNOCK_IP", "KNOCK_RULE", "LANG", "PATH", "PWD", "TZ"]);
    assert_eq!((files.text("directory"), files.text("stdin")), ("/\n".to_owned(), "/dev/null\n".to_owned()));
    // What the tests themselves were started with is no doing of the daemon's; Rust's runtime adds SIGPIPE to that.
    let (blocked, ignored) = signals(&files.text("signals"));
    // Signals 32 and 33 are the C library's own (signal(7)).
    let (ordinary, sigpipe) = (0x7fff_ffff, 1 << (13 - 1));
    let (_, inherited) = signals(&fs::read_to_string("/proc/self/status").expect("Linux"));
    assert_eq!((blocked, ignored & ordinary & (!inherited | sigpipe)), (0, 0), "no signal is blocked or ignored");
    let group = files.text("group");
    let (pid, group) = group.trim().split_once(' ').expect("two numbers");
    assert_eq!(pid, group, "a process group of its own");
    wait_until_no_child_is_left(&daemon);
}

#[test]
fn commands_of_one_rule_and_address_run_in_order_and_those_of_others_beside_them() {
    let network = network(1);
    let files = Files::new();
    let directory = files.0.path().display();
    // It ends when the test makes the file that it waits for.
    let command = format!(
        "n=$(cat {directory}/%IP% 2>/dev/null | wc -l); echo begin >> {directory}/%IP%; \
         while ! [ -e {directory}/end-%IP%-$n ]; do sleep 0.01; done; echo end >> {directory}/%IP%"
    );
    let rule = json!({ "name": "slow", "sequence": [1000, 2000], "command": command });
    let daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
    let wire = wire(&network);
    knock(&wire, client(1), &[1000, 2000]);
    wait_until("its first command runs", || files.text("198.18.0.1") == "begin\n");
    // One command runs for both.
    for _ in 0..2 {
        knock(&wire, client(1), &[1000, 2000]);
    }
    knock(&wire, client(2), &[1000, 2000]);
    wait_until("both addresses' first commands run", || {
        files.text("198.18.0.1") == "begin\n" && files.text("198.18.0.2") == "begin\n"
    });
    fs::write(files.path("end-198.18.0.2-0"), "").expect("a file");
    wait_until("the other address is done", || files.text("198.18.0.2") == "begin\nend\n");
    assert_eq!(files.text("198.18.0.1"), "begin\n", "its second waits");
    for (number, lines) in [(0, 3), (2, 4)] {
        fs::write(files.path(&format!("end-198.18.0.1-{number}")), "").expect("a file");
        wait_until("the next one runs", || files.lines("198.18.0.1").len() == lines);
    }
    assert_eq!(files.text("198.18.0.1"), "begin\nend\n".repeat(2));
    wait_until_no_child_is_left(&daemon);
}

/// A rule whose commands write their names and the time.
fn door(files: &Files, name: &str, ports: [u16; 2], after: &str, on_shutdown: &str) -> Value {
    let write = |event: &str| format!("echo {event} {name} %IP% $(cat /proc/uptime) >> {}", files.shown("log"));
    json!({
        "name": name, "sequence": ports, "stop_after": after, "stop_on_shutdown": on_shutdown,
        "command": write("open"), "stop_command": write("close")
    })
}

#[test]
fn a_clean_stop_runs_the_pending_stop_commands_or_keeps_them_as_the_rule_says() {
    let network = network(1);
    let files = Files::new();
    let rules =
        json!([door(&files, "run", [1000, 2000], "1h", "run"), door(&files, "keep", [3000, 4000], "1h", "keep")]);
    let mut daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    knock(&wire, client(1), &[1000, 2000]);
    knock(&wire, client(1), &[3000, 4000]);
    wait_until("both are open", || files.lines("log").len() == 2);
    assert!(daemon.stop().success());
    let log = files.text("log");
    assert!(log.contains("close run") && !log.contains("close keep"), "{log}");
    let directory = daemon.take_directory();
    bring_forward(directory.path(), "keep", 1.0);
    let _daemon = Daemon::start_again(&network.server, directory);
    wait_until("the other one closes", || files.text("log").contains("close keep"));
    assert_eq!(files.lines("log").len(), 4, "each once");
}

#[test]
fn after_a_crash_due_stop_commands_run_at_once_and_the_others_in_time() {
    let network = network(1);
    let files = Files::new();
    let rules =
        json!([door(&files, "short", [1000, 2000], "1h", "run"), door(&files, "long", [3000, 4000], "2h", "keep")]);
    let uptime = || seconds(&fs::read_to_string("/proc/uptime").expect("Linux"));
    let daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    let before = uptime();
    knock(&wire, client(1), &[1000, 2000]);
    knock(&wire, client(1), &[3000, 4000]);
    wait_until("both are open", || files.lines("log").len() == 2);
    let directory = daemon.kill();
    // /proc/uptime has hundredths of a second.
    for (rule, after) in [("short", 3600.0), ("long", 7200.0)] {
        let due = due(directory.path(), rule) - after;
        assert!(before - 0.01 <= due && due <= uptime() + 0.01, "{rule}: counted from the knock");
    }
    let in_time = uptime() + 2.0;
    bring_forward(directory.path(), "short", 1.0);
    bring_forward(directory.path(), "long", in_time);
    let daemon = Daemon::start_again(&network.server, directory);
    daemon.wait_for_log("2 stop commands are pending from an earlier run");
    wait_until("the short one closes", || files.text("log").contains("close short"));
    wait_until("the long one closes", || files.text("log").contains("close long"));
    let closed = time_of(&files, "close long 198.18.0.1 ");
    assert!(closed >= in_time - 0.01, "it closed {} s too early", in_time - closed);
    assert_eq!(files.lines("log").len(), 4, "each once");
}

#[test]
fn knocking_again_after_a_crash_puts_the_one_stop_command_off() {
    let network = network(1);
    let files = Files::new();
    let rules = json!([door(&files, "door", [1000, 2000], "1h", "run")]);
    let daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    knock(&wire, client(1), &[1000, 2000]);
    wait_until("it is open", || files.lines("log").len() == 1);
    let directory = daemon.kill();
    let before = due(directory.path(), "door");
    let mut daemon = Daemon::start_again(&network.server, directory);
    knock(&wire, client(1), &[1000, 2000]);
    wait_until("the state file has its new time", || due(daemon.directory(), "door") > before);
    assert!(daemon.stop().success());
    assert!(files.text("log").contains("close door"));
    assert_eq!(files.lines("log").len(), 2, "opened once, closed once");
}

#[test]
fn a_damaged_state_file_is_set_aside_and_reported_and_stops_nothing() {
    let network = network(1);
    let files = Files::new();
    let rules = json!([door(&files, "door", [1000, 2000], "1h", "keep")]);
    let daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    knock(&wire, client(1), &[1000, 2000]);
    wait_until("it is open", || files.lines("log").len() == 1);
    let directory = daemon.kill();
    let file = directory.path().join("state/stops.json");
    let whole = fs::read_to_string(&file).expect("what is pending is on disk");
    let damaged = whole.replace("\"pending\"", "\"pend");
    fs::write(&file, &damaged).expect("the state file");
    let mut daemon = Daemon::start_again(&network.server, directory);
    let line = daemon.wait_for_log("are lost to knockd");
    let kept = line.split("the file is kept as ").nth(1).and_then(|rest| rest.split(": run what").next());
    assert_eq!(fs::read_to_string(kept.expect("the message names the file")).expect("it is there"), damaged);
    knock(&wire, client(2), &[1000, 2000]);
    wait_until("the next door opens", || files.text("log").contains("open door 198.18.0.2 "));
    assert!(file.exists(), "and its stop command is on disk");
    assert!(daemon.stop().success());
}

#[test]
fn without_a_state_directory_no_command_runs_that_could_not_be_undone() {
    let network = network(1);
    let files = Files::new();
    fs::write(files.path("file"), "").expect("a file");
    let plain = json!({ "name": "plain", "sequence": [3000, 4000],
        "command": format!("echo plain >> {}", files.shown("log")) });
    let rules = json!([door(&files, "door", [1000, 2000], "1h", "run"), plain]);
    let wire = wire(&network);
    // One that cannot be made, and one that is gone while the daemon runs.
    for state_dir in [files.path("file").join("state"), files.path("state")] {
        let configuration = json!({ "rules": rules, "state_dir": state_dir });
        let daemon = Daemon::start(&network.server, configuration);
        if state_dir.exists() {
            fs::remove_dir_all(&state_dir).expect("an empty directory");
        } else {
            let line = daemon.wait_for_log("until then no command runs that has a stop_command");
            assert!(line.contains(state_dir.to_str().expect("UTF-8")) && line.contains("state_dir"), "{line}");
        }
        let mark = daemon.log_mark();
        knock(&wire, client(1), &[1000, 2000]);
        let line = daemon.wait_for_log_after(mark, "rule door: command for 198.18.0.1 was not run");
        assert!(line.contains(state_dir.to_str().expect("UTF-8")), "{line}");
        knock(&wire, client(1), &[3000, 4000]);
        wait_until("the other command runs", || files.text("log") == "plain\n");
        fs::remove_file(files.path("log")).expect("the log");
    }
}

#[test]
fn tcp_flags_say_which_segments_are_knocks() {
    let network = network(1);
    let files = Files::new();
    let rule = |name: &str, flags: &str, ports: [u16; 2]| {
        json!({ "name": name, "tcp_flags": flags, "sequence": ports,
            "command": format!("echo {name} %IP% >> {}", files.shown("log")) })
    };
    let rules = json!([rule("fin", "fin,!syn", [1000, 2000]), rule("syn_ack", "syn,ack", [1000, 3000])]);
    let _daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    let send = |number: u8, ports: [u16; 2], flags: Flags| {
        for port in ports {
            let source = (client(number), 40_000).into();
            wire.send(&Packet::tcp(source, crate::support::at4(port), flags)).expect("a segment");
        }
    };
    for ports in [[1000, 2000], [1000, 3000]] {
        send(1, ports, Flags::SYN);
        send(2, ports, Flags::ACK);
        send(3, ports, Flags::FIN | Flags::SYN);
    }
    send(4, [1000, 3000], Flags::SYN | Flags::ACK);
    wait_until("a SYN+ACK knock", || files.text("log") == "syn_ack 198.18.0.4\n");
    send(5, [1000, 2000], Flags::FIN);
    wait_until("a FIN knock", || files.text("log") == "syn_ack 198.18.0.4\nfin 198.18.0.5\n");
    send(6, [1000, 2000], Flags::FIN | Flags::ACK);
    wait_until("a FIN+ACK knock", || files.text("log").ends_with("fin 198.18.0.6\n"));
    assert_eq!(files.lines("log").len(), 3);
}

#[test]
fn a_target_is_the_only_destination_that_counts_even_where_it_is_another_host() {
    let network = network(1);
    network.server.namespace.ip("addr add 10.77.0.9/24 dev eth0").expect("another address of the server");
    let files = Files::new();
    let rule = |name: &str, target: &str, ports: [u16; 2]| {
        json!({ "name": name, "target": target, "sequence": ports,
            "command": format!("echo {name} >> {}", files.shown("log")) })
    };
    let rules = json!([rule("second", "10.77.0.9", [1000, 2000]), rule("routed", "203.0.113.7", [3000, 4000])]);
    let _daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    let send = |to: &str, ports: [u16; 2]| {
        for port in ports {
            let to = (to.parse::<IpAddr>().expect("an address"), port).into();
            wire.send(&Packet::syn((client(1), 40_000).into(), to, u32::from(port))).expect("a SYN");
        }
    };
    for other in ["10.77.0.1", "203.0.113.8"] {
        send(other, [1000, 2000]);
        send(other, [3000, 4000]);
    }
    send("10.77.0.9", [3000, 4000]);
    send("203.0.113.7", [1000, 2000]);
    send("10.77.0.9", [1000, 2000]);
    wait_until("the second address was knocked", || files.text("log") == "second\n");
    send("203.0.113.7", [3000, 4000]);
    wait_until("the routed address was knocked", || files.text("log") == "second\nrouted\n");
}

#[test]
fn an_ipv6_source_has_its_own_stop_command() {
    let network = network(1);
    let files = Files::new();
    let write = |what: &str| format!("echo {what} %IP% >> {}", files.shown("log"));
    let rule = json!({
        "name": "door", "sequence": [1000, 2000], "stop_after": "500ms",
        "command": write("open4"), "command6": write("open6"),
        "stop_command": write("close4"), "stop_command6": write("close6")
    });
    let _daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
    let wire = wire(&network);
    knock(&wire, network.client().v6.into(), &[1000, 2000]);
    wait_until("IPv6", || files.text("log") == "open6 fd77::2\nclose6 fd77::2\n");
    knock(&wire, network.client().v4.into(), &[1000, 2000]);
    wait_until("IPv4", || files.text("log").ends_with("open4 10.77.0.2\nclose4 10.77.0.2\n"));
}

#[test]
fn a_reload_runs_the_teardown_of_removed_rules_and_the_setup_of_new_ones() {
    let network = network(1);
    let files = Files::new();
    let rule = |name: &str, port: u16, setup: &str| {
        json!({ "name": name, "sequence": [port, port + 100], "command": "true",
            "setup": format!("echo setup {name} {setup} >> {}", files.shown("log")),
            "teardown": format!("echo teardown {name} {setup} >> {}", files.shown("log")) })
    };
    let mut daemon = Daemon::start(
        &network.server,
        json!({ "rules": [rule("stays", 1000, "1"), rule("changes", 2000, "1"), rule("goes", 3000, "1")] }),
    );
    let mut failing = rule("new", 4000, "1");
    failing["setup"] = json!("exit 4");
    daemon.reload(json!({ "rules": [failing, rule("changes", 2000, "2"), rule("stays", 5000, "1")] }));
    daemon.wait_for_log("rule new: setup failed: exit status 4");
    wait_until("the hooks ran", || files.lines("log").len() == 6);
    assert!(daemon.stop().success());
    assert_eq!(
        files.lines("log"),
        [
            "setup stays 1",
            "setup changes 1",
            "setup goes 1", // at start
            "teardown goes 1",
            "teardown changes 1",
            "setup changes 2", // at the reload
            "teardown stays 1",
            "teardown changes 2",
            "teardown new 1" // at stop
        ]
    );
}

#[test]
fn the_keys_of_the_forks_are_refused_with_what_to_write_instead() {
    let network = network(1);
    for (key, instead) in [("activate", "`command`"), ("deactivate", "`stop_command`, with `stop_after`")] {
        let text = format!(r#"{{"rules": [{{"name": "ssh", "sequence": [1000, 2000], "{key}": "true"}}]}}"#);
        let said = check(&network.server, &text, Options { arguments: &["-t"], ..Options::default() });
        assert_eq!(said.code, Some(78), "{said:?}");
        for part in ["config.json:1:", "rules[0]", key, instead] {
            assert!(said.stderr.contains(part), "`{part}` is missing: {}", said.stderr);
        }
    }
    // The fork's timeout of a rule is ours.
    let text = r#"{"rules": [{"name": "ssh", "sequence": [1000, 2000], "command": "true", "timeout": 7}]}"#;
    let said = check(&network.server, text, Options { arguments: &["-t"], ..Options::default() });
    assert_eq!(said.code, Some(0), "{said:?}");
}
