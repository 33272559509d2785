//! IP packets from a description, the malformed ones too.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// TCP's flag bits (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag: a NULL scan's segment.
    pub const NONE: Flags = Flags(0);
    /// FIN.
    pub const FIN: Flags = Flags(0x01);
    /// SYN.
    pub const SYN: Flags = Flags(0x02);
    /// RST.
    pub const RST: Flags = Flags(0x04);
    /// PSH.
    pub const PSH: Flags = Flags(0x08);
    /// ACK.
    pub const ACK: Flags = Flags(0x10);
    /// URG.
    pub const URG: Flags = Flags(0x20);

    /// Whether all of `other` are set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// What the IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment.
    Tcp {
        /// Its flags.
        flags: Flags,
        /// Its sequence number.
        sequence: u32,
        /// Its acknowledgment number.
        acknowledgment: u32,
    },
    /// A UDP datagram.
    Udp,
}

/// A place in a fragmented packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// In units of eight bytes, 0 to 8191.
    pub offset: u16,
    /// Whether more follow.
    pub more: bool,
    /// What the fragments of one packet share.
    pub id: u32,
}

/// An IP packet. The fields that are `None` or empty after [`Packet::tcp`] and [`Packet::udp`] make it irregular:
/// `Packet { total_length: Some(12), ..Packet::syn(source, destination) }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The source address and port.
    pub source: SocketAddr,
    /// The destination address and port, of the same family as the source.
    pub destination: SocketAddr,
    /// TCP or UDP.
    pub transport: Transport,
    /// What follows the transport header.
    pub payload: Vec<u8>,
    /// Makes it a fragment. The transport header is sent whatever the offset.
    pub fragment: Option<Fragment>,
    /// IPv4: the header length in 32-bit words, in place of the right one, 5.
    pub header_words: Option<u8>,
    /// IPv4: the total length; IPv6: the payload length; in place of the right one.
    pub total_length: Option<u16>,
    /// TCP: the header length in 32-bit words, in place of the right one, 5.
    pub data_offset: Option<u8>,
    /// IPv6: extension headers of eight bytes before the transport header: 0 hop-by-hop options, 43 routing (of an
    /// unknown type, no segments left), 60 destination options.
    pub extensions: Vec<u8>,
    /// Cut off after that many bytes.
    pub truncate: Option<usize>,
    /// The tag of a VLAN (IEEE 802.1Q), 0 to 4095, before the packet on the link.
    pub vlan: Option<u16>,
    /// The time to live or hop limit, 64 at first.
    pub hops: u8,
}

impl Packet {
    /// A TCP segment without payload, its numbers zero.
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: Flags) -> Packet {
        Packet::of(source, destination, Transport::Tcp { flags, sequence: 0, acknowledgment: 0 })
    }

    /// The first segment of a connection.
    pub fn syn(source: SocketAddr, destination: SocketAddr, sequence: u32) -> Packet {
        Packet::of(source, destination, Transport::Tcp { flags: Flags::SYN, sequence, acknowledgment: 0 })
    }

    /// A UDP datagram of one byte.
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Packet {
        Packet { payload: vec![0], ..Packet::of(source, destination, Transport::Udp) }
    }

    fn of(source: SocketAddr, destination: SocketAddr, transport: Transport) -> Packet {
        Packet {
            source,
            destination,
            transport,
            payload: Vec::new(),
            fragment: None,
            header_words: None,
            total_length: None,
            data_offset: None,
            extensions: Vec::new(),
            truncate: None,
            vlan: None,
            hops: 64,
        }
    }

    /// Appends the packet, from the IP header on, to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = 20 + self.transport_length();
                let fragment = self.fragment.unwrap_or(Fragment { offset: 0, more: false, id: 0 });
                let flags = fragment.offset | if fragment.more { 0x2000 } else { 0 };
                out.extend([0x40 | self.header_words.unwrap_or(5) & 15, 0]);
                out.extend(self.total_length.unwrap_or(length).to_be_bytes());
                out.extend(low16(fragment.id).to_be_bytes());
                out.extend(flags.to_be_bytes());
                out.extend([self.hops, self.protocol(), 0, 0]);
                out.extend(source.octets());
                out.extend(destination.octets());
                let sum = checksum(&out[start..], 0);
                out[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
            }
            (source, destination) => {
                let (source, destination) = (mapped(source), mapped(destination));
                let mut chain = self.extensions.clone();
                if self.fragment.is_some() {
                    chain.push(44);
                }
                chain.push(self.protocol());
                let extensions = 8 * (chain.len() - 1);
                let length = self.transport_length() + u16::try_from(extensions).unwrap_or(u16::MAX);
                out.extend([0x60, 0, 0, 0]);
                out.extend(self.total_length.unwrap_or(length).to_be_bytes());
                out.extend([chain[0], self.hops]);
                out.extend(source.octets());
                out.extend(destination.octets());
                for header in chain.windows(2) {
                    self.write_extension(header[0], header[1], out);
                }
            }
        }
        self.write_transport(out);
        if let Some(length) = self.truncate {
            out.truncate(start + length);
        }
    }

    /// One of the eight-byte extension headers (RFC 8200, section 4).
    fn write_extension(&self, kind: u8, next: u8, out: &mut Vec<u8>) {
        match (kind, self.fragment) {
            (44, Some(fragment)) => {
                out.extend([next, 0]);
                out.extend((fragment.offset << 3 | u16::from(fragment.more)).to_be_bytes());
                out.extend(fragment.id.to_be_bytes());
            }
            // A routing header of an experimental type (RFC 4727) with no segments left is passed over.
            (43, _) => out.extend([next, 0, 253, 0, 0, 0, 0, 0]),
            // PadN over the rest.
            _ => out.extend([next, 0, 1, 4, 0, 0, 0, 0]),
        }
    }

    fn write_transport(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend(self.source.port().to_be_bytes());
        out.extend(self.destination.port().to_be_bytes());
        let checksum_at = match self.transport {
            Transport::Tcp { flags, sequence, acknowledgment } => {
                out.extend(sequence.to_be_bytes());
                out.extend(acknowledgment.to_be_bytes());
                out.extend([self.data_offset.unwrap_or(5) << 4, flags.0]);
                out.extend([0xff, 0xff, 0, 0, 0, 0]);
                16
            }
            Transport::Udp => {
                out.extend(self.transport_length().to_be_bytes());
                out.extend([0, 0]);
                6
            }
        };
        out.extend(&self.payload);
        let mut pseudo = u32::from(self.protocol()) + u32::from(self.transport_length());
        for address in [self.source.ip(), self.destination.ip()] {
            pseudo += match address {
                IpAddr::V4(address) => sum(&address.octets()),
                IpAddr::V6(address) => sum(&address.octets()),
            };
        }
        let checksum = checksum(&out[start..], pseudo);
        out[start + checksum_at..start + checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp => 17,
        }
    }

    fn transport_length(&self) -> u16 {
        let header = match self.transport {
            Transport::Tcp { .. } => 20,
            Transport::Udp => 8,
        };
        header + u16::try_from(self.payload.len()).unwrap_or(u16::MAX - 60)
    }
}

