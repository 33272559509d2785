//! Real ssh, scp, rsync and git, as an ordinary user, through the gate to a real sshd. They need root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use knock_testkit::{Host, Network, wait_until};
use serde_json::json;
use tempfile::TempDir;

use crate::support::*;

const SEQUENCE: [u16; 5] = [28731, 4219, 51802, 17660, 40117];
/// `nobody`, whom every Debian has.
const USER: u32 = 65534;
/// What the user has in the own file of ssh.
const SSH_CONFIG: &str = "Host *\n    ProxyCommand knock-cli --proxy %h %p\n";

/// An sshd that root can log in to with the user's key. It is killed when dropped.
pub(crate) struct Sshd(Child);

impl Sshd {
    /// Starts one with the files `host_key` and `key.pub` of that directory.
    pub(crate) fn start(host: &Host, directory: &Path) -> Sshd {
        let path = |name: &str| directory.join(name).display().to_string();
        let config = format!(
            "Port 22\nHostKey {}\nAuthorizedKeysFile {}\nPermitRootLogin yes\nPasswordAuthentication no\nStrictModes no\n\
             UsePAM no\nUseDNS no\nPidFile none\nSubsystem sftp internal-sftp\n",
            path("host_key"),
            path("key.pub")
        );
        fs::write(directory.join("sshd_config"), config).expect("written");
        let mut command = Command::new("unshare");
        // Its directory for privilege separation is not made on the machine.
        let script = "mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f \"$0\"";
        command.args(["--mount", "sh", "-c", script]).arg(directory.join("sshd_config")).stderr(Stdio::null());
        let child = host.namespace.run(|| command.spawn()).expect("inside").expect("sshd; install openssh-server");
        Sshd(child)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server behind a gate, and a user on the client with the programs and the files that `knock-cli add` makes.
struct Setup {
    network: Network,
    daemon: Daemon,
    directory: TempDir,
    _sshds: Vec<Sshd>,
}

impl Setup {
    fn new(clients: u8) -> Setup {
        assert!(rustix::process::getuid().is_root(), "sshd needs root");
        let network = network(clients);
        let directory = TempDir::with_prefix("knockd-ssh.").expect("a temporary directory");
        let path = directory.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a directory for all");
        for key in ["host_key", "key"] {
            let mut keygen = Command::new("ssh-keygen");
            let made = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path.join(key)).status();
            assert!(made.expect("ssh-keygen").success());
        }
        let built = program("knock-cli", &[]);
        fs::create_dir(path.join("bin")).expect("a directory");
        fs::copy(built.get_program(), path.join("bin/knock-cli")).expect("a copy that the user can run");
        fs::create_dir(path.join("home")).expect("a directory");
        chown(path.join("home"), Some(USER), Some(USER)).expect("a directory of the user");
        fs::write(path.join("hosts"), "fd77::1 server.test\n10.77.0.1 server.test\n").expect("written");
        let rule = json!({ "name": "ssh", "sequence": SEQUENCE, "allow": { "ports": [22], "timeout": "1h" } });
        let daemon = Daemon::start(&network.server, json!({ "rules": [rule] }));
        let mut sshds = vec![Sshd::start(&network.server, path)];
        if let Some(inner) = network.clients.get(1) {
            sshds.push(Sshd::start(inner, path));
        }
        let setup = Setup { network, daemon, directory, _sshds: sshds };
        setup.user_file("key", &fs::read_to_string(setup.path("key")).expect("the key"));
        setup.user_file("config.json", &setup.entry(&SEQUENCE));
        let plain = format!(
            "IdentityFile {}\nUserKnownHostsFile {}\nStrictHostKeyChecking accept-new\nLogLevel ERROR\nUser root\n",
            setup.path("home/key").display(),
            setup.path("home/known_hosts").display()
        );
        setup.user_file("ssh_config", &format!("{SSH_CONFIG}Host *\n{plain}"));
        setup.user_file("plain_config", &plain);
        // A connection from the server itself passes the gate: sshd answers.
        let loopback = "127.0.0.1:22".parse().expect("an address");
        let answers = || setup.network.server.namespace.run(|| knock_testkit::tcp(loopback, Duration::from_secs(1)));
        wait_until("sshd listens", || matches!(answers(), Ok(Ok(knock_testkit::Reach::Open))));
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the administrator sends.
    fn entry(&self, sequence: &[u16]) -> String {
        json!({ "rules": [{ "name": "ssh", "host": "server.test", "sequence": sequence, "wait": 22 }] }).to_string()
    }

    /// A file that the user alone can read.
    fn user_file(&self, name: &str, text: &str) {
        let path = self.path("home").join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
        chown(&path, Some(USER), Some(USER)).expect("a file of the user");
    }

    /// Runs a command line of the user's shell; `$CFG` is the user's file of ssh.
    fn user(&self, line: &str) -> Output {
        let script = format!(
            "mount --bind {hosts} /etc/hosts && exec setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs sh -c \
             \"$0\"",
            hosts = self.path("hosts").display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, line]);
        let home = self.path("home");
        command.env("HOME", &home).env("CFG", home.join("ssh_config")).env("KNOCK_CONFIG", home.join("config.json"));
        command.env("GIT_SSH_COMMAND", format!("ssh -F {}", home.join("ssh_config").display()));
        command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", self.path("bin").display()));
        command.current_dir(&home).stdin(Stdio::null());
        self.network.client().namespace.run(|| command.output()).expect("inside").expect("it runs")
    }

    /// The same from closed; it must succeed.
    #[track_caller]
    fn once_closed(&self, line: &str) -> String {
        revoke_all(&self.daemon);
        let output = self.user(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn three_lines_of_ssh_config_are_enough_for_ssh_scp_rsync_and_git() {
    let setup = Setup::new(2);
    let of_root = setup.path("of_root").display().to_string();
    fs::create_dir(&of_root).expect("a directory");
    let git = format!(
        "cd {of_root} && git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first"
    );
    assert!(Command::new("sh").args(["-c", &git]).status().expect("git").success());

    let plain = setup.user("ssh -F plain_config -o ConnectTimeout=1 server.test true");
    assert_eq!(plain.status.code(), Some(255), "the gate is closed: {plain:?}");
    assert_eq!(setup.once_closed("ssh -F $CFG server.test echo in"), "in\n");
    assert_eq!(setup.once_closed("knock-cli ssh -F plain_config server.test echo in"), "in\n");
    setup.once_closed(&format!("echo text > f && scp -q -F $CFG f server.test:{of_root}/scp"));
    assert_eq!(fs::read_to_string(format!("{of_root}/scp")).expect("copied"), "text\n");
    setup.once_closed(&format!("rsync -e \"ssh -F $CFG\" f server.test:{of_root}/rsync"));
    assert_eq!(fs::read_to_string(format!("{of_root}/rsync")).expect("copied"), "text\n");
    setup.once_closed(&format!("git clone -q ssh://server.test{of_root}/r clone"));
    assert!(setup.path("home/clone/.git").exists());
    // A megabyte each way.
    let sum = "head -c 1000000 /dev/zero | ssh -F $CFG server.test cat | cksum";
    assert_eq!(setup.once_closed(sum), setup.once_closed("head -c 1000000 /dev/zero | cksum"));

    // A connection that a master carries needs no knock.
    let master = "-F $CFG -o ControlPath=cm -o ControlMaster=auto -o ControlPersist=60";
    setup.once_closed(&format!("ssh {master} server.test true"));
    assert_eq!(setup.once_closed(&format!("ssh {master} server.test echo again")), "again\n");
    assert_eq!(elements(&setup.network.server, "grants6").len() + elements(&setup.network.server, "grants4").len(), 0);
    setup.user("ssh -F $CFG -o ControlPath=cm -O exit server.test");

    // Through the knocked host to one behind it.
    assert_eq!(setup.once_closed("ssh -F $CFG -J server.test 10.77.0.3 echo inner"), "inner\n");
    // And a host that no rule names, directly.
    assert_eq!(setup.once_closed("ssh -F $CFG 10.77.0.3 echo plain"), "plain\n");
}

#[test]
fn ssh_works_where_one_ip_version_is_broken() {
    let setup = Setup::new(1);
    for (broken, option) in [
        ("ip6 daddr fd77::1 meta l4proto { tcp, udp }", ""),
        ("ip6 saddr fd77::1 meta l4proto { tcp, udp }", "-4"),
        ("ip daddr 10.77.0.1 meta l4proto { tcp, udp }", "-6"),
    ] {
        setup.network.block(broken).expect("a rule of the bridge");
        assert_eq!(setup.once_closed(&format!("ssh {option} -F $CFG server.test echo in")), "in\n", "{broken}");
        setup.network.unblock().expect("the rules of the bridge are deleted");
    }
}

#[test]
fn ssh_says_why_a_wrong_sequence_opens_nothing() {
    let setup = Setup::new(1);
    setup.user_file("config.json", &setup.entry(&[28731, 4219, 9]));
    let start = Instant::now();
    let output = setup.user("ssh -F $CFG server.test true");
    // Ten seconds of the client, and what a busy machine adds.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("knock-cli: server.test:22 did not open: "), "{stderr}");
    assert!(
        stderr.contains("knocks over IPv6 and IPv4 in 10 s, no answer.\n  Is it the server's sequence? "),
        "{stderr}"
    );
    assert_eq!(output.status.code(), Some(255));
}
