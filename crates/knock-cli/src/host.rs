//! Resolves the name of a host to the address that receives the knocks.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use crate::args::Family;
use crate::error::Error;

/// A host and its address that receives the knocks.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    /// Its port has no meaning.
    pub(crate) address: SocketAddr,
    others: usize,
}

/// The first address of the requested IP version in the order of the resolver (RFC 6724). A client such as ssh connects
/// to the same address.
pub(crate) fn resolve(name: &str, family: Family) -> Result<Host, Error> {
    let failed = |error| Error::Resolve { host: name.to_owned(), error };
    let mut addresses: Vec<SocketAddr> = (name, 0).to_socket_addrs().map_err(failed)?.collect();
    addresses.dedup();
    let wanted = |address: &&SocketAddr| match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    match (addresses.iter().find(wanted), family) {
        (Some(address), _) => Ok(Host { name: name.to_owned(), address: *address, others: addresses.len() - 1 }),
        (None, Family::Any) => Err(failed(io::Error::from(io::ErrorKind::NotFound))),
        (None, _) => {
            let (version, option) = if family == Family::V4 { ("IPv4", "-4") } else { ("IPv6", "-6") };
            let has = addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ");
            Err(Error::NoAddress { host: name.to_owned(), version, option, has })
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.address.ip();
        write!(f, "knocking at {}", self.name)?;
        if self.name != ip.to_string() {
            write!(f, ", address {ip}")?;
        }
        match self.others {
            0 => Ok(()),
            others => write!(f, ", the first of {} addresses; -4 or -6 selects the IP version", others + 1),
        }
    }
}
