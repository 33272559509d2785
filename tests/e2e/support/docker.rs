//! A real Docker in the server's namespace.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use knock_testkit::{Host, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Makes a place of its own for Docker and keeps it until the standard input ends. All that Docker writes is in memory,
/// and all processes end with the first one of their process namespace, so that nothing is left behind.
const HOLD: &str = "read -r pid rest </proc/self/stat
mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 1
for directory in /etc/docker /opt; do
    if [ -d $directory ]; then mount -t tmpfs tmpfs $directory || exit 1; fi
done
echo '{}' >/run/daemon.json
echo \"$pid\"
exec cat";

/// For IPv6 Docker 20.10 still needs `--experimental`; newer ones have it in any case.
const OPTIONS: [&str; 18] = [
    "--config-file",
    "/run/daemon.json",
    "--data-root",
    "/run/data",
    "--exec-root",
    "/run/docker",
    "--pidfile",
    "/run/docker.pid",
    "--host",
    "unix:///run/docker.sock",
    "--storage-driver",
    "vfs",
    "--log-level",
    "warn",
    "--ipv6",
    "--fixed-cidr-v6=fd00:d0c:0::/64",
    "--experimental",
    "--ip6tables",
];

/// The only image: busybox.
const IMAGE: &str = "busybox";

/// How long Docker may take to answer on a busy machine.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// A running dockerd. It and its containers end when this is dropped, and when this process dies.
pub(crate) struct Docker<'a> {
    server: &'a Host,
    holder: Child,
    /// The first process of its process namespace, as this process counts.
    pid: u32,
    daemon: Option<Child>,
    log: TempDir,
}

