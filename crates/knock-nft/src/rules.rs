//! The chains of the managed table and their rules.
//!
//! ```text
//! chain gate {
//!     meta l4proto udp ct state established accept
//!     iifname "lo" accept
//!     ip saddr . meta l4proto . th dport @grants4 accept
//!     ip6 saddr . meta l4proto . th dport @grants6 accept
//!     counter drop
//! }
//! chain unreadable {
//!     th dport >= 0 accept
//!     meta l4proto != tcp meta l4proto != udp accept
//!     frag frag-off != 0 accept
//!     iifname "lo" accept
//!     counter drop
//! }
//! chain prerouting {
//!     type filter hook prerouting priority mangle; policy accept;
//!     ip ttl 1 meta l4proto . th dport @guarded fib daddr type local ip ttl set 2
//!     ip6 hoplimit 1 meta l4proto . th dport @guarded fib daddr type local ip6 hoplimit set 2
//!     tcp flags rst,ack accept
//!     meta l4proto . th dport @guarded fib daddr type != unicast jump gate
//! }
//! chain input {
//!     type filter hook input priority mangle; policy accept;
//!     tcp flags rst,ack accept
//!     meta l4proto . th dport @guarded jump gate
//!     meta nfproto ipv6 jump unreadable
//! }
//! chain postrouting {
//!     type filter hook postrouting priority srcnat + 1; policy accept;
//!     ip ttl 63 tcp flags rst meta l4proto . tcp sport @guarded fib saddr type local ip ttl set 64
//!     ip6 hoplimit 63 tcp flags rst meta l4proto . tcp sport @guarded fib saddr type local ip6 hoplimit set 64
//! }
//! ```
//!
//! At prerouting, priority mangle (-150), a packet is past connection tracking (-200) and before destination NAT (-100), so
//! that one chain guards the services of this host and the ports that a container engine publishes. A packet that reaches
//! this host another way, by policy routing or translated from another port, is checked at input.
//!
//! TCP is checked by its first packet and not by its tracked state: tracking begins with the rule that asks for it, and would
//! take each session that was open before for a new one. A segment with ACK or RST belongs to a connection whose SYN
//! was accepted, or the answer is a reset.
//!
//! An expression that cannot read what it asks for ends its rule, and the packet goes on to the next. So a packet with
//! unreadable ports is a case of its own. It needs IPv6: the first fragment of an IPv4 packet has eight bytes at
//! least (RFC 791), and so the ports.
//!
//! Where a rule opens a range or every guarded port, the gate has for each of them, between the other two lookups and the
//! drop:
//!
//! ```text
//!     ip saddr @grants4_any accept
//!     udp dport 60000-61000 ip saddr @grants4_udp_60000_61000 accept
//! ```
//!
//! Where grants are for prefixes, their sets are asked for the masked address:
//!
//! ```text
//!     ip6 saddr & ffff:ffff:ffff:ffff:: . meta l4proto . th dport @grants6_64 accept
//! ```

pub(crate) mod doors;

use std::ffi::CStr;

use knock_proto::{Family, InterfaceName, Protocol};
use nftnl::Hook;

use crate::element::KeyBytes;
use crate::expression::{Expression, Field, REGISTER_1, register};
use crate::grant_set::{GrantSet, Opening};
use crate::ip_version::IpVersion;
use crate::sets::GUARDED;
use crate::spec::TableSpec;

/// A chain.
#[derive(Clone, Copy)]
pub(crate) struct ChainKind {
    pub(crate) name: &'static CStr,
    /// Where a base chain is hooked, and with what priority.
    pub(crate) hook: Option<(Hook, i32)>,
    /// Whether only a table with doors has it.
    for_doors: bool,
}

/// The chain that decides on packets to guarded ports. Its last rule drops them, and counts them.
pub(crate) const GATE: &CStr = c"gate";
/// The chain that decides on IPv6 packets to this host whose ports may not be readable.
const UNREADABLE: &CStr = c"unreadable";
/// The chains of a table with doors.
const KNOCK: &CStr = c"knock";
const ARMED4: &CStr = c"armed4";
const ARMED6: &CStr = c"armed6";
const PREROUTING: &CStr = c"prerouting";
const INPUT: &CStr = c"input";
const POSTROUTING: &CStr = c"postrouting";

