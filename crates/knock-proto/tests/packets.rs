//! What the parser believes of a packet, and what not.

use std::net::IpAddr;

use knock_proto::{Ignored, Knock, TcpFlags, parse, udp_payload};

const V4_SOURCE: [u8; 4] = [192, 0, 2, 7];
const V4_DESTINATION: [u8; 4] = [198, 51, 100, 1];

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a packet is not that long").to_be_bytes()
}

fn tcp(port: u16, flags: u8) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[0..2].copy_from_slice(&40_000_u16.to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[4..8].copy_from_slice(&0x0102_0304_u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    segment
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; 8];
    datagram[0..2].copy_from_slice(&40_000_u16.to_be_bytes());
    datagram[2..4].copy_from_slice(&port.to_be_bytes());
    datagram[4..6].copy_from_slice(&length(8 + payload.len()));
    datagram[6..8].copy_from_slice(&0xbeef_u16.to_be_bytes());
    datagram.extend_from_slice(payload);
    datagram
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length(20 + payload.len()));
    packet[4..6].copy_from_slice(&0xcafe_u16.to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&V4_SOURCE);
    packet[16..20].copy_from_slice(&V4_DESTINATION);
    packet.extend_from_slice(payload);
    packet
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&length(payload.len()));
    packet[6] = next_header;
    packet[7] = 64;
    packet[8..10].copy_from_slice(&[0x20, 0x01]);
    packet[23] = 7;
    packet[24..26].copy_from_slice(&[0x20, 0x01]);
    packet[39] = 1;
    packet.extend_from_slice(payload);
    packet
}

/// An extension header of `words` times 8 bytes.
fn extension(next_header: u8, words: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; usize::from(words) * 8];
    header[0] = next_header;
    header[1] = words - 1;
    header.extend_from_slice(payload);
    header
}

#[test]
fn a_syn_is_read() {
    let packet = parse(&ipv4(6, &tcp(7000, TcpFlags::SYN))).expect("a SYN");
    assert_eq!(packet.source, IpAddr::from(V4_SOURCE));
    assert_eq!(packet.destination, IpAddr::from(V4_DESTINATION));
    assert_eq!((packet.knock, packet.tcp_flags), (Knock::tcp(7000), TcpFlags::SYN));
    assert_eq!((packet.identity.source_port, packet.identity.number), (40_000, 0x0102_0304));
}

#[test]
fn a_datagram_is_read() {
    for payload in [&b""[..], b"x", &[0; 1000]] {
        let packet = parse(&ipv4(17, &udp(7000, payload))).expect("a datagram");
        assert_eq!((packet.knock, packet.tcp_flags), (Knock::udp(7000), 0));
        assert_eq!(packet.identity.number, 0xcafe_beef);
    }
}

#[test]
fn ipv6_is_read() {
    let packet = parse(&ipv6(6, &tcp(7000, TcpFlags::SYN))).expect("a SYN");
    assert_eq!(packet.source, "2001::7".parse::<IpAddr>().expect("an address"));
    assert_eq!(packet.destination, "2001::1".parse::<IpAddr>().expect("an address"));
    assert_eq!(packet.knock, Knock::tcp(7000));
}

#[test]
fn what_was_cut_off_behind_the_transport_header_is_not_missed() {
    let packet = ipv4(6, &[tcp(7000, TcpFlags::SYN), vec![0; 1000]].concat());
    assert!(parse(&packet[..40]).is_ok());
    assert_eq!(parse(&packet[..39]), Err(Ignored::Malformed));
}

#[test]
fn padding_of_the_link_is_not_part_of_the_packet() {
    let mut packet = ipv4(6, &tcp(7000, TcpFlags::SYN));
    packet.extend_from_slice(&[0; 6]);
    assert!(parse(&packet).is_ok());
    // The transport header would lie in the padding.
    packet[3] = 30;
    assert_eq!(parse(&packet), Err(Ignored::Malformed));
}

#[test]
fn ip_options_are_skipped() {
    let mut packet = ipv4(6, &[vec![1; 8], tcp(7000, TcpFlags::SYN)].concat());
    packet[0] = 0x47;
    assert_eq!(parse(&packet).map(|packet| packet.knock), Ok(Knock::tcp(7000)));
}

