//! What a peer makes of a record: never more than client and node may ask for.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use knock_fleet::{Action, Known, Node, PeerGrant, Record, Refused, Subject, Trust, What};
use knock_spa::{Denial, Operation, Request, UnixTime};
use proptest::prelude::*;
use support::{NOW, address, later, name, packet, peer, peer_with, realm, request, revocation, sequence, web1, web2};

/// What a new peer does at that time with what web1 says.
fn of_web1(record: &Record, at: UnixTime) -> Result<Action, Refused> {
    Known::default().admit(peer().verify(&record.sign(&web1(), &realm()), at)?, at)
}

/// The same for web2, which vouches for nothing.
fn of_web2(record: &Record, at: UnixTime) -> Result<Action, Refused> {
    Known::default().admit(peer().verify(&record.sign(&web2(), &realm()), at)?, at)
}

fn grant(result: Result<Action, Refused>) -> PeerGrant {
    match result {
        Ok(Action::Grant(grant)) => grant,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_remainder_is_granted() {
    let record = packet(1, &request());
    for (at, left) in [(0.0, 600.0), (1.5, 598.5), (599.0, 1.0)] {
        let grant = grant(of_web2(&record, later(at)));
        assert_eq!(grant.lifetime, Duration::from_secs_f64(left), "{at} s later");
        assert_eq!((grant.rule.as_str(), grant.address, grant.wide), ("ssh", address("192.0.2.7"), false));
        assert_eq!((&*grant.node, grant.user.and_then(|user| user.name).as_deref()), ("web2", Some("alice")));
    }
    assert_eq!(of_web2(&record, later(599.1)), Err(Refused::Ended), "less than the kernel can do");
    assert_eq!(of_web2(&record, later(9999.0)), Err(Refused::Ended));
}

#[test]
fn a_clock_that_is_ahead_lengthens_nothing() {
    let record = packet(1, &request());
    assert_eq!(grant(of_web2(&record, later(-5.0))).lifetime, Duration::from_secs(600));
    let refused = of_web2(&record, later(-5.1)).expect_err("too far ahead");
    assert!(matches!(refused, Refused::Ahead { by } if by == Duration::from_millis(5100)), "{refused}");
}

#[test]
fn a_node_can_t_change_what_a_client_signed() {
    let signed = packet(1, &Request { lifetime: 30.try_into().ok(), ..request() });
    let not_as_signed = |record: Record, field| assert_eq!(of_web1(&record, NOW), Err(Refused::NotAsSigned { field }));
    not_as_signed(Record { address: address("192.0.2.8"), ..signed.clone() }, "address");
    not_as_signed(Record { wide: true, ..signed.clone() }, "prefix");
    not_as_signed(Record { lifetime: 31.try_into().expect("not zero"), ..signed.clone() }, "lifetime");
    not_as_signed(Record { rule: Some(name("mail")), ..signed.clone() }, "rule");
    let mut observed = signed.clone();
    if let What::Packet(proof) = &mut observed.what {
        proof.observed = true;
    }
    not_as_signed(observed, "address");
    for moved in [-60.1, 60.1] {
        let record = Record { time: later(moved), ..signed.clone() };
        let refused = of_web1(&record, later(moved)).expect_err("not when the client signed it");
        assert!(
            matches!(refused, Refused::Denied(Denial::ClockAhead { .. } | Denial::ClockBehind { .. })),
            "{refused}"
        );
    }
    // A shorter one is nothing that it could not revoke.
    let shorter = Record { lifetime: 10.try_into().expect("not zero"), ..signed };
    assert_eq!(grant(of_web1(&shorter, NOW)).lifetime, Duration::from_secs(10));
}

#[test]
fn the_rule_here_limits_the_lifetime() {
    let long = |record: Record| Record { lifetime: 86_400.try_into().expect("not zero"), ..record };
    assert_eq!(grant(of_web1(&long(packet(1, &request())), later(10.0))).lifetime, Duration::from_secs(590));
    assert_eq!(grant(of_web1(&long(sequence(1, NOW)), later(10.0))).lifetime, Duration::from_secs(590));
    assert_eq!(of_web1(&long(sequence(1, NOW)), later(600.0)), Err(Refused::Ended));
}

#[test]
fn the_word_of_a_node_is_enough_for_its_rules_only() {
    let manual = Record { what: What::Manual { grant: [2; 16] }, ..sequence(2, NOW) };
    let observed = packet(3, &Request { address: None, ..request() });
    for record in [sequence(1, NOW), manual, observed] {
        assert_eq!(grant(of_web1(&record, NOW)).rule, name("ssh"));
        let refused = of_web2(&record, NOW).expect_err("web2 vouches for nothing");
        assert_eq!(refused, Refused::NotVouched { node: "web2".into(), rule: name("ssh") });
        let mail = Record { rule: Some(name("mail")), ..record };
        assert!(of_web1(&mail, NOW).is_err(), "web1 vouches for ssh only");
    }
    let other = Record { rule: Some(name("other")), ..sequence(1, NOW) };
    assert_eq!(of_web1(&other, NOW), Err(Refused::UnknownRule { rule: name("other") }));
}

#[test]
fn a_grant_says_whose_word_it_rests_on() {
    let observed = packet(3, &Request { address: None, ..request() });
    assert_eq!(grant(of_web1(&sequence(1, NOW), NOW)).voucher, Some(web1().id()));
    assert_eq!(grant(of_web1(&observed, NOW)).voucher, Some(web1().id()), "only the node saw the address");
    assert_eq!(grant(of_web1(&packet(1, &request()), NOW)).voucher, None, "the client has signed all of it");
}

#[test]
fn grants_of_a_node_that_is_removed_do_not_begin_again() {
    let (peer, mut known) = (peer(), Known::default());
    let mut admit = |record: &Record, now| known.admit(peer.verify(&record.sign(&web1(), &realm()), now)?, now);
    // The one is longer, the other later.
    let long = Record { lifetime: 600.try_into().expect("not zero"), ..sequence(1, NOW) };
    let short = Record { time: later(2.0), lifetime: 60.try_into().expect("not zero"), ..packet(2, &request()) };
    admit(&long, later(2.0)).expect("granted");
    admit(&short, later(2.0)).expect("granted");
    let ssh = peer.rules[&name("ssh")];
    let subject = knock_fleet::Subject::of_address(name("ssh"), short.address);
    assert_eq!((known.grants().count(), known.latest(&subject, ssh)), (2, Some(later(2.0))));
    known.keep_only(|_, held| held.voucher.is_none());
    assert_eq!(known.grants().count(), 1, "the client's own signature is enough");
}

#[test]
fn after_a_change_of_keys_or_rules_a_record_is_decided_again() {
    let (peer, mut known) = (peer(), Known::default());
    let admit = |known: &mut Known, record: &Record| {
        known.admit(peer.verify(&record.sign(&web1(), &realm()), NOW).expect("valid"), NOW)
    };
    let records = [sequence(1, NOW), packet(2, &request())];
    for record in &records {
        grant(admit(&mut known, record));
        assert_eq!(admit(&mut known, record), Err(Refused::Known));
    }
    known.keep_only(|_, _| false);
    for record in &records {
        assert!(!known.has(record), "its signature is to be verified");
        grant(admit(&mut known, record));
        assert!(known.has(record));
    }
    let What::Packet(proof) = &records[1].what else { panic!("a packet") };
    known.keep_only(|_, _| false);
    assert!(known.has_packet(&proof.request.nonce), "nobody else can use it");
}

#[test]
fn a_packet_is_used_up_by_a_record_that_changes_nothing() {
    let (peer, mut known) = (peer(), Known::default());
    let admit = |known: &mut Known, record: &Record| {
        known.admit(peer.verify(&record.sign(&web1(), &realm()), later(2.0)).expect("valid"), later(2.0))
    };
    let nonce = |record: &Record| match &record.what {
        What::Packet(proof) => proof.request.nonce,
        _ => panic!("a packet"),
    };
    let opens = packet(1, &request());
    let closes = packet(2, &Request { operation: Operation::Close, time: later(1.0), ..request() });
    assert!(matches!(admit(&mut known, &closes), Ok(Action::Revoke(_))));
    // The store has what ends it in front of it.
    assert_eq!(admit(&mut known, &opens), Err(Refused::Revoked));
    assert!(known.has_packet(&nonce(&opens)) && known.has_packet(&nonce(&closes)));
    assert!(known.has(&opens) && known.has(&closes), "neither has to be verified again");
}

#[test]
fn what_the_key_may_not_ask_for_here_is_refused() {
    let refused = |options: &str, request: &Request| {
        let bytes = packet(1, request).sign(&web1(), &realm());
        peer_with(options).verify(&bytes, NOW).expect_err(options)
    };
    let plain = request();
    assert!(matches!(refused("rules=\"mail\"", &plain), Refused::Denied(Denial::RuleNotPermitted { .. })));
    assert!(matches!(refused("from=\"198.51.100.0/24\"", &plain), Refused::Denied(Denial::From { .. })));
    let wide = Request { widen: true, ..request() };
    assert!(matches!(refused("address=\"any\"", &wide), Refused::Denied(Denial::KeyNotWide)));
    let observed = Request { address: None, ..request() };
    assert!(matches!(refused("address=\"strict\"", &observed), Refused::Denied(Denial::AddressNotNamed)));
    assert!(matches!(refused("expiry-time=\"20270115Z\"", &plain), Refused::Denied(Denial::Expired)));
    // It was valid when the packet was accepted, and is not now.
    let bytes = packet(1, &plain).sign(&web1(), &realm());
    let expiring = peer_with("expiry-time=\"202701150801Z\"");
    let grant = grant(Known::default().admit(expiring.verify(&bytes, later(10.0)).expect("valid"), later(10.0)));
    assert_eq!(grant.lifetime, Duration::from_secs(50), "it ends with the key");
    let refused = expiring.verify(&bytes, later(60.0)).expect_err("expired");
    assert_eq!(refused, Refused::Denied(Denial::Expired));
    let mut nobody = peer();
    nobody.packets = None;
    assert!(matches!(nobody.verify(&bytes, NOW), Err(Refused::NoPackets)));
}

#[test]
fn a_prefix_is_granted_where_the_rule_here_has_one() {
    let wide = packet(1, &Request { widen: true, ..request() });
    assert!(grant(of_web2(&wide, NOW)).wide);
    let mut narrow = peer();
    narrow.rules.get_mut(&name("ssh")).expect("ssh").prefixes = (32, 128);
    let refused = narrow.verify(&wide.sign(&web2(), &realm()), NOW).expect_err("no prefixes here");
    assert_eq!(refused, Refused::NotWide { rule: name("ssh") });
}

#[test]
fn a_grant_comes_once() {
    let (peer, mut known) = (peer(), Known::default());
    let mut admit =
        |record: &Record, by: &knock_fleet::NodeKey| known.admit(peer.verify(&record.sign(by, &realm()), NOW)?, NOW);
    grant(admit(&packet(1, &request()), &web1()));
    assert_eq!(admit(&packet(1, &request()), &web1()), Err(Refused::Known));
    assert_eq!(admit(&packet(1, &request()), &web2()), Err(Refused::Known), "the same packet at another node");
    grant(admit(&packet(2, &request()), &web2()));
    grant(admit(&sequence(1, NOW), &web1()));
    assert_eq!(admit(&sequence(1, NOW), &web1()), Err(Refused::Known));
    assert!(known.has(&packet(1, &request())) && known.has_packet(&[1; 24]) && !known.has_packet(&[9; 24]));
}

#[test]
fn a_later_time_wins_and_a_tie_revokes() {
    let peer = peer();
    for (granted, revoked, is_granted) in [(0.0, 1.0, false), (1.0, 1.0, false), (1.001, 1.0, true)] {
        let records = [sequence(1, later(granted)), revocation(later(revoked))];
        for order in [[0, 1], [1, 0]] {
            let mut known = Known::default();
            let mut live = false;
            for record in order.map(|index| &records[index]) {
                let verified = peer.verify(&record.sign(&web1(), &realm()), later(2.0)).expect("valid");
                match known.admit(verified, later(2.0)) {
                    Ok(Action::Grant(_)) => live = true,
                    Ok(Action::Revoke(_)) => live = false,
                    Err(refused) => assert!(refused.is_expected(), "{refused}"),
                }
            }
            assert_eq!(live, is_granted, "granted at {granted}, revoked at {revoked}, in the order {order:?}");
        }
    }
}

#[test]
fn a_revoked_packet_stays_revoked_when_it_is_sent_again() {
    let (peer, mut known) = (peer(), Known::default());
    let mut admit =
        |record: Record, by: &knock_fleet::NodeKey, at| known.admit(peer.verify(&record.sign(by, &realm()), at)?, at);
    grant(admit(packet(1, &request()), &web1(), NOW));
    assert!(matches!(admit(revocation(later(1.0)), &web2(), later(1.0)), Ok(Action::Revoke(_))));
    // A thief sends it to web2, which has not seen it.
    let again = Record { time: later(5.0), ..packet(1, &request()) };
    assert_eq!(admit(again, &web2(), later(5.0)), Err(Refused::Known));
    // Its user signs another one.
    grant(admit(packet(2, &Request { time: later(6.0), ..request() }), &web2(), later(6.0)));
}

#[test]
fn a_client_closes_what_it_opened() {
    let (peer, mut known) = (peer(), Known::default());
    let close = Request { operation: Operation::Close, time: later(1.0), ..request() };
    for record in [packet(1, &request()), packet(2, &close)] {
        let done = known.admit(peer.verify(&record.sign(&web2(), &realm()), later(1.0)).expect("valid"), later(1.0));
        match done.expect("an action") {
            Action::Grant(grant) => assert_eq!(grant.rule, name("ssh")),
            Action::Revoke(revocation) => {
                assert_eq!(revocation.subjects, [Subject::of_address(name("ssh"), address("192.0.2.7"))]);
                assert_eq!(revocation.user.and_then(|user| user.name).as_deref(), Some("alice"));
            }
        }
    }
}

#[test]
fn a_revocation_of_an_address_ends_its_grants_of_all_rules_and_those_of_its_prefix() {
    let (peer, mut known) = (peer(), Known::default());
    let mut admit = |record: Record| {
        known.admit(peer.verify(&record.sign(&web1(), &realm()), later(9.0)).expect("valid"), later(9.0))
    };
    let of_all = Record { rule: None, ..revocation(later(1.0)) };
    let Ok(Action::Revoke(revoked)) = admit(of_all) else { panic!("a revocation") };
    let rules: Vec<&str> = revoked.subjects.iter().map(|subject| subject.rule().as_str()).collect();
    assert_eq!(rules, ["mail", "ssh"]);
    assert_eq!(admit(sequence(1, NOW)), Err(Refused::Revoked));
    assert_eq!(admit(Record { wide: true, ..sequence(2, NOW) }), Err(Refused::Revoked), "a prefix with the address");
    grant(admit(Record { address: address("192.0.2.8"), ..sequence(3, NOW) }));
    // Of a prefix: all addresses in it.
    let Ok(Action::Revoke(_)) = admit(Record { wide: true, ..revocation(later(1.0)) }) else { panic!("a revocation") };
    assert_eq!(admit(Record { address: address("192.0.2.9"), ..sequence(4, NOW) }), Err(Refused::Revoked));
    grant(admit(Record { address: address("192.0.3.9"), ..sequence(5, NOW) }));
}

#[test]
fn an_old_revocation_ends_nothing() {
    assert_eq!(of_web1(&revocation(NOW), later(611.0)), Err(Refused::Ended));
    assert!(of_web1(&revocation(NOW), later(609.0)).is_ok());
}

#[test]
fn memory_is_bounded_and_lack_of_it_grants_nothing() {
    let peer = peer();
    let mut known = Known::with_room(4);
    let mut admit = |record: Record| {
        known.admit(peer.verify(&record.sign(&web1(), &realm()), later(3.0)).expect("valid"), later(3.0))
    };
    let at = |host: u8, record: Record| Record { address: address(&format!("192.0.2.{host}")), ..record };
    for host in 1..=5 {
        let revoked = admit(at(host, revocation(later(1.0))));
        assert!(matches!(revoked, Ok(Action::Revoke(_))), "{revoked:?}");
    }
    // Those before the last were forgotten, and still nothing is granted that they end.
    assert_eq!(admit(at(1, sequence(1, later(1.0)))), Err(Refused::Revoked));
    grant(admit(at(1, sequence(2, later(1.1)))));
    grant(admit(at(2, sequence(3, later(1.1)))));
    assert_eq!(admit(at(4, sequence(4, later(1.1)))), Err(Refused::Full));
    assert!(known.len() <= (4, 4));
}

#[test]
fn a_node_that_vouches_without_end_leaves_room_for_the_others() {
    let mut peer = peer();
    let vouch: std::collections::BTreeSet<_> = [name("ssh")].into();
    let nodes = [("web1", web1()), ("web2", web2())];
    let nodes = nodes.map(|(name, key)| Node { name: name.into(), key: key.public(), vouch: vouch.clone() });
    peer.trust = Trust::new(&realm(), nodes.into()).expect("two keys");
    let mut known = Known::with_room(8);
    let mut admit = |number: u8, key: &knock_fleet::NodeKey, at: f64| {
        let record = Record { address: address(&format!("192.0.2.{number}")), ..sequence(number, later(at)) };
        known.admit(peer.verify(&record.sign(key, &realm()), later(at)).expect("valid"), later(at))
    };
    let granted = (0..20).filter(|&number| admit(number, &web1(), 0.0).is_ok()).count();
    assert_eq!(granted, 4);
    grant(admit(100, &web2(), 0.0));
    // They end, and are forgotten.
    grant(admit(101, &web1(), 700.0));
}

#[test]
fn a_late_revocation_leaves_what_was_granted_after_it() {
    let (peer, mut known) = (peer(), Known::default());
    let mut admit = |record: Record| {
        known.admit(peer.verify(&record.sign(&web1(), &realm()), later(10.0)).expect("valid"), later(10.0))
    };
    let short = Record { lifetime: 60.try_into().expect("not zero"), ..sequence(2, later(6.0)) };
    grant(admit(sequence(1, NOW)));
    grant(admit(short));
    let Ok(Action::Revoke(revoked)) = admit(revocation(later(5.0))) else { panic!("the first one ends") };
    let again: Vec<Duration> = revoked.again.iter().map(|grant| grant.lifetime).collect();
    assert_eq!(again, [Duration::from_secs(56)], "the second one lasts as long as it would alone");
}

#[test]
fn a_packet_whose_grant_was_revoked_or_is_over_is_known() {
    let (peer, mut known) = (peer(), Known::default());
    let mut admit = |record: &Record, now| known.admit(peer.verify(&record.sign(&web1(), &realm()), now)?, now);
    let short = Record { lifetime: 5.try_into().expect("not zero"), ..packet(2, &request()) };
    assert_eq!(admit(&short, later(20.0)), Err(Refused::Ended));
    admit(&revocation(later(1.0)), later(20.0)).expect("noted");
    assert_eq!(admit(&packet(1, &request()), later(20.0)), Err(Refused::Revoked));
    let nonce = |record: &Record| match &record.what {
        What::Packet(proof) => proof.request.nonce,
        _ => panic!("a packet"),
    };
    assert!(known.has_packet(&nonce(&packet(1, &request()))) && known.has_packet(&nonce(&short)));
    assert!(!known.has_packet(&nonce(&packet(3, &request()))));
}

/// What is open: the ends of the grants of each subject.
type Open = BTreeMap<Subject, UnixTime>;

fn subject(address: std::net::IpAddr, wide: bool) -> Subject {
    Subject::new(name("ssh"), address, if wide { 24 } else { 32 })
}

/// What these records open and close, in this order.
fn open<'r>(records: impl Iterator<Item = &'r Record>) -> Open {
    let (peer, mut known, mut open) = (peer(), Known::default(), Open::new());
    let now = later(10.0);
    let begin = |open: &mut Open, grant: PeerGrant| {
        let end = UnixTime::from_millis(now.as_millis() + u64::try_from(grant.lifetime.as_millis()).expect("short"));
        let known = open.entry(subject(grant.address, grant.wide)).or_insert(end);
        *known = end.max(*known);
    };
    for record in records {
        match known.admit(peer.verify(&record.sign(&web1(), &realm()), now).expect("valid"), now) {
            Ok(Action::Grant(grant)) => begin(&mut open, grant),
            Ok(Action::Revoke(revocation)) => {
                open.retain(|open, _| !revocation.subjects.iter().any(|subject| subject.overlaps(open)));
                revocation.again.into_iter().for_each(|grant| begin(&mut open, grant));
            }
            Err(refused) => assert!(refused.is_expected(), "{refused}"),
        }
    }
    open
}

proptest! {
    /// Whatever the order in which the store delivers records, and however often: the same is open in the end.
    #[test]
    fn the_order_of_records_does_not_matter(
        events in prop::collection::vec((any::<bool>(), 0..3u8, any::<bool>(), 0..6u32, 60..200u32), 1..8),
        order in prop::collection::vec(any::<prop::sample::Index>(), 16),
    ) {
        let records: Vec<Record> = events.iter().zip(1..).map(|(&(grants, host, wide, second, lifetime), id)| {
            let address = address(&format!("192.0.2.{host}"));
            let time = later(second.into());
            let record = if grants { sequence(id, time) } else { revocation(time) };
            Record { address, wide, lifetime: lifetime.try_into().expect("not zero"), ..record }
        }).collect();
        // Each of them at least once.
        let mut delivered: Vec<usize> = (0..records.len()).collect();
        delivered.extend(order.iter().map(|index| index.index(records.len())));
        for (at, index) in order.iter().enumerate() {
            let other = index.index(delivered.len());
            delivered.swap(at % records.len(), other);
        }
        // A grant is open unless a revocation that is not earlier overlaps with it.
        let mut model = Open::new();
        let of = |record: &Record| subject(record.address, record.wide);
        let revocations: Vec<&Record> = records.iter().filter(|record| record.what == What::Revocation).collect();
        for record in records.iter().filter(|record| record.what != What::Revocation) {
            if !revocations.iter().any(|other| of(other).overlaps(&of(record)) && other.time >= record.time) {
                let end = model.entry(of(record)).or_insert(record.end());
                *end = record.end().max(*end);
            }
        }
        prop_assert_eq!(&open(delivered.iter().map(|&index| &records[index])), &model);
        prop_assert_eq!(&open(records.iter()), &model);
    }
}
