//! The manager, with memory in the place of the kernel.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use knock_fleet::{NodeId, Proof};
use knock_nft::{Doors, Lifetime, TableSpec};
use knock_proto::{Port, SetName, Time};
use knock_spa::{Fingerprint, SignedRequest};

use super::*;
use crate::memory::Memory;
use crate::{Changes, Opens, Place, Signer, Signers, User, Vouchers};

const HOUR: Duration = Duration::from_secs(3600);
const START: Time = Time::from_millis(1_000_000_000);
const OPERATOR: Cause = Cause::Operator { uid: 7 };

fn set() -> SetName {
    "inet filter ssh4".parse().expect("a set")
}

/// `ssh` and `both` share a port, `set` adds to a user set, `nothing` opens nothing.
fn policy() -> Policy {
    let ports = |ports: &[u16]| Opens::Ports(ports.iter().map(|&port| Port::tcp(port).into()).collect());
    let rules = [
        ("ssh", ports(&[22])),
        ("both", ports(&[22, 80])),
        ("set", Opens::Sets { v4: Some(set()), v6: None }),
        ("nothing", Opens::Nothing),
    ];
    let guarded = vec![Port::tcp(22).into(), Port::tcp(80).into()];
    let (name, exempt_interfaces) = ("knockd".parse().expect("a name"), Vec::new());
    Policy {
        rules: rules.map(|(name, opens)| (name.into(), opens)).into(),
        prefixes: HashMap::new(),
        signers: Signers::default(),
        vouchers: Vouchers::default(),
        table: Some(TableSpec {
            name,
            guarded,
            grants: Vec::new(),
            exempt_interfaces,
            owner: true,
            doors: Doors::default(),
        }),
        limit: 100,
    }
}

fn manager() -> GrantManager<Memory> {
    GrantManager::open(START, Rc::new(policy()), Memory::default()).expect("opened")
}

fn client(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

fn port(number: u8, port: u16) -> Key {
    Key { prefix: client(number).into(), place: Place::Table(Port::tcp(port).into()) }
}

fn in_set(number: u8) -> Key {
    Key { prefix: client(number).into(), place: Place::Set(set()) }
}

fn grant(manager: &mut GrantManager<Memory>, rule: &str, number: u8, timeout: Duration) -> Result<(), Error> {
    manager.grant(START, &rule.into(), client(number), timeout, Cause::Knock)
}

/// What happened since it was asked last: kind, rule and cause.
fn events(manager: &mut GrantManager<Memory>) -> Vec<String> {
    std::iter::from_fn(|| manager.poll_event()).map(|event| event.to_string()).collect()
}

fn keys(manager: &mut GrantManager<Memory>) -> Vec<Key> {
    manager.parts().1.elements.keys().cloned().collect()
}

#[test]
fn a_grant_begins_goes_on_and_ends_each_with_one_event() {
    let mut manager = manager();
    grant(&mut manager, "both", 1, HOUR).expect("granted");
    assert_eq!(keys(&mut manager), [port(1, 22), port(1, 80)]);
    manager.grant(START, &"both".into(), client(1), 2 * HOUR, OPERATOR).expect("extended");
    assert_eq!(manager.next_deadline(), Some(START.after(2 * HOUR)));
    manager.tick(START.after(2 * HOUR));
    assert_eq!(
        events(&mut manager),
        [
            "rule both: granted to 192.0.2.1, 3600 s",
            "rule both: extended for 192.0.2.1, 7200 s (by uid 7)",
            "rule both: the grant to 192.0.2.1 has ended",
        ]
    );
    assert!(keys(&mut manager).is_empty() && manager.ledger().is_empty() && manager.next_deadline().is_none());
}

#[test]
fn an_element_has_the_rule_and_the_end_of_the_grant_that_lasts_longest() {
    let mut manager = manager();
    grant(&mut manager, "both", 1, 2 * HOUR).expect("granted");
    grant(&mut manager, "ssh", 1, HOUR).expect("granted");
    let element = manager.parts().1.elements[&port(1, 22)].clone();
    assert_eq!(element.comment, "both");
    assert_eq!(element.lifetime, Some(Lifetime { timeout: 2 * HOUR, remaining: 2 * HOUR }));
    manager.revoke(START, &"both".into(), client(1), OPERATOR).expect("revoked");
    assert_eq!(keys(&mut manager), [port(1, 22)]);
    let element = manager.parts().1.elements[&port(1, 22)].clone();
    assert_eq!((element.comment.as_str(), element.lifetime.map(|of| of.remaining)), ("ssh", Some(HOUR)));
}

#[test]
fn a_change_that_the_enforcer_refuses_leaves_the_record_as_it_was() {
    let mut manager = manager();
    grant(&mut manager, "ssh", 1, HOUR).expect("granted");
    events(&mut manager);
    manager.parts().1.broken = vec![Store::Table];
    grant(&mut manager, "ssh", 1, 2 * HOUR).expect_err("refused");
    grant(&mut manager, "ssh", 2, HOUR).expect_err("refused");
    manager.revoke(START, &"ssh".into(), client(1), OPERATOR).expect_err("refused");
    manager.revoke_address(client(1), OPERATOR).expect_err("refused");
    manager.revoke_all(START, OPERATOR).expect_err("refused");
    manager.apply(START, Rc::new(Policy { limit: 1, ..policy() })).expect_err("refused");
    let live: Vec<_> = manager.ledger().iter().map(|grant| (grant.address, grant.expires)).collect();
    assert_eq!(live, [(client(1), START.after(HOUR))]);
    assert_eq!(manager.policy().limit, 100);
    let told = events(&mut manager);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with("rule ssh: not granted to 192.0.2.1: "), "{told:?}");
    assert!(told[2].starts_with("rule ssh: the grant to 192.0.2.1 could not be revoked: "), "{told:?}");
}

