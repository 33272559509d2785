//! Names of nftables tables and sets (nft(8), LEXICAL CONVENTIONS), and of network interfaces.
//!
//! A value of these types keeps the rules of its name, so nothing behind the configuration checks it again.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::str::FromStr;

/// `NFT_NAME_MAXLEN` of linux/netfilter/nf_tables.h without the final NUL.
const NFT_NAME_MAX: usize = 255;
/// `IFNAMSIZ` of linux/if.h without the final NUL.
const INTERFACE_NAME_MAX: usize = 15;
/// `ALTIFNAMSIZ` of linux/if.h without the final NUL.
const ALTERNATIVE_NAME_MAX: usize = 127;

/// The words of nft's language that are no names of tables: those that nft 1.0.6 refuses in `list table`, `delete table`
/// or a listing that is loaded, and those of later versions. The kernel would take them.
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
    "masquerade", "meta", "meter", "meters", "mh", "missing", "monitor", "ne", "netdev", "nftrace", "not", "notrack",
    "numgen", "obriport", "obrname", "offload", "oif", "oifgroup", "oifname", "oiftype", "or", "osf", "pkttype",
    "policy", "position", "priority", "queue", "quota", "quotas", "random", "redefine", "redirect", "reject",
    "rename", "replace", "reset", "return", "rshift", "rt", "rt0", "rt2", "rtclassid", "rule", "rules", "ruleset",
    "sctp", "secmark", "secmarks", "set", "sets", "size", "skgid", "skuid", "snat", "socket", "srh", "symhash",
    "synproxy", "synproxys", "table", "tables", "tcp", "th", "time", "timeout", "tproxy", "tunnel", "tunnels",
    "type", "typeof", "udp", "udplite", "undefine", "update", "vlan", "vmap", "vni", "vxlan", "xor", "xt",
];

/// A text is no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName {
    /// The part of the text that breaks the rule.
    pub text: String,
    /// What it is not, and what to write: `is not …; write …`.
    pub reason: &'static str,
}

impl InvalidName {
    fn new(text: &str, reason: &'static str) -> InvalidName {
        InvalidName { text: text.to_owned(), reason }
    }
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.text, self.reason)
    }
}

impl std::error::Error for InvalidName {}

/// The name of the managed table: one that the kernel takes, and that nft can list, delete and load again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableName(String);

impl Deref for TableName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Default for TableName {
    fn default() -> TableName {
        TableName("knockd".to_owned())
    }
}

impl FromStr for TableName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<TableName, InvalidName> {
        if !is_nft_name(text) || text.starts_with('_') {
            let reason = "is not a name that nft can write; write letters, digits, `_`, `.`, `-` and `/`, \
                          a letter first, at most 255";
            return Err(InvalidName::new(text, reason));
        }
        if KEYWORDS.contains(&text) {
            let reason = "is a word of nft's language, so nft could not list that table; \
                          write another name, such as `knockd`";
            return Err(InvalidName::new(text, reason));
        }
        Ok(TableName(text.to_owned()))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The address family of an nftables table (nft(8), ADDRESS FAMILIES) that can hold a set of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// IPv4 and IPv6.
    Inet,
    /// Packets that a bridge forwards.
    Bridge,
    /// Packets at the ingress or egress of a device.
    Netdev,
}

impl Family {
    const ALL: [Family; 5] = [Family::Ip, Family::Ip6, Family::Inet, Family::Bridge, Family::Netdev];

    /// The kernel's number (`NFPROTO_…` in linux/netfilter.h).
    pub const fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Ip => 2,
            Family::Netdev => 5,
            Family::Bridge => 7,
            Family::Ip6 => 10,
        }
    }

    /// The family of that number.
    pub fn from_number(number: u8) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.number() == number)
    }

    /// The name that nft uses.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Inet => "inet",
            Family::Bridge => "bridge",
            Family::Netdev => "netdev",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The full name of an nftables set: `inet filter knock_ssh4`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName {
    family: Family,
    table: String,
    set: String,
}

impl SetName {
    /// The address family of its table.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The name of its table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Its name in the table.
    pub fn set(&self) -> &str {
        &self.set
    }
}

