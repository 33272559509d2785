//! The interfaces and addresses of this network namespace, followed over rtnetlink (rtnetlink(7)).

mod filter;
mod message;
mod routes;
mod table;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use netlink_packet_core::NLM_F_DUMP_INTR;
use netlink_packet_route::AddressFamily;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::Error;
use message::Message;
use table::{Item, Snapshot, Table};

pub use table::{Link, LinkChange};

/// How many datagrams one [`Links::read`] takes; the poll reports what remains.
const READ_BUDGET: usize = 256;
/// How many datagrams are discarded at once before the table is read again.
const DISCARD_BUDGET: usize = 65_536;
/// How often a dump is tried that other changes interrupt.
const DUMP_ATTEMPTS: usize = 16;
/// The kernel's dumps use up to 32 KiB per datagram (`NLMSG_GOODSIZE` and netlink_recvmsg in `net/netlink`).
const DATAGRAM_MAX: usize = 64 << 10;
/// The receive queue of the subscription, in bytes: some 2,000 changes at once. More are noticed, and the table is
/// read again.
const RECEIVE_BUFFER: usize = 2 << 20;

const SUBSCRIPTIONS: libc::c_int = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE;

/// Follows interfaces, addresses and local routes. Needs no privilege.
///
/// Poll the descriptor for input, then [`read`](Links::read).
#[derive(Debug)]
pub struct Links {
    socket: Socket,
    dumps: Socket,
    table: Table,
    buffer: Vec<u8>,
    /// Changes were lost: the table must be read again.
    stale: bool,
}

/// The sockets of [`Links`], which one process may open for another.
#[derive(Debug)]
pub struct LinkSockets {
    /// The subscription to changes.
    pub changes: OwnedFd,
    /// What the present state is read over, so that the answers do not mix with the changes.
    pub dumps: OwnedFd,
}

impl LinkSockets {
    /// Subscribes to changes. Needs no privilege.
    pub fn open() -> Result<LinkSockets, Error> {
        let failed = |attempted| move |source| Error::Netlink { attempted, source };
        let mut changes = Socket::new(NETLINK_ROUTE).map_err(failed("open a netlink socket"))?;
        filter::attach(&changes)?;
        changes.bind(&SocketAddr::new(0, SUBSCRIPTIONS.cast_unsigned())).map_err(failed("subscribe to changes"))?;
        // Where the sysctl net.core.rmem_max allows less, changes are lost sooner, which is noticed.
        let _ = changes.set_rx_buf_sz(libc::c_int::try_from(RECEIVE_BUFFER).unwrap_or(libc::c_int::MAX));
        let mut dumps = Socket::new(NETLINK_ROUTE).map_err(failed("open a netlink socket"))?;
        dumps.bind_auto().map_err(failed("bind a netlink socket"))?;
        // A router may have a million routes, of which the kernel then gives the local ones only. It came with 4.20.
        let _ = dumps.set_netlink_get_strict_chk(true);
        Ok(LinkSockets { changes: descriptor(changes), dumps: descriptor(dumps) })
    }
}

fn descriptor(socket: Socket) -> OwnedFd {
    // SAFETY: the socket gives up its descriptor, which is open and nobody else's.
    unsafe { OwnedFd::from_raw_fd(socket.into_raw_fd()) }
}

fn socket(descriptor: OwnedFd) -> Socket {
    // SAFETY: the descriptor is open and nobody else's. One that is no netlink socket fails at its first use.
    unsafe { Socket::from_raw_fd(descriptor.into_raw_fd()) }
}

impl Links {
    /// Subscribes to changes, then reads the present state, so that nothing falls between the two.
    pub fn open() -> Result<Links, Error> {
        Links::new(LinkSockets::open()?)
    }

    /// Reads the present state over sockets that were opened before, and follows the changes since.
    pub fn new(sockets: LinkSockets) -> Result<Links, Error> {
        let mut links = Links {
            socket: socket(sockets.changes),
            dumps: socket(sockets.dumps),
            table: Table::default(),
            buffer: Vec::with_capacity(DATAGRAM_MAX),
            stale: false,
        };
        let snapshot = dump(&links.dumps, &mut links.buffer)?;
        links.table.replace(snapshot, &mut Vec::new());
        Ok(links)
    }

