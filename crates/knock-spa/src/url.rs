//! The URL that gives a client all it needs: `knock://host:443/?realm=…&cover=…`.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use zeroize::Zeroizing;

use crate::cover::{Cover, CoverError};
use crate::excerpt::excerpt;
use crate::realm::Realm;

const SCHEME: &str = "knock://";

/// Where packets are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A DNS name.
    Name(Box<str>),
    /// An address.
    Address(IpAddr),
}

/// Where a client sends packets, and what it seals them with. It holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnockUrl {
    /// The server.
    pub host: Host,
    /// A UDP port of the server; not 0.
    pub port: NonZeroU16,
    /// The realm.
    pub realm: Realm,
    /// The cover.
    pub cover: Cover,
}

/// The text is not such a URL. No message quotes the query, in which the cover may be at any place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("the URL does not begin with `knock://`; copy the line that `knockctl spa init` printed")]
    Scheme,
    /// There is something else than host, port and query.
    #[error("the URL is not complete; it has to be as `knock://HOST:PORT/?realm=…&cover=…`")]
    Form,
    /// Neither a name nor an address.
    #[error("`{host}` in the URL is not a host; write a DNS name, an IPv4 address, or an IPv6 address in brackets")]
    Host {
        /// The start of the text.
        host: String,
    },
    /// Not a port.
    #[error("`{port}` in the URL is not a port; write 1 to 65535")]
    Port {
        /// The start of the text.
        port: String,
    },
    /// A key that this version does not know.
    #[error("there is something else in the URL than `realm` and `cover`, which this version does not know")]
    UnknownKey,
    /// The same key twice.
    #[error("`{key}` is there twice in the URL; write it once")]
    Twice {
        /// The key.
        key: &'static str,
    },
    /// No realm, or no cover.
    #[error("there is no `{key}` in the URL; copy the line that `knockctl spa init` printed, to its end")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// The realm is wrong.
    #[error("the realm in the URL is not valid; it has 1 to 253 lowercase letters, digits, `.`, `-` or `_`")]
    Realm,
    /// The cover is not base64url.
    #[error(
        "the cover in the URL is not 43 characters of base64url; copy the line that `knockctl spa init` printed, to its end"
    )]
    Cover,
    /// The cover has another length.
    #[error(
        "the cover in the URL has {length} bytes instead of 32; copy the line that `knockctl spa init` printed, to its end"
    )]
    CoverLength {
        /// How many bytes it has.
        length: usize,
    },
}

impl KnockUrl {
    /// Reads a URL. There is one spelling for each, the order of realm and cover and the spelling of addresses apart.
    ///
    /// # Errors
    ///
    /// The rule that it breaks.
    pub fn parse(text: &str) -> Result<KnockUrl, UrlError> {
        let rest = text.strip_prefix(SCHEME).ok_or(UrlError::Scheme)?;
        let (authority, query) = rest.split_once("/?").ok_or(UrlError::Form)?;
        let (host, port) = authority.rsplit_once(':').ok_or(UrlError::Form)?;
        let (mut realm, mut cover) = (None, None);
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').ok_or(UrlError::Form)?;
            let (key, place) = match key {
                "realm" => ("realm", &mut realm),
                "cover" => ("cover", &mut cover),
                _ => return Err(UrlError::UnknownKey),
            };
            if place.replace(value).is_some() {
                return Err(UrlError::Twice { key });
            }
        }
        let cover = cover.ok_or(UrlError::Missing { key: "cover" })?;
        Ok(KnockUrl {
            host: Host::parse(host)?,
            port: parse_port(port)?,
            realm: realm.ok_or(UrlError::Missing { key: "realm" })?.parse().map_err(|_| UrlError::Realm)?,
            cover: Cover::from_url(cover).map_err(|error| match error {
                CoverError::Length { length } => UrlError::CoverLength { length },
                _ => UrlError::Cover,
            })?,
        })
    }

    /// The URL, which holds the cover.
    pub fn to_secret_text(&self) -> Zeroizing<String> {
        let cover = self.cover.to_url();
        let KnockUrl { host, port, realm, .. } = self;
        // The cover comes last: a text that grows after it would leave a copy behind.
        Zeroizing::new(format!("{SCHEME}{host}:{port}/?realm={realm}&cover={}", cover.as_str()))
    }
}

fn parse_port(text: &str) -> Result<NonZeroU16, UrlError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain).ok_or_else(|| UrlError::Port { port: excerpt(text) })
}

