//! A fleet: what is granted at one node opens at all of them, and what is revoked closes.

use std::net::IpAddr;

use knock_spa::{Operation, Request};
use knock_testkit::{Store, store_engines};
use serde_json::json;

use crate::support::fleet::{Fleet, Node, source, source6, wait_until_exactly, wait_until_open};
use crate::support::spa::open;
use crate::support::{Daemon, Options, element, user_set, wait_until};

fn wait_until_closed(nodes: &[Node<'_>], source: IpAddr) {
    for node in nodes {
        wait_until(&format!("web{} is closed to {source}", node.number + 1), || !node.is_open(source));
    }
}

#[test]
fn a_grant_opens_on_all_nodes_and_a_revocation_closes_on_all() {
    let fleet = Fleet::new(3);
    for engine in store_engines() {
        let _store = Store::start(engine, &fleet.network.server.namespace, "");
        let nodes = fleet.start_all();
        // A sequence, a packet that names its address, one that does not, and a grant by hand.
        nodes[0].knock(source(1));
        wait_until_open(&nodes, source(1));
        let named = Request { address: Some(source(2)), ..open("ssh") };
        nodes[1].send(source(2), &fleet.alice.payload(&named));
        wait_until_open(&nodes, source(2));
        nodes[2].send(source(3), &fleet.alice.payload(&open("ssh")));
        wait_until_open(&nodes, source(3));
        nodes[0].knockd.knockctl(&["grant", "ssh", "198.18.0.4"]);
        wait_until_open(&nodes, source(4));
        let line = nodes[0].knockd.wait_for_log("granted to 198.18.0.3");
        assert!(line.contains("(signed by alice, from node web3); opens 22/tcp"), "{line}");
        // Each is ended at another node than it began.
        nodes[1].knockd.knockctl(&["revoke", "198.18.0.1"]);
        wait_until_closed(&nodes, source(1));
        nodes[2].knockd.knockctl(&["revoke", "198.18.0.2"]);
        wait_until_closed(&nodes, source(2));
        let close = Request { operation: Operation::Close, ..open("ssh") };
        nodes[0].send(source(3), &fleet.alice.payload(&close));
        wait_until_closed(&nodes, source(3));
        assert!(nodes.iter().all(|node| node.is_open(source(4))));
        for node in &nodes {
            assert_eq!(node.status()["refused"].get("node-signature"), None, "{}", node.status());
        }
        assert_eq!(nodes[0].status()["nodes"], json!(3));
    }
}

#[test]
fn a_packet_that_was_caught_opens_nothing_at_another_node() {
    let fleet = Fleet::new(2);
    let _store = Store::start(store_engines()[0], &fleet.network.server.namespace, "");
    let nodes = fleet.start_all();
    // It names its address: sent to the other node, it could prolong the grant, or undo its revocation.
    let named = fleet.alice.payload(&Request { address: Some(source(1)), ..open("ssh") });
    nodes[0].send(source(1), &named);
    wait_until_open(&nodes, source(1));
    nodes[0].knockd.knockctl(&["revoke", "198.18.0.1"]);
    wait_until_closed(&nodes, source(1));
    nodes[1].send(source(1), &named);
    // It names none, and whoever caught it sends it from elsewhere.
    let observed = fleet.alice.payload(&open("ssh"));
    nodes[0].send(source(2), &observed);
    wait_until_open(&nodes, source(2));
    nodes[1].send(source(3), &observed);
    nodes[1].knockd.wait_for_log("of alice from 198.18.0.3 is refused: the packet was already used at ");
    wait_until_closed(&nodes, source(1));
    wait_until_closed(&nodes, source(3));
}

/// A user sends the packet to both at once, from behind two gateways: one of them has it first.
#[test]
fn the_same_packet_at_two_nodes_at_once_opens_for_one_address() {
    let mut fleet = Fleet::new(2);
    // A store that is too slow to answer on a busy machine is away.
    fleet.more = json!({ "on_outage": "refuse" });
    for engine in store_engines() {
        let _store = Store::start(engine, &fleet.network.server.namespace, "");
        let nodes = fleet.start_all();
        let mut open_now = Vec::new();
        for round in 0.. {
            let payload = fleet.alice.payload(&open("ssh"));
            let sources = [source(2 * round), source(2 * round + 1)];
            let marks = [0, 1].map(|number| nodes[number].knockd.log_mark());
            std::thread::scope(|scope| {
                for (node, source) in nodes.iter().zip(sources) {
                    let payload = &payload;
                    scope.spawn(move || node.send(source, payload));
                }
            });
            let is_granted = |number: usize| {
                let [granted, refused] =
                    [format!("granted to {},", sources[number]), format!("from {} is refused", sources[number])];
                wait_until("the node has decided", || {
                    let log = nodes[number].knockd.log();
                    let decision = |line: &str| {
                        line.contains(&granted).then_some(true).or(line.contains(&refused).then_some(false))
                    };
                    log.lines().skip(marks[number]).find_map(decision)
                })
            };
            let granted = [is_granted(0), is_granted(1)];
            assert_ne!(granted, [true, true], "the same packet has opened for both");
            open_now.extend((0..2).find(|&number| granted[number]).map(|number| sources[number]));
            wait_until_exactly(&nodes, &open_now, &sources);
            if open_now.len() == 8 {
                break;
            }
        }
    }
}

#[test]
fn prefixes_sets_and_ipv6_are_shared_and_commands_are_not() {
    let mut fleet = Fleet::new(2);
    let files = tempfile::tempdir().expect("a directory");
    let ran = files.path().join("ran");
    fleet.vouch = json!(["ssh", "net", "set", "run"]);
    fleet.rules = json!([
        { "name": "ssh", "sequence": [7000, 9000, 8000], "spa": true, "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "net", "sequence": [7001, 9001, 8001],
          "allow": { "ports": [2525], "prefix4": 24, "prefix6": 64, "timeout": "1h" } },
        { "name": "set", "sequence": [7002, 9002, 8002],
          "allow": { "set": "inet filter knock4", "set6": "inet filter knock6", "timeout": "1h" } },
        { "name": "run", "sequence": [7003, 9003, 8003], "allow": { "ports": [23], "timeout": "1h" },
          "command": format!("echo %IP% >> {}", ran.display()) },
    ]);
    for number in [0, 1] {
        let sets = "add table inet filter\nadd set inet filter knock4 { type ipv4_addr; flags timeout; }\n\
                    add set inet filter knock6 { type ipv6_addr; flags timeout; }\n";
        fleet.host(number).namespace.nft(sets).expect("sets of the administrator");
    }
    for engine in store_engines() {
        let _store = Store::start(engine, &fleet.network.server.namespace, "");
        let nodes = fleet.start_all();
        let answers = |node: &Node<'_>, source: IpAddr, port: u16| {
            let to = (node.host().address(source), port).into();
            fleet.wire(node.number).syn_answer((source, 50_000).into(), to).expect("a SYN").is_some()
        };
        // IPv6, each way.
        nodes[0].knock(source6(1));
        nodes[1].send(source6(2), &fleet.alice.payload(&Request { address: Some(source6(2)), ..open("ssh") }));
        wait_until_exactly(&nodes, &[source6(1), source6(2)], &[source6(3)]);
        // Whoever is beside the one who knocked, and nobody else; the prefix closes for one of its addresses.
        let far = ["198.18.1.1", "fd99:0:0:1::1"].map(|address| address.parse::<IpAddr>().expect("an address"));
        for (knocks, beside, far) in [(source(1), source(200), far[0]), (source6(10), source6(200), far[1])] {
            nodes[0].knock_at(knocks, &[7001, 9001, 8001]);
            for node in &nodes {
                wait_until("the prefix is open", || answers(node, beside, 2525));
                assert!(answers(node, knocks, 2525) && !answers(node, far, 2525));
            }
            nodes[1].knockd.knockctl(&["revoke", &beside.to_string(), "net"]);
            for node in &nodes {
                wait_until("the prefix is closed", || !answers(node, knocks, 2525));
            }
        }
        for (source, set) in [(source(2), "inet filter knock4"), (source6(2), "inet filter knock6")] {
            let has = |node: &Node<'_>| user_set(node.host(), set).is_some_and(|set| set.contains_key(&source));
            nodes[0].knock_at(source, &[7002, 9002, 8002]);
            nodes.iter().for_each(|node| wait_until("it is in the set", || has(node)));
            nodes[1].knockd.knockctl(&["revoke", &source.to_string(), "set"]);
            nodes.iter().for_each(|node| wait_until("it is in no set", || !has(node)));
        }
        let _ = std::fs::remove_file(&ran);
        nodes[0].knock_at(source(3), &[7003, 9003, 8003]);
        for node in &nodes {
            wait_until("it is open", || element(node.host(), source(3), ("tcp", 23)).is_some());
        }
        let text = || std::fs::read_to_string(&ran).unwrap_or_default();
        wait_until("the command has run", || !text().is_empty());
        // What comes after it has come, so it would have been there.
        nodes[0].knock(source(4));
        wait_until_open(&nodes, source(4));
        assert_eq!(text(), "198.18.0.3\n");
        assert_eq!(nodes[1].knockd.control_status()["counters"]["commands_started"], json!(0));
    }
}

