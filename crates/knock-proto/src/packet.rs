//! What an IP packet says to a port-knocking daemon: who, whereto, which port, which flags.
//!
//! The packet is an enemy until shown otherwise. Nothing is believed that the captured bytes do not hold, nothing
//! is allocated, and every loop is bounded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::{Knock, Protocol};

/// The most IPv6 extension headers that are followed. RFC 8200 (section 4.1) recommends at most eight in a packet.
const EXTENSION_HEADERS_MAX: usize = 8;

/// How long after a SYN its sender may retransmit it. With the default of six retries Linux does so until 63 seconds
/// after the first, or 67 (tcp(7), `tcp_syn_retries` and `tcp_syn_linear_timeouts`), and gives up at 127 or 131.
pub(crate) const RETRANSMITTED: Duration = Duration::from_secs(130);

/// How long after a datagram a second copy of it may be captured: nothing retransmits it.
const COPIED: Duration = Duration::from_secs(5);

/// A TCP segment or UDP datagram that may be a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The source address; never unspecified, multicast, broadcast or IPv4-mapped IPv6.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// The transport protocol and the destination port.
    pub knock: Knock,
    /// The TCP flags ([`crate::TcpFlags`]); 0 for UDP.
    pub tcp_flags: u8,
    /// What a duplicate of this packet has in common with it.
    pub identity: Identity,
}

/// What tells a packet from another one to the same port, and a retransmission from a second knock.
///
/// For TCP the source port and the sequence number. UDP has no retransmission, but the same datagram is captured
/// twice where it passes a bridge and its port: there the source port, the IPv4 identification and the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The source port.
    pub source_port: u16,
    /// The TCP sequence number, or the IPv4 identification (0 for IPv6) in the high 16 bits and the UDP checksum in the
    /// low ones.
    pub number: u32,
}

impl Identity {
    /// The part of the number that a sender changes from packet to packet. `None`: it is 0, which is what packets have
    /// that carry none: datagrams over IPv6, those over IPv4 that must not be fragmented (RFC 6864), and segments
    /// of programs that leave the sequence number out.
    pub(crate) fn serial(self, protocol: Protocol) -> Option<u32> {
        let serial = match protocol {
            Protocol::Tcp => self.number,
            Protocol::Udp => self.number >> 16,
        };
        (serial != 0).then_some(serial)
    }

    /// How long a second packet with this identity may be a copy of the first.
    pub(crate) fn lifetime(self, protocol: Protocol) -> Duration {
        match protocol {
            Protocol::Tcp => RETRANSMITTED,
            Protocol::Udp => COPIED,
        }
    }
}

/// Why a packet is no knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// A header says that there is more, or less, than there is.
    Malformed,
    /// A fragment that does not begin the packet: it has no ports.
    Fragment,
    /// Neither TCP nor UDP.
    OtherProtocol,
    /// No host can have that source address.
    ImpossibleSource,
    /// More IPv6 extension headers than are followed.
    ExtensionHeaders,
    /// An IPv6 routing header names further stations: the packet is not at its destination.
    NotArrived,
}

/// Reads an IP packet that begins with its IP header (RFC 791, RFC 8200).
///
/// `bytes` may be cut off behind the first bytes of the transport header, as a capture with a snap length does.
///
/// # Errors
///
/// The reason why the packet can't be a knock.
pub fn parse(bytes: &[u8]) -> Result<Packet, Ignored> {
    segment(bytes)?.parse()
}

/// The payload of a UDP datagram in an IP packet (RFC 768). `None`: it is not one that [`parse`] accepts, or a part of its
/// payload is not there: it was cut off, or is in another fragment.
pub fn udp_payload(bytes: &[u8]) -> Option<&[u8]> {
    let segment = segment(bytes).ok().filter(|segment| segment.protocol == Protocol::Udp && !segment.is_fragment)?;
    segment.parse().ok()?;
    segment.bytes.get(8..usize::from(u16_at(segment.bytes, 4)))
}

/// A TCP segment or UDP datagram, with what its IP header says.
struct Segment<'b> {
    protocol: Protocol,
    /// What was captured of it.
    bytes: &'b [u8],
    /// How long the IP header says that it is.
    length: usize,
    /// The identification of an IPv4 packet.
    identification: u16,
    source: IpAddr,
    destination: IpAddr,
    /// More fragments follow, so it is longer than the packet.
    is_fragment: bool,
}

fn segment(bytes: &[u8]) -> Result<Segment<'_>, Ignored> {
    match bytes.first().map(|byte| byte >> 4) {
        Some(4) => segment_ipv4(bytes),
        Some(6) => segment_ipv6(bytes),
        _ => Err(Ignored::NotIp),
    }
}

