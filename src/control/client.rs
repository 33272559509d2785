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
    let mut reader = connect(path, command)?;
    read_result(path, &mut reader)
}

/// Sends the request to the daemon at that socket, and hands each line that follows to `line`, until that returns `false`.
///
/// # Errors
///
/// Where no daemon answers, it refuses, or it ends.
pub(crate) fn follow<T: DeserializeOwned, L: DeserializeOwned>(
    path: &Path,
    command: &Command,
    mut line: impl FnMut(L) -> bool,
) -> Result<T, ClientError> {
    let broken = |error| ClientError::Broken { path: path.to_owned(), error };
    let mut reader = connect(path, command)?;
    let result = read_result(path, &mut reader)?;
    // It may be long until something happens.
    reader.get_ref().set_read_timeout(None).map_err(broken)?;
    while line(read_line(path, &mut reader)?) {}
    Ok(result)
}

fn connect(path: &Path, command: &Command) -> Result<BufReader<UnixStream>, ClientError> {
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
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    match (sent, reader.fill_buf()) {
        (Ok(()), _) | (Err(_), Ok([_, ..])) => Ok(reader),
        (Err(error), _) => Err(broken(error)),
    }
}

fn read_result<T: DeserializeOwned>(path: &Path, reader: &mut BufReader<UnixStream>) -> Result<T, ClientError> {
    let answer: Answer<T> = read_line(path, reader)?;
    match (answer.result, answer.error) {
        (_, Some(refusal)) => Err(ClientError::Refused(refusal)),
        (Some(result), None) => Ok(result),
        (None, None) => Err(ClientError::Broken { path: path.to_owned(), error: ErrorKind::InvalidData.into() }),
    }
}

/// The next line, which is a document of its own.
fn read_line<T: DeserializeOwned>(path: &Path, reader: &mut BufReader<UnixStream>) -> Result<T, ClientError> {
    let broken = |error| ClientError::Broken { path: path.to_owned(), error };
    let mut line = Vec::new();
    match reader.read_until(b'\n', &mut line) {
        Ok(_) if line.ends_with(b"\n") => {}
        Ok(_) => return Err(broken(ErrorKind::UnexpectedEof.into())),
        Err(error) => return Err(broken(error)),
    }
    serde_json::from_slice(&line).map_err(|error| ClientError::NotUnderstood { path: path.to_owned(), error })
}
