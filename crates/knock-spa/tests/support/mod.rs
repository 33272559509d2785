//! What the tests of packets share.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};

use knock_spa::{
    AuthorizedKey, AuthorizedKeys, Cover, Keyring, Operation, PacketKeys, PrivateKey, Realm, Request, Signature,
    UnixTime, UnsignedPacket,
};

/// 2027-01-15 08:00 UTC.
pub(crate) const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_000);

pub(crate) fn realm() -> Realm {
    "example.com".parse().expect("a realm")
}

pub(crate) fn cover() -> Cover {
    Cover::from_bytes([7; 32])
}

pub(crate) fn alice() -> PrivateKey {
    PrivateKey::from_seed([1; 32], "alice")
}

/// The keys of a file that has no line that can't be used.
pub(crate) fn authorized(file: &str) -> Vec<AuthorizedKey> {
    let read = AuthorizedKeys::parse(file.as_bytes());
    assert_eq!(read.warnings, [], "{file}");
    read.keys
}

pub(crate) fn keyring(now: UnixTime) -> Keyring {
    let file = format!("{} alice", alice().public_key());
    Keyring::new(&realm(), &[cover()], authorized(&file), now)
}

pub(crate) fn request(time: UnixTime) -> Request {
    Request {
        operation: Operation::Open,
        address: None,
        widen: false,
        lifetime: None,
        time,
        rule: Some("ssh".parse().expect("a name")),
    }
}

/// A packet of that key with that cover and realm.
pub(crate) fn seal(key: &PrivateKey, cover: &Cover, realm: &Realm, request: &Request, padding: u8) -> Vec<u8> {
    let keys = PacketKeys::new(cover, key.public_key(), realm);
    let unsigned = UnsignedPacket::new(&keys, [9; 24], request).expect("a valid request");
    unsigned.seal(&key.sign(&unsigned.to_be_signed()), padding)
}

/// A packet of alice.
pub(crate) fn packet(time: UnixTime) -> Vec<u8> {
    seal(&alice(), &cover(), &realm(), &request(time), 20)
}

/// A key such as a FIDO device holds, held by the test.
pub(crate) struct Device(pub(crate) ed25519_dalek::SigningKey);

impl Device {
    pub(crate) const APPLICATION: &str = "ssh:";
    const NAME: &str = "sk-ssh-ed25519@openssh.com";

    pub(crate) fn blob(&self) -> Vec<u8> {
        [
            string(Device::NAME.as_bytes()),
            string(self.0.verifying_key().as_bytes()),
            string(Device::APPLICATION.as_bytes()),
        ]
        .concat()
    }

    /// What an agent answers: PROTOCOL.u2f.
    pub(crate) fn answer(&self, to_be_signed: &[u8], flags: u8, counter: u32) -> Vec<u8> {
        use ed25519_dalek::Signer;
        use sha2::{Digest, Sha256};
        let application = Sha256::digest(Device::APPLICATION);
        let message = Sha256::digest(to_be_signed);
        let signed = [&application[..], &[flags], &counter.to_be_bytes(), &message[..]].concat();
        let signature = self.0.sign(&signed).to_bytes();
        [string(Device::NAME.as_bytes()), string(&signature), vec![flags], counter.to_be_bytes().to_vec()].concat()
    }

    pub(crate) fn sign(&self, to_be_signed: &[u8], flags: u8, counter: u32) -> Signature {
        let key = knock_spa::PublicKey::from_blob(&self.blob()).expect("a key");
        Signature::from_agent(&self.answer(to_be_signed, flags, counter), &key).expect("a signature")
    }
}

/// A string of RFC 4251.
pub(crate) fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits = |index: usize| u8::from_str_radix(&text[index..index + 2], 16);
    (0..text.len()).step_by(2).map(|index| digits(index).expect("hexadecimal")).collect()
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
