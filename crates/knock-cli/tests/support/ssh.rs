//! Real ssh keys and a real ssh agent, and a server that opens packets.

use std::io::{ErrorKind, Read};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use knock_client::spa::{AuthorizedKeys, Cover, Keyring, Request, UnixTime};
use serde_json::{Value, json};

use super::{client, program, write};

/// The cover of the tests, as in a file and as in a URL.
pub(crate) const COVER: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
pub(crate) const COVER_OF_URL: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

/// A user's home directory, with a file of rules.
pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Home {
        let home = Home(tempfile::tempdir().expect("a temporary directory"));
        std::fs::create_dir_all(home.path(".ssh")).expect("made");
        std::fs::create_dir_all(home.path(".config/knock")).expect("made");
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn rules(&self, rules: Value) {
        write(&self.path(".config/knock/config.json"), &json!({ "rules": rules }).to_string());
    }

    /// Makes a key and returns its line of authorized_keys.
    pub(crate) fn key(&self, name: &str, kind: &str, passphrase: &str) -> String {
        let path = self.path(".ssh").join(name);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", kind, "-N", passphrase, "-C", &format!("alice-{name}"), "-f"]).arg(&path);
        succeeds(&mut keygen);
        std::fs::read_to_string(path.with_extension("pub")).expect("the public key")
    }

    /// The client of this user.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = client(program(), self.0.path());
        command.args(arguments).env("HOME", self.0.path()).env_remove("XDG_CONFIG_HOME");
        command
    }
}

/// Runs a program that must succeed.
pub(crate) fn succeeds(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("openssh-client is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An ssh agent, killed when dropped.
pub(crate) struct Agent {
    process: Child,
    folder: tempfile::TempDir,
}

impl Agent {
    /// Starts one. A script in `askpass` answers its questions.
    pub(crate) fn start(askpass: Option<&Path>) -> Agent {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("ssh-agent");
        // -D: in the foreground. It listens before it writes where.
        command.args(["-D", "-a"]).arg(folder.path().join("agent")).stdout(Stdio::piped());
        if let Some(askpass) = askpass {
            command.env("SSH_ASKPASS", askpass).env("SSH_ASKPASS_REQUIRE", "force");
        }
        let mut process = command.spawn().expect("ssh-agent; install openssh-client");
        process.stdout.as_mut().expect("it is piped").read_exact(&mut [0]).expect("it says where it listens");
        Agent { process, folder }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// Runs ssh-add, whose questions this script answers.
    pub(crate) fn add(&self, arguments: &[&str], askpass: &Path) {
        let mut add = Command::new("ssh-add");
        add.arg("-q").args(arguments).env("SSH_AUTH_SOCK", self.socket());
        succeeds(add.env("SSH_ASKPASS", askpass).env("SSH_ASKPASS_REQUIRE", "force"));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A script that ssh-add and ssh-agent run to ask for a passphrase.
pub(crate) fn askpass(home: &Home, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = home.path("askpass");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("changed");
    path
}

/// The payloads that have arrived, at least one of them.
pub(crate) fn received(socket: &UdpSocket) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => payloads.push(buffer[..length].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock && !payloads.is_empty() => break,
            Err(error) => panic!("no packet: {error}"),
        }
        socket.set_nonblocking(true).expect("a socket can be non-blocking");
    }
    socket.set_nonblocking(false).expect("a socket can be blocking");
    payloads
}

pub(crate) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    UnixTime::from_millis(since.as_millis().try_into().expect("small"))
}

/// What a server with these authorized keys reads in a packet.
pub(crate) fn accepted(payload: &[u8], authorized_keys: &str) -> Request {
    let authorized = AuthorizedKeys::parse(authorized_keys.as_bytes());
    let realm = "example.com".parse().expect("a realm");
    let cover = Cover::from_file(COVER.as_bytes()).expect("a cover");
    let keyring = Keyring::new(&realm, &[cover], authorized.keys, now());
    let opened = keyring.open(payload).expect("a packet of a known key");
    let request = keyring.verify(&opened).expect("a valid packet");
    assert!(now().since(request.time).as_secs() < 20, "the packet says {}", request.time);
    request
}

/// A rule of the user's file for a server at that UDP port of loopback.
pub(crate) fn rule(name: &str, port: u16) -> Value {
    json!({ "name": name, "host": "127.0.0.1", "spa": { "port": port, "realm": "example.com", "cover": COVER } })
}
