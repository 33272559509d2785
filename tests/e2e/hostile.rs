//! Packets that nobody should send, and far too many of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use knock_testkit::{Flood, Fragment, Mac, Network, Packet, Wire};
use serde_json::{Value, json};

use crate::support::{Daemon, at, at4, element, elements, knock, network, syns, wait_for_grant, wait_until, wire};

fn configuration() -> Value {
    json!({ "rules": [
        { "name": "a", "sequence": [1000, 2000], "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "fence", "sequence": [9100, 9200], "allow": { "ports": [99], "timeout": "1h" } }
    ] })
}

/// What makes a knock irregular.
type Change = fn(Packet) -> Packet;

/// Sends a changed knock of rule `a` from a source of its own; whether it opened.
fn opens(network: &Network, wire: &Wire, source: IpAddr, change: Change) -> bool {
    let packets: Vec<Packet> = syns(source, &[1000, 2000]).into_iter().map(change).collect();
    wire.send_all(&packets).expect("the packets are sent");
    knock(wire, source, &[9100, 9200]);
    wait_for_grant(&network.server, source, ("tcp", 99));
    element(&network.server, source, ("tcp", 22)).is_some()
}

#[test]
fn malformed_and_fragmented_packets_are_no_knocks_over_ipv4() {
    let network = network(1);
    let mut daemon = Daemon::start(&network.server, configuration());
    let wire = wire(&network);
    let changes: [(&str, Change); 10] = [
        ("a later fragment", |p| Packet { fragment: Some(Fragment { offset: 185, more: false, id: 1 }), ..p }),
        ("a later fragment with more", |p| Packet { fragment: Some(Fragment { offset: 1, more: true, id: 2 }), ..p }),
        ("a header of no words", |p| Packet { header_words: Some(0), ..p }),
        ("a header of four words", |p| Packet { header_words: Some(4), ..p }),
        ("a header past the end", |p| Packet { header_words: Some(15), ..p }),
        ("a total length of nothing", |p| Packet { total_length: Some(0), ..p }),
        ("a total length before the flags", |p| Packet { total_length: Some(30), ..p }),
        ("a total length past the end", |p| Packet { total_length: Some(1400), ..p }),
        ("a cut segment", |p| Packet { truncate: Some(30), ..p }),
        ("a segment header of four words", |p| Packet { data_offset: Some(4), ..p }),
    ];
    for (number, (name, change)) in (1..).zip(changes) {
        assert!(!opens(&network, &wire, [198, 18, 0, number].into(), change), "{name}");
    }
    assert!(opens(&network, &wire, [198, 18, 1, 1].into(), |packet| packet), "a regular knock opens");
    assert!(daemon.is_running());
}

#[test]
fn malformed_and_fragmented_packets_are_no_knocks_over_ipv6() {
    let network = network(1);
    let mut daemon = Daemon::start(&network.server, configuration());
    let wire = wire(&network);
    let changes: [(&str, Change); 6] = [
        ("a later fragment", |p| Packet { fragment: Some(Fragment { offset: 185, more: false, id: 1 }), ..p }),
        ("a payload of nothing", |p| Packet { total_length: Some(0), ..p }),
        ("a payload before the flags", |p| Packet { total_length: Some(10), ..p }),
        ("a payload past the end", |p| Packet { total_length: Some(1400), ..p }),
        ("a cut segment", |p| Packet { truncate: Some(50), ..p }),
        ("a cut extension header", |p| Packet { extensions: vec![0], truncate: Some(44), ..p }),
    ];
    for (number, (name, change)) in (1..).zip(changes) {
        assert!(!opens(&network, &wire, [0xfd88, 0, 0, 0, 0, 0, 0, number].into(), change), "{name}");
    }
    assert!(opens(&network, &wire, [0xfd88, 0, 0, 0, 0, 0, 1, 1].into(), |packet| packet), "a regular knock opens");
    assert!(daemon.is_running());
}

#[test]
fn extension_headers_do_not_hide_a_knock() {
    let network = network(1);
    let _daemon = Daemon::start(&network.server, configuration());
    let wire = wire(&network);
    let changes: [(&str, Change); 3] = [
        ("hop-by-hop options", |p| Packet { extensions: vec![0], ..p }),
        ("destination options", |p| Packet { extensions: vec![60], ..p }),
        ("several", |p| Packet { extensions: vec![0, 60, 43], ..p }),
    ];
    for (number, (name, change)) in (1..).zip(changes) {
        assert!(opens(&network, &wire, [0xfd88, 0, 0, 0, 0, 0, 0, number].into(), change), "{name}");
    }
}

#[test]
fn packets_for_others_are_no_knocks() {
    let network = network(1);
    let server = &network.server;
    let _daemon = Daemon::start(server, configuration());
    let wire = wire(&network);
    // Another host's address, in frames for this one.
    let other_address: Change = |packet| {
        let mut destination = packet.destination;
        destination.set_ip([10, 77, 0, 99].into());
        Packet { destination, ..packet }
    };
    assert!(!opens(&network, &wire, [198, 18, 0, 1].into(), other_address));

    // This one's address, in frames for another station, which the bridge floods to every port.
    let elsewhere = Mac([2, 0, 0, 0, 0, 0x99]);
    let client = network.client();
    let foreign = client.namespace.run(|| Wire::open("eth0", client.mac, elsewhere)).and_then(|wire| wire);
    let source = IpAddr::from([198, 18, 0, 2]);
    knock(&foreign.expect("a packet socket"), source, &[1000, 2000]);
    assert!(!opens(&network, &wire, source, other_address));
}

#[test]
fn the_hosts_own_connections_are_no_knocks() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _daemon = Daemon::start(server, configuration());
    for port in [1000, 2000] {
        let to = SocketAddr::new(client.v4.into(), port);
        let connect = || knock_testkit::tcp(to, std::time::Duration::from_secs(2));
        server.namespace.run(connect).and_then(|reach| reach).expect("a connection that is refused");
    }
    knock(&wire(&network), client.v4.into(), &[9100, 9200]);
    wait_for_grant(server, client.v4.into(), ("tcp", 99));
    assert!(elements(server, "grants4").iter().all(|element| element.service.1 == 99));
}