#[test]
fn an_end_that_fails_is_tried_again_ever_later_and_holds_up_no_other() {
    let mut manager = manager();
    grant(&mut manager, "ssh", 1, HOUR).expect("granted");
    grant(&mut manager, "set", 2, HOUR).expect("granted");
    events(&mut manager);
    manager.parts().1.broken = vec![Store::Table];
    let mut now = START.after(HOUR);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        manager.tick(now);
        let next = manager.next_deadline().expect("it is tried again");
        pauses.push(next.since(now).as_secs());
        now = next;
    }
    assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 32, 60]);
    let told = events(&mut manager);
    assert_eq!(told.iter().filter(|line| line.contains("192.0.2.2 has ended")).count(), 1, "{told:?}");
    assert!(told[0].contains("trying again in 1 s"), "{told:?}");
    manager.parts().1.broken.clear();
    manager.tick(now);
    assert_eq!(events(&mut manager), ["rule ssh: the grant to 192.0.2.1 has ended"]);
}

#[test]
fn revoking_deletes_stray_elements_and_reports_them() {
    let mut manager = manager();
    for rule in ["ssh", "both", "set"] {
        grant(&mut manager, rule, 1, HOUR).expect("granted");
    }
    *manager.parts().0 = Ledger::default();
    events(&mut manager);
    assert_eq!(manager.revoke(START, &"ssh".into(), client(1), OPERATOR), Ok(Revoked { grants: 0, strays: 1 }));
    assert_eq!(manager.revoke(START, &"ssh".into(), client(1), OPERATOR), Ok(Revoked::default()));
    assert_eq!(manager.revoke_address(client(1), OPERATOR), Ok(Revoked { grants: 0, strays: 2 }));
    assert!(keys(&mut manager).is_empty());
    assert_eq!(
        events(&mut manager),
        [
            "rule ssh: 192.0.2.1 had access without a grant; the access is removed (by uid 7)",
            "rule ssh: 192.0.2.1 has no grant to revoke (by uid 7)",
            "deleted 2 stray elements of 192.0.2.1, which belong to no grant (by uid 7)",
        ]
    );
    grant(&mut manager, "set", 1, HOUR).expect("granted");
    grant(&mut manager, "ssh", 2, HOUR).expect("granted");
    manager.parts().0.take(&"set".into(), client(1));
    assert_eq!(manager.revoke_all(START, OPERATOR), Ok(Revoked { grants: 1, strays: 1 }));
    assert!(keys(&mut manager).is_empty() && manager.ledger().is_empty());
}

