//! How a command ended, in words that tell the operator what to do.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// With exit status 0.
    Succeeded,
    /// With another exit status, or by a signal that did not come from the daemon.
    Failed {
        /// The shell's.
        status: ExitStatus,
        /// Whether its output has the message of a missing permission.
        denied: bool,
    },
    /// Its process group was ended at the time limit.
    TimedOut {
        /// The limit.
        limit: Duration,
        /// The status of the shell, where it had ended before and left processes behind.
        left_behind: Option<ExitStatus>,
    },
    /// Its process group was ended because the daemon stops.
    Interrupted,
    /// There was no command to run, only a step before it, which succeeded.
    NothingToRun,
    /// It was not started.
    NotRun(NotRun),
}

impl Outcome {
    /// Whether the command ran to its end, well or badly, or to its time limit.
    pub(crate) fn has_run(&self) -> bool {
        matches!(self, Outcome::Succeeded | Outcome::Failed { .. } | Outcome::TimedOut { .. })
    }
}

/// Why a command was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRun {
    /// The kernel had no thread or process for it.
    #[error("cannot start /bin/sh: {0}; raise what limits the service's processes, memory or descriptors")]
    Start(#[source] io::Error),
    /// The step before it failed.
    #[error("{0}")]
    Before(#[source] Box<dyn Error + Send + Sync>),
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Why a command was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Too many are running and waiting.
    #[error(
        "{running} commands are running and {queued} are waiting, which is the limit; raise limits.commands or \
         limits.command_queue, or lower the rule's command_timeout"
    )]
    QueueFull {
        /// Commands that run.
        running: usize,
        /// Commands that wait.
        queued: usize,
    },
    /// There is no thread to run it on.
    #[error("no thread could be started for it; raise what limits the service's tasks or memory")]
    NoThread,
    /// The daemon stops.
    #[error("the daemon is stopping")]
    Stopping,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Succeeded => f.write_str("succeeded"),
            Outcome::Failed { status, denied } => {
                f.write_str("failed: ")?;
                failure(*status, f)?;
                if *denied {
                    f.write_str(
                        "; it was not permitted something: the service has few privileges, so grant it what the \
                         command needs by a drop-in (systemctl edit knockd)",
                    )?;
                }
                Ok(())
            }
            Outcome::TimedOut { limit, left_behind: None } => {
                write!(
                    f,
                    "was ended at its time limit of {limit:?}; raise the rule's command_timeout if it needs longer"
                )
            }
            Outcome::TimedOut { limit, left_behind: Some(status) } => {
                write!(
                    f,
                    "left processes behind, which were ended at the time limit of {limit:?} (its shell ended before: "
                )?;
                failure(*status, f)?;
                f.write_str("); raise the rule's command_timeout, or start what is to go on by setsid or systemd-run")
            }
            Outcome::Interrupted => f.write_str("was ended because the daemon stops"),
            Outcome::NothingToRun => f.write_str("had nothing to run"),
            Outcome::NotRun(reason) => write!(f, "was not run: {reason}"),
        }
    }
}

/// An exit status as sh(1) gives it (POSIX.1-2024, Shell Command Language, 2.8.2).
fn failure(status: ExitStatus, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match (status.code(), status.signal()) {
        (Some(127), _) => f.write_str(
            "exit status 127, which is a program that the shell did not find; write its full path, or install it",
        ),
        (Some(126), _) => f.write_str(
            "exit status 126, which is a program that could not be executed; check its mode and its first line",
        ),
        (Some(code @ 129..=192), _) => {
            let signal = code - 128;
            write!(f, "exit status {code}, as of a program that was ended by {}", Signal(signal))
        }
        (Some(code), _) => write!(f, "exit status {code}"),
        (None, Some(signal)) => write!(f, "{}", Signal(signal)),
        (None, None) => write!(f, "{status}"),
    }
}

struct Signal(i32);

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "SIGHUP",
            2 => "SIGINT",
            3 => "SIGQUIT",
            6 => "SIGABRT",
            9 => "SIGKILL",
            11 => "SIGSEGV",
            13 => "SIGPIPE",
            15 => "SIGTERM",
            31 => "SIGSYS",
            _ => return write!(f, "signal {}", self.0),
        };
        write!(f, "signal {} ({name})", self.0)
    }
}
