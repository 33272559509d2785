//! What becomes of a fleet whose store, or whose clocks, are not as they should be: nothing is lost, and nothing opens that
//! should not.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use knock_fleet::link::{FromFleet, ToFleet};
use knock_spa::Request;
use knock_testkit::{SERVER_V4, Store, store_engines};
use rustix::process::Signal;
use serde_json::json;

use crate::support::fleet::{Fleet, KNOCK, Node, source, wait_until_exactly, wait_until_open};
use crate::support::impostor::Impostor;
use crate::support::spa::open;
use crate::support::{Options, elements, wait_until};
use crate::wall_clock::{faketime, step};

fn live(store: &Store<'_>) -> usize {
    store.admin(&["ZCARD", "knock:{web.example.com}:live"]).parse().unwrap_or_default()
}

#[test]
fn a_store_that_is_killed_frozen_emptied_or_replaced_loses_no_grant() {
    let fleet = Fleet::new(3);
    for engine in store_engines() {
        let mut store = Store::start(engine, &fleet.network.server.namespace, "");
        let nodes = [fleet.start(0), fleet.start(1)];
        nodes.iter().for_each(Node::wait_until_in_step);
        let mut granted = Vec::new();
        let mut knock = |number: u8| {
            granted.push(source(number));
            nodes[0].knock(source(number));
            wait_until("it is open where it was knocked", || nodes[0].is_open(source(number)));
            granted.clone()
        };
        wait_until_exactly(&nodes, &knock(1), &[source(9)]);
        // It loses everything with its process.
        store.kill();
        let open = knock(2);
        nodes[1].wait_until_exactly(&open[..1], &open[1..]);
        store.restart();
        wait_until_exactly(&nodes, &open, &[source(9)]);
        wait_until("the store has both again", || live(&store) == 2);
        store.freeze();
        let open = knock(3);
        nodes[1].wait_until_exactly(&open[..2], &open[2..]);
        store.thaw();
        wait_until_exactly(&nodes, &open, &[source(9)]);
        store.admin(&["FLUSHALL"]);
        wait_until_exactly(&nodes, &knock(4), &[source(9)]);
        wait_until("the store has all again", || live(&store) == 4);
        // Another one in its place, from which a new node learns all of them. A revocation comes along too.
        nodes[1].knockd.knockctl(&["revoke", "198.18.0.1"]);
        wait_until_exactly(&nodes, &open[1..].iter().copied().chain([source(4)]).collect::<Vec<_>>(), &[source(1)]);
        drop(store);
        let store = Store::start(engine, &fleet.network.server.namespace, "");
        let open = knock(5)[1..].to_vec();
        let third = fleet.start(2);
        wait_until_exactly(&nodes, &open, &[source(1), source(9)]);
        third.wait_until_exactly(&open, &[source(1), source(9)]);
        wait_until("the store has all again, and a revocation", || live(&store) == 6);
    }
}

#[test]
fn two_halves_each_serve_their_users_and_agree_afterwards() {
    let fleet = Fleet::new(3);
    for engine in store_engines() {
        let _store = Store::start(engine, &fleet.network.server.namespace, "");
        let nodes = fleet.start_all();
        for number in [1, 2] {
            nodes[0].knock(source(number));
            wait_until_open(&nodes, source(number));
        }
        let cut_off = fleet.host(2).v4;
        for rule in
            [format!("ip saddr {cut_off} ip daddr {SERVER_V4}"), format!("ip daddr {cut_off} ip saddr {SERVER_V4}")]
        {
            fleet.network.block(&rule).expect("a rule");
        }
        nodes[0].knock(source(3));
        nodes[2].knock(source(4));
        nodes[0].knockd.knockctl(&["revoke", "198.18.0.1"]);
        // Closed there, and granted again by its user here, which is later.
        nodes[1].knockd.knockctl(&["revoke", "198.18.0.2"]);
        let first = [source(3)];
        wait_until_exactly(&nodes[..2], &first, &[source(1), source(2), source(4)]);
        nodes[2].knock(source(2));
        nodes[2].knockd.wait_for_log("extended for 198.18.0.2");
        nodes[2].wait_until_exactly(&[source(1), source(2), source(4)], &first);
        fleet.network.unblock().expect("the way to the store");
        wait_until_exactly(&nodes, &[source(2), source(3), source(4)], &[source(1), source(9)]);
    }
}

/// What a thief does with a packet that names no address.
#[test]
fn a_packet_caught_on_the_way_works_at_one_node_or_as_on_outage_says() {
    let mut fleet = Fleet::new(2);
    fleet.more = json!({ "on_outage": "grant" });
    let careless = fleet.configuration(1);
    fleet.more = json!({ "on_outage": "refuse" });
    let (user, thief) = (source(1), source(66));
    let named = |source: IpAddr| fleet.alice.payload(&Request { address: Some(source), ..open("ssh") });
    // Nobody carries records: the one grants, the other doesn't, and both do what does not depend on it.
    let nodes = [fleet.start_with(0, careless.clone(), Options::default()), fleet.start(1)];
    let [careful, careless] = [&nodes[1], &nodes[0]];
    let packet = fleet.alice.payload(&open("ssh"));
    careless.send(user, &packet);
    careful.send(thief, &packet);
    careful.knockd.wait_for_log("(fleet.on_outage is \"refuse\")");
    careful.send(source(2), &named(source(2)));
    careful.knock(source(3));
    careless.wait_until_exactly(&[user], &[thief]);
    careful.wait_until_exactly(&[source(2), source(3)], &[thief, user]);
    for engine in store_engines() {
        let _store = Store::start(engine, &fleet.network.server.namespace, "");
        nodes.iter().for_each(Node::wait_until_in_step);
        let all = [user, source(2), source(3)];
        wait_until_exactly(&nodes, &all, &[thief]);
        // The same again with the store, at once and later.
        let packet = fleet.alice.payload(&open("ssh"));
        let mark = careful.knockd.log_mark();
        careless.send(source(4), &packet);
        wait_until_open(&nodes, source(4));
        careful.send(thief, &packet);
        careful.knockd.wait_for_log_after(mark, "the packet was already used at");
        wait_until_exactly(&nodes, &[user, source(2), source(3), source(4)], &[thief]);
        nodes[0].knockd.knockctl(&["revoke", "198.18.0.4"]);
        wait_until_exactly(&nodes, &all, &[thief, source(4)]);
    }
}