impl FromStr for SetName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<SetName, InvalidName> {
        let mut words = text.split_whitespace();
        let (Some(family), Some(table), Some(set), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            let reason = "is not the name of a set; write \"FAMILY TABLE SET\", as in \"inet filter knock_ssh4\"";
            return Err(InvalidName::new(text, reason));
        };
        let Some(family) = Family::ALL.into_iter().find(|known| known.name() == family) else {
            let reason = "is not a family of tables that hold addresses; write ip, ip6, inet, bridge or netdev";
            return Err(InvalidName::new(family, reason));
        };
        if let Some(name) = [table, set].into_iter().find(|name| !is_nft_name(name)) {
            let reason = "is not a name that nft can write; write letters, digits, `_`, `.`, `-` and `/`, \
                          a letter or `_` first, at most 255";
            return Err(InvalidName::new(name, reason));
        }
        Ok(SetName { family, table: table.to_owned(), set: set.to_owned() })
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.set)
    }
}

/// Whether nft can write that name, words of its language apart.
fn is_nft_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= NFT_NAME_MAX
        && bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte))
}

/// What a configuration calls a network interface, which need not exist: its name, one of its alternative names
/// (ip-link(8), `property add altname`), or a pattern: the beginning of names and `*` or `+`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The beginning of the names that a pattern is for, never empty; `None`: it is no pattern.
    pub fn prefix(&self) -> Option<&str> {
        self.0.strip_suffix(['*', '+'])
    }

    /// Whether it is too long for a name, so that only an alternative name can be meant.
    pub fn is_alternative(&self) -> bool {
        self.prefix().is_none() && self.0.len() > INTERFACE_NAME_MAX
    }

    /// Whether an interface of that name is meant. Alternative names of the interface do not count for a pattern, as in
    /// nftables.
    pub fn matches(&self, name: &str) -> bool {
        self.prefix().map_or(self.0 == name, |prefix| name.starts_with(prefix))
    }
}

impl Deref for InterfaceName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidName;

    /// Follows `dev_valid_name()` of net/core/dev.c, and refuses control characters, which could drive a terminal. It
    /// also refuses what the kernel would take, and nobody means.
    fn from_str(text: &str) -> Result<InterfaceName, InvalidName> {
        match not_meant(text).or_else(|| not_valid(text)) {
            Some(reason) => Err(InvalidName::new(text, reason)),
            None => Ok(InterfaceName(text.to_owned())),
        }
    }
}

/// Why the kernel would take no interface of that name.
fn not_valid(text: &str) -> Option<&'static str> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    if text.is_empty() || text == "." || text == ".." || text.contains(forbidden) {
        let reason = "is not the name of an interface; write 1 to 15 bytes without blanks, `/`, `:` or `%`, as in \
                      \"eth0\"";
        return Some(reason);
    }
    match text.strip_suffix(['*', '+']) {
        Some(prefix) if prefix.len() > INTERFACE_NAME_MAX => Some(
            "is a pattern of more than 15 bytes, and no name of an interface is so long; write a shorter beginning of \
             the names",
        ),
        None if text.len() > ALTERNATIVE_NAME_MAX => Some(
            "is too long; the name of an interface has at most 15 bytes, an alternative name (ip link property add) at \
             most 127",
        ),
        _ => None,
    }
}

