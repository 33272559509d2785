//! The implementation in Python, which was written from docs/spa-protocol.md alone, and this one agree.
//!
//! Needs Python 3 with the package `cryptography` (Debian: python3-cryptography).

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use knock_spa::{
    AuthorizedKey, BodyError, Cover, Keyring, Operation, PacketKeys, PrivateKey, PublicKey, Refusal, Request,
    Signature, SignatureError, UnixTime, UnsignedPacket,
};
use serde_json::{Value, json};
use support::{Device, NOW, Signer, alice, authorized, cover, hex, realm, request, root, seal, string, unhex};

/// A Python that has `cryptography`: the one of the path, or that of the distribution.
fn python() -> Command {
    let found = ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let imported = Command::new(python).args(["-c", "import cryptography"]).stderr(Stdio::null()).status();
        imported.is_ok_and(|status| status.success())
    });
    let Some(python) = found else {
        panic!("no python3 has the package `cryptography`; install python3-cryptography, or run scripts/setup test");
    };
    let mut command = Command::new(python);
    command.arg("-B").arg(root().join("tests/spa/signed_packet.py"));
    command
}

/// The other implementation, which answers requests.
struct Other {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Other {
    fn start() -> Other {
        let piped = Stdio::piped;
        let mut process = python().arg("serve").stdin(piped()).stdout(piped()).spawn().expect("it can be started");
        let requests = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        Other { process, requests, answers }
    }

