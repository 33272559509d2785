//! Notice of what other processes change in nftables.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use knock_proto::Family;
use mnl::Socket;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};

use crate::attribute::{Message, Messages, generation, low_half};
use crate::connection::{as_fd, open_socket, receive, set_option};
use crate::error::{Error, Operation};

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const GROUP_NFTABLES: libc::c_int = 7;
/// What the kernel may queue while this process is busy: the notices of about 100,000 elements.
const RECEIVE_QUEUE: usize = 8 << 20;
/// Notifications come in datagrams of up to a page or two.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// The most datagrams of one [`Monitor::read`], so that a storm of changes does not keep the caller.
const DATAGRAMS_MAX: usize = 1024;
/// The most tables of one transaction that are reported one by one; more are an overrun.
const TABLES_MAX: usize = 256;

/// What a [`Monitor`] has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another program changed something.
    Changed(Notice),
    /// More was changed than could be taken down: anything may be different now.
    Overrun,
}

/// A transaction of another program changed something in a table, or the table itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The family of the table.
    pub family: Family,
    /// The table.
    pub table: String,
    /// By whom.
    pub actor: Actor,
}

/// The process that changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The thread's id in the initial PID namespace; for a process of one thread, its process id. 0: unknown.
    pub process_id: u32,
    /// The command name, at most 15 bytes (comm of proc(5)).
    pub name: String,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` (process {})", self.name, self.process_id)
    }
}

/// A socket that hears of each change to nftables in its network namespace. Readable for poll(2) when there is news.
pub struct Monitor {
    socket: Socket,
    ignored: Vec<u32>,
    received: Vec<u8>,
    pending: Pending,
}

/// What the transaction touched whose end is still to come.
#[derive(Default)]
struct Pending {
    port_id: u32,
    touched: Vec<(Family, String)>,
    overflow: bool,
}

impl Monitor {
    /// Subscribes.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the socket cannot be opened or the group not joined.
    pub fn open() -> Result<Monitor, Error> {
        let fail = |operation| move |errno| Error::kernel(operation, "nftables", errno);
        let socket = open_socket().map_err(fail(Operation::Open))?;
        set_socket_recv_buffer_size_force(as_fd(&socket), RECEIVE_QUEUE)
            .or_else(|_| set_socket_recv_buffer_size(as_fd(&socket), RECEIVE_QUEUE))
            .map_err(fail(Operation::Open))?;
        set_option(&socket, libc::NETLINK_ADD_MEMBERSHIP, GROUP_NFTABLES).map_err(fail(Operation::Subscribe))?;
        let received = vec![0; RECEIVE_BUFFER];
        Ok(Monitor { socket, ignored: Vec::new(), received, pending: Pending::default() })
    }

    /// Leaves out the changes from these netlink ports ([`crate::ManagedTable::port_id`], [`crate::UserSets::port_id`]) and
    /// from no others: the kernel may give the port of a closed socket to another process.
    pub fn ignore_only(&mut self, port_ids: Vec<u32>) {
        self.ignored = port_ids;
    }

    /// Appends the changes since the last call; never waits. A transaction is reported when its last message has come.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the socket fails; not where it overflowed, which is an [`Event::Overrun`].
    pub fn read(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        for _ in 0..DATAGRAMS_MAX {
            match receive(&self.socket, &mut self.received) {
                Ok(datagram) => {
                    for message in Messages(datagram) {
                        if !self.ignored.contains(&message.port_id()) {
                            self.pending.take(message, events);
                        }
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::NOBUFS) => {
                    self.pending = Pending::default();
                    events.push(Event::Overrun);
                }
                Err(errno) => return Err(Error::kernel(Operation::Exchange, "nftables", errno)),
            }
        }
        Ok(())
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        as_fd(&self.socket)
    }
}

impl Pending {
    fn take(&mut self, message: Message<'_>, events: &mut Vec<Event>) {
        if message.kind() & 0xff00 != low_half(libc::NFNL_SUBSYS_NFTABLES) << 8 {
            return;
        }
        let port_id = message.port_id();
        if port_id != self.port_id && !self.touched.is_empty() {
            // Transactions do not overlap, so the end of the former was lost.
            *self = Pending::default();
            events.push(Event::Overrun);
        }
        self.port_id = port_id;
        if libc::c_int::from(message.kind() & 0xff) == libc::NFT_MSG_NEWGEN {
            self.end(message, events);
        } else if let Some(touched) = touched(message)
            && !self.touched.contains(&touched)
        {
            if self.touched.len() < TABLES_MAX {
                self.touched.push(touched);
            } else {
                self.overflow = true;
            }
        }
    }

    /// Reports the transaction at its last message, which names the process.
    fn end(&mut self, message: Message<'_>, events: &mut Vec<Event>) {
        if std::mem::take(&mut self.overflow) {
            events.push(Event::Overrun);
        }
        let attributes = message.attributes();
        let actor = Actor {
            process_id: attributes.be32(generation::PROCESS_ID).unwrap_or(0),
            name: attributes.string(generation::PROCESS_NAME).unwrap_or("").to_owned(),
        };
        let notice = |(family, table)| Event::Changed(Notice { family, table, actor: actor.clone() });
        events.extend(self.touched.drain(..).map(notice));
    }
}

/// The table that a notification is about: its name is the first attribute of each kind of object.
fn touched(message: Message<'_>) -> Option<(Family, String)> {
    Some((Family::from_number(message.family())?, message.attributes().string(1)?.to_owned()))
}
