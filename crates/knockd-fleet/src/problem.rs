//! What a store, or the way to it, suffers from, and what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::resp::RespError;

/// How much of what a server says is shown, in characters.
const SAID_MAX: usize = 120;

/// A server does not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("the store {server}: {problem}")]
pub(crate) struct StoreError {
    /// `host:port`
    pub(crate) server: String,
    pub(crate) problem: Problem,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{}: cannot read the {what}: {error}", path.display())]
    File { path: PathBuf, what: &'static str, error: io::Error },
    #[error("{}: the {what} is missing in the file", path.display())]
    Empty { path: PathBuf, what: &'static str },
    #[error("this is not a server with its port; write it as host:port, an IPv6 address as [::1]:6379")]
    NoServer,
    #[error("its name has no address: {0}; check the name in `fleet.servers`, and the name servers of this host")]
    Name(io::Error),
    #[error("cannot connect: {0}; check that the server runs and listens there, and the firewalls in between")]
    Connect(io::Error),
    #[error(
        "TLS: {}; check that the port is the one for TLS, that `fleet.tls.ca` is the authority of the server's certificate, and that the name in `fleet.servers` is in the certificate",
        in_short(.0)
    )]
    Tls(io::Error),
    #[error("this host has no certificates of authorities; install ca-certificates, or set `fleet.tls.ca`")]
    NoAuthority,
    #[error(
        "the connection broke: {}; if this comes at once, check whether the server takes TLS only: `fleet.tls`",
        in_short(.0)
    )]
    Broken(io::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("authentication failed ({0}); check `fleet.user` and the file `fleet.password_file`")]
    Login(String),
    #[error("{command} was refused: {}{}", shown(text), hint(text))]
    Refused { command: &'static str, text: String },
    #[error("{0}; check that the port is that of a Valkey or Redis server")]
    Foreign(RespError),
    #[error("the answer to {0} is not one of a Valkey or Redis server 6.2 or later")]
    Answer(&'static str),
    #[error(
        "it is not a replica of the server that records are written to, or does not follow it; check `fleet.read_from` and the replication"
    )]
    Stranger,
}

impl StoreError {
    /// Whether the answer was too long to be read.
    pub(crate) fn is_long(&self) -> bool {
        matches!(self.problem, Problem::Foreign(RespError::Long))
    }

    /// Whether the server can't be written to, but another server of the list may.
    pub(crate) fn is_of_replica(&self) -> bool {
        matches!(&self.problem, Problem::Refused { text, .. } if text.starts_with("READONLY"))
    }
}

/// What a server said, which may be anything: short, and nothing that drives a terminal.
pub(crate) fn shown(text: &str) -> String {
    let printable = |character: char| if character.is_ascii_graphic() || character == ' ' { character } else { '?' };
    text.chars().take(SAID_MAX).map(printable).collect()
}

/// The error. That of TLS for a server that just ends is long.
fn in_short(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the server has closed it".to_owned(),
        _ => error.to_string(),
    }
}

/// What to do.
fn hint(text: &str) -> &'static str {
    match crate::connection::code(text).as_str() {
        "NOPERM" => "; give the user the commands and keys that docs/fleet-protocol.md lists",
        "NOAUTH" => "; set `fleet.user` and `fleet.password_file`",
        "READONLY" => "; it is a replica: write the primary first in `fleet.servers`",
        "MOVED" | "CROSSSLOT" => "; it is a node of a cluster, which is not supported: use a single server",
        "DENIED" => "; it accepts nobody from other hosts: give it users, and `protected-mode no`",
        "ERR" if text.contains("max number of clients") => "; raise `maxclients` there: a node has two connections",
        "MISCONF" | "OOM" => "; the server cannot take more: look at its log",
        "WRONGTYPE" => "; something else has written to the keys of the realm",
        _ => "",
    }
}
