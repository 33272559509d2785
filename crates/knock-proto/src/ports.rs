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
        let tcp = ports(&self.tcp).map(Knock::tcp);
        tcp.chain(ports(&self.udp).map(Knock::udp))
    }
}

/// The ports whose bits are set; words of which none is set, nearly all, cost no look at each bit.
fn ports(bits: &[u64]) -> impl Iterator<Item = u16> + '_ {
    let words = (0..=u16::MAX).step_by(64).zip(bits).filter(|(_, word)| **word != 0);
    words.flat_map(|(first, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit))
}
