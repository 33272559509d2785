//! Grants on the kernel that runs this, in network namespaces, at times that the tests choose: the kernel's clock is as
//! far behind as it is after a suspension.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use caps::{CapSet, Capability};
use knock_nft::{Doors, GrantKind, TableSpec};
use knock_proto::{Access, Port, PortRange, RuleId, SetName, Time};
use knock_testkit::{Namespace, wait_until};

use super::*;
use crate::{Cause, Full, GrantManager, Ledger, Opens, Revoked};

type Manager = GrantManager<Nftables>;

const HOUR: Duration = Duration::from_secs(3600);
const HALF: Duration = Duration::from_secs(1800);
const START: Time = Time::from_millis(1_000_000_000);
const SET: &str = "inet filter knock";

fn set(name: &str) -> SetName {
    name.parse().expect("a set")
}

fn policy_of(rules: &[(&str, Opens)], owner: bool, limit: u32) -> Rc<Policy> {
    let opens = rules.iter().flat_map(|(_, opens)| match opens {
        Opens::Ports(ports) => ports.clone(),
        _ => Vec::new(),
    });
    let opens: Vec<Access> = opens.collect();
    let ports = opens.iter().filter_map(|access| match access {
        Access::Ports(ports) => Some(*ports),
        Access::Any => None,
    });
    let guarded = PortRange::disjoint(ports);
    let (name, exempt_interfaces) = ("knockd".parse().expect("a name"), Vec::new());
    let grants = opens.into_iter().map(GrantKind::from).collect();
    let table = TableSpec { name, guarded, grants, exempt_interfaces, owner, doors: Doors::default() };
    let rules = rules.iter().map(|(name, opens)| (RuleId::from(*name), opens.clone())).collect();
    Rc::new(Policy {
        rules,
        prefixes: HashMap::new(),
        signers: crate::Signers::default(),
        vouchers: crate::Vouchers::default(),
        table: Some(table),
        limit: limit as usize,
    })
}

/// The rules `ssh` and `both`, which share a port, and `set`, which adds to user sets.
fn limited(limit: u32) -> Rc<Policy> {
    let sets = Opens::Sets { v4: Some(set(SET)), v6: Some(set(&format!("{SET}6"))) };
    let ports = |ports: &[u16]| Opens::Ports(ports.iter().map(|&port| Port::tcp(port).into()).collect());
    policy_of(&[("ssh", ports(&[22])), ("both", ports(&[22, 80])), ("set", sets)], true, limit)
}

fn policy() -> Rc<Policy> {
    limited(65_536)
}

const SSH: &str = "ssh";
const BOTH: &str = "both";
const OWN: &str = "set";
const OPERATOR: Cause = Cause::Operator { uid: 0 };

fn grant(manager: &mut Manager, now: Time, rule: &str, address: IpAddr, timeout: Duration) -> Result<(), Error> {
    manager.grant(now, &rule.into(), address, timeout, Cause::Knock)
}

/// Opens a manager after another one has let go of the lock and of the table. A program that a test beside this one starts
/// holds copies of their descriptors until it has called execve(2).
fn opened_again(policy: &Rc<Policy>) -> Manager {
    wait_until("lock and table are free", || match GrantManager::open(START, Rc::clone(policy), Nftables::default()) {
        Err(Error::Served { .. } | Error::Nft(knock_nft::Error::Owned { .. })) => None,
        result => Some(result.expect("opened")),
    })
}

fn events(manager: &mut Manager) -> Vec<GrantEvent> {
    std::iter::from_fn(|| manager.poll_event()).collect()
}

/// How many strays were deleted since it was asked last.
fn strays(manager: &mut Manager) -> usize {
    let count = |event: &GrantEvent| match event {
        GrantEvent::Stray { .. } => 1,
        GrantEvent::RevokedStrays { count, .. } => *count,
        _ => 0,
    };
    events(manager).iter().map(count).sum()
}

fn client(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([198, 18, high, low])
}

fn client6(number: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number])
}

