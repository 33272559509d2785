//! Random knocks: mostly a door's sequence, with something done to it. The same seed gives the same streams.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use knock_testkit::{Flags, Packet, SERVER_V4, Transport};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

/// The protocol and the port of a knock.
pub(super) type Port = (Protocol, u16);

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// A section of knockd.conf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Door {
    pub(super) name: &'static str,
    /// It has no duplicate port.
    pub(super) sequence: &'static [Port],
    /// `TCPFlags = syn`; else there is none.
    pub(super) syn_only: bool,
}

const fn tcp(port: u16) -> Port {
    (Protocol::Tcp, port)
}

const fn udp(port: u16) -> Port {
    (Protocol::Udp, port)
}

/// Doors that share ports, beginnings and ends.
pub(super) const DOORS: [Door; 5] = [
    Door { name: "long", sequence: &[tcp(1000), tcp(2000), tcp(3000)], syn_only: true },
    Door { name: "short", sequence: &[tcp(1000), tcp(4000)], syn_only: true },
    Door { name: "mixed", sequence: &[tcp(2000), udp(5000), tcp(1000)], syn_only: true },
    Door { name: "every_segment", sequence: &[tcp(3000), tcp(4000), tcp(6000)], syn_only: false },
    Door { name: "end", sequence: &[tcp(9000)], syn_only: true },
];

/// Doors that are knocked at random. The last one shows that all before it has been seen.
pub(super) const RANDOM_DOORS: usize = DOORS.len() - 1;

/// `Seq_Timeout` of all doors, in seconds.
pub(super) const TIMEOUT: u32 = 3;

/// A packet of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) source: Ipv4Addr,
    pub(super) port: Port,
    pub(super) flags: Flags,
    /// TCP's sequence number.
    pub(super) number: u32,
}

impl Sent {
    /// Where it comes from: a datagram has no number, so each has a port of its own, as a client's next try has.
    pub(super) fn from(&self) -> SocketAddr {
        let offset = match self.port.0 {
            Protocol::Tcp => 0,
            Protocol::Udp => u16::try_from((self.number >> 8) % 20_000).unwrap_or(0),
        };
        SocketAddr::new(IpAddr::V4(self.source), 40_000 + offset)
    }

    pub(super) fn packet(&self) -> Packet {
        let from = self.from();
        let to = SocketAddr::new(IpAddr::V4(SERVER_V4), self.port.1);
        match self.port.0 {
            Protocol::Udp => Packet::udp(from, to),
            Protocol::Tcp => Packet {
                transport: Transport::Tcp { flags: self.flags, sequence: self.number, acknowledgment: 0 },
                ..Packet::tcp(from, to, self.flags)
            },
        }
    }
}

/// What one source sends.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) packets: Vec<Sent>,
    /// How many of them go before the pause, in a stream that has one.
    pub(super) before_pause: usize,
}

/// Makes streams.
pub(super) struct Streams {
    random: TestRng,
    made: u32,
    numbers: u32,
}

impl Streams {
    pub(super) fn new(seed: u8) -> Streams {
        Streams { random: TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]), made: 0, numbers: 0 }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.next_u32()).unwrap_or(0) % bound
    }

    /// A source that no stream had before, in 198.18.0.0/15 (RFC 2544).
    fn source(&mut self) -> Ipv4Addr {
        self.made += 1;
        Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + self.made)
    }

    fn sent(&mut self, source: Ipv4Addr, port: Port) -> Sent {
        self.numbers += 1;
        Sent { source, port, flags: Flags::SYN, number: self.numbers << 8 }
    }

    /// A knock at one door, as it should be.
    pub(super) fn plain(&mut self, door: &Door) -> Stream {
        let source = self.source();
        let packets = door.sequence.iter().map(|port| self.sent(source, *port)).collect();
        Stream { packets, before_pause: 1 }
    }

    /// 3 to 12 packets of one source.
    pub(super) fn next(&mut self) -> Stream {
        let door = &DOORS[self.below(RANDOM_DOORS)];
        let mut stream = self.plain(door);
        let source = stream.packets[0].source;
        for _ in 0..self.below(4) {
            self.change(source, &mut stream.packets);
        }
        // At last, so that nothing comes between a packet and its retransmission.
        for _ in 0..self.below(3) / 2 + self.below(2) {
            let place = self.below(stream.packets.len());
            stream.packets.insert(place, stream.packets[place]);
        }
        while stream.packets.len() < 3 {
            let port = self.any_knock();
            let packet = self.sent(source, port);
            stream.packets.push(packet);
        }
        stream.packets.truncate(12);
        let packets = &stream.packets;
        let pauses: Vec<usize> = (1..packets.len()).filter(|place| packets[place - 1] != packets[*place]).collect();
        stream.before_pause = pauses.get(self.below(packets.len()) % pauses.len().max(1)).copied().unwrap_or(0);
        stream
    }

    fn any_knock(&mut self) -> Port {
        let sequence = DOORS[self.below(RANDOM_DOORS)].sequence;
        sequence[self.below(sequence.len())]
    }

    fn change(&mut self, source: Ipv4Addr, packets: &mut Vec<Sent>) {
        let place = self.below(packets.len());
        match self.below(7) {
            // The same port once more.
            0 => {
                let packet = self.sent(source, packets[place].port);
                packets.insert(place, packet);
            }
            // Any door's port in between, a neighbour of a knock port, or a port of nobody.
            1 => {
                let port = self.any_knock();
                let packet = self.sent(source, port);
                packets.insert(place, packet);
            }
            2 => {
                let (protocol, port) = self.any_knock();
                let packet = self.sent(source, (protocol, port + 1));
                packets.insert(place, packet);
            }
            3 => {
                let packet = self.sent(source, tcp(443));
                packets.insert(place, packet);
            }
            // Begun before.
            4 => {
                let begun: Vec<Sent> = packets[..place].to_vec();
                for old in begun.iter().rev() {
                    let packet = self.sent(source, old.port);
                    packets.insert(0, packet);
                }
            }
            // Another door after it.
            5 => {
                let door = &DOORS[self.below(RANDOM_DOORS)];
                for port in door.sequence {
                    let packet = self.sent(source, *port);
                    packets.push(packet);
                }
            }
            // Another kind of segment, in place of a SYN or beside it.
            _ => {
                let flags = [Flags::SYN | Flags::ACK, Flags::ACK, Flags::FIN][self.below(3)];
                match self.below(2) {
                    0 => packets[place].flags = flags,
                    _ => {
                        let packet = Sent { flags, ..self.sent(source, packets[place].port) };
                        packets.insert(place, packet);
                    }
                }
            }
        }
    }

    /// The packets of several streams in one order, each stream's in its own.
    pub(super) fn merge(&mut self, streams: &[&[Sent]]) -> Vec<Sent> {
        let mut left: Vec<&[Sent]> = streams.iter().copied().filter(|packets| !packets.is_empty()).collect();
        let mut merged = Vec::new();
        while !left.is_empty() {
            let which = self.below(left.len());
            merged.push(left[which][0]);
            left[which] = &left[which][1..];
            left.retain(|packets| !packets.is_empty());
        }
        merged
    }
}
