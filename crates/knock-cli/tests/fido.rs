//! A key in a FIDO device: an agent of the test stands for ssh-agent and the device, and takes its time for a touch.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use knock_client::spa::{PrivateKey, PublicKey};
use serde_json::json;
use sha2::{Digest, Sha256};
use support::ssh::{Home, accepted, received, rule};
use support::*;

const APPLICATION: &[u8] = b"ssh:";
const TOUCHED: u8 = 1;
/// How long the user takes.
const TOUCH: Duration = Duration::from_millis(1500);

fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
    [&length[..], bytes].concat()
}

/// The strings (RFC 4251, section 5) at the start of these bytes.
fn strings<const N: usize>(mut bytes: &[u8]) -> [&[u8]; N] {
    [(); N].map(|()| {
        let (length, rest) = bytes.split_first_chunk().expect("a length");
        let (string, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        bytes = rest;
        string
    })
}

/// An agent that holds a key in a FIDO device.
struct FidoAgent {
    key: PublicKey,
    touches: Arc<AtomicUsize>,
}

impl FidoAgent {
    fn listen(socket: &Path) -> FidoAgent {
        let secret = PrivateKey::from_seed([5; 32], "");
        let point = secret.public_key().blob().last_chunk::<32>().expect("it ends with the point").to_vec();
        let blob = [string(b"sk-ssh-ed25519@openssh.com"), string(&point), string(APPLICATION)].concat();
        let agent = FidoAgent { key: PublicKey::from_blob(&blob).expect("a key"), touches: Arc::default() };
        let (listener, touches) = (UnixListener::bind(socket).expect("a socket"), Arc::clone(&agent.touches));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &secret, &blob, &touches);
            }
        });
        agent
    }
}

/// Answers one request.
fn answer(mut stream: UnixStream, secret: &PrivateKey, blob: &[u8], touches: &AtomicUsize) -> std::io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut request = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut request)?;
    let message = match request[0] {
        11 => [&[12, 0, 0, 0, 1][..], &string(blob), &string(b"alice-sk")].concat(),
        _ => {
            let [key, to_be_signed] = strings(&request[1..]);
            assert_eq!(key, blob);
            thread::sleep(TOUCH);
            let counter = u32::try_from(touches.fetch_add(1, Ordering::Relaxed)).expect("few").to_be_bytes();
            // PROTOCOL.u2f.
            let signed =
                [&Sha256::digest(APPLICATION)[..], &[TOUCHED], &counter, &Sha256::digest(to_be_signed)].concat();
            let signature = &secret.sign(&signed).encode()[..64];
            let signature =
                [&string(b"sk-ssh-ed25519@openssh.com")[..], &string(signature), &[TOUCHED], &counter].concat();
            [&[14][..], &string(&signature)].concat()
        }
    };
    stream.write_all(&string(&message))
}

#[test]
fn a_touch_is_asked_for_once_and_its_time_is_not_counted() {
    let home = Home::new();
    let agent = FidoAgent::listen(&home.path("agent"));
    let (udp, port) = udp();
    home.rules(json!([rule("web", port)]));
    let shut = closed_port().to_string();
    // The limit is shorter than the touch, and leaves time for two rounds after it.
    let mut client = home.client(&["--within", "1.2", "--wait", &shut, "web"]);
    let start = Instant::now();
    let output = client.env("SSH_AUTH_SOCK", home.path("agent")).output().expect("it runs");
    assert!(start.elapsed() >= TOUCH + Duration::from_millis(1200), "{:?}", start.elapsed());
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    let packets = received(&udp);
    assert!(packets.len() >= 2 && packets.iter().all(|packet| *packet == packets[0]), "{}", packets.len());
    accepted(&packets[0], &format!("{} alice", agent.key));
    assert_eq!(agent.touches.load(Ordering::Relaxed), 1);
}

#[test]
fn on_a_terminal_the_user_is_told_to_touch_the_key() {
    let home = Home::new();
    let agent = FidoAgent::listen(&home.path("agent"));
    let (_udp, port) = udp();
    home.rules(json!([rule("web", port)]));
    let client = home.client(&["web"]);
    let line = format!("{} web", client.get_program().display());
    // Of util-linux: it runs the program on a terminal.
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(home.path("")).env_clear();
    script.env("HOME", home.path("")).env("PATH", "/usr/bin:/bin").env("SSH_AUTH_SOCK", home.path("agent"));
    let output = with_input(&mut script, "");
    let said = stdout(&output);
    let expected = format!("knock-cli: touch your key {} (alice-sk), in the ssh agent\r\n", agent.key.fingerprint());
    assert!(said.starts_with(&expected), "{said}");
    assert!(said.ends_with("sent a signed packet to 127.0.0.1\r\n"), "{said}");
}
