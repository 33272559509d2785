//! `knockd-fleet check` against real servers, with one thing wrong at a time.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use knock_fleet::link::{Settings, Tls};
use knock_testkit::{Host, Network, Store, store_engines, wait_until};

use crate::knockd::{file, settings};
use crate::security::certificates;
use crate::{network, servers};

const ALL: &str = "+time +multi +exec +zadd +zrange +zremrangebyscore +xadd +xread +xrevrange +set +get +hset +hgetall";

/// What the command prints, and whether it found no error.
fn run(host: &Host, settings: &Settings) -> (String, bool) {
    run_at(host, settings, "+0")
}

/// The same, by a clock that is off by that.
fn run_at(host: &Host, settings: &Settings, clock: &str) -> (String, bool) {
    // The package libfaketime. A server with jemalloc does not run with it, so it is the other clock that is off.
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    assert!(Path::new(&library).exists(), "there is no {library}; run scripts/setup test");
    let settings = Settings { node: "34750f98bd59fcfc".to_owned(), ..settings.clone() };
    let mut command = Command::new(env!("CARGO_BIN_EXE_knockd-fleet"));
    command.arg("check").stdin(Stdio::piped()).stdout(Stdio::piped());
    command.env("LD_PRELOAD", library).env("FAKETIME", clock).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut program = host.namespace.run(move || command.spawn()).expect("a namespace").expect("the program is built");
    let json = serde_json::to_vec(&settings).expect("settings are JSON");
    program.stdin.take().expect("a pipe").write_all(&json).expect("it reads");
    let output = program.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(i32::from(text.contains("error: "))), "{text}");
    for line in text.lines() {
        assert!(["ok: ", "warning: ", "error: "].iter().any(|kind| line.starts_with(kind)), "{line}");
    }
    (text, output.status.success())
}

/// There is such a line, and one error at most.
#[track_caller]
fn expect(host: &Host, settings: &Settings, kind: &str, words: &[&str]) {
    let (text, _) = run(host, settings);
    let is_it = |line: &str| line.starts_with(kind) && words.iter().all(|word| line.contains(word));
    assert!(text.lines().any(is_it), "no {kind} with {words:?}:\n{text}");
    if kind == "error: " {
        let others = text.lines().filter(|line| line.starts_with(kind) && !is_it(line));
        assert!(others.clone().all(|line| line.contains("no server of `fleet.servers`")), "{text}");
    }
}

/// Lets the user knockd-fleet read a file. Where the package is installed, the command becomes this user as root.
fn share(directory: &tempfile::TempDir, file: &Path) {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o640)).expect("its owner");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("its owner");
    let _ = Command::new("chgrp").arg("knockd-fleet").arg(file).stderr(Stdio::null()).status();
}

/// A server with the user of the document, and the settings for it.
fn with_user<'n>(network: &'n Network, commands: &str, directory: &tempfile::TempDir) -> (Store<'n>, Settings) {
    let lines =
        format!("user default off\nuser web on >example-password ~knock:{{web.example.com}}:* -@all {commands}");
    let server = Store::start(store_engines()[0], &network.server.namespace, &lines);
    let password = file(directory, "password", "example-password\n");
    share(directory, &password);
    let user = Some("web".to_owned());
    (server, Settings { user, password_file: Some(password), ..settings(&servers()) })
}

#[test]
fn a_server_as_the_document_has_it_is_well_and_nothing_is_left_in_it() {
    let (network, directory) = (network(1), tempfile::tempdir().expect("a directory"));
    let (server, settings) = with_user(&network, ALL, &directory);
    let (text, well) = run(network.client(), &settings);
    assert!(well, "{text}");
    for words in [
        "the password can be read, and not by everybody",
        "it accepts the user web",
        "its clock is the one of this host",
        "the user may write and read records",
        "the user may do no more",
    ] {
        assert!(text.contains(words), "{words}:\n{text}");
    }
    // The only thing that is not as it should be.
    let warnings = text.lines().filter(|line| line.starts_with("warning: ") && !line.contains("there is no user"));
    assert!(warnings.collect::<Vec<_>>().join("|").contains("nothing is encrypted"), "{text}");
    wait_until("nothing is left", || server.admin(&["DBSIZE"]) == "0");
    assert!(!text.contains("example-password"));
    let (text, well) = run(network.client(), &Settings { servers: vec!["[fd77::1]:6379".to_owned()], ..settings });
    assert!(well && text.contains("ok: [fd77::1]:6379: the user may write and read records"), "{text}");
}

#[test]
fn a_command_that_is_not_permitted_is_named() {
    let (network, directory) = (network(1), tempfile::tempdir().expect("a directory"));
    for missing in ALL.split(' ').filter(|word| *word != "+time") {
        let commands = ALL.split(' ').filter(|word| *word != missing).collect::<Vec<_>>().join(" ");
        let (_server, settings) = with_user(&network, &commands, &directory);
        let name = missing.trim_start_matches('+').to_uppercase();
        expect(network.client(), &settings, "error: ", &[&format!("{name} was refused: "), "NOPERM"]);
    }
    let (_server, settings) = with_user(&network, &ALL.replace("+time ", ""), &directory);
    expect(network.client(), &settings, "error: ", &["TIME was refused: NOPERM"]);
}

