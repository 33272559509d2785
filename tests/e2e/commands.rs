//! Rules that run commands, as in the configurations of the original.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde_json::json;

use crate::support::{Daemon, knock, knock_cli, network, wait_until, wire};

/// The text of a file that a command wrote; empty where there is none.
fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_configuration_of_the_first_kind_runs_setup_commands_and_teardown() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let path = |name: &str| files.path().join(name).display().to_string();
    let configuration = json!({
        "interface": "eth0",
        "timeout": 5,
        "rules": [
            {
                "name": "enable_ssh",
                "command": format!("echo on %IP% $KNOCK_IP $KNOCK_RULE >> {}", path("log")),
                "setup": format!("echo setup >> {}", path("log")),
                "teardown": format!("echo teardown >> {}", path("log")),
                "sequence": [15523, 17767, 32768, 28977, 51234]
            },
            {
                "name": "disable_ssh",
                "command": format!("echo off %IP% >> {}", path("log")),
                "sequence": [51234, 28977, 32768, 17767, 15523]
            }
        ]
    });
    let log = files.path().join("log");
    let client_configuration = files.path().join("client.json");
    fs::write(&client_configuration, configuration.to_string()).expect("the client's configuration");
    let mut daemon = Daemon::start(&network.server, configuration);
    assert_eq!(text(&log), "setup\n", "before the daemon is ready");
    let knock = |rule: &str| {
        let file = client_configuration.to_str().expect("a path in UTF-8");
        let output = knock_cli(network.client(), &["-c", file, "-r", rule, "-h", "10.77.0.1"]);
        assert!(output.status.success(), "{output:?}");
    };
    knock("enable_ssh");
    wait_until("the command ran", || text(&log).ends_with("on 10.77.0.2 10.77.0.2 enable_ssh\n"));
    knock("disable_ssh");
    wait_until("the other command ran", || text(&log).ends_with("off 10.77.0.2\n"));
    assert!(daemon.stop().success());
    assert_eq!(text(&log), "setup\non 10.77.0.2 10.77.0.2 enable_ssh\noff 10.77.0.2\nteardown\n");
}

#[test]
fn an_ipv6_source_has_its_own_command_where_there_is_one() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let log = files.path().join("log");
    let rules = json!([
        {
            "name": "both", "sequence": [1000, 2000],
            "command": format!("echo four %IP% >> {}", log.display()),
            "command6": format!("echo six %IP% >> {}", log.display())
        },
        { "name": "one", "sequence": [3000, 4000], "command": format!("echo any %IP% >> {}", log.display()) }
    ]);
    let _daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    let (four, six) = (IpAddr::from(network.client().v4), IpAddr::from(network.client().v6));
    for (source, ports, line) in [
        (four, [1000, 2000], "four 10.77.0.2\n"),
        (six, [1000, 2000], "six fd77::2\n"),
        (four, [3000, 4000], "any 10.77.0.2\n"),
        (six, [3000, 4000], "any fd77::2\n"),
    ] {
        knock(&wire, source, &ports);
        wait_until(line, || text(&log).ends_with(line));
    }
}

#[test]
fn a_hanging_command_delays_no_other_knock() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let (log, release) = (files.path().join("log"), files.path().join("release"));
    let hang = format!("while [ ! -e {} ]; do sleep 0.1; done", release.display());
    let rules = json!([
        { "name": "hangs", "sequence": [2000, 1000], "command": hang },
        { "name": "quick", "sequence": [4000, 3000], "command": format!("echo %IP% >> {}", log.display()) }
    ]);
    let mut daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    for last in 1..=3 {
        knock(&wire, [198, 18, 0, last].into(), &[2000, 1000]);
        knock(&wire, [198, 18, 0, last].into(), &[4000, 3000]);
        wait_until("the other command ran", || text(&log).contains(&format!("198.18.0.{last}\n")));
    }
    fs::write(release, "").expect("the commands are let go");
    assert!(daemon.stop().success());
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let pids = files.path().join("pids");
    let command = format!("sleep 3600 & echo $! >> {0}; echo $$ >> {0}; wait", pids.display());
    let rule = json!({ "name": "hangs", "sequence": [1000, 2000], "command": command, "command_timeout": "2s" });
    let daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
    let mark = daemon.log_mark();
    knock(&wire(&network), network.client().v4.into(), &[1000, 2000]);
    wait_until("the command started", || text(&pids).lines().count() == 2);
    wait_until("it and its child are gone", || text(&pids).lines().all(|pid| !runs(pid)));
    daemon.wait_for_log_after(mark, "hangs");
    assert_eq!(children(&daemon), 0, "no zombie stays");
}

