//! What the packet socket delivers, with real packets, each test in a network namespace of its own.

mod netns;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use knock_capture::filter::TRANSPORT_BYTES;
use knock_capture::{Capture, FilterClass, FilterSpec};
use knock_proto::{Knock, TcpFlags};
use knock_testkit::{in_namespace, wait_until};
use netns::{
    FAR, NEAR, SENTINEL, Sender, capture, frame, ip, ipv4, ipv6, ports_until, program, ready, receive, sysctl, tcp,
    udp, veth,
};

#[test]
fn only_knocks_wake_the_socket() {
    in_namespace(|| {
        veth("near", "far");
        let mut capture = capture(&[Knock::tcp(1000), Knock::udp(2000)], "near");
        let sender = Sender::new("far");
        for port in 990..1010 {
            sender.send(&frame(NEAR, None, &ipv4(6, &tcp(port, TcpFlags::ACK))));
            sender.send(&frame(NEAR, None, &ipv4(17, &udp(port, b"x"))));
            if port != 1000 {
                sender.send(&frame(NEAR, None, &ipv4(6, &tcp(port, TcpFlags::SYN))));
                sender.send(&frame(NEAR, None, &ipv6(6, &tcp(port, TcpFlags::SYN))));
            }
        }
        // A knock by flags, protocol and port, in frames that are not for this host's stack.
        let mut arp = frame(NEAR, None, &ipv4(6, &tcp(1000, TcpFlags::SYN)));
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        sender.send(&arp);
        assert!(!ready(&capture, Duration::from_millis(200)));

        sender.send(&frame(NEAR, None, &ipv4(6, &tcp(1000, TcpFlags::SYN))));
        sender.send(&frame(NEAR, None, &ipv6(6, &tcp(1000, TcpFlags::SYN))));
        sender.send(&frame(NEAR, None, &ipv4(17, &udp(2000, b"x"))));
        sender.knock(SENTINEL);
        assert_eq!(ports_until(&mut capture, SENTINEL), [1000, 1000, 2000]);
        assert!(!ready(&capture, Duration::ZERO));
        assert!(matches!(capture.next(), Ok(None)));
        assert_eq!(capture.statistics().expect("statistics").received, 4);
    });
}

#[test]
fn nothing_is_received_before_the_socket_is_bound() {
    in_namespace(|| {
        veth("near", "far");
        let mut capture = Capture::open(&program(&[Knock::tcp(1000)])).expect("a packet socket");
        let sender = Sender::new("far");
        sender.knock(1000);
        assert!(!ready(&capture, Duration::from_millis(100)));
        assert!(matches!(capture.next(), Ok(None)));
        capture.bind(0).expect("bound");
        sender.knock(SENTINEL);
        assert_eq!(ports_until(&mut capture, SENTINEL), []);
    });
}

#[test]
fn our_own_knocks_and_those_of_other_stations_are_not_delivered() {
    in_namespace(|| {
        veth("near", "far");
        // A promiscuous interface shows the frames of others to every packet socket.
        ip("link set near promisc on");
        let mut capture = capture(&[Knock::tcp(1000)], "near");
        let outgoing = Sender::new("near");
        outgoing.send(&frame(FAR, None, &ipv4(6, &tcp(1000, TcpFlags::SYN))));
        let sender = Sender::new("far");
        sender.send(&frame([2, 0, 0, 0, 0, 9], None, &ipv4(6, &tcp(1000, TcpFlags::SYN))));
        sender.send(&frame([0xff; 6], None, &ipv4(6, &tcp(1000, TcpFlags::SYN))));
        sender.knock(SENTINEL);
        assert_eq!(ports_until(&mut capture, SENTINEL), []);
        assert_eq!(capture.statistics().expect("statistics").received, 1);
    });
}

#[test]
fn binding_does_not_make_the_interface_promiscuous() {
    in_namespace(|| {
        veth("near", "far");
        let _capture = capture(&[Knock::tcp(1000)], "near");
        let shown = netns::shown("near");
        assert!(shown.contains("promiscuity 0"), "{shown}");
    });
}