#[test]
fn another_policy_ends_the_grants_of_rules_that_go_and_moves_those_of_rules_that_stay() {
    let mut manager = manager();
    for (rule, number) in [("ssh", 1), ("both", 2), ("set", 3)] {
        grant(&mut manager, rule, number, HOUR).expect("granted");
    }
    events(&mut manager);
    let mut other = policy();
    other.rules.insert("both".into(), Opens::Ports(vec![Port::tcp(80).into()]));
    other.rules.insert("set".into(), Opens::Nothing);
    other.rules.remove("ssh");
    manager.apply(START, Rc::new(other)).expect("applied");
    assert_eq!(keys(&mut manager), [port(2, 80)]);
    let mut told = events(&mut manager);
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "rule set: the grant to 192.0.2.3 is revoked (reload)",
            "rule ssh: the grant to 192.0.2.1 is revoked (reload)"
        ]
    );
    assert_eq!(manager.ledger().iter().map(|grant| grant.rule.to_string()).collect::<Vec<_>>(), ["both"]);
}

#[test]
fn changes_by_others_are_restored_with_the_remaining_time() {
    let mut manager = manager();
    for (rule, number) in [("ssh", 1), ("set", 2)] {
        grant(&mut manager, rule, number, HOUR).expect("granted");
    }
    events(&mut manager);
    let memory = manager.parts().1;
    memory.elements.clear();
    let foreign = Element { key: in_set(9), comment: "office".to_owned(), lifetime: None };
    let stray = |key: Key| Element {
        key,
        comment: "ssh".to_owned(),
        lifetime: Some(Lifetime { timeout: HOUR, remaining: HOUR }),
    };
    for element in [foreign, stray(in_set(8)), stray(port(7, 80))] {
        memory.elements.insert(element.key.clone(), element);
    }
    memory.changes = Changes { table: true, sets: true, by: Some("nft".to_owned()) };
    let now = START.after(HOUR / 4);
    manager.reconcile(now);
    assert_eq!(keys(&mut manager), [port(1, 22), in_set(2), in_set(9)]);
    let remaining = manager.parts().1.elements[&port(1, 22)].lifetime.map(|of| of.remaining);
    assert_eq!(remaining, Some(HOUR - HOUR / 4));
    assert_eq!(
        events(&mut manager),
        [
            "deleted a stray element of rule ssh, which belongs to no grant: 192.0.2.7, 80/tcp in table inet knockd",
            "table inet knockd was changed by nft; it is restored with its live grants",
            "deleted a stray element of rule ssh, which belongs to no grant: 192.0.2.8, set inet filter ssh4",
            "nft removed 1 live grants from user sets; they are restored",
        ]
    );
    manager.after_sleep(now);
    assert_eq!(events(&mut manager), Vec::<String>::new());
}

/// Rule `ssh`, for prefixes of these lengths.
fn wide(v4: u8, v6: u8) -> Rc<Policy> {
    Rc::new(Policy { prefixes: HashMap::from([("ssh".into(), (v4, v6))]), ..policy() })
}

fn live(manager: &GrantManager<Memory>) -> Vec<String> {
    let mut live: Vec<_> = manager.ledger().iter().map(|grant| format!("{} {}", grant.rule, grant.prefix)).collect();
    live.sort_unstable();
    live
}

