//! The other processes of the daemon: each is this program again, started with the other end of a [`Channel`] as its
//! standard input, output and, but for the runner, error. By execve(2), not by fork(2) alone, so that its memory holds nothing of this process
//! and lies elsewhere.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use super::channel::{Channel, pair};

/// This program, also where its file was replaced or deleted (proc_pid_exe(5)).
const PROGRAM: &str = "/proc/self/exe";

/// How often it is asked whether a process has ended, and the time between.
const ENDING: usize = 100;
const MOMENT: Duration = Duration::from_millis(5);

/// What a process of the daemon is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// It reads packets, and has no privilege.
    Ear,
    /// It runs commands.
    Runner,
}

impl Role {
    const ALL: [Role; 2] = [Role::Ear, Role::Runner];

    /// The noun for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Ear => "ear",
            Role::Runner => "runner",
        }
    }

    /// The first word of its command line, as ps(1) shows it.
    fn title(self) -> String {
        format!("knockd: {}", self.name())
    }

    /// The name of its first thread, as ps(1) and top(1) show it.
    fn thread(self) -> &'static CStr {
        match self {
            Role::Ear => c"knockd-ear",
            Role::Runner => c"knockd-runner",
        }
    }

    /// The role of this process; `None`: it is the daemon itself.
    pub(crate) fn of_this_process() -> Option<Role> {
        let mut words = std::env::args_os();
        let (title, more) = (words.next()?, words.next());
        let role = Role::ALL.into_iter().find(|role| more.is_none() && title == *role.title())?;
        let _ = rustix::thread::set_name(role.thread());
        Some(role)
    }
}

/// A process of the daemon. It ends when this is dropped, since its channel is closed.
#[derive(Debug)]
pub(crate) struct Child {
    process: process::Child,
    /// How messages come and go.
    pub(crate) channel: Channel<OwnedFd>,
}

impl Child {
    /// Starts a process in that role, in a process group of its own: what a terminal sends to this one does not reach it.
    ///
    /// # Errors
    ///
    /// Where it can't be started.
    pub(crate) fn start(role: Role) -> io::Result<Child> {
        let (channel, theirs) = pair()?;
        let mut command = Command::new(PROGRAM);
        command.arg0(role.title()).process_group(0);
        if role == Role::Ear {
            command.env_clear().current_dir("/");
        }
        let end = || theirs.try_clone().map(Stdio::from);
        command.stdin(end()?).stdout(end()?);
        match role {
            Role::Ear => command.stderr(end()?),
            // It writes the log, which may go there.
            Role::Runner => command.stderr(Stdio::inherit()),
        };
        Ok(Child { process: command.spawn()?, channel })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it, and waits until it has ended.
    pub(crate) fn end(self) {
        let Child { mut process, channel, .. } = self;
        drop(channel);
        let _ = process.wait();
    }

    /// How it ended; `None` where it has not. For a process that has closed its end of the channel: it may take a moment
    /// until it is over.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        for _ in 0..ENDING {
            match self.process.try_wait() {
                Ok(None) => thread::sleep(MOMENT),
                Ok(ended) => return ended,
                Err(_) => return None,
            }
        }
        None
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
