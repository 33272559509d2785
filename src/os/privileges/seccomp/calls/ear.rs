//! The calls that the ear makes, whose sockets are all handed to it.
//!
//! It sends to its parent, by the descriptors 0 to 2, which it can't close or replace, and asks the kernel over netlink.
//! It can't send to the network: a packet socket sends with an address of its own kind (20 bytes) or with none
//! (packet_sendmsg in `net/packet`), and neither is let through.

use seccompiler::BackendError;
use seccompiler::SeccompCmpOp::{Eq, Ge, Le};

use super::{Calls, rule, rule_with_pointer, with, without};

/// The last of the descriptors that lead to the parent.
const PARENT: libc::c_int = 2;
/// The length of a netlink address (netlink(7), `sockaddr_nl`).
const NETLINK_ADDRESS: libc::c_int = 12;

/// The calls and the rules of those that are not free.
pub(super) fn calls() -> Result<Calls, BackendError> {
    let mut calls: Calls = CALLS.iter().map(|&call| (call, Vec::new())).collect();
    let not_parent = || (0, Ge, PARENT + 1);
    let option = |level, name| rule(&[(1, Eq, level), (2, Eq, name)]);
    let ruled = [
        (libc::SYS_write, vec![rule(&[(0, Le, PARENT)])?]),
        (libc::SYS_sendmsg, vec![rule(&[(0, Le, PARENT)])?]),
        (
            libc::SYS_sendto,
            vec![rule(&[(0, Le, PARENT)])?, rule_with_pointer(4, &[not_parent(), (5, Eq, NETLINK_ADDRESS)])?],
        ),
        // A packet socket is bound to another interface.
        (libc::SYS_bind, vec![rule(&[not_parent()])?]),
        (libc::SYS_close, vec![rule(&[not_parent()])?]),
        (
            libc::SYS_getsockopt,
            vec![option(libc::SOL_SOCKET, libc::SO_ERROR)?, option(libc::SOL_PACKET, libc::PACKET_STATISTICS)?],
        ),
        (
            libc::SYS_setsockopt,
            vec![
                option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER)?,
                option(libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK)?,
            ],
        ),
        (
            libc::SYS_fcntl,
            [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL]
                .into_iter()
                .map(|command| rule(&[(1, Eq, command)]))
                .collect::<Result<_, _>>()?,
        ),
        (libc::SYS_mmap, vec![rule(&[without(2, libc::PROT_EXEC), with(3, libc::MAP_ANONYMOUS)])?]),
    ];
    calls.extend(ruled);
    Ok(calls)
}

#[rustfmt::skip]
const CALLS: &[libc::c_long] = &[
    // The event loop.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime, libc::SYS_ppoll, libc::SYS_restart_syscall,
    #[cfg(target_arch = "x86_64")] libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")] libc::SYS_poll,
    // What it reads: packets, links, messages of its parent and the memory that comes with them, timers.
    libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_read, libc::SYS_pread64, libc::SYS_fstat, libc::SYS_getsockname,
    // Memory. The allocator needs no mprotect(2) in a process with one thread.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_futex,
    // Time and numbers.
    libc::SYS_clock_gettime, libc::SYS_gettimeofday, libc::SYS_getrandom,
    // The end, also by a panic or an overflow of the stack, whose handler would otherwise be called again and again.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack, libc::SYS_gettid,
    libc::SYS_exit, libc::SYS_exit_group,
];
