//! First packets in pieces: what hides its port from the gate does not pass it.

mod shapes;

use std::net::{IpAddr, SocketAddr};

use knock_testkit::{Network, Packet, Wire};
use serde_json::json;

use self::shapes::{Shape, pieces, shapes_v4, shapes_v6};
use crate::support::{Arrivals, Daemon, at, knock, network, wait_for_grant, wire};

/// Guarded in the tests, and with an empty port beside it that is not.
const GUARDED_TCP: u16 = 22;
const OTHER_TCP: u16 = 24;
const GUARDED_UDP: u16 = 53;
const OTHER_UDP: u16 = 55;

/// The source port of the first shape.
const FIRST_SOURCE_PORT: u16 = 1024;
/// The source port of the packet behind all others.
const LAST: u16 = 1023;

/// A namespace whose arrivals are watched, and the wire to it.
struct Range {
    network: Network,
    wire: Wire,
    arrivals: Arrivals,
    next_id: u32,
}

impl Range {
    fn new() -> Range {
        let network = network(1);
        let (wire, arrivals) = (wire(&network), Arrivals::watch(&network.server.namespace));
        let range = Range { network, wire, arrivals, next_id: 1 };
        range.make_room_for("ipv4/ipfrag");
        range.make_room_for("ipv6/ip6frag");
        range
    }

    /// First fragments that are dropped leave the others waiting for them, thousands in this test.
    fn make_room_for(&self, fragments: &str) {
        let server = &self.network.server.namespace;
        server.sysctl(&format!("{fragments}_high_thresh"), "268435456").expect("room for fragments");
    }

    /// Sends a packet in each of these shapes, from source ports that differ, and says which of them arrived.
    fn arrived(
        &mut self,
        make: fn(SocketAddr, SocketAddr) -> Packet,
        to: SocketAddr,
        from: IpAddr,
        shapes: &[Shape],
    ) -> Vec<bool> {
        let source = |number: usize| {
            let number = u16::try_from(number).expect("fewer shapes than ports");
            SocketAddr::new(from, FIRST_SOURCE_PORT + number)
        };
        let mut frame_header = self.network.server.mac.0.to_vec();
        frame_header.extend(self.network.client().mac.0);
        frame_header.extend(if to.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        for (number, shape) in shapes.iter().enumerate() {
            let packet = make(source(number), to);
            let frames: Vec<Vec<u8>> = pieces(&packet, shape, self.next_id)
                .into_iter()
                .map(|packet| frame_header.iter().copied().chain(packet).collect())
                .collect();
            self.next_id += 1;
            self.wire.send_frames(&frames).expect("sent");
            if number % 64 == 0 {
                self.arrivals.look();
            }
        }
        let fence = SocketAddr::new(to.ip(), u16::try_from(self.next_id).expect("few calls"));
        self.arrivals.wait_for_all(&self.wire, SocketAddr::new(from, LAST), fence);
        (0..shapes.len()).map(|number| self.arrivals.has(source(number), to.port())).collect()
    }
}

fn syn(source: SocketAddr, destination: SocketAddr) -> Packet {
    // Linux asks a first fragment for the whole header of TCP, unless an extension header fills it.
    Packet { payload: vec![0; 12], ..Packet::syn(source, destination, 1) }
}

fn datagram(source: SocketAddr, destination: SocketAddr) -> Packet {
    Packet { payload: vec![0; 12], ..Packet::udp(source, destination) }
}

#[test]
fn no_shape_of_fragments_brings_a_packet_to_a_guarded_port_without_a_grant() {
    for guards_udp in [false, true] {
        let mut range = Range::new();
        let stranger4: IpAddr = [198, 18, 0, 7].into();
        let stranger6: IpAddr = [0xfd88, 0, 0, 0, 0, 0, 0, 7].into();
        let friend: [IpAddr; 2] = [range.network.client().v4.into(), range.network.client().v6.into()];
        let mut cases = vec![
            (syn as fn(_, _) -> _, GUARDED_TCP, OTHER_TCP, stranger4, friend[0], shapes_v4(32)),
            (syn, GUARDED_TCP, OTHER_TCP, stranger6, friend[1], shapes_v6(32)),
        ];
        let mut ports = vec![json!(GUARDED_TCP)];
        if guards_udp {
            // Connection tracking, which puts fragments together before the gate, and has its own view of which are good.
            let tracking = "table inet tracking { chain c { type filter hook input priority 0; ct state new; }; }";
            range.network.server.namespace.nft(tracking).expect("connection tracking");
            range.make_room_for("netfilter/nf_conntrack_frag6");
            ports.push(json!(format!("{GUARDED_UDP}/udp")));
            cases.push((datagram, GUARDED_UDP, OTHER_UDP, stranger4, friend[0], shapes_v4(20)));
            cases.push((datagram, GUARDED_UDP, OTHER_UDP, stranger6, friend[1], shapes_v6(20)));
        }
        let before: Vec<Vec<bool>> = cases
            .iter()
            .map(|(make, guarded, _, stranger, _, shapes)| {
                range.arrived(*make, at(*stranger, *guarded), *stranger, shapes)
            })
            .collect();
        for ((.., shapes), before) in cases.iter().zip(&before) {
            let hidden = (0..shapes.len()).filter(|&number| before[number] && !shapes[number].shows_ports()).count();
            let shown = before.iter().filter(|arrived| **arrived).count() - hidden;
            eprintln!(
                "{} shapes; without a gate, {shown} that show ports arrive and {hidden} that do not",
                shapes.len()
            );
            assert!(shown > 4 && hidden > 4, "the shapes are good for something");
        }

        // The ports of the arrivals above count for nothing from here on.
        range.arrivals = Arrivals::watch(&range.network.server.namespace);
        let rule = json!({ "name": "a", "sequence": [7000, 8000], "allow": { "ports": ports, "timeout": "1h" } });
        let _daemon = Daemon::start(&range.network.server, json!({ "rules": [rule] }));
        for address in friend {
            knock(&range.wire, address, &[7000, 8000]);
            wait_for_grant(&range.network.server, address, ("tcp", GUARDED_TCP));
        }
        for ((make, guarded, other, stranger, friend, shapes), before) in cases.iter().zip(&before) {
            let (make, stranger, friend) = (*make, *stranger, *friend);
            let passed = range.arrived(make, at(stranger, *guarded), stranger, shapes);
            let wrong: Vec<&Shape> =
                shapes.iter().zip(&passed).filter(|(_, passed)| **passed).map(|(shape, _)| shape).collect();
            assert!(wrong.is_empty(), "without a grant, {} shapes arrived at {guarded}: {wrong:?}", wrong.len());
            let passed = range.arrived(make, at(stranger, *other), stranger, shapes);
            let kept = range.arrived(make, at(friend, *guarded), friend, shapes);
            let shown = || (0..shapes.len()).filter(|&number| before[number] && shapes[number].shows_ports());
            let lost =
                |arrived: &[bool]| shown().filter(|&number| !arrived[number]).map(|number| &shapes[number]).collect();
            let lost: [Vec<&Shape>; 2] = [lost(&passed), lost(&kept)];
            assert!(
                lost[0].is_empty(),
                "{} shapes do not arrive at a port that is not guarded: {lost:?}",
                lost[0].len()
            );
            assert!(lost[1].is_empty(), "{} shapes do not arrive in spite of a grant: {lost:?}", lost[1].len());
        }
    }
}
