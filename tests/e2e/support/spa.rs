//! Signed packets as a client would make them, and the files of the server that accepts them.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knock_spa::{Cover, Operation, PacketKeys, PrivateKey, Realm, Request, UnixTime, UnsignedPacket};
use knock_testkit::{Packet, Wire};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::at;

/// The port of signed packets.
pub(crate) const SPA_PORT: u16 = 62_201;

/// A user with an ssh key.
pub(crate) struct Signer {
    key: PrivateKey,
    packet_keys: PacketKeys,
}

/// The file of keys and that of the cover.
pub(crate) struct SpaFiles {
    directory: TempDir,
    pub(crate) cover: Cover,
}

/// Now, by the clock of both sides, and `ahead` seconds.
pub(crate) fn clock(ahead: i64) -> UnixTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis();
    let now = u64::try_from(now).expect("a clock before the year 500,000,000");
    UnixTime::from_millis(now.saturating_add_signed(1000 * ahead))
}

/// A request for a rule, for the source of the packet.
pub(crate) fn open(rule: &str) -> Request {
    Request {
        operation: Operation::Open,
        address: None,
        widen: false,
        lifetime: None,
        time: clock(0),
        rule: Some(rule.parse().expect("a name")),
    }
}

impl Signer {
    /// The user with that number, whose packets are sealed with that cover.
    pub(crate) fn new(number: u8, cover: &Cover) -> Signer {
        Signer::of_realm(number, cover, "example.com")
    }

    /// The same, for another realm.
    pub(crate) fn of_realm(number: u8, cover: &Cover, realm: &str) -> Signer {
        Signer::with_key(PrivateKey::from_seed([number; 32], "a user"), cover, realm)
    }

    /// A user with a key of ECDSA.
    pub(crate) fn with_ecdsa(number: u8, cover: &Cover) -> Signer {
        let key = PrivateKey::from_p256([number; 32], "a user").expect("a number of the group");
        Signer::with_key(key, cover, "example.com")
    }

    fn with_key(key: PrivateKey, cover: &Cover, realm: &str) -> Signer {
        let realm: Realm = realm.parse().expect("a realm");
        Signer { packet_keys: PacketKeys::new(cover, key.public_key(), &realm), key }
    }

    /// The payload of a packet that no other is like.
    pub(crate) fn payload(&self, request: &Request) -> Vec<u8> {
        let mut nonce = [0; 24];
        nonce.fill_with(|| fastrand::u8(..));
        let unsigned = UnsignedPacket::new(&self.packet_keys, nonce, request).expect("a valid request");
        unsigned.seal(&self.key.sign(&unsigned.to_be_signed()), fastrand::u8(..))
    }

    /// The line of the file of keys, with these options in front.
    pub(crate) fn line(&self, options: &str, user: &str) -> String {
        let separator = if options.is_empty() { "" } else { " " };
        format!("{options}{separator}{} {user}\n", self.key.public_key())
    }

    /// The fingerprint of the key.
    pub(crate) fn fingerprint(&self) -> String {
        self.key.public_key().fingerprint().to_string()
    }
}

/// Sends a payload to the server.
pub(crate) fn send(wire: &Wire, source: IpAddr, payload: &[u8]) {
    wire.send(&datagram(source, payload)).expect("the packet is sent");
}

/// The packet with that payload.
pub(crate) fn datagram(source: IpAddr, payload: &[u8]) -> Packet {
    Packet { payload: payload.to_vec(), ..Packet::udp(SocketAddr::new(source, 40_000), at(source, SPA_PORT)) }
}

impl SpaFiles {
    /// Files with those lines of keys, and a cover.
    pub(crate) fn new(keys: &str) -> SpaFiles {
        let files =
            SpaFiles { directory: tempfile::tempdir().expect("a directory"), cover: Cover::from_bytes([7; 32]) };
        files.write_keys(keys);
        write(&files.path("cover"), &files.cover.to_file());
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the file of keys again.
    pub(crate) fn write_keys(&self, keys: &str) {
        write(&self.path("authorized_keys"), keys);
    }

    /// The configuration: `spa`, these rules, and the window.
    pub(crate) fn configuration(&self, rules: Value, window: Duration) -> Value {
        json!({
            "spa": {
                "ports": [SPA_PORT],
                "realm": "example.com",
                "authorized_keys": self.path("authorized_keys"),
                "cover_files": [self.path("cover")],
                "window": window.as_secs(),
            },
            "rules": rules,
        })
    }
}

fn write(path: &Path, text: &str) {
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).expect("the file");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("it is written");
}