#[test]
fn a_knock_over_loopback_comes_once() {
    in_namespace(|| {
        let mut capture = capture(&[Knock::tcp(1000), Knock::udp(2000)], "any");
        let refused = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], 1000))).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        socket.send_to(b"knock", "127.0.0.1:2000").expect("sent");
        TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], SENTINEL))).expect_err("nobody listens");
        assert_eq!(ports_until(&mut capture, SENTINEL), [1000, 2000]);
    });
}

#[test]
fn a_packet_starts_at_its_ip_header_on_a_tun_device_too() {
    in_namespace(|| {
        let mut tun = netns::tun("tun7");
        ip("address add 10.7.0.1/24 dev tun7");
        ip("link set tun7 up");
        let mut capture = capture(&[Knock::tcp(1000)], "tun7");
        let knock = ipv4(6, &tcp(1000, TcpFlags::SYN));
        tun.write_all(&ipv4(6, &tcp(1001, TcpFlags::SYN))).expect("written");
        tun.write_all(&knock).expect("written");
        assert_eq!(receive(&mut capture), knock);
    });
}

#[test]
fn a_knock_in_a_vlan_is_left_to_the_interface_of_the_vlan() {
    in_namespace(|| {
        veth("near", "far");
        let mut capture = capture(&[Knock::tcp(1000), Knock::tcp(1001)], "near");
        let sender = Sender::new("far");
        sender.send(&frame(NEAR, Some(5), &ipv4(6, &tcp(1000, TcpFlags::SYN))));
        // Only a priority: the kernel takes it as untagged, on this interface.
        sender.send(&frame(NEAR, Some(0x6000), &ipv4(6, &tcp(1001, TcpFlags::SYN))));
        sender.knock(SENTINEL);
        assert_eq!(ports_until(&mut capture, SENTINEL), [1001]);
    });
}

#[test]
fn knocks_behind_ipv6_extension_headers_are_delivered_and_other_protocols_there_are_not() {
    in_namespace(|| {
        veth("near", "far");
        let mut capture = capture(&[Knock::tcp(1000)], "near");
        let sender = Sender::new("far");
        let knock = tcp(1000, TcpFlags::SYN);
        let behind = |kinds: &[u8], last: u8| {
            let mut payload = knock.clone();
            let mut next = last;
            for &kind in kinds.iter().rev() {
                let mut header = vec![next, 0, 0, 0, 0, 0, 0, 0];
                header.append(&mut payload);
                (payload, next) = (header, kind);
            }
            ipv6(next, &payload)
        };
        for chain in [&[0u8][..], &[44], &[0, 60, 43, 44]] {
            sender.send(&frame(NEAR, None, &behind(chain, 58)));
            let packet = behind(chain, 6);
            sender.send(&frame(NEAR, None, &packet));
            assert_eq!(receive(&mut capture), packet);
        }
        // Longer chains are for the parser to judge.
        let packet = behind(&[0, 60, 60, 60, 60, 60], 6);
        sender.send(&frame(NEAR, None, &packet));
        assert_eq!(receive(&mut capture), packet);
    });
}

#[test]
fn payload_after_the_headers_is_cut() {
    in_namespace(|| {
        veth("near", "far");
        let mut capture = capture(&[Knock::udp(2000)], "near");
        let sender = Sender::new("far");
        sender.send(&frame(NEAR, None, &ipv4(17, &udp(2000, &[7; 50]))));
        sender.send(&frame(NEAR, None, &ipv4(17, &udp(2000, &[7; 1000]))));
        assert_eq!(receive(&mut capture).len(), 20 + 8 + 50);
        assert_eq!(receive(&mut capture).len(), 20 + usize::try_from(TRANSPORT_BYTES).expect("small"));
    });
}

