//! The orders in which a scanner walks the ports.

use std::str::FromStr;

/// The order of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// 1, 2, 3 …
    Ascending,
    /// 65535, 65534 …
    Descending,
    /// A permutation, the same for the same seed.
    Random(u64),
}

impl Order {
    /// All ports from 1 to 65535, each once, in this order.
    pub fn ports(self) -> Vec<u16> {
        let mut ports: Vec<u16> = (1..=u16::MAX).collect();
        match self {
            Order::Ascending => {}
            Order::Descending => ports.reverse(),
            Order::Random(seed) => fastrand::Rng::with_seed(seed).shuffle(&mut ports),
        }
        ports
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Order, String> {
        match text.split_once(':') {
            None if text == "ascending" => Ok(Order::Ascending),
            None if text == "descending" => Ok(Order::Descending),
            None if text == "random" => Ok(Order::Random(0)),
            Some(("random", seed)) => seed.parse().map(Order::Random).map_err(|_| format!("`{seed}` is no seed")),
            _ => Err(format!("`{text}` is no order; write ascending, descending or random:SEED")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_order_has_every_port_once() {
        for order in [Order::Ascending, Order::Descending, Order::Random(3)] {
            let mut ports = order.ports();
            ports.sort_unstable();
            assert!(ports.iter().copied().eq(1..=u16::MAX), "{order:?}");
        }
        assert_ne!(Order::Random(1).ports(), Order::Random(2).ports());
        assert_eq!(Order::Random(1).ports(), Order::Random(1).ports());
        assert_eq!(Order::Descending.ports()[0], u16::MAX);
    }
}
