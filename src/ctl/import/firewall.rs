//! Commands that open or close ports: iptables, ip6tables, ufw, firewall-cmd, nft.
//!
//! Each grammar fills a [`Draft`], whose [`Draft::finish`] decides what it means. A command is known only if a grant,
//! or the managed table, has the same effect; else there is a reason why it is not.

mod firewalld;
mod iptables;
mod nft;
mod services;
mod ufw;

use std::collections::BTreeSet;
use std::time::Duration;

use knock_config::excerpt;
use knock_proto::{Port, PortRange, Protocol};

use super::shell;

/// The ports or the set that a command opens or closes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Opening {
    /// Ports of this host, and ranges of them.
    Ports(BTreeSet<PortRange>),
    /// An element in an nftables set, `FAMILY TABLE SET`.
    Set(String),
}

/// What a command does to an [`Opening`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Opens it for `%IP%`.
    Open,
    /// Takes that back.
    Close,
    /// Closes it for everybody, as the managed table does.
    Guard,
    /// Takes that back.
    Unguard,
}

/// The effect of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) act: Act,
    pub(super) opening: Opening,
    /// The firewall takes it back by itself after this time.
    pub(super) expires: Option<Duration>,
    /// What the command was limited to, and no grant is.
    pub(super) limit: Option<String>,
}

/// The effect of `command`.
///
/// # Errors
///
/// The reason why no grant and no managed table can replace it, as a clause for a note.
pub(super) fn effect_of(command: &str) -> Result<Effect, String> {
    let commands = shell::commands(command).map_err(|character| {
        format!("import reads no shell commands with `{character}`; replace the command yourself")
    })?;
    let mut effects = commands.iter().map(|words| effect_of_words(words));
    let mut whole = effects.next().ok_or("it is empty")??;
    for effect in effects {
        let effect = effect?;
        match (&mut whole.opening, effect.opening) {
            (Opening::Ports(all), Opening::Ports(more)) if whole.act == effect.act => all.extend(more),
            (Opening::Set(set), Opening::Set(other)) if whole.act == effect.act && *set == other => {}
            _ => return Err("it runs several commands with different effects; write a rule for each".to_owned()),
        }
        whole.expires = whole.expires.max(effect.expires);
        whole.limit = whole.limit.or(effect.limit);
    }
    Ok(whole)
}

fn effect_of_words(words: &[String]) -> Result<Effect, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let words = words.strip_prefix(&["sudo"]).unwrap_or(&words);
    let (program, arguments) = words.split_first().ok_or("it is empty")?;
    match (program.rsplit('/').next().unwrap_or_default(), arguments) {
        ("sh" | "bash", ["-c", script]) => effect_of(script),
        (
            "iptables" | "ip6tables" | "iptables-nft" | "ip6tables-nft" | "iptables-legacy" | "ip6tables-legacy",
            arguments,
        ) => iptables::draft(arguments)?.finish(),
        ("ufw", arguments) => ufw::draft(arguments)?.finish(),
        ("firewall-cmd", arguments) => firewalld::draft(arguments)?.finish(),
        ("nft", arguments) => nft::effect(arguments),
        ("ipset", _) => {
            Err("an ipset is not an nftables set; make a set with the timeout flag, and name it in `allow.set`"
                .to_owned())
        }
        _ => Err(format!("`{}` is not a firewall command that import knows", excerpt(program))),
    }
}

/// What a command says so far.
#[derive(Debug, Default)]
struct Draft<'a> {
    /// Whether it adds or deletes.
    adds: Option<bool>,
    source: Option<&'a str>,
    /// Accept or drop.
    accepts: Option<bool>,
    protocol: Option<&'a str>,
    /// A list of ports and ranges with commas.
    ports: Option<&'a str>,
    /// Ports that a name stands for, with their protocols.
    named: BTreeSet<Port>,
    expires: Option<Duration>,
    limit: Option<String>,
}

impl Draft<'_> {
    fn finish(self) -> Result<Effect, String> {
        let adds = self.adds.ok_or("it adds and deletes nothing")?;
        let accepts = self.accepts.ok_or("it neither accepts nor drops packets")?;
        let act = match (adds, accepts, self.source) {
            (true, true, Some(source)) if is_source(source) => Act::Open,
            (false, true, Some(source)) if is_source(source) => Act::Close,
            (true, false, None) => Act::Guard,
            (false, false, None) => Act::Unguard,
            (_, _, Some(source)) if !is_source(source) => {
                return Err(format!("it is for the address `{}`, not for %IP%", excerpt(source)));
            }
            (_, true, _) => return Err("it is for every address, not for %IP% alone".to_owned()),
            (_, false, _) => return Err("it drops packets of the address, which no grant does".to_owned()),
        };
        let mut ports: BTreeSet<PortRange> = self.named.into_iter().map(PortRange::from).collect();
        if let Some(list) = self.ports {
            for protocol in protocols(self.protocol)? {
                for text in list.split(',') {
                    ports.insert(range(text, protocol)?);
                }
            }
        }
        if ports.is_empty() {
            return Err("it is for every port, but a grant opens the ports that it names; name them in `allow.ports`"
                .to_owned());
        }
        Ok(Effect { act, opening: Opening::Ports(ports), expires: self.expires, limit: self.limit })
    }
}

fn is_source(text: &str) -> bool {
    matches!(text, "%IP%" | "%IP%/32" | "%IP%/128")
}

fn protocols(name: Option<&str>) -> Result<Vec<Protocol>, String> {
    match name {
        Some("tcp" | "6") => Ok(vec![Protocol::Tcp]),
        Some("udp" | "17") => Ok(vec![Protocol::Udp]),
        Some("any") => Ok(vec![Protocol::Tcp, Protocol::Udp]),
        Some(other) => Err(format!("it is for the protocol `{}`, not for tcp or udp", excerpt(other))),
        None => Err("it names a port without a protocol, which the firewall refuses".to_owned()),
    }
}

/// A port, or a range: `A:B`, with firewall-cmd `A-B`. iptables lets one end out.
fn range(text: &str, protocol: Protocol) -> Result<PortRange, String> {
    let is_number = |end: &str| end.bytes().all(|byte| byte.is_ascii_digit());
    let (first, last) = match text.split_once([':', '-']).filter(|(first, last)| is_number(first) && is_number(last)) {
        Some((first, last)) => {
            let end = |end: &str, default| if end.is_empty() { Ok(default) } else { number(end) };
            (end(first, 1)?, end(last, u16::MAX)?)
        }
        None => {
            let single = number(text)?;
            (single, single)
        }
    };
    if first > last {
        return Err(format!("its range `{}` ends below its start, which the firewall refuses", excerpt(text)));
    }
    Ok(PortRange { protocol, first, last })
}

fn number(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number
        .or_else(|| services::port(text))
        .ok_or_else(|| format!("`{}` is not a port that import knows; write its number", excerpt(text)))
}

/// A time of nft or firewall-cmd, such as `90`, `1h30m`; a number without its unit is seconds.
fn time(text: &str) -> Result<Duration, String> {
    let not_a_time = || format!("`{}` is not a time that import knows", excerpt(text));
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| not_a_time())?;
        let unit = match rest[digits..].chars().next() {
            Some('s') | None => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err(not_a_time()),
        };
        total = number.checked_mul(unit).and_then(|seconds| total.checked_add(seconds)).ok_or_else(not_a_time)?;
        rest = rest.get(digits + 1..).unwrap_or_default();
    }
    // From a second to a year, as a grant lasts.
    (1..=365 * 86_400).contains(&total).then(|| Duration::from_secs(total)).ok_or_else(not_a_time)
}