#[test]
fn contradictory_headers_are_malformed() {
    let good = ipv4(6, &tcp(7000, TcpFlags::SYN));
    for (offset, value, what) in [
        (0, 0x44, "header length below 5"),
        (0, 0x4f, "header longer than the packet"),
        (3, 19, "total length shorter than the header"),
        (3, 39, "total length shorter than the segment's header"),
        (32, 4 << 4, "data offset below 5"),
        (32, 15 << 4, "data offset behind the end"),
    ] {
        let mut packet = good.clone();
        packet[offset] = value;
        assert_eq!(parse(&packet), Err(Ignored::Malformed), "{what}");
    }
    let mut datagram = ipv4(17, &udp(7000, b"x"));
    for length in [0, 7, 10] {
        datagram[25] = length;
        assert_eq!(parse(&datagram), Err(Ignored::Malformed), "UDP length {length}");
    }
}

#[test]
fn every_truncation_is_ignored() {
    let chain = extension(43, 1, &extension(60, 2, &extension(44, 1, &tcp(7000, TcpFlags::SYN))));
    for packet in [ipv4(6, &tcp(7000, TcpFlags::SYN)), ipv4(17, &udp(7000, b"")), ipv6(0, &extension(60, 3, &chain))] {
        for length in 0..packet.len() {
            assert!(parse(&packet[..length]).is_err(), "{length} bytes");
        }
    }
}

#[test]
fn only_the_first_fragment_has_ports() {
    let mut packet = ipv4(6, &tcp(7000, TcpFlags::SYN));
    packet[6] = 0x20;
    assert!(parse(&packet).is_ok(), "the first of several");
    packet[7] = 3;
    assert_eq!(parse(&packet), Err(Ignored::Fragment));
    packet[6] = 0;
    assert_eq!(parse(&packet), Err(Ignored::Fragment), "the last of several");

    let mut fragment = extension(6, 1, &tcp(7000, TcpFlags::SYN));
    fragment[1] = 0;
    assert!(parse(&ipv6(44, &fragment)).is_ok());
    fragment[3] = 1;
    assert!(parse(&ipv6(44, &fragment)).is_ok(), "more fragments follow");
    fragment[3] = 8;
    assert_eq!(parse(&ipv6(44, &fragment)), Err(Ignored::Fragment));
}

#[test]
fn the_first_fragment_of_a_datagram_is_a_knock_though_the_datagram_is_longer_than_the_packet() {
    let mut datagram = udp(7000, b"the first bytes");
    datagram[4..6].copy_from_slice(&length(3000));
    let knock = |packet: &[u8]| parse(packet).map(|packet| packet.knock);
    let mut packet = ipv4(17, &datagram);
    assert_eq!(knock(&packet), Err(Ignored::Malformed), "a whole packet contradicts itself");
    packet[6] = 0x20;
    assert_eq!(knock(&packet), Ok(Knock::udp(7000)));
    packet[25] = 7;
    packet[24] = 0;
    assert_eq!(knock(&packet), Err(Ignored::Malformed), "no datagram is shorter than its header");

    let mut fragment = extension(17, 1, &datagram);
    fragment[1] = 0;
    assert_eq!(knock(&ipv6(44, &fragment)), Err(Ignored::Malformed), "no more fragments follow");
    fragment[3] = 1;
    assert_eq!(knock(&ipv6(44, &fragment)), Ok(Knock::udp(7000)));
}

#[test]
fn the_payload_of_a_whole_datagram_is_found() {
    let datagram = udp(62201, b"payload");
    let v4 = ipv4(17, &datagram);
    let v6 = ipv6(0, &extension(60, 1, &extension(17, 2, &datagram)));
    for packet in [&v4, &v6] {
        assert_eq!(udp_payload(packet), Some(&b"payload"[..]));
        // Padding of the link does not belong to it.
        assert_eq!(udp_payload(&[&packet[..], &[0; 9]].concat()), Some(&b"payload"[..]));
        for length in 0..packet.len() {
            assert_eq!(udp_payload(&packet[..length]), None, "{length} bytes were captured");
        }
    }
    // What follows the end that the UDP header names is not payload.
    let mut shorter = v4.clone();
    shorter[24..26].copy_from_slice(&length(8 + 3));
    assert_eq!(udp_payload(&shorter), Some(&b"pay"[..]));
    assert_eq!(udp_payload(&ipv4(17, &udp(62201, b""))), Some(&b""[..]));
    assert_eq!(udp_payload(&ipv4(6, &tcp(62201, TcpFlags::SYN))), None);
    assert_eq!(udp_payload(&[]), None);
}

