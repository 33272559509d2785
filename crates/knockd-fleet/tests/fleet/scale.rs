//! Figures: `cargo test --release -p knockd-fleet --test fleet -- --ignored --nocapture`. What they say is in
//! `docs/studies/fleet-scale.md`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use knock_fleet::link::RecordBytes;
use knock_fleet::{Known, Node as Trusted, NodeKey, Peer, PeerRule, Record, Trust, What};
use knock_testkit::{Namespace, Store, store_engines, wait_until};

use crate::knockd::{Node, REALM, now, settings};
use crate::{network, nodes, readers, servers};

/// The time on a processor that the threads of a process have had.
fn processor(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    threads.filter_map(of_thread).sum()
}

/// Publishes that many records a second, in batches as the program does, until that time.
fn publish(address: SocketAddr, key: &str, rate: u32, start: Instant, until: Instant) -> u32 {
    let mut store = TcpStream::connect(address).expect("it listens");
    store.set_nodelay(true).expect("a socket");
    let (began, mut sent, mut answers) = (Instant::now(), 0, [0; 1 << 16]);
    while Instant::now() < until {
        let due = began.elapsed().as_micros() * u128::from(rate) / 1_000_000;
        let batch = u32::try_from(due).expect("soon").saturating_sub(sent).min(100);
        let mut commands = Vec::new();
        for _ in 0..batch {
            commands.extend(
                format!("*7\r\n$4\r\nXADD\r\n${}\r\n{key}\r\n$6\r\nMAXLEN\r\n$6\r\n100000\r\n", key.len()).bytes(),
            );
            commands.extend(b"$1\r\n*\r\n$1\r\nr\r\n$416\r\n");
            commands.extend(readers::record(start));
            commands.extend(b"\r\n");
        }
        store.write_all(&commands).expect("it reads");
        sent += batch;
        if batch > 0 {
            let _ = store.read(&mut answers).expect("it answers");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    sent
}

#[test]
#[ignore = "measures"]
fn a_thousand_readers_of_one_store() {
    const KEY: &str = "knock:{scale}:log";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum },
    )
    .expect("its own limit");
    let namespace = Namespace::new().expect("a namespace");
    let address: SocketAddr = "127.0.0.1:6379".parse().expect("an address");
    for engine in store_engines() {
        let server = Store::start(engine, &namespace, "maxclients 4000");
        for count in [100, 1000, 2500] {
            let connect = || (0..count).map(|_| TcpStream::connect(address).expect("it listens")).collect::<Vec<_>>();
            let streams = namespace.run(connect).expect("a namespace");
            for rate in [1, 10, 100, 1000] {
                let (start, store) = (Instant::now(), processor(server.pid()));
                let until = start + Duration::from_secs(12);
                let (sent, got) = std::thread::scope(|scope| {
                    let publisher = scope
                        .spawn(|| namespace.run(|| publish(address, KEY, rate, start, until - Duration::from_secs(2))));
                    let got = readers::read(&streams, KEY, start, until);
                    (publisher.join().expect("no panic").expect("a namespace"), got)
                });
                let seconds = start.elapsed().as_secs_f64();
                let part = (processor(server.pid()) - store).as_secs_f64() / 10.0;
                eprintln!(
                    "{engine}, {count} readers, {rate}/s: {} of {} delivered, {:.0}/s, {:.1} MB/s; ms: median {:.1}, p99 {:.1}, last {:.1}; store {:.0} % of a core; {seconds:.0} s",
                    got.times.len(),
                    sent as usize * count,
                    got.times.len() as f64 / 10.0,
                    got.bytes as f64 / 10e6,
                    got.percentile(50),
                    got.percentile(99),
                    got.percentile(100),
                    part * 100.0,
                );
            }
        }
        // What a node takes of a processor.
        let settings = settings(&[address.to_string()]);
        let node = Node::start(&namespace, 1, settings);
        node.wait_until_ready();
        let key = format!("knock:{{{REALM}}}:log");
        let mut received = 0;
        for rate in [10, 100, 1000] {
            let before = processor(node.pid());
            let start = Instant::now();
            let run = || publish(address, &key, rate, start, start + Duration::from_secs(10));
            received += u64::from(namespace.run(run).expect("a namespace"));
            node.wait_for_state("all records", |state| state.received >= received);
            let used = processor(node.pid()) - before;
            eprintln!("{engine}: knockd-fleet at {rate}/s: {:.2} % of a core", used.as_secs_f64() * 10.0);
        }
    }
}

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
