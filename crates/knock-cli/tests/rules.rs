//! The user's file: where it is, what it says, and how rules come into it.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use support::*;

/// A file with one rule of that name.
fn file(name: &str) -> String {
    json!({ "rules": [{ "name": name, "host": "127.0.0.1", "sequence": [closed_port()] }] }).to_string()
}

#[test]
fn the_first_file_that_exists_is_used() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    for folder in ["xdg/knock", "home/.config/knock", "cwd", "program"] {
        std::fs::create_dir_all(path(folder)).expect("made");
    }
    let beside = path("program/knock-cli");
    std::fs::copy(program(), &beside).expect("the program can be copied");
    let places = [
        "c.json",
        "env.json",
        "xdg/knock/config.json",
        "home/.config/knock/config.json",
        "cwd/config.json",
        "program/config.json",
    ];
    for place in places {
        write(&path(place), &file(&place.replace('/', "_")));
    }
    let names = |config: bool, environment: bool, xdg: bool| {
        let mut client = client(&beside, &path("cwd"));
        client.arg("list").arg("--names").env("HOME", path("home")).env_remove("XDG_CONFIG_HOME");
        if config {
            client.arg("-c").arg(path("c.json"));
        }
        if environment {
            client.env("KNOCK_CONFIG", path("env.json"));
        }
        if xdg {
            client.env("XDG_CONFIG_HOME", path("xdg"));
        }
        stdout(&client.output().expect("it runs"))
    };
    assert_eq!(names(true, true, true), "c.json\n");
    assert_eq!(names(false, true, true), "env.json\n");
    assert_eq!(names(false, false, true), "xdg_knock_config.json\n");
    assert_eq!(names(false, false, false), "home_.config_knock_config.json\n");
    std::fs::remove_file(path(places[3])).expect("removed");
    assert_eq!(names(false, false, false), "cwd_config.json\n");
    std::fs::remove_file(path(places[4])).expect("removed");
    assert_eq!(names(false, false, false), "program_config.json\n");
    // A file that is named must exist.
    let mut client = client(&beside, &path("cwd"));
    let output = client.arg("list").env("KNOCK_CONFIG", path("absent.json")).output().expect("it runs");
    assert!(
        stderr(&output).contains("absent.json: cannot read the configuration: No such file"),
        "{}",
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn a_rule_with_hosts_needs_no_other_argument() {
    let (udp, port) = udp();
    let rules = json!({ "rules": [
        { "name": "home", "host": ["127.0.0.1", "127.0.0.2"], "sequence": [format!("{port}/udp")], "delay": "1ms" },
        { "name": "bare", "sequence": [7] },
    ]});
    let directory = with_config(&rules.to_string());
    let received = || {
        udp.recv_from(&mut [0; 9]).expect("a datagram");
    };
    for arguments in [&["home"][..], &["-r", "home"]] {
        // The socket is bound to the first address; to the second a knock goes too, and nobody listens.
        let output = run_in(directory.path(), arguments);
        assert_eq!(
            stdout(&output),
            "knocked at 1 port of 127.0.0.1\nknocked at 1 port of 127.0.0.2\n",
            "{}",
            stderr(&output)
        );
        received();
    }
    for arguments in
        [&["home", "-h", "127.0.0.1"][..], &["-r", "home", "-h", "user@127.0.0.1:22"], &["-r", "home", "127.0.0.1"]]
    {
        let output = run_in(directory.path(), arguments);
        assert_eq!(stdout(&output), "knocked at 1 port of 127.0.0.1\n", "{arguments:?}: {}", stderr(&output));
        received();
    }
    // By its host.
    let output = run_in(directory.path(), &["127.0.0.2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    received();
    let output = run_in(directory.path(), &["-r", "home", "-h", "127.0.0.1", "-h", "127.0.0.3"]);
    assert_eq!(stdout(&output), "knocked at 1 port of 127.0.0.1\nknocked at 1 port of 127.0.0.3\n");

    let expected = "knock-cli: rule `bare` has no host; name it with -h HOST, or write `host` in the rule\n";
    assert_eq!(failure(directory.path(), &["bare"]), (expected.to_owned(), Some(78)));
    let expected = "knock-cli: config.json has no rule `hone`, and no rule with that host; did you mean `home`? its rules: \
                    home, bare\n";
    assert_eq!(failure(directory.path(), &["hone"]), (expected.to_owned(), Some(78)));
    let expected =
        "knock-cli: config.json has no rule `server.example.com`, and no rule with that host; its rules: home, bare\n";
    assert_eq!(failure(directory.path(), &["server.example.com"]), (expected.to_owned(), Some(78)));
}

#[test]
fn a_file_of_another_program_is_recognised() {
    for (text, found) in [("[options]\n logfile = x\n", "a knockd.conf of knock"), ("rules:\n  - name: ssh\n", "YAML")]
    {
        let directory = with_config(text);
        let (said, status) = failure(directory.path(), &["ssh"]);
        assert!(said.contains(&format!("config.json:1:1: the file is {found}, not JSON; convert")), "{said}");
        assert!(said.contains("`knockctl import`"), "{said}");
        assert_eq!(status, Some(78));
    }
}

#[test]
fn a_file_that_others_can_read_earns_a_warning() {
    let directory = with_config(&file("a"));
    let path = directory.path().join("config.json");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("changed");
    let output = run_in(directory.path(), &["a"]);
    let expected = "knock-cli: config.json: other users of this machine can read the secrets in it (mode 0644); run: chmod 600 \
                    config.json\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (expected, Some(0)));
    assert_eq!(stderr(&run_in(directory.path(), &["-q", "a"])), "");
}

#[test]
fn a_sequence_on_standard_input_is_knocked_and_never_shown() {
    let (udp, port) = udp();
    let mut command = client(program(), Path::new("/"));
    let output = with_input(command.args(["-s", "-", "-h", "127.0.0.1"]), &format!("{}, {port}/udp\n", closed_port()));
    assert_eq!(stdout(&output), "knocked at 2 ports of 127.0.0.1\n", "{}", stderr(&output));
    udp.recv_from(&mut [0; 9]).expect("a datagram");
    for (input, expected) in [
        ("40117 51802x", "knock 2 of standard input is not a port; write 7000 or 7000/udp"),
        (" \n", "standard input has no knocks; write ports with commas between them"),
    ] {
        let output = with_input(client(program(), Path::new("/")).args(["-s", "-", "-h", "127.0.0.1"]), input);
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert!(!stderr(&output).contains("51802"), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn the_list_shows_no_sequence() {
    let rules = json!({ "rules": [
        { "name": "home", "host": "home.example.com", "sequence": [28731, 4219], "wait": 22 },
        { "name": "both", "host": ["a", "b"], "sequence": [4219, 28731] },
        { "name": "x", "sequence": [28731] },
    ]});
    let directory = with_config(&rules.to_string());
    let text = stdout(&run_in(directory.path(), &["list"]));
    assert_eq!(
        text,
        "RULE  HOST              PORT\nhome  home.example.com  22\nboth  a, b              -\nx     -                 -\n"
    );
    let document: Value = serde_json::from_str(&stdout(&run_in(directory.path(), &["list", "--json"]))).expect("JSON");
    assert_eq!(document["rules"][0], json!({ "name": "home", "host": ["home.example.com"], "port": 22 }));
    assert_eq!(stdout(&run_in(directory.path(), &["list", "--names"])), "home\nboth\nx\n");
}

#[test]
fn a_rule_that_an_administrator_sent_is_added_for_its_user_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("knock/config.json");
    let add = |arguments: &[&str], input: &Value| {
        let mut command = client(program(), Path::new("/"));
        command.arg("add").args(arguments).env("XDG_CONFIG_HOME", directory.path());
        with_input(&mut command, &input.to_string())
    };
    let rule = |host: &str, sequence: Value| json!({ "rules": [{ "name": "ssh", "host": host, "sequence": sequence, "wait": 22 }] });
    let output = add(&[], &rule("a.example.com", json!([3, 1])));
    assert_eq!(stdout(&output), format!("added to {}: ssh\n", path.display()), "{}", stderr(&output));
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o600, 0o700));
    let text = || std::fs::read_to_string(&path).expect("it is there");
    let expected = "{\n  \"rules\": [\n    { \"name\": \"ssh\", \"host\": \"a.example.com\", \"wait\": 22, \"sequence\": [3,1] }\n  ]\n}\n";
    assert_eq!(text(), expected);

    // The administrator changes the sequence.
    assert_eq!(add(&[], &rule("a.example.com", json!([1, 3]))).status.code(), Some(0));
    assert_eq!(text(), expected.replace("[3,1]", "[1,3]"));
    // Another server has a rule of the same name.
    let output = add(&[], &rule("b.example.com", json!([5])));
    let message = format!(
        "knock-cli: the rule cannot be added: {} has another rule `ssh`, with host a.example.com; \
         choose a name with --name\n",
        path.display()
    );
    assert_eq!((stderr(&output), output.status.code()), (message, Some(78)));
    let before = text();
    for wrong in [json!({}), json!({ "rules": [] }), json!({ "rules": [{ "name": "c", "sequence": [0] }] })] {
        let output = add(&[], &wrong);
        assert!(stderr(&output).starts_with("knock-cli: the rule cannot be added: "), "{wrong}");
        assert_eq!(output.status.code(), Some(78));
    }
    assert_eq!(text(), before);
    assert_eq!(add(&["--name", "b"], &rule("b.example.com", json!([5]))).status.code(), Some(0));
    let mut list = client(program(), Path::new("/"));
    let output = list.args(["list", "--names"]).env("XDG_CONFIG_HOME", directory.path()).output().expect("it runs");
    assert_eq!(stdout(&output), "ssh\nb\n");
    let files = std::fs::read_dir(path.parent().expect("a folder")).expect("it can be listed").count();
    assert_eq!(files, 1, "nothing is left behind");
}
