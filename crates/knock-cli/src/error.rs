//! The errors of the client. None of them shows a sequence.

use std::io;
use std::path::PathBuf;

use knock_config::ConfigError;

use crate::identity::IdentityError;

/// An error, displayed as one or more lines for standard error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// None of the default files exists.
    #[error(
        "there is no file with rules; looked for:\n{}\n  Write one of them, name another with -c, or ask the administrator of \
         the server for: knockctl client RULE --host NAME",
        places.iter().map(|path| format!("  {}", path.display())).collect::<Vec<_>>().join("\n")
    )]
    NoConfig { places: Vec<PathBuf> },
    /// The environment does not name a directory for the user's file.
    #[error("the environment names no home directory; name the file with -c")]
    NoHome,
    /// The configuration is invalid.
    #[error("the configuration cannot be used\n{0}")]
    Config(#[from] ConfigError),
    /// The configuration has no rule of that name.
    #[error(
        "{file} has no rule `{name}`{}; {}its rules: {known}",
        if *or_host { ", and no rule with that host" } else { "" },
        suggestion.as_ref().map(|rule| format!("did you mean `{rule}`? ")).unwrap_or_default()
    )]
    UnknownRule { file: String, name: String, or_host: bool, suggestion: Option<String>, known: String },
    /// Neither the command line nor the file names a host.
    #[error("rule `{name}` has no host; name it with -h HOST, or write `host` in the rule")]
    NoHost { name: String },
    /// Only the file on the server shows the next one-time sequence.
    #[error("rule `{name}` has one-time sequences, in {}; write the next sequence of that file with -s", path.display())]
    OneTime { name: String, path: PathBuf },
    /// The rule takes packets, and the file is not one that says where to.
    #[error(
        "rule `{name}` takes signed packets, but {file} is a server's file, which a client cannot send them with; ask the \
         administrator for the URL that `knockctl spa init` prints, and run: knock-cli add {name}"
    )]
    PacketOfServer { name: String, file: String },
    /// No key signs.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The knocks were not sent, or nothing opened.
    #[error("{0}{hint}", hint = if matches!(.0, knock_client::Error::NoAddress { .. }) {
        ". To use it, delete -4, -6, --source, or `family` and `source` of the rule"
    } else { "" })]
    Knock(#[from] knock_client::Error),
    /// A host without a rule could not be connected to.
    #[error("cannot connect to {host}:{port}: {error}; no rule has that host, so there was no knock")]
    Plain { host: String, port: u16, error: io::Error },
    /// What an administrator sent is not a rule.
    #[error("the rule cannot be added: {0}")]
    Add(String),
    /// A file or a stream of the system.
    #[error("{what}: {error}")]
    Io { what: String, error: io::Error },
    /// A program cannot be run.
    #[error("cannot run {program}: {error}")]
    Run { program: String, error: io::Error },
}

impl Error {
    /// The exit status, after sysexits.h: EX_NOHOST, EX_UNAVAILABLE, EX_TEMPFAIL, EX_NOPERM and
    /// EX_CONFIG.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Error::NoConfig { .. }
            | Error::NoHome
            | Error::Config(_)
            | Error::UnknownRule { .. }
            | Error::NoHost { .. }
            | Error::Add(_)
            | Error::PacketOfServer { .. }
            | Error::OneTime { .. } => 78,
            Error::Identity(_) => 77,
            Error::Knock(error) => match error {
                knock_client::Error::Resolve { .. } | knock_client::Error::NoAddress { .. } => 68,
                knock_client::Error::NotOpen(not_open) if not_open.refused => 75,
                knock_client::Error::NotOpen(_) => 69,
                knock_client::Error::NotMade(knock_client::PacketError::Sign(_)) => 77,
                _ => 1,
            },
            Error::Plain { error, .. } if error.kind() == io::ErrorKind::ConnectionRefused => 75,
            Error::Plain { .. } => 69,
            Error::Io { .. } => 1,
            // As a shell has them.
            Error::Run { error, .. } if error.kind() == io::ErrorKind::NotFound => 127,
            Error::Run { .. } => 126,
        }
    }
}

/// An error of the command line, or of what it names.
pub(crate) enum Refusal {
    Usage(clap::Error),
    Error(Error),
}

impl From<clap::Error> for Refusal {
    fn from(error: clap::Error) -> Refusal {
        Refusal::Usage(error)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Error(error)
    }
}
