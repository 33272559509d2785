//! The options at the start of a line.

use std::net::IpAddr;

use super::expiry;
use crate::address::{AddressList, AddressListError};
use crate::excerpt::excerpt;
use crate::key_type::KeyType;
use crate::proof::Presence;
use crate::request::{RuleName, RuleNameError};
use crate::time::UnixTime;

/// Which addresses a key may open a rule for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressPolicy {
    /// The source of the packet, whether the packet names it or not.
    #[default]
    Source,
    /// The source of the packet, and the packet has to name it.
    Strict,
    /// Any address.
    Any,
}

impl AddressPolicy {
    /// Whether a packet from `source` may ask for `requested`; `None` is the source of the packet.
    pub fn permits(self, requested: Option<IpAddr>, source: IpAddr) -> bool {
        match self {
            AddressPolicy::Source => requested.is_none_or(|address| address == source.to_canonical()),
            AddressPolicy::Strict => requested == Some(source.to_canonical()),
            AddressPolicy::Any => true,
        }
    }
}

/// What a key may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyOptions {
    /// `from=`: which addresses a packet may come from. `None`: any.
    pub from: Option<AddressList>,
    /// `expiry-time=`: the key is refused from this time on.
    pub expires: Option<UnixTime>,
    /// `no-touch-required` and `verify-required`: what a FIDO key has to prove.
    pub presence: Presence,
    /// `rules=`: the rules that the key may ask for. `None`: all that accept signed packets.
    pub rules: Option<Vec<RuleName>>,
    /// `address=`: which addresses it may ask for.
    pub address: AddressPolicy,
    /// `wide`: whether it may ask for the prefix of an address.
    pub wide: bool,
}

/// Options can't be used, so the line is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// A quote without its end.
    #[error("a `\"` in the options has no second one; write values as in `from=\"192.0.2.0/24\"`")]
    Quote,
    /// Nothing between two commas.
    #[error("an option is empty; write options with one comma between them and no blanks")]
    Empty,
    /// Not an option that means something here.
    #[error(
        "there is no option `{name}` for signed packets; delete it, or write from, expiry-time, no-touch-required, \
         verify-required, rules, address or wide"
    )]
    Unknown {
        /// The start of the option.
        name: String,
    },
    /// The same option twice.
    #[error("option `{name}` is there twice; write it once")]
    Twice {
        /// Its name.
        name: &'static str,
    },
    /// A value in quotes is missing.
    #[error("option `{name}` has no value in double quotes; write it as in `{example}`")]
    Value {
        /// Its name.
        name: &'static str,
        /// A correct option.
        example: &'static str,
    },
    /// A value that must not be there.
    #[error("option `{name}` has a value, which it can't have; write `{name}` alone")]
    NoValue {
        /// Its name.
        name: &'static str,
    },
    /// The value of `from`.
    #[error("option `from`: {0}")]
    From(#[from] AddressListError),
    /// The value of `expiry-time`.
    #[error("option `expiry-time`: `{text}` is not a time in UTC; write it as in `20271231Z` or `202712312359Z`")]
    Expiry {
        /// The start of the value.
        text: String,
    },
    /// The value of `rules`.
    #[error("option `rules`: {0}")]
    Rules(#[from] RuleNameError),
    /// The value of `address`.
    #[error("option `address`: `{text}` is not source, strict or any")]
    Address {
        /// The start of the value.
        text: String,
    },
    /// A key that no device holds can't prove a touch.
    #[error("option `{name}` is for keys of FIDO devices only, whose type begins with `sk-`; delete it")]
    NotFido {
        /// Its name.
        name: &'static str,
    },
}

/// Divides a line into its options and what follows them.
pub(super) fn split(line: &str) -> Result<(&str, &str), OptionError> {
    let end = unquoted(line, b" \t")?.unwrap_or(line.len());
    let (options, rest) = line.split_at(end);
    Ok((options, rest.trim_start()))
}

/// Where the first of these bytes is outside of quotes. As in sshd, `\"` inside of quotes does not end them.
fn unquoted(text: &str, wanted: &[u8]) -> Result<Option<usize>, OptionError> {
    let (mut quoted, mut escaped) = (false, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'"' if !escaped => quoted = !quoted,
            _ if !quoted && wanted.contains(&byte) => return Ok(Some(index)),
            _ => {}
        }
        escaped = quoted && byte == b'\\' && !escaped;
    }
    if quoted { Err(OptionError::Quote) } else { Ok(None) }
}

