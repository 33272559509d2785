//! The parser believes nothing that the bytes do not hold, and nothing that is not its business.

use std::net::IpAddr;

use knock_proto::{Ignored, Packet, Protocol, parse};

/// Checks [`knock_proto::parse`] with these bytes of an IP packet.
///
/// # Panics
///
/// Where what it says of them does not agree with them.
pub fn packet(bytes: &[u8]) {
    match parse(bytes) {
        Ok(packet) => accepted(bytes, &packet),
        Err(reason) => ignored(bytes, reason),
    }
}

fn accepted(bytes: &[u8], packet: &Packet) {
    let (start, length) = transport(bytes, packet);
    let header = match packet.knock.protocol {
        Protocol::Tcp => 20,
        Protocol::Udp => 8,
    };
    let end = start + header;
    assert!(length >= header, "the IP header says that there are {length} bytes of {}", packet.knock.protocol);

    // Whatever follows the header that ports and flags are read from changes nothing, and nothing less is enough.
    assert_eq!(parse(&bytes[..end]), Ok(*packet), "cut off behind the transport header");
    let mut other = bytes.to_vec();
    other[end..].iter_mut().for_each(|byte| *byte = !*byte);
    other.extend_from_slice(&[0xa5; 64]);
    assert_eq!(parse(&other), Ok(*packet), "other bytes behind the transport header");
    for cut in 0..end {
        assert!(parse(&bytes[..cut]).is_err(), "{cut} of {end} bytes were enough");
    }

    let transport = &bytes[start..end];
    let u16_at = |offset: usize| u16::from_be_bytes([transport[offset], transport[offset + 1]]);
    assert_eq!(packet.identity.source_port, u16_at(0));
    assert_eq!(packet.knock.port, u16_at(2));
    match packet.knock.protocol {
        Protocol::Tcp => {
            assert_eq!(packet.tcp_flags, transport[13]);
            assert_eq!(packet.identity.number.to_be_bytes(), transport[4..8]);
            let header_length = usize::from(transport[12] >> 4) * 4;
            assert!((20..=length).contains(&header_length), "the TCP header has {header_length} of {length} bytes");
        }
        Protocol::Udp => {
            assert_eq!(packet.tcp_flags, 0);
            assert_eq!(packet.identity.number & 0xffff, u32::from(u16_at(6)));
            assert!((8..=length).contains(&usize::from(u16_at(4))), "the UDP length is {} of {length}", u16_at(4));
        }
    }
}

/// Where the transport header begins, and how much there is from there on as the IP header says; checks what stands
/// before it.
fn transport(bytes: &[u8], packet: &Packet) -> (usize, usize) {
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            assert_eq!(bytes[0] >> 4, 4);
            assert_eq!(source.octets(), bytes[12..16]);
            assert_eq!(destination.octets(), bytes[16..20]);
            assert!(!source.is_unspecified() && !source.is_multicast() && !source.is_broadcast(), "{source}");
            assert_eq!(packet.knock.protocol.number(), bytes[9]);
            assert_eq!((bytes[6] & 0x1f, bytes[7]), (0, 0), "a fragment that does not begin the packet");
            let start = usize::from(bytes[0] & 0x0f) * 4;
            let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            assert!(start >= 20 && total >= start, "header length {start}, total length {total}");
            (start, total - start)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            assert_eq!(bytes[0] >> 4, 6);
            assert_eq!(source.octets(), bytes[8..24]);
            assert_eq!(destination.octets(), bytes[24..40]);
            assert!(!source.is_unspecified() && !source.is_multicast(), "{source}");
            assert_eq!(source.to_ipv4_mapped(), None);
            let start = behind_extension_headers(bytes, packet.knock.protocol.number());
            let end = 40 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
            assert!(end >= start, "the payload ends at {end}, in the extension headers up to {start}");
            (start, end - start)
        }
        (source, destination) => panic!("{source} sends to {destination}"),
    }
}

/// Where the header with that number begins: RFC 8200, section 4.
fn behind_extension_headers(bytes: &[u8], number: u8) -> usize {
    let (mut next, mut at) = (bytes[6], 40);
    for _ in 0..=8 {
        let length = usize::from(bytes[at + 1]);
        let header = match next {
            _ if next == number => return at,
            43 => {
                assert_eq!(bytes[at + 3], 0, "a routing header with segments left");
                8 * (length + 1)
            }
            0 | 60 => 8 * (length + 1),
            44 => {
                assert_eq!((bytes[at + 2], bytes[at + 3] & 0xf8), (0, 0), "a fragment that does not begin the packet");
                8
            }
            51 => 4 * (length + 2),
            other => panic!("{other} is no extension header that is followed"),
        };
        (next, at) = (bytes[at], at + header);
    }
    panic!("more extension headers than are followed")
}

/// A reason that is not the want of bytes stays the reason when more bytes follow.
fn ignored(bytes: &[u8], reason: Ignored) {
    if reason != Ignored::Malformed && !bytes.is_empty() {
        let longer = [bytes, &[0; 64]].concat();
        assert_eq!(parse(&longer), Err(reason), "with more bytes behind");
    }
}
