//! What a mistake in the configuration leads to: neither is its owner locked out, nor are the guarded ports open.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use knock_testkit::{Echo, Host, Network, Reach};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::doctor::knockctl;
use crate::support::{
    Client, Daemon, Options, at4, knock, network, start_fails, table_exists, wait_for_grant, wait_until, wire,
};

fn configuration(sequence: [u16; 3], port: u16) -> Value {
    json!({ "rules": [{ "name": "ssh", "sequence": sequence, "allow": { "ports": [port], "timeout": "1h" } }] })
}

const OLD: [u16; 3] = [7000, 9000, 8000];
const NEW: [u16; 3] = [17000, 19000, 18000];

struct Server {
    network: Network,
    _service: Echo,
}

impl Server {
    fn new() -> Server {
        let network = network(1);
        let service = Echo::tcp(&network.server.namespace, 22).expect("an echo service");
        Server { network, _service: service }
    }

    fn host(&self) -> &Host {
        &self.network.server
    }

    fn client(&self) -> IpAddr {
        self.network.client().v4.into()
    }

    #[track_caller]
    fn is_closed(&self) {
        assert_eq!(self.network.client().tcp(at4(22)), Reach::Filtered);
    }

    /// The client knocks, is let in, and out again.
    #[track_caller]
    fn opens(&self, daemon: &Daemon, sequence: [u16; 3]) {
        knock(&wire(&self.network), self.client(), &sequence);
        wait_for_grant(self.host(), self.client(), ("tcp", 22));
        assert_eq!(self.network.client().tcp(at4(22)), Reach::Open);
        assert!(knockctl(self.host(), daemon, &["revoke", "--all"]).status.success());
        self.is_closed();
    }

    fn status(&self, daemon: &Daemon) -> Value {
        serde_json::from_slice(&knockctl(self.host(), daemon, &["--json", "status"]).stdout).expect("JSON")
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("written");
    fs::write(&new, text).expect("written");
    fs::rename(&new, path).expect("renamed");
}

/// A mistake that keeps the file from being used.
struct Mistake {
    what: &'static str,
    make: fn(&Path),
    /// In the message.
    says: &'static str,
}

fn changed(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut configuration: Value = serde_json::from_slice(&fs::read(file).expect("readable")).expect("JSON");
    change(&mut configuration);
    write(file, &configuration.to_string());
}

const MISTAKES: [Mistake; 5] = [
    Mistake {
        what: "a comma too many",
        make: |file| write(file, &fs::read_to_string(file).expect("readable").replace("8000]", "8000,]")),
        says: "comma",
    },
    Mistake {
        what: "a key that does not exist",
        make: |file| changed(file, |configuration| configuration["interfaces"] = json!("any")),
        says: "unknown key",
    },
    Mistake {
        what: "a file of one-time sequences that does not exist",
        make: |file| {
            changed(file, |configuration| {
                let allow = json!({ "ports": [22], "timeout": 60 });
                let rule = json!({ "name": "emergency", "one_time_sequences": "/nonexistent", "allow": allow });
                configuration["rules"].as_array_mut().expect("rules").push(rule);
            });
        },
        says: "/nonexistent",
    },
    Mistake {
        what: "a file that everybody can write",
        make: |file| fs::set_permissions(file, Permissions::from_mode(0o666)).expect("our file"),
        says: "not trusted",
    },
    Mistake { what: "no file", make: |file| fs::remove_file(file).expect("removed"), says: "cannot read" },
];

#[test]
fn a_restart_with_a_file_that_is_not_valid_uses_the_last_valid_configuration_and_says_so() {
    for Mistake { what, make, says } in MISTAKES {
        for signal in [Signal::TERM, Signal::USR1, Signal::KILL] {
            let server = Server::new();
            let mut daemon = Daemon::start(server.host(), configuration(OLD, 22));
            daemon.signal(signal);
            daemon.wait();
            let directory = daemon.take_directory();
            let file = directory.path().join("config.json");
            make(&file);
            // The service manager names the state directory where the file cannot.
            let state = directory.path().join("state");
            let environment = [("STATE_DIRECTORY", state.to_str().expect("UTF-8"))];
            let daemon =
                Daemon::start_in(server.host(), directory, Options { environment: &environment, ..Options::default() });
            server.is_closed();
            server.opens(&daemon, OLD);
            let log = daemon.log();
            assert!(log.contains(says) && log.contains("last valid configuration"), "{what}: {log}");
            let status = server.status(&daemon);
            let problem = status["configuration_problem"].as_str().unwrap_or_default();
            assert!(problem.contains(says), "{what}: {status}");
            let doctor = knockctl(server.host(), &daemon, &["doctor"]);
            let text = String::from_utf8_lossy(&doctor.stdout);
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.contains("PROBLEM configuration:") && text.contains(says), "{what}: {text}");
            assert!(!doctor.status.success());

            // Once it is right, a reload is enough.
            let mark = daemon.log_mark();
            let _ = fs::remove_file(&file);
            daemon.reload(configuration(NEW, 22));
            daemon.wait_for_log_after(mark, "reloaded: rules");
            assert_eq!(server.status(&daemon)["configuration_problem"], Value::Null);
            server.opens(&daemon, NEW);
        }
    }
}