#[test]
fn a_command_that_fails_is_logged_with_its_status() {
    let network = network(1);
    let rules = json!([
        { "name": "fails", "sequence": [1000, 2000], "command": "exit 42" },
        { "name": "missing", "sequence": [3000, 4000], "command": "/nonexistent/program" }
    ]);
    let daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    let mark = daemon.log_mark();
    knock(&wire, network.client().v4.into(), &[1000, 2000]);
    let line = daemon.wait_for_log_after(mark, "42");
    assert!(line.contains("fails"), "{line}");
    knock(&wire, network.client().v4.into(), &[3000, 4000]);
    let line = daemon.wait_for_log_after(mark, "127");
    assert!(line.contains("missing"), "{line}");
    assert_eq!(children(&daemon), 0, "no zombie stays");
}

#[test]
fn the_stop_command_runs_after_its_time() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let log = files.path().join("log");
    let rule = json!({
        "name": "door", "sequence": [1000, 2000], "stop_after": "1s",
        "command": format!("echo open %IP% >> {}", log.display()),
        "stop_command": format!("echo close %IP% >> {}", log.display())
    });
    let _daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
    knock(&wire(&network), network.client().v4.into(), &[1000, 2000]);
    wait_until("it opens", || text(&log).starts_with("open 10.77.0.2\n"));
    wait_until("it closes", || text(&log) == "open 10.77.0.2\nclose 10.77.0.2\n");
}

#[test]
fn the_stop_command_of_a_door_that_was_open_at_a_crash_runs_after_the_next_start() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let log = files.path().join("log");
    let rule = json!({
        "name": "door", "sequence": [1000, 2000], "stop_after": "2s",
        "command": format!("echo open %IP% >> {}", log.display()),
        "stop_command": format!("echo close %IP% >> {}", log.display())
    });
    let daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
    knock(&wire(&network), network.client().v4.into(), &[1000, 2000]);
    wait_until("it opens", || text(&log).starts_with("open 10.77.0.2\n"));
    let directory = daemon.kill();
    let _daemon = Daemon::start_again(&network.server, directory);
    wait_until("it closes", || text(&log) == "open 10.77.0.2\nclose 10.77.0.2\n");
}

#[test]
fn knocking_again_before_the_stop_command_leaves_one_of_them() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let log = files.path().join("log");
    let rules = json!([
        {
            "name": "door", "sequence": [1000, 2000], "stop_after": "2s",
            "command": "true", "stop_command": format!("echo close %IP% >> {}", log.display())
        },
        { "name": "clock", "sequence": [3000, 4000], "stop_after": "4s",
          "command": "true", "stop_command": format!("echo later >> {}", log.display()) }
    ]);
    let _daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    for _ in 0..3 {
        knock(&wire, network.client().v4.into(), &[1000, 2000]);
    }
    knock(&wire, network.client().v4.into(), &[3000, 4000]);
    // Two seconds after it would close again; a machine that is late with both may run them in any order.
    wait_until("both have run", || text(&log).contains("later") && text(&log).contains("close"));
    assert_eq!(text(&log).lines().count(), 2, "{}", text(&log));
}

#[test]
fn a_command_is_no_way_into_the_shell() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let log = files.path().join("log");
    // Standard input is empty, and the address is all that a stranger decides.
    let rule = json!({
        "name": "door", "sequence": [1000, 2000],
        "command": format!("cat; echo \"<%IP%>\" >> {}", log.display())
    });
    let _daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
    knock(&wire(&network), network.client().v6.into(), &[1000, 2000]);
    wait_until("the command ran", || text(&log) == "<fd77::2>\n");
}

/// Whether a process runs; a zombie does not.
fn runs(pid: &str) -> bool {
    let stat = text(Path::new(&format!("/proc/{pid}/stat")));
    !stat.is_empty() && stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z'))
}

/// How many processes of commands there are, once those that ended can be collected.
fn children(daemon: &Daemon) -> usize {
    assert!(daemon.runner().is_some(), "commands have a runner");
    wait_until("the commands' processes are collected", || daemon.commands().is_empty());
    daemon.commands().len()
}
