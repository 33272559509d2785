//! Who may talk to the store, and over what.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use knock_fleet::link::{Claim, Settings, Tls};
use knock_testkit::{Store, store_engines, wait_until};

use crate::knockd::{Node, file, settings};

use crate::{network, servers};

fn with_password(path: &Path) -> Settings {
    Settings { user: Some("web".to_owned()), password_file: Some(path.to_owned()), ..settings(&servers()) }
}

#[test]
fn the_permissions_of_the_document_are_enough_and_no_more_is_used() {
    let network = network(2);
    let directory = tempfile::tempdir().expect("a directory");
    let password = file(&directory, "password", "example-password\n");
    for engine in store_engines() {
        let document = include_str!("../../../../docs/fleet-protocol.md");
        let line = document.lines().find(|line| line.starts_with("user web on ")).expect("a line for the store");
        let server = Store::start(engine, &network.server.namespace, &format!("user default off\n{line}"));
        let mut nodes: Vec<Node> = network
            .clients
            .iter()
            .zip(1..)
            .map(|(host, number)| Node::start(&host.namespace, number, with_password(&password)))
            .collect();
        nodes.iter().for_each(Node::wait_until_ready);
        let record = nodes[0].publish();
        nodes.iter().for_each(|node| node.wait_for_record(&record));
        assert_eq!(nodes[0].claim(1), Claim::Ours);
        assert_eq!(nodes[1].claim(1), Claim::Taken { by: nodes[0].key.id() });
        nodes[0].wait_for_node(nodes[1].key.id());
        let late = Node::start(&network.clients[0].namespace, 3, with_password(&password));
        late.wait_for_record(&record);
        assert_eq!(server.admin(&["ACL", "LOG"]), "", "nothing was refused");
        // What the statistics of the server name, without what the administrator of this test has asked for.
        let statistics = server.admin(&["INFO", "commandstats"]);
        let used: BTreeSet<&str> =
            statistics.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next()).collect();
        let permitted: BTreeSet<&str> = line.split(' ').filter_map(|word| word.strip_prefix('+')).collect();
        let others = BTreeSet::from(["auth", "ping", "info", "acl|log", "command|docs", "command"]);
        assert_eq!(&used - &others, permitted);
        // Other keys, and other commands, are refused.
        let refused = |command: &[&str]| {
            let output = Command::new(engine.replace("server", "cli"))
                .args(["--user", "web", "--pass", "example-password", "--no-auth-warning", "-s"])
                .arg(server.directory.path().join("admin.sock"))
                .args(command)
                .output()
                .expect("the client of the store");
            String::from_utf8_lossy(&output.stdout).contains("NOPERM")
        };
        for command in [
            &["GET", "knock:{example.org}:epoch"][..],
            &["FLUSHALL"],
            &["KEYS", "*"],
            &["DEL", "knock:{web.example.com}:log"],
        ] {
            assert!(refused(command), "{command:?}");
        }
        assert!(!refused(&["GET", "knock:{web.example.com}:epoch"]));
    }
}

#[test]
fn a_wrong_password_is_named_and_a_right_one_is_used_without_a_restart() {
    let network = network(1);
    let directory = tempfile::tempdir().expect("a directory");
    let password = file(&directory, "password", "wrong\n");
    for engine in store_engines() {
        let lines = "user default off\nuser web on >example-password ~* +@all";
        let _server = Store::start(engine, &network.server.namespace, lines);
        let node = Node::start(&network.client().namespace, 1, with_password(&password));
        let state = node.wait_for_state("a problem", |state| !state.problem.is_empty());
        assert!(
            state.problem.contains("authentication failed") && state.problem.contains("password_file"),
            "{}",
            state.problem
        );
        file(&directory, "password", "example-password\n");
        node.wait_until_ready();
        let state = node.wait_for_state("no problem", |state| state.problem.is_empty());
        assert!(state.clock.abs() < 1000, "the clock of the store is this one's");
        std::fs::remove_file(&password).expect("it is there");
        drop(node);
        let node = Node::start(&network.client().namespace, 1, with_password(&password));
        let state = node.wait_for_state("a problem", |state| !state.problem.is_empty());
        assert!(state.problem.contains("cannot read the password"), "{}", state.problem);
        file(&directory, "password", "wrong\n");
    }
}

