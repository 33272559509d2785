//! The thread that reads the configuration again, while the event loop continues. One runs at a time.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use knock_config::Loaded;
use knock_proto::Watch;
use rustix::event::{EventfdFlags, eventfd};

use crate::daemon::config_source::ConfigSource;
use crate::daemon::plan::engine_settings;
use crate::triggers::sequences::SequencePlan;

/// The reasons why a reload failed, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotReloaded {
    /// The file is not valid.
    Invalid(String),
    /// The kernel or the system refused what it asks for.
    Failed(String),
}

impl NotReloaded {
    pub(super) fn invalid(reasons: impl fmt::Display) -> NotReloaded {
        NotReloaded::Invalid(reasons.to_string())
    }

    pub(super) fn failed(reasons: impl fmt::Display) -> NotReloaded {
        NotReloaded::Failed(reasons.to_string())
    }
}

impl fmt::Display for NotReloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (NotReloaded::Invalid(reasons) | NotReloaded::Failed(reasons)) = self;
        f.write_str(reasons)
    }
}

/// A configuration, and what the triggers need of it and of the files that it names.
pub(super) struct Prepared {
    pub(super) loaded: Loaded,
    pub(super) sequences: SequencePlan,
    pub(super) watches: Vec<Watch>,
}

impl Prepared {
    fn read(source: &ConfigSource) -> Result<Prepared, NotReloaded> {
        let loaded = source.load().map_err(NotReloaded::invalid)?;
        let settings = engine_settings(&loaded.config);
        let sequences = SequencePlan::load(&loaded.config, settings, source.owners).map_err(NotReloaded::invalid)?;
        let watches = sequences.watches();
        Ok(Prepared { loaded, sequences, watches })
    }
}

/// The reload that is under way, and the one after it.
pub(crate) struct Reloads {
    /// Readable when the thread is done.
    done: Arc<OwnedFd>,
    pub(super) running: Option<Running>,
    /// The clients that wait for the reload after it, where there is one: connections to the control socket, by their slots.
    pub(super) next: Option<Vec<usize>>,
}

pub(super) struct Running {
    thread: JoinHandle<Result<Prepared, NotReloaded>>,
    pub(super) askers: Vec<usize>,
    /// A one-time sequence was used meanwhile, so what was read of its file is old.
    pub(super) outdated: bool,
}

impl Reloads {
    /// # Errors
    ///
    /// Where there are no more descriptors.
    pub(crate) fn new() -> io::Result<Reloads> {
        let done = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Reloads { done: Arc::new(done), running: None, next: None })
    }

    /// The read that is done; `None` where none is.
    pub(super) fn take_done(&mut self) -> Option<Running> {
        rustix::io::read(&self.done, &mut [0; 8]).ok()?;
        self.running.take()
    }

    /// A file of one-time sequences was changed by the daemon itself.
    pub(crate) fn sequence_was_used(&mut self) {
        if let Some(running) = &mut self.running {
            running.outdated = true;
        }
    }

    pub(super) fn start(&mut self, source: ConfigSource, askers: Vec<usize>) -> Result<(), (NotReloaded, Vec<usize>)> {
        let done = Done(self.done.clone());
        let read = move || {
            let _done = done;
            Prepared::read(&source)
        };
        match thread::Builder::new().name("reload".to_owned()).spawn(read) {
            Ok(thread) => {
                self.running = Some(Running { thread, askers, outdated: false });
                Ok(())
            }
            Err(error) => Err((NotReloaded::failed(format_args!("cannot start a thread: {error}")), askers)),
        }
    }
}

impl Running {
    /// What was read.
    pub(super) fn join(self) -> Result<Prepared, NotReloaded> {
        let panicked = |_| Err(NotReloaded::failed("the thread that reads the configuration has panicked"));
        self.thread.join().unwrap_or_else(panicked)
    }
}

impl AsFd for Reloads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}

/// Tells the loop that a thread is done, whether it has come to its end or has panicked.
struct Done(Arc<OwnedFd>);

impl Drop for Done {
    fn drop(&mut self) {
        // It fails only where the counter is full, and then it is readable.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}
