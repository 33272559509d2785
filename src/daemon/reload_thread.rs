//! The thread that reads the configuration again, while the event loop continues. One runs at a time.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use knock_config::Loaded;
use knock_proto::Time;
use rustix::event::{EventfdFlags, eventfd};

use crate::control;
use crate::daemon::config_copies::{ConfigCopies, Copy, Staged};
use crate::daemon::config_source::{ConfigSource, is_state_directory_named};
use crate::daemon::plan::Plans;
use crate::ear::listener::Listener;

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

/// The configuration that is read, and why.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// The configuration file, which may have changed.
    Reload,
    /// Another file, for some time.
    Try { file: PathBuf, time: Duration },
    /// The text that was in force before a trial, which has ended without a confirmation.
    GoBack { text: String },
}

/// A configuration, and what the triggers need of it and of the files that it names.
pub(super) struct Prepared {
    pub(super) loaded: Loaded,
    pub(super) plans: Plans,
    /// The copy to keep once it is in force.
    pub(super) copy: Option<Staged>,
    /// Whether the configuration file has another text.
    pub(super) differs_from_file: bool,
}

impl Prepared {
    fn read(source: &ConfigSource, job: &Job) -> Result<Prepared, NotReloaded> {
        let loaded = match job {
            Job::Reload => source.load(),
            Job::Try { file, .. } => source.load_file(file),
            Job::GoBack { text } => source.load_text(&source.file, text),
        };
        let loaded = loaded.map_err(NotReloaded::invalid)?;
        let plans = Plans::load(&loaded.config, source.owners).map_err(NotReloaded::invalid)?;
        let copies = source.copies(&loaded.config);
        let copy = match job {
            Job::Reload => keep_last_valid(&copies, &loaded),
            // Without it, a restart would not know that the configuration is tried only.
            Job::Try { .. } => Some(keep_tried(&copies, &loaded.text)?),
            Job::GoBack { .. } => None,
        };
        let differs_from_file = !matches!(job, Job::Reload)
            && std::fs::read(&source.file).is_ok_and(|bytes| bytes != loaded.text.as_bytes());
        Ok(Prepared { loaded, plans, copy, differs_from_file })
    }
}

/// Writes the copy with which the daemon starts where its file is not valid.
pub(super) fn keep_last_valid(copies: &ConfigCopies, loaded: &Loaded) -> Option<Staged> {
    if !copies.has_directory() {
        // A trial run by hand leaves nothing behind on the machine.
        if !is_state_directory_named(&loaded.config) {
            return None;
        }
        let _ = copies.make_directory();
    }
    let staged = copies.stage(Copy::LastValid, &loaded.text);
    staged.inspect_err(|error| log::warn!("{}", not_kept(copies, error))).ok()
}

/// The warning that a copy is not kept.
pub(super) fn not_kept(copies: &ConfigCopies, error: &io::Error) -> String {
    format!(
        "cannot keep the last valid configuration in {}: {error}; while that is so, knockd does not start where its \
         configuration file is not valid",
        copies.path(Copy::LastValid).display()
    )
}

fn keep_tried(copies: &ConfigCopies, text: &str) -> Result<Staged, NotReloaded> {
    copies.make_directory().and_then(|()| copies.stage(Copy::Tried, text)).map_err(|error| {
        let path = copies.path(Copy::Tried);
        NotReloaded::failed(format_args!("cannot keep {}: {error}; correct that, or set state_dir", path.display()))
    })
}

/// The reload that is under way, and the one after it.
pub(crate) struct Reloads {
    /// Readable when the thread is done.
    done: Arc<OwnedFd>,
    pub(super) running: Option<Running>,
    /// What was read, while the ear gets ready for it.
    pub(super) waiting: Option<Waiting>,
    /// One has ended, in whatever way, in this turn of the loop.
    pub(super) has_ended: bool,
    /// The clients that wait for the reload after it, where there is one: connections to the control socket, by their slots.
    pub(super) next: Option<Vec<usize>>,
}

pub(super) struct Running {
    thread: JoinHandle<Result<Prepared, NotReloaded>>,
    pub(super) job: Job,
    pub(super) askers: Vec<usize>,
    /// A one-time sequence was used meanwhile, so what was read of its file is old.
    pub(super) outdated: bool,
}

/// A configuration that was put in force.
pub(super) struct Applied {
    pub(super) text: String,
    pub(super) warnings: Vec<String>,
    pub(super) copy: Option<Staged>,
    pub(super) differs_from_file: bool,
}

/// A configuration for which the ear gets ready.
pub(super) struct StagedReload {
    pub(super) prepared: Prepared,
    pub(super) warnings: Vec<String>,
    /// The control socket, where it is another one.
    pub(super) socket: Option<control::Socket>,
    /// The packet sockets that the ear was handed.
    pub(super) listeners: Vec<Listener>,
    /// What the ear is to say.
    pub(super) token: u64,
}

/// What is waited for.
pub(super) enum Stage {
    /// The ear gets ready.
    Staged(Box<StagedReload>),
    /// The ear follows what is in force for everything else.
    Applied(Applied),
}

/// A reload that waits for the ear.
pub(super) struct Waiting {
    pub(super) stage: Stage,
    /// When the ear should have answered.
    pub(super) due: Time,
    pub(super) job: Job,
    pub(super) askers: Vec<usize>,
    /// See [`Running::outdated`].
    pub(super) outdated: bool,
}

impl Reloads {
    /// # Errors
    ///
    /// Where there are no more descriptors.
    pub(crate) fn new() -> io::Result<Reloads> {
        let done = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Reloads { done: Arc::new(done), running: None, waiting: None, has_ended: false, next: None })
    }

    /// The read that is done; `None` where none is.
    pub(super) fn take_done(&mut self) -> Option<Running> {
        rustix::io::read(&self.done, &mut [0; 8]).ok()?;
        self.running.take()
    }

    /// Whether a reload is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.running.is_some() || self.waiting.is_some()
    }

    /// When the ear should be ready.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.waiting.as_ref().map(|waiting| waiting.due)
    }

    /// A file of one-time sequences was changed by the daemon itself.
    pub(crate) fn sequence_was_used(&mut self) {
        let running = self.running.as_mut().map(|running| &mut running.outdated);
        let waiting = self.waiting.as_mut().map(|waiting| &mut waiting.outdated);
        running.into_iter().chain(waiting).for_each(|outdated| *outdated = true);
    }

    pub(super) fn start(
        &mut self,
        source: ConfigSource,
        job: Job,
        askers: Vec<usize>,
    ) -> Result<(), (NotReloaded, Vec<usize>)> {
        let done = Done(self.done.clone());
        let wanted = job.clone();
        let read = move || {
            let _done = done;
            Prepared::read(&source, &wanted)
        };
        match thread::Builder::new().name("reload".to_owned()).spawn(read) {
            Ok(thread) => {
                self.running = Some(Running { thread, job, askers, outdated: false });
                Ok(())
            }
            Err(error) => Err((NotReloaded::failed(format_args!("cannot start a thread: {error}")), askers)),
        }
    }
}

impl Running {
    /// What was read, and why.
    pub(super) fn join(self) -> (Job, Result<Prepared, NotReloaded>) {
        let panicked = |_| Err(NotReloaded::failed("the thread that reads the configuration has panicked"));
        (self.job, self.thread.join().unwrap_or_else(panicked))
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