#[test]
fn a_node_that_is_full_or_whose_table_is_flushed_is_as_full_and_as_whole_as_without_a_fleet() {
    let fleet = Fleet::new(2);
    let mut small = fleet.configuration(1);
    small["limits"] = json!({ "grants": 2 });
    // Nobody else could lay hands on one that is owned.
    small["nftables"] = json!({ "owner": false });
    let of = |net: u8| IpAddr::from([198, 18, net, 1]);
    for engine in store_engines() {
        let _store = Store::start(engine, &fleet.network.server.namespace, "");
        let nodes = [fleet.start(0), fleet.start_with(1, small.clone(), Options::default())];
        nodes.iter().for_each(Node::wait_until_in_step);
        for net in [1, 2, 3] {
            nodes[0].knock(of(net));
            wait_until("it is open where it was knocked", || nodes[0].is_open(of(net)));
        }
        nodes[1].knockd.wait_for_log("not granted to 198.18.3.1 (from node web1)");
        nodes[0].wait_until_exactly(&[of(1), of(2), of(3)], &[of(4)]);
        nodes[1].wait_until_exactly(&[of(1), of(2)], &[of(3)]);
        nodes[1].knockd.knockctl(&["revoke", "198.18.1.1"]);
        nodes[0].wait_until_exactly(&[of(2), of(3)], &[of(1)]);
        nodes[0].knock(of(3));
        wait_until_exactly(&nodes, &[of(2), of(3)], &[of(1)]);
        for script in ["flush set inet knockd grants4", "flush ruleset", "delete table inet knockd"] {
            let mark = nodes[1].knockd.log_mark();
            nodes[1].host().namespace.nft(script).expect("by hand");
            nodes[1].knockd.wait_for_log_after(mark, "restored");
            wait_until_exactly(&nodes, &[of(2), of(3)], &[of(1)]);
        }
        nodes[0].knockd.knockctl(&["revoke", "198.18.2.1"]);
        wait_until_exactly(&nodes, &[of(3)], &[of(1), of(2)]);
    }
}