impl KeyOptions {
    /// Reads options, which have no blanks outside of quotes.
    pub(super) fn parse(text: &str, key_type: KeyType) -> Result<KeyOptions, OptionError> {
        let mut read = Options::default();
        let mut rest = text;
        while !text.is_empty() {
            let comma = unquoted(rest, b",")?;
            read.add(&rest[..comma.unwrap_or(rest.len())])?;
            let Some(comma) = comma else { break };
            rest = &rest[comma + 1..];
        }
        read.finish(key_type)
    }
}

/// The options so far, each at most once.
#[derive(Default)]
struct Options {
    from: Option<AddressList>,
    expires: Option<UnixTime>,
    no_touch: Option<()>,
    verify: Option<()>,
    rules: Option<Vec<RuleName>>,
    address: Option<AddressPolicy>,
    wide: Option<()>,
}

impl Options {
    fn add(&mut self, option: &str) -> Result<(), OptionError> {
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        // sshd does not distinguish capitals in names either.
        match name.to_ascii_lowercase().as_str() {
            "" => Err(OptionError::Empty),
            "from" => {
                let value = quoted("from", value, "from=\"192.0.2.0/24\"")?;
                once("from", &mut self.from, value.parse()?)
            }
            "expiry-time" => {
                let value = quoted("expiry-time", value, "expiry-time=\"20271231Z\"")?;
                let time = expiry::parse(value).ok_or_else(|| OptionError::Expiry { text: excerpt(value) })?;
                once("expiry-time", &mut self.expires, time)
            }
            "rules" => {
                let value = quoted("rules", value, "rules=\"ssh,web\"")?;
                let rules = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                once("rules", &mut self.rules, rules)
            }
            "address" => {
                let policy = match quoted("address", value, "address=\"strict\"")? {
                    "source" => AddressPolicy::Source,
                    "strict" => AddressPolicy::Strict,
                    "any" => AddressPolicy::Any,
                    other => return Err(OptionError::Address { text: excerpt(other) }),
                };
                once("address", &mut self.address, policy)
            }
            "no-touch-required" => flag("no-touch-required", value, &mut self.no_touch),
            "verify-required" => flag("verify-required", value, &mut self.verify),
            "wide" => flag("wide", value, &mut self.wide),
            _ => Err(OptionError::Unknown { name: excerpt(name) }),
        }
    }

    fn finish(self, key_type: KeyType) -> Result<KeyOptions, OptionError> {
        for (name, option) in [("no-touch-required", self.no_touch), ("verify-required", self.verify)] {
            if option.is_some() && !key_type.is_fido() {
                return Err(OptionError::NotFido { name });
            }
        }
        let presence = match (self.verify, self.no_touch) {
            (Some(()), no_touch) => Presence::Verification { touch: no_touch.is_none() },
            (None, Some(())) => Presence::Nothing,
            (None, None) => Presence::Touch,
        };
        Ok(KeyOptions {
            from: self.from,
            expires: self.expires,
            presence,
            rules: self.rules,
            address: self.address.unwrap_or_default(),
            wide: self.wide.is_some(),
        })
    }
}

fn once<T>(name: &'static str, place: &mut Option<T>, value: T) -> Result<(), OptionError> {
    if place.replace(value).is_some() { Err(OptionError::Twice { name }) } else { Ok(()) }
}

fn flag(name: &'static str, value: Option<&str>, place: &mut Option<()>) -> Result<(), OptionError> {
    if value.is_some() { Err(OptionError::NoValue { name }) } else { once(name, place, ()) }
}

/// The value between its quotes. No value here can have a quote or a backslash in it.
fn quoted<'v>(name: &'static str, value: Option<&'v str>, example: &'static str) -> Result<&'v str, OptionError> {
    let inner = value.and_then(|value| value.strip_prefix('"')?.strip_suffix('"'));
    inner.filter(|inner| !inner.contains('"')).ok_or(OptionError::Value { name, example })
}
