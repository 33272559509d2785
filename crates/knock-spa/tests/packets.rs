//! Which packets are accepted, and which are not.

mod support;

use knock_spa::{
    Cover, Keyring, Opener, PAYLOAD_MAX, PAYLOAD_MIN, PacketKeys, Presence, PrivateKey, Refusal, Signature,
    SignatureError, UnixTime, Unopened, UnsignedPacket,
};
use support::sealer::Sealer;
use support::{
    Device, NOW, Signer, alice, authorized, cover, hex, keyring, mpints, p256, packet, realm, request, seal, string,
    unhex,
};

const DAY: u64 = 86_400_000;

#[test]
fn a_packet_has_216_to_471_bytes() {
    for padding in [0, 1, 255] {
        let packet = seal(&alice(), &cover(), &realm(), &request(NOW), padding);
        assert_eq!(packet.len(), 216 + usize::from(padding));
        let keyring = keyring(NOW);
        assert_eq!(keyring.verify(&keyring.open(&packet).expect("sealed")), Ok(request(NOW)));
    }
    assert_eq!((PAYLOAD_MIN, PAYLOAD_MAX), (216, 471));
}

/// A server that knows that key, and a packet of it.
fn server_and_packet(signer: &Signer) -> (Keyring, Vec<u8>) {
    let key = signer.public_key();
    let keys = PacketKeys::new(&cover(), &key, &realm());
    let unsigned = UnsignedPacket::new(&keys, [9; 24], &request(NOW)).expect("a valid request");
    let packet = unsigned.seal(&signer.sign(&unsigned.to_be_signed()), 20);
    (Keyring::new(&realm(), &[cover()], authorized(&key.to_string()), NOW), packet)
}

#[test]
fn every_packet_with_one_other_bit_is_refused() {
    for signer in Signer::of_each_type() {
        let (keyring, packet) = server_and_packet(&signer);
        assert!(keyring.open(&packet).is_ok());
        for bit in 0..packet.len() * 8 {
            let mut other = packet.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 64 { Unopened::UnknownKey } else { Unopened::Sealed };
            assert_eq!(keyring.open(&other).map(|_| ()), Err(expected), "{:?}, bit {bit}", signer.public_key());
        }
    }
}

#[test]
fn a_holder_of_the_cover_can_change_no_bit_of_what_is_sealed() {
    for signer in Signer::of_each_type() {
        let key = signer.public_key();
        let (keyring, _) = server_and_packet(&signer);
        let sealer = Sealer::new("example.com", &[7; 32], key.blob());
        let (nonce, body) = ([9; 24], request(NOW).encode().expect("a valid request"));
        let signature = signer.sign(&sealer.to_be_signed(&nonce, &body)).encode();
        let plain = [&nonce[..], &body, &signature, &[0; 5]].concat();
        let verified = |plain: &[u8]| {
            let (nonce, plain) = plain.split_first_chunk().expect("a nonce");
            let packet = sealer.seal(NOW.day(), nonce, plain);
            keyring.verify(&keyring.open(&packet).expect("sealed by somebody who knows the cover"))
        };
        assert_eq!(verified(&plain), Ok(request(NOW)), "{key:?}");
        for bit in 0..plain.len() * 8 {
            let mut other = plain.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            let refused = verified(&other).expect_err("another bit");
            let expected = match bit / 8 {
                ..184 => matches!(refused, Refusal::Signature(SignatureError::Wrong | SignatureError::GreaterS)),
                184..189 if key.key_type().is_fido() => refused == Refusal::Signature(SignatureError::Wrong),
                184..192 => refused == Refusal::Signature(SignatureError::Reserved),
                _ => refused == Refusal::Padding,
            };
            assert!(expected, "{key:?}, bit {bit}: {refused}");
        }
    }
}

#[test]
fn of_the_two_signatures_of_ecdsa_one_is_accepted() {
    for (signer, tail) in
        [(Signer::Key(p256()), [0; 8]), (Signer::Device(Device::p256([4; 32])), [1, 0, 0, 1, 2, 0, 0, 0])]
    {
        let key = signer.public_key();
        let verify = |signature: &p256::ecdsa::Signature| {
            let encoded: [u8; 72] = [&signature.to_bytes()[..], &tail].concat().try_into().expect("72 bytes");
            Signature::decode(&encoded).expect("nothing reserved").verify(&key, b"text", Presence::Touch)
        };
        let accepted = p256::ecdsa::Signature::from_slice(&signer.sign(b"text").encode()[..64]).expect("a signature");
        assert_eq!(verify(&accepted), Ok(()));
        let other = p256::ecdsa::Signature::from_scalars(accepted.r(), -accepted.s()).expect("a signature");
        assert_eq!(verify(&other), Err(SignatureError::GreaterS));
        // An agent gives either; the packet has the same.
        for signature in [accepted, other] {
            let fido: &[u8] = if key.key_type().is_fido() { &tail[..5] } else { &[] };
            let answer =
                [string(key.key_type().name().as_bytes()), string(&mpints(&signature.to_bytes())), fido.to_vec()];
            let read = Signature::from_agent(&answer.concat(), &key).expect("a signature");
            assert_eq!(read.encode()[..64], accepted.to_bytes()[..]);
        }
    }
}