/// An authority and a certificate of it for the store.
pub(crate) fn certificates(directory: &Path, name: &str) {
    let script = format!(
        "set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN={name}' \
            -keyout {name}.key -out {name}.pem
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=store -keyout {name}-store.key -out {name}.csr
        printf 'subjectAltName=IP:{}\\nbasicConstraints=CA:FALSE\\n' >{name}.ext
        openssl x509 -req -in {name}.csr -CA {name}.pem -CAkey {name}.key -CAcreateserial -days 2 -extfile {name}.ext \
            -out {name}-store.pem",
        knock_testkit::SERVER_V4
    );
    let output = Command::new("sh").args(["-c", &script]).current_dir(directory).output().expect("sh");
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_store_is_trusted_by_its_certificate_only() {
    let network = network(2);
    let directory = tempfile::tempdir().expect("a directory");
    certificates(directory.path(), "ours");
    certificates(directory.path(), "theirs");
    let with_ca = |name: &str| Settings {
        tls: Some(Tls { ca: Some(directory.path().join(format!("{name}.pem"))) }),
        ..settings(&servers())
    };
    for engine in store_engines() {
        let path = directory.path().display();
        let lines = format!(
            "port 0\ntls-port 6379\ntls-auth-clients no\ntls-cert-file {path}/ours-store.pem\ntls-key-file {path}/ours-store.key\n\
             tls-ca-cert-file {path}/ours.pem"
        );
        let _server = Store::start(engine, &network.server.namespace, &lines);
        let mut nodes: Vec<Node> = network
            .clients
            .iter()
            .zip(1..)
            .map(|(host, number)| Node::start(&host.namespace, number, with_ca("ours")))
            .collect();
        nodes.iter().for_each(Node::wait_until_ready);
        let record = nodes[0].publish();
        nodes.iter().for_each(|node| node.wait_for_record(&record));
        assert_eq!(nodes[0].claim(1), Claim::Ours);
        for settings in [
            with_ca("theirs"),
            Settings { tls: None, ..with_ca("ours") },
            Settings { tls: Some(Tls::default()), ..with_ca("ours") },
        ] {
            let wrong = Node::start(&network.client().namespace, 9, settings.clone());
            let state = wrong.wait_for_state("a problem", |state| !state.problem.is_empty());
            assert!(!state.writes && !state.reads, "{settings:?}");
            if settings.tls.is_some() {
                assert!(state.problem.to_lowercase().contains("certificate"), "{}", state.problem);
            }
        }
    }
}

#[test]
fn a_replica_is_read_and_a_primary_is_written_to() {
    let network = network(2);
    for engine in store_engines() {
        let primary = Store::start(engine, &network.server.namespace, "");
        let replica = Store::start(
            engine,
            &network.clients[1].namespace,
            &format!("replicaof {} 6379", knock_testkit::SERVER_V4),
        );
        wait_until("it is a replica", || replica.admin(&["INFO", "replication"]).contains("master_link_status:up"));
        let address = format!("{}:6379", network.clients[1].v4);
        let both = Settings { read_from: vec![address.clone()], ..settings(&[vec![address], servers()].concat()) };
        let mut node = Node::start(&network.clients[0].namespace, 1, both);
        node.wait_until_ready();
        let record = node.publish();
        node.wait_for_record(&record);
        assert_eq!(primary.admin(&["ZCARD", "knock:{web.example.com}:live"]), "1");
    }
}

#[test]
fn the_program_has_no_file_but_its_socket() {
    let network = network(1);
    let _server = Store::start(store_engines()[0], &network.server.namespace, "");
    let node = Node::start(&network.client().namespace, 1, settings(&servers()));
    node.wait_until_ready();
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("it runs");
    for descriptor in descriptors {
        let path = descriptor.expect("listed").path();
        let Ok(target) = std::fs::read_link(&path) else { continue };
        let target = target.display().to_string();
        let number: u32 = path.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a number");
        assert!(number <= 2 || target == "/dev/null" || !target.starts_with('/'), "{number}: {target}");
    }
}
