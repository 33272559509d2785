//! Why a measurement could not be made.

use std::io;
use std::path::{Path, PathBuf};

/// The result of everything here that can fail.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No namespaces, packets or addresses.
    #[error(transparent)]
    Ground(#[from] knock_testkit::Error),
    /// A system call failed.
    #[error("could not {attempt}: {source}")]
    Io {
        /// What was attempted, on what.
        attempt: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A daemon did not come up.
    #[error("{program} did not say `{awaited}` within {seconds} s; it said:\n{log}")]
    NotReady {
        /// The daemon.
        program: String,
        /// What its log should have shown.
        awaited: String,
        /// How long was waited, in seconds.
        seconds: u64,
        /// What its log shows.
        log: String,
    },
    /// A daemon opened nothing while the machine was quiet, or the gate was open before the knock: it is set up wrongly,
    /// and would be measured wrongly.
    #[error("{candidate}: {problem}; its log:\n{log}")]
    Unfit {
        /// The candidate.
        candidate: String,
        /// What is wrong with it.
        problem: String,
        /// What its log shows.
        log: String,
    },
    /// What a program or a file said could not be understood.
    #[error("`{text}` from {origin} is not what was expected: {expected}")]
    Unexpected {
        /// The program or the file.
        origin: String,
        /// What it said.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The daemon to be measured is not where it should be.
    #[error("{} is not there; build it: cargo build --release --workspace --bins", .path.display())]
    NotBuilt {
        /// Where it should be.
        path: PathBuf,
    },
}

/// Adds what was attempted to a system call's error.
pub(crate) trait Attempt<T> {
    /// `attempt` completes "could not …".
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { attempt: attempt(), source })
    }
}

/// Writes a file that only its owner reads, as secrets are.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).attempt(|| format!("write {}", path.display()))
}
