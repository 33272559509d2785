//! Figures of a fleet: `cargo test --release --test e2e -- --ignored fleet_figures --nocapture --test-threads 1`, after
//! `cargo build --release --workspace --bins`. docs/studies/benchmarks.md has the results.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use knock_testkit::{Echo, Packet, Store, Wire, opening, store_engines};
use serde_json::{Value, json};

use crate::support::fleet::{Fleet, KNOCK, Node, REALM};
use crate::support::spa::{SPA_PORT, open};
use crate::support::{Daemon, Options, elements, wait_until};

/// How soon a probe follows another one.
const INTERVAL: Duration = Duration::from_micros(50);
/// How long a port may take to open.
const PATIENCE: Duration = Duration::from_secs(10);

/// An address from which nothing has come yet.
fn source(number: u32) -> IpAddr {
    Ipv4Addr::from(0xc612_0000 + number).into()
}

fn knocks(wire: SocketAddr, source: IpAddr, sequence: u32) -> Vec<Packet> {
    let from = SocketAddr::new(source, 45_000);
    KNOCK.iter().map(|&port| Packet::syn(from, SocketAddr::new(wire.ip(), port), sequence)).collect()
}

/// As they would be in use: without the lines for debugging, and with room.
fn in_use(mut configuration: Value) -> Value {
    configuration["log"] = json!({ "target": "stderr", "level": "info" });
    configuration["limits"] = json!({ "grants": 250_000 });
    configuration
}

fn part(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

fn show(what: &str, times: &mut [Duration]) {
    let [median, p90, p99, last] = [50, 90, 99, 100].map(|percent| part(times, percent));
    println!("{what}: {} times: median {median:.2?}, p90 {p90:.2?}, p99 {p99:.2?}, longest {last:.2?}", times.len());
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

/// When each of these wires has had an answer to a SYN to port 22, from the last knock on.
fn openings(nodes: &[(Wire, SocketAddr)], first: usize, source: IpAddr) -> Vec<Duration> {
    let from = SocketAddr::new(source, 45_000);
    let (wire, to) = &nodes[first];
    for (wire, _) in nodes {
        while wire.receive(Instant::now()).expect("a frame").is_some() {}
    }
    wire.send_all(&knocks(*to, source, 1)).expect("sent");
    let (began, mut times) = (Instant::now(), vec![None; nodes.len()]);
    while times.iter().any(Option::is_none) {
        let turn = Instant::now();
        assert!(began.elapsed() < PATIENCE, "{times:?}");
        for ((wire, to), time) in nodes.iter().zip(&mut times).filter(|(_, time)| time.is_none()) {
            wire.send(&Packet::syn(from, *to, 7)).expect("sent");
            while let Some(reply) = wire.receive(Instant::now()).expect("a frame") {
                if (reply.from, reply.to) == (*to, from) {
                    *time = Some(began.elapsed());
                }
            }
        }
        thread::sleep(Duration::from_micros(300).saturating_sub(turn.elapsed()));
    }
    times.into_iter().flatten().collect()
}

#[test]
#[ignore = "measures"]
fn from_a_knock_at_one_node_to_an_open_port_at_all_of_ten() {
    const ROUNDS: u32 = 300;
    let fleet = Fleet::new(10);
    for engine in store_engines() {
        let _store = Store::start(engine, &fleet.network.server.namespace, "");
        let nodes: Vec<Node<'_>> = (0..10)
            .map(|number| fleet.start_with(number, in_use(fleet.configuration(number)), Options::default()))
            .collect();
        nodes.iter().for_each(Node::wait_until_in_step);
        let wires: Vec<_> =
            (0..10).map(|number| (fleet.wire(number), SocketAddr::new(fleet.host(number).v4.into(), 22))).collect();
        let [mut there, mut next, mut all] = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            let first = round as usize % 10;
            let mut times = openings(&wires, first, source(256 * round));
            there.push(times.swap_remove(first));
            times.sort_unstable();
            next.push(times[0]);
            all.push(times[8]);
            thread::sleep(Duration::from_millis(60));
        }
        show(&format!("{engine}: knock to open at that node"), &mut there);
        show(&format!("{engine}: knock to open at the next one"), &mut next);
        show(&format!("{engine}: knock to open at all of ten"), &mut all);
        println!("load {}", load());
    }
}

#[test]
#[ignore = "measures"]
fn a_node_that_was_away_while_100_000_were_granted() {
    const GRANTS: u32 = 100_000;
    let fleet = Fleet::new(2);
    let configuration = in_use(fleet.configuration(1));
    for engine in store_engines() {
        let store = Store::start(engine, &fleet.network.server.namespace, "");
        for number in 0..GRANTS {
            let record = fleet.sequence(Ipv4Addr::from(0x0a80_0000 + number * 4).into());
            store.put(REALM, &fleet.sign(0, &record), record.end().as_millis());
        }
        let _ssh = Echo::tcp(&fleet.host(1).namespace, 22).expect("a service");
        let (wire, to) = (fleet.wire(1), SocketAddr::new(fleet.host(1).v4.into(), 22));
        let mut numbers = 0_u32..;
        let mut knock = || {
            let source = source(16 * numbers.next().expect("more"));
            let knocks = knocks(to, source, 1);
            opening(&wire, &knocks, (source, 45_000).into(), to, INTERVAL, PATIENCE)
                .expect("a wire")
                .expect("it opens")
                .answer
        };
        let knockd = Daemon::start(fleet.host(1), configuration.clone());
        let mut node = Node { fleet: &fleet, number: 1, knockd, program: None };
        let mut before: Vec<Duration> = (0..100).map(|_| knock()).collect();
        let mut measure = |node: &Node<'_>, what: &str, is_done: &dyn Fn(&Value) -> bool| {
            let (began, mut times) = (Instant::now(), Vec::new());
            while !is_done(&node.status()) {
                times.push(knock());
                thread::sleep(Duration::from_millis(20));
            }
            println!("{engine}: {what} after {:.2?}; load {}", began.elapsed(), load());
            show("  a knock at that node meanwhile", &mut times);
        };
        node.start_program();
        measure(&node, "100,000 are granted", &|status| status["granted"].as_u64() >= Some(GRANTS.into()));
        show("  a knock at that node before", &mut before);
        let here = elements(node.host(), "grants4").len();
        println!("  elements in the kernel: {here}; {} KiB resident", node.knockd.status("VmRSS"));
        let node = node.restart();
        measure(&node, "after a crash, all are known", &|status| {
            status["granted"].as_u64().unwrap_or_default() + status["refused"]["known"].as_u64().unwrap_or_default()
                >= GRANTS.into()
        });
        assert!(elements(node.host(), "grants4").len() >= GRANTS as usize);
        let began = Instant::now();
        node.knockd.knockctl(&["revoke", "--all"]);
        println!("{engine}: all revoked in {:.2?}; {}", began.elapsed(), node.status());
    }
}

