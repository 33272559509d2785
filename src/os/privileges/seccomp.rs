//! The system calls that a process may make (seccomp(2)).
//!
//! A call that is not in the list of its process fails with EPERM, and the process goes on: a C library that is newer than
//! the list should not stop it. A debug build is ended instead (SIGSYS), so that no test passes with a call missing.
//!
//! No memory becomes executable that was not when the program was loaded: this is what prctl(2), `PR_SET_MDWE`, does
//! on Linux 6.3 and later, for which no library has a safe call.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod calls;

/// Whose calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// The one that reads the packets of strangers.
    Ear,
    /// The main process.
    Keeper,
}

/// Puts the filter in force for this thread and those that it starts.
///
/// # Errors
///
/// Where the kernel has no seccomp filters, or the architecture no filter here.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
pub(super) fn install(process: Process) -> Result<(), seccompiler::Error> {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    let otherwise = if cfg!(debug_assertions) {
        SeccompAction::KillProcess
    } else {
        SeccompAction::Errno(libc::EPERM.unsigned_abs())
    };
    let filter =
        SeccompFilter::new(calls::of(process)?, otherwise, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
}

/// As above.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
pub(super) fn install(_process: Process) -> Result<(), &'static str> {
    Err("not on this architecture")
}
