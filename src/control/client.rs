//! The client's end of the control socket: one request, one response.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::protocol::{Answer, Command, Refusal};

/// The time limit of a response. A reload with very many live grants takes a second or two.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No daemon listens.
    #[error(
        "no knockd answers at {}: {error}; start it (systemctl start knockd), or name the control_socket of its \
         configuration with --socket",
        path.display()
    )]
    NoDaemon { path: PathBuf, error: io::Error },
    /// The socket is closed to this user.
    #[error("not permitted to ask knockd at {}: {error}; run this as root, or as a member of the group of the socket", path.display())]
    NotPermitted { path: PathBuf, error: io::Error },
    /// The daemon closed the connection, or sent no response in time.
    #[error("knockd at {} gave no answer: {error}; its log may say why", path.display())]
    Broken { path: PathBuf, error: io::Error },
    /// The response is of another program.
    #[error("what answers at {} does not speak knockd's control protocol: {error}; is knockctl of the daemon's version?", path.display())]
    NotUnderstood { path: PathBuf, error: serde_json::Error },
    /// The daemon refused the request.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

/// Sends the request to the daemon at that socket.
///
/// # Errors
///
/// Where no daemon answers, or it refuses.
pub(crate) fn request<T: DeserializeOwned>(path: &Path, command: &Command) -> Result<T, ClientError> {
    let owned = || path.to_owned();
    let broken = |error| ClientError::Broken { path: owned(), error };
    let mut stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => ClientError::NotPermitted { path: owned(), error },
        _ => ClientError::NoDaemon { path: owned(), error },
    })?;
    stream
        .set_read_timeout(Some(RESPONSE_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(RESPONSE_TIMEOUT)))
        .map_err(broken)?;
    // A daemon that refuses the connection responds without reading. Its message says more than the failed write.
    let sent = stream.write_all(command.to_line().as_bytes());
    let mut line = Vec::new();
    match BufReader::with_capacity(1 << 16, stream).read_until(b'\n', &mut line) {
        Ok(_) if line.ends_with(b"\n") => {}
        Ok(_) => return Err(broken(sent.err().unwrap_or_else(|| ErrorKind::UnexpectedEof.into()))),
        Err(error) => return Err(broken(sent.err().unwrap_or(error))),
    }
    let answer: Answer<T> =
        serde_json::from_slice(&line).map_err(|error| ClientError::NotUnderstood { path: owned(), error })?;
    match (answer.result, answer.error) {
        (_, Some(refusal)) => Err(ClientError::Refused(refusal)),
        (Some(result), None) => Ok(result),
        (None, None) => Err(broken(ErrorKind::InvalidData.into())),
    }
}
