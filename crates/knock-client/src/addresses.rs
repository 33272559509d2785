//! The addresses of a host that receive the knocks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use crate::error::{Error, version};

/// The IP versions over which a host is knocked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6, as far as the host has addresses of them.
    #[default]
    Both,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    pub(crate) fn has(self, address: IpAddr) -> bool {
        match self {
            Family::Both => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        }
    }
}

/// An address that receives knocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address of the host. Its port has no meaning; an IPv6 address can have a scope (RFC 4007).
    pub address: SocketAddr,
    /// The address of this machine that sends; unspecified where the kernel chooses.
    pub source: IpAddr,
}

impl Target {
    fn new(address: SocketAddr, source: Option<IpAddr>) -> Target {
        let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Target { address, source: source.unwrap_or(any) }
    }

    /// The address with that port.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        let mut address = self.address;
        address.set_port(port);
        address
    }
}

/// The first address of each IP version of `family`, in the order of the resolver (RFC 6724).
pub(crate) fn resolve(host: &str, family: Family, source: Option<IpAddr>) -> Result<Vec<Target>, Error> {
    let failed = |error| Error::Resolve { host: host.to_owned(), error };
    let all: Vec<SocketAddr> = (host, 0).to_socket_addrs().map_err(failed)?.collect();
    if all.is_empty() {
        return Err(failed(io::Error::from(io::ErrorKind::NotFound)));
    }
    let mut targets: Vec<Target> = Vec::new();
    for address in &all {
        let wanted = family.has(address.ip()) && source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
        if wanted && !targets.iter().any(|target| target.address.is_ipv4() == address.is_ipv4()) {
            targets.push(Target::new(*address, source));
        }
    }
    if targets.is_empty() {
        let mut has: Vec<IpAddr> = all.iter().map(SocketAddr::ip).collect();
        has.dedup();
        let version = source.map_or(if family == Family::V4 { "IPv4" } else { "IPv6" }, version);
        return Err(Error::NoAddress { host: host.to_owned(), version, has });
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_of_the_wanted_version_is_taken() {
        let targets = resolve("127.0.0.1", Family::Both, None).expect("an address needs no resolver");
        assert_eq!(targets, [Target { address: ([127, 0, 0, 1], 0).into(), source: Ipv4Addr::UNSPECIFIED.into() }]);
        assert_eq!(targets[0].at(22), ([127, 0, 0, 1], 22).into());
    }

    #[test]
    fn a_host_without_an_address_of_the_version_of_the_source_is_an_error() {
        let source = Some("::1".parse().expect("an address"));
        for (family, source) in [(Family::V6, None), (Family::Both, source)] {
            let error = resolve("127.0.0.1", family, source).expect_err("no IPv6 address");
            assert!(matches!(error, Error::NoAddress { .. }), "{error}");
        }
    }
}
