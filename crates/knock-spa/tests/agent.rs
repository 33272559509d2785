//! A real ssh-agent signs packets.
//!
//! Needs the package openssh-client.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use knock_spa::agent::{self, AgentError, AgentKey};
use knock_spa::{PacketKeys, PublicKeyError, UnsignedPacket};
use support::{NOW, alice, authorized, cover, realm, request, string};

/// An agent of the test's own.
struct Agent {
    process: Child,
    folder: tempfile::TempDir,
}

impl Agent {
    fn start() -> Agent {
        let folder = tempfile::tempdir().expect("a folder");
        // -D: in the foreground. It listens before it writes where.
        let socket = folder.path().join("agent");
        let mut command = Command::new("ssh-agent");
        let started = command.args(["-D", "-a"]).arg(&socket).stdout(Stdio::piped()).spawn();
        let mut process = started.unwrap_or_else(|error| {
            panic!("ssh-agent: {error}; install openssh-client, or run scripts/setup test");
        });
        let mut byte = [0];
        process.stdout.as_mut().expect("it is piped").read_exact(&mut byte).expect("it says where it listens");
        Agent { process, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// Makes a key of that type, adds it, and returns its public key file.
    fn with_key(&self, kind: &str) -> String {
        let path = self.folder.path().join(kind);
        run(Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "alice", "-t", kind, "-f"]).arg(&path), None);
        run(Command::new("ssh-add").arg("-q").arg(&path).env("SSH_AUTH_SOCK", self.socket()), None);
        fs::read_to_string(path.with_extension("pub")).expect("the public key")
    }

    fn ask(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.socket()).expect("it listens");
        stream.write_all(request).expect("it reads");
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix).expect("it answers");
        let mut answer = vec![0; agent::answer_length(prefix).expect("a length")];
        stream.read_exact(&mut answer).expect("it answers");
        answer
    }

    fn list(&self) -> Result<Vec<AgentKey>, AgentError> {
        agent::read_list(&self.ask(&agent::list_request()))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Runs a program that must succeed. `askpass` answers its questions.
fn run(command: &mut Command, askpass: Option<&Path>) {
    if let Some(askpass) = askpass {
        command.env("SSH_ASKPASS", askpass).env("SSH_ASKPASS_REQUIRE", "force");
    }
    let output = command.stdin(Stdio::null()).output().expect("openssh-client is there");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_packet_that_an_agent_signs_is_accepted() {
    let agent = Agent::start();
    assert_eq!(agent.list(), Ok(Vec::new()));
    agent.with_key("rsa");
    let public = [agent.with_key("ed25519"), agent.with_key("ecdsa")].concat();
    let keys = agent.list().expect("a list");
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[0].key, Err(PublicKeyError::Rsa));
    let keyring = knock_spa::Keyring::new(&realm(), &[cover()], authorized(&public), NOW);
    for AgentKey { key, comment } in &keys[1..] {
        assert_eq!(comment, "alice");
        let key = key.clone().expect("a usable key");
        let packet_keys = PacketKeys::new(&cover(), &key, &realm());
        // In 40 signatures of ECDSA there are both halves of s, and numbers of all usual lengths.
        for nonce in 0..40 {
            let unsigned = UnsignedPacket::new(&packet_keys, [nonce; 24], &request(NOW)).expect("a valid request");
            let to_be_signed = unsigned.to_be_signed();
            let answer = agent.ask(&agent::sign_request(&key, &to_be_signed));
            let signature = agent::read_signature(&answer, &key, &to_be_signed).expect("a signature");
            let packet = unsigned.seal(&signature, 0);
            assert_eq!(keyring.verify(&keyring.open(&packet).expect("sealed")), Ok(request(NOW)), "{key:?}");

            // The same answer is not a signature over anything else.
            let wrong = AgentError::Invalid { what: "the signature is wrong" };
            assert_eq!(agent::read_signature(&answer, &key, b"else"), Err(wrong));
        }
    }
    // A key that the agent does not have.
    let refused = agent.ask(&agent::sign_request(alice().public_key(), b"x"));
    assert_eq!(agent::read_signature(&refused, alice().public_key(), b"x"), Err(AgentError::Refused));
}

#[test]
fn a_locked_agent_lists_nothing_and_refuses_to_sign() {
    let agent = Agent::start();
    agent.with_key("ed25519");
    let key = agent.list().expect("a list").remove(0).key.expect("a usable key");
    let askpass = agent.folder.path().join("askpass");
    fs::write(&askpass, "#!/bin/sh\necho secret\n").expect("it can be written");
    fs::set_permissions(&askpass, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("it is ours");
    run(Command::new("ssh-add").arg("-x").env("SSH_AUTH_SOCK", agent.socket()), Some(&askpass));
    // OpenSSH's agent says that it has no keys; others refuse.
    assert_eq!(agent.list(), Ok(Vec::new()));
    let refused = agent::read_signature(&agent.ask(&agent::sign_request(&key, b"x")), &key, b"x");
    assert_eq!(refused, Err(AgentError::Refused));
    assert_eq!(agent::read_list(&[5]), Err(AgentError::NoList));
}

#[test]
fn an_answer_that_breaks_the_protocol_is_refused() {
    let key = alice().public_key().clone();
    let entry = [string(key.blob()), string(b"a\x1bb")].concat();
    let list = |count: u32, entries: &[u8]| agent::read_list(&[&[12][..], &count.to_be_bytes(), entries].concat());
    assert_eq!(list(1, &entry), Ok(vec![AgentKey { key: Ok(key.clone()), comment: "ab".to_owned() }]));
    assert!(list(2, &entry).is_err() && list(0, &entry).is_err());
    assert!(list(2049, &[]).is_err() && list(u32::MAX, &[]).is_err());
    for length in 0..entry.len() {
        assert!(list(1, &entry[..length]).is_err(), "{length} bytes");
    }
    assert!(agent::read_list(&[]).is_err() && agent::read_list(&[6]).is_err());

    let signed = alice().sign(b"x").encode();
    let answer = string(&[string(b"ssh-ed25519"), string(&signed[..64])].concat());
    let read = |bytes: &[u8]| agent::read_signature(&[&[14], bytes].concat(), &key, b"x");
    assert_eq!(read(&answer).map(|signature| signature.encode()), Ok(signed));
    assert!(read(&[&answer[..], &[0]].concat()).is_err());
    for length in 0..answer.len() {
        assert!(read(&answer[..length]).is_err(), "{length} bytes");
    }
    for (prefix, length) in [(0, None), (1, Some(1)), (262_144, Some(262_144)), (262_145, None), (u32::MAX, None)] {
        assert_eq!(agent::answer_length(prefix.to_be_bytes()).ok(), length);
    }
}
