//! The real `ssh-keygen` verifies the signatures, and its keys are read.
//!
//! Needs the package openssh-client.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64ct::{Base64, Encoding};
use knock_spa::{PacketKeys, PrivateKey, PrivateKeyError, PublicKey, PublicKeyError, Signature, UnsignedPacket};
use support::{Device, NOW, alice, authorized, cover, mpints, p256, realm, request, string};

fn ssh_keygen(arguments: &[&str], input: &[u8]) -> Output {
    let piped = Stdio::piped;
    let mut command = Command::new("ssh-keygen");
    let started = command.args(arguments).stdin(piped()).stdout(piped()).stderr(piped()).spawn();
    let mut process = started.unwrap_or_else(|error| {
        panic!("ssh-keygen: {error}; install openssh-client, or run scripts/setup test");
    });
    std::io::Write::write_all(&mut process.stdin.take().expect("it is piped"), input).expect("it reads");
    process.wait_with_output().expect("it ends")
}

/// Makes a key, and returns the content of the private and of the public file.
fn made(folder: &Path, name: &str, arguments: &[&str]) -> (Vec<u8>, String) {
    let path = folder.join(name);
    let path_text = path.to_str().expect("a text");
    let output = ssh_keygen(&[&["-q", "-f", path_text, "-C", "alice@host"], arguments].concat(), b"");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let public = fs::read_to_string(path.with_extension("pub")).expect("the public key");
    (fs::read(path).expect("the private key"), public)
}

/// Whether `ssh-keygen -Y verify` accepts that signature: PROTOCOL.sshsig.
fn verifies(key: &PublicKey, message: &[u8], answer_of_agent: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let parts = [key.blob(), b"spa-1@knockd", b"", b"sha512", answer_of_agent].map(string).concat();
    let blob = Base64::encode_string(&[b"SSHSIG\0\0\0\x01", &parts[..]].concat());
    let armored = format!("-----BEGIN SSH SIGNATURE-----\n{blob}\n-----END SSH SIGNATURE-----\n");
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("it can be written");
        path.to_str().expect("a text").to_owned()
    };
    let (signers, signature) = (write("signers", &format!("alice {key}\n")), write("signature", &armored));
    let arguments = ["-Y", "verify", "-n", "spa-1@knockd", "-I", "alice", "-f", &signers, "-s", &signature];
    ssh_keygen(&arguments, message).status.success()
}

#[test]
fn ssh_keygen_verifies_the_signature_of_a_packet() {
    for key in [alice(), p256()] {
        let keys = PacketKeys::new(&cover(), key.public_key(), &realm());
        let unsigned = UnsignedPacket::new(&keys, [9; 24], &request(NOW)).expect("a valid request");
        let signature = key.sign(&unsigned.to_be_signed()).encode();
        let answer = answer(key.public_key(), &signature[..64]);
        assert!(verifies(key.public_key(), &unsigned.message(), &answer));
        assert!(!verifies(key.public_key(), b"another message", &answer));
        // What an agent answers is what the packet holds.
        assert_eq!(Signature::from_agent(&answer, key.public_key()).expect("a signature").encode(), signature);
    }
}

/// What an agent answers for a key that is not in a FIDO device.
fn answer(key: &PublicKey, signature: &[u8]) -> Vec<u8> {
    let name = key.key_type().name();
    let signature = if name == "ssh-ed25519" { signature.to_vec() } else { mpints(signature) };
    [string(name.as_bytes()), string(&signature)].concat()
}

#[test]
fn ssh_keygen_verifies_what_is_taken_for_a_signature_of_a_fido_key() {
    for device in [Device::ed25519([3; 32]), Device::p256([4; 32])] {
        let key = device.public_key();
        let keys = PacketKeys::new(&cover(), &key, &realm());
        let unsigned = UnsignedPacket::new(&keys, [9; 24], &request(NOW)).expect("a valid request");
        let answer = device.answer(&unsigned.to_be_signed(), 1, 258);
        assert!(verifies(&key, &unsigned.message(), &answer));
        let signature = Signature::from_agent(&answer, &key).expect("a signature");
        assert_eq!(signature.verify(&key, &unsigned.to_be_signed(), knock_spa::Presence::Touch), Ok(()));
    }
}

