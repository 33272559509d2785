//! The packet socket with real packets, each test in a network namespace of its own.

mod netns;

use std::net::{TcpListener, TcpStream, UdpSocket};

use knock_capture::{Capture, Error, FilterClass, FilterSpec, Program};
use knock_proto::{Knock, TcpFlags};
use netns::{
    NEAR, Sender, destination_port, frame, in_namespace, index_of, ip, ipv4, ipv6, ports_until, receive, tcp, udp, veth,
};

/// The last knock of a test: what was sent before it has arrived when it arrives.
const SENTINEL: u16 = 9999;

fn program(ports: &[Knock]) -> Program {
    let mut ports = ports.to_vec();
    ports.push(Knock::tcp(SENTINEL));
    let spec = FilterSpec { classes: vec![FilterClass { tcp_flags: TcpFlags::FIRST_PACKET, ports }] };
    Program::new(&spec).expect("a short program")
}

fn capture(ports: &[Knock], interface: &str) -> Capture {
    let mut capture = Capture::open(&program(ports)).expect("a packet socket");
    capture.bind(if interface == "any" { 0 } else { index_of(interface) }).expect("bound");
    capture
}

#[test]
fn only_knocks_wake_the_socket() {
    in_namespace(|| {
        veth("near", "far");
        let mut capture = capture(&[Knock::tcp(1000), Knock::udp(2000)], "near");
        let sender = Sender::new("far");
        for port in 990..1010 {
            sender.send(&frame(NEAR, None, &ipv4(6, &tcp(port, TcpFlags::SYN))));
            sender.send(&frame(NEAR, None, &ipv4(6, &tcp(port, TcpFlags::ACK))));
            sender.send(&frame(NEAR, None, &ipv4(17, &udp(port, b"x"))));
            sender.send(&frame(NEAR, None, &ipv6(6, &tcp(port, TcpFlags::SYN))));
        }
        sender.send(&frame(NEAR, None, &ipv4(17, &udp(2000, b"x"))));
        sender.knock(SENTINEL);
        assert_eq!(ports_until(&mut capture, SENTINEL), [1000, 1000, 2000]);
        assert_eq!(capture.statistics().expect("statistics").received, 4);
    });
}
