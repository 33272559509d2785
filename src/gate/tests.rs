//! The gate on the kernel that runs this, in network namespaces, at times that the tests choose: the kernel's clock is
//! as far behind as it is after a suspension.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use caps::{CapSet, Capability};
use knock_config::Config;
use knock_proto::Time;
use knock_testkit::Namespace;

use super::*;
use crate::logging::events::EventLog;

const HOUR: Duration = Duration::from_secs(3600);
const HALF: Duration = Duration::from_secs(1800);
const START: Time = Time::from_millis(1_000_000_000);
const SET: &str = "inet filter knock";

/// The rules `ssh` and `both`, which share a port, and `set`, which adds to the administrator's.
fn config() -> Rc<Config> {
    let text = format!(
        r#"{{"rules": [
            {{"name": "ssh", "sequence": [7000, 9000, 8000], "allow": {{"ports": [22], "timeout": "1h"}}}},
            {{"name": "both", "sequence": [7001, 9001, 8001], "allow": {{"ports": [22, 80], "timeout": "2h"}}}},
            {{"name": "set", "sequence": [7002, 9002, 8002],
              "allow": {{"set": "{SET}", "set6": "{SET}6", "timeout": "1h"}}}}
        ]}}"#
    );
    Rc::new(knock_config::parse("test.json", &text).expect("a valid configuration").config)
}

const SSH: usize = 0;
const BOTH: usize = 1;
const OWN: usize = 2;

fn client(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([198, 18, high, low])
}

fn client6(number: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number])
}

/// Runs a test with a gate in a network namespace of its own, which has the administrator's sets.
fn with_gate(test: impl FnOnce(&mut Gate, &Namespace) + Send) {
    let namespace = Namespace::new().expect("the right to make a network namespace");
    namespace
        .nft(
            "table inet filter {
                set knock { type ipv4_addr; flags timeout; }
                set knock6 { type ipv6_addr; flags timeout; }
            }",
        )
        .expect("the administrator's sets");
    namespace
        .run(|| {
            let mut gate = Gate::open(config(), START, EventLog::default()).expect("opened");
            test(&mut gate, &namespace);
            gate.close(false).expect("closed");
        })
        .expect("in the namespace");
}

/// What the sets hold, as `nft` lists it.
fn listing(namespace: &Namespace) -> String {
    namespace.nft("list ruleset").expect("listed").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_open(namespace: &Namespace, address: IpAddr) -> bool {
    listing(namespace).contains(&format!(" {address} "))
}

fn ended(gate: &mut Gate, now: Time) -> Vec<(usize, IpAddr)> {
    let mut ended = Vec::new();
    gate.end_due(now, |grant| ended.push((grant.rule, grant.address)));
    ended
}

#[test]
fn what_has_ended_by_the_record_is_closed_though_the_kernel_would_keep_it_open() {
    with_gate(|gate, namespace| {
        let all = [(SSH, client(1)), (SSH, client6(1)), (OWN, client(2)), (OWN, client6(2))];
        for (rule, address) in all {
            gate.grant(START, rule, address, HOUR).expect("granted");
            assert!(is_open(namespace, address));
        }
        assert_eq!(ended(gate, START.after(HOUR - Duration::from_millis(1))), []);
        assert!(all.iter().all(|&(_, address)| is_open(namespace, address)));
        let mut ended_now = ended(gate, START.after(HOUR));
        ended_now.sort_unstable();
        assert_eq!(ended_now, all);
        for (_, address) in all {
            assert!(!is_open(namespace, address), "{address} is open");
        }
        assert!(gate.ledger().is_empty());
    });
}

#[test]
fn a_port_stays_open_as_long_as_the_longer_of_two_grants() {
    with_gate(|gate, namespace| {
        gate.grant(START, SSH, client(1), HOUR).expect("granted");
        gate.grant(START, BOTH, client(1), 2 * HOUR).expect("granted");
        assert_eq!(ended(gate, START.after(HOUR)), [(SSH, client(1))]);
        assert_eq!(listing(namespace).matches(&format!("{} ", client(1))).count(), 2);
        assert_eq!(ended(gate, START.after(2 * HOUR)), [(BOTH, client(1))]);
        assert!(!is_open(namespace, client(1)));
        // Both in one turn.
        gate.grant(START, SSH, client(1), HOUR).expect("granted");
        gate.grant(START, BOTH, client(1), 2 * HOUR).expect("granted");
        assert_eq!(ended(gate, START.after(3 * HOUR)).len(), 2);
        assert!(!is_open(namespace, client(1)));
    });
}

#[test]
fn an_end_that_the_kernel_refuses_is_not_told_and_tried_again() {
    with_gate(|gate, namespace| {
        for (rule, address) in [(SSH, client(1)), (OWN, client(2))] {
            gate.grant(START, rule, address, HOUR).expect("granted");
        }
        let over = START.after(HOUR);
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN).expect("given up for now");
        assert_eq!(ended(gate, over), []);
        caps::raise(None, CapSet::Effective, Capability::CAP_NET_ADMIN).expect("had again");
        assert_eq!(gate.ledger().len(), 2);
        assert!(is_open(namespace, client(1)) && is_open(namespace, client(2)));
        let again = gate.ledger().next_end().expect("it is tried again");
        assert!(again > over && again <= over.after(Duration::from_secs(1)), "{again:?}");
        // Meanwhile others end.
        gate.grant(START, SSH, client(3), HOUR).expect("granted");
        assert_eq!(ended(gate, over), [(SSH, client(3))]);
        assert_eq!(ended(gate, again).len(), 2);
        assert!(!is_open(namespace, client(1)) && !is_open(namespace, client(2)));
    });
}

