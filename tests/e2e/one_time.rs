//! One-time sequences: each opens once, ever, whatever happens to the file and to the daemon.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Daemon, Options, check, knock, network, wait_until, wire};

/// A file of sequences, and the file that the rule's command writes to.
struct Files(TempDir);

impl Files {
    fn new(sequences: &str) -> Files {
        let files = Files(tempfile::tempdir().expect("a directory"));
        files.write(sequences);
        files
    }

    fn sequences(&self) -> PathBuf {
        self.0.path().join("sequences")
    }

    fn write(&self, sequences: &str) {
        fs::write(self.sequences(), sequences).expect("the file of sequences");
        fs::set_permissions(self.sequences(), fs::Permissions::from_mode(0o600)).expect("its mode");
    }

    fn text(&self) -> String {
        fs::read_to_string(self.sequences()).expect("the file of sequences")
    }

    fn opened(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.path().join("opened")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The rule, whose command notes who knocked and how many lines of the file are marked by then, and another rule.
    fn configuration(&self) -> Value {
        let (opened, sequences) = (self.0.path().join("opened"), self.sequences());
        let command = format!("echo once %IP% $(grep -c '^#' {}) >> {}", sequences.display(), opened.display());
        let plain = format!("echo plain %IP% >> {}", opened.display());
        json!({ "rules": [
            { "name": "once", "one_time_sequences": sequences, "command": command },
            { "name": "plain", "sequence": [100, 200], "command": plain }
        ] })
    }
}

fn client(number: u8) -> IpAddr {
    [198, 18, 0, number].into()
}

#[test]
fn each_sequence_opens_once_and_is_marked_before_anything_opens() {
    let network = network(1);
    let files = Files::new("# for emergencies\n 1000,2000\n 3000 4000\n");
    let _daemon = Daemon::start(&network.server, files.configuration());
    let wire = wire(&network);
    knock(&wire, client(1), &[3000, 4000]);
    knock(&wire, client(1), &[1000, 2000]);
    wait_until("the first opens", || files.opened() == ["once 198.18.0.1 2"]);
    assert_eq!(files.text(), "# for emergencies\n#1000,2000\n 3000 4000\n");
    knock(&wire, client(1), &[1000, 2000]);
    knock(&wire, client(2), &[1000, 2000]);
    knock(&wire, client(2), &[3000, 4000]);
    wait_until("the second opens", || files.opened().len() == 2);
    assert_eq!(files.opened()[1], "once 198.18.0.2 3");
}

#[test]
fn when_all_are_used_the_rule_is_silent_and_everything_else_goes_on() {
    let network = network(1);
    let files = Files::new(" 1000,2000\n");
    let mut daemon = Daemon::start(&network.server, files.configuration());
    let wire = wire(&network);
    knock(&wire, client(1), &[1000, 2000]);
    daemon.wait_for_log("all one-time sequences are used");
    knock(&wire, client(2), &[1000, 2000]);
    knock(&wire, client(2), &[100, 200]);
    wait_until("the other rule opens", || files.opened().contains(&"plain 198.18.0.2".to_owned()));
    wait_until("both have opened", || files.opened().len() == 2);
    assert!(daemon.is_running());

    // New lines and a reload bring it back.
    files.write("#1000,2000\n 5000,6000\n");
    let mark = daemon.log_mark();
    daemon.reload(files.configuration());
    daemon.wait_for_log_after(mark, "reloaded");
    knock(&wire, client(3), &[1000, 2000]);
    knock(&wire, client(3), &[5000, 6000]);
    wait_until("the new one opens", || files.opened().len() == 3);
    assert_eq!(files.opened()[2], "once 198.18.0.3 2");
    assert!(daemon.stop().success());
}

#[test]
fn a_longer_next_line_is_not_begun_by_the_knock_that_used_the_one_before() {
    let network = network(1);
    let files = Files::new(" 1000,2000\n 1000,2000,3000\n 1000,2000,3000,5000\n");
    let _daemon = Daemon::start(&network.server, files.configuration());
    let wire = wire(&network);
    knock(&wire, client(1), &[1000, 2000, 3000, 5000]);
    knock(&wire, client(1), &[100, 200]);
    wait_until("all has been seen", || files.opened().contains(&"plain 198.18.0.1".to_owned()));
    wait_until("the first opened", || files.opened().contains(&"once 198.18.0.1 1".to_owned()));
    assert_eq!(files.text(), "#1000,2000\n 1000,2000,3000\n 1000,2000,3000,5000\n");
    knock(&wire, client(1), &[1000, 2000, 3000]);
    wait_until("the second opens by itself", || files.opened().contains(&"once 198.18.0.1 2".to_owned()));
}

#[test]
fn an_invalid_line_stops_the_start_with_its_place_and_status_78() {
    let network = network(1);
    for (line, says) in [("7000-7010,8000", "7000-7010"), ("70000,1", "70000"), ("1000,,2000", "comma"), ("abc", "abc")]
    {
        let files = Files::new(&format!(" 1000,2000\n {line}\n"));
        for arguments in [&[][..], &["-t"]] {
            let options = Options { arguments, ..Options::default() };
            let said = check(&network.server, &files.configuration().to_string(), options);
            assert_eq!(said.code, Some(78), "{line}: {said:?}");
            let place = format!("{}:2: ", files.sequences().display());
            assert!(said.stderr.contains(&place) && said.stderr.contains(says), "{line}: {}", said.stderr);
        }
        assert_eq!(files.text(), format!(" 1000,2000\n {line}\n"), "a check changes nothing");
    }
}

#[test]
fn an_invalid_line_that_comes_later_is_skipped_and_no_used_sequence_opens_again() {
    let network = network(1);
    let files = Files::new(" 1000,2000\n 3000,4000\n 5000,6000\n");
    let daemon = Daemon::start(&network.server, files.configuration());
    let wire = wire(&network);
    files.write(" 1000,2000\n 3000,nonsense\n 5000,6000\n");
    knock(&wire, client(1), &[1000, 2000]);
    daemon.wait_for_log("sequences:2: the line is skipped");
    wait_until("the first opens", || files.opened().len() == 1);
    knock(&wire, client(2), &[1000, 2000]);
    knock(&wire, client(2), &[3000, 4000]);
    knock(&wire, client(2), &[5000, 6000]);
    wait_until("the third opens", || files.opened().len() == 2);
    assert_eq!(files.text(), "#1000,2000\n 3000,nonsense\n#5000,6000\n");

    // A reload is strict: it refuses the file and goes on as before.
    let mark = daemon.log_mark();
    daemon.reload(files.configuration());
    daemon.wait_for_log_after(mark, "not reloaded");
    knock(&wire, client(3), &[1000, 2000]);
    knock(&wire, client(3), &[100, 200]);
    wait_until("the other rule opens", || files.opened().contains(&"plain 198.18.0.3".to_owned()));
    assert_eq!(files.opened().len(), 3);
}

#[test]
fn the_next_sequence_is_heard_over_ipv6_too() {
    let network = network(1);
    let files = Files::new(" 1000,2000\n 3000,4000/udp,5000\n 6000,7000\n");
    let daemon = Daemon::start(&network.server, files.configuration());
    let wire = wire(&network);
    let source = IpAddr::from(network.client().v6);
    knock(&wire, source, &[1000, 2000]);
    wait_until("the first opens", || files.opened() == ["once fd77::2 1"]);
    let mut packets = crate::support::syns(source, &[3000, 4000, 5000]);
    packets[1] = knock_testkit::Packet::udp((source, 40_000).into(), crate::support::at6(4000));
    wire.send_all(&packets).expect("the knock is sent");
    wait_until("the second opens", || files.opened().len() == 2);
    knock(&wire, source, &[6000, 7000]);
    daemon.wait_for_log("all one-time sequences are used");
    wait_until("the third opens", || files.opened().len() == 3);
}

#[test]
fn a_reload_or_a_crash_goes_on_with_the_first_unused_line() {
    let network = network(1);
    let files = Files::new(" 1000,2000\n 3000,4000\n 5000,6000\n");
    let daemon = Daemon::start(&network.server, files.configuration());
    let wire = wire(&network);
    knock(&wire, client(1), &[1000, 2000]);
    wait_until("the first opens", || files.opened().len() == 1);
    let mark = daemon.log_mark();
    daemon.reload(files.configuration());
    daemon.wait_for_log_after(mark, "reloaded");
    knock(&wire, client(2), &[1000, 2000]);
    knock(&wire, client(2), &[3000, 4000]);
    wait_until("the second opens", || files.opened().len() == 2);
    let daemon = Daemon::start_again(&network.server, daemon.kill());
    for used in [[1000, 2000], [3000, 4000]] {
        knock(&wire, client(3), &used);
    }
    knock(&wire, client(3), &[5000, 6000]);
    daemon.wait_for_log("all one-time sequences are used");
    wait_until("the third opens", || files.opened().len() == 3);
    assert_eq!(files.text(), "#1000,2000\n#3000,4000\n#5000,6000\n");
}

#[test]
fn where_the_use_cannot_be_noted_nothing_opens() {
    let network = network(1);
    let files = Files::new(" 1000,2000\n 3000,4000\n");
    let daemon = Daemon::start(&network.server, files.configuration());
    let wire = wire(&network);
    fs::rename(files.sequences(), files.0.path().join("away")).expect("the file is moved away");
    knock(&wire, client(1), &[1000, 2000]);
    let line = daemon.wait_for_log("rule once: nothing is opened");
    assert!(line.contains("sequences"), "{line}");
    knock(&wire, client(1), &[100, 200]);
    wait_until("the other rule opens", || files.opened().len() == 1);
    assert_eq!(files.opened(), ["plain 198.18.0.1"]);
    fs::rename(files.0.path().join("away"), files.sequences()).expect("the file is back");
    knock(&wire, client(1), &[1000, 2000]);
    wait_until("it opens then", || files.opened().len() == 2);
}
