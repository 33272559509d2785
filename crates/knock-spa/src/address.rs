//! Lists of addresses and networks: the option `from=` of authorized_keys.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::excerpt::excerpt;

/// An address with the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

/// Addresses that are permitted, and exceptions from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressList {
    permitted: Vec<Network>,
    excepted: Vec<Network>,
}

/// A list of addresses can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressListError {
    /// A host name or a pattern: nothing is looked up here.
    #[error(
        "`{text}` is not an address or network; names and patterns are not supported, write as in `192.0.2.0/24,2001:db8::/32`"
    )]
    NotAnAddress {
        /// The start of the entry.
        text: String,
    },
    /// Bits are set that do not count.
    #[error("`{text}` has bits set behind the first {length}; write `{network}/{length}`, or the address alone")]
    HostBits {
        /// The entry.
        text: String,
        /// Its number of bits.
        length: u8,
        /// The address without those bits.
        network: IpAddr,
    },
    /// Only exceptions, so nothing is permitted.
    #[error("it permits no address, it only has exceptions; name what is permitted too")]
    NothingPermitted,
}

impl Network {
    /// Whether the address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(address, self.length) == Some(self.address)
    }
}

/// The address with only its first `length` bits; `None` if it has fewer bits.
fn masked(address: IpAddr, length: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let behind = 32u32.checked_sub(length.into())?;
            Some(IpAddr::V4((address.to_bits() & u32::MAX.checked_shl(behind).unwrap_or(0)).into()))
        }
        IpAddr::V6(address) => {
            let behind = 128u32.checked_sub(length.into())?;
            Some(IpAddr::V6((address.to_bits() & u128::MAX.checked_shl(behind).unwrap_or(0)).into()))
        }
    }
}

impl FromStr for Network {
    type Err = AddressListError;

    fn from_str(text: &str) -> Result<Network, AddressListError> {
        let not_an_address = || AddressListError::NotAnAddress { text: excerpt(text) };
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| not_an_address())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => whole,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| not_an_address())?
            }
            Some(_) => return Err(not_an_address()),
        };
        let network = masked(address, length).ok_or_else(not_an_address)?;
        // The addresses that this is compared with are never written that way.
        if address.to_canonical() != address {
            return Err(not_an_address());
        }
        if network != address {
            return Err(AddressListError::HostBits { text: text.to_owned(), length, network });
        }
        Ok(Network { address, length })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.length) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => self.address.fmt(f),
            (address, length) => write!(f, "{address}/{length}"),
        }
    }
}

impl fmt::Display for AddressList {
    /// As in the file, the exceptions last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permitted = self.permitted.iter().map(|network| ("", network));
        let excepted = self.excepted.iter().map(|network| ("!", network));
        for (index, (sign, network)) in permitted.chain(excepted).enumerate() {
            write!(f, "{}{sign}{network}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl AddressList {
    /// Whether an address is permitted and not excepted.
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let within = |networks: &[Network]| networks.iter().any(|network| network.contains(address));
        within(&self.permitted) && !within(&self.excepted)
    }
}

impl FromStr for AddressList {
    type Err = AddressListError;

    /// Reads `192.0.2.0/24,!192.0.2.7`: ssh_config(5), PATTERNS, with addresses only.
    fn from_str(text: &str) -> Result<AddressList, AddressListError> {
        let (mut permitted, mut excepted) = (Vec::new(), Vec::new());
        for entry in text.split(',') {
            match entry.strip_prefix('!') {
                Some(exception) => excepted.push(exception.parse()?),
                None => permitted.push(entry.parse()?),
            }
        }
        if permitted.is_empty() {
            return Err(AddressListError::NothingPermitted);
        }
        Ok(AddressList { permitted, excepted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_wins_wherever_it_is_in_the_list() {
        let list: AddressList = "!192.0.2.7,192.0.2.0/24,2001:db8::/32,!2001:db8:1::/48".parse().expect("a list");
        let permits = |address: &str| list.permits(address.parse().expect("an address"));
        for address in ["192.0.2.0", "192.0.2.255", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8:2::"] {
            assert!(permits(address), "{address}");
        }
        for address in ["192.0.2.7", "192.0.3.0", "2001:db9::", "2001:db8:1::1", "0.0.0.0", "::"] {
            assert!(!permits(address), "{address}");
        }
        let all: AddressList = "0.0.0.0/0,::/0".parse().expect("a list");
        assert!(all.permits("255.255.255.255".parse().expect("one")) && all.permits("::1".parse().expect("one")));
        assert_eq!(list.to_string(), "192.0.2.0/24,2001:db8::/32,!192.0.2.7,!2001:db8:1::/48");
    }

    #[test]
    fn an_entry_that_is_no_network_is_refused() {
        for text in [
            "",
            "host",
            "192.0.2.*",
            "*",
            "192.0.2.1/33",
            "::/129",
            "192.0.2.1/",
            "192.0.2.1/+8",
            "1.2.3",
            "::ffff:192.0.2.1",
            "fe80::1%eth0",
            "192.0.2.1,",
            " 192.0.2.1",
            "::/999",
            "192.0.2.0/24/3",
        ] {
            let error = text.parse::<AddressList>().expect_err(text);
            assert!(matches!(error, AddressListError::NotAnAddress { .. }), "{text}: {error}");
        }
        let error = "192.0.2.7/24".parse::<AddressList>().expect_err("host bits").to_string();
        assert!(error.contains("write `192.0.2.0/24`"), "{error}");
        assert_eq!("!192.0.2.7".parse::<AddressList>(), Err(AddressListError::NothingPermitted));
    }
}
