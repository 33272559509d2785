//! A flood of knocks at rules with commands: what it may cost.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use knock_testkit::{Packet, Wire};
use serde_json::json;

use crate::support::{Daemon, at4, knock, network, wait_until, wire};

/// A source of its own for each number.
fn source(number: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number).into()
}

fn lines(path: &Path) -> u32 {
    let lines = fs::read_to_string(path).unwrap_or_default().lines().count();
    u32::try_from(lines).expect("a small file")
}

/// Knocks from so many sources, of which some are ahead of the commands, which write a line each to `done`.
fn knock_from(wire: &Wire, sources: u32, ports: &[u16], done: &Path) {
    for number in 0..sources {
        knock(wire, source(number), ports);
        wait_until("the commands run", || lines(done) + 10 > number);
    }
    wait_until("the last commands run", || lines(done) == sources);
}

#[test]
fn a_flood_of_knocks_fills_no_log_and_lines_left_out_are_counted() {
    const KNOCKS: u32 = 600;
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let done = files.path().join("done");
    // A line each: it is granted, the set is waited for, it has knocked, the output, how the command ended.
    let rule = json!({
        "name": "door", "sequence": [1000, 2000],
        "allow": { "set": "inet filter missing", "timeout": "1h" },
        "command": format!("echo output; echo done >> {}", done.display())
    });
    let configuration = json!({
        "rules": [rule],
        "limits": { "command_queue": 65_536 },
        "log": { "target": "stderr", "level": "info" }
    });
    let mut daemon = Daemon::start(&network.server, configuration);
    let (mark, began) = (daemon.log_mark(), Instant::now());
    knock_from(&wire(&network), KNOCKS, &[1000, 2000], &done);
    assert!(daemon.stop().success());
    let seconds = began.elapsed().as_secs() + 1;
    let log = daemon.log();
    let about_knocks = log.lines().skip(mark).filter(|line| line.contains("198.18.")).count();
    // What the daemon logs and what its runner logs have a limit each.
    let most = 2 * (200 + 20 * seconds);
    assert!(about_knocks as u64 <= most, "{about_knocks} lines in {seconds} s");
    let left_out = |line: &str| line.split_once(" lines came too fast")?.0.rsplit(' ').next()?.parse::<usize>().ok();
    let left_out: usize = log.lines().filter_map(left_out).sum();
    assert_eq!(about_knocks + left_out, 5 * KNOCKS as usize, "what is not in the log is counted");
}

/// Sends a datagram from each of these source ports to a knock port.
fn send_datagrams(wire: &Wire, address: IpAddr, from: Range<u16>, port: u16) {
    let datagram = |from| Packet::udp((address, from).into(), at4(port));
    let datagrams: Vec<Packet> = from.map(datagram).collect();
    wire.send_all(&datagrams).expect("the datagrams are sent");
}

#[test]
fn in_its_cooldown_a_rule_of_one_port_runs_one_command_for_a_flood() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let path = |name: &str| files.path().join(name);
    let rule = |name: &str, port: &str, cooldown: &str| {
        json!({
            "name": name, "sequence": [port], "cooldown": cooldown,
            "command": format!("echo >> {}", path(name).display())
        })
    };
    let configuration = json!({ "rules": [rule("game", "27015/udp", "1h"), rule("end", "4000/udp", "1ms")] });
    let daemon = Daemon::start(&network.server, configuration.clone());
    let wire = wire(&network);
    send_datagrams(&wire, source(1), 1000..1400, 27_015);
    send_datagrams(&wire, source(1), 1000..1001, 4000);
    wait_until("the last datagram is judged", || lines(&path("end")) == 1);
    let mark = daemon.log_mark();
    daemon.reload(configuration);
    daemon.wait_for_log_after(mark, "reloaded: rules");
    send_datagrams(&wire, source(1), 1400..1800, 27_015);
    send_datagrams(&wire, source(2), 1000..1001, 27_015);
    wait_until("another source is not in the cooldown", || lines(&path("game")) == 2);
    let counters = &daemon.control_status()["counters"];
    assert_eq!((&counters["in_cooldown"], &counters["commands_started"]), (&json!(799), &json!(3)));
}

#[test]
fn a_flood_at_a_rule_with_a_slow_command_is_over_soon_after_the_traffic() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let path = |name: &str| files.path().join(name);
    let line = |name: &str| {
        let (wait, log) = (path("gate"), path(name));
        format!("echo >> {}; until test -e {}; do sleep 0.05; done", log.display(), wait.display())
    };
    let rule = |name: &str, port: &str| json!({ "name": name, "sequence": [port], "command": line(name) });
    let configuration = json!({ "rules": [rule("game", "27015/udp"), rule("end", "4000/udp")] });
    let daemon = Daemon::start(&network.server, configuration);
    let wire = wire(&network);
    send_datagrams(&wire, source(1), 999..1000, 27_015);
    wait_until("the command runs", || lines(&path("game")) == 1);
    send_datagrams(&wire, source(1), 1000..1400, 27_015);
    send_datagrams(&wire, source(1), 1000..1001, 4000);
    wait_until("the last datagram is judged", || lines(&path("end")) == 1);
    let commands = |name: &str| daemon.control_status()[name].clone();
    assert_eq!((commands("commands_queued"), lines(&path("game"))), (json!(1), 1), "one runs and one waits");
    fs::write(path("gate"), "").expect("the gate");
    wait_until("the commands are over", || commands("commands_running") == 0 && commands("commands_queued") == 0);
    assert_eq!(lines(&path("game")), 2);
    assert_eq!(daemon.control_status()["counters"]["commands_merged"], 399);
}

/// The bytes that the runner and the commands that have ended gave to write(2) so far (proc_pid_io(5)).
fn written(daemon: &Daemon) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", daemon.runner().expect("a runner"))).expect("a running runner");
    let count = io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok());
    count.unwrap_or_else(|| panic!("{io} has no wchar"))
}

#[test]
fn a_flood_of_knocks_at_a_stop_rule_does_not_write_the_schedule_again_and_again() {
    const KNOCKS: u32 = 1000;
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let path = |name: &str| files.path().join(name);
    let rule = |name: &str, ports: [u16; 2]| {
        json!({
            "name": name, "sequence": ports, "stop_after": "1h", "stop_on_shutdown": "keep",
            "command": format!("echo >> {}", path(name).display()), "stop_command": "true"
        })
    };
    let configuration = json!({
        "rules": [rule("door", [1000, 2000]), rule("fence", [3000, 4000])],
        "limits": { "command_queue": 65_536 },
        "log": { "target": "stderr", "level": "info" }
    });
    let daemon = Daemon::start(&network.server, configuration);
    let wire = wire(&network);
    let before = written(&daemon);
    knock_from(&wire, KNOCKS, &[1000, 2000], &path("door"));
    let for_new_ones = written(&daemon) - before;
    assert!(for_new_ones < 1 << 20, "{for_new_ones} bytes for {KNOCKS} stop commands");

    // From now on each is pending already, and is only put off.
    for number in 0..KNOCKS {
        (0..5).for_each(|_| knock(&wire, source(number), &[1000, 2000]));
    }
    knock_from(&wire, 1, &[3000, 4000], &path("fence"));
    wait_until("the last knock is judged", || lines(&path("fence")) == 1);
    let in_all = written(&daemon) - before;
    assert!(in_all < 3 << 20, "{in_all} bytes");
    assert_eq!(lines(&path("door")), KNOCKS, "each was opened once");
    let state = fs::metadata(daemon.path("state/stops.json")).expect("what is pending is on disk").len();
    assert!(state < 1 << 20, "{state} bytes");
}