#[test]
#[ignore = "measures"]
fn a_knock_with_a_fleet_and_without_one() {
    let fleet = Fleet::new(2);
    let mut alone = in_use(fleet.configuration(1));
    alone.as_object_mut().expect("an object").remove("fleet");
    let services: Vec<Echo> = (0..2).map(|n| Echo::tcp(&fleet.host(n).namespace, 22).expect("a service")).collect();
    let mut numbers = 0_u32..;
    for engine in store_engines() {
        let mut store = Store::start(engine, &fleet.network.server.namespace, "");
        let with = fleet.start_with(0, in_use(fleet.configuration(0)), Options::default());
        with.wait_until_in_step();
        let _without = Daemon::start(fleet.host(1), alone.clone());
        let wires = [0, 1].map(|number| (fleet.wire(number), SocketAddr::new(fleet.host(number).v4.into(), 22)));
        let mut compare = |what: &str, signed: bool| {
            let mut times = [Vec::new(), Vec::new()];
            // A user is served ten times a second.
            let (rounds, pause) = if signed { (100, 110) } else { (500, 3) };
            for round in 0..rounds {
                for number in [round as usize % 2, 1 - round as usize % 2] {
                    let (wire, to) = &wires[number];
                    let source = source(16 * numbers.next().expect("more"));
                    let knocks = match signed {
                        false => knocks(*to, source, 1),
                        true => {
                            let payload = fleet.alice.payload(&open("ssh"));
                            let (from, to) = (SocketAddr::new(source, 45_000), SocketAddr::new(to.ip(), SPA_PORT));
                            vec![Packet { payload, ..Packet::udp(from, to) }]
                        }
                    };
                    let opening = opening(wire, &knocks, (source, 45_000).into(), *to, INTERVAL, PATIENCE);
                    times[number].push(opening.expect("a wire").expect("it opens").answer);
                }
                thread::sleep(Duration::from_millis(pause));
            }
            let [with, without] = &mut times;
            println!("{engine}: {what}; load {}", load());
            show("  with a fleet", with);
            show("  without", without);
            let ratio = |percent, with: &mut Vec<Duration>, without: &mut Vec<Duration>| {
                part(with, percent).as_secs_f64() / part(without, percent).as_secs_f64()
            };
            let (median, p90) = (ratio(50, with, without), ratio(90, with, without));
            println!("  ratio of the medians {median:.2}, of p90 {p90:.2}");
        };
        compare("a sequence", false);
        compare("a signed packet that names no address", true);
        store.kill();
        wait_until("it is known that the store is away", || with.status()["writes"] == json!(false));
        compare("a sequence, the store is away", false);
        compare("a signed packet that names no address, the store is away", true);
    }
    drop(services);
}