#[test]
fn a_tagged_frame_of_a_vlan_that_the_host_is_not_in_is_no_knock() {
    let network = network(1);
    let _daemon = Daemon::start(&network.server, configuration());
    let tagged: Change = |packet| Packet { vlan: Some(5), ..packet };
    assert!(!opens(&network, &wire(&network), [198, 18, 0, 1].into(), tagged));
}

#[test]
fn real_knocks_open_during_a_flood_of_spoofed_ones() {
    let network = network(2);
    let server = &network.server;
    let mut configuration = configuration();
    configuration["log"] = json!({ "target": "stderr", "level": "info" });
    let daemon = Daemon::start(server, configuration);
    let before = (daemon.status("VmRSS"), daemon.log().len());
    let stop = AtomicBool::new(false);
    // First knocks of 300,000 sources, at 75,000 a second.
    let example = Packet::syn(([198, 18, 0, 0], 1).into(), at4(1000), 0);
    let flood = Flood { rate: Some(75_000), count: None, ..Flood::new(example, 300_000, 0) };
    let (flooding, knocking) = (network.clients[0].wire(server), network.clients[1].wire(server));
    let (flooding, knocking) = (flooding.expect("a packet socket"), knocking.expect("a packet socket"));
    let mut opened = 0;
    let sent = thread::scope(|scope| {
        let flood = scope.spawn(|| flood.run(&flooding, &stop).expect("the flood is sent"));
        // A failure in here must end the flood too, or the scope waits for ever.
        let end = EndOnDrop(&stop);
        let started = std::time::Instant::now();
        for number in 0..20_u8 {
            // Spread over the four seconds of the flood.
            let due = std::time::Duration::from_millis(200) * u32::from(number);
            wait_until("the time of the next knock", || started.elapsed() >= due);
            let source = IpAddr::from([10, 77, 0, 100 + number]);
            for packet in syns(source, &[1000, 2000]) {
                knocking.send(&packet).expect("a knock is sent");
            }
            wait_for_grant(server, source, ("tcp", 22));
            opened += 1;
        }
        drop(end);
        flood.join().expect("the flood")
    });
    assert_eq!(opened, 20);
    assert!(sent.packets > 20_000, "the flood was no flood: {sent:?}");
    let after = (daemon.status("VmRSS"), daemon.log().len());
    assert!(after.0 < before.0 + 64 * 1024, "memory grew from {} to {} KiB", before.0, after.0);
    // A line for each of the twenty grants, and some that sum up.
    assert!(after.1 < before.1 + 20 * 500, "the log grew with the flood:\n{}", daemon.log());
}

/// Ends a flood when it is dropped, and where a test fails.
pub(crate) struct EndOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn another_source_that_fails_in_a_loop_breaks_no_knock() {
    let network = network(2);
    let server = &network.server;
    let _daemon = Daemon::start(server, configuration());
    let stop = AtomicBool::new(false);
    let intruder = SocketAddr::from(([198, 18, 0, 1], 1));
    let flood =
        Flood { ports: vec![1000, 2001, 9200], count: None, ..Flood::new(Packet::syn(intruder, at4(1000), 0), 1, 0) };
    let flooding = network.clients[0].wire(server).expect("a packet socket");
    let knocking = network.clients[1].wire(server).expect("a packet socket");
    thread::scope(|scope| {
        let end = EndOnDrop(&stop);
        scope.spawn(|| flood.run(&flooding, &stop).expect("the flood is sent"));
        for number in 0..20 {
            let source = IpAddr::from([10, 77, 0, 100 + number]);
            for port in [1000, 2000] {
                knocking.send(&Packet::syn((source, 4000).into(), at(source, port), 7)).expect("a knock is sent");
            }
            wait_for_grant(server, source, ("tcp", 22));
        }
        drop(end);
    });
    assert_eq!(element(server, intruder.ip(), ("tcp", 22)), None);
}
