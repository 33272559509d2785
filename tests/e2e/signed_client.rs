//! The client's signed packets against the real daemon, with real ssh keys, a real ssh agent and a real sshd.

use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use knock_testkit::{Echo, Host, Network, Reach, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ssh::Sshd;
use crate::support::spa::{SPA_PORT, SpaFiles};
use crate::support::{Daemon, elements, network, program, revoke_all, wait_for_grant};

/// The cover of [`SpaFiles`], as a URL has it.
const COVER: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
/// A name of the server with both of its addresses.
const SERVER: &str = "server.test";
const WINDOW: Duration = Duration::from_secs(60);

fn url(host: &str) -> String {
    format!("knock://{host}:{SPA_PORT}/?realm=example.com&cover={COVER}\n")
}

/// A user of the client, with an ssh key and the client's file.
struct User<'n> {
    host: &'n Host,
    home: TempDir,
}

impl<'n> User<'n> {
    /// A user whose key has this passphrase.
    fn new(network: &'n Network, passphrase: &str) -> User<'n> {
        let user = User { host: network.client(), home: tempfile::tempdir().expect("a directory") };
        fs::create_dir(user.path(".ssh")).expect("made");
        fs::write(user.path("hosts"), "fd77::1 server.test\n10.77.0.1 server.test\n").expect("written");
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-C", "alice", "-N", passphrase, "-f"]).arg(user.path(".ssh/id_ed25519"));
        assert!(keygen.status().expect("ssh-keygen; install openssh-client").success());
        user
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs a program on the client, where `server.test` has addresses.
    fn run(&self, program: Command, input: &str) -> Output {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
        command.arg(self.path("hosts")).arg(program.get_program()).args(program.get_args());
        command.env_remove("KNOCK_CONFIG").env("HOME", self.home.path()).env_remove("XDG_CONFIG_HOME");
        command.env("SSH_AUTH_SOCK", self.path("agent"));
        fs::write(self.path("input"), input).expect("written");
        command.stdin(fs::File::open(self.path("input")).expect("there"));
        self.host.namespace.run(|| command.output()).expect("inside").expect("it runs")
    }

    /// Runs the client; it must succeed.
    #[track_caller]
    fn knock_cli(&self, arguments: &[&str]) -> String {
        let output = self.run(program("knock-cli", arguments), "");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Adds the server by its URL, and returns the line that the server needs.
    fn add(&self, arguments: &[&str], host: &str) -> String {
        let output = self.run(program("knock-cli", &[&["add"], arguments].concat()), &url(host));
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().last().expect("a line").to_owned() + "\n"
    }
}

/// An ssh agent, killed when dropped.
struct Agent(Child);

impl Agent {
    /// An agent of that user, who gives it the key with its passphrase.
    fn of(user: &User<'_>, passphrase: &str) -> Agent {
        let mut command = Command::new("ssh-agent");
        // -D: in the foreground. It listens before it writes where.
        command.args(["-D", "-a"]).arg(user.path("agent")).stdout(Stdio::piped());
        let mut child = command.spawn().expect("ssh-agent; install openssh-client");
        child.stdout.take().expect("it is piped").read_exact(&mut [0]).expect("it says where it listens");
        let agent = Agent(child);
        let askpass = user.path("askpass");
        fs::write(&askpass, format!("#!/bin/sh\necho {passphrase}\n")).expect("written");
        fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700)).expect("changed");
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(user.path(".ssh/id_ed25519")).env("SSH_AUTH_SOCK", user.path("agent"));
        add.env("SSH_ASKPASS", askpass).env("SSH_ASKPASS_REQUIRE", "force").stdin(Stdio::null());
        assert!(add.status().expect("ssh-add").success());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon whose rules of these names open port 22 and 443.
fn daemon(network: &Network, files: &SpaFiles) -> Daemon {
    let rule =
        |name: &str, port: u16| json!({ "name": name, "spa": true, "allow": { "ports": [port], "timeout": "1h" } });
    Daemon::start(&network.server, files.configuration(json!([rule("ssh", 22), rule("web", 443)]), WINDOW))
}

/// The addresses with a grant.
fn granted(network: &Network) -> Vec<IpAddr> {
    let elements = ["grants4", "grants6"].into_iter().flat_map(|set| elements(&network.server, set));
    elements.map(|element| element.address).collect()
}

#[test]
fn from_a_url_to_ssh_with_the_key_that_the_agent_has() {
    let network = network(1);
    let user = User::new(&network, "secret");
    let _agent = Agent::of(&user, "secret");
    let line = user.add(&["server", "--rule", "ssh"], SERVER);
    assert!(line.ends_with(" alice\n"), "{line}");
    let files = SpaFiles::new(&line);
    let daemon = daemon(&network, &files);
    // sshd knows the same key.
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(user.path("host_key")).status();
    assert!(made.expect("ssh-keygen").success());
    fs::write(user.path("key.pub"), &line).expect("written");
    let _sshd = Sshd::start(&network.server, user.home.path());
    let loopback = "127.0.0.1:22".parse().expect("an address");
    let answers = || network.server.namespace.run(|| knock_testkit::tcp(loopback, Duration::from_secs(1)));
    wait_until("sshd listens", || matches!(answers(), Ok(Ok(Reach::Open))));

    let config = format!(
        "Host *\n    ProxyCommand {} --proxy %h %p\n    UserKnownHostsFile {}\n    StrictHostKeyChecking accept-new\n    \
         LogLevel ERROR\n    User root\n",
        program("knock-cli", &[]).get_program().display(),
        user.path("known_hosts").display()
    );
    fs::write(user.path("ssh_config"), config).expect("written");
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(user.path("ssh_config")).args([SERVER, "echo", "in"]);
    let output = user.run(ssh, "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "in\n", "{output:?}\n{}", daemon.log());
    assert_eq!(granted(&network).len(), 2, "an address of each IP version");

    // The end of the grants, and the same without ssh.
    assert_eq!(
        user.knock_cli(&["--close", "server"]),
        "sent a signed packet to fd77::1 and 10.77.0.1, which ends the grant\n"
    );
    wait_until("the grants have ended", || granted(&network).is_empty());
    daemon.wait_for_log("rule ssh: the grant to 10.77.0.2 is revoked (signed by alice)");
    let opened = user.knock_cli(&["--wait", "22", "server"]);
    assert!(opened.contains("]:22 is open, after ") || opened.contains(":22 is open, after "), "{opened}");
}

#[test]
fn a_packet_names_the_own_address_unless_that_is_a_private_one() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    server.namespace.ip("addr add 203.0.113.1/24 dev eth0\naddr add 2001:db8:1::1/64 dev eth0").expect("addresses");
    client.namespace.ip("addr add 203.0.113.2/24 dev eth0\naddr add 2001:db8:1::2/64 dev eth0").expect("addresses");
    let user = User::new(&network, "");
    let line = user.add(&["server", "--rule", "ssh"], SERVER);
    // Only for an address that the packet names.
    let files = SpaFiles::new(&format!("address=\"strict\" {line}"));
    let daemon = daemon(&network, &files);
    user.knock_cli(&["server", "-h", "203.0.113.1", "-h", "2001:db8:1::1"]);
    wait_for_grant(server, [203, 0, 113, 2].into(), ("tcp", 22));
    wait_for_grant(server, "2001:db8:1::2".parse().expect("an address"), ("tcp", 22));
    let mark = daemon.log_mark();
    user.knock_cli(&["server"]);
    for address in ["10.77.0.2", "fd77::2"] {
        daemon.wait_for_log_after(mark, &format!("of alice from {address} is refused: the packet names no address"));
    }
    user.knock_cli(&["server", "-4", "--address", "10.77.0.2"]);
    wait_for_grant(server, [10, 77, 0, 2].into(), ("tcp", 22));
}

#[test]
fn the_options_say_what_the_user_gets() {
    let network = network(1);
    let server = &network.server;
    let user = User::new(&network, "");
    let line = user.add(&["server"], SERVER);
    let files = SpaFiles::new(&line);
    let daemon = daemon(&network, &files);
    user.knock_cli(&["-4", "server"]);
    daemon.wait_for_log("names no rule, and the key may ask for 2 rules");
    // The file has no rule of that name, and knows the way to the host.
    user.knock_cli(&["-4", "-r", "web", "-h", SERVER, "--lifetime", "10m"]);
    wait_for_grant(server, [10, 77, 0, 2].into(), ("tcp", 443));
    let line = daemon.wait_for_log("rule web: granted to 10.77.0.2");
    assert!(line.contains("600 s (signed by alice)"), "{line}");
    user.knock_cli(&["-4", "-r", "web", "-h", SERVER, "--address", "192.0.2.9"]);
    daemon.wait_for_log("asks for 192.0.2.9, but came from 10.77.0.2");
}

#[test]
fn a_lost_packet_is_followed_by_another_one() {
    let network = network(1);
    let _ssh = Echo::tcp(&network.server.namespace, 22).expect("an echo service");
    let user = User::new(&network, "");
    let line = user.add(&["server", "--rule", "ssh", "--wait", "22"], SERVER);
    let files = SpaFiles::new(&line);
    let daemon = daemon(&network, &files);
    // A packet has 244 to 499 bytes with its headers: the first is lost, perhaps the second too.
    network.block("ip daddr 10.77.0.1 udp dport 62201 quota until 500 bytes").expect("a rule of the bridge");
    let opened: Value = serde_json::from_str(&user.knock_cli(&["-4", "--json", "server"])).expect("JSON");
    assert_eq!(opened["result"], json!("open"), "{opened}");
    assert!((2..=3).contains(&opened["knocked"].as_u64().unwrap_or_default()), "{opened}");
    // Where IPv6 does not work on the way, the packet over IPv4 opens.
    network.unblock().expect("the rule is deleted");
    network.block("ip6 daddr fd77::1 meta l4proto { tcp, udp }").expect("a rule of the bridge");
    revoke_all(&daemon);
    let opened: Value = serde_json::from_str(&user.knock_cli(&["--json", "server"])).expect("JSON");
    assert_eq!((&opened["result"], &opened["family"]), (&json!("open"), &json!("ipv4")), "{opened}");
}

#[test]
fn a_key_that_the_server_does_not_know_opens_nothing_and_the_client_says_what_to_compare() {
    let network = network(1);
    let _ssh = Echo::tcp(&network.server.namespace, 22).expect("an echo service");
    let (user, other) = (User::new(&network, ""), User::new(&network, ""));
    user.add(&["server", "--rule", "ssh", "--wait", "22"], SERVER);
    let files = SpaFiles::new(&other.add(&["server"], SERVER));
    let _daemon = daemon(&network, &files);
    let output = user.run(program("knock-cli", &["--within", "1", "server"]), "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    let key = fs::read_to_string(user.path(".ssh/id_ed25519.pub")).expect("a key");
    let key = knock_spa::AuthorizedKeys::parse(key.as_bytes()).keys[0].key.fingerprint();
    for part in [
        "no answer.\n  A packet is never answered",
        &format!("Is the key {key} in"),
        "clock says 20",
        "UDP port 62201 out?",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(granted(&network).is_empty());
}