#[test]
fn very_many_ends_are_carried_out_a_bounded_number_at_a_time() {
    with_gate(|gate, _| {
        for number in 0..5000 {
            gate.grant(START, SSH, client(number), HOUR).expect("granted");
        }
        let over = START.after(HOUR);
        let (mut all, mut turns, mut longest) = (0, 0, Duration::ZERO);
        while gate.ledger().next_end().is_some_and(|end| end <= over) {
            let start = std::time::Instant::now();
            let count = ended(gate, over).len();
            longest = longest.max(start.elapsed());
            assert!(count > 0 && count <= knock_nft::ManagedTable::FEW_KEYS);
            (all, turns) = (all + count, turns + 1);
        }
        println!("{all} grants ended in {turns} turns, the longest {longest:?}");
        assert_eq!(all, 5000);
        assert_eq!(gate.table.as_mut().expect("a table").list(), Ok(vec![]));
    });
}

#[test]
fn revoking_closes_what_the_record_knows_nothing_of() {
    with_gate(|gate, namespace| {
        let grant_and_forget = |gate: &mut Gate| {
            for address in [client(1), client6(1)] {
                for rule in [SSH, BOTH, OWN] {
                    gate.grant(START, rule, address, HOUR).expect("granted");
                }
            }
            gate.ledger = Ledger::default();
        };
        grant_and_forget(gate);
        let revoked = gate.revoke(START, SSH, client(1)).expect("revoked");
        assert_eq!(revoked, Revoked { grant: false, strays: 1 });
        let revoked = gate.revoke(START, OWN, client(1)).expect("revoked");
        assert_eq!(revoked, Revoked { grant: false, strays: 1 });
        let revoked = gate.revoke(START, OWN, client(1)).expect("revoked");
        assert_eq!(revoked, Revoked { grant: false, strays: 0 });
        assert!(is_open(namespace, client(1)), "80/tcp is left");

        grant_and_forget(gate);
        let revoked = gate.revoke_address(client(1)).expect("revoked");
        assert_eq!(revoked, RevokedAll { grants: vec![], strays: 3 });
        assert!(!is_open(namespace, client(1)) && is_open(namespace, client6(1)));

        gate.grant(START, SSH, client(1), HOUR).expect("granted");
        let revoked = gate.revoke_all(START).expect("revoked");
        assert_eq!((revoked.grants.len(), revoked.strays), (1, 3));
        assert!(!is_open(namespace, client(1)) && !is_open(namespace, client6(1)));
        assert_eq!(gate.strays(), 8);
    });
}

#[test]
fn after_a_sleep_elements_end_with_their_grants_and_what_no_grant_explains_is_deleted_once() {
    with_gate(|gate, namespace| {
        for (rule, address) in [(SSH, client(1)), (OWN, client(2)), (SSH, client(3)), (OWN, client(4))] {
            gate.grant(START, rule, address, HOUR).expect("granted");
        }
        gate.ledger.take(SSH, client(3));
        gate.ledger.take(OWN, client(4));
        gate.doubt();
        gate.reconcile(START.after(HALF), |told| panic!("nothing was put back: {told}")).expect("compared");
        for (address, stays) in [(client(1), true), (client(2), true), (client(3), false), (client(4), false)] {
            assert_eq!(is_open(namespace, address), stays, "{address}");
        }
        assert_eq!(gate.strays(), 2);
        let listed = gate.table.as_mut().expect("a table").list().expect("listed");
        assert!(listed.iter().all(|element| element.timeout == HOUR && element.remaining <= HALF), "{listed:?}");
        let held = gate.sets.list();
        assert!(held.iter().all(|held| held.timeout == HOUR && held.remaining <= HALF), "{held:?}");
        gate.doubt();
        gate.reconcile(START.after(HALF), |told| panic!("nothing was put back: {told}")).expect("compared");
        assert_eq!(gate.strays(), 2);
    });
}

