//! The chains that let the kernel open a port by itself.
//!
//! ```text
//! chain knock {                                    # what is sent to a knock port or a tripwire, prerouting
//!     ip saddr @pending4 add @spoiled4 { ip saddr timeout 20s }
//!     delete @pending4 { ip saddr }
//!     meta priority set ip saddr map @armed4 goto armed4
//!     delete @armed4 { ip saddr : meta priority }  # one that is just being armed, which a lookup does not find
//! }                                                # the same for IPv6
//! chain armed4 {
//!     ip saddr @spoiled4 return
//!     meta priority 0:1 meta l4proto tcp th dport 9000 tcp flags & (fin | syn | rst | ack) == syn iifname "eth0"
//!         fib daddr type local delete @armed4 { ip saddr : meta priority } add @grants4 { ip saddr . tcp . 22 timeout 1h } return
//!     meta priority 0:1 meta l4proto tcp th dport 8000 return     # once more the knock before it
//!     add @spoiled4 { ip saddr timeout 20s }
//!     delete @armed4 { ip saddr : meta priority }
//! }
//! ```
//!
//! `meta priority` holds the number of the door, since nft lists no map lookup inside another expression.

use std::ffi::CStr;
use std::net::IpAddr;

use knock_proto::{Access, InterfaceName, Knock, Protocol};

use super::{
    ARMED4, ARMED6, DESTINATION_PORT, FLAGS, KNOCK, Rule, is_family, is_interface, is_local_type, is_protocol, joined,
    protocol_in, source_of,
};
use crate::door::{Door, Doors};
use crate::element::{KeyBytes, milliseconds};
use crate::expression::{Expression, Field, REGISTER_1, SetChange, register};
use crate::grant_set::{GrantKind, GrantSet, Opening};
use crate::ip_version::IpVersion;
use crate::sets::WATCHED;
use crate::spec::TableSpec;

/// A register that no key reaches: for the value of a map.
const VALUE: libc::c_int = register(4);
const DESTINATION4: Field = Field { header: libc::NFT_PAYLOAD_NETWORK_HEADER, offset: 16, length: 4 };
const DESTINATION6: Field = Field { header: libc::NFT_PAYLOAD_NETWORK_HEADER, offset: 24, length: 16 };
const NEXT_HEADER: Field = Field { header: libc::NFT_PAYLOAD_NETWORK_HEADER, offset: 6, length: 1 };

/// The chain for the armed sources of an IP version.
const fn armed(version: IpVersion) -> &'static CStr {
    match version {
        IpVersion::V4 => ARMED4,
        IpVersion::V6 => ARMED6,
    }
}

/// The number of the door at a place in the list, as the value of an armed source. Zero is the priority of a packet that nobody
/// has set.
pub(crate) fn number(place: usize) -> [u8; 4] {
    u32::try_from(place + 1).unwrap_or(u32::MAX).to_ne_bytes()
}

/// The rule of the chain prerouting.
pub(super) fn watched() -> Rule {
    let load = vec![protocol_in(REGISTER_1), Expression::payload(DESTINATION_PORT, register(1))];
    joined([load, vec![Expression::lookup(WATCHED), Expression::jump(KNOCK)]])
}

