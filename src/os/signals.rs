//! Signals as descriptors that become readable.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::low_level::pipe;

/// Leaves the signals of the daemon to the keeper. One to all processes that are called knockd, as pkill(1) sends it, is for
/// that alone. They have a handler here and are not ignored, since commands would inherit that (execve(2)).
///
/// # Errors
///
/// Where the kernel refuses.
pub(crate) fn leave_to_keeper() -> io::Result<()> {
    let nothing = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGUSR1] {
        flag::register(signal, Arc::clone(&nothing))?;
    }
    Ok(())
}

/// One or more signals.
#[derive(Debug)]
pub(crate) struct Signal {
    readable: UnixStream,
}

impl Signal {
    /// TERM and INT: the daemon is to stop.
    ///
    /// # Errors
    ///
    /// Where there are no more descriptors.
    pub(crate) fn stop() -> io::Result<Signal> {
        Signal::of(&[SIGTERM, SIGINT])
    }

    /// USR1: the daemon is to stop because another one is about to replace it (`RestartKillSignal=` of systemd.kill(5)).
    ///
    /// # Errors
    ///
    /// Where there are no more descriptors.
    pub(crate) fn hand_over() -> io::Result<Signal> {
        Signal::of(&[SIGUSR1])
    }

    /// HUP: the daemon reloads its configuration.
    ///
    /// # Errors
    ///
    /// Where there are no more descriptors.
    pub(crate) fn reload() -> io::Result<Signal> {
        Signal::of(&[SIGHUP])
    }

    fn of(signals: &[i32]) -> io::Result<Signal> {
        let (readable, writable) = UnixStream::pair()?;
        readable.set_nonblocking(true)?;
        for &signal in signals {
            pipe::register(signal, writable.try_clone()?)?;
        }
        Ok(Signal { readable })
    }

    /// Whether it came since this was last asked.
    pub(crate) fn take(&mut self) -> bool {
        let mut came = false;
        while let Ok(1..) = self.readable.read(&mut [0; 16]) {
            came = true;
        }
        came
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}
