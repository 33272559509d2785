//! More than one server in the list: where records are written to, and read from.

use knock_fleet::link::{RecordBytes, Settings};
use knock_testkit::{Host, Network, Store, store_engines, wait_until};

use crate::knockd::{Node, settings};
use crate::{network, servers};

const LIVE: &str = "knock:{web.example.com}:live";

/// Two servers that know nothing of each other, and two nodes that have both in their list.
fn two(network: &Network) -> (Store<'_>, Store<'_>, Vec<Node>) {
    let engine = store_engines()[0];
    let first = Store::start(engine, &network.server.namespace, "");
    let second = Store::start(engine, &network.clients[2].namespace, "");
    let both = [servers(), vec![format!("{}:6379", network.clients[2].v4)]].concat();
    let start = |(host, number): (&Host, u8)| Node::start(&host.namespace, number, settings(&both));
    let nodes: Vec<Node> = network.clients[..2].iter().zip(1..).map(start).collect();
    nodes.iter().for_each(Node::wait_until_ready);
    (first, second, nodes)
}

/// A record of each node comes to all.
fn exchange(nodes: &mut [Node]) -> Vec<RecordBytes> {
    let records: Vec<RecordBytes> = nodes.iter_mut().map(Node::publish).collect();
    nodes.iter().for_each(|node| records.iter().for_each(|record| node.wait_for_record(record)));
    records
}

#[test]
fn nodes_go_to_the_second_server_with_their_records_and_come_back_to_the_first() {
    let network = network(3);
    let (mut first, second, mut nodes) = two(&network);
    exchange(&mut nodes);
    assert_eq!((first.admin(&["ZCARD", LIVE]), second.admin(&["ZCARD", LIVE])), ("2".to_owned(), "0".to_owned()));
    first.kill();
    exchange(&mut nodes);
    wait_until("all records are there", || second.admin(&["ZCARD", LIVE]) == "4");
    first.restart();
    wait_until("all records are back", || first.admin(&["ZCARD", LIVE]) == "4");
    exchange(&mut nodes);
    assert_eq!((first.admin(&["ZCARD", LIVE]), second.admin(&["ZCARD", LIVE])), ("6".to_owned(), "4".to_owned()));
}

#[test]
fn a_node_that_alone_lost_the_first_server_does_not_stay_alone_at_the_second() {
    let network = network(3);
    let (first, _second, mut nodes) = two(&network);
    exchange(&mut nodes);
    network.block(&format!("ip saddr {} ip daddr {}", network.clients[0].v4, network.server.v4)).expect("a bridge");
    let apart = nodes[0].publish();
    nodes[0].wait_for_record(&apart);
    assert_eq!(nodes[1].count(&apart), 0);
    network.unblock().expect("a bridge");
    nodes[1].wait_for_record(&apart);
    exchange(&mut nodes);
    assert_eq!(first.admin(&["ZCARD", LIVE]), "5");
}

#[test]
fn what_a_server_has_lost_at_its_end_is_written_again_where_a_replica_is_read() {
    let network = network(2);
    let engine = store_engines()[0];
    let primary = Store::start(engine, &network.server.namespace, "");
    let lines = format!("replicaof {} 6379", knock_testkit::SERVER_V4);
    let replica = Store::start(engine, &network.clients[1].namespace, &lines);
    wait_until("it is a replica", || replica.admin(&["INFO", "replication"]).contains("master_link_status:up"));
    let read_from = vec![format!("{}:6379", network.clients[1].v4)];
    let settings = Settings { read_from, ..settings(&servers()) };
    let mut node = Node::start(&network.clients[0].namespace, 1, settings);
    node.wait_until_ready();
    let record = node.publish();
    node.wait_for_record(&record);
    // As after a crash: the epoch is still there, the last records are not.
    primary.admin(&["ZREMRANGEBYRANK", LIVE, "0", "-1"]);
    primary.admin(&["CLIENT", "KILL", "TYPE", "normal"]);
    wait_until("it is written again", || primary.admin(&["ZCARD", LIVE]) == "1");
}

#[test]
fn a_server_that_is_no_replica_is_not_read() {
    let network = network(2);
    let engine = store_engines()[0];
    let primary = Store::start(engine, &network.server.namespace, "");
    let other = Store::start(engine, &network.clients[1].namespace, "");
    let address = format!("{}:6379", network.clients[1].v4);
    let settings = Settings { read_from: vec![address], ..settings(&servers()) };
    let node = Node::start(&network.clients[0].namespace, 1, settings);
    let state = node.wait_for_state("a problem", |state| state.problem.contains("replica"));
    assert!(!state.in_step, "{state:?}");
    other.admin(&["REPLICAOF", &knock_testkit::SERVER_V4.to_string(), "6379"]);
    node.wait_until_ready();
    node.wait_for_state("no problem", |state| state.problem.is_empty());
    drop(primary);
}