    /// Takes in what changed since, and appends it to `changes`, oldest first. Never waits.
    ///
    /// Where changes were lost because too many came at once, the present state is read again and the difference is
    /// reported. One call does a bounded amount of work: the descriptor stays readable while there is more.
    pub fn read(&mut self, changes: &mut Vec<LinkChange>) -> Result<(), Error> {
        for _ in 0..READ_BUDGET {
            if self.stale {
                return self.resynchronise(changes);
            }
            match receive(&self.socket, &mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(from_kernel) => {
                    if from_kernel {
                        for message in message::parse(&self.buffer) {
                            if let Message::Item { item, .. } = message {
                                self.table.apply(item, changes);
                            }
                        }
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.stale = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Netlink { attempted: "read changes", source }),
            }
        }
        Ok(())
    }

    /// What is queued is older than the changes that were lost, so it must not be applied after the new dump.
    fn resynchronise(&mut self, changes: &mut Vec<LinkChange>) -> Result<(), Error> {
        for _ in 0..DISCARD_BUDGET {
            match receive(&self.socket, &mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let snapshot = dump(&self.dumps, &mut self.buffer)?;
                    self.stale = false;
                    self.table.replace(snapshot, changes);
                    return Ok(());
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Netlink { attempted: "read changes", source }),
            }
        }
        Ok(())
    }

    /// The interface of this name, or with this alternative name.
    pub fn interface(&self, name: &str) -> Option<&Link> {
        let alternative = || self.interfaces().find(|link| link.alternative_names.iter().any(|other| other == name));
        self.interfaces().find(|link| link.name == name).or_else(alternative)
    }

    /// All interfaces, by ascending index.
    pub fn interfaces(&self) -> impl Iterator<Item = &Link> {
        self.table.links()
    }

    /// Whether a packet to `address` is for this host: an address of any interface (tentative ones as well), one of
    /// 127.0.0.0/8, or one that a local route of any table is for (ip-route(8), type `local`; but a default route only
    /// in the table `local`). Broadcast, multicast and anycast addresses are not. Costs a hash look-up or two, and one
    /// more for each other prefix length of a local route.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.table.is_local(address)
    }
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Receives one datagram into `buffer`, in place of what is there. False: it is not the kernel's; any process may
/// write to a netlink socket.
fn receive(socket: &Socket, buffer: &mut Vec<u8>, flags: libc::c_int) -> io::Result<bool> {
    buffer.clear();
    let (length, sender) = socket.recv_from(buffer, flags | libc::MSG_TRUNC)?;
    if length > buffer.len() {
        // A datagram that does not fit is a change that is lost.
        return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
    }
    Ok(sender.port_number() == 0)
}

/// Reads the present state.
fn dump(socket: &Socket, buffer: &mut Vec<u8>) -> Result<Snapshot, Error> {
    let failed = |source| Error::Netlink { attempted: "read the present interfaces and addresses", source };
    for _ in 0..DUMP_ATTEMPTS {
        let mut snapshot = Snapshot::default();
        let complete = dump_of(socket, buffer, message::link_dump(), &mut snapshot).map_err(failed)?
            && dump_of(socket, buffer, message::address_dump(), &mut snapshot).map_err(failed)?;
        if complete {
            dump_routes(socket, buffer, &mut snapshot).map_err(failed)?;
            return Ok(snapshot);
        }
    }
    Err(failed(io::Error::from(io::ErrorKind::Interrupted)))
}

/// The routes of a router change all the time, and most of these changes concern no local route. So that a dump was
/// interrupted says nothing here, and a change of a local route is notified anyway.
fn dump_routes(socket: &Socket, buffer: &mut Vec<u8>, snapshot: &mut Snapshot) -> io::Result<()> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        match dump_of(socket, buffer, message::local_route_dump(family), snapshot) {
            Ok(_complete) => {}
            // The kernel may lack this version of IP.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// False: a change in the middle of the dump may have left something out (`NLM_F_DUMP_INTR`).
fn dump_of(socket: &Socket, buffer: &mut Vec<u8>, request: Vec<u8>, snapshot: &mut Snapshot) -> io::Result<bool> {
    // What is left of a dump that failed would be taken for this one.
    for _ in 0..DISCARD_BUDGET {
        if receive(socket, buffer, libc::MSG_DONTWAIT).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            break;
        }
    }
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut complete = true;
    // The kernel writes the next part of a dump when the last one is read, so this never waits; the
    // bound holds 2^20 interfaces and more.
    for _ in 0..DISCARD_BUDGET {
        match receive(socket, buffer, libc::MSG_DONTWAIT) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        for message in message::parse(buffer) {
            match message {
                Message::Item { item, flags } => {
                    complete &= flags & NLM_F_DUMP_INTR == 0;
                    match item {
                        Item::Link(link) => snapshot.links.push(link),
                        Item::Address(address) => snapshot.addresses.push(address),
                        Item::LocalRoute { route, .. } => snapshot.routes.push(route),
                        Item::NoLink(_) | Item::NoAddress(_) | Item::NoLocalRoute(_) | Item::OtherRoute(_) => {}
                    }
                }
                Message::Done { flags } => return Ok(complete && flags & NLM_F_DUMP_INTR == 0),
                Message::Error(error) => return Err(error),
            }
        }
    }
    Err(io::Error::from(io::ErrorKind::InvalidData))
}