impl Host {
    /// Reads a host as it is in a URL: RFC 3986, section 3.2.2, and the names of RFC 1123, section 2.1.
    ///
    /// # Errors
    ///
    /// If it is neither a name nor an address.
    pub fn parse(text: &str) -> Result<Host, UrlError> {
        let wrong = || UrlError::Host { host: excerpt(text) };
        if let Some(inner) = text.strip_prefix('[') {
            let address = inner.strip_suffix(']').ok_or_else(wrong)?.parse().map_err(|_| wrong())?;
            return Ok(Host::Address(IpAddr::V6(address)));
        }
        if let Ok(address) = text.parse() {
            return Ok(Host::Address(IpAddr::V4(address)));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // A name whose last label is a number is taken for an IPv4 address by much software.
        let number = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        let valid = text.len() <= 253 && text.split('.').all(label) && !number;
        valid.then(|| Host::Name(text.into())).ok_or_else(wrong)
    }
}

impl fmt::Display for Host {
    /// As in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COVER: &str = "-_sBAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4";

    fn url(authority: &str) -> String {
        format!("knock://{authority}/?realm=example.com&cover={COVER}")
    }

    #[test]
    fn a_url_comes_back_as_it_was() {
        for authority in
            ["host:443", "web1.example.com:62201", "192.0.2.1:1", "[2001:db8::1]:65535", "a_b-c:9", "xn--a:9"]
        {
            let parsed = KnockUrl::parse(&url(authority)).expect(authority);
            assert_eq!(*parsed.to_secret_text(), url(authority));
        }
        let swapped = format!("knock://host:443/?cover={COVER}&realm=example.com");
        assert_eq!(KnockUrl::parse(&swapped), KnockUrl::parse(&url("host:443")));
    }

    #[test]
    fn a_url_of_another_form_is_refused_without_a_word_of_its_cover() {
        let at = |authority: &str| url(authority);
        let query = |query: &str| format!("knock://host:443/?{query}");
        let host = |host: &str| UrlError::Host { host: host.to_owned() };
        let port = |port: &str| UrlError::Port { port: port.to_owned() };
        for (text, expected) in [
            (String::new(), UrlError::Scheme),
            (at("h:1").replace("knock", "Knock"), UrlError::Scheme),
            (format!(" {}", at("h:1")), UrlError::Scheme),
            ("knock://host:443".to_owned(), UrlError::Form),
            ("knock://host:443/".to_owned(), UrlError::Form),
            (at("host"), UrlError::Form),
            (at("h:1").replace("/?", "?"), UrlError::Form),
            (at("host:"), port("")),
            (at("host:0"), port("0")),
            (at("host:0443"), port("0443")),
            (at("host:+443"), port("+443")),
            (at("host:65536"), port("65536")),
            (at(":443"), host("")),
            (at("user@host:443"), host("user@host")),
            (at("2001:db8::1:443"), host("2001:db8::1")),
            (at("[2001:db8::1:443"), host("[2001:db8::1")),
            (at("[192.0.2.1]:443"), host("[192.0.2.1]")),
            (at("[fe80::1%eth0]:443"), host("[fe80::1%eth0]")),
            (at("192.0.2.256:443"), host("192.0.2.256")),
            (at("a..b:443"), host("a..b")),
            (at("-a:443"), host("-a")),
            (at("a%20b:443"), host("a%20b")),
            (at("h:1/path"), port("1/path")),
            (query(""), UrlError::Form),
            (query("realm=a"), UrlError::Missing { key: "cover" }),
            (query(&format!("cover={COVER}")), UrlError::Missing { key: "realm" }),
            (query(&format!("realm=a&{COVER}")), UrlError::Form),
            (query(&format!("realm=a&{COVER}=")), UrlError::UnknownKey),
            (query(&format!("realm=a&cover={COVER}&key=1")), UrlError::UnknownKey),
            (query(&format!("realm=a&cover={COVER}&cover={COVER}")), UrlError::Twice { key: "cover" }),
            (query(&format!("realm={COVER}&cover=example.com")), UrlError::Realm),
            (query(&format!("realm=a%2eb&cover={COVER}")), UrlError::Realm),
            (query(&format!("realm=a&cover={COVER}=")), UrlError::Cover),
            (query(&format!("realm=a&cover={COVER}#")), UrlError::Cover),
            (query(&format!("realm=a&cover={}", COVER.replace('-', "+"))), UrlError::Cover),
            (query(&format!("realm=a&cover={}", &COVER[..40])), UrlError::CoverLength { length: 30 }),
            (query("realm=a&cover="), UrlError::CoverLength { length: 0 }),
        ] {
            let error = KnockUrl::parse(&text).expect_err(&text);
            assert_eq!(error, expected, "{text}");
            assert!(!format!("{error} {error:?}").contains(&COVER[..8]), "{error}");
        }
        let shown = format!("{:?}", KnockUrl::parse(&at("h:1")));
        assert!(shown.contains("Cover(…)"), "{shown}");
    }
}
