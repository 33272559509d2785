//! The wall clock, which others set: no knock and no grant goes by it.
//!
//! The host's clock cannot be stepped for the sake of a test, and no namespace has one of its own. libfaketime
//! (`faketime(1)`) steps it for one process and its children.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use knock_testkit::Wire;
use serde_json::json;

use crate::support::{Daemon, Options, element, knock, network, wait_for_grant, wait_until, wire};

/// The library, which Debian has in a directory of the architecture's.
pub(crate) fn faketime() -> PathBuf {
    let directories = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let libraries = directories.map(|directory| directory.path().join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|library| library.exists()).expect("libfaketime (package libfaketime) is installed")
}

/// Sets the wall clock of the daemon under test that many seconds off.
pub(crate) fn step(file: &Path, seconds: i64) {
    fs::write(file, format!("{seconds:+}\n")).expect("the offset is written");
}

/// Waits until the daemon's wall clock is that many seconds off, as what it keeps for after a reboot says: the stop
/// command that is due in an hour. Nothing else of what it does goes by that clock.
fn wait_for_step(daemon: &Daemon, wire: &Wire, source: IpAddr, seconds: i64) {
    knock(wire, source, &[7200, 9200, 8200]);
    wait_until("the daemon sees the wall clock stepped", || {
        let now = i64::try_from(UNIX_EPOCH.elapsed().expect("after 1970").as_millis()).expect("a time");
        let due = now + (3600 + seconds) * 1000;
        let files = fs::read_dir(daemon.path("state")).expect("the state directory").flatten();
        let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
        texts.any(|text| {
            let mut noted = text.split("\"due_unix_ms\":").skip(1);
            noted.any(|rest| {
                let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
                digits.parse::<i64>().is_ok_and(|noted| (noted - due).abs() < 60_000)
            })
        })
    });
}

#[test]
fn an_hour_either_way_in_the_middle_of_a_knock_and_of_a_grant_changes_nothing() {
    let network = network(1);
    let server = &network.server;
    let files = tempfile::tempdir().expect("a directory for the offset");
    let offset = files.path().join("offset");
    step(&offset, 0);
    let (library, offset_name) = (faketime(), offset.to_str().expect("a path in UTF-8"));
    let environment = [
        ("LD_PRELOAD", library.to_str().expect("a path in UTF-8")),
        ("FAKETIME_TIMESTAMP_FILE", offset_name),
        ("FAKETIME_NO_CACHE", "1"),
        // Only the wall clock: no administrator steps the others.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let configuration = json!({ "rules": [
        { "name": "long", "sequence": [7000, 9000, 8000], "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "short", "sequence": [7100, 9100, 8100], "timeout": "700ms",
          "allow": { "ports": [80], "timeout": "4s" } },
        { "name": "time", "sequence": [7200, 9200, 8200],
          "command": "true", "stop_command": "true", "stop_after": "1h" }
    ] });
    let options = Options { environment: &environment, ..Options::default() };
    let daemon = Daemon::start_with(server, configuration, options);
    let wire = wire(&network);
    let client = IpAddr::from(network.client().v4);

    for (number, seconds) in (1_u8..).zip([3600, -3600]) {
        for seconds in [0, seconds, 0] {
            step(&offset, seconds);
            wait_for_step(&daemon, &wire, client, seconds);
        }

        // In the middle of a knock: it opens, and does so for its whole time.
        let other = IpAddr::from([198, 18, 0, number]);
        knock(&wire, other, &[7000, 9000]);
        step(&offset, seconds);
        knock(&wire, other, &[8000]);
        let granted = wait_for_grant(server, other, ("tcp", 22));
        assert!(granted.expires.is_some_and(|left| left > Duration::from_secs(3590)), "{granted:?}");

        // In the middle of a knock that takes too long, it does not become quick enough.
        step(&offset, 0);
        knock(&wire, other, &[7100, 9100]);
        step(&offset, seconds);
        thread::sleep(Duration::from_millis(900));
        knock(&wire, other, &[8100]);

        // In the middle of a grant: it ends in its time, in the kernel and in the record.
        step(&offset, 0);
        let mark = daemon.log_mark();
        let start = Instant::now();
        knock(&wire, client, &[7100, 9100, 8100]);
        wait_for_grant(server, client, ("tcp", 80));
        assert_eq!(element(server, other, ("tcp", 80)), None, "the slow one did not open");
        step(&offset, seconds);
        wait_until("the grant is over", || element(server, client, ("tcp", 80)).is_none());
        let over = start.elapsed();
        daemon.wait_for_log_after(mark, &format!("the grant to {client} has ended"));
        assert!(over > Duration::from_millis(3500), "{over:?}: not before its time");
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}: nor long after", start.elapsed());
        assert!(element(server, other, ("tcp", 22)).is_some(), "the long one goes on");
    }
}