#[test]
fn two_sources_of_a_prefix_share_one_grant_and_each_ends_it() {
    let mut manager = GrantManager::open(START, wide(24, 64), Memory::default()).expect("opened");
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    for (one, other, foreign, prefix) in [
        ("192.0.2.1", "192.0.2.200", "192.0.3.1", "192.0.2.0/24"),
        ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "2001:db8::/64"),
    ] {
        let [one, other, foreign] = [one, other, foreign].map(address);
        let mut grant = |source, timeout| manager.grant(START, &"ssh".into(), source, timeout, Cause::Knock);
        grant(one, HOUR).expect("granted");
        grant(other, 2 * HOUR).expect("extended");
        assert_eq!(live(&manager), [format!("ssh {prefix}")]);
        assert_eq!(keys(&mut manager).len(), 1);
        assert_eq!(
            events(&mut manager),
            [format!("rule ssh: granted to {prefix}, 3600 s"), format!("rule ssh: extended for {prefix}, 7200 s")]
        );
        assert_eq!(manager.ledger().of_address(one).count(), 1);
        assert_eq!(manager.ledger().of_address(foreign).count(), 0);
        assert_eq!(manager.revoke(START, &"ssh".into(), foreign, OPERATOR), Ok(Revoked::default()));
        assert_eq!(manager.revoke_address(foreign, OPERATOR), Ok(Revoked::default()));
        assert_eq!(keys(&mut manager).len(), 1);
        assert_eq!(manager.revoke(START, &"ssh".into(), one, OPERATOR), Ok(Revoked { grants: 1, strays: 0 }));
        manager.grant(START, &"ssh".into(), one, HOUR, Cause::Knock).expect("granted");
        assert_eq!(manager.revoke_address(other, OPERATOR), Ok(Revoked { grants: 1, strays: 0 }));
        assert!(keys(&mut manager).is_empty() && manager.ledger().is_empty());
        events(&mut manager);
    }
}

#[test]
fn grants_follow_a_rule_to_wider_prefixes_and_end_where_they_would_be_for_too_many() {
    let mut manager = manager();
    for (number, timeout) in [(1, HOUR), (2, 3 * HOUR), (3, 2 * HOUR)] {
        grant(&mut manager, "ssh", number, timeout).expect("granted");
    }
    grant(&mut manager, "both", 1, HOUR).expect("granted");
    manager.apply(START, wide(24, 128)).expect("applied");
    assert_eq!(live(&manager), ["both 192.0.2.1", "ssh 192.0.2.0/24"]);
    let prefix = Prefix::new(client(1), 24);
    let merged = manager.ledger().get(&"ssh".into(), prefix).expect("it is live");
    assert_eq!(merged.expires, START.after(3 * HOUR), "the longest of those that became one");
    assert_eq!(keys(&mut manager).len(), 3);
    manager.apply(START, wide(16, 128)).expect("applied");
    assert_eq!(live(&manager), ["both 192.0.2.1", "ssh 192.0.0.0/16"]);
    events(&mut manager);
    manager.apply(START, Rc::new(policy())).expect("applied");
    assert_eq!(live(&manager), ["both 192.0.2.1"]);
    assert_eq!(events(&mut manager), ["rule ssh: the grant to 192.0.0.0/16 is revoked (reload)"]);
}

#[test]
fn stray_elements_are_deleted_though_others_cannot_be_added() {
    let mut manager = manager();
    grant(&mut manager, "ssh", 1, HOUR).expect("granted");
    events(&mut manager);
    let memory = manager.parts().1;
    memory.elements.clear();
    let lifetime = Some(Lifetime { timeout: HOUR, remaining: HOUR });
    let stray = Element { key: port(7, 80), comment: "ssh".to_owned(), lifetime };
    memory.elements.insert(stray.key.clone(), stray);
    memory.full = true;
    manager.after_sleep(START);
    assert_eq!(keys(&mut manager), []);
    let told = events(&mut manager);
    assert!(told.len() == 2 && told[0].contains("stray element") && told[1].contains("trying again"), "{told:?}");
}

#[test]
fn a_repair_that_fails_is_tried_again_after_a_second() {
    let mut manager = manager();
    grant(&mut manager, "ssh", 1, HOUR).expect("granted");
    events(&mut manager);
    manager.parts().1.elements.clear();
    manager.parts().1.broken = vec![Store::Table];
    manager.after_sleep(START);
    assert_eq!(manager.next_deadline(), Some(START.after(Duration::from_secs(1))));
    assert!(events(&mut manager)[0].starts_with("the gate may be open or incomplete; trying again: "));
    manager.parts().1.broken.clear();
    manager.tick(START.after(Duration::from_secs(1)));
    assert_eq!(keys(&mut manager), [port(1, 22)]);
    assert_eq!(manager.next_deadline(), Some(START.after(HOUR)));
}