#[test]
fn a_user_that_may_do_more_is_warned_of() {
    let (network, directory) = (network(1), tempfile::tempdir().expect("a directory"));
    let (server, settings) = with_user(&network, &format!("{ALL} +config"), &directory);
    expect(network.client(), &settings, "warning: ", &["the server's settings"]);
    server.admin(&["ACL", "SETUSER", "web", "~*"]);
    expect(network.client(), &settings, "warning: ", &["other keys"]);
    drop(server);
    let _server = Store::start(store_engines()[0], &network.server.namespace, "");
    let open = Settings { user: None, password_file: None, ..settings };
    expect(network.client(), &open, "warning: ", &["without `fleet.user`"]);
}

#[test]
fn a_password_that_is_wrong_missing_or_open_to_all_is_named() {
    let (network, directory) = (network(1), tempfile::tempdir().expect("a directory"));
    let (_server, settings) = with_user(&network, ALL, &directory);
    let path = settings.password_file.clone().expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("its owner");
    expect(network.client(), &settings, "error: ", &["everybody can read the password (mode 644)", "chmod o="]);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("its owner");
    file(&directory, "password", "another-password\n");
    expect(network.client(), &settings, "error: ", &["authentication failed (WRONGPASS)", "fleet.password_file"]);
    assert!(!run(network.client(), &settings).0.contains("another-password"));
    file(&directory, "password", "\n");
    expect(network.client(), &settings, "error: ", &["the password is missing"]);
    std::fs::remove_file(&path).expect("it is there");
    expect(network.client(), &settings, "error: ", &["cannot read the password", "chmod 640"]);
    let nobody = Settings { user: None, password_file: None, ..settings };
    expect(network.client(), &nobody, "error: ", &["NOAUTH", "fleet.user"]);
}

#[test]
fn a_way_to_the_server_that_does_not_work_is_named() {
    let network = network(2);
    let client = network.client();
    let at = |server: &str| settings(&[server.to_owned()]);
    expect(client, &at("no-such-name.invalid:6379"), "error: ", &["no-such-name.invalid", "its name has no address"]);
    expect(client, &at("10.77.0.1:6379"), "error: ", &["10.77.0.1:6379", "cannot connect", "firewalls"]);
    expect(client, &at("10.77.0.1"), "error: ", &["host:port"]);
    expect(client, &settings(&[]), "error: ", &["`fleet.servers` is empty"]);
    let server = Store::start(store_engines()[0], &network.server.namespace, "");
    server.freeze();
    expect(client, &at("10.77.0.1:6379"), "error: ", &["no answer within 3 s"]);
    server.thaw();
    for way in ["saddr", "daddr"] {
        network.block(&format!("ip {way} {}", client.v4)).expect("a bridge");
    }
    expect(client, &at("10.77.0.1:6379"), "error: ", &["cannot connect"]);
}

#[test]
fn a_server_that_lets_nobody_in_is_not_a_wrong_password() {
    let (network, directory) = (network(1), tempfile::tempdir().expect("a directory"));
    let (server, settings) = with_user(&network, ALL, &directory);
    let connect = || std::net::TcpStream::connect("127.0.0.1:6379").expect("it listens");
    let held = network.server.namespace.run(|| [connect(), connect()]).expect("a namespace");
    assert_eq!(server.admin(&["CONFIG", "SET", "maxclients", "2"]), "OK");
    expect(network.client(), &settings, "error: ", &["max number of clients", "raise `maxclients`"]);
    drop(held);
}

#[test]
fn a_certificate_that_is_not_the_servers_is_named() {
    let (network, directory) = (network(1), tempfile::tempdir().expect("a directory"));
    certificates(directory.path(), "ours");
    certificates(directory.path(), "theirs");
    let path = directory.path().display();
    let lines = format!(
        "port 0\ntls-port 6379\ntls-auth-clients no\ntls-cert-file {path}/ours-store.pem\ntls-key-file {path}/ours-store.key\n\
         tls-ca-cert-file {path}/ours.pem"
    );
    let _server = Store::start(store_engines()[0], &network.server.namespace, &lines);
    let with = |ca: Option<&str>| Settings {
        tls: Some(Tls { ca: ca.map(|name| directory.path().join(name)) }),
        ..settings(&servers())
    };
    let (text, well) = run(network.client(), &with(Some("ours.pem")));
    assert!(well && text.contains("ok: 10.77.0.1:6379: connected over TLS"), "{text}");
    expect(network.client(), &with(Some("theirs.pem")), "error: ", &["TLS", "UnknownIssuer", "fleet.tls.ca"]);
    expect(network.client(), &with(Some("none.pem")), "error: ", &["none.pem", "cannot read the certificates"]);
    file(&directory, "empty.pem", "nothing\n");
    expect(network.client(), &with(Some("empty.pem")), "error: ", &["empty.pem", "missing"]);
    expect(network.client(), &Settings { tls: None, ..with(None) }, "error: ", &["fleet.tls"]);
    // The name is not in the certificate.
    network.server.namespace.ip("addr add 10.77.0.99/24 dev eth0").expect("an address");
    let other = Settings { servers: vec!["10.77.0.99:6379".to_owned()], ..with(Some("ours.pem")) };
    expect(network.client(), &other, "error: ", &["10.77.0.99", "not valid for name"]);
}

