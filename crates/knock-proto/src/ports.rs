//! A set of (protocol, port) pairs that answers in constant time.

use crate::{Knock, Protocol};

const WORDS: usize = 65536 / 64;

/// A bit for each port of either protocol; what no port needs is not allocated.
#[derive(Debug, Default)]
pub(crate) struct PortSet {
    tcp: Vec<u64>,
    udp: Vec<u64>,
}

impl PortSet {
    pub(crate) fn insert(&mut self, knock: Knock) {
        let bits = match knock.protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
        };
        bits.resize(WORDS, 0);
        bits[usize::from(knock.port) / 64] |= 1 << (knock.port % 64);
    }

    pub(crate) fn contains(&self, knock: Knock) -> bool {
        let bits = match knock.protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        };
        bits.get(usize::from(knock.port) / 64).is_some_and(|word| word >> (knock.port % 64) & 1 == 1)
    }

    /// In ascending order, TCP first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Knock> + '_ {
        let of = |protocol| (0..=u16::MAX).map(move |port| Knock { protocol, port });
        of(Protocol::Tcp).chain(of(Protocol::Udp)).filter(|&knock| self.contains(knock))
    }
}