impl Docker<'_> {
    /// Starts dockerd with these options on the server, and waits until it answers.
    pub(crate) fn start<'a>(server: &'a Host, options: &[&str]) -> Docker<'a> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", HOLD]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = server.namespace.run(|| command.spawn()).expect("the server's namespace");
        let mut holder = spawned.unwrap_or_else(|error| panic!("unshare (package util-linux): {error}"));
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("the pipe asked for");
        let _ = BufReader::new(stdout).read_line(&mut line);
        let Ok(pid) = line.trim().parse() else {
            let mut reason = String::new();
            let _ = holder.stderr.take().expect("the pipe asked for").read_to_string(&mut reason);
            let _ = holder.wait();
            panic!("a Docker of the test's own needs root, with the right to mount: {reason}");
        };
        let log = TempDir::with_prefix("knockd-e2e-docker.").expect("a temporary directory");
        let mut docker = Docker { server, holder, pid, daemon: None, log };
        docker.launch(options);
        docker.import();
        docker
    }

    /// Ends dockerd as its service does, and starts it with these options.
    pub(crate) fn restart(&mut self, options: &[&str]) {
        self.inside(&["sh", "-c", "kill $(cat /run/docker.pid)"]);
        let daemon = self.daemon.as_mut().expect("a running dockerd");
        wait_until("dockerd ends", || daemon.try_wait().expect("a child of this process"));
        self.launch(options);
    }

    fn launch(&mut self, options: &[&str]) {
        let log = fs::File::options().create(true).append(true).open(self.log.path().join("log")).expect("a log");
        let mut command = self.command(&["dockerd"]);
        command.args(OPTIONS).args(options).stdin(Stdio::null()).stderr(log).stdout(Stdio::null());
        let spawned = self.server.namespace.run(|| command.spawn()).expect("the server's namespace");
        let mut daemon = spawned.unwrap_or_else(|error| panic!("nsenter (package util-linux): {error}"));
        wait_until("dockerd (package docker.io) answers", || {
            let ended = daemon.try_wait().expect("a child of this process");
            assert!(ended.is_none(), "dockerd (package docker.io) ended, {ended:?}:\n{}", self.log());
            UnixStream::connect(self.socket()).is_ok()
        });
        self.daemon = Some(daemon);
        self.ask("GET", "/_ping", "text/plain", b"");
    }

    /// An image that holds busybox alone.
    fn import(&self) {
        let root = self.log.path().join("image");
        fs::create_dir_all(root.join("bin")).expect("a directory");
        fs::copy("/bin/busybox", root.join("bin/busybox"))
            .unwrap_or_else(|error| panic!("/bin/busybox (package busybox-static): {error}"));
        for applet in ["sh", "nc", "cat"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
        }
        let mut command = Command::new("tar");
        let image = command.arg("-C").arg(&root).args(["-c", "."]).output().expect("tar");
        let path = format!("/images/create?fromSrc=-&repo={IMAGE}&tag=latest");
        self.ask("POST", &path, "application/x-tar", &image.stdout);
    }

    /// Runs a container that echoes what comes to its port 80/tcp; nothing is at its port 53/udp. `published` are ports of
    /// the host with ports of the container: `("8080", "80/tcp")`, `("127.0.0.1:8080", "80/tcp")`.
    pub(crate) fn run(&self, name: &str, published: &[(&str, &str)]) {
        let mut bindings = json!({});
        let mut exposed = json!({});
        for (host, port) in published {
            let (address, host) = host.rsplit_once(':').unwrap_or(("", host));
            let binding = json!({ "HostIp": address, "HostPort": host });
            match bindings[port].as_array_mut() {
                Some(bindings) => bindings.push(binding),
                None => bindings[port] = json!([binding]),
            }
            exposed[port] = json!({});
        }
        let container = json!({
            "Image": IMAGE,
            "Cmd": ["nc", "-ll", "-p", "80", "-e", "cat"],
            // Without a handler the first process of a container takes no notice of SIGTERM.
            "StopSignal": "SIGKILL",
            "ExposedPorts": exposed,
            "HostConfig": { "PortBindings": bindings, "RestartPolicy": { "Name": "unless-stopped" } },
        });
        self.post(&format!("/containers/create?name={name}"), &container);
        self.order(name, "start");
    }

    /// `start`, `stop` or `restart`.
    pub(crate) fn order(&self, name: &str, order: &str) {
        self.post(&format!("/containers/{name}/{order}"), &Value::Null);
    }

    /// The first number of Docker's version.
    pub(crate) fn version(&self) -> u32 {
        let answer = self.ask("GET", "/version", "text/plain", b"");
        let answer: Value = serde_json::from_slice(&answer).expect("Docker answers with JSON");
        let number = answer["Version"].as_str().and_then(|version| version.split('.').next()?.parse().ok());
        number.unwrap_or_else(|| panic!("a version in {answer}"))
    }

    fn inspect(&self, name: &str) -> Value {
        let answer = self.ask("GET", &format!("/containers/{name}/json"), "text/plain", b"");
        serde_json::from_slice(&answer).expect("Docker answers with JSON")
    }

    /// Runs a command of bash in a container's network, for ten seconds at most.
    pub(crate) fn run_in(&self, name: &str, command: &str) -> String {
        let pid = self.inspect(name)["State"]["Pid"].to_string();
        self.inside(&["nsenter", "--target", &pid, "--net", "--", "timeout", "10", "bash", "-c", command])
    }

    /// The addresses of a container.
    pub(crate) fn addresses(&self, name: &str) -> [IpAddr; 2] {
        let answer = self.inspect(name);
        ["IPAddress", "GlobalIPv6Address"].map(|key| {
            let address = answer["NetworkSettings"]["Networks"]["bridge"][key].as_str();
            address.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{key} in {answer}"))
        })
    }

    fn post(&self, path: &str, body: &Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.ask("POST", path, "application/json", body.as_bytes());
    }

    /// A request of Docker's HTTP interface, in version 1.0 so that the answer is as long as the connection.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        let exchange = || {
            let mut stream = UnixStream::connect(self.socket())?;
            stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
            stream.write_all(head.as_bytes())?;
            stream.write_all(body)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).map(|_| answer)
        };
        let answer: std::io::Result<Vec<u8>> = exchange();
        let mut answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}; the log:\n{}", self.log()));
        let text = String::from_utf8_lossy(&answer);
        let status = text.split(' ').nth(1).unwrap_or("");
        assert!(status.starts_with('2'), "{method} {path}: {text}; dockerd's log:\n{}", self.log());
        let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        answer.split_off(body)
    }

    /// Runs a program in Docker's place, to its end.
    pub(crate) fn inside(&self, program: &[&str]) -> String {
        let output = self.server.namespace.output(&mut self.command(program), "");
        output.unwrap_or_else(|error| panic!("{error}; dockerd's log:\n{}", self.log()))
    }

    fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--mount", "--pid", "--"]).args(program);
        command
    }

    fn socket(&self) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join("root/run/docker.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- dockerd's log ----\n{}----", self.log());
        }
        // With its standard input the first process ends, and with that all others.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.wait();
        }
    }
}
