//! The record: its bytes, and that each of them counts.

mod support;

use knock_fleet::{RECORD_LENGTH, Record, RecordError, Refused, What};
use knock_spa::UnixTime;
use proptest::prelude::*;
use support::{NOW, address, name, packet, peer, realm, request, revocation, sequence, web1, web2};

/// One of each kind.
fn records() -> [Record; 6] {
    let manual = Record { what: What::Manual { grant: [3; 16] }, ..sequence(3, NOW) };
    let of_all = Record { rule: None, ..revocation(NOW) };
    let observed = knock_spa::Request { address: None, ..request() };
    [packet(1, &request()), packet(2, &observed), sequence(4, NOW), manual, revocation(NOW), of_all]
}

#[test]
fn a_record_is_read_as_it_was_written() {
    for record in records() {
        let bytes = record.sign(&web1(), &realm());
        assert_eq!(Record::decode(&bytes), Ok(record.clone()), "{record}");
        peer().verify(&bytes, NOW).expect("a record that is right");
    }
    let v6 = Record { address: address("2001:db8::7"), ..sequence(1, NOW) };
    assert_eq!(Record::decode(&v6.sign(&web1(), &realm())), Ok(v6));
}

#[test]
fn every_bit_that_is_flipped_is_noticed() {
    let peer = peer();
    for record in records() {
        let bytes = record.sign(&web1(), &realm());
        for bit in 0..RECORD_LENGTH * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            let refused = peer.verify(&changed, NOW);
            assert!(refused.is_err(), "{record}: bit {bit}");
        }
    }
}

#[test]
fn every_bit_that_a_known_node_flips_in_what_a_client_signed_is_noticed() {
    // web2 vouches for nothing: what its records open, a client has signed.
    let peer = peer();
    let bytes = packet(1, &request()).sign(&web2(), &realm());
    peer.verify(&bytes, NOW).expect("signed by alice");
    // From the fingerprint to the client's signature.
    for bit in 128 * 8..352 * 8 {
        let mut changed = bytes;
        changed[bit / 8] ^= 1 << (bit % 8);
        let Ok(record) = Record::decode(&changed) else { continue };
        assert!(peer.verify(&record.sign(&web2(), &realm()), NOW).is_err(), "bit {bit}");
    }
}

#[test]
fn a_record_for_another_fleet_or_of_another_node_is_refused() {
    let elsewhere = sequence(1, NOW).sign(&web1(), &"example.org".parse().expect("a realm"));
    let refused = peer().verify(&elsewhere, NOW).expect_err("another fleet");
    assert!(matches!(&refused, Refused::NodeSignature { node } if &**node == "web1"), "{refused}");
    let stranger = knock_fleet::NodeKey::from_seed([8; 32]);
    let refused = peer().verify(&sequence(1, NOW).sign(&stranger, &realm()), NOW).expect_err("unknown");
    assert_eq!(refused, Refused::UnknownNode { node: stranger.id() });
}