#[test]
fn a_fragment_has_no_payload() {
    let mut v4 = ipv4(17, &udp(62201, b"payload"));
    // "Don't fragment" is no fragment.
    v4[6] = 0x40;
    assert!(udp_payload(&v4).is_some());
    v4[6] = 0x20;
    assert!(parse(&v4).is_ok(), "it has ports");
    assert_eq!(udp_payload(&v4), None);
    let mut v6 = ipv6(44, &extension(17, 1, &udp(62201, b"payload")));
    v6[41] = 0;
    // RFC 6946: a fragment header that says that there is one fragment.
    assert!(udp_payload(&v6).is_some());
    v6[43] = 1;
    assert!(parse(&v6).is_ok(), "it has ports");
    assert_eq!(udp_payload(&v6), None);
    v6[43] = 8;
    assert_eq!(udp_payload(&v6), None);
}

#[test]
fn extension_headers_are_followed() {
    let segment = tcp(7000, TcpFlags::SYN);
    for kind in [0, 43, 60] {
        let packet = ipv6(kind, &extension(6, 2, &segment));
        assert_eq!(parse(&packet).map(|packet| packet.knock), Ok(Knock::tcp(7000)), "header {kind}");
    }
    // The authentication header counts in words of 4 bytes.
    let mut authentication = extension(6, 3, &segment);
    authentication[1] = 4;
    assert_eq!(parse(&ipv6(51, &authentication)).map(|packet| packet.knock), Ok(Knock::tcp(7000)));
}

#[test]
fn a_packet_on_its_way_to_another_station_has_not_arrived() {
    let mut routing = extension(6, 1, &tcp(7000, TcpFlags::SYN));
    routing[3] = 1;
    assert_eq!(parse(&ipv6(43, &routing)), Err(Ignored::NotArrived));
}

#[test]
fn an_endless_chain_of_extension_headers_ends() {
    let mut chain = tcp(7000, TcpFlags::SYN);
    for length in 1..12 {
        chain = extension(if length == 1 { 6 } else { 60 }, 1, &chain);
        let expected = if length <= 8 { Ok(Knock::tcp(7000)) } else { Err(Ignored::ExtensionHeaders) };
        assert_eq!(parse(&ipv6(60, &chain)).map(|packet| packet.knock), expected, "{length} headers");
    }
}

#[test]
fn an_extension_header_longer_than_the_payload_is_malformed() {
    let mut packet = ipv6(0, &extension(6, 1, &tcp(7000, TcpFlags::SYN)));
    packet[41] = 200;
    assert_eq!(parse(&packet), Err(Ignored::Malformed));
    let mut packet = ipv6(0, &extension(6, 2, &tcp(7000, TcpFlags::SYN)));
    packet[5] = 12;
    assert_eq!(parse(&packet), Err(Ignored::Malformed), "the payload length ends inside the chain");
}

#[test]
fn impossible_sources_are_ignored() {
    for source in [[0, 0, 0, 0], [224, 0, 0, 1], [255, 255, 255, 255]] {
        let mut packet = ipv4(6, &tcp(7000, TcpFlags::SYN));
        packet[12..16].copy_from_slice(&source);
        assert_eq!(parse(&packet), Err(Ignored::ImpossibleSource), "{source:?}");
    }
    for source in ["::", "ff02::1", "::ffff:192.0.2.7"] {
        let mut packet = ipv6(6, &tcp(7000, TcpFlags::SYN));
        let address: std::net::Ipv6Addr = source.parse().expect("an address");
        packet[8..24].copy_from_slice(&address.octets());
        assert_eq!(parse(&packet), Err(Ignored::ImpossibleSource), "{source}");
    }
}

#[test]
fn other_protocols_and_versions_are_ignored() {
    for protocol in [1, 4, 41, 47, 50, 132, 255] {
        assert_eq!(parse(&ipv4(protocol, &[0; 40])), Err(Ignored::OtherProtocol), "{protocol}");
    }
    assert_eq!(parse(&ipv6(59, &[])), Err(Ignored::OtherProtocol), "no next header");
    for first in [0x00, 0x55, 0xf5] {
        assert_eq!(parse(&[first; 60]), Err(Ignored::NotIp));
    }
    assert_eq!(parse(&[]), Err(Ignored::NotIp));
}
