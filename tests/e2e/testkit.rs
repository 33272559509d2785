//! The ground itself: what the other tests take for granted is true of namespaces, packets and probes.

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;

use knock_testkit::{Answer, Echo, Flags, Flood, Fragment, Host, Order, Packet, Reach, SERVER_V4};

use crate::support::{Client, Element, answer, at4, at6, element, elements, network, table_exists, wait_until, wire};

/// Counts what reaches the server, before anything else judges it.
fn count_packets(server: &Host, rules: &str) {
    let chain = "type filter hook prerouting priority -450;";
    let script = format!("table inet count {{\n chain c {{\n {chain} {rules}\n }}\n }}\n");
    server.namespace.nft(&script).expect("the counting table");
}

/// Drops at the server what these rules say.
fn drop_packets(server: &Host, rules: &str) {
    let script = format!("table inet t {{\n chain c {{\n type filter hook input priority 0; {rules}\n }}\n }}\n");
    server.namespace.nft(&script).expect("a table that drops");
}

/// The counters of that table, in the order of its rules.
fn counts(server: &Host) -> Vec<u64> {
    let mut nft = std::process::Command::new("nft");
    nft.args(["list", "table", "inet", "count"]);
    let listing = server.namespace.output(&mut nft, "").expect("nft lists the counters");
    listing
        .split("counter packets ")
        .skip(1)
        .map(|rest| rest.split(' ').next().and_then(|n| n.parse().ok()).expect("a number"))
        .collect()
}

#[test]
fn client_and_server_reach_each_other_by_both_families() {
    let network = network(2);
    let _service = Echo::tcp(&network.server.namespace, 22).expect("an echo service");
    for client in &network.clients {
        for address in [at4(22), at6(22)] {
            assert_eq!(client.tcp(address), Reach::Open);
            assert!(client.session(address).is_alive());
        }
        assert_eq!(client.tcp(at4(23)), Reach::Refused);
    }
}

#[test]
fn a_dropped_port_is_filtered_and_an_unserved_one_refused() {
    let network = network(1);
    let _services = (
        Echo::tcp(&network.server.namespace, 22).expect("an echo service"),
        Echo::udp(&network.server.namespace, 53).expect("an echo service"),
        Echo::udp(&network.server.namespace, 54).expect("an echo service"),
    );
    drop_packets(&network.server, "tcp dport 24 drop; udp dport 54 drop");
    let client = network.client();
    assert_eq!([22, 23, 24].map(|port| client.tcp(at4(port))), [Reach::Open, Reach::Refused, Reach::Filtered]);
    assert_eq!([53, 52, 54].map(|port| client.udp(at6(port))), [Reach::Open, Reach::Refused, Reach::Filtered]);
    let wire = wire(&network);
    for source in [IpAddr::from(client.v4), IpAddr::from(client.v6)] {
        let reset = Some(Answer::Tcp(Flags::RST | Flags::ACK));
        assert_eq!(answer(&wire, source, 22), Some(Answer::Tcp(Flags::SYN | Flags::ACK)));
        assert_eq!(answer(&wire, source, 23), reset);
        assert_eq!(answer(&wire, source, 24), None);
    }
}

#[test]
fn a_session_whose_packets_are_dropped_is_not_alive() {
    let network = network(1);
    let _service = Echo::tcp(&network.server.namespace, 22).expect("an echo service");
    let mut session = network.client().session(at4(22));
    assert!(session.is_alive());
    drop_packets(&network.server, "tcp dport 22 drop");
    assert!(!session.is_alive());
}

#[test]
fn a_scan_reaches_every_port_in_its_order() {
    let network = network(1);
    count_packets(&network.server, "tcp flags syn tcp dport 1-65535 counter; tcp dport 7000 counter");
    let wire = wire(&network);
    let from = (network.client().v4, 40_000).into();
    for (number, order) in (1..).zip([Order::Ascending, Order::Descending, Order::Random(5)]) {
        let packets: Vec<Packet> = order.ports().into_iter().map(|port| Packet::syn(from, at4(port), 1)).collect();
        wire.send_all(&packets).expect("the scan is sent");
        wait_until("all of the scan arrives", || counts(&network.server) == [number * 65_535, number]);
    }
}

#[test]
fn a_flood_comes_from_as_many_sources_as_it_says() {
    let network = network(1);
    let set = "table inet count {\n set s {\n type ipv4_addr; size 65536; flags dynamic;\n }\n }\n";
    network.server.namespace.nft(set).expect("the set of sources");
    let rules = "tcp dport 7000 counter; tcp dport 7001 counter; ip saddr 198.18.0.0/15 add @s { ip saddr }";
    count_packets(&network.server, rules);
    let example = Packet::syn(([198, 18, 0, 1], 1).into(), at4(7000), 0);
    let flood = Flood { ports: vec![7000, 7001], ..Flood::new(example, 1000, 10_000) };
    let sent = flood.run(&wire(&network), &AtomicBool::new(false)).expect("the flood is sent");
    assert_eq!(sent.packets, 10_000);
    wait_until("all of the flood arrives", || counts(&network.server) == [5000, 5000]);
    let mut nft = std::process::Command::new("nft");
    let listing =
        network.server.namespace.output(nft.args(["list", "set", "inet", "count", "s"]), "").expect("the set");
    assert_eq!(listing.matches("198.18.").count(), 1000);
}