/// A description that mixes the families is a mistake of the test; the packet then has an IPv4-mapped address.
fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn low16(value: u32) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

/// The one's complement sum of 16-bit words, not yet folded.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum()
}

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8], initial: u32) -> u16 {
    let mut total = sum(bytes) + initial;
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !low16(total)
}

/// Writes the checksum of the TCP segment or UDP datagram of a whole IP packet without options and extension headers.
pub(crate) fn complete_checksum(packet: &mut [u8]) {
    let (addresses, protocol, start, end) = match &*packet {
        [0x45, _, high, low, ..] if packet.len() >= 20 => {
            (12..20, packet[9], 20, usize::from(*high) << 8 | usize::from(*low))
        }
        [first, _, _, _, high, low, ..] if *first >> 4 == 6 && packet.len() >= 40 => {
            (8..40, packet[6], 40, 40 + (usize::from(*high) << 8 | usize::from(*low)))
        }
        _ => return,
    };
    let at = match protocol {
        6 => start + 16,
        17 => start + 6,
        _ => return,
    };
    // Ethernet pads short frames.
    let end = end.min(packet.len());
    if at + 2 > end {
        return;
    }
    let length = u32::try_from(end - start).unwrap_or_default();
    packet[at..at + 2].fill(0);
    let sum = checksum(&packet[start..end], sum(&packet[addresses]) + u32::from(protocol) + length);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(packet: &Packet) -> Vec<u8> {
        let mut out = Vec::new();
        packet.write(&mut out);
        out
    }

    fn syn(source: &str, destination: &str) -> Packet {
        let address = |text: &str| text.parse().expect("an address and a port");
        Packet::syn(address(source), address(destination), 0x0102_0304)
    }

    #[test]
    fn a_checksum_that_is_missing_is_completed() {
        for (source, destination) in [("10.0.0.2:40000", "10.0.0.1:22"), ("[fd77::2]:40000", "[fd77::1]:22")] {
            let right = bytes(&syn(source, destination));
            let mut wrong = right.clone();
            let at = right.len() - 4;
            wrong[at..at + 2].fill(9);
            wrong.extend([0; 6]);
            complete_checksum(&mut wrong);
            assert_eq!(wrong[..right.len()], right, "{source}");
        }
        complete_checksum(&mut [0x45; 10]);
    }

    #[test]
    fn a_whole_packet_has_right_lengths_and_checksums() {
        let packet = bytes(&syn("10.0.0.2:40000", "10.0.0.1:22"));
        assert_eq!(packet.len(), 40);
        assert_eq!(packet[2..4], [0, 40]);
        assert_eq!(checksum(&packet[..20], 0), 0);
        let pseudo = 6 + 20 + sum(&[10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!(checksum(&packet[20..], pseudo), 0);
        assert_eq!(packet[22..28], [0, 22, 1, 2, 3, 4]);
    }

    #[test]
    fn extension_headers_are_chained_to_the_transport_header() {
        let packet = Packet {
            extensions: vec![0, 43, 60],
            fragment: Some(Fragment { offset: 2, more: true, id: 7 }),
            ..syn("[fd77::2]:40000", "[fd77::1]:22")
        };
        let bytes = bytes(&packet);
        assert_eq!(bytes.len(), 40 + 4 * 8 + 20);
        assert_eq!(bytes[4..6], [0, 52]);
        assert_eq!([bytes[6], bytes[40], bytes[48], bytes[56], bytes[64]], [0, 43, 60, 44, 6]);
        assert_eq!(bytes[64..72], [6, 0, 0, 17, 0, 0, 0, 7]);
    }

    #[test]
    fn overridden_fields_are_sent_as_described() {
        let packet = Packet {
            header_words: Some(3),
            total_length: Some(12),
            fragment: Some(Fragment { offset: 185, more: true, id: 9 }),
            truncate: Some(30),
            ..syn("10.0.0.2:40000", "10.0.0.1:22")
        };
        let bytes = bytes(&packet);
        assert_eq!(bytes.len(), 30);
        assert_eq!(bytes[..8], [0x43, 0, 0, 12, 0, 9, 0x20, 185]);
    }
}
