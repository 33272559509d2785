//! A flood of knocks at rules with commands: what it may cost.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Instant;

use knock_testkit::Wire;
use serde_json::json;

use crate::support::{Daemon, knock, network, wait_until, wire};

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
fn a_flood_of_knocks_fills_no_log_and_what_is_left_out_is_counted() {
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
    let most = 200 + 20 * seconds;
    assert!(about_knocks as u64 <= most, "{about_knocks} lines in {seconds} s");
    let left_out = |line: &str| line.split_once(" lines came too fast")?.0.rsplit(' ').next()?.parse::<usize>().ok();
    let left_out: usize = log.lines().filter_map(left_out).sum();
    assert_eq!(about_knocks + left_out, 5 * KNOCKS as usize, "what is not in the log is counted");
}
