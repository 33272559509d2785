//! Names that the kernel takes and nft can read back.

use crate::error::Error;

/// `NFT_NAME_MAXLEN` without the final NUL.
const TABLE_NAME_MAX: usize = 255;
/// `IFNAMSIZ` without the final NUL.
const INTERFACE_NAME_MAX: usize = 15;

/// Words of nft's language that it does not take for a name. The kernel would, but then nobody could list or delete the
/// table with nft, nor load its listing again.
#[rustfmt::skip]
const KEYWORDS: &[&str] = &[
    "accept", "add", "ah", "all", "and", "arp", "auto-merge", "bridge", "cgroup", "chain", "chains", "comment",
    "comp", "constant", "continue", "counter", "counters", "cpu", "create", "ct", "day", "dccp", "define", "delete",
    "describe", "destroy", "device", "devices", "dnat", "drop", "dst", "dup", "dynamic", "ecn", "element",
    "elements", "eq", "esp", "ether", "exists", "expires", "export", "exthdr", "fib", "flags", "flow", "flowtable",
    "flowtables", "flush", "frag", "fwd", "gc-interval", "ge", "geneve", "get", "goto", "gre", "gretap", "gt",
    "handle", "hbh", "helpers", "hook", "hooks", "hour", "ibriport", "ibrname", "icmp", "icmpv6", "igmp", "iif",
    "iifgroup", "iifname", "iiftype", "import", "include", "index", "inet", "insert", "interval", "ip", "ip6",
    "ipsec", "jhash", "jump", "last", "le", "limit", "limits", "list", "log", "lshift", "lt", "map", "maps", "mark",
    "masquerade", "meta", "meter", "meters", "mh", "missing", "monitor", "ne", "netdev", "nftrace", "not",
    "notrack", "numgen", "obriport", "obrname", "offload", "oif", "oifgroup", "oifname", "oiftype", "or", "osf",
    "pkttype", "policy", "position", "priority", "queue", "quota", "quotas", "random", "redefine", "redirect",
    "reject", "rename", "replace", "reset", "return", "rshift", "rt", "rt0", "rt2", "rtclassid", "rule", "rules",
    "ruleset", "sctp", "secmark", "secmarks", "set", "sets", "size", "skgid", "skuid", "snat", "socket", "srh",
    "symhash", "synproxy", "synproxys", "table", "tables", "tcp", "th", "time", "timeout", "tproxy", "tunnel",
    "tunnels", "type", "typeof", "udp", "udplite", "undefine", "update", "vlan", "vmap", "vni", "vxlan", "xor",
    "xt",
];

/// Checks that a table of that name can be made, and listed with nft: a letter, then letters, digits, `_`, `.`, `-` and
/// `/`, at most 255, and no keyword of nft's.
///
/// # Errors
/// [`Error::TableName`] with the rule that the name breaks.
pub fn check_table_name(name: &str) -> Result<(), Error> {
    let fail = |reason| Err(Error::TableName { name: name.to_owned(), reason });
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return fail("it must start with a letter");
    }
    if !name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-' | '/')) {
        return fail("only letters, digits, `_`, `.`, `-` and `/` may stand in it");
    }
    if name.len() > TABLE_NAME_MAX {
        return fail("it may have at most 255 characters");
    }
    if KEYWORDS.contains(&name) {
        return fail("it is a word of nft's language, and nft could not list the table; choose another");
    }
    Ok(())
}

/// Checks a name as the kernel does (`dev_valid_name`).
pub(crate) fn check_interface_name(name: &str) -> Result<(), Error> {
    let valid = (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte != 0 && byte != b'/' && byte != b':' && !byte.is_ascii_whitespace());
    if valid { Ok(()) } else { Err(Error::InterfaceName { name: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nft_could_not_list_is_no_table_name() {
        for name in ["", "1a", "_a", "-", "a b", "a;b", "ä", "a\0b", "rt", "inet", "ip6", &"a".repeat(256)] {
            assert!(matches!(check_table_name(name), Err(Error::TableName { .. })), "{name}");
        }
        for name in ["knockd", "a", "Knock_2.b-c/d", "knockd-rt", &"a".repeat(255)] {
            assert_eq!(check_table_name(name), Ok(()));
        }
    }

    #[test]
    fn an_interface_name_is_one_that_the_kernel_takes() {
        for name in ["lo", "wg-home0", "eth0.100", "abcdefghijklmno"] {
            assert_eq!(check_interface_name(name), Ok(()));
        }
        for name in ["", "abcdefghijklmnop", "a/b", "a b", "a:b", "a\0"] {
            assert!(check_interface_name(name).is_err(), "{name}");
        }
    }
}