    fn ask(&mut self, mut request: Value, command: &str) -> Value {
        request["command"] = json!(command);
        writeln!(self.requests.as_mut().expect("it is piped"), "{request}").expect("it reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("it answers");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    /// A packet that it seals.
    fn seal(&mut self, inputs: Value) -> Vec<u8> {
        unhex(self.ask(inputs, "seal")["packet"].as_str().expect("a packet"))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.requests = None;
        drop(self.process.wait());
    }
}

/// The inputs of a packet of a key, in the terms of a test vector.
fn inputs_of(signer: &Signer, seed: u8, request: &Request) -> Value {
    let fido = matches!(signer, Signer::Device(_));
    json!({
        "realm": realm().as_str(), "cover": "07".repeat(32), "type": signer.public_key().key_type().name(),
        "seed": hex(&[seed; 32]), "application": fido.then_some(Device::APPLICATION),
        "operation": if request.operation == Operation::Open { "open" } else { "close" },
        "address": request.address.map(|address| address.to_string()),
        "widen": request.widen,
        "lifetime": request.lifetime.map_or(0, NonZeroU32::get),
        "time": request.time.as_millis(),
        "rule": request.rule.as_ref().map(|rule| rule.as_str()),
        "nonce": "09".repeat(24), "padding": 20, "fido_flags": u8::from(fido), "fido_counter": if fido { 258 } else { 0 },
    })
}

/// The inputs of a packet of alice.
fn inputs(request: &Request) -> Value {
    inputs_of(&Signer::Key(alice()), 1, request)
}

/// What Python opens packets of that key with.
fn receiver(key: &PublicKey) -> Value {
    json!({
        "realm": realm().as_str(), "cover": "07".repeat(32), "blob": hex(key.blob()), "today": NOW.day(),
    })
}

/// A key of each type, with the byte that its seed consists of.
fn signers() -> impl Iterator<Item = (Signer, u8)> {
    Signer::of_each_type().into_iter().zip([1, 3, 2, 4])
}

/// The request of a test vector or of an answer.
fn request_of(value: &Value) -> Request {
    let address = value["address"].as_str().map(|address| address.parse::<IpAddr>().expect("an address"));
    let lifetime = value["lifetime"].as_u64().and_then(|lifetime| u32::try_from(lifetime).ok()).expect("seconds");
    Request {
        operation: if value["operation"] == "open" { Operation::Open } else { Operation::Close },
        address,
        widen: value["widen"].as_bool().expect("a truth"),
        lifetime: NonZeroU32::new(lifetime),
        time: UnixTime::from_millis(value["time"].as_u64().expect("milliseconds")),
        rule: value["rule"].as_str().map(|rule| rule.parse().expect("a name")),
    }
}

fn requests() -> Vec<Request> {
    let address = |text: &str| Some(text.parse().expect("an address"));
    vec![
        request(NOW),
        Request { address: address("192.0.2.7"), widen: true, lifetime: NonZeroU32::new(600), ..request(NOW) },
        Request { address: address("2001:db8::7"), rule: None, ..request(NOW) },
        Request { operation: Operation::Close, rule: Some("x".repeat(64).parse().expect("a name")), ..request(NOW) },
        request(UnixTime::from_millis(NOW.as_millis() / 86_400_000 * 86_400_000 - 1)),
    ]
}

#[test]
fn the_vectors_of_the_document_are_what_python_computes() {
    let output = python().arg("check").arg(root().join("docs/spa-protocol.md")).output().expect("it can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_vectors_of_the_document_are_what_this_crate_computes() {
    let document = std::fs::read_to_string(root().join("docs/spa-protocol.md")).expect("the document");
    let block = document.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("vectors");
    let vectors: Vec<Value> = serde_json::from_str(block).expect("vectors");
    assert!(vectors.len() >= 4);
    for vector in &vectors {
        let bytes = |name: &str| unhex(vector[name].as_str().unwrap_or_else(|| panic!("{name} of {vector}")));
        let seed: [u8; 32] = bytes("seed").try_into().expect("32 bytes");
        let cover = Cover::from_bytes(bytes("cover").try_into().expect("32 bytes"));
        let realm = vector["realm"].as_str().expect("a text").parse().expect("a realm");
        let signer = match vector["type"].as_str().expect("a type") {
            "ssh-ed25519" => Signer::Key(PrivateKey::from_seed(seed, "")),
            "ecdsa-sha2-nistp256" => Signer::Key(PrivateKey::from_p256(seed, "").expect("a number of the group")),
            "sk-ssh-ed25519@openssh.com" => Signer::Device(Device::ed25519(seed)),
            "sk-ecdsa-sha2-nistp256@openssh.com" => Signer::Device(Device::p256(seed)),
            other => panic!("{other}"),
        };
        let key = signer.public_key();
        assert_eq!(hex(key.blob()), vector["blob"]);
        assert_eq!(hex(key.fingerprint().as_bytes()), vector["fingerprint"]);

        let keys = PacketKeys::new(&cover, &key, &realm);
        let nonce = bytes("nonce").try_into().expect("24 bytes");
        let request = request_of(vector);
        let unsigned = UnsignedPacket::new(&keys, nonce, &request).expect("a valid request");
        assert_eq!(hex(&request.encode().expect("a valid request")), vector["body"]);
        assert_eq!(hex(&unsigned.message()), vector["message"]);
        let to_be_signed = unsigned.to_be_signed();
        assert_eq!(hex(&to_be_signed), vector["to_be_signed"]);
        let number = |name: &str| vector[name].as_u64().expect("a number");
        let signature = match signer {
            Signer::Key(key) => key.sign(&to_be_signed),
            Signer::Device(device) => {
                assert_eq!(vector["application"], Device::APPLICATION);
                let flags = u8::try_from(number("fido_flags")).expect("a byte");
                device.sign(&to_be_signed, flags, u32::try_from(number("fido_counter")).expect("a counter"))
            }
        };
        assert_eq!(hex(&signature.encode()), vector["signature"]);
        let padding = u8::try_from(number("padding")).expect("a byte");
        assert_eq!(hex(&unsigned.seal(&signature, padding)), vector["packet"]);

        let keyring = Keyring::new(&realm, &[cover], authorized(&key.to_string()), request.time);
        assert_eq!(keyring.verify(&keyring.open(&bytes("packet")).expect("sealed")), Ok(request));
    }
}

#[test]
fn python_opens_what_this_crate_seals() {
    let mut other = Other::start();
    for (signer, _) in signers() {
        let key = signer.public_key();
        let packet_keys = PacketKeys::new(&cover(), &key, &realm());
        for (request, nonce) in requests().into_iter().zip(0..) {
            for padding in [0, 1, 255] {
                let unsigned = UnsignedPacket::new(&packet_keys, [nonce; 24], &request).expect("a valid request");
                let mut given = receiver(&key);
                given["packet"] = json!(hex(&unsigned.seal(&signer.sign(&unsigned.to_be_signed()), padding)));
                assert_eq!(request_of(&other.ask(given, "open")), request, "{key:?}");
            }
        }
    }
    for (changed, refusal) in [
        (json!({"realm": "example.org"}), "key id"),
        (json!({"cover": "08".repeat(32)}), "key id"),
        (json!({"today": NOW.day() + 2}), "key id"),
    ] {
        let mut given = receiver(alice().public_key());
        given["packet"] = json!(hex(&support::packet(NOW)));
        for (key, value) in changed.as_object().expect("an object") {
            given[key] = value.clone();
        }
        assert_eq!(other.ask(given, "open")["refused"], refusal, "{changed}");
    }
}

#[test]
fn this_crate_opens_what_python_seals() {
    let mut other = Other::start();
    for (signer, seed) in signers() {
        let key = signer.public_key();
        let keyring = Keyring::new(&realm(), &[cover()], authorized(&key.to_string()), NOW);
        for request in requests() {
            for padding in [0, 1, 255] {
                let mut inputs = inputs_of(&signer, seed, &request);
                inputs["padding"] = json!(padding);
                let packet = other.seal(inputs);
                if seed == 1 {
                    let own = seal(&alice(), &cover(), &realm(), &request, padding);
                    assert_eq!(packet, own, "Ed25519 has one signature");
                }
                assert_eq!(keyring.verify(&keyring.open(&packet).expect("sealed")), Ok(request.clone()), "{key:?}");
            }
        }
    }
}

#[test]
fn both_refuse_the_greater_s_of_ecdsa_and_an_untouched_device() {
    let mut other = Other::start();
    for (signer, seed) in signers() {
        let key = signer.public_key();
        let (ecdsa, fido) = (seed == 2 || seed == 4, key.key_type().is_fido());
        let keyring = Keyring::new(&realm(), &[cover()], authorized(&key.to_string()), NOW);
        for (field, value, expected) in [
            ("greater_s", json!(true), ecdsa.then_some(SignatureError::GreaterS)),
            ("fido_flags", json!(0), fido.then_some(SignatureError::NotTouched)),
        ] {
            let mut inputs = inputs_of(&signer, seed, &request(NOW));
            inputs[field] = value;
            let packet = other.seal(inputs);
            let verified = keyring.verify(&keyring.open(&packet).expect("sealed"));
            assert_eq!(verified.err(), expected.map(Refusal::Signature), "{key:?}");
            let mut given = receiver(&key);
            given["packet"] = json!(hex(&packet));
            assert_eq!(other.ask(given, "open")["refused"].is_null(), expected.is_none(), "{key:?}, {field}");
        }
    }
}

#[test]
fn damage_that_was_signed_and_sealed_is_refused() {
    let mut other = Other::start();
    let keyring = support::keyring(NOW);
    let body = request(NOW).encode().expect("a valid request");
    let with = |at: usize, byte: u8| {
        let mut body = body;
        body[at] = byte;
        json!({ "raw_body": hex(&body) })
    };
    let today = NOW.day();
    let reserved = || Refusal::Signature(SignatureError::Reserved);
    let flags = |flags| Refusal::Body(BodyError::Flags { flags });
    for (damage, expected) in [
        (json!({}), None),
        (json!({"padding_bytes": "00".repeat(20)}), None),
        (json!({"padding_bytes": "00".repeat(19) + "01"}), Some(Refusal::Padding)),
        (json!({"padding_bytes": "80".to_owned() + &"00".repeat(254)}), Some(Refusal::Padding)),
        (json!({"reserved": "010000"}), Some(reserved())),
        (json!({"reserved": "000001"}), Some(reserved())),
        (json!({"fido_flags": 1}), Some(reserved())),
        (json!({"fido_counter": 1}), Some(reserved())),
        (json!({"key_id_day": today - 1}), Some(Refusal::Day)),
        (json!({"key_id_day": today + 1}), Some(Refusal::Day)),
        (with(0, 0), Some(Refusal::Body(BodyError::Version { version: 0 }))),
        (with(1, 3), Some(Refusal::Body(BodyError::Operation { operation: 3 }))),
        (with(2, 0x80), Some(flags(0x8001))),
        (with(3, 5), Some(flags(5))),
        (with(31, 1), Some(Refusal::Body(BodyError::AddressBesideSource))),
        (with(3, 0), Some(Refusal::Body(BodyError::Address { address: IpAddr::from([0; 16]) }))),
        (with(32, 0xe4), Some(Refusal::Body(BodyError::Rule))),
        (with(95, b'x'), Some(Refusal::Body(BodyError::Rule))),
    ] {
        let mut inputs = inputs(&request(NOW));
        for (key, value) in damage.as_object().expect("an object") {
            inputs[key] = value.clone();
        }
        let packet = other.seal(inputs);
        let opened = keyring.open(&packet).expect("sealed by somebody who knows the cover");
        assert_eq!(keyring.verify(&opened).err(), expected, "{damage}");

        // Python refuses the same.
        let mut given = receiver(alice().public_key());
        given["packet"] = json!(hex(&packet));
        assert_eq!(other.ask(given, "open")["refused"].is_null(), expected.is_none(), "{damage}");
    }
}

/// Points of small order, and R and S that have another encoding: libraries differ in what they do with those.
#[test]
fn signatures_that_more_than_one_verifier_reads_differently_are_refused() {
    // S + L, where L is the order of the group: RFC 8032, section 5.1.
    let order = unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let key = alice();
    let keys = PacketKeys::new(&cover(), key.public_key(), &realm());
    let unsigned = UnsignedPacket::new(&keys, [9; 24], &request(NOW)).expect("a valid request");
    let mut signature = key.sign(&unsigned.to_be_signed()).encode();
    let mut carry = 0;
    for (byte, add) in signature[32..64].iter_mut().zip(&order) {
        let sum = u16::from(*byte) + u16::from(*add) + carry;
        *byte = u8::try_from(sum & 0xff).expect("a byte");
        carry = sum >> 8;
    }
    let refuses = |signature: [u8; 72], key: &[AuthorizedKey], message: &[u8]| {
        let signature = Signature::decode(&signature).expect("nothing reserved");
        assert_eq!(signature.verify(&key[0].key, message, key[0].options.presence), Err(SignatureError::Wrong));
    };
    let alices = authorized(&key.public_key().to_string());
    refuses(signature, &alices, &unsigned.to_be_signed());
    // R is the neutral element and S is 0.
    let mut zero = [0; 72];
    zero[0] = 1;
    refuses(zero, &alices, &unsigned.to_be_signed());
    // The neutral element, and a point of order 8, as public keys: RFC 7748's list of small points, on this curve.
    for point in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    ] {
        let blob = [string(b"ssh-ed25519"), string(&unhex(point))].concat();
        assert_eq!(PublicKey::from_blob(&blob), Err(knock_spa::PublicKeyError::Weak), "{point}");
    }
}