#[test]
fn a_table_that_is_gone_is_made_again_by_the_next_grant() {
    let mut manager = manager();
    grant(&mut manager, "ssh", 1, HOUR).expect("granted");
    manager.parts().1.elements.clear();
    manager.parts().1.gone = true;
    grant(&mut manager, "ssh", 2, HOUR).expect("granted");
    assert_eq!(keys(&mut manager), [port(1, 22), port(2, 22)]);
}

#[test]
fn a_start_adopts_the_grants_of_the_elements_it_finds_and_deletes_the_rest() {
    let mut memory = Memory::default();
    let lifetime = Some(Lifetime { timeout: 2 * HOUR, remaining: HOUR });
    let element = |key: Key, rule: &str, lifetime| Element { key, comment: rule.to_owned(), lifetime };
    for element in [
        element(port(1, 22), "ssh", lifetime),
        element(port(2, 80), "ssh", lifetime),
        element(port(3, 22), "gone", lifetime),
        element(port(4, 22), "ssh", None),
        element(in_set(5), "set", lifetime),
    ] {
        memory.elements.insert(element.key.clone(), element);
    }
    let mut manager = GrantManager::open(START, Rc::new(policy()), memory).expect("opened");
    assert_eq!(keys(&mut manager), [port(1, 22), in_set(5)]);
    let grants: Vec<_> = manager.ledger().iter().map(|grant| (grant.rule.to_string(), grant.since)).collect();
    assert_eq!(grants, [("ssh".to_owned(), START.before(HOUR)), ("set".to_owned(), START.before(HOUR))]);
}

fn key(number: u8) -> Fingerprint {
    format!("SHA256:{}", char::from(b'A' + number).to_string().repeat(42) + "A").parse().expect("a fingerprint")
}

/// Rule `ssh` accepts packets of these keys, `wide` ones for /24.
fn signed(keys: &[u8]) -> Rc<Policy> {
    let signer =
        |&number: &u8| (key(number), Signer { name: "alice".into(), rules: Some(HashSet::from(["ssh".into()])) });
    let signers =
        Signers { rules: HashSet::from(["ssh".into(), "set".into()]), keys: keys.iter().map(signer).collect() };
    Rc::new(Policy { signers, ..(*wide(24, 64)).clone() })
}

fn ask(manager: &mut GrantManager<Memory>, rule: &str, number: u8, wide: bool) {
    let request = SignedRequest { nonce: [number; 24], body: [0; 96], signature: [0; 72] };
    let proof = Arc::new(Proof { fingerprint: key(number), request, observed: false });
    let cause = Cause::Packet { user: User { name: "alice".into(), key: key(number) }, wide, proof };
    manager.grant(START, &rule.into(), client(number), HOUR, cause).expect("granted");
}

#[test]
fn a_signed_packet_asks_for_an_address_or_for_its_prefix() {
    let mut manager = GrantManager::open(START, signed(&[1, 2]), Memory::default()).expect("opened");
    ask(&mut manager, "ssh", 1, false);
    ask(&mut manager, "ssh", 2, true);
    assert_eq!(live(&manager), ["ssh 192.0.2.0/24", "ssh 192.0.2.1"]);
    assert_eq!(
        events(&mut manager),
        [
            "rule ssh: granted to 192.0.2.1, 3600 s (signed by alice)",
            "rule ssh: granted to 192.0.2.0/24, 3600 s (signed by alice)"
        ]
    );
    // An end of the rule for the address ends both.
    assert_eq!(manager.revoke(START, &"ssh".into(), client(1), OPERATOR), Ok(Revoked { grants: 2, strays: 0 }));
    assert!(keys(&mut manager).is_empty());
    ask(&mut manager, "ssh", 1, false);
    assert_eq!(manager.revoke_address(client(1), OPERATOR), Ok(Revoked { grants: 1, strays: 0 }));
    assert!(keys(&mut manager).is_empty());
}

