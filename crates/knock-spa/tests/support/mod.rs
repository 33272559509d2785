//! What the tests of packets share.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod sealer;

use std::path::{Path, PathBuf};

use knock_spa::{
    AuthorizedKey, AuthorizedKeys, Cover, Keyring, Operation, PacketKeys, PrivateKey, PublicKey, Realm, Request,
    Signature, UnixTime, UnsignedPacket,
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

pub(crate) fn p256() -> PrivateKey {
    PrivateKey::from_p256([2; 32], "bob").expect("a number of the group")
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
pub(crate) enum Device {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
}

impl Device {
    pub(crate) const APPLICATION: &str = "ssh:";

    pub(crate) fn ed25519(seed: [u8; 32]) -> Device {
        Device::Ed25519(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    pub(crate) fn p256(number: [u8; 32]) -> Device {
        Device::P256(p256::ecdsa::SigningKey::from_slice(&number).expect("a number of the group"))
    }

    fn name(&self) -> &'static [u8] {
        match self {
            Device::Ed25519(_) => b"sk-ssh-ed25519@openssh.com",
            Device::P256(_) => b"sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    pub(crate) fn blob(&self) -> Vec<u8> {
        let key = match self {
            Device::Ed25519(key) => string(key.verifying_key().as_bytes()),
            Device::P256(key) => {
                [string(b"nistp256"), string(key.verifying_key().to_sec1_point(false).as_bytes())].concat()
            }
        };
        [string(self.name()), key, string(Device::APPLICATION.as_bytes())].concat()
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::from_blob(&self.blob()).expect("a key")
    }

    /// What an agent answers: PROTOCOL.u2f.
    pub(crate) fn answer(&self, to_be_signed: &[u8], flags: u8, counter: u32) -> Vec<u8> {
        use ed25519_dalek::Signer;
        use sha2::{Digest, Sha256};
        let application = Sha256::digest(Device::APPLICATION);
        let message = Sha256::digest(to_be_signed);
        let signed = [&application[..], &[flags], &counter.to_be_bytes(), &message[..]].concat();
        let signature = match self {
            Device::Ed25519(key) => key.sign(&signed).to_bytes().to_vec(),
            Device::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(&signed);
                mpints(&signature.to_bytes())
            }
        };
        [string(self.name()), string(&signature), vec![flags], counter.to_be_bytes().to_vec()].concat()
    }

    pub(crate) fn sign(&self, to_be_signed: &[u8], flags: u8, counter: u32) -> Signature {
        let answer = self.answer(to_be_signed, flags, counter);
        Signature::from_agent(&answer, &self.public_key()).expect("a signature")
    }
}

/// A key of any type.
#[allow(clippy::large_enum_variant, reason = "a test has few of them")]
pub(crate) enum Signer {
    Key(PrivateKey),
    Device(Device),
}

impl Signer {
    /// One of each type.
    pub(crate) fn of_each_type() -> [Signer; 4] {
        [
            Signer::Key(alice()),
            Signer::Device(Device::ed25519([3; 32])),
            Signer::Key(p256()),
            Signer::Device(Device::p256([4; 32])),
        ]
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        match self {
            Signer::Key(key) => key.public_key().clone(),
            Signer::Device(device) => device.public_key(),
        }
    }

    /// Somebody touches the device.
    pub(crate) fn sign(&self, to_be_signed: &[u8]) -> Signature {
        match self {
            Signer::Key(key) => key.sign(to_be_signed),
            Signer::Device(device) => device.sign(to_be_signed, 1, 258),
        }
    }
}

/// r and s as an agent writes them: RFC 5656, section 3.1.2.
pub(crate) fn mpints(signature: &[u8]) -> Vec<u8> {
    signature.chunks(32).flat_map(mpint).collect()
}

/// A number as RFC 4251, section 5, writes it.
fn mpint(number: &[u8]) -> Vec<u8> {
    let digits = &number[number.iter().take_while(|&&byte| byte == 0).count()..];
    let zero: &[u8] = if digits.first().is_some_and(|first| first & 0x80 != 0) { &[0] } else { &[] };
    string(&[zero, digits].concat())
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