/// Runs a test with a manager in a network namespace of its own, which has the administrator's sets.
fn with_manager(test: impl FnOnce(&mut Manager, &Namespace) + Send) {
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
            let mut manager = GrantManager::open(START, policy(), Nftables::default()).expect("opened");
            test(&mut manager, &namespace);
            manager.close(false).expect("closed");
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

fn ended(manager: &mut Manager, now: Time) -> Vec<(String, IpAddr)> {
    events(manager);
    manager.tick(now);
    let ended = |event| match event {
        GrantEvent::Expired { grant } => Some((grant.rule.to_string(), grant.address)),
        _ => None,
    };
    events(manager).into_iter().filter_map(ended).collect()
}

fn is_restored(event: &GrantEvent) -> bool {
    matches!(event, GrantEvent::TableRestored { .. } | GrantEvent::SetsRestored { .. })
}

fn pair(rule: &str, address: IpAddr) -> (String, IpAddr) {
    (rule.to_owned(), address)
}

#[test]
fn a_grant_that_has_expired_by_the_record_is_closed_though_the_kernel_would_keep_it_open() {
    with_manager(|manager, namespace| {
        let all = [(SSH, client(1)), (SSH, client6(1)), (OWN, client(2)), (OWN, client6(2))];
        for (rule, address) in all {
            grant(manager, START, rule, address, HOUR).expect("granted");
            assert!(is_open(namespace, address));
        }
        assert_eq!(ended(manager, START.after(HOUR - Duration::from_millis(1))), []);
        assert!(all.iter().all(|&(_, address)| is_open(namespace, address)));
        let mut ended_now = ended(manager, START.after(HOUR));
        ended_now.sort_unstable();
        let mut expected = all.map(|(rule, address)| pair(rule, address));
        expected.sort_unstable();
        assert_eq!(ended_now, expected);
        for (_, address) in all {
            assert!(!is_open(namespace, address), "{address} is open");
        }
        assert!(manager.ledger().is_empty());
    });
}

#[test]
fn a_port_stays_open_as_long_as_the_longer_of_two_grants() {
    with_manager(|manager, namespace| {
        grant(manager, START, SSH, client(1), HOUR).expect("granted");
        grant(manager, START, BOTH, client(1), 2 * HOUR).expect("granted");
        assert_eq!(ended(manager, START.after(HOUR)), [pair(SSH, client(1))]);
        assert_eq!(listing(namespace).matches(&format!("{} ", client(1))).count(), 2);
        assert_eq!(ended(manager, START.after(2 * HOUR)), [pair(BOTH, client(1))]);
        assert!(!is_open(namespace, client(1)));
        // Both in one turn.
        grant(manager, START, SSH, client(1), HOUR).expect("granted");
        grant(manager, START, BOTH, client(1), 2 * HOUR).expect("granted");
        assert_eq!(ended(manager, START.after(3 * HOUR)).len(), 2);
        assert!(!is_open(namespace, client(1)));
    });
}

#[test]
fn an_expiry_that_the_kernel_refuses_is_not_reported_and_is_tried_again() {
    with_manager(|manager, namespace| {
        for (rule, address) in [(SSH, client(1)), (OWN, client(2))] {
            grant(manager, START, rule, address, HOUR).expect("granted");
        }
        let over = START.after(HOUR);
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN).expect("given up for now");
        assert_eq!(ended(manager, over), []);
        caps::raise(None, CapSet::Effective, Capability::CAP_NET_ADMIN).expect("had again");
        assert_eq!(manager.ledger().len(), 2);
        assert!(is_open(namespace, client(1)) && is_open(namespace, client(2)));
        let again = manager.next_deadline().expect("it is tried again");
        assert!(again > over && again <= over.after(Duration::from_secs(1)), "{again:?}");
        // Meanwhile others end.
        grant(manager, START, SSH, client(3), HOUR).expect("granted");
        assert_eq!(ended(manager, over), [pair(SSH, client(3))]);
        assert_eq!(ended(manager, again).len(), 2);
        assert!(!is_open(namespace, client(1)) && !is_open(namespace, client(2)));
    });
}

#[test]
fn very_many_ends_are_carried_out_a_bounded_number_at_a_time() {
    with_manager(|manager, _| {
        for number in 0..5000 {
            grant(manager, START, SSH, client(number), HOUR).expect("granted");
        }
        let over = START.after(HOUR);
        let (mut all, mut turns, mut longest) = (0, 0, Duration::ZERO);
        while manager.next_deadline().is_some_and(|end| end <= over) {
            let start = std::time::Instant::now();
            let count = ended(manager, over).len();
            longest = longest.max(start.elapsed());
            assert!(count > 0 && count <= knock_nft::ManagedTable::FEW_KEYS);
            (all, turns) = (all + count, turns + 1);
        }
        println!("{all} grants ended in {turns} turns, the longest {longest:?}");
        assert_eq!(all, 5000);
        assert_eq!(manager.parts().1.table.as_mut().expect("a table").list(), Ok(vec![]));
    });
}

