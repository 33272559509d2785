//! Names of ports, as /etc/services and firewalld have them. A table: the import is the same on every machine.

use std::collections::BTreeSet;

use knock_config::excerpt;
use knock_proto::{Port, Protocol};

use Protocol::{Tcp, Udp};

/// Each name in /etc/services, in firewalld where that is another, the port, and the protocols of firewalld.
const SERVICES: [(&str, &str, u16, &[Protocol]); 28] = [
    ("ftp", "ftp", 21, &[Tcp]),
    ("ssh", "ssh", 22, &[Tcp]),
    ("telnet", "telnet", 23, &[Tcp]),
    ("smtp", "smtp", 25, &[Tcp]),
    ("domain", "dns", 53, &[Tcp, Udp]),
    ("http", "http", 80, &[Tcp]),
    ("pop3", "pop3", 110, &[Tcp]),
    ("ntp", "ntp", 123, &[Udp]),
    ("imap2", "imap", 143, &[Tcp]),
    ("imap", "imap", 143, &[Tcp]),
    ("snmp", "snmp", 161, &[Udp]),
    ("ldap", "ldap", 389, &[Tcp]),
    ("https", "https", 443, &[Tcp]),
    ("submissions", "smtps", 465, &[Tcp]),
    ("submission", "smtp-submission", 587, &[Tcp]),
    ("ldaps", "ldaps", 636, &[Tcp]),
    ("imaps", "imaps", 993, &[Tcp]),
    ("pop3s", "pop3s", 995, &[Tcp]),
    ("openvpn", "openvpn", 1194, &[Udp]),
    ("ms-sql-s", "mssql", 1433, &[Tcp]),
    ("mysql", "mysql", 3306, &[Tcp]),
    ("ms-wbt-server", "rdp", 3389, &[Tcp]),
    ("postgresql", "postgresql", 5432, &[Tcp]),
    ("redis", "redis", 6379, &[Tcp]),
    ("http-alt", "http-alt", 8080, &[Tcp]),
    ("cockpit", "cockpit", 9090, &[Tcp]),
    ("webmin", "webmin", 10000, &[Tcp]),
    ("wireguard", "wireguard", 51820, &[Udp]),
];

/// The port with that name in /etc/services.
pub(super) fn port(name: &str) -> Option<u16> {
    SERVICES.iter().find(|(known, ..)| *known == name).map(|(_, _, port, _)| *port)
}

/// The ports of a service of firewalld, as it ships it.
pub(super) fn firewalld(name: &str) -> Result<BTreeSet<Port>, String> {
    let service = SERVICES.iter().find(|(_, known, ..)| *known == name);
    let (_, _, number, protocols) =
        service.ok_or_else(|| format!("`{}` is not a service that import knows; write its ports", excerpt(name)))?;
    Ok(protocols.iter().map(|protocol| Port { protocol: *protocol, number: *number }).collect())
}
