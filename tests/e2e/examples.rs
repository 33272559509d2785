//! The examples whose commands are tools of others, with those tools: a real knock opens, and it closes again.
//!
//! Each runs in a network namespace; tools that keep files have some of their own, in a mount namespace. What an example
//! says for half an hour is a few seconds here, and nothing else of it is changed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use knock_testkit::{Echo, Network, Packet, Reach};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Client, Daemon, Options, at, knock, network, syns, wait_for_grant, wait_until, wire};

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The example, with each of these texts replaced; each has to be in it.
fn changed(name: &str, changes: &[(&str, &str)]) -> Value {
    let mut text = example(name);
    for (from, to) in changes {
        assert!(text.contains(from), "examples/{name} has no `{from}`");
        text = text.replace(from, to);
    }
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("examples/{name}: {error}"))
}

/// The TCP ports of the first rule's sequence.
fn sequence(configuration: &Value) -> Vec<u16> {
    let knocks = configuration["rules"][0]["sequence"].as_array().expect("a sequence");
    knocks.iter().map(|knock| knock.as_u64().and_then(|port| port.try_into().ok()).expect("a TCP port")).collect()
}

/// The tool has to be there; the test is of what the example does with it.
fn needs(program: &str, package: &str) {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().expect("sh");
    assert!(found.status.success(), "{program} is missing; run: apt-get install --no-install-recommends {package}");
}

/// The client's address of each family.
fn addresses(network: &Network) -> [IpAddr; 2] {
    [network.client().v4.into(), network.client().v6.into()]
}

/// Knocks and sees port 22 open and close again, with an address of each family.
fn assert_opens_and_closes(network: &Network, configuration: &Value) {
    let wire = wire(network);
    for source in addresses(network) {
        let ssh = at(source, 22);
        wait_until("it is closed", || network.client().tcp(ssh) != Reach::Open);
        knock(&wire, source, &sequence(configuration));
        network.client().wait_until_open(ssh);
        wait_until("it closes", || network.client().tcp(ssh) != Reach::Open);
    }
}

/// Servers for both families at port 22.
fn ssh(network: &Network) -> Echo {
    Echo::tcp(&network.server.namespace, 22).expect("a service")
}

#[test]
fn iptables_and_ip6tables_open_and_close() {
    needs("ip6tables", "iptables");
    let network = network(1);
    let _ssh = ssh(&network);
    let configuration = changed("iptables.json", &[("\"stop_after\": \"30m\"", "\"stop_after\": \"3s\"")]);
    let mut daemon = Daemon::start(&network.server, configuration.clone());
    assert_opens_and_closes(&network, &configuration);
    assert!(daemon.stop().success());
    for source in addresses(&network) {
        assert_eq!(network.client().tcp(at(source, 22)), Reach::Open, "the teardown takes the setup back");
    }
    for tool in ["iptables", "ip6tables"] {
        let rules = network.server.namespace.output(Command::new(tool).arg("-S"), "").expect("the rules");
        assert!(!rules.contains("--dport 22"), "{rules}");
    }
}

#[test]
fn an_nft_command_adds_to_the_set_of_the_example_ruleset() {
    let network = network(1);
    let _ssh = ssh(&network);
    network.server.namespace.nft(&example("own-set.nft")).expect("examples/own-set.nft loads");
    let configuration = changed("nft-command.json", &[("timeout 30m", "timeout 3s")]);
    let _daemon = Daemon::start(&network.server, configuration.clone());
    assert_opens_and_closes(&network, &configuration);
}

/// Runs knockd after `prepare`, a shell script, where /run is a new directory and another, which `fill` fills, at
/// `place`. What the script starts ends with the daemon.
fn in_a_machine_of_its_own(
    network: &Network,
    configuration: Value,
    (place, fill): (&str, &str),
    prepare: &str,
) -> (Daemon, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["run", "place"] {
        fs::create_dir(directory.path().join(name)).expect("a directory");
    }
    let script = format!(
        "set -e; cd {}; mount --bind run /run; (cd place; {fill}); mount --bind place {place}; {prepare}; exec \"$@\"",
        directory.path().display()
    );
    let wrapper = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script, "sh"];
    let options = Options { wrapper: &wrapper, ..Options::default() };
    (Daemon::start_with(&network.server, configuration, options), directory)
}

#[test]
fn ufw_opens_and_closes() {
    needs("ufw", "ufw");
    let network = network(1);
    let _ssh = ssh(&network);
    let configuration = changed("ufw.json", &[("\"stop_after\": \"30m\"", "\"stop_after\": \"5s\"")]);
    // What its package copies there when it is installed.
    let fill = "cp -L /usr/share/ufw/*.rules /usr/share/ufw/*.init /usr/share/ufw/ufw.conf .; mkdir applications.d";
    let (_daemon, _files) =
        in_a_machine_of_its_own(&network, configuration.clone(), ("/etc/ufw", fill), "ufw --force enable >&2");
    assert_opens_and_closes(&network, &configuration);
}

