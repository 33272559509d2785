//! Names of nftables tables and sets (nft(8), LEXICAL CONVENTIONS).

use crate::model::{Family, SetName};
use crate::problem::{Cause, excerpt};

/// The words that nft 1.0.6 refuses as the name of a table. nft then cannot list a table of that name which was made
/// over netlink. Found by asking `nft --check` for every word of its grammar.
const KEYWORDS: &[&str] = &[
    "accept",
    "add",
    "ah",
    "all",
    "arp",
    "auto-merge",
    "bridge",
    "cgroup",
    "chain",
    "comment",
    "comp",
    "constant",
    "continue",
    "counter",
    "cpu",
    "create",
    "ct",
    "day",
    "dccp",
    "define",
    "delete",
    "describe",
    "device",
    "devices",
    "dnat",
    "drop",
    "dst",
    "dup",
    "dynamic",
    "ecn",
    "element",
    "elements",
    "esp",
    "ether",
    "exists",
    "expires",
    "export",
    "exthdr",
    "fib",
    "flags",
    "flow",
    "flowtable",
    "flush",
    "frag",
    "fwd",
    "gc-interval",
    "get",
    "goto",
    "handle",
    "hbh",
    "hook",
    "hour",
    "ibriport",
    "ibrname",
    "icmp",
    "icmpv6",
    "igmp",
    "iif",
    "iifgroup",
    "iifname",
    "iiftype",
    "import",
    "include",
    "index",
    "inet",
    "insert",
    "interval",
    "ip",
    "ip6",
    "ipsec",
    "jhash",
    "jump",
    "limit",
    "list",
    "log",
    "map",
    "mark",
    "masquerade",
    "meta",
    "meter",
    "mh",
    "missing",
    "monitor",
    "netdev",
    "nftrace",
    "notrack",
    "numgen",
    "obriport",
    "obrname",
    "offload",
    "oif",
    "oifgroup",
    "oifname",
    "oiftype",
    "or",
    "osf",
    "pkttype",
    "policy",
    "position",
    "priority",
    "queue",
    "quota",
    "random",
    "redefine",
    "redirect",
    "reject",
    "rename",
    "replace",
    "reset",
    "return",
    "rt",
    "rt0",
    "rt2",
    "rtclassid",
    "rule",
    "ruleset",
    "sctp",
    "secmark",
    "set",
    "size",
    "skgid",
    "skuid",
    "snat",
    "socket",
    "srh",
    "symhash",
    "synproxy",
    "table",
    "tcp",
    "th",
    "time",
    "timeout",
    "tproxy",
    "type",
    "typeof",
    "udp",
    "udplite",
    "undefine",
    "update",
    "vlan",
    "vmap",
    "xt",
];

/// Whether nft can write that name, keywords apart: at most 255 bytes (NFT_NAME_MAXLEN of
/// linux/netfilter/nf_tables.h is 256 with the final NUL).
fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 255
        && bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte))
}

/// Checks the name of the managed table, which nft must be able to list.
pub(crate) fn check_table(name: &str) -> Result<(), Cause> {
    if !is_name(name) {
        return Err(Cause::NftName { value: quoted(name) });
    }
    if KEYWORDS.binary_search(&name).is_ok() {
        return Err(Cause::NftKeyword { name: name.to_owned() });
    }
    Ok(())
}

/// The set that `text`, `FAMILY TABLE SET`, names.
///
/// # Errors
///
/// What is wrong with it, and what to write instead.
pub fn set_name(text: &str) -> Result<SetName, Cause> {
    let mut words = text.split_whitespace();
    let (Some(family), Some(table), Some(set), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err(Cause::SetName { value: quoted(text) });
    };
    let family = match family {
        "ip" => Family::Ip,
        "ip6" => Family::Ip6,
        "inet" => Family::Inet,
        "bridge" => Family::Bridge,
        "netdev" => Family::Netdev,
        other => return Err(Cause::SetFamily { family: excerpt(other) }),
    };
    match [table, set].into_iter().find(|name| !is_name(name)) {
        Some(name) => Err(Cause::NftName { value: quoted(name) }),
        None => Ok(SetName { family, table: table.to_owned(), set: set.to_owned() }),
    }
}

/// `text` as the file writes it, for a message.
fn quoted(text: &str) -> String {
    format!("\"{}\"", excerpt(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keywords_are_sorted_for_the_search() {
        assert!(KEYWORDS.is_sorted());
        assert!(check_table("rt").is_err() && check_table("add").is_err() && check_table("xt").is_err());
    }

    #[test]
    fn a_name_is_what_nft_can_write() {
        for name in ["knockd", "_a", "a-b", "a/b", "a.b", "A1", &"a".repeat(255)] {
            assert_eq!(check_table(name), Ok(()), "{name}");
        }
        for name in ["", "9a", "-", ".", "a b", "ä", "a\"", "a\\b", &"a".repeat(256)] {
            assert!(matches!(check_table(name), Err(Cause::NftName { .. })), "{name}");
        }
    }

    #[test]
    fn a_set_is_named_by_family_table_and_set() {
        let expected = SetName { family: Family::Inet, table: "filter".to_owned(), set: "knock_ssh4".to_owned() };
        assert_eq!(set_name(" inet  filter knock_ssh4 "), Ok(expected));
    }
}