#[test]
fn an_answer_of_an_agent_is_of_the_type_of_the_key_and_ends_where_it_should() {
    let device = |device: Device| (device.public_key(), device.answer(b"x", 1, 1));
    let key = |key: PrivateKey| (key.public_key().clone(), answer(key.public_key(), &key.sign(b"x").encode()[..64]));
    let pairs = [key(alice()), key(p256()), device(Device::ed25519([3; 32])), device(Device::p256([4; 32]))];
    for (key, answer) in &pairs {
        assert!(Signature::from_agent(answer, key).is_ok());
        for (_, other) in pairs.iter().filter(|(other, _)| other != key) {
            let error = Signature::from_agent(other, key).expect_err("another type").to_string();
            assert!(error.contains(key.key_type().name()), "{error}");
        }
        assert!(Signature::from_agent(&[answer, &b"x"[..]].concat(), key).is_err());
        for length in 0..answer.len() {
            assert!(Signature::from_agent(&answer[..length], key).is_err(), "{length} bytes");
        }
    }
}

#[test]
fn the_numbers_of_an_agent_are_positive_and_of_32_bytes() {
    let key = p256();
    let signature = key.sign(b"x").encode();
    let (r, s) = (&signature[..32], &signature[32..64]);
    let read = |r: &[u8], s: &[u8]| {
        let answer = [string(b"ecdsa-sha2-nistp256"), string(&[string(r), string(s)].concat())].concat();
        Signature::from_agent(&answer, key.public_key()).map(|signature| signature.encode()).ok()
    };
    let zeros = |number: &[u8], count: usize| [&vec![0; count], number].concat();
    assert_eq!(read(&zeros(r, 1), &zeros(s, 1)), Some(signature));
    // As some agents do, and OpenSSH accepts.
    assert_eq!(read(&zeros(r, 7), &zeros(s, 2)), Some(signature));
    let negative = [&[0x80], &r[1..]].concat();
    let long = [&[1], r].concat();
    for wrong in [&negative[..], &long, &[], &[0], &zeros(&[0xff; 32], 1)] {
        assert_eq!((read(wrong, &zeros(s, 1)), read(&zeros(r, 1), wrong)), (None, None), "{wrong:?}");
    }
}

#[test]
fn a_key_that_ssh_keygen_made_signs() {
    let folder = tempfile::tempdir().expect("a folder");
    let comments = ["", "a", "alice@host", "Ålice with blanks"];
    // A number of ECDSA has 31 to 33 bytes.
    let kinds = std::iter::repeat_n("ed25519", 4).chain(std::iter::repeat_n("ecdsa", 20));
    for (number, (kind, comment)) in kinds.zip(comments.into_iter().cycle()).enumerate() {
        let (private, public) = made(folder.path(), &format!("key{number}"), &["-t", kind, "-N", "", "-C", comment]);
        let key = PrivateKey::from_openssh(&private).expect("a usable key");
        assert_eq!(key.comment(), comment);
        assert_eq!(format!("{} {comment}", key.public_key()).trim_end(), public.trim_end());
        let listed = authorized(&public);
        assert_eq!(&listed[0].key, key.public_key());
        assert_eq!(listed[0].user.as_deref().unwrap_or_default(), comment);
        let listed = ssh_keygen(&["-l", "-f", "-"], public.as_bytes());
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let fingerprint = key.public_key().fingerprint().to_string();
        assert!(listed.contains(&fingerprint), "{listed}: {fingerprint}");
    }
}