/// Whoever has recorded the packets of a user sends them to the node that they were not sent to.
#[test]
fn packets_of_before_undo_at_no_node_what_came_after_them() {
    let fleet = Fleet::new(2);
    let packet = |operation| fleet.alice.payload(&Request { operation, address: Some(source(1)), ..open("ssh") });
    for engine in store_engines() {
        let _store = Store::start(engine, &fleet.network.server.namespace, "");
        let [first, mut second] = <[Node<'_>; 2]>::try_from(fleet.start_all()).ok().expect("two nodes");
        for is_away in [false, true] {
            let opens = packet(Operation::Open);
            if is_away {
                let Node { fleet, number, knockd, program } = second;
                let directory = knockd.kill();
                first.send(source(1), &opens);
                first.wait_until_exactly(&[source(1)], &[]);
                first.knockd.knockctl(&["revoke", "198.18.0.1"]);
                let knockd = Daemon::start_again(fleet.host(number), directory);
                second = Node { fleet, number, knockd, program };
                second.wait_until_in_step();
            } else {
                first.send(source(1), &opens);
                second.wait_until_exactly(&[source(1)], &[]);
                first.knockd.knockctl(&["revoke", "198.18.0.1"]);
                second.wait_until_exactly(&[], &[source(1)]);
            }
            let mark = second.knockd.log_mark();
            second.send(source(1), &opens);
            second.knockd.wait_for_log_after(mark, "the packet was already used at another node");
            second.wait_until_exactly(&[], &[source(1)]);
            first.wait_until_exactly(&[], &[source(1)]);
        }
        // Closed, opened again, and the packet that closed is sent again.
        let [opens, closes, opens_again] = [Operation::Open, Operation::Close, Operation::Open].map(packet);
        for (payload, is_open) in [(&opens, true), (&closes, false), (&opens_again, true)] {
            first.send(source(1), payload);
            let open: &[IpAddr] = if is_open { &[source(1)] } else { &[] };
            [&first, &second].into_iter().for_each(|node| node.wait_until_exactly(open, &[source(1)]));
        }
        second.send(source(1), &closes);
        second.knock(source(2));
        [&first, &second].into_iter().for_each(|node| node.wait_until_exactly(&[source(1), source(2)], &[]));
    }
}
