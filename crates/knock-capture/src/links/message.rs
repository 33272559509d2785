//! rtnetlink messages, as far as the table needs them.
//!
//! Only the headers and the few attributes of interest are decoded: the full decoder allocates some fifty values per
//! interface, and one attribute that a newer kernel lays out otherwise would make it refuse the message.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    Emitable, NLA_HEADER_SIZE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkMessage, NlaBuffer, NlasIterator,
};
use netlink_packet_route::address::{AddressHeader, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkMessage};
use netlink_packet_route::route::{RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::routes::{LocalRoute, Prefix};
use super::table::{Address, Item, Link};

/// The size of `struct rtmsg` (rtnetlink(7)).
const ROUTE_HEADER: usize = 12;
/// `linux/if_link.h`.
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;

/// One message of the kernel.
#[derive(Debug)]
pub(super) enum Message {
    /// A part of the table, with the flags of the netlink header.
    Item { item: Item, flags: u16 },
    /// The end of a dump.
    Done { flags: u16 },
    /// The kernel refused a request.
    Error(io::Error),
}

/// The messages of a datagram, in order; malformed and irrelevant ones are left out.
pub(super) fn parse(datagram: &[u8]) -> impl Iterator<Item = Message> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        while let Ok(buffer) = NetlinkBuffer::new_checked(rest) {
            // new_checked has made sure that the length covers the header and lies within the datagram.
            let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            let message = decode(buffer.message_type(), buffer.flags(), buffer.payload());
            if message.is_some() {
                return message;
            }
        }
        None
    })
}

fn decode(kind: u16, flags: u16, payload: &[u8]) -> Option<Message> {
    let item = match kind {
        NLMSG_DONE => return Some(Message::Done { flags }),
        NLMSG_ERROR => {
            let code = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
            return (code != 0).then(|| Message::Error(io::Error::from_raw_os_error(code.saturating_neg())));
        }
        libc::RTM_NEWROUTE => new_route(flags, payload)?,
        libc::RTM_DELROUTE => {
            route(payload).filter(|(kind, _)| *kind == libc::RTN_LOCAL).map(|(_, route)| Item::NoLocalRoute(route))?
        }
        libc::RTM_NEWLINK => Item::Link(link(payload)?),
        libc::RTM_DELLINK => Item::NoLink(link_header(payload)?.index),
        libc::RTM_NEWADDR => Item::Address(address(payload)?),
        libc::RTM_DELADDR => Item::NoAddress(address(payload)?),
        _ => return None,
    };
    Some(Message::Item { item, flags })
}

/// A bridge reports its ports as links of the family `AF_BRIDGE`, among them "deleted" when a port leaves the bridge.
fn link_header(payload: &[u8]) -> Option<LinkHeader> {
    LinkHeader::parse(payload).ok().filter(|header| header.interface_family == AddressFamily::Unspec)
}

fn link(payload: &[u8]) -> Option<Link> {
    let header = link_header(payload)?;
    let attributes = payload.get(header.buffer_len()..)?;
    let alternative_names = attribute(attributes, IFLA_PROP_LIST).map(|list| {
        let names = NlasIterator::new(list).map_while(Result::ok).filter(|nla| nla.kind() == IFLA_ALT_IFNAME);
        names.filter_map(|nla| value(nla).map(text)).collect()
    });
    Some(Link {
        index: header.index,
        name: text(attribute(attributes, libc::IFLA_IFNAME)?),
        alternative_names: alternative_names.unwrap_or_default(),
        up: header.flags.contains(LinkFlags::Up),
        running: header.flags.contains(LinkFlags::Running),
    })
}

fn address(payload: &[u8]) -> Option<Address> {
    let header = AddressHeader::parse(payload).ok()?;
    let attributes = payload.get(header.buffer_len()..)?;
    // On a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL is this one wherever it is given.
    let bytes = attribute(attributes, libc::IFA_LOCAL).or_else(|| attribute(attributes, libc::IFA_ADDRESS))?;
    let address = match header.family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(Address { index: header.index, address, prefix: header.prefix_len })
}

fn new_route(flags: u16, payload: &[u8]) -> Option<Item> {
    let (kind, route) = route(payload)?;
    let replaces = flags & NLM_F_REPLACE != 0;
    match kind {
        libc::RTN_LOCAL => Some(Item::LocalRoute { route, replaces }),
        _ => replaces.then_some(Item::OtherRoute(route)),
    }
}

/// A route, and its type.
fn route(payload: &[u8]) -> Option<(u8, LocalRoute)> {
    let &[family, length, _, _, table, _, _, kind, ..] = payload.first_chunk::<ROUTE_HEADER>()?;
    let attributes = payload.get(ROUTE_HEADER..)?;
    let number = |kind| Some(u32::from_ne_bytes(attribute(attributes, kind)?.try_into().ok()?));
    let destination = attribute(attributes, libc::RTA_DST);
    // A default route has no destination.
    let network = match i32::from(family) {
        libc::AF_INET if length <= 32 => {
            destination.map_or(Some([0; 4]), |bytes| bytes.try_into().ok()).map(IpAddr::from)
        }
        libc::AF_INET6 if length <= 128 => {
            destination.map_or(Some([0; 16]), |bytes| bytes.try_into().ok()).map(IpAddr::from)
        }
        _ => None,
    }?;
    let route = LocalRoute {
        prefix: Prefix { network, length },
        table: number(libc::RTA_TABLE).unwrap_or(table.into()),
        priority: number(libc::RTA_PRIORITY).unwrap_or(0),
        interface: number(libc::RTA_OIF).unwrap_or(0),
    };
    Some((kind, route))
}

fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    NlasIterator::new(attributes).map_while(Result::ok).find(|nla| nla.kind() == kind).and_then(value)
}

fn value(attribute: NlaBuffer<&[u8]>) -> Option<&[u8]> {
    let end = usize::from(attribute.length());
    attribute.into_inner().get(NLA_HEADER_SIZE..end)
}

/// A name, up to its NUL. The kernel allows any bytes but white space and slashes; a configuration cannot name an
/// interface that is not UTF-8.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

/// The request for all interfaces.
pub(super) fn link_dump() -> Vec<u8> {
    request(RouteNetlinkMessage::GetLink(LinkMessage::default()))
}

/// The request for all addresses, IPv4 and IPv6.
pub(super) fn address_dump() -> Vec<u8> {
    request(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
}

/// The request for all local routes of an IP version. Kernels before 4.20 answer with all routes.
pub(super) fn local_route_dump(family: AddressFamily) -> Vec<u8> {
    let header = RouteHeader { address_family: family, kind: RouteType::Local, ..RouteHeader::default() };
    let mut message = RouteMessage::default();
    message.header = header;
    request(RouteNetlinkMessage::GetRoute(message))
}

fn request(message: RouteNetlinkMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic_or_go_on_for_ever(
            mut datagram in prop::collection::vec(any::<u8>(), 0..120),
            kind in 16u16..24,
            length in prop_oneof![0u32..140, any::<u32>()],
        ) {
            if let Some(header) = datagram.first_chunk_mut::<6>() {
                header[..4].copy_from_slice(&length.to_ne_bytes());
                header[4..].copy_from_slice(&kind.to_ne_bytes());
            }
            prop_assert!(parse(&datagram).count() <= datagram.len() / 16);
        }
    }
}
