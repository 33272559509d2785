//! The answers that a probe can receive.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::packet::Flags;

/// The kind of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A TCP segment with these flags.
    Tcp(Flags),
    /// A UDP datagram.
    Udp,
    /// ICMP or ICMPv6 destination unreachable, of this code.
    Unreachable(u8),
    /// ICMP or ICMPv6 time exceeded: the packet had one hop left, and was to be routed on.
    Expired,
}

/// An answer to a packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The address and port that were probed.
    pub from: SocketAddr,
    /// The address and port that the probe came from.
    pub to: SocketAddr,
    /// What it is.
    pub answer: Answer,
    /// TCP's acknowledgment number, else 0.
    pub acknowledgment: u32,
    /// TCP's window, else 0.
    pub window: u16,
    /// The time to live or hop limit with which it arrived.
    pub hops: u8,
}

impl Reply {
    /// The reply in an Ethernet frame's payload that begins with its IP header; `None` for everything else.
    pub(crate) fn parse(packet: &[u8]) -> Option<Reply> {
        let (from, to, protocol, rest) = ip_header(packet)?;
        let hops = *packet.get(if from.is_ipv4() { 8 } else { 7 })?;
        match protocol {
            6 => Some(Reply {
                from: SocketAddr::new(from, word(rest, 0)?),
                to: SocketAddr::new(to, word(rest, 2)?),
                answer: Answer::Tcp(Flags(*rest.get(13)?)),
                acknowledgment: u32::from(word(rest, 8)?) << 16 | u32::from(word(rest, 10)?),
                window: word(rest, 14)?,
                hops,
            }),
            17 => Some(Reply {
                from: SocketAddr::new(from, word(rest, 0)?),
                to: SocketAddr::new(to, word(rest, 2)?),
                answer: Answer::Udp,
                acknowledgment: 0,
                window: 0,
                hops,
            }),
            1 | 58 => {
                let unreachable = match (protocol, *rest.first()?) {
                    (1, 3) | (58, 1) => true,
                    (1, 11) | (58, 3) => false,
                    _ => return None,
                };
                // The packet that could not be delivered follows the ICMP header of eight bytes.
                let (prober, probed, _, inner) = ip_header(rest.get(8..)?)?;
                Some(Reply {
                    from: SocketAddr::new(probed, word(inner, 2)?),
                    to: SocketAddr::new(prober, word(inner, 0)?),
                    answer: if unreachable { Answer::Unreachable(*rest.get(1)?) } else { Answer::Expired },
                    acknowledgment: 0,
                    window: 0,
                    hops,
                })
            }
            _ => None,
        }
    }
}

/// Source, destination, protocol and what follows an IP header without extensions.
fn ip_header(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let address4 = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?).into());
    let address6 = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?).into());
    let first = *packet.first()?;
    match first >> 4 {
        4 => Some((address4(12)?, address4(16)?, *packet.get(9)?, packet.get(usize::from(first & 15) * 4..)?)),
        6 => Some((address6(8)?, address6(24)?, *packet.get(6)?, packet.get(40..)?)),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}
