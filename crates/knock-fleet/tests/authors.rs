//! What a node says, a peer understands.

mod support;

use std::time::Duration;

use knock_fleet::{Action, Author, Known, Record, Refused, Statement, Subject, What};
use knock_spa::{Operation, Request};
use support::{NOW, address, alice, later, name, packet, peer, realm, request, sequence, web1, web2};

fn statement(lifetime: f64) -> Statement {
    Statement {
        rule: name("ssh"),
        address: address("192.0.2.7"),
        wide: false,
        time: NOW,
        lifetime: Duration::from_secs_f64(lifetime),
    }
}

#[test]
fn what_a_node_grants_and_revokes_is_understood() {
    let (peer, mut known) = (peer(), Known::default());
    let mut author = Author::new(web1(), realm(), 7);
    let fingerprint = alice().public_key().fingerprint();
    let proof = |nonce, request: &Request| match packet(nonce, request).what {
        What::Packet(proof) => proof.request,
        _ => panic!("a packet"),
    };
    let mut counters = Vec::new();
    let mut admit = |bytes: [u8; 416]| {
        let record = Record::decode(&bytes).expect("a record");
        assert_eq!(record.node, web1().id());
        counters.push(record.counter);
        known.admit(peer.verify(&bytes, later(1.0))?, later(1.0))
    };
    let observed = Request { address: None, ..request() };
    let close = Request { operation: Operation::Close, ..request() };
    for bytes in [
        author.packet(statement(600.0), fingerprint, proof(1, &request()), true),
        author.packet(statement(600.0), fingerprint, proof(2, &observed), false),
        author.sequence(statement(90.9), [1; 16]),
        author.manual(statement(0.3), [2; 16]),
    ] {
        let action = admit(bytes);
        match Record::decode(&bytes).expect("a record").lifetime.get() {
            1 => assert_eq!(action, Err(Refused::Ended), "nothing of it is left"),
            seconds => {
                let Ok(Action::Grant(grant)) = action else { panic!("{action:?}") };
                assert_eq!(grant.lifetime, Duration::from_secs(u64::from(seconds) - 1));
            }
        }
    }
    let closed = admit(author.closing_packet(statement(600.0), fingerprint, proof(3, &close), true));
    let Ok(Action::Revoke(closed)) = closed else { panic!("{closed:?}") };
    assert_eq!(closed.subjects, [Subject::of_address(name("ssh"), address("192.0.2.7"))]);
    assert_eq!(admit(author.revocation(statement(600.0))), Err(Refused::Known), "it is closed already");
    let all = admit(author.revocation_of_all(address("192.0.2.8"), NOW, Duration::from_secs(600)));
    assert!(matches!(all, Ok(Action::Revoke(_))), "{all:?}");
    assert_eq!(counters, [7, 8, 9, 10, 11, 12, 13]);
}

#[test]
fn a_revocation_is_in_the_store_for_longer_than_what_it_ends() {
    let mut author = Author::new(web2(), realm(), 0);
    let end = |bytes: [u8; 416]| Record::decode(&bytes).expect("a record").end();
    let granted = end(author.sequence(statement(600.0), [1; 16]));
    assert!(end(author.revocation(statement(600.0))) > granted);
    assert!(end(author.revocation_of_all(address("192.0.2.7"), NOW, Duration::from_secs(600))) > granted);
    assert!(end(author.revocation(statement(f64::from(u32::MAX) * 2.0))) > granted);
}

#[test]
fn what_a_node_has_written_is_nothing_new_when_it_comes_back() {
    let (peer, mut known) = (peer(), Known::default());
    let mut author = Author::new(web1(), realm(), 0);
    let (proof, fingerprint) = (packet(1, &request()), alice().public_key().fingerprint());
    let What::Packet(proof) = proof.what else { panic!("a packet") };
    // A packet is remembered for longer than a short grant.
    known.accepted([1; 24], later(120.0));
    for bytes in
        [author.sequence(statement(600.0), [1; 16]), author.packet(statement(5.0), fingerprint, proof.request, true)]
    {
        known.written(&Record::decode(&bytes).expect("a record"));
        let back = known.admit(peer.verify(&bytes, later(1.0)).expect("valid"), later(1.0));
        assert_eq!(back, Err(Refused::Known));
    }
    // What is over is forgotten while another record is admitted.
    let other = sequence(9, later(100.0)).sign(&web1(), &realm());
    known.admit(peer.verify(&other, later(100.0)).expect("valid"), later(100.0)).expect("new");
    assert!(known.has_packet(&[1; 24]));
}