/// The rules of the chains, each with its chain.
pub(super) fn rules(spec: &TableSpec) -> Vec<(&'static CStr, Rule)> {
    let knock = IpVersion::BOTH.into_iter().flat_map(|version| {
        let (family, source) = source_of(version);
        let from = || joined([is_family(family), vec![Expression::payload(source, REGISTER_1)]]);
        let pending = vec![Expression::change(version.pending(), SetChange::Delete)];
        let load = vec![
            Expression::lookup_value(version.armed(), REGISTER_1),
            Expression::set_meta(libc::NFT_META_PRIORITY),
            Expression::goto(armed(version)),
        ];
        let is_pending = vec![Expression::lookup(version.pending())];
        let spoils = joined([from(), is_pending, spoil(version)]);
        [spoils, joined([from(), pending]), joined([from(), load]), joined([is_family(family), disarm(version)])]
    });
    let mut rules: Vec<(&'static CStr, Rule)> = knock.map(|rule| (KNOCK, rule)).collect();
    for version in IpVersion::BOTH {
        let (family, source) = source_of(version);
        let is_spoiled =
            vec![Expression::payload(source, REGISTER_1), Expression::lookup(version.spoiled()), returned()];
        rules.push((armed(version), joined([is_family(family), is_spoiled])));
        for (place, door) in spec.doors.doors.iter().enumerate() {
            rules.extend(opening(version, place, door).map(|rule| (armed(version), rule)));
            let again = door.repeat.map(|knock| joined([at(place), is_to(knock), vec![returned()]]));
            rules.extend(again.map(|rule| (armed(version), rule)));
        }
        let load = vec![Expression::payload(source, REGISTER_1)];
        rules.push((armed(version), joined([is_family(family), load, spoil(version)])));
        rules.push((armed(version), joined([is_family(family), disarm(version)])));
    }
    rules
}

/// The last knock of a door: one nftables rule for each interface and each target.
fn opening(version: IpVersion, place: usize, door: &Door) -> impl Iterator<Item = Rule> {
    let interfaces: Vec<Option<&InterfaceName>> = match door.interfaces.as_slice() {
        [] => vec![None],
        names => names.iter().map(Some).collect(),
    };
    let targets: Vec<Option<IpAddr>> = match door.targets.as_slice() {
        [] => vec![None],
        // An address of the other version is the target of no packet here.
        addresses => addresses.iter().filter(|of| IpVersion::of(**of) == version).map(|&of| Some(of)).collect(),
    };
    interfaces.into_iter().flat_map(move |interface| {
        let targets = targets.clone().into_iter();
        targets.map(move |target| {
            let family = is_family(source_of(version).0);
            let mut rule = joined([family, at(place), is_to(door.last), is_plain(version, door.last), has_flags(door)]);
            rule.extend(interface.into_iter().flat_map(is_interface));
            rule.extend(is_for(version, target));
            rule.extend(disarm(version));
            door.opens.iter().for_each(|kind| rule.extend(grant(version, kind, door)));
            rule.push(returned());
            rule
        })
    })
}

/// Goes on where the source is armed for that door.
fn at(place: usize) -> Rule {
    vec![Expression::meta(libc::NFT_META_PRIORITY, REGISTER_1), Expression::equal(&number(place))]
}

fn is_to(knock: Knock) -> Rule {
    let port = vec![Expression::payload(DESTINATION_PORT, REGISTER_1), Expression::equal(&knock.port.to_be_bytes())];
    joined([is_protocol(knock.protocol), port])
}

/// The daemon and the kernel may differ about chains of IPv6 extension headers: a packet with any of them opens nothing here.
fn is_plain(version: IpVersion, knock: Knock) -> Rule {
    match version {
        IpVersion::V4 => Vec::new(),
        IpVersion::V6 => {
            vec![Expression::payload(NEXT_HEADER, REGISTER_1), Expression::equal(&[knock.protocol.number()])]
        }
    }
}

fn has_flags(door: &Door) -> Rule {
    match door.last.protocol {
        Protocol::Udp => Vec::new(),
        Protocol::Tcp => {
            let flags = door.tcp_flags;
            let judged = Expression::masked(&[flags.set | flags.clear]);
            vec![Expression::payload(FLAGS, REGISTER_1), judged, Expression::equal(&[flags.set])]
        }
    }
}

fn is_for(version: IpVersion, target: Option<IpAddr>) -> Rule {
    match target {
        None => vec![Expression::destination_type(), is_local_type()],
        Some(address) => {
            let field = if version == IpVersion::V4 { DESTINATION4 } else { DESTINATION6 };
            let address = KeyBytes::address(address);
            vec![Expression::payload(field, REGISTER_1), Expression::equal(address.as_slice())]
        }
    }
}

/// Notes that the source in register 1 sent something else, for longer than anybody is armed.
///
/// Deletion alone is not enough: from the packet path it marks an element as dead, and a transaction that brings the element into
/// force at the same moment may overwrite the mark (`nft_clear`, not atomic). Seen twice in 30,000 tries to meet that moment.
fn spoil(version: IpVersion) -> Rule {
    vec![Expression::change(version.spoiled(), SetChange::Add(milliseconds(2 * Doors::LASTS)))]
}

fn disarm(version: IpVersion) -> Rule {
    vec![
        Expression::payload(source_of(version).1, REGISTER_1),
        Expression::meta(libc::NFT_META_PRIORITY, VALUE),
        Expression::change(version.armed(), SetChange::DeleteMapped(VALUE)),
    ]
}

/// Adds a grant, where there is none: one that lasts longer must not be shortened.
fn grant(version: IpVersion, kind: &GrantKind, door: &Door) -> Rule {
    let [v4, v6] = GrantSet::both(kind);
    let set = if version == IpVersion::V4 { v4 } else { v6 };
    let source = source_of(version).1;
    let mut rule = vec![Expression::payload(source, REGISTER_1)];
    if set.length < version.bits() {
        rule.push(Expression::masked(KeyBytes::address(set.mask()).as_slice()));
    }
    if let (Opening::Port, Access::Ports(ports)) = (set.opening, kind.access) {
        let words = source.length / 4;
        rule.push(Expression::constant_in(register(words), &[ports.protocol.number()]));
        rule.push(Expression::constant_in(register(words + 1), &ports.first.to_be_bytes()));
    }
    rule.push(Expression::change(&set.c_name(), SetChange::Add(milliseconds(door.timeout))));
    rule
}

fn returned() -> Expression {
    Expression::verdict(libc::NFT_RETURN)
}
