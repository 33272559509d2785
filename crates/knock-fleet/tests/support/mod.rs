//! A fleet of two nodes and a peer, and what they say of each other.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use knock_fleet::{Node, NodeKey, Packets, Peer, PeerRule, Proof, Record, Trust, What};
use knock_spa::{
    AuthorizedKeys, Cover, Keyring, Operation, PacketKeys, PrivateKey, Realm, Request, RuleName, RuleTerms, Terms,
    UnixTime, UnsignedPacket, Verifier,
};

/// 2027-01-15 08:00 UTC.
pub(crate) const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_000);

#[expect(clippy::cast_possible_truncation, reason = "some seconds")]
pub(crate) fn later(seconds: f64) -> UnixTime {
    UnixTime::from_millis(NOW.as_millis().saturating_add_signed((seconds * 1000.0).round() as i64))
}

pub(crate) fn realm() -> Realm {
    "web.example.com".parse().expect("a realm")
}

pub(crate) fn name(text: &str) -> RuleName {
    text.parse().expect("a name")
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// It vouches for `ssh`.
pub(crate) fn web1() -> NodeKey {
    NodeKey::from_seed([1; 32])
}

/// It vouches for nothing.
pub(crate) fn web2() -> NodeKey {
    NodeKey::from_seed([2; 32])
}

pub(crate) fn alice() -> PrivateKey {
    PrivateKey::from_seed([7; 32], "alice")
}

/// What every node of the fleet knows: `ssh` is 600 s and /24 or /64, `mail` 60 s, and the key has these options.
pub(crate) fn peer_with(options: &str) -> Peer {
    let node = |name: &str, key: NodeKey, vouch: &[&str]| Node {
        name: name.into(),
        key: key.public(),
        vouch: vouch.iter().map(|rule| rule.parse().expect("a name")).collect(),
    };
    let nodes = vec![node("web1", web1(), &["ssh"]), node("web2", web2(), &[])];
    let authorized = AuthorizedKeys::parse(format!("{options} {} alice", alice().public_key()).as_bytes());
    assert_eq!(authorized.warnings, []);
    let seconds = Duration::from_secs;
    let terms = [("ssh", 600, true), ("mail", 60, false)]
        .map(|(rule, lifetime, wide)| (name(rule), RuleTerms { lifetime: seconds(lifetime), wide }));
    let rules = [("ssh", 600, (24, 64)), ("mail", 60, (32, 128))]
        .map(|(rule, lifetime, prefixes)| (name(rule), PeerRule { lifetime: seconds(lifetime), prefixes }));
    Peer {
        trust: Trust::new(&realm(), nodes).expect("two keys"),
        packets: Some(Packets {
            verifier: Verifier::new(&"example.com".parse().expect("a realm"), authorized.keys.into()),
            terms: Terms { window: seconds(60), rules: BTreeMap::from(terms) },
        }),
        rules: BTreeMap::from(rules),
    }
}

pub(crate) fn peer() -> Peer {
    peer_with("wide,address=\"any\"")
}

pub(crate) fn request() -> Request {
    Request {
        operation: Operation::Open,
        address: Some(address("192.0.2.7")),
        widen: false,
        lifetime: None,
        time: NOW,
        rule: Some(name("ssh")),
    }
}

/// What web1 says of a packet of alice, which came from 192.0.2.7.
pub(crate) fn packet(nonce: u8, request: &Request) -> Record {
    let (realm, cover) = ("example.com".parse().expect("a realm"), Cover::from_bytes([9; 32]));
    let keys = PacketKeys::new(&cover, alice().public_key(), &realm);
    let unsigned = UnsignedPacket::new(&keys, [nonce; 24], request).expect("a valid request");
    let payload = unsigned.seal(&alice().sign(&unsigned.to_be_signed()), 0);
    let authorized = AuthorizedKeys::parse(format!("{} alice", alice().public_key()).as_bytes());
    let keyring = Keyring::new(&realm, &[cover], authorized.keys, request.time);
    let opened = keyring.open(&payload).expect("a packet");
    let (fingerprint, observed) = (alice().public_key().fingerprint(), request.address.is_none());
    let proof = Proof { fingerprint, request: opened.signed_request(), observed };
    Record {
        what: What::Packet(Box::new(proof)),
        wide: request.widen,
        lifetime: request.lifetime.unwrap_or(600.try_into().expect("not zero")),
        time: request.time,
        address: request.address.unwrap_or(address("192.0.2.7")),
        rule: Some(request.rule.clone().unwrap_or(name("ssh"))),
        node: web1().id(),
        counter: u64::from(nonce),
    }
}

pub(crate) fn sequence(grant: u8, time: UnixTime) -> Record {
    Record {
        what: What::Sequence { grant: [grant; 16] },
        wide: false,
        lifetime: 600.try_into().expect("not zero"),
        time,
        address: address("192.0.2.7"),
        rule: Some(name("ssh")),
        node: web1().id(),
        counter: u64::from(grant),
    }
}

pub(crate) fn revocation(time: UnixTime) -> Record {
    Record { what: What::Revocation, ..sequence(0, time) }
}
