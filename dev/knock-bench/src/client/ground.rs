//! Where the client is measured: our daemon, a guarded port with a greeting or a real sshd, and a client host.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use knock_testkit::{Network, SERVER_V4};
use serde_json::json;

use crate::error::{Attempt, Error, Result, write_secret};
use crate::process::Daemon;

/// The knocks that open both ports.
pub(super) const SEQUENCE: [u16; 5] = [28731, 4219, 51802, 17660, 40117];
/// The guarded port with the greeting.
pub(super) const GREETING_PORT: u16 = 2222;
/// What is sent there to everybody who connects.
pub(super) const GREETING: &[u8] = b"SSH-2.0-bench\r\n";

/// All of it, until dropped.
pub(super) struct Ground {
    pub(super) network: Network,
    pub(super) directory: PathBuf,
    _daemon: Daemon,
    control: PathBuf,
    sshd: Option<Child>,
}

impl Ground {
    pub(super) fn new(knockd: &Path, scratch: &Path) -> Result<Ground> {
        let network = Network::new(1)?;
        let directory = scratch.join("client");
        fs::create_dir_all(&directory).attempt(|| format!("make {}", directory.display()))?;
        let (config, log, control) =
            (directory.join("config.json"), directory.join("log"), directory.join("control.sock"));
        let allow = json!({ "ports": [22, GREETING_PORT], "timeout": "1h" });
        let rules = json!([{ "name": "ssh", "sequence": SEQUENCE, "allow": allow }]);
        let text =
            json!({ "rules": rules, "control_socket": control, "state_dir": directory, "log": { "target": "stderr" } });
        write_secret(&config, &text.to_string())?;
        let mut command = Command::new(knockd);
        let daemon = Daemon::start(&network.server, command.arg("-c").arg(&config), &log, &log, "ready: ")?;
        let host = SERVER_V4.to_string();
        let entry = json!({ "rules": [{ "name": "ssh", "host": [host, "10.78.0.1"], "sequence": SEQUENCE }] });
        write_secret(&directory.join("client.json"), &entry.to_string())?;
        let listener = network.server.namespace.run(|| TcpListener::bind(("::", GREETING_PORT)))?;
        let listener = listener.attempt(|| format!("listen on {GREETING_PORT}/tcp"))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = (&stream).write_all(GREETING);
            }
        });
        Ok(Ground { network, directory, _daemon: daemon, control, sshd: None })
    }

    /// Closes the guarded ports for everybody.
    pub(super) fn close(&self) -> Result<()> {
        let request = json!({ "version": 1, "command": "revoke-all" }).to_string();
        let mut answer = String::new();
        let asked = UnixStream::connect(&self.control).and_then(|mut stream| {
            stream.write_all(request.as_bytes())?;
            stream.shutdown(std::net::Shutdown::Write)?;
            stream.read_to_string(&mut answer)
        });
        asked.attempt(|| format!("ask {}", self.control.display()))?;
        if answer.contains("\"result\"") {
            return Ok(());
        }
        Err(Error::Unexpected { origin: "knockd".to_owned(), text: answer, expected: "a result" })
    }

    /// Runs `work` in the namespace of the client.
    pub(super) fn client<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.network.client().namespace.run(work)?
    }

    /// Starts a real sshd. Where it does not answer, as without root, there is none.
    pub(super) fn start_sshd(&mut self) -> Result<bool> {
        let path = |name: &str| self.directory.join(name).display().to_string();
        for key in ["host_key", "key"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]).stdin(Stdio::null());
            if !keygen.status().is_ok_and(|status| status.success()) {
                return Ok(false);
            }
        }
        // The home is one without a start-up file of the shell, which would be measured too.
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nPermitRootLogin yes\nPasswordAuthentication no\nStrictModes no\nUsePAM no\n\
             UseDNS no\nPidFile none\nSetEnv HOME=/nonexistent\n",
            path("host_key"),
            path("key.pub")
        );
        let name = path("sshd_config");
        fs::write(&name, config).attempt(|| format!("write {name}"))?;
        let script = "mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -f \"$0\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, &name]).stderr(Stdio::null());
        let child = self.network.server.namespace.run(|| command.spawn())?.attempt(|| "run sshd".to_owned())?;
        self.sshd = Some(child);
        let start = Instant::now();
        let answers = || {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:22").ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
            let mut banner = [0; 4];
            stream.read_exact(&mut banner).ok().filter(|()| &banner == b"SSH-")
        };
        while start.elapsed() < Duration::from_secs(5) {
            if self.network.server.namespace.run(answers)?.is_some() {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(sshd) = &mut self.sshd {
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
    }
}
