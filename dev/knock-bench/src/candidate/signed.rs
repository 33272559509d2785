//! The daemon of this repository with signed packets in place of a sequence.

use std::net::SocketAddr;
use std::path::Path;

use knock_spa::{Cover, Operation, PacketKeys, PrivateKey, Realm, Request, UnixTime, UnsignedPacket};
use knock_testkit::{Packet, SERVER_V4};
use serde_json::json;

use crate::candidate::{Candidate, GUARDED, Knocks, SPA_PORT, directory};
use crate::error::{Result, write_secret};

/// Users that knock in turn: each may be served ten times in a second.
const USERS: usize = 100;
const REALM: &str = "bench.example";
const COVER: [u8; 32] = [7; 32];

/// The users that knock.
pub(super) struct Users {
    users: Vec<(PrivateKey, PacketKeys)>,
    next: usize,
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// No key has its key id.
    KeyId,
    /// It was changed after it was sealed.
    Seal,
    /// Its signature is that of something else.
    Signature,
}

impl Users {
    fn new(count: usize) -> Users {
        let (cover, realm) = (Cover::from_bytes(COVER), REALM.parse::<Realm>().expect("a realm"));
        let user = |number: usize| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
            let key = PrivateKey::from_seed(seed, "a user");
            let packet_keys = PacketKeys::new(&cover, key.public_key(), &realm);
            (key, packet_keys)
        };
        Users { users: (0..count).map(user).collect(), next: 0 }
    }

    fn lines(&self) -> String {
        self.users.iter().enumerate().map(|(number, (key, _))| format!("{} user{number}\n", key.public_key())).collect()
    }

    /// A packet of the next user.
    pub(super) fn payload(&mut self, fault: Fault) -> Vec<u8> {
        let (key, packet_keys) = &self.users[self.next % self.users.len().min(USERS)];
        self.next += 1;
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        let request = Request {
            operation: Operation::Open,
            address: None,
            widen: false,
            lifetime: None,
            time: UnixTime::from_millis(u64::try_from(now).unwrap_or(0)),
            rule: Some("bench".parse().expect("a name")),
        };
        let mut nonce = [0; 24];
        nonce.fill_with(|| fastrand::u8(..));
        let unsigned = UnsignedPacket::new(packet_keys, nonce, &request).expect("a valid request");
        let signed = if fault == Fault::Signature { b"something else".to_vec() } else { unsigned.to_be_signed() };
        let mut payload = unsigned.seal(&key.sign(&signed), fastrand::u8(..));
        match fault {
            Fault::KeyId => payload[0] ^= 1,
            Fault::Seal => payload[40] ^= 1,
            Fault::None | Fault::Signature => {}
        }
        payload
    }
}

impl Candidate {
    /// Our daemon, which accepts signed packets of so many keys.
    pub(crate) fn signed(program: &Path, scratch: &Path, name: &str, keys: usize) -> Result<Candidate> {
        let mut candidate = Candidate::new(name)?;
        let directory = directory(scratch, &format!("signed-{keys}"))?;
        let (authorized_keys, cover) = (directory.join("authorized_keys"), directory.join("cover"));
        let users = Users::new(keys);
        write_secret(&authorized_keys, &users.lines())?;
        write_secret(&cover, &Cover::from_bytes(COVER).to_file())?;
        let spa =
            json!({ "ports": [SPA_PORT], "realm": REALM, "authorized_keys": authorized_keys, "cover_files": [cover] });
        let rule = json!({ "name": "bench", "spa": true, "allow": { "ports": [GUARDED], "timeout": "1h" } });
        candidate.start_ours(program, &directory, json!({ "spa": spa, "rules": [rule] }))?;
        candidate.knocks = Knocks::Signed(users);
        Ok(candidate)
    }

    /// A packet that has that fault, where this candidate has signed packets.
    pub(crate) fn packet_with(&mut self, fault: Fault, source: SocketAddr) -> Option<Packet> {
        let Knocks::Signed(users) = &mut self.knocks else { return None };
        let payload = users.payload(fault);
        Some(Packet { payload, ..Packet::udp(source, SocketAddr::new(SERVER_V4.into(), SPA_PORT)) })
    }

    /// Sends these packets to the server at once.
    pub(crate) fn send_all(&self, packets: &[Packet]) -> Result<()> {
        self.wire.send_all(packets).map_err(Into::into)
    }
}
