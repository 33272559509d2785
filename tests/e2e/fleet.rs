//! A fleet: what is granted at one node opens at all of them, and what is revoked closes.

use std::net::IpAddr;

use knock_spa::Request;
use knock_testkit::{Store, store_engines};
use serde_json::json;

use crate::support::fleet::{Fleet, Node};
use crate::support::spa::open;
use crate::support::wait_until;

fn source(number: u8) -> IpAddr {
    [198, 18, 0, number].into()
}

fn wait_until_open(nodes: &[Node<'_>], source: IpAddr) {
    for node in nodes {
        wait_until(&format!("web{} is open to {source}", node.number + 1), || node.is_open(source));
    }
}

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
        let close = Request { operation: knock_spa::Operation::Close, ..open("ssh") };
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
