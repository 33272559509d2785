//! A netlink socket to nf_tables: transactions out, answers in.

use std::collections::HashMap;
use std::hash::Hash;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mnl::{Bus, Socket};
use nftnl::{MsgType, NlMsg};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force, socket_send_buffer_size};
use rustix::net::{RecvFlags, SendFlags, connect, recvfrom, send};

use crate::attribute::{Message, Messages, Request, low_half};
use crate::batch::Batch;
use crate::error::{Error, Operation};

/// The kernel fills datagrams of a dump up to 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// The port id of the kernel (`nl_pid`, netlink(7)).
const KERNEL: u32 = 0;
/// How often a dump is begun again because the ruleset changed in the meantime (`NLM_F_DUMP_INTR`).
const DUMP_ATTEMPTS: usize = 8;
/// The most failures of one transaction that are reported one by one.
const FAILURES_MAX: usize = 4096;

/// How many answers surely fit the socket's buffer. Of more failures only the first are reported.
pub(crate) const FEW_ANSWERS: usize = 128;
/// How often a transaction is tried again without the elements that had expired before they could be deleted.
pub(crate) const REVOKE_ATTEMPTS: usize = 8;

/// A failed operation of a transaction.
#[derive(Clone, Copy)]
pub(crate) struct Failure {
    /// Its place in the order of [`Connection::push`]; `None`: the transaction as a whole.
    pub(crate) index: Option<usize>,
    pub(crate) operation: Operation,
    pub(crate) errno: Errno,
}

/// A refused transaction: nothing of it was done. Holds at least one failure.
pub(crate) struct Refusal {
    pub(crate) first: Failure,
    pub(crate) rest: Vec<Failure>,
}

impl Refusal {
    fn whole(operation: Operation, errno: Errno) -> Refusal {
        Refusal { first: Failure { index: None, operation, errno }, rest: Vec::new() }
    }