// Its package starts it where it is installed, with a firewall of its own, so scripts/setup does not install it.
#[test]
#[ignore = "needs firewalld, which changes the firewall of the host that it is installed on; with it: cargo test -- --ignored firewalld"]
fn firewalld_opens_and_closes() {
    needs("firewall-cmd", "firewalld");
    needs("dbus-daemon", "dbus");
    let network = network(1);
    let _ssh = ssh(&network);
    let configuration = changed("firewalld.json", &[("--timeout=30m", "--timeout=5s")]);
    // Its default zone lets ssh in.
    let prepare = "mkdir /run/dbus; dbus-daemon --session --fork --address=unix:path=/run/dbus/system_bus_socket; firewalld --nofork --nopid & \
                   tries=0; until firewall-cmd --state >&2; do tries=$((tries + 1)); [ $tries -lt 100 ]; sleep 0.1; done; \
                   firewall-cmd --remove-service=ssh >&2";
    let (_daemon, _files) = in_a_machine_of_its_own(&network, configuration.clone(), ("/etc/firewalld", ":"), prepare);
    assert_opens_and_closes(&network, &configuration);
}

#[test]
fn a_webhook_gets_the_source_and_the_rule() {
    needs("curl", "curl");
    let network = network(1);
    let listener = network.server.namespace.run(|| TcpListener::bind("127.0.0.1:8080"));
    let listener = listener.expect("the server's namespace").expect("a port");
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut reader = BufReader::new(&stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("a line");
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_ascii_lowercase()),
            }
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("the body");
        (&stream).write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").expect("the answer");
        (head, body)
    });
    let configuration = changed("webhook.json", &[]);
    let daemon = Daemon::start(&network.server, configuration.clone());
    let source = IpAddr::from(network.client().v6);
    let knocks = configuration["rules"][0]["sequence"].as_array().expect("a sequence");
    let wire = wire(&network);
    for knock in knocks {
        let port = knock.as_str().and_then(|text| text.strip_suffix("/udp")?.parse().ok()).expect("a UDP port");
        wire.send(&Packet::udp((source, 40_000).into(), at(source, port))).expect("a datagram");
    }
    daemon.wait_for_log("rule notify: command for fd77::2 succeeded");
    let (head, body) = server.join().expect("the webhook's server");
    assert_eq!(head[0], "post /knock http/1.1");
    assert!(head.contains(&"content-type: application/json".to_owned()), "{head:?}");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body, json!({ "rule": "notify", "address": "fd77::2" }));
}

#[test]
fn a_wireguard_peer_is_added_and_taken_out() {
    needs("wg", "wireguard-tools");
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory");
    fs::create_dir(files.path().join("wireguard")).expect("a directory");
    let told = wireguard(files.path().join("wireguard/wg0.sock"));
    let configuration = changed(
        "wireguard.json",
        &[("\"stop_after\": \"12h\"", "\"stop_after\": \"1s\""), ("\"timeout\": \"12h\"", "\"timeout\": \"1m\"")],
    );
    let script = format!("mount --bind {} /run && exec \"$@\"", files.path().display());
    let wrapper = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let options = Options { wrapper: &wrapper, ..Options::default() };
    let daemon = Daemon::start_with(&network.server, configuration.clone(), options);
    let source = IpAddr::from(network.client().v4);
    wire(&network).send_all(&syns(source, &sequence(&configuration))).expect("the knock is sent");
    wait_for_grant(&network.server, source, ("udp", 51820));
    daemon.wait_for_log("rule vpn: stop command for 10.77.0.2 succeeded");
    let told = told.join().expect("WireGuard");
    assert!(told[0].contains(&"replace_allowed_ips=true".to_owned()), "{told:?}");
    assert!(told[0].contains(&"allowed_ip=10.9.0.2/32".to_owned()), "{told:?}");
    assert!(told[1].contains(&"remove=true".to_owned()), "{told:?}");
    let key = |told: &[String]| told.iter().find(|line| line.starts_with("public_key=")).cloned();
    assert!(key(&told[0]).is_some() && key(&told[0]) == key(&told[1]), "the same peer: {told:?}");
}

/// WireGuard outside the kernel (wireguard.com/xplatform), for two changes; what `wg` tells it, line by line.
fn wireguard(socket: PathBuf) -> thread::JoinHandle<Vec<Vec<String>>> {
    let listener = UnixListener::bind(&socket).expect("a socket");
    thread::spawn(move || {
        let mut told = Vec::new();
        while told.len() < 2 {
            let (mut stream, _) = listener.accept().expect("wg comes");
            let lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines().map_while(Result::ok);
            let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            // It looks whether somebody is there before it says anything.
            if lines.is_empty() {
                continue;
            }
            stream.write_all(b"errno=0\n\n").expect("the answer");
            told.push(lines);
        }
        told
    })
}