#[test]
fn a_key_that_may_not_ask_any_more_loses_its_grants_and_no_others() {
    let mut manager = GrantManager::open(START, signed(&[1, 2]), Memory::default()).expect("opened");
    ask(&mut manager, "ssh", 1, false);
    ask(&mut manager, "ssh", 2, false);
    ask(&mut manager, "set", 1, false);
    grant(&mut manager, "both", 1, HOUR).expect("granted");
    events(&mut manager);
    // At a reload. Key 1 is gone, and key 2 may ask for `ssh` alone.
    manager.apply(START, signed(&[2])).expect("applied");
    assert_eq!(live(&manager), ["both 192.0.2.1", "ssh 192.0.2.2"]);
    assert_eq!(
        events(&mut manager),
        [
            "rule set: the grant to 192.0.2.1 is revoked (reload)",
            "rule ssh: the grant to 192.0.2.1 is revoked (reload)"
        ]
    );
    // At a start after one.
    let enforcer = std::mem::take(manager.parts().1);
    let mut manager = GrantManager::open(START, signed(&[1]), enforcer).expect("opened");
    assert_eq!(live(&manager), ["both 192.0.2.1"]);
    assert_eq!(keys(&mut manager).len(), 2);
}

#[test]
fn a_restart_keeps_the_key_of_a_grant_and_for_how_many_addresses_it_is() {
    let mut manager = GrantManager::open(START, signed(&[1, 2]), Memory::default()).expect("opened");
    ask(&mut manager, "ssh", 1, false);
    ask(&mut manager, "ssh", 2, true);
    let enforcer = std::mem::take(manager.parts().1);
    let manager = GrantManager::open(START, signed(&[1, 2]), enforcer).expect("opened");
    assert_eq!(live(&manager), ["ssh 192.0.2.0/24", "ssh 192.0.2.1"]);
    let mut keys: Vec<_> = manager.ledger().iter().map(|grant| grant.basis.key).collect();
    keys.sort_by_key(|key| key.map(|key| *key.as_bytes()));
    assert_eq!(keys, [Some(key(1)), Some(key(2))]);
}

#[test]
fn a_knock_that_extends_a_signed_grant_makes_it_independent_of_the_key() {
    let mut manager = GrantManager::open(START, signed(&[1]), Memory::default()).expect("opened");
    ask(&mut manager, "ssh", 1, true);
    grant(&mut manager, "ssh", 1, 2 * HOUR).expect("extended");
    manager.apply(START, signed(&[])).expect("applied");
    assert_eq!(live(&manager), ["ssh 192.0.2.0/24"]);
    assert_eq!(manager.ledger().iter().map(|grant| grant.basis.key).collect::<Vec<_>>(), [None]);
}

const WEB1: NodeId = NodeId::from_bytes([1; 8]);

/// Rule `ssh` is granted to /24, and the word of `web1` is enough for it.
fn fleet(vouch: &[&str]) -> Rc<Policy> {
    let nodes = HashMap::from([(WEB1, vouch.iter().map(|&rule| rule.into()).collect())]);
    Rc::new(Policy { vouchers: Vouchers { fleet: true, nodes }, ..(*wide(24, 64)).clone() })
}

fn from_node(manager: &mut GrantManager<Memory>, number: u8, wide: bool) {
    let cause = Cause::Node { node: "web1".into(), voucher: Some(WEB1), user: None, wide };
    manager.grant(START, &"ssh".into(), client(number), HOUR, cause).expect("granted");
}

#[test]
fn a_node_grants_an_address_or_its_prefix_and_a_restart_keeps_that() {
    let mut manager = GrantManager::open(START, fleet(&["ssh"]), Memory::default()).expect("opened");
    from_node(&mut manager, 1, false);
    from_node(&mut manager, 2, true);
    assert_eq!(live(&manager), ["ssh 192.0.2.0/24", "ssh 192.0.2.1"]);
    assert_eq!(events(&mut manager)[0], "rule ssh: granted to 192.0.2.1, 3600 s (from node web1)");
    let enforcer = std::mem::take(manager.parts().1);
    let mut manager = GrantManager::open(START, fleet(&["ssh"]), enforcer).expect("opened");
    assert_eq!(live(&manager), ["ssh 192.0.2.0/24", "ssh 192.0.2.1"], "neither is widened");
    let subject = Prefix::new(client(0), 24);
    let revoked = manager.revoke_overlapping(START, &"ssh".into(), subject, OPERATOR);
    assert_eq!(revoked, Ok(Revoked { grants: 2, strays: 0 }));
    assert!(keys(&mut manager).is_empty());
}

