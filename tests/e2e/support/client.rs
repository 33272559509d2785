//! What a client does: the real knock-cli, and connections to guarded ports.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use super::Daemon;
use knock_testkit::{Answer, Host, Reach, Session, Wire, wait_until};

/// How long an ordinary connection waits for an answer before its port counts as filtered: below TCP's first
/// retransmission, far above the round trip between two namespaces.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);

/// What a test asks of a client host.
pub(crate) trait Client {
    /// What an ordinary TCP connection meets.
    fn tcp(&self, to: SocketAddr) -> Reach;
    /// What a datagram to an echo service meets.
    fn udp(&self, to: SocketAddr) -> Reach;
    /// An established session with an echo service.
    fn session(&self, to: SocketAddr) -> Session;
    /// Waits until a TCP connection succeeds.
    fn wait_until_open(&self, to: SocketAddr);
}

impl Client for Host {
    fn tcp(&self, to: SocketAddr) -> Reach {
        self.namespace.run(|| knock_testkit::tcp(to, PROBE_TIMEOUT)).and_then(|reach| reach).expect("a TCP connection")
    }

    fn udp(&self, to: SocketAddr) -> Reach {
        self.namespace.run(|| knock_testkit::udp(to, PROBE_TIMEOUT)).and_then(|reach| reach).expect("a UDP probe")
    }

    fn session(&self, to: SocketAddr) -> Session {
        self.namespace.run(|| Session::open(to, Duration::from_secs(5))).and_then(|session| session).expect("a session")
    }

    fn wait_until_open(&self, to: SocketAddr) {
        wait_until(&format!("{to} is open"), || self.tcp(to) == Reach::Open);
    }
}

/// The answer to a SYN from `source` to a port of the server, `None` where it is dropped; without waiting.
pub(crate) fn answer(wire: &Wire, source: IpAddr, port: u16) -> Option<Answer> {
    wire.syn_answer((source, 50_000).into(), super::at(source, port)).expect("the answer to a SYN")
}

/// Runs knock-cli on a client.
pub(crate) fn knock_cli(client: &Host, arguments: &[&str]) -> Output {
    let program = beside_knockd("knock-cli");
    let run = || Command::new(&program).args(arguments).output();
    let output = client.namespace.run(run).expect("the client's namespace");
    output.unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// The same, where `server.test` is the name of the server with both of its addresses.
pub(crate) fn knock_cli_by_name(client: &Host, arguments: &[&str]) -> Output {
    let hosts = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(hosts.path(), "fd77::1 server.test\n10.77.0.1 server.test\n").expect("written");
    let mut command = Command::new("unshare");
    // A mount namespace of its own: the machine keeps its names.
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
    command.arg(hosts.path()).arg(beside_knockd("knock-cli")).args(arguments);
    client.namespace.run(|| command.output()).expect("the client's namespace").expect("unshare runs")
}

/// A program of the workspace with these arguments, without a file of the user who runs this test.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(beside_knockd(name));
    command.args(arguments).env_remove("KNOCK_CONFIG").env("XDG_CONFIG_HOME", "/nonexistent");
    command
}

/// Runs knockctl.
pub(crate) fn knockctl(arguments: &[&str]) -> Output {
    program("knockctl", arguments).output().expect("knockctl can be run")
}

/// Ends all grants of that daemon.
pub(crate) fn revoke_all(daemon: &Daemon) {
    let socket = daemon.path("control.sock");
    let output = knockctl(&["--socket", socket.to_str().expect("UTF-8"), "revoke", "--all"]);
    assert!(output.status.success(), "{output:?}");
}

/// A program of another package of the workspace. Cargo builds only this package's own for its tests.
fn beside_knockd(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_knockd")).with_file_name(name);
    assert!(
        program.exists(),
        "{} is not built: run `cargo build --workspace --bins` first, or `scripts/test`, which does",
        program.display()
    );
    program
}
