//! One command as a process group: its environment, its output, its time limit and its end.

use std::io::{ErrorKind, PipeReader, Read};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process_group, pidfd_open, test_kill_process_group, waitpgid,
};

use super::outcome::{NotRun, Outcome};
use super::output::Output;

/// The time of a process group between SIGTERM and SIGKILL, and again between SIGKILL and the end of the wait.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// The first and the longest interval between two looks at a group whose shell has ended: no descriptor becomes
/// readable when a group is empty.
const GROUP_POLL_INTERVALS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(200)];

/// Where the daemon's environment has no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command line with its circumstances.
#[derive(Clone, Copy, Debug)]
pub(super) struct Invocation<'a> {
    pub(super) rule: &'a str,
    /// `None` where the command is for no address in particular.
    pub(super) source: Option<IpAddr>,
    pub(super) line: &'a str,
    pub(super) timeout: Duration,
}

/// Runs it to its end; `cancel`, readable or hung up, ends it before. `log` gets its output, line by line.
///
/// A command lasts until its process group is empty. A process that left the group (setsid(1)) is left alone.
/// Child processes that cannot be killed are added to `unkillable`.
pub(super) fn run(
    invocation: &Invocation<'_>,
    cancel: Option<BorrowedFd<'_>>,
    unkillable: &mut Vec<Child>,
    log: impl FnMut(&str),
) -> Outcome {
    match Running::start(invocation, log) {
        Ok(running) => running.supervise(cancel, unkillable),
        Err(error) => Outcome::NotRun(NotRun::Start(error)),
    }
}

/// The shell for the line. Of the daemon's environment it has only PATH, LANG and TZ.
///
/// std resets the disposition of SIGPIPE; handlers of the daemon end with execve(2), and it blocks no signal.
fn shell(invocation: &Invocation<'_>) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(invocation.line).env_clear().current_dir("/").process_group(0).stdin(Stdio::null());
    command.env("PATH", env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| PATH.into()));
    for name in ["LANG", "TZ"] {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("KNOCK_RULE", invocation.rule);
    if let Some(source) = invocation.source {
        command.env("KNOCK_IP", source.to_string());
        command.env("KNOCK_FAMILY", if source.is_ipv4() { "4" } else { "6" });
    }
    command
}

/// Why the group is being ended.
#[derive(Clone, Copy)]
enum Ending {
    TimeLimit,
    Cancelled,
}

struct Running<L> {
    child: Child,
    group: Pid,
    /// Readable when the shell has ended. `None` once it is reaped.
    ended: Option<OwnedFd>,
    /// `None` once all writers have closed it.
    pipe: Option<PipeReader>,
    output: Output,
    status: Option<ExitStatus>,
    limit: Duration,
    log: L,
}

impl<L: FnMut(&str)> Running<L> {
    fn start(invocation: &Invocation<'_>, log: L) -> io::Result<Running<L>> {
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        let mut child = {
            // It holds the writing end, which has to be closed here for the reading end to see the end of the output.
            let mut command = shell(invocation);
            command.stdout(writer.try_clone()?).stderr(writer);
            command.spawn()?
        };
        let group = Pid::from_child(&child);
        let ended = match pidfd_open(group, PidfdFlags::empty()) {
            Ok(ended) => ended,
            Err(error) => {
                // Without it there would be no time limit.
                kill(group, Signal::KILL);
                child.wait()?;
                return Err(error.into());
            }
        };
        Ok(Running {
            child,
            group,
            ended: Some(ended),
            pipe: Some(reader),
            output: Output::default(),
            status: None,
            limit: invocation.timeout,
            log,
        })
    }