#[test]
fn a_flood_keeps_to_its_rate() {
    let network = network(1);
    let example = Packet::syn(([198, 18, 0, 1], 1).into(), at4(7000), 0);
    let flood = Flood { rate: Some(20_000), ..Flood::new(example, 10, 10_000) };
    let sent = flood.run(&wire(&network), &AtomicBool::new(false)).expect("the flood is sent");
    assert!(sent.rate() < 20_500.0, "{sent:?}");
}

#[test]
fn irregular_packets_arrive_as_they_are_described() {
    let network = network(1);
    let rules = "ip frag-off & 0x1fff != 0 counter; tcp flags & (syn | rst) == syn | rst counter; exthdr dst exists counter; \
                 exthdr frag exists counter";
    count_packets(&network.server, rules);
    let from4 = (network.client().v4, 40_000).into();
    let from6 = (network.client().v6, 40_000).into();
    let fragment = Some(Fragment { offset: 185, more: true, id: 1 });
    wire(&network)
        .send_all(&[
            Packet { fragment, ..Packet::syn(from4, at4(7000), 1) },
            Packet::tcp(from4, at4(7000), Flags::SYN | Flags::RST),
            Packet { extensions: vec![0, 60], ..Packet::syn(from6, at6(7000), 1) },
            Packet { fragment, ..Packet::syn(from6, at6(7000), 1) },
        ])
        .expect("the packets are sent");
    wait_until("each of them arrives", || counts(&network.server) == [1, 1, 1, 1]);
}

#[test]
fn a_packet_with_extension_headers_reaches_its_service() {
    let network = network(1);
    let _service = Echo::tcp(&network.server.namespace, 22).expect("an echo service");
    let from = (network.client().v6, 40_000).into();
    let packet = Packet { extensions: vec![0, 43, 60], ..Packet::syn(from, at6(22), 1) };
    let fence = (network.client().v6, 40_001).into();
    let answers = wire(&network).answers(&[packet], fence).expect("the answers");
    assert_eq!(answers.iter().map(|reply| reply.answer).collect::<Vec<_>>(), [Answer::Tcp(Flags::SYN | Flags::ACK)]);
}

#[test]
fn elements_are_read_with_their_times_and_comments() {
    let network = network(1);
    assert!(!table_exists(&network.server, "knockd"));
    assert_eq!(elements(&network.server, "grants4"), []);
    let script = "add table inet knockd
        add set inet knockd grants4 { type ipv4_addr . inet_proto . inet_service; flags timeout; }
        add element inet knockd grants4 { 10.77.0.2 . tcp . 22 timeout 1h comment \"ssh\", 10.77.0.3 . udp . 53 }";
    network.server.namespace.nft(script).expect("a table of that name");
    assert!(table_exists(&network.server, "knockd"));
    let Element { timeout, expires, comment, .. } =
        element(&network.server, network.client().v4.into(), ("tcp", 22)).expect("the element");
    assert_eq!(timeout.map(|timeout| timeout.as_secs()), Some(3600));
    assert!(expires.is_some_and(|expires| (3500..3600).contains(&expires.as_secs())), "{expires:?}");
    assert_eq!(comment.as_deref(), Some("ssh"));
    assert_eq!(element(&network.server, [10, 77, 0, 3].into(), ("udp", 53)).expect("the other").timeout, None);
    assert_eq!(element(&network.server, [10, 77, 0, 3].into(), ("tcp", 53)), None);
}

#[test]
fn answers_to_spoofed_sources_come_to_the_first_client() {
    let network = network(1);
    let reset = Some(Answer::Tcp(Flags::RST | Flags::ACK));
    assert_eq!(answer(&wire(&network), [198, 18, 3, 4].into(), 23), reset);
}

#[test]
fn nothing_is_left_in_the_namespace_of_the_test_itself() {
    let here = || std::fs::read_to_string("/proc/thread-self/net/dev").expect("the interfaces of this namespace");
    let before = here();
    let network = network(1);
    let inside = network.server.namespace.run(here).expect("the server's namespace");
    assert!(inside.contains("eth0") && inside != before);
    let holder = network.server.namespace.pid();
    drop(network);
    assert_eq!(here().lines().count(), before.lines().count());
    assert!(!std::path::Path::new(&format!("/proc/{holder}")).exists());
    assert_eq!(SERVER_V4.octets(), [10, 77, 0, 1]);
}
