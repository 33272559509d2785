//! Files that others can change decide nothing: the configuration, what it names, and what is left in the state directory.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Daemon, knock, network, wait_for_grant, wire};

/// An ordinary user.
const SOMEBODY: u32 = 1000;

fn rules() -> Value {
    json!({ "rules": [{ "name": "ssh", "sequence": [7000, 9000, 8000], "allow": { "ports": [22], "timeout": "1h" } }] })
}

/// A directory of ours with a configuration in it.
fn files() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.json");
    fs::write(&file, rules().to_string()).expect("a file");
    mode(&file, 0o600);
    (directory, file)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(path).status().expect("mkfifo runs").success());
}

/// What knockd says of that file; it ends by itself.
fn knockd(file: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_knockd"), "-c"]).arg(file).args(arguments);
    command.output().expect("timeout runs")
}

/// A check and a start refuse it, and say these words.
#[track_caller]
fn assert_refused(file: &Path, words: &[&str]) {
    for arguments in [&["--check"][..], &[]] {
        let output = knockd(file, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "`{word}` is missing: {said}");
        }
    }
}

#[test]
fn a_configuration_that_others_can_change_is_refused() {
    let (directory, file) = files();
    let name = file.to_str().expect("text");
    let parent = directory.path().to_str().expect("text");
    assert_eq!(knockd(&file, &["-t"]).status.code(), Some(0), "it is fine as it is");
    mode(&file, 0o660);
    assert_refused(&file, &[name, "its group can write", "mode 0660", &format!("chmod go-w {name}")]);
    mode(&file, 0o602);
    assert_refused(&file, &[name, "everybody can write", "mode 0602", &format!("chmod go-w {name}")]);
    mode(&file, 0o600);
    mode(directory.path(), 0o770);
    assert_refused(&file, &[name, "its group can write", &format!("chmod go-w {parent}")]);
    mode(directory.path(), 0o700);

    let (elsewhere, _) = files();
    let link = elsewhere.path().join("link");
    symlink(&file, &link).expect("a link");
    assert_eq!(knockd(&link, &["-t"]).status.code(), Some(0), "a link to a file that is fine");
    mode(&file, 0o620);
    assert_refused(&link, &[&format!("chmod go-w {name}")]);
}

#[test]
fn a_configuration_of_another_user_is_refused() {
    let (directory, file) = files();
    let give = |path: &Path, owner| {
        chown(path, Some(owner), None).unwrap_or_else(|error| {
            panic!("cannot give it to uid {owner}: {error}; this test needs root, not a namespace")
        });
    };
    give(&file, SOMEBODY);
    assert_refused(&file, &["belongs to uid 1000", &format!("chown root {}", file.display())]);
    give(&file, 0);
    give(directory.path(), SOMEBODY);
    assert_refused(&file, &["belongs to uid 1000", &format!("chown root {}", directory.path().display())]);
}

#[test]
fn a_path_that_is_not_a_file_is_refused_at_once() {
    let (directory, file) = files();
    assert_refused(directory.path(), &["is a directory"]);
    assert_refused(Path::new("/dev/zero"), &["is a device"]);
    fs::remove_file(&file).expect("removed");
    fifo(&file);
    assert_refused(&file, &["is a FIFO"]);
}

#[test]
fn a_list_of_one_time_sequences_that_others_can_change_is_refused() {
    let (directory, file) = files();
    let list = directory.path().join("list");
    fs::write(&list, " 1000,2000\n").expect("a file");
    mode(&list, 0o660);
    let rule = json!({ "name": "once", "one_time_sequences": list, "command": "true" });
    fs::write(&file, json!({ "rules": [rule] }).to_string()).expect("a file");
    assert_refused(&file, &[&format!("chmod go-w {}", list.display())]);
    fs::remove_file(&list).expect("removed");
    fifo(&list);
    assert_refused(&file, &["list", "is a FIFO"]);
}

#[test]
fn a_state_directory_that_others_can_write_to_runs_nothing() {
    let network = network(1);
    let rule = json!({
        "name": "ssh", "sequence": [7000, 9000, 8000],
        "command": "true", "stop_command": "true", "stop_after": "1h"
    });
    let mut daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
    let state = daemon.path("state");
    knock(&wire(&network), IpAddr::from([198, 18, 0, 1]), &[7000, 9000, 8000]);
    daemon.wait_for_log("succeeded");
    assert!(daemon.stop().success());
    let directory = daemon.take_directory();
    let file = directory.path().join("config.json");
    let name = state.to_str().expect("text");
    mode(&state, 0o770);
    assert_refused(&file, &[name, "its group can write", &format!("chmod go-w {name}")]);
    mode(&state, 0o1777);
    assert_refused(&file, &[name, "its group and everybody can write"]);
    mode(&state, 0o700);
    let planted = state.join("stops.json");
    fs::write(&planted, "{}").expect("a file");
    mode(&planted, 0o666);
    assert_refused(&file, &["stops.json", "its group and everybody can write"]);
    fs::remove_file(&planted).expect("removed");
    symlink("/etc/passwd", &planted).expect("a link");
    assert_refused(&file, &["stops.json", "is a symbolic link"]);
}

#[test]
fn a_reload_refuses_files_that_others_can_change_and_the_old_configuration_stays_in_force() {
    let network = network(1);
    let mut daemon = Daemon::start(&network.server, rules());
    let file = daemon.path("config.json");
    let reload = |words: &str| {
        let mark = daemon.log_mark();
        daemon.signal(Signal::HUP);
        let told = daemon.wait_for_log_after(mark, "reloaded");
        assert!(told.contains("not reloaded: ") && told.contains(words), "{told}");
    };
    mode(&file, 0o620);
    reload(&format!("chmod go-w {}", file.display()));
    mode(&file, 0o600);
    mode(daemon.directory(), 0o720);
    reload(&format!("chmod go-w {}", daemon.directory().display()));
    mode(daemon.directory(), 0o700);
    fs::remove_file(&file).expect("removed");
    fifo(&file);
    reload("is a FIFO");
    assert!(daemon.is_running());
    let client = IpAddr::from(network.client().v4);
    knock(&wire(&network), client, &[7000, 9000, 8000]);
    wait_for_grant(&network.server, client, ("tcp", 22));
}

#[test]
fn a_daemon_in_a_user_namespace_trusts_the_directories_outside_it() {
    // There, what belongs to the host's root seems to be nobody's: / and /tmp.
    let (_directory, file) = files();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "timeout", "20", env!("CARGO_BIN_EXE_knockd"), "-t", "-c"]).arg(&file);
    let output = command.output().expect("unshare runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