#[test]
fn what_is_no_signature_of_ecdsa_is_refused() {
    let (key, good) = (p256(), p256().sign(b"text").encode());
    let order = unhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    let one = [&[0; 31][..], &[1]].concat();
    let (r, s) = (&good[..32], &good[32..64]);
    for (r, s) in [
        (&[0; 32][..], s),
        (r, &[0; 32]),
        (&[0; 32], &[0; 32]),
        (&order, s),
        (r, &order),
        (&order, &order),
        (&[0xff; 32], s),
        (&one, &one),
        (s, r),
    ] {
        let mut signature = [0; 72];
        signature[..32].copy_from_slice(r);
        signature[32..64].copy_from_slice(s);
        let signature = Signature::decode(&signature).expect("nothing reserved");
        let refused = signature.verify(key.public_key(), b"text", Presence::Touch);
        assert!(matches!(refused, Err(SignatureError::Wrong | SignatureError::GreaterS)), "{}, {}", hex(r), hex(s));
    }
    assert_eq!(p256().sign(b"text").verify(key.public_key(), b"other", Presence::Touch), Err(SignatureError::Wrong));
}

#[test]
fn what_has_another_length_is_not_even_looked_up() {
    let (keyring, packet) = (keyring(NOW), packet(NOW));
    for length in (0..packet.len()).chain([216, 471]) {
        let expected = if length < 216 { Unopened::Length } else { Unopened::Sealed };
        let mut other = packet.clone();
        other.resize(length, 0);
        assert_eq!(keyring.open(&other).map(|_| ()), Err(expected), "{length} bytes");
    }
    for length in [472, 1500, 65_507] {
        let mut other = packet.clone();
        other.resize(length, 0);
        assert_eq!(keyring.open(&other).map(|_| ()), Err(Unopened::Length), "{length} bytes");
    }
}

#[test]
fn a_packet_is_for_one_realm_under_one_cover_and_of_one_key() {
    let keyring = keyring(NOW);
    let other_cover = Cover::from_bytes([8; 32]);
    let bob = PrivateKey::from_seed([2; 32], "bob");
    let other_realm = "example.org".parse().expect("a realm");
    for packet in [
        seal(&alice(), &other_cover, &realm(), &request(NOW), 0),
        seal(&alice(), &cover(), &other_realm, &request(NOW), 0),
        seal(&bob, &cover(), &realm(), &request(NOW), 0),
    ] {
        assert_eq!(keyring.open(&packet).map(|_| ()), Err(Unopened::UnknownKey));
    }
}

#[test]
fn a_holder_of_the_cover_opens_nothing_with_another_key() {
    // Everything of alice's that is not secret to a holder of the cover, signed by bob.
    let bob = PrivateKey::from_seed([2; 32], "bob");
    let keys = PacketKeys::new(&cover(), alice().public_key(), &realm());
    let unsigned = UnsignedPacket::new(&keys, [9; 24], &request(NOW)).expect("a valid request");
    let keyring = keyring(NOW);
    let opened = keyring.open(&unsigned.seal(&bob.sign(&unsigned.to_be_signed()), 0)).expect("sealed");
    assert_eq!(keyring.verify(&opened), Err(Refusal::Signature(SignatureError::Wrong)));
}

#[test]
fn a_signature_is_for_one_nonce_realm_and_request() {
    let keys = PacketKeys::new(&cover(), alice().public_key(), &realm());
    let unsigned =
        |nonce: u8, time: UnixTime| UnsignedPacket::new(&keys, [nonce; 24], &request(time)).expect("a valid request");
    let signature = alice().sign(&unsigned(9, NOW).to_be_signed());
    let keyring = keyring(NOW);
    let verified = |packet: &[u8]| keyring.verify(&keyring.open(packet).expect("sealed"));
    assert_eq!(verified(&unsigned(9, NOW).seal(&signature, 3)), Ok(request(NOW)));
    let wrong = Err(Refusal::Signature(SignatureError::Wrong));
    assert_eq!(verified(&unsigned(8, NOW).seal(&signature, 3)), wrong);
    assert_eq!(verified(&unsigned(9, UnixTime::from_millis(NOW.as_millis() + 1)).seal(&signature, 3)), wrong);

    let other = PacketKeys::new(&cover(), alice().public_key(), &"example.org".parse().expect("a realm"));
    let other = UnsignedPacket::new(&other, [9; 24], &request(NOW)).expect("a valid request");
    assert_eq!(verified(&unsigned(9, NOW).seal(&alice().sign(&other.to_be_signed()), 3)), wrong);
}

