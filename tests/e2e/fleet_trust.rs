//! Records that nobody should believe, and a program that took the place of knockd-fleet: nothing opens or closes by them.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use knock_fleet::link::{Claim, FromFleet, Seen, State};
use knock_fleet::{NodeId, Record, What};
use knock_spa::{Operation, Request};
use knock_testkit::{Store, store_engines};
use rustix::process::{Gid, Uid};
use serde_json::{Value, json};

use crate::support::fleet::{Fleet, Node, REALM, source, source6, wait_until_exactly, wait_until_open};
use crate::support::impostor::Impostor;
use crate::support::spa::{Signer, clock, open};
use crate::support::{element, wait_until};

/// Three nodes, of which the third has no word for anything, and a fourth that nobody knows. The last does not run.
const EVIL: usize = 2;
const STRANGER: usize = 8;

fn victim() -> IpAddr {
    source(1)
}

/// A fleet of two that run, and users whose keys can't do much.
fn fleet() -> (Fleet, [Signer; 4]) {
    let mut fleet = Fleet::new(2);
    let node = |number: usize, vouch: &[&str]| json!({ "name": format!("web{}", number + 1), "key": fleet.key(number).public().to_string(), "vouch": vouch });
    fleet.more = json!({ "nodes": [node(0, &["ssh"]), node(1, &["ssh"]), node(EVIL, &[])] });
    fleet.rules = json!([
        { "name": "ssh", "spa": true, "sequence": [7000, 9000, 8000], "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "web", "spa": true, "allow": { "ports": [443], "timeout": "10m" } },
        { "name": "run", "sequence": [7001, 9001, 8001], "command": "true" },
    ]);
    let users = [2, 3, 4, 5].map(|number| Signer::new(number, &fleet.spa.cover));
    let [web_only, expired, from_elsewhere, _unknown] = &users;
    let lines = [
        fleet.alice.line("address=\"any\"", "alice"),
        web_only.line("address=\"any\",rules=\"web\"", "bob"),
        expired.line("address=\"any\",expiry-time=\"20200101Z\"", "carol"),
        from_elsewhere.line("from=\"203.0.113.0/24\"", "dave"),
    ];
    fleet.spa.write_keys(&lines.concat());
    (fleet, users)
}

/// What is wrong, who says it, what, and why a node refuses it.
type Lie = (&'static str, usize, Record, &'static str);

fn lies(fleet: &Fleet, [web_only, expired, from_elsewhere, unknown]: &[Signer; 4]) -> Vec<Lie> {
    let named = |source: IpAddr| Request { address: Some(source), ..open("ssh") };
    let close = Request { operation: Operation::Close, ..named(victim()) };
    let alice = |source, request: &Request| fleet.packet(&fleet.alice, source, request);
    let by = |user: &Signer, request: &Request| fleet.packet(user, request.address.unwrap_or(source(20)), request);
    let plain = || fleet.sequence(source(20));
    let manual = What::Manual { grant: [9; 16] };
    let rule = |name: &str| Some(name.parse().expect("a name"));
    let short = Request { lifetime: 60.try_into().ok(), ..named(source(20)) };
    vec![
        ("of a stranger", STRANGER, plain(), "unknown-node"),
        ("a sequence without vouch", EVIL, plain(), "not-vouched"),
        ("by hand without vouch", EVIL, Record { what: manual, ..plain() }, "not-vouched"),
        ("an observed address without vouch", EVIL, alice(source(20), &open("ssh")), "not-vouched"),
        (
            "closing an observed address without vouch",
            EVIL,
            alice(victim(), &Request { address: None, ..close.clone() }),
            "not-vouched",
        ),
        ("a prefix that the rule has not", 0, Record { wide: true, ..plain() }, "not-wide"),
        ("a rule without allow", 0, Record { rule: rule("run"), ..plain() }, "unknown-rule"),
        ("no such rule", 0, Record { rule: rule("other"), ..plain() }, "unknown-rule"),
        ("from tomorrow", 0, Record { time: clock(86_400), ..plain() }, "ahead"),
        ("over", 0, Record { time: clock(-3601), ..plain() }, "ended"),
        ("an unknown key", 0, by(unknown, &named(source(20))), "unknown-key"),
        ("a key for another rule", 0, by(web_only, &named(source(20))), "denied"),
        ("an expired key", 0, by(expired, &named(source(20))), "denied"),
        ("a key for other sources", 0, by(from_elsewhere, &open("ssh")), "denied"),
        ("an old packet", 0, by(&fleet.alice, &Request { time: clock(-3000), ..named(source(20)) }), "denied"),
        (
            "another address than signed",
            0,
            Record { address: source(20), ..alice(source(21), &named(source(21))) },
            "not-as-signed",
        ),
        ("longer than signed", 0, by(&fleet.alice, &short), "not-as-signed"),
        (
            "another rule than signed",
            0,
            Record { rule: rule("web"), ..by(&fleet.alice, &named(source(20))) },
            "not-as-signed",
        ),
        ("wider than signed", 0, Record { wide: true, ..by(&fleet.alice, &named(source(20))) }, "not-as-signed"),
        ("closed by a key for another rule", EVIL, by(web_only, &close), "denied"),
        (
            "another one closed than signed",
            EVIL,
            Record { address: victim(), ..alice(source(21), &Request { address: Some(source(21)), ..close.clone() }) },
            "not-as-signed",
        ),
    ]
}

#[test]
fn the_store_and_a_node_can_grant_nothing_that_is_not_theirs() {
    let (fleet, users) = fleet();
    for engine in store_engines() {
        let store = Store::start(engine, &fleet.network.server.namespace, "");
        let nodes = fleet.start_all();
        nodes[0].knock(victim());
        wait_until_open(&nodes, victim());
        let is_refused = |label: &str| nodes.iter().all(|node| node.status()["refused"][label].as_u64() > Some(0));
        for (what, by, record, label) in lies(&fleet, &users) {
            let before: Vec<Value> = nodes.iter().map(|node| node.status()["refused"][label].clone()).collect();
            fleet.put(&store, by, &record);
            let is_next = |(node, before): (&Node<'_>, &Value)| {
                node.status()["refused"][label].as_u64() > before.as_u64().or(Some(0))
            };
            wait_until(&format!("{what} is refused as {label}"), || nodes.iter().zip(&before).all(is_next));
        }
        // Every bit counts; what is no record any more does not even get to knockd.
        let genuine = fleet.sign(0, &fleet.sequence(source(20)));
        let end = clock(3600).as_millis();
        for index in 0..genuine.len() {
            let mut flipped = genuine;
            flipped[index] ^= 1 << fastrand::u8(..8);
            store.put(REALM, &flipped, end);
        }
        store.put(
            REALM,
            &fleet.sequence(source(20)).sign(&fleet.key(0), &"other.example.com".parse().expect("a realm")),
            end,
        );
        let mut by_another = fleet.sign(STRANGER, &fleet.sequence(source(20)));
        by_another[96..104].copy_from_slice(fleet.key(0).id().as_bytes());
        store.put(REALM, &by_another, end);
        for junk in [&b""[..], b"junk", &[0; 416], &[255; 416], &[1; 5000]] {
            store.put(REALM, junk, end);
        }
        wait_until("forged ones are refused", || is_refused("node-signature"));
        // Longer than the rule: as long as the rule. All that was before it has been decided when it is open.
        fleet.put(&store, 0, &Record { lifetime: 86_400.try_into().expect("not zero"), ..fleet.sequence(source(99)) });
        wait_until_open(&nodes, source(99));
        let others = [source(20), source(21)];
        wait_until_exactly(&nodes, &[victim(), source(99)], &others);
        for node in &nodes {
            let element = element(node.host(), source(99), ("tcp", 22)).expect("it is open");
            assert!(element.timeout <= Some(Duration::from_secs(3600)), "{element:?}");
            wait_until("what is no record is counted", || node.status()["foreign"].as_u64() > Some(3));
        }
        replays(&fleet, &store, &nodes);
    }
}

/// What was revoked does not come back, as often as the store says it.
fn replays(fleet: &Fleet, store: &Store<'_>, nodes: &[Node<'_>]) {
    let record = fleet.sequence(source(30));
    fleet.put(store, EVIL - 1, &record);
    wait_until_open(nodes, source(30));
    nodes[0].knockd.knockctl(&["revoke", "198.18.0.30"]);
    wait_until_exactly(nodes, &[victim(), source(99)], &[source(30)]);
    // Under another score it is another member.
    for _ in 0..20 {
        store.put(REALM, &fleet.sign(EVIL - 1, &record), record.end().as_millis() + 9_000);
    }
    fleet.put(store, 0, &fleet.sequence(source6(1)));
    wait_until_open(nodes, source6(1));
    wait_until_exactly(nodes, &[victim(), source(99), source6(1)], &[source(30)]);
    // Neither does a revocation that the store keeps end what was granted after it.
    nodes[1].knock(source(30));
    wait_until_open(nodes, source(30));
    let later = [victim(), source(99), source6(1), source(30)];
    wait_until_exactly(nodes, &later, &[]);
}

