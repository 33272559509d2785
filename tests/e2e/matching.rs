//! What counts as a knock, over real packets: each row of the documented table.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use knock_testkit::{Flags, Network, Packet, Wire};
use serde_json::json;

use crate::support::{Daemon, at, element, knock, network, syns, wait_for_grant, wait_until, wire};

/// Rule A opens 22, rule B opens 23; the last one only shows that all before it was judged.
struct Matching {
    network: Network,
    wire: Wire,
    _daemon: Daemon,
    fences: std::cell::Cell<u8>,
}

impl Matching {
    fn start() -> Matching {
        let network = network(1);
        let rules = json!([
            { "name": "a", "sequence": [1000, 2000, 3000], "allow": { "ports": [22], "timeout": "1h" } },
            { "name": "b", "sequence": [5000, 5500], "allow": { "ports": [23], "timeout": "1h" } },
            { "name": "twice", "sequence": [6000, 6000, 6500], "allow": { "ports": [24], "timeout": "1h" } },
            { "name": "fence", "sequence": [9100, 9200], "allow": { "ports": [99], "timeout": "1h" } }
        ]);
        let daemon = Daemon::start(&network.server, json!({ "rules": rules }));
        let wire = wire(&network);
        Matching { network, wire, _daemon: daemon, fences: std::cell::Cell::new(0) }
    }

    /// Waits until all that was sent before was judged: packets are taken in their order, so the grant of another
    /// source shows it.
    fn fence(&self) {
        self.fences.set(self.fences.get() + 1);
        let source = Ipv4Addr::new(198, 19, 0, self.fences.get()).into();
        knock(&self.wire, source, &[9100, 9200]);
        wait_for_grant(&self.network.server, source, ("tcp", 99));
    }

    fn opens(&self, source: IpAddr, port: u16) -> bool {
        self.fence();
        element(&self.network.server, source, ("tcp", port)).is_some()
    }

    /// Whether these knocks open rule A's port, for an address of each family that knocked nothing before.
    fn a_opens(&self, row: u8, ports: &[u16]) -> bool {
        self.packets_open(row, 22, |source| syns(source, ports))
    }

    fn packets_open(&self, row: u8, port: u16, packets: impl Fn(IpAddr) -> Vec<Packet>) -> bool {
        let sources = [IpAddr::from([198, 18, 0, row]), IpAddr::from([0xfd88, 0, 0, 0, 0, 0, 0, u16::from(row)])];
        let opened = sources.map(|source| {
            self.wire.send_all(&packets(source)).expect("the packets are sent");
            self.opens(source, port)
        });
        assert_eq!(opened[0], opened[1], "IPv4 and IPv6 differ");
        opened[0]
    }
}

#[test]
fn sequences_open_or_not_as_the_table_says() {
    let matching = Matching::start();
    let rows: &[(&[u16], bool)] = &[
        (&[1000, 2000, 3000], true),
        (&[1000, 1000, 2000, 3000], true),
        (&[1000, 2000, 2000, 3000], true),
        (&[1000, 2000, 1000, 2000, 3000], true),
        (&[3000, 1000, 2000, 3000], true),
        (&[1000, 3000, 2000, 3000], false),
        (&[1000, 5000, 2000, 3000], false),
        (&[1000, 443, 2000, 3000], true),
        (&[1000, 1001, 2000, 3000], false),
        (&[1000, 2000, 2999, 3000], false),
        (&[1000, 2000], false),
        (&[2000, 3000], false),
        (&[3000, 2000, 1000], false),
    ];
    for (row, (ports, expected)) in (1..).zip(rows) {
        assert_eq!(matching.a_opens(row, ports), *expected, "{ports:?}");
    }
}

#[test]
fn a_retransmitted_syn_does_not_break_the_knock_at_any_stage() {
    let matching = Matching::start();
    for (row, stage) in (1..).zip(0..3) {
        let opens = matching.packets_open(row, 22, |source| {
            let mut packets = syns(source, &[1000, 2000, 3000]);
            packets.insert(stage, packets[stage].clone());
            packets
        });
        assert!(opens, "the knock number {} came twice", stage + 1);
    }
    // One that comes late, after the next knock.
    let late = |source| {
        let mut packets = syns(source, &[1000, 2000, 3000]);
        packets.insert(2, packets[0].clone());
        packets
    };
    assert!(matching.packets_open(9, 22, late), "the first knock came again after the second");
}

