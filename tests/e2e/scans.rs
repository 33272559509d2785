//! Port scans: they open nothing, and a guarded port looks the same with a service and without.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use knock_testkit::{Answer, Echo, Flags, Order, Packet};
use serde_json::json;

use crate::support::{Daemon, at, elements, knock, network, wait_for_grant, wire};

#[test]
fn no_order_of_a_full_scan_opens_anything() {
    full_scans("daemon");
}

#[test]
fn no_order_of_a_full_scan_opens_anything_in_the_kernel() {
    full_scans("kernel");
}

fn full_scans(last_knock: &str) {
    let network = network(1);
    let server = &network.server;
    // No rule's port lies between those of another, so that it is the tripwires that stop the scans.
    let rules = json!([
        { "name": "up", "sequence": [7000, 7100, 7200], "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "down", "sequence": [9500, 9400, 9300], "allow": { "ports": [23], "timeout": "1h" } },
        { "name": "mixed", "sequence": [15523, 17767, 32768, 28977, 51234], "allow": { "ports": [24], "timeout": "1h" } },
        { "name": "udp", "sequence": ["10000/udp", "11000/udp", "12000/udp"], "allow": { "ports": [25], "timeout": "1h" } },
        { "name": "fence", "sequence": [60000, 50000], "allow": { "ports": [99], "timeout": "1h" } }
    ]);
    let settings = json!({ "last_knock": last_knock });
    let daemon = Daemon::start(server, json!({ "timeout": 600, "nftables": settings, "rules": rules }));
    let wire = wire(&network);
    // A permutation has the three knocks of a rule in a row now and then, as one of a few thousand; these do not.
    let orders = [Order::Ascending, Order::Descending, Order::Random(1), Order::Random(3)];
    for (number, order) in (1_u8..).zip(orders) {
        for source in [IpAddr::from([198, 18, 0, number]), IpAddr::from([0xfd88, 0, 0, 0, 0, 0, 0, u16::from(number)])]
        {
            let from = SocketAddr::new(source, 40_000);
            let ports = order.ports();
            let tcp = ports.iter().map(|port| Packet::syn(from, at(source, *port), u32::from(*port)));
            let udp = ports.iter().map(|port| Packet::udp(from, at(source, *port)));
            wire.send_all(&tcp.chain(udp).collect::<Vec<_>>()).expect("the scan is sent");
        }
        let fence = IpAddr::from([198, 19, 0, number]);
        knock(&wire, fence, &[60000, 50000]);
        wait_for_grant(server, fence, ("tcp", 99));
        assert!(elements(server, "grants4").iter().all(|element| element.service.1 == 99), "{order:?}");
        assert_eq!(elements(server, "grants6"), [], "{order:?}");
    }
    let counters = daemon.control_status()["counters"].take();
    println!("armed {}, refused {}", counters["armed"], counters["armed_refused"]);
    assert_eq!(counters["armed_unconfirmed"], 0);
}

#[test]
fn nmap_opens_nothing_in_either_order() {
    let network = network(1);
    let server = &network.server;
    // Five knocks: nmap's random order opens three of them once in 72 scans.
    let rules = json!([
        { "name": "up", "sequence": [7000, 7100, 7200, 7300, 7400], "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "mixed", "sequence": [15523, 17767, 32768, 28977, 51234], "allow": { "ports": [24], "timeout": "1h" } },
        { "name": "fence", "sequence": [60000, 50000], "allow": { "ports": [99], "timeout": "1h" } }
    ]);
    let _daemon = Daemon::start(server, json!({ "timeout": 600, "rules": rules }));
    let (wire, target) = (wire(&network), server.v4.to_string());
    for (order, number) in [(&["-r"][..], 1_u8), (&[], 2)] {
        let mut nmap = Command::new("nmap");
        nmap.args(order).args(["-n", "-Pn", "-sS", "-p-", "--min-rate", "20000", "--max-retries", "1", &target]);
        let report = network.client().namespace.output(&mut nmap, "").expect("nmap, of the package of that name");
        assert!(report.contains("1 host up"), "{report}");
        let fence = IpAddr::from([198, 19, 1, number]);
        knock(&wire, fence, &[60000, 50000]);
        wait_for_grant(server, fence, ("tcp", 99));
        assert!(elements(server, "grants4").iter().all(|element| element.service.1 == 99), "{report}");
    }
}

#[test]
fn scans_of_every_kind_get_the_same_answers_from_a_guarded_port_with_and_without_a_service() {
    let network = network(1);
    let server = &network.server;
    let _services =
        (Echo::tcp(&server.namespace, 22).expect("a service"), Echo::udp(&server.namespace, 53).expect("a service"));
    let rules = json!([{
        "name": "a", "sequence": [7000, 8000],
        "allow": { "ports": [22, 23, "53/udp", "54/udp"], "timeout": "1h" }
    }]);
    let _daemon = Daemon::start(server, json!({ "rules": rules }));
    let wire = wire(&network);
    let scans = [
        ("SYN", Flags::SYN),
        ("NULL", Flags::NONE),
        ("FIN", Flags::FIN),
        ("Xmas", Flags::FIN | Flags::PSH | Flags::URG),
        ("ACK", Flags::ACK),
        ("Maimon", Flags::FIN | Flags::ACK),
        ("SYN and ACK", Flags::SYN | Flags::ACK),
        ("RST", Flags::RST),
        ("SYN and FIN", Flags::SYN | Flags::FIN),
    ];
    for source in [IpAddr::from(network.client().v4), IpAddr::from(network.client().v6)] {
        let from = SocketAddr::new(source, 40_000);
        let fence = SocketAddr::new(source, 40_001);
        for (name, flags) in scans {
            let packets = [22, 23].map(|port| Packet::tcp(from, at(source, port), flags));
            let answers = answers_by_port(&wire.answers(&packets, fence).expect("the answers"));
            assert_eq!(answers.get(&22), answers.get(&23), "{name} scan over {source}");
        }
        let packets = [53, 54].map(|port| Packet::udp(from, at(source, port)));
        let answers = wire.answers(&packets, fence).expect("the answers");
        assert_eq!(answers, [], "UDP scan over {source}");
    }
}

fn answers_by_port(replies: &[knock_testkit::Reply]) -> HashMap<u16, Vec<Answer>> {
    let mut answers: HashMap<u16, Vec<Answer>> = HashMap::new();
    for reply in replies {
        answers.entry(reply.from.port()).or_default().push(reply.answer);
    }
    answers
}