    pub(crate) fn into_error(self, object: impl Into<String>) -> Error {
        Error::kernel(self.first.operation, object, self.first.errno)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Failure> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

/// A socket of the nf_tables protocol, with the transaction that is being made for it.
///
/// The kernel queues every answer before `send` returns. So nothing here ever waits, and after each exchange the socket is
/// drained until it is empty; numbers never repeat, so a late answer is not mistaken for another one.
pub(crate) struct Connection {
    socket: Socket,
    batch: Batch,
    sequence: u32,
    received: Vec<u8>,
    send_buffer: usize,
}

/// An open netlink socket as a file descriptor that lives as long as the borrow.
fn descriptor(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the socket is open as long as it is borrowed, and so is the result.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// Opens a netlink socket of the netfilter protocol, which no child process inherits: one that did would keep the table
/// owned when this process is gone.
///
/// It is connected to the kernel, so that the kernel refuses what other processes send to it (ECONNREFUSED,
/// netlink_getsockbyportid): they can neither forge an answer nor fill its queue.
pub(crate) fn open_socket() -> Result<Socket, Errno> {
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let socket = Socket::open(Bus::Netfilter).map_err(errno)?;
    fcntl_setfd(descriptor(&socket), FdFlags::CLOEXEC)?;
    socket.bind(0, 0).map_err(errno)?;
    connect(descriptor(&socket), &SocketAddrNetlink::new(KERNEL, 0))?;
    set_option(&socket, libc::NETLINK_CAP_ACK, 1)?;
    Ok(socket)
}

/// Sets an option of the level `SOL_NETLINK` (netlink(7)).
pub(crate) fn set_option(socket: &Socket, option: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the descriptor is open, and pointer and length are those of `value`.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

impl Connection {
    pub(crate) fn open() -> Result<Connection, Errno> {
        let socket = open_socket()?;
        let send_buffer = socket_send_buffer_size(descriptor(&socket))? / 2;
        Ok(Connection { socket, batch: Batch::new(), sequence: 1, received: vec![0; RECEIVE_BUFFER], send_buffer })
    }

    /// The number that the kernel names this socket by in notifications and as the owner of tables.
    pub(crate) fn port_id(&self) -> u32 {
        self.socket.portid()
    }

    /// Starts a transaction and forgets an unsent one.
    pub(crate) fn begin(&mut self) {
        self.batch.begin(self.sequence);
    }

    /// Appends to the transaction.
    pub(crate) fn push(&mut self, operation: Operation, message: &impl NlMsg, kind: MsgType) {
        self.batch.push(operation, message, kind);
    }

    /// Carries out the transaction: all of it, or nothing.
    pub(crate) fn commit(&mut self) -> Result<(), Refusal> {
        self.commit_with_echo(|_| ())
    }

    /// As [`Connection::commit`]. `echo` sees what the kernel reports of messages with `NLM_F_ECHO`; nothing of a refused
    /// transaction (`nft_commit_notify`). Some kernels number all these reports 0.
    pub(crate) fn commit_with_echo(&mut self, mut echo: impl FnMut(Message<'_>)) -> Result<(), Refusal> {
        let exchange = |errno| Refusal::whole(Operation::Exchange, errno);
        self.sequence = self.batch.next_sequence().wrapping_add(1);
        let words = self.batch.finish();
        // SAFETY: any initialised words are initialised bytes, four each.
        let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), words.len() * 4) };
        make_room(&self.socket, &mut self.send_buffer, bytes.len());
        retried(|| send(descriptor(&self.socket), bytes, SendFlags::empty())).map_err(exchange)?;

        let mut failures = Vec::new();
        let (mut acknowledged, mut overrun) = (false, false);
        loop {
            match receive(&self.socket, &mut self.received) {
                Ok(datagram) => {
                    for message in Messages(datagram) {
                        if libc::c_int::from(message.kind()) == libc::NLMSG_ERROR {
                            self.batch.classify_answer(message, &mut acknowledged, &mut failures);
                        } else {
                            echo(message);
                        }
                    }
                }
                Err(Errno::AGAIN) => break,
                // Answers were lost for want of room; the queued ones are still useful, and reading them clears the error.
                Err(Errno::NOBUFS) if !overrun => overrun = true,
                Err(errno) => return Err(exchange(errno)),
            }
        }
        let mut failures = failures.into_iter();
        match failures.next() {
            Some(first) => Err(Refusal { first, rest: failures.collect() }),
            None if acknowledged && !overrun => Ok(()),
            None => Err(exchange(Errno::NOBUFS)),
        }
    }

    /// Asks for one object. `visit` sees it; where there is none, the answer is ENOENT.
    pub(crate) fn get(&mut self, request: Request, visit: impl FnMut(Message<'_>)) -> Result<(), Errno> {
        self.ask(request, visit).map(|_| ())
    }

    /// Asks for all objects that match. `start` makes the place for what `visit` sees, and is called again where the
    /// ruleset changed in the meantime. After several attempts the last one is taken as it is: objects that others change
    /// all the time must not keep this from starting.
    pub(crate) fn dump<T>(
        &mut self,
        request: impl Fn(libc::c_int) -> Request,
        mut visit: impl FnMut(&mut T, Message<'_>),
    ) -> Result<T, Errno>
    where
        T: Default,
    {
        let mut found = T::default();
        for _ in 0..DUMP_ATTEMPTS {
            found = T::default();
            if self.ask(request(libc::NLM_F_DUMP), |message| visit(&mut found, message))? {
                return Ok(found);
            }
        }
        log::warn!("the nftables ruleset changed repeatedly while knockd read it; knockd uses the last reading");
        Ok(found)
    }

    /// Asks for the elements of a set, each by its key, and again until nothing new comes.
    ///
    /// Where they take several messages, the kernel finds the place to continue by counting (`nft_rhash_walk`). While it
    /// moves the set to a larger hash table, as it does for a while after elements were added, the order changes: some
    /// elements come twice and others not at all, and NLM_F_DUMP_INTR, which is about the ruleset, says nothing. Measured: up to
    /// 13,000 of 100,000 elements were left out right after they were added.
    pub(crate) fn dump_elements<K: Eq + Hash, V>(
        &mut self,
        request: impl Fn(libc::c_int) -> Request,
        mut visit: impl FnMut(&mut HashMap<K, V>, Message<'_>),
    ) -> Result<Vec<V>, Errno> {
        let mut all: HashMap<K, V> = HashMap::new();
        for _ in 0..DUMP_ATTEMPTS {
            let count = |(found, messages): &mut (HashMap<K, V>, usize), message: Message<'_>| {
                *messages += 1;
                visit(found, message);
            };
            let (found, messages) = self.dump(&request, count)?;
            let known = all.len();
            all.extend(found);
            if messages <= 1 || all.len() == known {
                break;
            }
        }
        Ok(all.into_values().collect())
    }

    /// Whether the answer is consistent.
    fn ask(&mut self, mut request: Request, mut visit: impl FnMut(Message<'_>)) -> Result<bool, Errno> {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        retried(|| send(descriptor(&self.socket), request.numbered(sequence), SendFlags::empty()))?;
        let mut consistent = true;
        let mut result = None;
        // Drained to the end, whatever comes: a dump that is not read to its end keeps the socket busy.
        loop {
            let datagram = match receive(&self.socket, &mut self.received) {
                Ok(datagram) => datagram,
                Err(Errno::AGAIN) => return result.unwrap_or(Err(Errno::NOBUFS)).map(|()| consistent),
                Err(errno) => return Err(errno),
            };
            for message in Messages(datagram).filter(|message| message.sequence() == sequence) {
                consistent &= message.flags() & low_half(libc::NLM_F_DUMP_INTR) == 0;
                match libc::c_int::from(message.kind()) {
                    libc::NLMSG_DONE => result = Some(Ok(())),
                    libc::NLMSG_ERROR if message.errno() == 0 => result = Some(Ok(())),
                    libc::NLMSG_ERROR => result = Some(Err(Errno::from_raw_os_error(message.errno()))),
                    _ => visit(message),
                }
            }
        }
    }
}

impl Batch {
    /// Sorts an answer to the transaction; those to others are stale.
    fn classify_answer(&self, message: Message<'_>, acknowledged: &mut bool, failures: &mut Vec<Failure>) {
        let Some((index, operation)) = self.find(message.sequence()) else { return };
        match message.errno() {
            0 => *acknowledged |= message.sequence() == self.acknowledged(),
            errno if failures.len() < FAILURES_MAX => {
                failures.push(Failure { index, operation, errno: Errno::from_raw_os_error(errno) });
            }
            _ => {}
        }
    }
}

/// Receives a datagram, without waiting. One that the kernel did not send is returned as an empty one: a process that may
/// change nftables may send to its multicast groups as well.
pub(crate) fn receive<'a>(socket: &Socket, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let (length, _, sender) = retried(|| recvfrom(descriptor(socket), &mut *buffer, RecvFlags::DONTWAIT))?;
    let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
    let from_kernel = sender.is_some_and(|sender| sender.pid() == KERNEL);
    Ok(if from_kernel { buffer.get(..length).unwrap_or(&[]) } else { &[] })
}

/// The kernel refuses a datagram that is greater than the send buffer (EMSGSIZE). Without the right to go over
/// net.core.wmem_max it gets as much as it may have, and `send` says whether that was enough.
fn make_room(socket: &Socket, size: &mut usize, wanted: usize) {
    // The kernel doubles the value and uses a part of it for its own bookkeeping.
    let wanted = wanted + 4096;
    if wanted > *size {
        let result = set_socket_send_buffer_size_force(descriptor(socket), wanted)
            .or_else(|_| set_socket_send_buffer_size(descriptor(socket), wanted));
        if result.is_ok() {
            *size = wanted;
        }
    }
}

/// Repeats a system call that a signal interrupted. Each repetition takes another signal, so this ends.
fn retried<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        descriptor(&self.socket)
    }
}

/// The descriptor of a socket, for polling.
pub(crate) fn as_fd(socket: &Socket) -> BorrowedFd<'_> {
    descriptor(socket)
}
