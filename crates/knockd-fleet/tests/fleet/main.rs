//! The real `knockd-fleet` between a knockd that the test plays and a real Redis or Valkey server, in namespaces.

mod check;
mod failover;
mod hostile;
mod knockd;
mod readers;
mod scale;
mod security;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use knock_fleet::link::{Claim, RecordBytes, ToFleet};
use knock_spa::UnixTime;
use knock_testkit::{Network, Store, store_engines, wait_until};

use knockd::{Node, now, settings};

/// A store, and as many hosts for nodes.
pub(crate) fn network(nodes: u8) -> Network {
    Network::new(nodes).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn servers() -> Vec<String> {
    vec![format!("{}:6379", knock_testkit::SERVER_V4)]
}

/// Nodes on all hosts of the network that are connected to the store.
fn nodes(network: &Network) -> Vec<Node> {
    let start = |(host, number): (&knock_testkit::Host, u8)| Node::start(&host.namespace, number, settings(&servers()));
    let nodes: Vec<Node> = network.clients.iter().zip(1..).map(start).collect();
    nodes.iter().for_each(Node::wait_until_ready);
    nodes
}

/// Runs a test with each kind of server.
fn with_each(nodes_of: u8, test: impl Fn(&Network, &mut Store<'_>, Vec<Node>)) {
    let network = network(nodes_of);
    for engine in store_engines() {
        let mut server = Store::start(engine, &network.server.namespace, "");
        let nodes = nodes(&network);
        test(&network, &mut server, nodes);
    }
}

#[test]
fn what_a_node_publishes_comes_to_the_others() {
    with_each(3, |_, server, mut nodes| {
        let mut times: Vec<Duration> = Vec::new();
        for round in 0..60 {
            let published = Instant::now();
            let record = nodes[round % 3].publish();
            nodes.iter().for_each(|node| node.wait_for_record(&record));
            let last = nodes.iter().filter_map(|node| node.came(&record)).max().expect("it came");
            times.push(last - published);
            // Where more come, reads are spaced.
            wait_until("the next knock", || published.elapsed() > Duration::from_millis(60));
        }
        times.sort_unstable();
        let at = |part: usize| times[times.len() * part / 100];
        eprintln!("publish to the last of 3: median {:?}, p90 {:?}, p99 {:?}", at(50), at(90), at(99));
        assert_eq!(server.admin(&["ZCARD", "knock:{web.example.com}:live"]), "60");
        assert_eq!(server.admin(&["XLEN", "knock:{web.example.com}:log"]), "60");
        let id = nodes[0].key.id();
        assert_eq!(nodes[1].wait_for_node(id), ([0xab; 32], "1.2.3".to_owned()));
    });
}

#[test]
fn a_nonce_is_claimed_by_one_node() {
    with_each(2, |_, server, nodes| {
        for nonce in 0..50 {
            let answers = std::thread::scope(|scope| {
                let claims: Vec<_> = nodes.iter().map(|node| scope.spawn(move || node.claim(nonce))).collect();
                claims.into_iter().map(|claim| claim.join().expect("no panic")).collect::<Vec<Claim>>()
            });
            let ids: Vec<_> = nodes.iter().map(|node| node.key.id()).collect();
            let one = [Claim::Ours, Claim::Taken { by: ids[0] }];
            let other = [Claim::Taken { by: ids[1] }, Claim::Ours];
            assert!(answers == one || answers == other, "{answers:?}");
        }
        // The same again by the same node: the answer to the first attempt may have been lost.
        assert_eq!(nodes[0].claim(200), Claim::Ours);
        assert_eq!(nodes[0].claim(200), Claim::Ours);
        let key = format!("knock:{{web.example.com}}:seen:{}", "c8".repeat(24));
        let left: u64 = server.admin(&["PTTL", &key]).parse().expect("a number");
        assert!((60_000..=120_000).contains(&left), "{left} ms");
    });
}

#[test]
fn a_store_that_was_killed_and_lost_everything_gets_it_again() {
    with_each(2, |_, server, mut nodes| {
        let mut published: Vec<RecordBytes> = (0..20).map(|round| nodes[round % 2].publish()).collect();
        nodes.iter().for_each(|node| published.iter().for_each(|record| node.wait_for_record(record)));
        server.kill();
        nodes.iter().for_each(|node| drop(node.wait_for_state("the store is away", |state| !state.writes)));
        let began = Instant::now();
        assert_eq!(nodes[0].claim(1), Claim::Unknown);
        assert!(began.elapsed() < Duration::from_secs(1), "the answer does not wait for the store");
        published.extend((0..20).map(|round| nodes[round % 2].publish()));
        server.restart();
        nodes.iter().for_each(|node| published.iter().for_each(|record| node.wait_for_record(record)));
        wait_until("everything is in the store", || server.admin(&["ZCARD", "knock:{web.example.com}:live"]) == "40");
        nodes.iter().for_each(Node::wait_until_ready);
        assert_eq!(nodes[0].claim(2), Claim::Ours);
    });
}

#[test]
fn a_frozen_store_is_noticed_and_nothing_is_lost() {
    with_each(2, |_, server, mut nodes| {
        server.freeze();
        let began = Instant::now();
        // The writer notices when it needs the store.
        assert_eq!(nodes[0].claim(1), Claim::Unknown);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let published: Vec<RecordBytes> = (0..50).map(|_| nodes[0].publish()).collect();
        let state = nodes[1].wait_for_state("the reader notices", |state| !state.reads);
        assert!(state.problem.contains("10.77.0.1:6379"), "{}", state.problem);
        server.thaw();
        nodes.iter().for_each(|node| published.iter().for_each(|record| node.wait_for_record(record)));
        nodes.iter().for_each(Node::wait_until_ready);
    });
}

#[test]
fn a_link_that_breaks_is_noticed_and_nothing_is_lost() {
    with_each(2, |network, _, mut nodes| {
        for way in ["saddr", "daddr"] {
            network.block(&format!("ip {way} {}", network.clients[0].v4)).expect("a bridge");
        }
        assert_eq!(nodes[0].claim(1), Claim::Unknown);
        // A connection attempt takes 3 s to fail; no claim waits for it.
        nodes[0].wait_for_state("the writer is cut off", |state| !state.writes);
        for nonce in 2..5 {
            let began = Instant::now();
            assert_eq!(nodes[0].claim(nonce), Claim::Unknown);
            assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        }
        let here = nodes[0].publish();
        let there = nodes[1].publish();
        nodes[1].wait_for_record(&there);
        assert!(nodes[1].count(&here) == 0 && nodes[0].count(&there) == 0);
        network.unblock().expect("a bridge");
        nodes[1].wait_for_record(&here);
        nodes[0].wait_for_record(&there);
    });
}

#[test]
fn an_emptied_store_gets_the_records_of_all_nodes_again() {
    with_each(3, |network, server, mut nodes| {
        let last = nodes.pop().expect("three nodes");
        drop(last);
        let published: Vec<RecordBytes> = (0..30).map(|round| nodes[round % 2].publish()).collect();
        nodes.iter().for_each(|node| published.iter().for_each(|record| node.wait_for_record(record)));
        // The connections stay.
        assert_eq!(server.admin(&["FLUSHALL"]), "OK");
        wait_until("everything is in the store", || server.admin(&["ZCARD", "knock:{web.example.com}:live"]) == "30");
        let late = Node::start(&network.clients[2].namespace, 3, settings(&servers()));
        published.iter().for_each(|record| late.wait_for_record(record));
        // What comes after it reaches everybody too.
        let record = nodes[0].publish();
        nodes.iter().chain([&late]).for_each(|node| node.wait_for_record(&record));
    });
}

#[test]
fn another_store_whose_stream_has_other_positions_is_followed() {
    with_each(2, |network, server, mut nodes| {
        let engine = store_engines()[0];
        let first = nodes[0].publish();
        nodes[1].wait_for_record(&first);
        // The position in the stream is in the future of the next store.
        server.admin(&["XADD", "knock:{web.example.com}:log", "99999999999999-0", "r", "x"]);
        wait_until("it is read", || nodes[1].wait_for_state("a state", |_| true).foreign > 0);
        server.kill();
        let other = Store::start(engine, &network.server.namespace, "");
        let records: Vec<RecordBytes> = (0..10).map(|round| nodes[round % 2].publish()).collect();
        nodes.iter().for_each(|node| records.iter().for_each(|record| node.wait_for_record(record)));
        wait_until("the first one is there again", || other.admin(&["ZCARD", "knock:{web.example.com}:live"]) == "11");
    });
}

#[test]
fn records_that_end_in_the_same_millisecond_are_all_read_once() {
    with_each(2, |network, server, mut nodes| {
        let joining = nodes.pop().expect("two nodes");
        drop(joining);
        let end = UnixTime::from_millis(now().as_millis() + 3_600_000);
        let later = UnixTime::from_millis(end.as_millis() + 1);
        let mut published: HashSet<RecordBytes> = HashSet::new();
        // 1000 are read at once: the border is in the middle of those with the same end.
        published.extend((0..700).map(|_| nodes[0].publish_until(later)));
        published.extend((0..2500).map(|_| nodes[0].publish_until(end)));
        published.extend((0..300).map(|_| nodes[0].publish()));
        wait_until("all are written", || server.admin(&["ZCARD", "knock:{web.example.com}:live"]) == "3500");
        let joining = Node::start(&network.clients[1].namespace, 2, settings(&servers()));
        joining.wait_until_ready();
        assert_eq!(joining.records(), 3500);
        assert!(published.iter().all(|record| joining.count(record) == 1));
    });
}

#[test]
fn a_slow_reader_delays_nobody_and_misses_nothing_that_the_stream_drops() {
    with_each(2, |_, server, mut nodes| {
        nodes[1].pause(true);
        let began = Instant::now();
        let published: Vec<RecordBytes> = (0..5000).map(|_| nodes[0].publish()).collect();
        published.iter().for_each(|record| nodes[0].wait_for_record(record));
        // What the slow one has not read yet is gone.
        let trimmed: usize =
            server.admin(&["XTRIM", "knock:{web.example.com}:log", "MAXLEN", "0"]).parse().expect("a number");
        assert!(trimmed >= 5000);
        // A stream that keeps 100,000 entries drops none sooner.
        wait_until("a second is over", || began.elapsed() > Duration::from_millis(1500));
        nodes[1].pause(false);
        published.iter().for_each(|record| nodes[1].wait_for_record(record));
    });
}

#[test]
fn what_is_no_record_is_counted_and_goes_no_further() {
    with_each(2, |_, server, mut nodes| {
        let far = "99999999999999";
        for garbage in ["", "x", &"y".repeat(416), &"z".repeat(100_000)] {
            server.admin(&["ZADD", "knock:{web.example.com}:live", far, garbage]);
            server.admin(&["XADD", "knock:{web.example.com}:log", "*", "r", garbage]);
        }
        server.admin(&["XADD", "knock:{web.example.com}:log", "*", "other", "x"]);
        server.admin(&["HSET", "knock:{web.example.com}:nodes", "x", "y"]);
        let record = nodes[0].publish();
        nodes.iter().for_each(|node| node.wait_for_record(&record));
        nodes[1].wait_for_state("five entries", |state| state.foreign == 5);
        // The members come at the next start.
        let [first, second] = &mut nodes[..] else { panic!("two nodes") };
        second.reconnect();
        second.wait_for_record(&record);
        second.wait_for_state("four members", |state| state.foreign == 4);
        assert_eq!(second.records(), 1);
        assert_eq!(first.records(), 1);
    });
}

#[test]
fn knockd_may_start_again() {
    with_each(2, |_, server, mut nodes| {
        let before = nodes[0].publish();
        nodes[1].wait_for_record(&before);
        nodes[0].reconnect();
        nodes[0].wait_until_ready();
        nodes[0].wait_for_record(&before);
        let after = nodes[0].publish();
        nodes[1].wait_for_record(&after);
        // What it published before it started again is still its own.
        server.admin(&["FLUSHALL"]);
        wait_until("both are there again", || server.admin(&["ZCARD", "knock:{web.example.com}:live"]) == "2");
    });
}

#[test]
fn a_reading_that_is_broken_off_has_nothing_written_again() {
    with_each(1, |_, server, mut nodes| {
        let log = "knock:{web.example.com}:log";
        for _ in 0..5 {
            let records: Vec<RecordBytes> = (0..1000).map(|_| nodes[0].publish()).collect();
            records.iter().for_each(|record| nodes[0].wait_for_record(record));
        }
        assert_eq!(server.admin(&["XLEN", log]), "5000");
        // It waits for this knockd in the middle of the first pages.
        nodes[0].reconnect();
        nodes[0].pause(true);
        let paused = Instant::now();
        wait_until("it reads", || paused.elapsed() > Duration::from_millis(500));
        nodes[0].reconnect();
        nodes[0].wait_until_ready();
        let last = nodes[0].publish();
        nodes[0].wait_for_record(&last);
        assert_eq!(server.admin(&["XLEN", log]), "5001");
    });
}

#[test]
fn what_knockd_hands_over_again_is_written_only_if_the_store_lacks_it() {
    with_each(2, |network, server, mut nodes| {
        let minutes_ago = UnixTime::from_millis(now().as_millis() + 3_000_000);
        let records: Vec<RecordBytes> = (0..200).map(|_| nodes[0].publish_until(minutes_ago)).collect();
        records.iter().for_each(|record| nodes[1].wait_for_record(record));
        assert_eq!(server.admin(&["XLEN", "knock:{web.example.com}:log"]), "200");
        // The program is started again, and knockd hands over all that it has, and one that was waiting.
        drop(nodes.remove(0));
        let mut node = Node::start(&network.clients[0].namespace, 1, settings(&servers()));
        for record in &records {
            node.tell(&ToFleet::Publish(Box::new(*record)));
        }
        let waited = node.publish_until(UnixTime::from_millis(minutes_ago.as_millis() + 1));
        nodes[0].wait_for_record(&waited);
        let last = node.publish();
        nodes[0].wait_for_record(&last);
        assert_eq!(server.admin(&["XLEN", "knock:{web.example.com}:log"]), "202");
        server.admin(&["FLUSHALL"]);
        wait_until("all are there again", || server.admin(&["ZCARD", "knock:{web.example.com}:live"]) == "202");
    });
}