#[test]
fn who_takes_the_place_of_knockd_fleet_can_withhold_and_nothing_else() {
    let fleet = Fleet::new(2);
    let node = fleet.start_alone(0);
    let daemon = &node.knockd;
    let send = |source: IpAddr| node.send(source, &fleet.alice.payload(&open("ssh")));

    // What no program says ends the connection, and nothing more.
    let noise = |length: usize| std::iter::repeat_with(|| fastrand::u8(..65)).take(length).collect::<Vec<u8>>();
    for junk in
        [vec![1], vec![200; 10], noise(417), noise(700), noise(60_000), vec![65; 416], vec![66; 33], vec![67; 3]]
    {
        let impostor = Impostor::connect(daemon);
        assert!(impostor.say_bytes(&junk));
        while impostor.hear().is_some() {}
    }

    let impostor = Impostor::connect(daemon);
    // Numbers and texts that nobody should trust.
    let problem = "\u{1b}[31mfake\nline".to_owned();
    let (lost, lag, clock_ahead) = (u64::MAX, u32::MAX, i32::MIN);
    let state = State {
        writes: true,
        reads: true,
        in_step: true,
        queue: u32::MAX,
        lost,
        published: lost,
        received: lost,
        foreign: lost,
        lag,
        clock: clock_ahead,
        problem,
    };
    assert!(impostor.say(&FromFleet::State(Box::new(state))));
    for number in 0..10_000_u64 {
        let (node, version) = (NodeId::from_bytes(number.to_be_bytes()), "\u{7}9.9".to_owned());
        assert!(impostor.say(&FromFleet::Seen(Box::new(Seen {
            node,
            time: u64::MAX - number,
            digest: [1; 32],
            version
        }))));
    }
    // Answers to what nobody asked.
    let nonce = |number: u8| [number; 24];
    let by = fleet.key(1).id();
    for number in 0..100 {
        for claim in [Claim::Ours, Claim::Taken { by }, Claim::Unknown] {
            assert!(impostor.say(&FromFleet::Claimed { nonce: nonce(number), claim }));
        }
    }
    // One that is taken, and one that is not: the first answer counts, unless this test is too slow with it.
    let is_refused = |number: u8| {
        let mark = daemon.log_mark();
        send(source(number));
        let asked = impostor.claim();
        for claim in [Claim::Taken { by }, Claim::Ours] {
            assert!(impostor.say(&FromFleet::Claimed { nonce: asked, claim }));
        }
        let line = daemon.wait_for_log_after(mark, &source(number).to_string());
        line.contains("the packet was already used at web2")
    };
    let refused = (100..120).find(|&number| is_refused(number)).expect("one is answered in time");
    send(source(2));
    let asked = impostor.claim();
    for claim in [Claim::Ours, Claim::Taken { by }, Claim::Unknown, Claim::Ours] {
        assert!(impostor.say(&FromFleet::Claimed { nonce: asked, claim }));
    }
    wait_until("it is open", || node.is_open(source(2)));
    // No answer, and then one that comes too late.
    send(source(3));
    let asked = impostor.claim();
    wait_until("it is open", || node.is_open(source(3)));
    assert!(impostor.say(&FromFleet::Claimed { nonce: asked, claim: Claim::Taken { by } }));
    let nodes = daemon.ask("fleet-nodes");
    assert!(nodes["nodes"].as_array().is_some_and(|nodes| (2..=104).contains(&nodes.len())), "{nodes}");
    let texts = format!("{nodes}{}{}", node.status(), daemon.knockctl(&["status"]));
    assert!(!texts.contains(['\u{1b}', '\u{7}']) && !texts.contains("\\u00"), "{texts}");

    // Records as fast as it can, which cost a signature each, while users knock.
    let ends = AtomicBool::new(false);
    let forged: Vec<FromFleet> = (0..64)
        .map(|number| {
            let mut record = fleet.sign(1, &fleet.sequence(source(200)));
            record[400] ^= 1 + number;
            FromFleet::Record(Box::new(record))
        })
        .collect();
    let said = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut said = 0_u64;
            while !ends.load(Ordering::Relaxed) && forged.iter().all(|record| impostor.say(record)) {
                said += 64;
            }
            said
        });
        wait_until("the flood has begun", || node.status()["refused"]["node-signature"].as_u64() > Some(100));
        for number in 10..30 {
            node.knock(source(number));
            wait_until("a knock in the flood opens", || node.is_open(source(number)));
        }
        assert!(!flood.is_finished(), "knockd listens on");
        ends.store(true, Ordering::Relaxed);
        flood.join().expect("the flood")
    });
    assert!(said > 1000, "{said}");
    assert!(!node.is_open(source(200)) && !node.is_open(source(refused)));
    assert!(daemon.log().lines().count() < 2000, "the log is bounded");
    drop(impostor);
    storms(&node);
    let real = Impostor::connect(daemon);
    assert!(real.say(&FromFleet::Record(Box::new(fleet.sign(1, &fleet.sequence(source(201)))))));
    wait_until("a true record opens", || node.is_open(source(201)));
}

/// Connections that come and go, of this user and of one who is nobody.
fn storms(node: &Node<'_>) {
    let (fleet, daemon) = (node.fleet, &node.knockd);
    let files = daemon.open_files();
    for _ in 0..500 {
        drop(Impostor::knock(daemon));
    }
    fs::set_permissions(daemon.directory(), Permissions::from_mode(0o711)).expect("others get to the socket");
    thread::scope(|scope| {
        let nobody = scope.spawn(|| {
            let (user, group) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
            rustix::thread::set_thread_groups(&[]).expect("root may");
            rustix::thread::set_thread_res_gid(group, group, group).expect("root may");
            rustix::thread::set_thread_res_uid(user, user, user).expect("root may");
            for _ in 0..50 {
                let impostor = Impostor::knock(daemon).expect("everybody may connect");
                let record = fleet.sign(1, &fleet.sequence(source(210)));
                impostor.say(&FromFleet::Record(Box::new(record)));
                assert!(impostor.hear().is_none(), "nothing is said to nobody");
            }
        });
        nobody.join().expect("nobody");
    });
    wait_until("no descriptor is kept", || daemon.open_files() <= files);
    assert!(!node.is_open(source(210)));
}