#[test]
fn a_packet_that_was_sealed_again_keeps_its_nonce() {
    let keys = PacketKeys::new(&cover(), alice().public_key(), &realm());
    let unsigned = UnsignedPacket::new(&keys, [9; 24], &request(NOW)).expect("a valid request");
    let signature = alice().sign(&unsigned.to_be_signed());
    let keyring = keyring(NOW);
    for padding in [0, 255] {
        assert_eq!(keyring.open(&unsigned.seal(&signature, padding)).expect("sealed").nonce(), &[9; 24]);
    }
}

#[test]
fn the_key_ids_of_yesterday_today_and_tomorrow_are_known() {
    let midnight = NOW.as_millis() / DAY * DAY;
    let opens = |packet_time: u64, server_time: u64| {
        let keyring = keyring(UnixTime::from_millis(server_time));
        let opened = keyring.open(&packet(UnixTime::from_millis(packet_time)));
        opened.map(|opened| keyring.verify(&opened).expect("a valid packet").time.as_millis())
    };
    for (packet_time, server_time) in [
        (midnight - 1, midnight - 1),
        (midnight - 1, midnight),
        (midnight, midnight - 1),
        (midnight, midnight),
        (midnight - DAY, midnight + DAY - 1),
        (midnight + 2 * DAY - 1, midnight),
    ] {
        assert_eq!(opens(packet_time, server_time), Ok(packet_time));
    }
    for (packet_time, server_time) in [(midnight - DAY - 1, midnight), (midnight + 2 * DAY, midnight), (0, midnight)] {
        assert_eq!(opens(packet_time, server_time), Err(Unopened::UnknownKey));
    }
    assert_eq!(opens(0, 0), Ok(0));
    assert_eq!(opens(u64::MAX, u64::MAX), Ok(u64::MAX));
}

#[test]
fn a_keyring_that_grows_older_is_like_a_new_one() {
    let midnight = NOW.as_millis() / DAY * DAY;
    let mut keyring = keyring(NOW);
    for server_day in [0, 1, 2, 1, 10, 9, 0] {
        let now = UnixTime::from_millis(midnight + server_day * DAY);
        keyring.set_time(now);
        let fresh = support::keyring(now);
        for packet_day in 0..13 {
            let packet = packet(UnixTime::from_millis(midnight + packet_day * DAY));
            let known = |keyring: &Keyring| keyring.open(&packet).is_ok();
            assert_eq!(known(&keyring), known(&fresh), "day {packet_day} on day {server_day}");
            assert_eq!(known(&keyring), packet_day.abs_diff(server_day) <= 1, "day {packet_day} on day {server_day}");
        }
    }
}

#[test]
fn the_old_cover_is_accepted_until_it_is_removed() {
    let (old, new) = (cover(), Cover::from_bytes([8; 32]));
    let bob = PrivateKey::from_seed([2; 32], "bob");
    let file = format!("{} alice\n{} bob\n", alice().public_key(), bob.public_key());
    let both = Keyring::new(&realm(), &[new.clone(), old.clone()], authorized(&file), NOW);
    let only_new = Keyring::new(&realm(), std::slice::from_ref(&new), authorized(&file), NOW);
    for (key, index) in [(alice(), 0), (bob, 1)] {
        for (cover, cover_index, known_later) in [(&new, 0, true), (&old, 1, false)] {
            let packet = seal(&key, cover, &realm(), &request(NOW), 0);
            let opened = both.open(&packet).expect("sealed");
            assert_eq!((opened.key_index(), opened.cover_index()), (index, cover_index));
            assert_eq!(both.verify(&opened), Ok(request(NOW)));
            assert_eq!(both.key(&opened).user.as_deref(), Some(key.comment()));
            assert_eq!(only_new.open(&packet).is_ok(), known_later);
        }
    }
}

#[test]
fn a_keyring_without_keys_or_covers_opens_nothing() {
    let file = format!("{} alice", alice().public_key());
    for keyring in
        [Keyring::new(&realm(), &[], authorized(&file), NOW), Keyring::new(&realm(), &[cover()], Vec::new(), NOW)]
    {
        assert_eq!(keyring.open(&packet(NOW)).map(|_| ()), Err(Unopened::UnknownKey));
    }
}

fn devices() -> [Device; 2] {
    [Device::ed25519([3; 32]), Device::p256([4; 32])]
}

