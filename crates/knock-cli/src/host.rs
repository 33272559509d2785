//! A host as people write it.

use std::net::IpAddr;

/// A host, and the port that was written behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) port: Option<u16>,
}

impl Host {
    /// Reads `host`, `user@host`, `host:22`, `[2001:db8::1]:22` and `ssh://user@host:22`.
    pub(crate) fn read(text: &str) -> Host {
        let text = text.strip_prefix("ssh://").map_or(text, |rest| rest.trim_end_matches('/'));
        let text = text.rsplit_once('@').map_or(text, |(_, host)| host);
        let whole = || Host { name: text.to_owned(), port: None };
        if let Some((name, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            return match (rest, rest.strip_prefix(':').map(str::parse)) {
                ("", _) => Host { name: name.to_owned(), port: None },
                (_, Some(Ok(port))) => Host { name: name.to_owned(), port: Some(port) },
                _ => whole(),
            };
        }
        match text.split_once(':') {
            // Several colons are an IPv6 address.
            Some((name, port)) if !port.contains(':') && !name.is_empty() => match port.parse() {
                Ok(port) => Host { name: name.to_owned(), port: Some(port) },
                Err(_) => whole(),
            },
            _ => whole(),
        }
    }
}

/// Whether two names are those of one host: case and a final point have no meaning, nor has the form of an address.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    let plain = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => plain(one) == plain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_can_have_a_user_brackets_and_a_port() {
        for (text, name, port) in [
            ("host", "host", None),
            ("user@host", "host", None),
            ("host:22", "host", Some(22)),
            ("user@host:2222", "host", Some(2222)),
            ("ssh://user@host:2222/", "host", Some(2222)),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("user@[2001:db8::1]:22", "2001:db8::1", Some(22)),
            ("2001:db8::1", "2001:db8::1", None),
            ("fe80::1%eth0", "fe80::1%eth0", None),
            ("host:ssh", "host:ssh", None),
            ("[x", "[x", None),
            ("", "", None),
        ] {
            assert_eq!(Host::read(text), Host { name: name.to_owned(), port }, "{text}");
        }
    }

    #[test]
    fn names_are_compared_as_dns_compares_them() {
        assert!(is_same("Server.Example.COM.", "server.example.com"));
        assert!(is_same("2001:db8:0::1", "2001:DB8::1"));
        assert!(!is_same("a", "b"));
    }
}
