//! Why nothing, or not everything, was knocked.

use std::io;
use std::path::PathBuf;

use knock_config::ConfigError;

/// What went wrong, displayed as one or more lines for standard error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Neither of the default files exists.
    #[error(
        "no configuration: there is no config.json in the current directory{}; name the file with -c",
        beside.as_ref().map(|path| format!(", and no {}", path.display())).unwrap_or_default()
    )]
    NoConfig { beside: Option<PathBuf> },
    /// The configuration is wrong.
    #[error("the configuration cannot be used\n{0}")]
    Config(#[from] ConfigError),
    /// The configuration has no rule of that name.
    #[error(
        "{file} has no rule `{name}`; {}its rules: {known}",
        suggestion.as_ref().map(|rule| format!("did you mean `{rule}`? ")).unwrap_or_default()
    )]
    UnknownRule { file: String, name: String, suggestion: Option<String>, known: String },
    /// Which sequence comes next only the server's file tells.
    #[error("rule `{name}` has one-time sequences, in {}; give the next of them with -s", path.display())]
    OneTime { name: String, path: PathBuf },
    /// The resolver knows no such host.
    #[error("cannot find the address of `{host}`: {error}; check the name and the network")]
    Resolve { host: String, error: io::Error },
    /// The host has addresses, but of the other kind only.
    #[error("`{host}` has no {version} address; leave {option} out to use what it has: {has}")]
    NoAddress { host: String, version: &'static str, option: &'static str, has: String },
    /// A knock was not sent, which was reported already.
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