#[test]
fn a_clock_that_is_off_opens_nothing_for_longer_and_locks_nobody_out() {
    let fleet = Fleet::new(2);
    let files = tempfile::tempdir().expect("a directory for the offset");
    let (library, offset) = (faketime(), files.path().join("offset"));
    let environment = [
        ("LD_PRELOAD", library.to_str().expect("UTF-8")),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().expect("UTF-8")),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    for engine in store_engines() {
        step(&offset, 3);
        let _store = Store::start(engine, &fleet.network.server.namespace, "");
        let options = Options { environment: &environment, ..Options::default() };
        let nodes = [fleet.start(0), fleet.start_with(1, fleet.configuration(1), options)];
        nodes.iter().for_each(Node::wait_until_in_step);
        // Some seconds do no harm.
        nodes[0].knock(source(1));
        nodes[1].knock(source(2));
        wait_until_exactly(&nodes, &[source(1), source(2)], &[source(9)]);
        for (number, seconds, refusing) in [(3, 1800, 0), (5, -4000, 1)] {
            step(&offset, seconds);
            let refused = || nodes[refusing].status()["refused"]["ahead"].as_u64().unwrap_or_default();
            let before = refused();
            // Each serves its own users.
            nodes[0].knock(source(number));
            nodes[1].knock(source(number + 1));
            wait_until("it is open where it was knocked", || {
                nodes[0].is_open(source(number)) && nodes[1].is_open(source(number + 1))
            });
            wait_until("the other one does not believe the time", || refused() > before);
        }
        step(&offset, 0);
        nodes[1].knock(source(7));
        wait_until_open(&nodes, source(7));
        for element in nodes.iter().flat_map(|node| elements(node.host(), "grants4")) {
            assert!(element.expires <= Some(Duration::from_secs(3600)), "{element:?}");
        }
        fs::remove_file(&offset).expect("it is there");
    }
}

#[test]
fn a_reader_that_is_slow_misses_nothing_and_holds_up_nobody() {
    const RECORDS: u16 = 1500;
    const FLOOD: u16 = 3000;
    const KNOCKS: u16 = 500;
    let fleet = Fleet::new(2);
    let of = |number: u16| IpAddr::from([198, 19, number.to_be_bytes()[0], number.to_be_bytes()[1]]);
    for engine in store_engines() {
        let store = Store::start(engine, &fleet.network.server.namespace, "");
        let nodes = fleet.start_all();
        nodes[1].knockd.signal(Signal::STOP);
        (0..RECORDS).for_each(|number| fleet.put(&store, 0, &fleet.sequence(of(number))));
        nodes[0].knock(source(1));
        wait_until("all are at the other node", || nodes[0].status()["granted"] == json!(RECORDS));
        nodes[1].knockd.signal(Signal::CONT);
        wait_until("all are here", || nodes[1].status()["granted"] == json!(RECORDS + 1));
        let mut open: Vec<IpAddr> = (0..RECORDS).map(of).collect();
        open.push(source(1));
        for node in &nodes {
            node.wait_until_granted(&open);
        }
        // It comes back, and reads all of them again; a knock does not wait for that.
        let [first, second] = <[Node<'_>; 2]>::try_from(nodes).ok().expect("two nodes");
        let second = second.restart();
        second.knock(source(2));
        wait_until("it is open", || second.is_open(source(2)));
        second.wait_until_in_step();
        open.push(source(2));
        for node in [&first, &second] {
            node.wait_until_granted(&open);
            assert!(node.answers(of(7)) && node.answers(source(2)) && !node.answers(source(9)));
        }
    }
    // The other way: a program that does not read what knockd writes, more than the kernel has room for in between.
    let node = fleet.start_alone(0);
    let impostor = Impostor::connect(&node.knockd);
    let records: Vec<_> = (0..FLOOD).map(|number| fleet.sign(1, &fleet.sequence(of(number)))).collect();
    assert!(records.iter().all(|record| impostor.say(&FromFleet::Record(Box::new(*record)))));
    wait_until("none of many at once is left out", || node.status()["granted"] == json!(FLOOD));
    let revoked = node.knockd.control_status()["grants"].as_u64().expect("a number");
    assert!(revoked > u64::from(FLOOD), "with those that were adopted");
    node.knockd.knockctl(&["revoke", "--all"]);
    let wire = fleet.wire(0);
    for chunk in (0..KNOCKS).collect::<Vec<u16>>().chunks(50) {
        chunk.iter().for_each(|&number| node.knock_by(&wire, of(number), &KNOCK));
        wait_until("they are open", || node.is_open(of(chunk[chunk.len() - 1])));
    }
    assert!(node.status()["waiting"].as_u64() > Some(0), "{}", node.status());
    let mut published = HashSet::new();
    while published.len() as u64 != revoked + u64::from(KNOCKS) {
        let Some(ToFleet::Publish(record)) = impostor.hear() else { panic!("a record") };
        assert!(published.insert(record), "each once");
    }
}
