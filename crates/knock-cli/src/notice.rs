//! Lines on a terminal, for a user who would else see nothing.

use std::io::IsTerminal;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use crate::args::Args;
use crate::report::complain;

/// How long something takes before it is worth a line.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// Whether there is somebody who reads notices.
pub(crate) fn wanted(args: &Args) -> bool {
    !args.quiet && !args.json && std::io::stderr().is_terminal()
}

/// A line that is printed after some time. Dropped before that it is not printed.
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