/// `NF_IP_PRI_MANGLE`.
const MANGLE: i32 = -150;
/// Right after `NF_IP_PRI_NAT_SRC`: replies bear the address and the port again that the client asked.
const AFTER_SOURCE_NAT: i32 = 101;

/// All chains, in the order in which they are made: each before those that jump to it.
pub(crate) const CHAINS: [ChainKind; 8] = [
    ChainKind { name: GATE, hook: None, for_doors: false },
    ChainKind { name: UNREADABLE, hook: None, for_doors: false },
    ChainKind { name: ARMED4, hook: None, for_doors: true },
    ChainKind { name: ARMED6, hook: None, for_doors: true },
    ChainKind { name: KNOCK, hook: None, for_doors: true },
    ChainKind { name: PREROUTING, hook: Some((Hook::PreRouting, MANGLE)), for_doors: false },
    ChainKind { name: INPUT, hook: Some((Hook::In, MANGLE)), for_doors: false },
    ChainKind { name: POSTROUTING, hook: Some((Hook::PostRouting, AFTER_SOURCE_NAT)), for_doors: false },
];

/// The chains of a table.
pub(crate) fn chains(spec: &TableSpec) -> impl Iterator<Item = ChainKind> {
    let doors = !spec.doors.is_empty();
    CHAINS.into_iter().filter(move |kind| doors || !kind.for_doors)
}

/// `IFNAMSIZ`.
const INTERFACE_NAME_SIZE: usize = 16;
/// The bit of established connections in the state that the `ct` expression loads (`NF_CT_STATE_BIT(IP_CT_ESTABLISHED)`).
const CT_ESTABLISHED: u32 = 1 << 1;
/// The flags of TCP (RFC 9293, section 3.1).
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// The fragment header of IPv6 (RFC 8200, section 4.5): its type, and where and how its offset stands in it.
const FRAGMENT: u8 = 44;
const FRAGMENT_OFFSET: libc::c_int = 2;
const FRAGMENT_OFFSET_MASK: [u8; 2] = [0xff, 0xf8];
/// The time to live with which a packet reaches this host and no other.
const LAST_HOP: u8 = 1;
/// The time to live with which Linux sends (net.ipv4.ip_default_ttl, net.ipv6.conf.*.hop_limit).
const DEFAULT_TTL: u8 = 64;

const FLAGS: Field = Field { header: libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset: 13, length: 1 };
const SOURCE_PORT: Field = Field { header: libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset: 0, length: 2 };
const DESTINATION_PORT: Field = Field { header: libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset: 2, length: 2 };
const TTL: Ttl = Ttl { family: Family::Ip, offset: 8, write: Expression::write_ipv4 };
const HOP_LIMIT: Ttl = Ttl { family: Family::Ip6, offset: 7, write: Expression::write };
const SOURCE4: Field = Field { header: libc::NFT_PAYLOAD_NETWORK_HEADER, offset: 12, length: 4 };
const SOURCE6: Field = Field { header: libc::NFT_PAYLOAD_NETWORK_HEADER, offset: 8, length: 16 };

type Rule = Vec<Expression>;

/// The field that counts hops in the header of an IP version, and how it is written.
#[derive(Clone, Copy)]
struct Ttl {
    family: Family,
    offset: libc::c_int,
    write: fn(Field) -> Expression,
}

impl Ttl {
    fn field(self) -> Field {
        Field { header: libc::NFT_PAYLOAD_NETWORK_HEADER, offset: self.offset, length: 1 }
    }

    fn is(self, hops: u8) -> Rule {
        let load = vec![Expression::payload(self.field(), REGISTER_1), Expression::equal(&[hops])];
        joined([is_family(self.family), load])
    }

    fn set(self, hops: u8) -> Rule {
        vec![Expression::constant(&[hops]), (self.write)(self.field())]
    }
}