#[test]
fn a_key_that_cannot_sign_packets_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |name: &str, arguments: &[&str]| {
        let (private, _) = made(folder.path(), name, arguments);
        PrivateKey::from_openssh(&private).expect_err(name)
    };
    let error = refused("encrypted", &["-t", "ed25519", "-N", "passphrase"]);
    assert_eq!(error, PrivateKeyError::Encrypted);
    assert!(error.to_string().contains("`ssh-add`"), "{error}");
    let error = refused("rsa", &["-t", "rsa", "-b", "2048", "-N", ""]);
    assert_eq!(error, PrivateKeyError::Type(PublicKeyError::Rsa));
    assert!(error.to_string().contains("`ssh-keygen -t ed25519`"), "{error}");
    for (name, arguments) in [
        ("encrypted-rsa", &["-t", "rsa", "-b", "2048", "-N", "passphrase"][..]),
        ("rsa-pem", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]),
    ] {
        assert_eq!(refused(name, arguments), PrivateKeyError::Type(PublicKeyError::Rsa));
    }
    let error = refused("p384", &["-t", "ecdsa", "-b", "384", "-N", ""]).to_string();
    assert!(error.contains("`ecdsa-sha2-nistp384`") && error.contains("`ssh-keygen -t ed25519`"), "{error}");
    for (name, format) in [("pkcs8", "PKCS8"), ("pem", "PEM")] {
        let error = refused(name, &["-t", "ecdsa", "-m", format, "-N", ""]).to_string();
        assert!(error.contains("convert it with `ssh-keygen -p -f FILE`"), "{error}");
        // That is true.
        let path = folder.path().join(name);
        let path_text = path.to_str().expect("a text");
        assert!(ssh_keygen(&["-q", "-p", "-N", "", "-f", path_text], b"").status.success());
        assert!(PrivateKey::from_openssh(&fs::read(&path).expect("the private key")).is_ok());
    }
    assert_eq!(refused("ecdsa-encrypted", &["-t", "ecdsa", "-N", "passphrase"]), PrivateKeyError::Encrypted);
    assert_eq!(refused("pkcs8-e", &["-t", "ecdsa", "-m", "PKCS8", "-N", "passphrase"]), PrivateKeyError::Encrypted);

    let (_, public) = made(folder.path(), "public", &["-t", "ed25519", "-N", ""]);
    assert_eq!(PrivateKey::from_openssh(public.as_bytes()).expect_err("public"), PrivateKeyError::Public);
    for text in ["", "x", "\u{feff}", "-----BEGIN CERTIFICATE-----\n"] {
        assert_eq!(PrivateKey::from_openssh(text.as_bytes()).expect_err(text), PrivateKeyError::NotAKey);
    }
    assert_eq!(PrivateKey::from_openssh(&[0xff]).expect_err("no text"), PrivateKeyError::NotAKey);
}

#[test]
fn a_damaged_private_key_is_refused_and_not_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    for kind in ["ed25519", "ecdsa"] {
        let (private, _) = made(folder.path(), kind, &["-t", kind, "-N", ""]);
        damages(private);
    }
}

fn damages(private: Vec<u8>) {
    let text = String::from_utf8(private).expect("a text");
    let lines: Vec<&str> = text.lines().collect();
    let bytes = Base64::decode_vec(&lines[1..lines.len() - 1].concat()).expect("base64");
    let read = |bytes: &[u8]| {
        let text = format!("{}\n{}\n{}\n", lines[0], Base64::encode_string(bytes), lines[lines.len() - 1]);
        PrivateKey::from_openssh(text.as_bytes())
    };
    assert!(read(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length]).is_err(), "{length} bytes");
    }
    assert!(read(&[&bytes[..], &[0]].concat()).is_err());
    let mut accepted = Vec::new();
    for bit in 0..bytes.len() * 8 {
        let mut other = bytes.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        match read(&other) {
            // The comment, and the options of a function that is not used.
            Ok(_) => accepted.push(bit / 8),
            Err(error) => {
                let message = error.to_string();
                assert!(message.len() < 300 && !message.contains(char::is_control), "{message}");
            }
        }
    }
    accepted.dedup();
    assert!(accepted.len() <= "alice@host".len(), "bytes that do not matter: {accepted:?}");

    for (text, message) in [
        (lines[..lines.len() - 1].join("\n"), "END OPENSSH PRIVATE KEY-----` is missing"),
        (text.replace(&lines[1][..4], "!!!!"), "it is not base64"),
        (format!("{}\nAAAA\n{}", lines[0], lines[lines.len() - 1]), "does not begin with `openssh-key-v1`"),
    ] {
        let error = PrivateKey::from_openssh(text.as_bytes()).expect_err(message).to_string();
        assert!(error.contains(message) && !error.contains(&lines[2][..20]), "{error}");
    }
}
