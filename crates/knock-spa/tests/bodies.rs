//! Which bodies are requests.

mod support;

use std::net::IpAddr;
use std::num::NonZeroU32;

use knock_spa::{BodyError, Operation, Request, UnixTime};
use proptest::prelude::*;
use support::{NOW, request};

/// The body of a valid request, with other bytes from `at` on.
fn with(at: usize, bytes: &[u8]) -> Result<Request, BodyError> {
    let mut body = request(NOW).encode().expect("valid");
    body[at..][..bytes.len()].copy_from_slice(bytes);
    Request::decode(&body)
}

#[test]
fn what_has_no_meaning_is_refused() {
    assert_eq!(with(0, &[]), Ok(request(NOW)));
    for version in [0, 2, 255] {
        assert_eq!(with(0, &[version]), Err(BodyError::Version { version }));
    }
    for operation in [0, 3, 255] {
        assert_eq!(with(1, &[operation]), Err(BodyError::Operation { operation }));
    }
    for bit in 2..16 {
        let flags = 1 | 1 << bit;
        assert_eq!(with(2, &u16::to_be_bytes(flags)), Err(BodyError::Flags { flags }));
    }
    for byte in 16..32 {
        assert_eq!(with(byte, &[1]), Err(BodyError::AddressBesideSource), "byte {byte}");
    }
    let close = with(1, &[2]).expect("a close");
    assert_eq!(close, Request { operation: Operation::Close, ..request(NOW) });
    assert_eq!(with(1, &[2, 0, 1, 0, 0, 0, 1]), Err(BodyError::LifetimeOfClose));
    let refused = Request { lifetime: NonZeroU32::new(1), ..close }.encode();
    assert_eq!(refused, Err(BodyError::LifetimeOfClose));
}

#[test]
fn an_address_is_that_of_a_host() {
    let named = |address: &str| {
        let address: IpAddr = address.parse().expect("an address");
        let octets = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        (address.to_canonical(), with(2, &[&[0, 0, 0, 0, 0, 0][..], &NOW.as_millis().to_be_bytes(), &octets].concat()))
    };
    for text in ["192.0.2.7", "127.0.0.1", "2001:db8::1", "::1", "fe80::1", "::ffff:192.0.2.7", "::192.0.2.7"] {
        let (address, read) = named(text);
        let expected = Request { address: Some(address), ..request(NOW) };
        assert_eq!(read, Ok(expected.clone()), "{text}");
        let encoded = Request { address: Some(text.parse().expect("an address")), ..request(NOW) }.encode();
        assert_eq!(encoded, expected.encode());
    }
    for text in
        ["0.0.0.0", "255.255.255.255", "224.0.0.1", "239.1.2.3", "::", "ff02::1", "::ffff:0.0.0.0", "::ffff:224.0.0.1"]
    {
        let (address, read) = named(text);
        assert_eq!(read, Err(BodyError::Address { address }), "{text}");
        let encoded = Request { address: Some(text.parse().expect("an address")), ..request(NOW) }.encode();
        assert_eq!(encoded, Err(BodyError::Address { address }), "{text}");
    }
}

#[test]
fn a_rule_is_a_name_and_zeros() {
    assert_eq!(with(32, &[0; 64]), Ok(Request { rule: None, ..request(NOW) }));
    let long = "r".repeat(64);
    let rule = Some(long.parse().expect("a name"));
    assert_eq!(with(32, long.as_bytes()), Ok(Request { rule, ..request(NOW) }));
    for field in ["a b\0", "a/b\0", "\0ssh", "ssh\0x", "ssh\n", "\u{e4}\0", "%IP%", "a\0\0\0b"] {
        assert_eq!(with(32, field.as_bytes()), Err(BodyError::Rule), "{field:?}");
    }
    assert_eq!(with(32, &[0xff; 64]), Err(BodyError::Rule));
    assert_eq!(with(95, b"x"), Err(BodyError::Rule));
}

fn any_request() -> impl Strategy<Value = Request> {
    let address = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ];
    let rule = prop::option::of("[A-Za-z0-9_.-]{1,64}".prop_map(|name| name.parse().expect("a name")));
    (any::<bool>(), prop::option::of(address), any::<bool>(), any::<u32>(), any::<u64>(), rule).prop_map(
        |(open, address, widen, lifetime, time, rule)| Request {
            operation: if open { Operation::Open } else { Operation::Close },
            address,
            widen,
            lifetime: NonZeroU32::new(lifetime).filter(|_| open),
            time: UnixTime::from_millis(time),
            rule,
        },
    )
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was(request in any_request()) {
        match request.encode() {
            Ok(body) => prop_assert_eq!(Request::decode(&body), Ok(request)),
            Err(error) => prop_assert!(matches!(error, BodyError::Address { .. }), "{}", error),
        }
    }

    #[test]
    fn a_request_has_one_encoding(change in any::<(prop::sample::Index, u8)>(), request in any_request()) {
        if let Ok(mut body) = request.encode() {
            body[change.0.index(96)] = change.1;
            if let Ok(read) = Request::decode(&body) {
                prop_assert_eq!(read.encode(), Ok(body));
            }
        }
    }

    #[test]
    fn a_sealed_request_comes_back_as_it_was(
        request in any_request(), cover in any::<[u8; 32]>(), seed in any::<[u8; 32]>(), padding in any::<u8>(),
    ) {
        prop_assume!(request.encode().is_ok());
        let cover = knock_spa::Cover::from_bytes(cover);
        let key = knock_spa::PrivateKey::from_seed(seed, "");
        let packet = support::seal(&key, &cover, &support::realm(), &request, padding);
        let keys = support::authorized(&key.public_key().to_string());
        let keyring = knock_spa::Keyring::new(&support::realm(), &[cover], keys, request.time);
        prop_assert_eq!(keyring.verify(&keyring.open(&packet).expect("sealed")), Ok(request));
    }
}