/// What a server says to a packet of a FIDO key with these flags, and with these options.
fn fido(device: &Device, options: &str, flags: u8, change: impl Fn(&mut [u8; 72])) -> Result<(), Refusal> {
    let key = device.public_key();
    let keys = PacketKeys::new(&cover(), &key, &realm());
    let unsigned = UnsignedPacket::new(&keys, [9; 24], &request(NOW)).expect("a valid request");
    let mut signature = device.sign(&unsigned.to_be_signed(), flags, 7).encode();
    change(&mut signature);
    let packet = unsigned.seal(&Signature::decode(&signature).expect("nothing reserved"), 0);
    let keyring = Keyring::new(&realm(), &[cover()], authorized(&format!("{options} {key} alice")), NOW);
    keyring.verify(&keyring.open(&packet).expect("sealed")).map(|_| ())
}

#[test]
fn a_fido_key_has_to_be_touched_unless_its_options_say_otherwise() {
    let not_touched = Err(Refusal::Signature(SignatureError::NotTouched));
    let not_verified = Err(Refusal::Signature(SignatureError::NotVerified));
    for (options, neither, touched, verified, both) in [
        ("", not_touched, Ok(()), not_touched, Ok(())),
        ("no-touch-required", Ok(()), Ok(()), Ok(()), Ok(())),
        ("verify-required", not_touched, not_verified, not_touched, Ok(())),
        ("verify-required,no-touch-required", not_verified, not_verified, Ok(()), Ok(())),
    ] {
        for (flags, expected) in [(0, neither), (1, touched), (4, verified), (5, both), (0xc5, both), (0xfa, neither)] {
            for device in devices() {
                assert_eq!(fido(&device, options, flags, |_| ()), expected, "`{options}`, flags {flags:#04x}");
            }
        }
    }
}

#[test]
fn flags_and_counter_of_a_fido_key_are_signed() {
    let wrong = Err(Refusal::Signature(SignatureError::Wrong));
    for device in devices() {
        assert_eq!(fido(&device, "", 1, |_| ()), Ok(()));
        assert_eq!(fido(&device, "", 0, |signature| signature[64] = 1), wrong);
        for byte in 65..69 {
            assert_eq!(fido(&device, "", 1, |signature| signature[byte] ^= 1), wrong);
        }
    }
}

#[test]
fn a_key_without_a_device_has_neither_flags_nor_a_counter() {
    let keys = PacketKeys::new(&cover(), alice().public_key(), &realm());
    let unsigned = UnsignedPacket::new(&keys, [9; 24], &request(NOW)).expect("a valid request");
    let keyring = keyring(NOW);
    for byte in 64..69 {
        let mut signature = alice().sign(&unsigned.to_be_signed()).encode();
        signature[byte] = 1;
        let packet = unsigned.seal(&Signature::decode(&signature).expect("nothing reserved"), 0);
        let refused = keyring.verify(&keyring.open(&packet).expect("sealed"));
        assert_eq!(refused, Err(Refusal::Signature(SignatureError::Reserved)), "byte {byte}");
    }
}

#[test]
fn no_secret_is_shown() {
    let keys = PacketKeys::new(&cover(), alice().public_key(), &realm());
    let fingerprint = alice().public_key().fingerprint();
    assert_eq!(format!("{keys:?}"), format!("PacketKeys({fingerprint})"));
    assert_eq!(format!("{:?}", alice()), format!("PrivateKey({fingerprint})"));
    let shown = format!("{:?}", keyring(NOW));
    assert!(!shown.contains("7, 7"), "{shown}");
}

#[test]
fn a_packet_that_another_process_opened_is_verified_here_and_no_byte_of_it_is_believed() {
    let file = format!("{} alice\n", alice().public_key());
    let keyring = Keyring::new(&realm(), &[Cover::from_bytes([8; 32]), cover()], authorized(&file), NOW);
    let opener = Opener::from_bytes(&keyring.opener().to_bytes(), NOW).expect("its form");
    assert_eq!(opener.keys(), 1);
    let handed = opener.open(&packet(NOW)).expect("sealed").hand_over();
    let taken = keyring.take_over(&handed).expect("its form");
    assert_eq!(keyring.verify(&taken), Ok(request(NOW)));
    for bit in 0..handed.len() * 8 {
        let mut changed = handed;
        changed[bit / 8] ^= 1 << (bit % 8);
        let verified = keyring.take_over(&changed).map(|opened| keyring.verify(&opened));
        // The cover hides the packet, and says nothing of who made it.
        let says_nothing = bit == 56;
        assert_eq!(matches!(verified, Some(Ok(_))), says_nothing, "bit {bit}");
    }
    assert!(keyring.take_over(&handed[1..]).is_none() && keyring.take_over(&[&handed[..], &[0]].concat()).is_none());
    for bytes in [&[][..], &[0; 4], &[0; 5], &keyring.opener().to_bytes()[..100]] {
        assert!(Opener::from_bytes(bytes, NOW).is_none_or(|opener| opener.open(&packet(NOW)).is_err()));
    }
}