#[test]
fn the_state_directory_of_a_file_that_is_not_valid_json_is_found() {
    let server = Server::new();
    let mut daemon = Daemon::start(server.host(), configuration(OLD, 22));
    daemon.stop();
    let directory = daemon.take_directory();
    let file = directory.path().join("config.json");
    let text = fs::read_to_string(&file).expect("readable");
    write(&file, &text.replacen('[', "[,", 1));
    let daemon = Daemon::start_in(server.host(), directory, Options::default());
    server.opens(&daemon, OLD);
}

#[test]
fn with_no_valid_configuration_at_all_it_does_not_start_and_what_stands_stays() {
    let server = Server::new();
    let mut configuration = configuration(OLD, 22);
    configuration["nftables"] = json!({ "on_stop": "keep" });
    let mut daemon = Daemon::start(server.host(), configuration);
    daemon.stop();
    let directory = daemon.take_directory();
    let state = directory.path().join("state");
    let last_valid = fs::read_dir(&state).expect("a state directory").flatten().map(|entry| entry.path());
    let last_valid = last_valid.filter(|path| path.to_string_lossy().contains("last-valid")).collect::<Vec<_>>();
    let file = directory.path().join("config.json");
    let text = fs::read_to_string(&file).expect("readable");
    write(&file, &text.replacen('[', "[,", 1));
    assert_eq!(last_valid.len(), 1, "{last_valid:?}");
    for text in [Some("{ \"rules\": 1 }"), None] {
        match text {
            Some(text) => write(&last_valid[0], text),
            None => fs::remove_file(&last_valid[0]).expect("removed"),
        }
        let said = start_fails(server.host(), &directory, Options::default());
        assert_eq!(said.code, Some(78), "{said:?}");
        assert!(table_exists(server.host(), "knockd"));
        server.is_closed();
    }
}

#[test]
fn a_tried_configuration_is_in_force_until_its_time_is_over() {
    let server = Server::new();
    let daemon = Daemon::start(server.host(), configuration(OLD, 22));
    let new = daemon.path("new.json");
    write(&new, &with_places(&daemon, configuration(NEW, 22)));
    let mark = daemon.log_mark();
    let said = knockctl(server.host(), &daemon, &["try", new.to_str().expect("UTF-8"), "--for", "3s"]);
    assert!(said.status.success(), "{}", stderr(&said));
    assert!(String::from_utf8_lossy(&said.stdout).contains("is in force for 3s"), "{said:?}");
    let remaining = server.status(&daemon)["trial"]["remaining_seconds"].as_f64().expect("a trial");
    assert!(remaining <= 3.0);
    daemon.wait_for_log_after(mark, "was not confirmed in time");
    assert_eq!(server.status(&daemon)["trial"], Value::Null);
    assert_eq!(server.status(&daemon)["configuration_problem"], Value::Null, "its file was never another one");
    server.opens(&daemon, OLD);
    let said = knockctl(server.host(), &daemon, &["confirm"]);
    assert!(!said.status.success() && stderr(&said).contains("knockctl try FILE"), "{said:?}");
}

#[test]
fn a_confirmed_configuration_is_written_to_the_file_and_survives_a_restart() {
    let server = Server::new();
    let daemon = Daemon::start(server.host(), configuration(OLD, 22));
    let new = daemon.path("new.json");
    let text = with_places(&daemon, configuration(NEW, 22));
    write(&new, &text);
    let attempt = knockctl(server.host(), &daemon, &["try", new.to_str().expect("UTF-8")]);
    assert!(attempt.status.success(), "{}", stderr(&attempt));
    server.opens(&daemon, NEW);
    // A second trial within the first goes back to what was in force before both; this one is confirmed.
    assert!(knockctl(server.host(), &daemon, &["try", new.to_str().expect("UTF-8")]).status.success());
    let said = knockctl(server.host(), &daemon, &["confirm"]);
    assert!(said.status.success(), "{}", stderr(&said));
    assert_eq!(fs::read_to_string(daemon.path("config.json")).expect("readable"), text);
    assert!(fs::read_to_string(daemon.path("config.json~")).expect("kept").contains("7000"));
    assert_eq!(server.status(&daemon)["trial"], Value::Null);
    let daemon = Daemon::start_again(server.host(), daemon.kill());
    server.opens(&daemon, NEW);
}