#[test]
fn a_new_filter_takes_the_place_of_the_old_one_on_the_live_socket() {
    in_namespace(|| {
        veth("near", "far");
        let mut capture = capture(&[Knock::tcp(1000)], "near");
        let sender = Sender::new("far");
        sender.knock(1000);
        sender.knock(2000);
        sender.knock(SENTINEL);
        assert_eq!(ports_until(&mut capture, SENTINEL), [1000]);
        capture.set_filter(&program(&[Knock::tcp(2000)])).expect("a new filter");
        sender.knock(1000);
        sender.knock(2000);
        sender.knock(SENTINEL);
        assert_eq!(ports_until(&mut capture, SENTINEL), [2000]);
    });
}

#[test]
fn a_filter_that_the_kernel_has_no_memory_for_is_made_coarse() {
    in_namespace(|| {
        veth("near", "far");
        // The limit of kernels before 6.7, which Debian 12 has.
        sysctl("net/core/optmem_max", "20480");
        let scattered = |ports: u16| -> Vec<Knock> { (0..ports).map(|at| Knock::tcp(1000 + at * 30)).collect() };
        let mut capture = capture(&scattered(1800), "near");
        assert!(capture.coarse());
        let sender = Sender::new("far");
        // 450 ports fit once, but not twice; nor do they fit beside the coarse program before them.
        for (ports, coarse) in [(1800, true), (450, false), (450, false), (1800, true), (5, false)] {
            let program = program(&scattered(ports));
            assert!(!program.coarse());
            capture.set_filter(&program).expect("a filter");
            assert_eq!(capture.coarse(), coarse, "{ports} ports");
            sender.knock(1000 + 30 * (ports - 1));
            sender.knock(500);
            sender.knock(SENTINEL);
            assert_eq!(ports_until(&mut capture, SENTINEL), [1000 + 30 * (ports - 1)]);
        }
    });
}

#[test]
fn packets_that_a_full_queue_drops_are_counted() {
    in_namespace(|| {
        veth("near", "far");
        let mut capture = capture(&[Knock::tcp(1000)], "near");
        rustix::net::sockopt::set_socket_recv_buffer_size(&capture, 16 << 10).expect("a short queue");
        let sender = Sender::new("far");
        for _ in 0..500 {
            sender.knock(1000);
        }
        // The receiving softirq may still be at work.
        let total = wait_until("all are accounted for", || {
            let total = capture.statistics().expect("statistics");
            (total.received + total.dropped >= 500).then_some(total)
        });
        let mut delivered = 0;
        while let Ok(Some(_)) = capture.next() {
            delivered += 1;
        }
        assert_eq!((total.received, total.dropped), (delivered, 500 - delivered));
        assert!(delivered > 0 && total.dropped > 0, "{total:?}");
        assert_eq!(capture.statistics().expect("statistics"), total, "the counts go on from where they were");
    });
}

#[test]
fn tcp_flags_are_those_of_the_class_and_udp_needs_none() {
    in_namespace(|| {
        veth("near", "far");
        let fin = TcpFlags { set: TcpFlags::FIN, clear: TcpFlags::SYN };
        let spec = FilterSpec {
            classes: vec![
                FilterClass { tcp_flags: fin, ports: vec![Knock::tcp(1000), Knock::udp(3000)] },
                FilterClass { tcp_flags: TcpFlags::FIRST_PACKET, ports: vec![Knock::tcp(2000), Knock::tcp(SENTINEL)] },
            ],
            interfaces: None,
            whole: None,
        };
        let program = knock_capture::Program::new(&spec);
        let mut capture = Capture::open(&program).expect("a packet socket");
        capture.bind(0).expect("bound");
        let sender = Sender::new("far");
        for flags in [TcpFlags::SYN, TcpFlags::FIN, TcpFlags::SYN | TcpFlags::FIN, TcpFlags::ACK] {
            for port in [1000, 2000, 3000] {
                sender.send(&frame(NEAR, None, &ipv4(6, &tcp(port, flags))));
            }
        }
        sender.send(&frame(NEAR, None, &ipv4(17, &udp(3000, b""))));
        sender.knock(SENTINEL);
        assert_eq!(ports_until(&mut capture, SENTINEL), [2000, 1000, 3000]);
    });
}
