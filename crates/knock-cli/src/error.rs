//! The errors of the client.

use std::io;
use std::path::PathBuf;

use knock_config::ConfigError;

/// An error, displayed as one or more lines for standard error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Neither of the default files exists.
    #[error(
        "no configuration: there is no config.json in the current directory{}; name the file with -c",
        beside.as_ref().map(|path| format!(", and no {}", path.display())).unwrap_or_default()
    )]
    NoConfig { beside: Option<PathBuf> },
    /// The configuration is invalid.
    #[error("the configuration cannot be used\n{0}")]
    Config(#[from] ConfigError),
    /// The configuration has no rule of that name.
    #[error(
        "{file} has no rule `{name}`; {}its rules: {known}",
        suggestion.as_ref().map(|rule| format!("did you mean `{rule}`? ")).unwrap_or_default()
    )]
    UnknownRule { file: String, name: String, suggestion: Option<String>, known: String },
    /// Only the file on the server shows the next one-time sequence.
    #[error("rule `{name}` has one-time sequences, in {}; write the next sequence of that file with -s", path.display())]
    OneTime { name: String, path: PathBuf },
    /// The resolver does not know the host.
    #[error("cannot find the address of `{host}`: {error}; check the name and the network")]
    Resolve { host: String, error: io::Error },
    /// The host has only addresses of the other IP version.
    #[error("`{host}` has no {version} address; delete {option} to use another address of the host: {has}")]
    NoAddress { host: String, version: &'static str, option: &'static str, has: String },
    /// A knock was not sent. Its error is already on standard error.
    #[error("not every knock was sent")]
    NotSent,
}

impl Error {
    /// The exit status, after sysexits.h: EX_NOHOST and EX_CONFIG.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Error::NoConfig { .. } | Error::Config(_) | Error::UnknownRule { .. } | Error::OneTime { .. } => 78,
            Error::Resolve { .. } | Error::NoAddress { .. } => 68,
            Error::NotSent => 1,
        }
    }
}