#[test]
fn a_restart_in_a_trial_goes_back_also_where_the_file_itself_was_tried() {
    for in_place in [false, true] {
        for signal in [Signal::KILL, Signal::USR1] {
            let server = Server::new();
            let mut daemon = Daemon::start(server.host(), configuration(OLD, 22));
            let file = daemon.path(if in_place { "config.json" } else { "new.json" });
            write(&file, &with_places(&daemon, configuration(NEW, 22)));
            let attempt = knockctl(server.host(), &daemon, &["try", file.to_str().expect("UTF-8")]);
            assert!(attempt.status.success(), "{}", stderr(&attempt));
            server.opens(&daemon, NEW);
            daemon.signal(signal);
            daemon.wait();
            let daemon = Daemon::start_again(server.host(), daemon.take_directory());
            server.opens(&daemon, OLD);
            let problem = server.status(&daemon)["configuration_problem"].clone();
            assert_eq!(problem.is_string(), in_place, "{problem}");
            // Once more: the mark that it was not confirmed stays.
            let daemon = Daemon::start_again(server.host(), daemon.kill());
            server.opens(&daemon, OLD);
            if in_place {
                // Who reloads it wants it.
                let mark = daemon.log_mark();
                daemon.signal(Signal::HUP);
                daemon.wait_for_log_after(mark, "reloaded: rules");
                let daemon = Daemon::start_again(server.host(), daemon.kill());
                server.opens(&daemon, NEW);
            }
        }
    }
}

#[test]
fn a_trial_of_the_file_itself_that_is_not_confirmed_leaves_a_problem_to_see() {
    let server = Server::new();
    let daemon = Daemon::start(server.host(), configuration(OLD, 22));
    let file = daemon.path("config.json");
    write(&file, &with_places(&daemon, configuration(NEW, 22)));
    let mark = daemon.log_mark();
    let attempt = knockctl(server.host(), &daemon, &["try", file.to_str().expect("UTF-8"), "--for", "1"]);
    assert!(attempt.status.success(), "{}", stderr(&attempt));
    daemon.wait_for_log_after(mark, "was not confirmed in time");
    let problem = server.status(&daemon)["configuration_problem"].as_str().unwrap_or_default().to_owned();
    assert!(problem.contains("not confirmed"), "{problem}");
    server.opens(&daemon, OLD);
}

#[test]
fn a_configuration_that_cannot_be_used_is_not_tried() {
    let server = Server::new();
    let daemon = Daemon::start(server.host(), configuration(OLD, 22));
    let file = daemon.path("new.json");
    for (text, status, says) in [
        ("{ \"rules\": [,] }".to_owned(), 78, "new.json:1:13"),
        (
            with_places(&daemon, json!({ "rules": [{ "name": "x", "sequence": [1, 7, 4], "command": "true" }] })),
            1,
            "restart",
        ),
    ] {
        write(&file, &text);
        let said = knockctl(server.host(), &daemon, &["try", file.to_str().expect("UTF-8")]);
        assert_eq!(said.status.code(), Some(status), "{said:?}");
        assert!(stderr(&said).contains(says), "{said:?}");
        assert_eq!(server.status(&daemon)["trial"], Value::Null);
        assert_eq!(server.status(&daemon)["configuration_problem"], Value::Null);
        server.opens(&daemon, OLD);
    }
}

#[test]
fn the_first_rules_of_all_can_be_tried() {
    let server = Server::new();
    let daemon = Daemon::start(server.host(), json!({ "rules": [] }));
    let file = daemon.path("new.json");
    write(&file, &with_places(&daemon, configuration(NEW, 22)));
    for arguments in [&["--for", "10m"][..], &["--for", "1"]] {
        let attempt = [&["try", file.to_str().expect("UTF-8")], arguments].concat();
        let attempt = knockctl(server.host(), &daemon, &attempt);
        assert!(attempt.status.success(), "{}", stderr(&attempt));
        if arguments[1] == "10m" {
            server.opens(&daemon, NEW);
        }
    }
    wait_until("nothing is guarded again", || server.network.client().tcp(at4(22)) == Reach::Open);
    assert!(!table_exists(server.host(), "knockd"));
}

/// The text of a configuration with the paths that a daemon of a test uses.
fn with_places(daemon: &Daemon, mut configuration: Value) -> String {
    for (key, name) in [("state_dir", "state"), ("control_socket", "control.sock")] {
        configuration[key] = json!(daemon.path(name));
    }
    configuration.to_string()
}