#[test]
fn revoking_deletes_elements_that_the_record_does_not_have() {
    with_manager(|manager, namespace| {
        let grant_and_forget = |manager: &mut Manager| {
            for address in [client(1), client6(1)] {
                for rule in [SSH, BOTH, OWN] {
                    grant(manager, START, rule, address, HOUR).expect("granted");
                }
            }
            *manager.parts().0 = Ledger::default();
            events(manager);
        };
        grant_and_forget(manager);
        let revoked = manager.revoke(START, &SSH.into(), client(1), OPERATOR).expect("revoked");
        assert_eq!(revoked, Revoked { grants: 0, strays: 1 });
        let revoked = manager.revoke(START, &OWN.into(), client(1), OPERATOR).expect("revoked");
        assert_eq!(revoked, Revoked { grants: 0, strays: 1 });
        let revoked = manager.revoke(START, &OWN.into(), client(1), OPERATOR).expect("revoked");
        assert_eq!(revoked, Revoked { grants: 0, strays: 0 });
        assert!(is_open(namespace, client(1)), "80/tcp is left");

        grant_and_forget(manager);
        let revoked = manager.revoke_address(client(1), OPERATOR).expect("revoked");
        assert_eq!(revoked, Revoked { grants: 0, strays: 3 });
        assert!(!is_open(namespace, client(1)) && is_open(namespace, client6(1)));

        grant(manager, START, SSH, client(1), HOUR).expect("granted");
        let revoked = manager.revoke_all(START, OPERATOR).expect("revoked");
        assert_eq!(revoked, Revoked { grants: 1, strays: 3 });
        assert!(!is_open(namespace, client(1)) && !is_open(namespace, client6(1)));
    });
}

#[test]
fn after_a_suspend_elements_expire_with_their_grants_and_stray_elements_are_deleted_once() {
    with_manager(|manager, namespace| {
        for (rule, address) in [(SSH, client(1)), (OWN, client(2)), (SSH, client(3)), (OWN, client(4))] {
            grant(manager, START, rule, address, HOUR).expect("granted");
        }
        manager.parts().0.take(&SSH.into(), client(3));
        manager.parts().0.take(&OWN.into(), client(4));
        events(manager);
        manager.after_sleep(START.after(HALF));
        for (address, stays) in [(client(1), true), (client(2), true), (client(3), false), (client(4), false)] {
            assert_eq!(is_open(namespace, address), stays, "{address}");
        }
        let told = events(manager);
        assert_eq!(told.iter().filter(|event| matches!(event, GrantEvent::Stray { .. })).count(), 2, "{told:?}");
        assert!(!told.iter().any(is_restored), "{told:?}");
        let listed = manager.parts().1.table.as_mut().expect("a table").list().expect("listed");
        assert!(listed.iter().all(|element| element.timeout == HOUR && element.remaining <= HALF), "{listed:?}");
        let held = manager.parts().1.sets.list_all();
        assert!(
            held.iter().all(|held| held.lifetime.is_some_and(|of| of.timeout == HOUR && of.remaining <= HALF)),
            "{held:?}"
        );
        manager.after_sleep(START.after(HALF));
        assert_eq!(events(manager), []);
    });
}