fn segment_ipv4(bytes: &[u8]) -> Result<Segment<'_>, Ignored> {
    let header: &[u8; 20] = bytes.first_chunk().ok_or(Ignored::Malformed)?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    let total_length = usize::from(u16_at(header, 2));
    if header_length < 20 || total_length < header_length {
        return Err(Ignored::Malformed);
    }
    if u16_at(header, 6) & 0x1fff != 0 {
        return Err(Ignored::Fragment);
    }
    let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
    let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    if source.is_unspecified() || source.is_multicast() || source.is_broadcast() {
        return Err(Ignored::ImpossibleSource);
    }
    let protocol = Protocol::from_number(header[9]).ok_or(Ignored::OtherProtocol)?;
    let transport = bytes.get(header_length..).ok_or(Ignored::Malformed)?;
    let length = total_length - header_length;
    Ok(Segment {
        protocol,
        // What lies behind the end that the IP header names is link padding, not transport header.
        bytes: &transport[..transport.len().min(length)],
        length,
        identification: u16_at(header, 4),
        source: source.into(),
        destination: destination.into(),
        // The flag "more fragments".
        is_fragment: header[6] & 0x20 != 0,
    })
}

fn segment_ipv6(bytes: &[u8]) -> Result<Segment<'_>, Ignored> {
    let header: &[u8; 40] = bytes.first_chunk().ok_or(Ignored::Malformed)?;
    let source = ipv6_at(header, 8);
    let destination = ipv6_at(header, 24);
    if source.is_unspecified() || source.is_multicast() || source.to_ipv4_mapped().is_some() {
        return Err(Ignored::ImpossibleSource);
    }
    let mut left = usize::from(u16_at(header, 4));
    let mut rest = &bytes[40..];
    let mut next_header = header[6];
    let mut is_fragment = false;
    for _ in 0..=EXTENSION_HEADERS_MAX {
        let length = match next_header {
            43 if *rest.get(3).ok_or(Ignored::Malformed)? != 0 => return Err(Ignored::NotArrived),
            // Hop-by-hop options, routing, destination options: the length in 8 bytes, without the first 8.
            0 | 43 | 60 => (usize::from(*rest.get(1).ok_or(Ignored::Malformed)?) + 1) * 8,
            // Fragment: only the first one has the transport header.
            44 => {
                let fragment: &[u8; 8] = rest.first_chunk().ok_or(Ignored::Malformed)?;
                if u16_at(fragment, 2) & 0xfff8 != 0 {
                    return Err(Ignored::Fragment);
                }
                is_fragment |= fragment[3] & 1 != 0;
                8
            }
            // The authentication header (RFC 4302): the length in 4 bytes, without the first 8.
            51 => (usize::from(*rest.get(1).ok_or(Ignored::Malformed)?) + 2) * 4,
            number => {
                return Ok(Segment {
                    protocol: Protocol::from_number(number).ok_or(Ignored::OtherProtocol)?,
                    bytes: &rest[..rest.len().min(left)],
                    length: left,
                    identification: 0,
                    source: source.into(),
                    destination: destination.into(),
                    is_fragment,
                });
            }
        };
        next_header = *rest.first().ok_or(Ignored::Malformed)?;
        rest = rest.get(length..).ok_or(Ignored::Malformed)?;
        left = left.checked_sub(length).ok_or(Ignored::Malformed)?;
    }
    Err(Ignored::ExtensionHeaders)
}

impl Segment<'_> {
    fn parse(&self) -> Result<Packet, Ignored> {
        let bytes = self.bytes;
        let (tcp_flags, number) = match self.protocol {
            Protocol::Tcp => {
                let header: &[u8; 20] = bytes.first_chunk().ok_or(Ignored::Malformed)?;
                let header_length = usize::from(header[12] >> 4) * 4;
                if header_length < 20 || header_length > self.length {
                    return Err(Ignored::Malformed);
                }
                (header[13], u32::from_be_bytes([header[4], header[5], header[6], header[7]]))
            }
            Protocol::Udp => {
                let header: &[u8; 8] = bytes.first_chunk().ok_or(Ignored::Malformed)?;
                let udp_length = usize::from(u16_at(header, 4));
                if udp_length < 8 || (udp_length > self.length && !self.is_fragment) {
                    return Err(Ignored::Malformed);
                }
                (0, u32::from(self.identification) << 16 | u32::from(u16_at(header, 6)))
            }
        };
        Ok(Packet {
            source: self.source,
            destination: self.destination,
            knock: Knock { protocol: self.protocol, port: u16_at(bytes, 2) },
            tcp_flags,
            identity: Identity { source_port: u16_at(bytes, 0), number },
        })
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}

fn ipv6_at(header: &[u8; 40], offset: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[offset..offset + 16]);
    octets.into()
}
