//! Addresses that a grant is for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses with the same first bits; often one address alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The first of them. An IPv4-mapped IPv6 address is taken for the IPv4 one, as which its packets come.
    address: IpAddr,
    /// How many bits they share: at most 32 or 128.
    length: u8,
}

impl Prefix {
    /// The prefix of that length of the address; a greater length than the address has means the address alone.
    pub fn new(address: IpAddr, length: u8) -> Prefix {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(u32::from(32 - length)).unwrap_or(0);
                Prefix { address: Ipv4Addr::from_bits(address.to_bits() & mask).into(), length }
            }
            IpAddr::V6(address) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(u32::from(128 - length)).unwrap_or(0);
                Prefix { address: Ipv6Addr::from_bits(address.to_bits() & mask).into(), length }
            }
        }
    }

    /// The first address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits the addresses share.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether the address has it.
    pub fn contains(self, address: IpAddr) -> bool {
        Prefix::new(address, self.length) == self
    }
}

impl From<IpAddr> for Prefix {
    /// The address alone.
    fn from(address: IpAddr) -> Prefix {
        Prefix::new(address, u8::MAX)
    }
}

impl fmt::Display for Prefix {
    /// `192.0.2.1`, `2001:db8::/64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        if self.length < whole { write!(f, "/{}", self.length) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_prefix_has_the_addresses_with_its_bits_and_no_others() {
        for (of, length, shown, inside, outside) in [
            ("2001:db8:0:1:2:3:4:5", 64, "2001:db8:0:1::/64", "2001:db8:0:1:ffff::", "2001:db8:0:2::"),
            ("192.0.2.77", 24, "192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("::ffff:192.0.2.77", 24, "192.0.2.0/24", "::ffff:192.0.2.1", "2001:db8::"),
            ("192.0.2.77", 32, "192.0.2.77", "192.0.2.77", "192.0.2.76"),
            ("192.0.2.77", 255, "192.0.2.77", "192.0.2.77", "192.0.2.76"),
            ("10.1.2.3", 0, "0.0.0.0/0", "255.255.255.255", "::"),
            ("2001:db8::1", 128, "2001:db8::1", "2001:db8::1", "2001:db8::"),
        ] {
            let prefix = Prefix::new(address(of), length);
            assert_eq!(prefix.to_string(), shown);
            assert!(prefix.contains(address(inside)) && !prefix.contains(address(outside)), "{shown}");
        }
    }
}
