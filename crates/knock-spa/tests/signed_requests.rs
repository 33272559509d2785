//! Requests that another server has opened.

mod support;

use knock_spa::{Keyring, Refusal, SignatureError, Verifier};
use support::{NOW, alice, authorized, cover, keyring, p256, packet, realm, request};

fn verifier() -> Verifier {
    let file = format!("{} alice\n{} bob", alice().public_key(), p256().public_key());
    Verifier::new(&realm(), authorized(&file).into())
}

#[test]
fn an_opened_request_is_verified_without_the_cover() {
    let opened = keyring(NOW).open(&packet(NOW)).expect("a packet of alice");
    let (verifier, signed) = (verifier(), opened.signed_request());
    let key = verifier.key(&alice().public_key().fingerprint()).expect("the key of alice");
    assert_eq!(verifier.verify(key, &signed), Ok(request(NOW)));
    assert_eq!(key.user.as_deref(), Some("alice"));
}

#[test]
fn another_key_realm_or_bit_is_refused() {
    let opened = keyring(NOW).open(&packet(NOW)).expect("a packet of alice");
    let (known, signed) = (verifier(), opened.signed_request());
    let wrong = Err(Refusal::Signature(SignatureError::Wrong));
    let key = |verifier: &Verifier, of: &knock_spa::PrivateKey| {
        verifier.key(&of.public_key().fingerprint()).expect("a known key").clone()
    };
    assert!(matches!(known.verify(&key(&known, &p256()), &signed), Err(Refusal::Signature(_))));
    let elsewhere = Verifier::new(
        &"example.org".parse().expect("a realm"),
        authorized(&format!("{} a", alice().public_key())).into(),
    );
    assert_eq!(elsewhere.verify(&key(&elsewhere, &alice()), &signed), wrong);
    assert!(elsewhere.key(&p256().public_key().fingerprint()).is_none());
    let alice = key(&known, &alice());
    for bit in 0..(24 + 96 + 72) * 8 {
        let mut changed = signed.clone();
        let mut bytes = changed.nonce.iter_mut().chain(&mut changed.body).chain(&mut changed.signature);
        *bytes.nth(bit / 8).expect("a byte") ^= 1 << (bit % 8);
        assert!(known.verify(&alice, &changed).is_err(), "bit {bit}");
    }
}

#[test]
fn a_verifier_of_a_keyring_knows_its_keys() {
    let keyring = Keyring::new(&realm(), &[cover()], authorized(&format!("{} alice", alice().public_key())), NOW);
    let verifier = Verifier::new(&realm(), keyring.shared_keys());
    assert!(verifier.key(&alice().public_key().fingerprint()).is_some());
}