/// The rules in their order, each with its chain.
pub(crate) fn rules(spec: &TableSpec) -> Vec<(&'static CStr, Rule)> {
    let rules_of = |chain, rules: Vec<Rule>| rules.into_iter().map(move |rule| (chain, rule));
    let for_doors = if spec.doors.is_empty() { Vec::new() } else { doors::rules(spec) };
    rules_of(GATE, gate(spec))
        .chain(rules_of(UNREADABLE, unreadable(spec)))
        .chain(for_doors)
        .chain(rules_of(PREROUTING, prerouting(spec)))
        .chain(rules_of(INPUT, input()))
        .chain(rules_of(POSTROUTING, postrouting()))
        .collect()
}

fn gate(spec: &TableSpec) -> Vec<Rule> {
    let mut rules = Vec::new();
    if spec.guards_udp() {
        let [mask, any] = Expression::any_of(&CT_ESTABLISHED.to_ne_bytes());
        rules.push(joined([is_protocol(Protocol::Udp), vec![Expression::connection_state(), mask, any, accept()]]));
    }
    rules.extend(exempt(spec));
    rules.extend(spec.grant_sets().into_iter().map(granted));
    rules.push(dropped());
    rules
}

/// A TCP or UDP packet whose port cannot be read may be for a guarded one: the first fragment of it, if the headers before
/// the port fill that. The other fragments wait for it, and cannot be reassembled without it.
fn unreadable(spec: &TableSpec) -> Vec<Rule> {
    let is_readable = vec![Expression::payload(DESTINATION_PORT, REGISTER_1), Expression::at_least(&[0, 0]), accept()];
    let other = |protocol: Protocol| vec![protocol_in(REGISTER_1), Expression::unequal(&[protocol.number()])];
    let is_other = joined([other(Protocol::Tcp), other(Protocol::Udp), vec![accept()]]);
    let [mask, any] = Expression::any_of(&FRAGMENT_OFFSET_MASK);
    let is_later = vec![Expression::extension_header(FRAGMENT, FRAGMENT_OFFSET), mask, any, accept()];
    let mut rules = vec![is_readable, is_other, is_later];
    rules.extend(exempt(spec));
    rules.push(dropped());
    rules
}

/// What is routed through has a unicast address of another host. Local ones are not all that reach a service of this one: a
/// UDP socket for any address also gets what is sent to broadcast, multicast and anycast addresses.
///
/// Before that, a packet with one hop left gets a second one, for a port that a container has: it would expire on the way,
/// and the answer would show that the port is published.
fn prerouting(spec: &TableSpec) -> Vec<Rule> {
    let unicast = u32::from(libc::RTN_UNICAST).to_ne_bytes();
    let is_not_unicast = vec![Expression::destination_type(), Expression::unequal(&unicast)];
    let to_guarded = joined([is_guarded(DESTINATION_PORT), is_not_unicast, vec![Expression::jump(GATE)]]);
    let prolong = |ttl: Ttl| {
        let is_local = [Expression::destination_type(), is_local_type()];
        joined([ttl.is(LAST_HOP), is_guarded(DESTINATION_PORT), is_local.into(), ttl.set(LAST_HOP + 1)])
    };
    let mut rules = vec![prolong(TTL), prolong(HOP_LIMIT), not_first()];
    if !spec.doors.is_empty() {
        rules.push(doors::watched());
    }
    rules.push(to_guarded);
    rules
}

fn input() -> Vec<Rule> {
    let to_guarded = joined([is_guarded(DESTINATION_PORT), vec![Expression::jump(GATE)]]);
    let ipv6 = joined([is_family(Family::Ip6), vec![Expression::jump(UNREADABLE)]]);
    vec![not_first(), to_guarded, ipv6]
}

/// A reset that a container sent would be one hop older than that of a port without a service. The local source address keeps
/// this to replies of published ports: a packet that is routed through must lose its hop, or it could circle for ever.
fn postrouting() -> Vec<Rule> {
    let renew = |ttl: Ttl| {
        let [mask, any] = Expression::any_of(&[RST]);
        let is_reset = vec![Expression::payload(FLAGS, REGISTER_1), mask, any];
        let is_local = vec![Expression::source_type(), is_local_type()];
        let tcp = is_protocol(Protocol::Tcp);
        joined([ttl.is(DEFAULT_TTL - 1), tcp, is_reset, is_guarded(SOURCE_PORT), is_local, ttl.set(DEFAULT_TTL)])
    };
    vec![renew(TTL), renew(HOP_LIMIT)]
}