#[test]
fn bytes_with_two_meanings_or_none_are_refused() {
    let bytes = sequence(4, NOW).sign(&web1(), &realm());
    let changed = |at: usize, value: &[u8]| {
        let mut bytes = bytes;
        bytes[at..][..value.len()].copy_from_slice(value);
        Record::decode(&bytes).expect_err("a broken rule")
    };
    assert_eq!(Record::decode(&bytes[1..]), Err(RecordError::Length { length: 415 }));
    assert_eq!(Record::decode(&[]), Err(RecordError::Length { length: 0 }));
    assert_eq!(changed(0, &[2]), RecordError::Version { version: 2 });
    for kind in [0, 5, 255] {
        assert_eq!(changed(1, &[kind]), RecordError::Kind { kind });
    }
    for flags in [0u16, 4, 0x8001] {
        assert_eq!(changed(2, &flags.to_be_bytes()), RecordError::Flags { flags });
    }
    assert_eq!(changed(4, &[0; 4]), RecordError::Lifetime);
    for host in ["::", "0.0.0.0", "255.255.255.255", "224.0.0.1", "ff02::1"] {
        let host = address(host);
        let v6 = match host {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            std::net::IpAddr::V6(v6) => v6,
        };
        assert_eq!(changed(16, &v6.octets()), RecordError::Address { address: host });
    }
    for rule in [&[0; 4][..], b"s\0h\0", b"s h\0", b"\xc3\xa9\0\0"] {
        assert_eq!(changed(32, rule), RecordError::Rule, "{rule:?}");
    }
    assert_eq!(changed(128, &[1]), RecordError::Reserved);
    assert_eq!(changed(351, &[1]), RecordError::Reserved);
    // A revocation with a grant id, one with an observed address, and one of prefixes without a rule.
    assert_eq!(changed(1, &[4]), RecordError::GrantId);
    let of_all = Record { rule: None, ..revocation(NOW) }.sign(&web1(), &realm());
    for (at, value) in [(3, 1), (3, 2)] {
        let mut bytes = of_all;
        bytes[at] = value;
        assert_eq!(Record::decode(&bytes), Err(RecordError::Flags { flags: value.into() }));
    }
    // A packet whose grant id is not the start of its nonce.
    let mut of_packet = packet(1, &request()).sign(&web1(), &realm());
    of_packet[112] ^= 1;
    assert_eq!(Record::decode(&of_packet), Err(RecordError::GrantId));
}

/// The vector of `docs/fleet-protocol.md`.
#[test]
fn the_bytes_of_the_document_are_those_of_the_program() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let bytes = sequence(4, NOW).sign(&web1(), &realm());
    let document = include_str!("../../../docs/fleet-protocol.md");
    let key = web1().public().to_string();
    for expected in [&key, &web1().id().to_string(), &hex(&bytes[..32]), &hex(&bytes[96..128])] {
        assert!(document.contains(expected.as_str()), "{expected}");
    }
    let signature = hex(&bytes[352..]);
    assert!(document.contains(&signature[..64]) && document.contains(&signature[64..]), "{signature}");
}

#[test]
fn a_program_that_was_written_from_the_document_makes_the_same_bytes() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fleet/record.py");
    // The interpreter that Debian's python3-cryptography is for.
    let output = std::process::Command::new("/usr/bin/python3").arg(script).output().expect("python3");
    assert!(output.status.success(), "scripts/setup test: {}", String::from_utf8_lossy(&output.stderr));
    let hex: String = sequence(4, NOW).sign(&web1(), &realm()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\n{hex}\n", web1().public()));
}

proptest! {
    #[test]
    fn no_two_encodings_of_a_record(mut bytes in prop::collection::vec(any::<u8>(), RECORD_LENGTH), kind in 1..5u8, flags in 0..4u8) {
        bytes[..4].copy_from_slice(&[1, kind, 0, flags]);
        bytes[32..96].fill(0);
        bytes[32..35].copy_from_slice(b"ssh");
        if kind == 1 {
            let nonce: Vec<u8> = bytes[160..176].to_vec();
            bytes[112..128].copy_from_slice(&nonce);
        } else {
            bytes[128..352].fill(0);
        }
        if kind == 4 {
            bytes[112..128].fill(0);
        }
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(record.rule.clone(), Some(name("ssh")));
            // Signed again by web1: everything but node and signature is as it was.
            let again = record.sign(&web1(), &realm());
            prop_assert_eq!(&again[..96], &bytes[..96]);
            prop_assert_eq!(&again[104..352], &bytes[104..352]);
        }
    }

    #[test]
    fn nothing_random_is_accepted(bytes in prop::collection::vec(any::<u8>(), 0..=2 * RECORD_LENGTH), now: u64) {
        prop_assert!(peer().verify(&bytes, UnixTime::from_millis(now)).is_err());
    }
}
