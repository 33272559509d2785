//! The calls that the main process makes.
//!
//! What is missing is what an intruder would want first: execve, ptrace, bpf, mount, kernel modules, io_uring, other
//! users' rights, memory with new code, and sockets of any family but the three that the daemon speaks.

use seccompiler::BackendError;
use seccompiler::SeccompCmpOp::Eq;

use super::{Calls, rule, without};

/// The calls and the rules of those that are not free.
pub(super) fn calls() -> Result<Calls, BackendError> {
    let mut calls: Calls = CALLS.iter().map(|&call| (call, Vec::new())).collect();
    let families = [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_PACKET];
    let families = families.into_iter().map(|family| rule(&[(0, Eq, family)]));
    calls.insert(libc::SYS_socket, families.collect::<Result<_, _>>()?);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        calls.insert(call, vec![rule(&[without(2, libc::PROT_EXEC)])?]);
    }
    Ok(calls)
}

#[rustfmt::skip]
const CALLS: &[libc::c_long] = &[
    // The event loop.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_ppoll,
    libc::SYS_pselect6, libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_eventfd2, libc::SYS_pipe2,
    // Sockets: packets, netlink, control, journal, syslog, service manager. socket(2) has a rule of its own.
    libc::SYS_socketpair, libc::SYS_bind, libc::SYS_connect, libc::SYS_listen, libc::SYS_accept4,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_sendto,
    libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_shutdown, libc::SYS_ioctl,
    // Files: the configuration, one-time sequences, the state directory, the control socket.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_lseek, libc::SYS_close, libc::SYS_close_range, libc::SYS_openat, libc::SYS_fstat, libc::SYS_newfstatat,
    libc::SYS_statx, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_getdents64,
    libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_ftruncate, libc::SYS_fcntl, libc::SYS_flock, libc::SYS_dup,
    libc::SYS_dup3, libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_linkat,
    libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_umask, libc::SYS_getcwd,
    libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_memfd_create, libc::SYS_copy_file_range, libc::SYS_fallocate,
    libc::SYS_utimensat,
    // Memory. mmap(2) and mprotect(2) have rules of their own.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise,
    // Threads and signals.
    libc::SYS_clone, libc::SYS_clone3, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_futex,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_set_tid_address, libc::SYS_gettid,
    libc::SYS_sigaltstack, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait, libc::SYS_restart_syscall, libc::SYS_tgkill, libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_prctl, libc::SYS_membarrier,
    // How the other processes of the daemon ended.
    libc::SYS_wait4, libc::SYS_waitid,
    // Time, names and numbers.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid,
    libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getrandom, libc::SYS_uname, libc::SYS_sysinfo,
    libc::SYS_getrusage, libc::SYS_prlimit64, libc::SYS_capget,
    // Calls that newer architectures no longer have.
    #[cfg(target_arch = "x86_64")] libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")] libc::SYS_poll,
    #[cfg(target_arch = "x86_64")] libc::SYS_pipe,
    #[cfg(target_arch = "x86_64")] libc::SYS_open,
    #[cfg(target_arch = "x86_64")] libc::SYS_stat,
    #[cfg(target_arch = "x86_64")] libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")] libc::SYS_access,
    #[cfg(target_arch = "x86_64")] libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")] libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")] libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_rename,
    #[cfg(target_arch = "x86_64")] libc::SYS_link,
    #[cfg(target_arch = "x86_64")] libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")] libc::SYS_chown,
    #[cfg(target_arch = "x86_64")] libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")] libc::SYS_time,
];