#[test]
fn a_repeated_port_counts_each_distinct_knock_but_no_retransmission() {
    let matching = Matching::start();
    assert!(matching.packets_open(1, 24, |source| syns(source, &[6000, 6000, 6500])));
    assert!(!matching.packets_open(2, 24, |source| syns(source, &[6000, 6500])));
    let retransmitted = |source| {
        let mut packets = syns(source, &[6000, 6500]);
        packets.insert(0, packets[0].clone());
        packets
    };
    assert!(!matching.packets_open(3, 24, retransmitted));
}

#[test]
fn another_source_in_between_has_no_effect() {
    let matching = Matching::start();
    let intruder = IpAddr::from([198, 18, 1, 1]);
    let packets = |source| {
        let mut packets = Vec::new();
        for knock in syns(source, &[1000, 2000, 3000]) {
            packets.push(knock);
            packets.extend(syns(intruder, &[3000, 5000, 1001]));
        }
        packets
    };
    // The families are kept apart here: the intruder has an IPv4 address only.
    let source = IpAddr::from([198, 18, 0, 1]);
    matching.wire.send_all(&packets(source)).expect("the packets are sent");
    assert!(matching.opens(source, 22));
    assert!(!matching.opens(intruder, 22));
}

#[test]
fn rules_that_overlap_progress_side_by_side() {
    let network = network(1);
    let server = &network.server;
    let rules = json!([
        { "name": "whole", "sequence": [1000, 2000, 3000], "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "prefix", "sequence": [1000, 2000], "allow": { "ports": [23], "timeout": "1h" } },
        { "name": "suffix", "sequence": [2000, 3000], "allow": { "ports": [24], "timeout": "1h" } },
        { "name": "other", "sequence": [1000, 2000, 4000], "allow": { "ports": [25], "timeout": "1h" } }
    ]);
    let _daemon = Daemon::start(server, json!({ "rules": rules }));
    let wire = wire(&network);
    let (one, two) = (IpAddr::from([198, 18, 0, 1]), IpAddr::from([198, 18, 0, 2]));
    knock(&wire, one, &[1000, 2000, 3000]);
    knock(&wire, two, &[1000, 2000, 4000]);
    wait_for_grant(server, two, ("tcp", 25));
    let opened = |source| [22, 23, 24, 25].map(|port| element(server, source, ("tcp", port)).is_some());
    assert_eq!(opened(one), [true, true, true, false]);
    assert_eq!(opened(two), [false, true, false, true]);
}

#[test]
fn only_the_first_packet_of_a_connection_is_a_knock() {
    let matching = Matching::start();
    let others = [
        Flags::NONE,
        Flags::ACK,
        Flags::FIN,
        Flags::SYN | Flags::ACK,
        Flags::SYN | Flags::RST,
        Flags::SYN | Flags::FIN,
        Flags::FIN | Flags::PSH | Flags::URG,
    ];
    for (row, flags) in (1..).zip(others) {
        let packets = |source: IpAddr| {
            let from = SocketAddr::new(source, 40_000);
            [1000, 2000, 3000].map(|port| Packet::tcp(from, at(source, port), flags)).to_vec()
        };
        assert!(!matching.packets_open(row, 22, packets), "{flags:?}");
    }
}

#[test]
fn a_rule_with_flags_of_its_own_takes_those() {
    let network = network(1);
    let rules = json!([
        { "name": "fin", "sequence": [1000, 2000], "tcp_flags": "fin,!syn", "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "syn", "sequence": [1000, 2000], "allow": { "ports": [23], "timeout": "1h" } }
    ]);
    let _daemon = Daemon::start(&network.server, json!({ "rules": rules }));
    let wire = wire(&network);
    let (one, other) = (IpAddr::from([198, 18, 0, 1]), IpAddr::from([198, 18, 0, 2]));
    for port in [1000, 2000] {
        wire.send(&Packet::tcp(SocketAddr::new(one, 4000), at(one, port), Flags::FIN)).expect("a FIN is sent");
    }
    wait_for_grant(&network.server, one, ("tcp", 22));
    knock(&wire, other, &[1000, 2000]);
    wait_for_grant(&network.server, other, ("tcp", 23));
    assert_eq!(element(&network.server, one, ("tcp", 23)), None);
    assert_eq!(element(&network.server, other, ("tcp", 22)), None);
}

#[test]
fn the_whole_sequence_has_to_be_within_its_time() {
    let network = network(1);
    let rules = json!([
        { "name": "a", "sequence": [1000, 2000, 3000], "timeout": "300ms", "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "clock", "sequence": [5000, 5500], "allow": { "ports": [23], "timeout": "1s" } }
    ]);
    let _daemon = Daemon::start(&network.server, json!({ "timeout": 60, "rules": rules }));
    let wire = wire(&network);
    let server = &network.server;
    let (late, clock) = (IpAddr::from([198, 18, 0, 1]), IpAddr::from([198, 18, 0, 2]));
    knock(&wire, late, &[1000, 2000]);
    // A grant of a second that began after the knock, and is over, is a clock that needs no sleep.
    knock(&wire, clock, &[5000, 5500]);
    wait_for_grant(server, clock, ("tcp", 23));
    wait_until("a second has gone by", || element(server, clock, ("tcp", 23)).is_none());
    knock(&wire, late, &[3000]);
    let fence = IpAddr::from([198, 18, 0, 3]);
    knock(&wire, fence, &[5000, 5500]);
    wait_for_grant(server, fence, ("tcp", 23));
    assert_eq!(element(server, late, ("tcp", 22)), None);
    // And the same source within its time.
    knock(&wire, late, &[1000, 2000, 3000]);
    let grant = wait_for_grant(server, late, ("tcp", 22));
    assert_eq!(grant.timeout, Some(Duration::from_secs(3600)));
}

#[test]
fn only_packets_for_the_target_address_count_where_a_rule_names_one() {
    let network = network(1);
    let server = &network.server;
    server.namespace.ip("addr add 10.77.0.201/24 dev eth0").expect("a second address");
    let targets = ["10.77.0.201", "fd77::201"];
    let rules = json!([
        { "name": "a", "sequence": [1000, 2000], "target": targets, "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "fence", "sequence": [9100, 9200], "allow": { "ports": [99], "timeout": "1h" } }
    ]);
    let _daemon = Daemon::start(server, json!({ "rules": rules }));
    let wire = wire(&network);
    let source = IpAddr::from(network.client().v4);
    knock(&wire, source, &[1000, 2000, 9100, 9200]);
    wait_for_grant(server, source, ("tcp", 99));
    assert_eq!(element(server, source, ("tcp", 22)), None);
    let mut packets = syns(source, &[1000, 2000]);
    for packet in &mut packets {
        packet.destination.set_ip([10, 77, 0, 201].into());
    }
    wire.send_all(&packets).expect("the knock is sent");
    wait_for_grant(server, source, ("tcp", 22));
}

#[test]
fn a_syn_that_is_retransmitted_after_the_grant_has_ended_or_was_revoked_opens_nothing() {
    let network = network(1);
    let server = &network.server;
    let rules = json!([
        { "name": "brief", "sequence": [1000], "timeout": "300ms", "allow": { "ports": [22], "timeout": "1s" } },
        { "name": "open", "sequence": [2000], "timeout": "300ms", "allow": { "ports": [23], "timeout": "1h" } },
        { "name": "close", "sequence": [3000], "revoke": "open" },
        { "name": "fence", "sequence": [9100, 9200], "allow": { "ports": [99], "timeout": "1h" } }
    ]);
    let _daemon = Daemon::start(server, json!({ "rules": rules }));
    let wire = wire(&network);
    let [one, other] = [IpAddr::from([198, 18, 0, 1]), IpAddr::from([0xfd88, 0, 0, 0, 0, 0, 0, 1])];
    for (source, fence) in [(one, [198, 18, 0, 2]), (other, [198, 18, 0, 3])] {
        let packets = syns(source, &[1000, 2000]);
        wire.send_all(&packets).expect("the knocks are sent");
        wait_for_grant(server, source, ("tcp", 22));
        wait_for_grant(server, source, ("tcp", 23));
        knock(&wire, source, &[3000]);
        wait_until("both grants are over", || {
            [22, 23].iter().all(|port| element(server, source, ("tcp", *port)).is_none())
        });
        wire.send_all(&packets).expect("the knocks are sent again");
        knock(&wire, fence.into(), &[9100, 9200]);
        wait_for_grant(server, fence.into(), ("tcp", 99));
        assert_eq!([22, 23].map(|port| element(server, source, ("tcp", port))), [None, None], "{source}");
    }
}

#[test]
fn equal_datagrams_complete_a_sequence_that_repeats_a_port() {
    let network = network(1);
    let server = &network.server;
    let rules = json!([
        { "name": "a", "sequence": ["1000/udp", "2000/udp", "1000/udp"], "allow": { "ports": [22], "timeout": "1h" } }
    ]);
    let _daemon = Daemon::start(server, json!({ "rules": rules }));
    let wire = wire(&network);
    for source in [IpAddr::from([198, 18, 0, 1]), IpAddr::from([0xfd88, 0, 0, 0, 0, 0, 0, 1])] {
        let from = SocketAddr::new(source, 40_000);
        wire.send_all(&[1000, 2000, 1000].map(|port| Packet::udp(from, at(source, port)))).expect("the knock is sent");
        wait_for_grant(server, source, ("tcp", 22));
    }
}
