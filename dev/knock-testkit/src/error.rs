//! The errors of test tools. A message shows whether the test or the machine is at fault.

use std::io;
use std::process::ExitStatus;

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// The reason why a test could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces cannot be made by this user.
    #[error(
        "a network namespace could not be made ({reason}). These tests need one: run them as root, or as any user \
         with `unshare -Urnm cargo test`, or let `scripts/test` do that"
    )]
    NotPermitted {
        /// What `unshare` said.
        reason: String,
    },
    /// A system call failed.
    #[error("could not {attempt}: {source}")]
    Io {
        /// What was attempted, on what.
        attempt: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("`{command}` ended with {status}: {stderr}")]
    Command {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// The network has no interface of that name.
    #[error("there is no interface {name} in this network namespace")]
    NoInterface {
        /// The name asked for.
        name: String,
    },
    /// The neighbour's hardware address did not become known.
    #[error("the hardware address of {address} did not become known on {interface}: is it on that link?")]
    NoNeighbour {
        /// The neighbour.
        address: std::net::IpAddr,
        /// The link it was looked for on.
        interface: String,
    },
    /// Nothing came back in time.
    #[error("{what} did not come within {seconds} s")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long, in seconds.
        seconds: f32,
    },
}

/// Adds what was attempted to a system call's error.
pub(crate) trait Attempt<T> {
    /// `attempt` completes "could not …".
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io { attempt: attempt(), source: error.into() })
    }
}
