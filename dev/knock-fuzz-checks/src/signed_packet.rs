//! Only what was signed is accepted, and each request has one encoding.

use std::sync::LazyLock;

use knock_spa::{
    AuthorizedKeys, Cover, Keyring, Operation, PacketKeys, Presence, PrivateKey, Realm, Request, Signature, UnixTime,
    UnsignedPacket,
};

use crate::import::printable;

const TIME: UnixTime = UnixTime::from_millis(1_800_000_000_000);

/// A server with one key, and a packet that it accepts.
struct Server {
    key: PrivateKey,
    keyring: Keyring,
    packet: Vec<u8>,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let realm: Realm = "example.com".parse().expect("a realm");
    let (cover, key) = (Cover::from_bytes([7; 32]), PrivateKey::from_seed([1; 32], "alice"));
    let request =
        Request { operation: Operation::Open, address: None, widen: false, lifetime: None, time: TIME, rule: None };
    let keys = PacketKeys::new(&cover, key.public_key(), &realm);
    let unsigned = UnsignedPacket::new(&keys, [9; 24], &request).expect("a valid request");
    let packet = unsigned.seal(&key.sign(&unsigned.to_be_signed()), 64);
    let authorized = AuthorizedKeys::parse(key.public_key().to_string().as_bytes());
    let keyring = Keyring::new(&realm, &[cover], authorized.keys, TIME);
    Server { key, keyring, packet }
});

/// Checks [`Keyring::open`], [`Request::decode`] and [`Signature::decode`] with these bytes: as a packet, as a change of
/// a valid packet, as a body and as a signature.
///
/// # Panics
///
/// Where something is accepted that was not signed, or has two encodings.
pub fn signed_packet(bytes: &[u8]) {
    let Server { key, keyring, packet } = &*SERVER;
    assert!(bytes == packet || keyring.open(bytes).is_err(), "opened without the cover");

    let mut changed = packet.clone();
    changed.iter_mut().zip(bytes).for_each(|(byte, change)| *byte ^= change);
    match keyring.open(&changed) {
        Ok(opened) => assert!(changed == *packet && keyring.verify(&opened).is_ok()),
        Err(_) => assert_ne!(changed, *packet),
    }

    if let Some(body) = bytes.first_chunk() {
        match Request::decode(body) {
            Ok(request) => assert_eq!(request.encode().as_ref(), Ok(body)),
            Err(error) => printable(&error.to_string()),
        }
    }
    if let Some(signature) = bytes.first_chunk()
        && let Ok(decoded) = Signature::decode(signature)
    {
        assert_eq!(decoded.encode(), *signature);
        assert!(decoded.verify(key.public_key(), b"text", Presence::Nothing).is_err(), "a forged signature");
    }
    if let Ok(signature) = Signature::from_agent(bytes, key.public_key()) {
        assert_eq!(Signature::decode(&signature.encode()), Ok(signature));
    }
}