#[test]
fn of_the_administrators_elements_those_without_a_rules_comment_are_left_alone() {
    with_gate(|gate, namespace| {
        let own = "198.18.1.1 comment \"ssh\", 198.18.1.2 timeout 1h, 198.18.1.3 timeout 1h comment \"office\"";
        namespace
            .nft(&format!("add element {SET} {{ {own}, 198.18.1.4 timeout 1h comment \"set\" }}"))
            .expect("the administrator's elements");
        gate.reconcile(START, |told| panic!("nothing was put back: {told}")).expect("compared");
        assert_eq!(gate.strays(), 1);
        gate.revoke_all(START).expect("revoked");
        for last in 1..=3 {
            gate.revoke_address(IpAddr::from([198, 18, 1, last])).expect("revoked");
        }
        let listing = listing(namespace);
        for (last, stays) in [(1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(listing.contains(&format!("198.18.1.{last} ")), stays, "{listing}");
        }
        assert_eq!(gate.strays(), 1);
    });
}

#[test]
fn what_an_adopted_table_holds_beyond_its_grants_is_deleted() {
    let namespace = Namespace::new().expect("the right to make a network namespace");
    let config = |ports: &str| {
        let text = format!(
            r#"{{"nftables": {{"owner": false}}, "rules": [{{"name": "ssh", "sequence": [7000, 9000, 8000],
                "allow": {{"ports": {ports}, "timeout": "1h"}}}}]}}"#
        );
        Rc::new(knock_config::parse("test.json", &text).expect("a valid configuration").config)
    };
    namespace
        .run(|| {
            let mut gate = Gate::open(config("[22, 80]"), START, EventLog::default()).expect("opened");
            gate.grant(START, 0, client(1), HOUR).expect("granted");
            drop(gate);
            // One that never ends, and one of a rule that there is not.
            namespace
                .nft(
                    "add element inet knockd grants4 { 198.18.1.1 . tcp . 22, \
                     198.18.1.2 . tcp . 22 timeout 1h comment \"gone\" }",
                )
                .expect("added");
            let gate = Gate::open(config("[22]"), START, EventLog::default()).expect("opened");
            assert_eq!((gate.ledger().len(), gate.strays()), (1, 3));
            assert_eq!(listing(&namespace).matches("198.18.").count(), 1);
        })
        .expect("in the namespace");
}

/// Rules that add to the administrator's sets and open a port, with this `limits.grants`.
fn limited(limit: u32) -> Rc<Config> {
    let mut config = (*config()).clone();
    config.limits.grants = limit;
    Rc::new(config)
}

#[test]
fn one_network_cannot_use_up_the_grants_in_the_administrators_sets_either() {
    with_gate(|gate, namespace| {
        gate.reconfigure(limited(8), START).expect("reconfigured");
        for network in [|host| IpAddr::from([192, 0, 2, host]), |host| client6(u16::from(host))] {
            for host in 0..4 {
                assert!(!gate.grant(START, OWN, network(host), HOUR).expect("granted"));
            }
            let error = gate.grant(START, OWN, network(4), HOUR).expect_err("its share is used up");
            assert!(matches!(error, NotGranted::Full(Full::Network { share: 4, .. })), "{error}");
            assert!(!is_open(namespace, network(4)));
            assert!(gate.grant(START, OWN, network(0), HOUR).expect("what is live is extended"));
        }
        for net in 0..4 {
            gate.grant(START, OWN, IpAddr::from([198, 51, net, 1]), HOUR).expect("others have room");
        }
        let error = gate.grant(START, OWN, IpAddr::from([198, 51, 4, 1]), HOUR).expect_err("it is full");
        assert!(matches!(error, NotGranted::Full(Full::Version { v4: true, limit: 8 })), "{error}");
        assert_eq!(gate.ledger().len(), 12);
        // What ends makes room.
        gate.revoke(START, OWN, IpAddr::from([198, 51, 0, 1])).expect("revoked");
        gate.grant(START, OWN, IpAddr::from([198, 51, 4, 1]), HOUR).expect("there is room");
    });
}

#[test]
fn a_lower_limit_ends_the_shortest_grants_and_returns_each() {
    with_gate(|gate, namespace| {
        let address = |net: u8| IpAddr::from([198, 51, net, 1]);
        for (net, rule) in (0..10).zip([SSH, OWN].into_iter().cycle()) {
            gate.grant(START, rule, address(net), HOUR + u32::from(net) * HALF).expect("granted");
        }
        let ended = gate.reconfigure(limited(4), START).expect("reconfigured");
        let mut nets: Vec<IpAddr> = ended.iter().map(|(grant, _)| grant.address).collect();
        nets.sort_unstable();
        assert_eq!(nets, (0..6).map(address).collect::<Vec<_>>());
        assert!(ended.iter().all(|(_, why)| why.contains("limits.grants")));
        for net in 0..10 {
            assert_eq!(is_open(namespace, address(net)), net >= 6, "{net}");
        }
        assert_eq!((gate.ledger().len(), gate.strays()), (4, 0));
    });
}

#[test]
fn a_daemon_that_starts_with_a_lower_limit_ends_what_has_no_room() {
    with_gate(|gate, namespace| {
        let address = |net: u8| IpAddr::from([198, 51, net, 1]);
        for net in 0..6 {
            gate.grant(START, OWN, address(net), HOUR + u32::from(net) * HALF).expect("granted");
        }
        (gate.table, gate.lock) = (None, None);
        let again = Gate::open(limited(4), START, EventLog::default()).expect("opened");
        assert_eq!((again.ledger().len(), again.strays()), (4, 0));
        for net in 0..6 {
            assert_eq!(is_open(namespace, address(net)), net >= 2, "{net}");
        }
        drop(again);
    });
}
