//! Commands that open or close ports for the source address: iptables, ip6tables, ufw, firewall-cmd, nft.

use std::collections::BTreeSet;

use knock_proto::{Port, Protocol, SetName};

/// The ports or the set that a command opens or closes for `%IP%`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Ports of this host.
    Ports(BTreeSet<Port>),
    /// An element in an nftables set, `FAMILY TABLE SET`.
    Set(String),
}

/// Whether a command opens or closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Open,
    Close,
}

/// The effect of `command`, if it is a known command without further effects.
pub(super) fn recognise(command: &str) -> Option<(Act, Opening)> {
    let words = words(command)?;
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words.first() == Some(&"sudo") {
        words.remove(0);
    }
    let (program, arguments) = words.split_first()?;
    match program.rsplit('/').next()? {
        "iptables" | "ip6tables" | "iptables-nft" | "ip6tables-nft" | "iptables-legacy" | "ip6tables-legacy" => {
            iptables(arguments)
        }
        "ufw" => ufw(arguments),
        "firewall-cmd" => firewall_cmd(arguments),
        "nft" => nft(arguments),
        _ => None,
    }
}

/// The words of a simple shell command; `None` for any other command.
fn words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in command.chars() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (Some('"'), '$' | '`' | '\\') => return None,
            (Some(_), inside) => word.get_or_insert_default().push(inside),
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ';' | '&' | '|' | '<' | '>' | '$' | '`' | '(' | ')' | '\\' | '*' | '?' | '#') => return None,
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            (None, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

fn is_source(text: &str) -> bool {
    matches!(text, "%IP%" | "%IP%/32" | "%IP%/128")
}

fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// Ports with commas between them; a range is not converted.
fn ports(protocol: Protocol, list: &str) -> Option<Opening> {
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|number| *number > 0).map(|number| Port { protocol, number });
    Some(Opening::Ports(list.split(',').map(port).collect::<Option<_>>()?))
}

fn iptables(arguments: &[&str]) -> Option<(Act, Opening)> {
    let mut act = None;
    let (mut source, mut accept) = (false, false);
    let (mut proto, mut list) = (None, None);
    let mut rest = arguments.iter().copied().peekable();
    while let Some(word) = rest.next() {
        match word {
            "-A" | "--append" | "-I" | "--insert" | "-D" | "--delete" => {
                act = Some(if word == "-D" || word == "--delete" { Act::Close } else { Act::Open });
                // Other chains do not see the packets to this host.
                (rest.next()? == "INPUT").then_some(())?;
                rest.next_if(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
            }
            "-s" | "--source" | "--src" => source = is_source(rest.next()?),
            "-p" | "--protocol" | "--proto" => proto = Some(protocol(rest.next()?)?),
            "--dport" | "--destination-port" | "--dports" | "--destination-ports" => list = rest.next(),
            "-j" | "--jump" => accept = rest.next()? == "ACCEPT",
            "-m" | "--match" => {
                matches!(rest.next()?, "tcp" | "udp" | "multiport" | "state" | "conntrack" | "comment").then_some(())?;
            }
            "--state" | "--ctstate" => rest.next()?.split(',').any(|state| state == "NEW").then_some(())?,
            "--comment" => drop(rest.next()?),
            "--syn" => {}
            "-w" | "--wait" => drop(rest.next_if(|number| number.bytes().all(|byte| byte.is_ascii_digit()))),
            _ => return None,
        }
    }
    if !source || !accept {
        return None;
    }
    Some((act?, ports(proto?, list?)?))
}

fn ufw(arguments: &[&str]) -> Option<(Act, Opening)> {
    let (act, rest) = match arguments {
        ["delete", "allow", rest @ ..] => (Act::Close, rest),
        ["insert", _, "allow", rest @ ..] | ["prepend", "allow", rest @ ..] | ["allow", rest @ ..] => (Act::Open, rest),
        _ => return None,
    };
    let rest = match rest {
        ["proto", proto, rest @ ..] => (Some(*proto), rest),
        rest => (None, rest),
    };
    let (proto, port) = match rest {
        (proto, ["from", source, "to", "any", "port", port]) if is_source(source) => (proto, port),
        (None, ["from", source, "to", "any", "port", port, "proto", proto]) if is_source(source) => {
            (Some(*proto), port)
        }
        _ => return None,
    };
    let opening = match proto {
        Some(proto) => ports(protocol(proto)?, port)?,
        // Without a protocol ufw opens the port for both.
        None => match (ports(Protocol::Tcp, port)?, ports(Protocol::Udp, port)?) {
            (Opening::Ports(tcp), Opening::Ports(udp)) => Opening::Ports(tcp.union(&udp).copied().collect()),
            _ => return None,
        },
    };
    Some((act, opening))
}

fn firewall_cmd(arguments: &[&str]) -> Option<(Act, Opening)> {
    let mut found = None;
    let mut rest = arguments.iter().copied();
    while let Some(word) = rest.next() {
        let (option, value) = word.split_once('=').map_or((word, None), |(option, value)| (option, Some(value)));
        match option {
            "--add-rich-rule" => found = Some((Act::Open, value.or_else(|| rest.next())?)),
            "--remove-rich-rule" => found = Some((Act::Close, value.or_else(|| rest.next())?)),
            "--quiet" | "-q" => {}
            _ => return None,
        }
    }
    let (act, rule) = found?;
    let (mut source, mut accept) = (false, false);
    let (mut proto, mut list) = (None, None);
    for word in rule.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let value = value.trim_matches(['"', '\'']);
        match key {
            "rule" | "family" | "source" => {}
            "address" => source = is_source(value),
            "port" if value.is_empty() => {}
            "port" => list = Some(value),
            "protocol" => proto = protocol(value),
            "accept" => accept = true,
            _ => return None,
        }
    }
    if !source || !accept {
        return None;
    }
    Some((act, ports(proto?, list?)?))
}

/// `nft add element FAMILY TABLE SET { %IP% }`. An nftables rule is deleted by its handle, and no command knows that in advance.
fn nft(arguments: &[&str]) -> Option<(Act, Opening)> {
    let text = arguments.join(" ").replace(['{', '}'], " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let (act, name, element) = match &words[..] {
        ["add", "element", family, table, set, element @ ..] => (Act::Open, [family, table, set], element),
        ["delete", "element", family, table, set, element @ ..] => (Act::Close, [family, table, set], element),
        _ => return None,
    };
    let alone = matches!(element, ["%IP%"]) || (act == Act::Open && matches!(element, ["%IP%", "timeout", _]));
    let name = name.map(|word| *word).join(" ");
    (alone && name.parse::<SetName>().is_ok()).then_some((act, Opening::Set(name)))
}