/// The first block of a document behind that text.
fn block<'d>(document: &'d str, text: &str) -> &'d str {
    let (_, rest) = document.split_once(text).unwrap_or_else(|| panic!("the document has no {text}"));
    rest.split("```").nth(1).and_then(|block| block.split_once('\n')).expect("a block").1
}

#[test]
fn a_store_that_is_set_up_as_the_document_says_is_well() {
    let (network, directory) = (network(1), tempfile::tempdir().expect("a directory"));
    let document = include_str!("../../../../docs/fleet.md");
    let path = directory.path().to_str().expect("UTF-8");
    let script = block(document, "**1. The store: a certificate.**").replace("DNS:store.example.com", "IP:10.77.0.1");
    let output = Command::new("sh").args(["-ec", &script]).current_dir(path).output().expect("sh");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    let lines = block(document, "Append to `/etc/redis/redis.conf`");
    let lines = lines.replace("/etc/redis/", &format!("{path}/")).replace("bind 192.0.2.1\n", "bind 10.77.0.1\n");
    let user = block(include_str!("../../../../docs/fleet-protocol.md"), "`knockd-fleet` uses what this line");
    let _server = Store::start(store_engines()[0], &network.server.namespace, &(lines + user));
    let password = file(&directory, "password", "example-password\n");
    share(&directory, &password);
    let (user, ca) = (Some("web".to_owned()), Some(directory.path().join("ca.pem")));
    share(&directory, ca.as_ref().expect("a path"));
    let settings = Settings { user, password_file: Some(password), tls: Some(Tls { ca }), ..settings(&servers()) };
    let (text, well) = run(network.client(), &settings);
    let warnings = text.lines().filter(|line| line.starts_with("warning: ") && !line.contains("there is no user"));
    assert!(well && warnings.count() == 0, "{text}");
}

#[test]
fn a_clock_that_is_off_is_named() {
    let network = network(1);
    let _server = Store::start(store_engines()[0], &network.server.namespace, "");
    for (clock, line) in [
        ("-3", "warning: 10.77.0.1:6379: its clock is 3.0 s ahead of the one of this host"),
        ("-3600", "error: 10.77.0.1:6379: its clock is 3600.0 s ahead of the one of this host"),
        ("+3600", "error: 10.77.0.1:6379: its clock is 3600.0 s behind the one of this host"),
    ] {
        let (text, well) = run_at(network.client(), &settings(&servers()), clock);
        assert!(text.contains(line) && text.contains("NTP") && well == line.starts_with("warning"), "{text}");
    }
}

#[test]
fn a_replica_that_follows_is_well_and_another_server_is_not() {
    let network = network(2);
    let engine = store_engines()[0];
    let _primary = Store::start(engine, &network.server.namespace, "");
    let replica = Store::start(engine, &network.clients[1].namespace, "");
    let address = format!("{}:6379", network.clients[1].v4);
    let reading = Settings { read_from: vec![address.clone()], ..settings(&servers()) };
    expect(network.client(), &reading, "error: ", &[&address, "is not a replica of 10.77.0.1:6379"]);
    let both = settings(&[servers(), vec![address.clone()]].concat());
    expect(network.client(), &both, "error: ", &[&address, "both accept records"]);
    replica.admin(&["REPLICAOF", "10.77.0.1", "6379"]);
    wait_until("it is a replica", || replica.admin(&["INFO", "replication"]).contains("master_link_status:up"));
    for settings in [&reading, &both] {
        let (text, well) = run(network.client(), settings);
        assert!(well && text.contains(&format!("ok: {address}: it follows 10.77.0.1:6379")), "{text}");
    }
    expect(network.client(), &settings(&[address]), "error: ", &["no server of `fleet.servers` accepts records"]);
}

#[test]
fn what_is_no_server_or_no_settings_is_named() {
    let network = network(1);
    let listener = network.server.namespace.run(|| std::net::TcpListener::bind("0.0.0.0:6379"));
    let listener = listener.expect("a namespace").expect("a free port");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    expect(network.client(), &settings(&servers()), "error: ", &["is not one of a Valkey or Redis server", "port"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_knockd-fleet"));
    let output = command.arg("check").stdin(Stdio::null()).output().expect("the program is built");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("error: standard input"), "{text}");
}
