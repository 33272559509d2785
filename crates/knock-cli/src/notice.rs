//! Lines on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use crate::args::Args;

/// How long something takes before it is worth a line.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// A line for standard error, which can be closed.
pub(crate) fn complain(message: impl Display) {
    let _ = writeln!(io::stderr(), "knock-cli: {message}");
}

/// Whether there is somebody who reads notices.
pub(crate) fn wanted(args: &Args) -> bool {
    !args.quiet && !args.json && io::stderr().is_terminal()
}

/// A line that is printed after some time, for a user who would else see nothing. Dropped before that it is not printed.
pub(crate) struct Notice {
    _stop: Option<Sender<()>>,
}

impl Notice {
    /// Prints `text` after `time`, if it is `wanted`.
    pub(crate) fn after(time: Duration, wanted: bool, text: String) -> Notice {
        if !wanted {
            return Notice { _stop: None };
        }
        let (sender, receiver) = mpsc::channel::<()>();
        thread::spawn(move || {
            if receiver.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
                complain(&text);
            }
        });
        Notice { _stop: Some(sender) }
    }
}
