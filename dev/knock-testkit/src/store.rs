//! A real Redis or Valkey server in a namespace.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::wait::wait_until;

/// The kinds of servers that are installed. Redis has to be; it says so where Valkey is not.
pub fn store_engines() -> Vec<&'static str> {
    let is_there = |program: &&str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(is_there(&"redis-server"), "there is no redis-server; run scripts/setup test");
    if !is_there(&"valkey-server") {
        eprintln!("NOT RUN with Valkey: there is no valkey-server (Debian 13, or the backports of Debian 12)");
    }
    ["redis-server", "valkey-server"].into_iter().filter(is_there).collect()
}

/// A server that runs. It is killed when it is dropped.
pub struct Store<'n> {
    engine: &'static str,
    namespace: &'n Namespace,
    /// Its files, and the socket of its administrator.
    pub directory: TempDir,
    configuration: String,
    program: Child,
}

impl<'n> Store<'n> {
    /// Starts one, empty, with these lines in its configuration. The administrator of the tests comes over a local socket.
    pub fn start(engine: &'static str, namespace: &'n Namespace, lines: &str) -> Store<'n> {
        let directory = tempfile::tempdir().expect("a directory");
        let configuration = format!(
            "bind * -::*\nprotected-mode no\nsave \"\"\nunixsocket {0}/admin.sock\ndir {0}\nloglevel warning\n\
             user admin on nopass ~* &* +@all\n{lines}\n",
            directory.path().display()
        );
        let program = run(engine, namespace, directory.path(), &configuration);
        let server = Store { engine, namespace, directory, configuration, program };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&self) {
        wait_until("the store answers", || self.admin(&["PING"]) == "PONG");
    }

    /// What the server answers to its administrator; empty if it does not.
    pub fn admin(&self, command: &[&str]) -> String {
        let socket = self.directory.path().join("admin.sock");
        let client = self.engine.replace("server", "cli");
        let output = Command::new(client)
            .args(["--user", "admin", "--pass", "x", "--no-auth-warning", "-s"])
            .arg(socket)
            .args(command)
            .output();
        String::from_utf8_lossy(&output.expect("the client of the store").stdout).trim().to_owned()
    }

    /// Puts any bytes into the store, where knockd-fleet puts the records of that realm which end at that time, in milliseconds
    /// since 1970.
    pub fn put(&self, realm: &str, record: &[u8], end: u64) {
        let (live, log, end) = (format!("knock:{{{realm}}}:live"), format!("knock:{{{realm}}}:log"), end.to_string());
        let commands: [&[&[u8]]; 3] = [
            &[b"AUTH", b"admin", b"x"],
            &[b"ZADD", live.as_bytes(), end.as_bytes(), record],
            &[b"XADD", log.as_bytes(), b"*", b"r", record],
        ];
        let mut stream = UnixStream::connect(self.directory.path().join("admin.sock")).expect("the store listens");
        for command in commands {
            let mut request = format!("*{}\r\n", command.len()).into_bytes();
            for word in command {
                request.extend(format!("${}\r\n", word.len()).bytes());
                request.extend(*word);
                request.extend(b"\r\n");
            }
            stream.write_all(&request).expect("the store reads");
            let mut answer = [0; 512];
            let length = stream.read(&mut answer).expect("the store answers");
            assert!(matches!(answer[0], b'+' | b':' | b'$'), "{}", String::from_utf8_lossy(&answer[..length]));
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.program);
        kill_process(pid, signal).expect("it runs");
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.program.id()
    }

    /// Nothing is answered until [`Store::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// It answers again.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// As a crash would end it.
    pub fn kill(&mut self) {
        self.program.kill().expect("it runs");
        self.program.wait().expect("it runs");
    }

    /// Starts it again. What it did not write to its disk is gone.
    pub fn restart(&mut self) {
        self.program = run(self.engine, self.namespace, self.directory.path(), &self.configuration);
        self.wait_until_ready();
    }
}

impl Drop for Store<'_> {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn run(engine: &str, namespace: &Namespace, directory: &Path, configuration: &str) -> Child {
    let file = directory.join("store.conf");
    std::fs::write(&file, configuration).expect("a directory that can be written to");
    let mut command = Command::new(engine);
    command.arg(file).stdin(Stdio::null()).stdout(Stdio::null());
    namespace.run(move || command.spawn()).expect("a namespace").expect("the server is installed")
}
