//! The system calls of the packet socket that neither pnet nor rustix has.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use crate::Error;
use crate::filter::{INSTRUCTIONS_MAX, Instruction};

/// `ETH_P_ALL` of `linux/if_ether.h`.
pub(super) const ALL_PROTOCOLS: u16 = 3;

/// A packet socket of protocol 0, which receives nothing before bind(2) names a protocol (packet(7)).
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?)
}

/// Asks for a receive queue of `bytes`.
pub(super) fn enlarge_queue(socket: &OwnedFd, bytes: usize) -> Result<(), Error> {
    if sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        // Without CAP_NET_ADMIN; the kernel cuts this silently to net.core.rmem_max.
        sockopt::set_socket_recv_buffer_size(socket, bytes)
            .map_err(|source| Error::SocketOption { option: "SO_RCVBUF", source: source.into() })?;
    }
    Ok(())
}

/// Spares the kernel a clone of each packet that this host sends. The filter drops them too, so a kernel without the
/// option (before 4.20) is as good.
pub(super) fn ignore_outgoing(socket: &OwnedFd) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the kernel reads the four bytes of `on`, which outlives the call.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            length_of::<libc::c_int>(),
        )
    };
}

/// Attaches the program, in place of the one before (socket(7), `SO_ATTACH_FILTER`).
pub(crate) fn attach(socket: &impl AsRawFd, program: &[Instruction]) -> Result<(), Error> {
    let failed = |source| Error::AttachFilter { instructions: program.len(), source };
    let mut instructions: Vec<libc::sock_filter> =
        program.iter().map(|&Instruction { code, jt, jf, k }| libc::sock_filter { code, jt, jf, k }).collect();
    let len = match u16::try_from(program.len()) {
        Ok(len) if program.len() <= INSTRUCTIONS_MAX => len,
        _ => return Err(failed(io::Error::from_raw_os_error(libc::EINVAL))),
    };
    let description = libc::sock_fprog { len, filter: instructions.as_mut_ptr() };
    // SAFETY: the descriptor is open; `description` names exactly the instructions of the vector; the kernel only
    // reads them, and both live until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const description).cast(),
            length_of::<libc::sock_fprog>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(failed(io::Error::last_os_error())) }
}

/// Reads `PACKET_STATISTICS`, which starts again at 0: the packets that passed the filter, and how many of them were
/// dropped.
pub(super) fn statistics(socket: &OwnedFd) -> Result<(u32, u32), Error> {
    // SAFETY: two integers, for which all zeroes is a value.
    let mut counts: libc::tpacket_stats = unsafe { zeroed() };
    let mut length = length_of::<libc::tpacket_stats>();
    // SAFETY: the descriptor is open; the kernel writes at most `length` bytes, the size of `counts`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut counts).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok((counts.tp_packets, counts.tp_drops))
    } else {
        Err(Error::SocketOption { option: "PACKET_STATISTICS", source: io::Error::last_os_error() })
    }
}

/// Takes the pending error out of the socket (`SO_ERROR`).
pub(super) fn take_error(socket: &OwnedFd) -> Result<Option<io::Error>, Error> {
    match sockopt::socket_error(socket) {
        Ok(Ok(())) => Ok(None),
        Ok(Err(pending)) => Ok(Some(pending.into())),
        Err(source) => Err(Error::SocketOption { option: "SO_ERROR", source: source.into() }),
    }
}

/// What an error of the socket means.
pub(super) fn receive_error(socket: &OwnedFd, source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ENETDOWN) if bound_index(socket) == Some(-1) => Error::LinkGone,
        Some(libc::ENETDOWN) => Error::LinkDown,
        _ => Error::Receive { source },
    }
}

/// The index that the socket is bound to; the kernel puts -1 there when that interface is deleted.
fn bound_index(socket: &OwnedFd) -> Option<libc::c_int> {
    // SAFETY: integers and an array of them, for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    let mut length = length_of::<libc::sockaddr_ll>();
    // SAFETY: the descriptor is open; the kernel writes at most `length` bytes, the size of `address`.
    let result = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length) };
    (result == 0).then_some(address.sll_ifindex)
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}