#[test]
fn of_the_administrators_elements_those_without_a_rules_comment_are_left_alone() {
    with_manager(|manager, namespace| {
        let own = "198.18.1.1 comment \"ssh\", 198.18.1.2 timeout 1h, 198.18.1.3 timeout 1h comment \"office\"";
        namespace
            .nft(&format!("add element {SET} {{ {own}, 198.18.1.4 timeout 1h comment \"set\" }}"))
            .expect("the administrator's elements");
        manager.reconcile(START);
        assert_eq!(strays(manager), 1);
        manager.revoke_all(START, OPERATOR).expect("revoked");
        for last in 1..=3 {
            manager.revoke_address(IpAddr::from([198, 18, 1, last]), OPERATOR).expect("revoked");
        }
        let listing = listing(namespace);
        for (last, stays) in [(1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(listing.contains(&format!("198.18.1.{last} ")), stays, "{listing}");
        }
        assert_eq!(strays(manager), 0);
    });
}

#[test]
fn stray_elements_of_an_adopted_table_are_deleted() {
    let namespace = Namespace::new().expect("the right to make a network namespace");
    let policy = |ports: &[u16]| {
        policy_of(&[(SSH, Opens::Ports(ports.iter().map(|&port| Port::tcp(port).into()).collect()))], false, 65_536)
    };
    namespace
        .run(|| {
            let mut manager = GrantManager::open(START, policy(&[22, 80]), Nftables::default()).expect("opened");
            grant(&mut manager, START, SSH, client(1), HOUR).expect("granted");
            drop(manager);
            // One that never ends, and one of a rule that there is not.
            namespace
                .nft(
                    "add element inet knockd grants4 { 198.18.1.1 . tcp . 22, \
                     198.18.1.2 . tcp . 22 timeout 1h comment \"gone\" }",
                )
                .expect("added");
            let mut manager = opened_again(&policy(&[22]));
            assert_eq!((manager.ledger().len(), strays(&mut manager)), (1, 3));
            assert_eq!(listing(&namespace).matches("198.18.").count(), 1);
        })
        .expect("in the namespace");
}

#[test]
fn one_network_cannot_use_up_the_grants_in_the_administrators_sets_either() {
    with_manager(|manager, namespace| {
        manager.apply(START, limited(8)).expect("applied");
        for network in [|host| IpAddr::from([192, 0, 2, host]), |host| client6(u16::from(host))] {
            for host in 0..4 {
                grant(manager, START, OWN, network(host), HOUR).expect("granted");
            }
            let error = grant(manager, START, OWN, network(4), HOUR).expect_err("its share is used up");
            assert!(matches!(error, Error::Full(Full::Network { share: 4, .. })), "{error}");
            assert!(!is_open(namespace, network(4)));
            grant(manager, START, OWN, network(0), HOUR).expect("what is live is extended");
        }
        for net in 0..4 {
            grant(manager, START, OWN, IpAddr::from([198, 51, net, 1]), HOUR).expect("others have room");
        }
        let error = grant(manager, START, OWN, IpAddr::from([198, 51, 4, 1]), HOUR).expect_err("it is full");
        assert!(matches!(error, Error::Full(Full::Version { v4: true, limit: 8 })), "{error}");
        assert_eq!(manager.ledger().len(), 12);
        // What ends makes room.
        manager.revoke(START, &OWN.into(), IpAddr::from([198, 51, 0, 1]), OPERATOR).expect("revoked");
        grant(manager, START, OWN, IpAddr::from([198, 51, 4, 1]), HOUR).expect("there is room");
    });
}

#[test]
fn a_lower_limit_ends_the_shortest_grants_and_returns_each() {
    with_manager(|manager, namespace| {
        let address = |net: u8| IpAddr::from([198, 51, net, 1]);
        for (net, rule) in (0..10).zip([SSH, OWN].into_iter().cycle()) {
            grant(manager, START, rule, address(net), HOUR + u32::from(net) * HALF).expect("granted");
        }
        events(manager);
        manager.apply(START, limited(4)).expect("applied");
        let ended = events(manager).into_iter().map(|event| match event {
            GrantEvent::Revoked { grant, cause: Cause::Limit } => grant.address,
            other => panic!("{other}"),
        });
        let mut ended: Vec<IpAddr> = ended.collect();
        ended.sort_unstable();
        assert_eq!(ended, (0..6).map(address).collect::<Vec<_>>());
        for net in 0..10 {
            assert_eq!(is_open(namespace, address(net)), net >= 6, "{net}");
        }
        assert_eq!(manager.ledger().len(), 4);
    });
}

#[test]
fn a_daemon_that_starts_with_a_lower_limit_revokes_the_grants_without_room() {
    with_manager(|manager, namespace| {
        let address = |net: u8| IpAddr::from([198, 51, net, 1]);
        for net in 0..6 {
            grant(manager, START, OWN, address(net), HOUR + u32::from(net) * HALF).expect("granted");
        }
        (manager.parts().1.table, manager.parts().1.lock) = (None, None);
        let mut again = opened_again(&limited(4));
        assert_eq!((again.ledger().len(), strays(&mut again)), (4, 0));
        for net in 0..6 {
            assert_eq!(is_open(namespace, address(net)), net >= 2, "{net}");
        }
        drop(again);
    });
}