/// Values that are no name, but something else that people write in such a place. The kernel would take some of them.
fn not_meant(text: &str) -> Option<&'static str> {
    if text.parse::<IpAddr>().is_ok() {
        return Some("is an address; write the name of the interface that has it, as in \"eth0\"");
    }
    let every = ["any", "all", "default", "*", "+"].iter().any(|every| text.eq_ignore_ascii_case(every));
    if every && text != "any" {
        return Some("is not the name of an interface; write \"any\" for every interface");
    }
    let inner = text.strip_suffix(['*', '+']).unwrap_or(text);
    let has = |characters: &[char]| inner.contains(characters);
    let (before, after) = text.split_once(':').unwrap_or((text, ""));
    if !before.is_empty() && !after.is_empty() && after.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Some(
            "is the label of an address and not the name of an interface; write the part before the `:`, as in \"eth0\"",
        );
    }
    if text.starts_with('!') {
        return Some("excludes an interface, which is not possible; write the names of all others");
    }
    if has(&['@']) {
        return Some("is a name and the name of its peer, as ip(8) shows them; write the part before the `@`");
    }
    if has(&[',', ';', '|']) || inner.trim().contains(char::is_whitespace) {
        return Some("is more than one name; write each name as an element of a list, [\"eth0\", \"eth1\"]");
    }
    has(&['*', '?', '[', ']', '{', '}']).then_some(
        "has a wildcard that is not known; write the beginning of the names and a `*` at the end, as in \"br-*\"",
    )
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_name_that_nft_can_list() {
        for name in ["knockd", "a", "Knock_2.b-c/d", "knockd-rt", &"a".repeat(255)] {
            assert_eq!(name.parse::<TableName>().expect(name).to_string(), name);
        }
        for name in ["", "1a", "_a", "-", ".", "a b", "a;b", "a\"", "a\\b", "ä", "a\0b", &"a".repeat(256)] {
            let error = name.parse::<TableName>().expect_err(name);
            assert!(error.text == name && error.reason.contains("a letter first"), "{error}");
        }
        for name in ["rt", "inet", "ip6", "sets", "destroy", "counters", "not"] {
            let error = name.parse::<TableName>().expect_err(name);
            assert!(error.text == name && error.reason.contains("nft's language"), "{error}");
        }
    }

    #[test]
    fn a_set_is_named_by_family_table_and_set() {
        let name: SetName = " inet  filter knock_ssh4 ".parse().expect("a set");
        assert_eq!((name.family(), name.table(), name.set()), (Family::Inet, "filter", "knock_ssh4"));
        assert_eq!(name.to_string(), "inet filter knock_ssh4");
        for (text, wrong) in [
            ("", ""),
            ("filter knock", "filter knock"),
            ("inet filter a b", "inet filter a b"),
            ("arp filter a", "arp"),
            ("inet 4filter a", "4filter"),
            ("inet filter a\0", "a\0"),
        ] {
            assert_eq!(text.parse::<SetName>().expect_err(text).text, wrong);
        }
    }

    #[test]
    fn an_interface_name_is_one_that_the_kernel_takes() {
        for name in ["lo", "wg-home0", "eth0.100", "äöü", "abcdefghijklmno", "any", "c+d", "a!b", &"a".repeat(127)] {
            let parsed = name.parse::<InterfaceName>().expect(name);
            assert_eq!((parsed.to_string(), parsed.prefix()), (name.to_owned(), None));
            assert_eq!(parsed.is_alternative(), name.len() > 15);
            assert!(parsed.matches(name) && !parsed.matches("eth0"));
        }
        for name in ["", ".", "..", "a/b", " a", "a:", "wg%i", "a\0", "a\x1b"] {
            let error = name.parse::<InterfaceName>().expect_err(name);
            assert!(error.reason.contains("1 to 15 bytes"), "{error}");
        }
        for (name, reason) in [("a".repeat(128), "at most 127"), ("a".repeat(16) + "*", "a pattern of more than 15")] {
            let error = name.parse::<InterfaceName>().expect_err(&name);
            assert!(error.reason.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_star_or_plus_at_the_end_makes_a_pattern() {
        for (pattern, prefix) in [("br-*", "br-"), ("ppp+", "ppp"), ("abcdefghijklmno*", "abcdefghijklmno")] {
            let name = pattern.parse::<InterfaceName>().expect(pattern);
            assert_eq!((name.prefix(), name.is_alternative()), (Some(prefix), false));
            assert!(name.matches(prefix) && name.matches(&format!("{prefix}7")) && !name.matches("eth0"));
        }
    }

    #[test]
    fn a_value_that_is_no_name_gets_a_message_of_its_own() {
        for (text, words) in [
            ("192.0.2.1", "is an address"),
            ("fd00::1", "is an address"),
            ("all", "write \"any\""),
            ("ANY", "write \"any\""),
            ("default", "write \"any\""),
            ("*", "write \"any\""),
            ("+", "write \"any\""),
            ("eth0:1", "before the `:`"),
            ("eth0:web", "before the `:`"),
            ("!eth0", "excludes"),
            ("eth0@if5", "before the `@`"),
            ("eth0.5@eth0", "before the `@`"),
            ("eth0,eth1", "element of a list"),
            ("eth0 eth1", "element of a list"),
            ("eth0; eth1", "element of a list"),
            ("br-*-lan", "at the end"),
            ("br-**", "at the end"),
            ("eth?", "at the end"),
            ("eth[01]", "at the end"),
            ("eth{0,1}", "element of a list"),
        ] {
            let error = text.parse::<InterfaceName>().expect_err(text);
            assert!(error.text == text && error.reason.contains(words), "{error}");
        }
    }

    #[test]
    fn a_family_has_the_number_of_the_kernel() {
        for family in Family::ALL {
            assert_eq!(Family::from_number(family.number()), Some(family));
        }
        assert_eq!(Family::from_number(3), None, "a table of the family arp holds no addresses");
    }
}