#[test]
fn a_node_whose_word_is_not_enough_any_more_loses_its_grants_and_no_others() {
    let mut manager = GrantManager::open(START, fleet(&["ssh"]), Memory::default()).expect("opened");
    from_node(&mut manager, 1, false);
    grant(&mut manager, "both", 1, HOUR).expect("granted");
    // At a reload.
    manager.apply(START, fleet(&["both"])).expect("applied");
    assert_eq!(live(&manager), ["both 192.0.2.1"]);
    // At a start after one.
    manager.apply(START, fleet(&["ssh"])).expect("applied");
    from_node(&mut manager, 1, false);
    let enforcer = std::mem::take(manager.parts().1);
    let mut manager = GrantManager::open(START, fleet(&["both"]), enforcer).expect("opened");
    assert_eq!(live(&manager), ["both 192.0.2.1"]);
    assert_eq!(keys(&mut manager).len(), 2);
}

#[test]
fn what_the_kernel_opened_goes_where_no_grant_explains_it() {
    let mut manager = manager();
    let opened = |key: Key| Element { key, comment: String::new(), lifetime: Some(Lifetime::whole(HOUR)) };
    for key in [port(1, 22), port(1, 80), port(2, 22), port(3, 22)] {
        manager.parts().1.elements.insert(key.clone(), opened(key));
    }
    // The completion of one, and a grant of another rule for one of the ports.
    grant(&mut manager, "ssh", 2, HOUR).expect("granted");
    grant(&mut manager, "ssh", 1, HOUR).expect("granted");
    events(&mut manager);
    let all = [("both", 1), ("ssh", 2)].map(|(rule, number)| (rule.into(), client(number)));
    assert_eq!(manager.delete_unconfirmed(START, &all), Ok(1));
    assert_eq!(keys(&mut manager), [port(1, 22), port(2, 22), port(3, 22)], "not of those that were not asked for");
    assert_eq!(
        events(&mut manager),
        ["deleted a stray element of rule both, which belongs to no grant: 192.0.2.1, 80/tcp in table inet knockd"]
    );
    assert!(
        manager.is_granted(START, &"ssh".into(), client(2)) && !manager.is_granted(START, &"both".into(), client(1))
    );
    assert!(!manager.is_granted(START.after(HOUR), &"ssh".into(), client(2)));
    // A live grant has its room, another one has none.
    let mut full = policy();
    full.limit = 2;
    manager.apply(START, Rc::new(full)).expect("applied");
    assert!(manager.has_room(&"ssh".into(), client(2)) && !manager.has_room(&"ssh".into(), client(4)));
}

#[test]
fn a_node_that_grants_without_end_leaves_room_for_who_knocks_here() {
    let limited = Policy { limit: 8, ..(*fleet(&["ssh"])).clone() };
    let mut manager = GrantManager::open(START, Rc::new(limited), Memory::default()).expect("opened");
    let (mut granted, mut refused) = (0, String::new());
    // Each in a network of its own: one network gets a share only.
    for number in 0..20 {
        let cause = Cause::Node { node: "web1".into(), voucher: Some(WEB1), user: None, wide: false };
        match manager.grant(START, &"ssh".into(), IpAddr::from([198, 18, number, 1]), HOUR, cause) {
            Ok(()) => granted += 1,
            Err(error) => refused = error.to_string(),
        }
    }
    assert_eq!(granted, 6);
    assert!(refused.contains("the 6 elements beyond which `limits.grants` is for knocks at this node"), "{refused}");
    grant(&mut manager, "ssh", 1, HOUR).expect("there is room");
    // A user of another node has signed: as if it was here.
    let user = Some(User { name: "alice".into(), key: key(1) });
    let cause = Cause::Node { node: "web1".into(), voucher: None, user, wide: false };
    manager.grant(START, &"ssh".into(), IpAddr::from([198, 18, 99, 1]), HOUR, cause).expect("there is room");
}
