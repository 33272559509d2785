//! Figures: `cargo test --release -p knockd-fleet --test fleet -- --ignored --nocapture`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use knock_fleet::link::RecordBytes;
use knock_fleet::{Known, Node as Trusted, NodeKey, Peer, PeerRule, Record, Trust, What};
use knock_testkit::{Store, store_engines, wait_until};

use crate::knockd::{Node, REALM, now, settings};

use crate::{network, nodes, servers};

#[test]
#[ignore = "measures"]
fn from_one_node_to_all_of_ten() {
    let network = network(10);
    for engine in store_engines() {
        let _server = Store::start(engine, &network.server.namespace, "");
        let mut nodes = nodes(&network);
        let mut times: Vec<Duration> = Vec::new();
        for round in 0..300 {
            let published = Instant::now();
            let record = nodes[round % 10].publish();
            nodes.iter().for_each(|node| node.wait_for_record(&record));
            times.push(nodes.iter().filter_map(|node| node.came(&record)).max().expect("it came") - published);
            wait_until("the next knock", || published.elapsed() > Duration::from_millis(60));
        }
        times.sort_unstable();
        let at = |part: usize| times[times.len() * part / 100];
        eprintln!("{engine}: to the last of 10: median {:?}, p90 {:?}, p99 {:?}", at(50), at(90), at(99));
    }
}

/// What a peer of the first node accepts.
fn peer(key: &NodeKey) -> Peer {
    let ssh: knock_spa::RuleName = "ssh".parse().expect("a name");
    let node = Trusted { name: "web1".into(), key: key.public(), vouch: [ssh.clone()].into() };
    let rule = PeerRule { lifetime: Duration::from_secs(3600), prefixes: (32, 128) };
    let trust = Trust::new(&REALM.parse().expect("a realm"), vec![node]).expect("one key");
    Peer { trust, packets: None, rules: BTreeMap::from([(ssh, rule)]) }
}

#[test]
#[ignore = "measures"]
fn a_node_that_was_away_with_100_000_live_grants() {
    const GRANTS: u32 = 100_000;
    let network = network(2);
    for engine in store_engines() {
        let server = Store::start(engine, &network.server.namespace, "");
        let first = Node::start(&network.clients[0].namespace, 1, settings(&servers()));
        first.wait_until_ready();
        let mut records: Vec<RecordBytes> = Vec::new();
        for number in 0..GRANTS {
            let mut grant = [0; 16];
            grant[..4].copy_from_slice(&number.to_be_bytes());
            let record = Record {
                what: What::Sequence { grant },
                wide: false,
                lifetime: 3600.try_into().expect("not zero"),
                time: now(),
                address: std::net::Ipv4Addr::from(0x0a00_0000 + number).into(),
                rule: Some("ssh".parse().expect("a name")),
                node: first.key.id(),
                counter: number.into(),
            };
            let bytes = record.sign(&first.key, &REALM.parse().expect("a realm"));
            first.tell(&knock_fleet::link::ToFleet::Publish(Box::new(bytes)));
            records.push(bytes);
            if number % 5000 == 4999 {
                // The queue has room for 10,000.
                wait_until("it is written", || {
                    server.admin(&["ZCARD", "knock:{web.example.com}:live"]) == (number + 1).to_string()
                });
            }
        }
        let began = Instant::now();
        let second = Node::start(&network.clients[1].namespace, 2, settings(&servers()));
        second.wait_until_ready();
        let received = began.elapsed();
        assert_eq!(second.records(), records.len());
        let (peer, mut known) = (peer(&first.key), Known::default());
        let began = Instant::now();
        for record in &records {
            let at = now();
            known.admit(peer.verify(record, at).expect("valid"), at).expect("new");
        }
        let verified = began.elapsed();
        let began = Instant::now();
        let skipped =
            records.iter().filter_map(|record| Record::decode(record).ok()).filter(|record| known.has(record));
        assert_eq!(skipped.count(), records.len());
        eprintln!(
            "{engine}: {GRANTS} live grants: received in {received:?}, verified in {verified:?}, skipped when known in {:?}",
            began.elapsed()
        );
    }
}
