//! What a grant is for: a rule and the addresses.

use std::net::IpAddr;

use knock_spa::RuleName;

/// A rule, and the addresses that a grant of it is for, or that a revocation ends the grants of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    pub(crate) rule: RuleName,
    /// The first of the addresses.
    pub(crate) first: IpAddr,
    /// How many leading bits all of them have in common.
    pub(crate) length: u8,
}

impl Subject {
    /// The address alone.
    pub fn of_address(rule: RuleName, address: IpAddr) -> Subject {
        Subject::new(rule, address, u8::MAX)
    }

    /// The prefix of that length that has the address; the address alone, if it has no more bits.
    pub fn new(rule: RuleName, address: IpAddr, length: u8) -> Subject {
        let (first, length) = match address {
            IpAddr::V4(address) => {
                let length = length.min(32);
                (IpAddr::V4((address.to_bits() & !u32::MAX.checked_shr(length.into()).unwrap_or(0)).into()), length)
            }
            IpAddr::V6(address) => {
                let length = length.min(128);
                (IpAddr::V6((address.to_bits() & !u128::MAX.checked_shr(length.into()).unwrap_or(0)).into()), length)
            }
        };
        Subject { rule, first, length }
    }

    /// The rule.
    pub fn rule(&self) -> &RuleName {
        &self.rule
    }

    /// Whether both have an address of the same rule in common.
    pub fn overlaps(&self, other: &Subject) -> bool {
        let (first, last) = (self.first.max(other.first), self.last().min(other.last()));
        self.rule == other.rule && self.first.is_ipv4() == other.first.is_ipv4() && first <= last
    }

    /// The first of the addresses, and how many leading bits all of them have in common.
    pub fn prefix(&self) -> (IpAddr, u8) {
        (self.first, self.length)
    }

    /// The prefix of that length which has these addresses.
    pub(crate) fn widened(&self, length: u8) -> Subject {
        Subject::new(self.rule.clone(), self.first, length.min(self.length))
    }

    /// The last of the addresses.
    pub(crate) fn last(&self) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => {
                IpAddr::V4((first.to_bits() | u32::MAX.checked_shr(self.length.into()).unwrap_or(0)).into())
            }
            IpAddr::V6(first) => {
                IpAddr::V6((first.to_bits() | u128::MAX.checked_shr(self.length.into()).unwrap_or(0)).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_its_first_and_its_last_address() {
        let subject = |address: &str, length| {
            Subject::new("ssh".parse().expect("a name"), address.parse().expect("an address"), length)
        };
        for (address, length, first, last) in [
            ("192.0.2.7", 24, "192.0.2.0", "192.0.2.255"),
            ("192.0.2.7", 32, "192.0.2.7", "192.0.2.7"),
            ("192.0.2.7", 128, "192.0.2.7", "192.0.2.7"),
            ("192.0.2.7", 0, "0.0.0.0", "255.255.255.255"),
            ("2001:db8::7", 64, "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff"),
            ("2001:db8::7", 128, "2001:db8::7", "2001:db8::7"),
            ("2001:db8::7", 0, "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let subject = subject(address, length);
            assert_eq!((subject.first.to_string(), subject.last().to_string()), (first.into(), last.into()));
        }
    }
}