    fn supervise(mut self, cancel: Option<BorrowedFd<'_>>, unkillable: &mut Vec<Child>) -> Outcome {
        let started = Instant::now();
        let mut deadline = started.checked_add(self.limit);
        let mut ending = None;
        let mut killed = false;
        let mut look = GROUP_POLL_INTERVALS[0];
        loop {
            let now = Instant::now();
            let left = deadline.map_or(GRACE, |deadline| deadline.saturating_duration_since(now));
            let cancelled = self
                .wait(if self.status.is_some() { left.min(look) } else { left }, cancel.filter(|_| ending.is_none()));
            self.reap();
            if self.status.is_some() {
                if !self.group_lives() {
                    break;
                }
                look = (look * 2).min(GROUP_POLL_INTERVALS[1]);
            }
            let now = Instant::now();
            let due = deadline.is_some_and(|deadline| now >= deadline);
            match ending {
                None if due || cancelled => {
                    ending = Some((if cancelled { Ending::Cancelled } else { Ending::TimeLimit }, self.status));
                    kill(self.group, Signal::TERM);
                    deadline = now.checked_add(GRACE);
                }
                Some(_) if due && !killed => {
                    kill(self.group, Signal::KILL);
                    killed = true;
                    deadline = now.checked_add(GRACE);
                }
                Some(_) if due => {
                    (self.log)("(some of its processes cannot be ended and are left behind)");
                    break;
                }
                _ => {}
            }
        }
        self.finish(ending, unkillable)
    }

    /// Waits for output, for the end of the shell, or for `cancel`; whether it was `cancel`.
    fn wait(&mut self, at_most: Duration, cancel: Option<BorrowedFd<'_>>) -> bool {
        let pipe = self.pipe.as_ref().map(AsFd::as_fd);
        let ended = self.ended.as_ref().map(AsFd::as_fd);
        let mut descriptors: Vec<PollFd<'_>> = [cancel, pipe, ended]
            .into_iter()
            .flatten()
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
            .collect();
        let timeout = Timespec::try_from(at_most).ok();
        if poll(&mut descriptors, timeout.as_ref()).is_err() {
            return false;
        }
        let cancelled = cancel.is_some() && descriptors.first().is_some_and(|first| !first.revents().is_empty());
        self.read();
        cancelled
    }

    /// Reads one piece from the pipe; whether there may be more. A flood of output delays no look at the time limit so.
    fn read(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        let mut piece = [0; 8192];
        match pipe.read(&mut piece) {
            Ok(0) => self.pipe = None,
            Ok(length) => {
                self.output.take(&piece[..length], &mut self.log);
                return true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.pipe = None,
        }
        false
    }

    fn reap(&mut self) {
        if self.ended.is_none() {
            return;
        }
        if let Ok(Some(status)) = self.child.try_wait() {
            self.status = Some(status);
            self.ended = None;
        }
    }

    /// Whether processes of the group are left, now that the shell is reaped. As long as there are, its number is no
    /// other group's.
    fn group_lives(&self) -> bool {
        // In a container this process is the parent of those whose parent has ended.
        while let Ok(Some(_)) = waitpgid(self.group, WaitOptions::NOHANG) {}
        test_kill_process_group(self.group) != Err(Errno::SRCH)
    }

    fn finish(mut self, ending: Option<(Ending, Option<ExitStatus>)>, unkillable: &mut Vec<Child>) -> Outcome {
        // The output before the end. A process that left the group may go on writing.
        for _ in 0..16 {
            if !self.read() {
                break;
            }
        }
        self.output.finish(&mut self.log);
        let denied = self.output.is_denial();
        match (ending, self.status) {
            (None, Some(status)) if status.success() => Outcome::Succeeded,
            (None, Some(status)) => Outcome::Failed { status, denied },
            (Some((ending, left_behind)), status) => {
                if status.is_none() {
                    unkillable.push(self.child);
                }
                match ending {
                    Ending::TimeLimit => Outcome::TimedOut { limit: self.limit, left_behind },
                    Ending::Cancelled => Outcome::Interrupted,
                }
            }
            (None, None) => Outcome::TimedOut { limit: self.limit, left_behind: None },
        }
    }
}

/// Signals the group. A group that has ended is no failure, and one of another user is reported when it goes on after
/// the grace time.
fn kill(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
}