/// TCP but for the first segment of a connection.
fn not_first() -> Rule {
    let [mask, any] = Expression::any_of(&[ACK | RST]);
    joined([is_protocol(Protocol::Tcp), vec![Expression::payload(FLAGS, REGISTER_1), mask, any, accept()]])
}

/// By name and not by index, so that an interface which is made again is exempt again. Of a pattern only the beginning is
/// compared, as nft does it.
fn exempt(spec: &TableSpec) -> impl Iterator<Item = Rule> {
    // nftables knows no alternative names, and the beginning of one could be the name of another interface.
    spec.exempt_interfaces.iter().filter(|interface| !interface.is_alternative()).map(|interface| {
        let mut rule = is_interface(interface);
        rule.push(accept());
        rule
    })
}

fn is_interface(interface: &InterfaceName) -> Rule {
    let mut name = [0; INTERFACE_NAME_SIZE];
    let text = interface.prefix().unwrap_or(interface).as_bytes();
    for (place, &byte) in name.iter_mut().zip(text) {
        *place = byte;
    }
    let compared = if interface.prefix().is_some() { &name[..text.len()] } else { &name };
    vec![Expression::meta(libc::NFT_META_IIFNAME, REGISTER_1), Expression::equal(compared)]
}

/// Accepts what comes from a source with a grant in that set.
fn granted(set: GrantSet) -> Rule {
    let (family, source) = source_of(set.version);
    let mut rule = is_family(family);
    if let Opening::Range(range) = set.opening {
        rule.extend(is_protocol(range.protocol));
        rule.push(Expression::payload(DESTINATION_PORT, REGISTER_1));
        rule.push(Expression::at_least(&range.first.to_be_bytes()));
        rule.push(Expression::at_most(&range.last.to_be_bytes()));
    }
    rule.push(Expression::payload(source, REGISTER_1));
    if set.length < set.version.bits() {
        // A set has keys of one length, so that the key of an address is never that of another prefix.
        rule.push(Expression::masked(KeyBytes::address(set.mask()).as_slice()));
    }
    if set.opening == Opening::Port {
        let words = source.length / 4;
        rule.extend([protocol_in(register(words)), Expression::payload(DESTINATION_PORT, register(words + 1))]);
    }
    rule.extend([Expression::lookup(&set.c_name()), accept()]);
    rule
}

fn source_of(version: IpVersion) -> (Family, Field) {
    match version {
        IpVersion::V4 => (Family::Ip, SOURCE4),
        IpVersion::V6 => (Family::Ip6, SOURCE6),
    }
}

fn is_guarded(port: Field) -> Rule {
    vec![protocol_in(REGISTER_1), Expression::payload(port, register(1)), Expression::lookup(GUARDED)]
}

fn is_family(family: Family) -> Rule {
    vec![Expression::meta(libc::NFT_META_NFPROTO, REGISTER_1), Expression::equal(&[family.number()])]
}

/// Goes on where the routing type that was loaded is that of an address of this host.
fn is_local_type() -> Expression {
    Expression::equal(&u32::from(libc::RTN_LOCAL).to_ne_bytes())
}

fn is_protocol(protocol: Protocol) -> Rule {
    vec![protocol_in(REGISTER_1), Expression::equal(&[protocol.number()])]
}

fn protocol_in(register: libc::c_int) -> Expression {
    Expression::meta(libc::NFT_META_L4PROTO, register)
}

fn accept() -> Expression {
    Expression::verdict(libc::NF_ACCEPT)
}

fn dropped() -> Rule {
    vec![Expression::counter(), Expression::verdict(libc::NF_DROP)]
}

fn joined<const N: usize>(parts: [Rule; N]) -> Rule {
    parts.into_iter().flatten().collect()
}
