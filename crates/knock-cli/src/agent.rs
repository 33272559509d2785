//! The ssh agent: which keys it holds, and its signatures.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use knock_client::spa::agent::AgentError as ProtocolError;

/// How long an answer may take: somebody may have to find the key and touch it.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The agent is of no help.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(unix), expect(dead_code, reason = "agents are sockets of Unix"))]
pub(crate) enum AgentError {
    /// The environment names none.
    #[error("no ssh agent is there ($SSH_AUTH_SOCK is not set)")]
    None,
    /// This program can't use the agents of the system.
    #[cfg_attr(unix, expect(dead_code, reason = "agents are sockets of Unix"))]
    #[error("ssh agents are not supported on this system, only key files without a passphrase")]
    Unsupported,
    /// Its socket leads nowhere.
    #[error("the ssh agent of $SSH_AUTH_SOCK, {}, cannot be reached ({error})", path.display())]
    Unreachable { path: PathBuf, error: io::Error },
    /// It does not answer.
    #[error("the ssh agent has not answered in {} s (it may ask for a touch or a passphrase)", ANSWER_WITHIN.as_secs())]
    Slow,
    /// The connection ended.
    #[error("the ssh agent ended the connection ({0})")]
    Ended(io::Error),
    /// The answer is not what was asked for.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

#[cfg(unix)]
pub(crate) use unix::{keys, sign};

#[cfg(unix)]
mod unix {
    use std::env;
    use std::io::{self, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::time::Instant;

    use knock_client::spa::agent::{self, AgentKey};
    use knock_client::spa::{PublicKey, Signature};

    use super::{ANSWER_WITHIN, AgentError};

    /// The keys that the agent of $SSH_AUTH_SOCK holds.
    pub(crate) fn keys() -> Result<Vec<AgentKey>, AgentError> {
        Ok(agent::read_list(&ask(&agent::list_request())?)?)
    }

    /// Its signature with that key.
    pub(crate) fn sign(key: &PublicKey, to_be_signed: &[u8]) -> Result<Signature, AgentError> {
        Ok(agent::read_signature(&ask(&agent::sign_request(key, to_be_signed))?, key, to_be_signed)?)
    }

    fn ask(request: &[u8]) -> Result<Vec<u8>, AgentError> {
        let path = env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from);
        let path = path.ok_or(AgentError::None)?;
        let stream = UnixStream::connect(&path).map_err(|error| AgentError::Unreachable { path, error })?;
        exchange(stream, request).map_err(|error| match error {
            Failure::Io(error) if is_timeout(&error) => AgentError::Slow,
            Failure::Io(error) => AgentError::Ended(error),
            Failure::Protocol(error) => error.into(),
        })
    }

    enum Failure {
        Io(io::Error),
        Protocol(agent::AgentError),
    }

    impl From<io::Error> for Failure {
        fn from(error: io::Error) -> Failure {
            Failure::Io(error)
        }
    }

    fn exchange(mut stream: UnixStream, request: &[u8]) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(request)?;
        let mut length = [0; 4];
        read(&mut stream, &mut length, deadline)?;
        let mut answer = vec![0; agent::answer_length(length).map_err(Failure::Protocol)?];
        read(&mut stream, &mut answer, deadline)?;
        Ok(answer)
    }

    /// Fills `buffer`. The limit is for all of it: an agent that sends a byte now and then gets no more time.
    fn read(stream: &mut UnixStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => buffer = &mut buffer[length..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A limit of the socket is EAGAIN.
    fn is_timeout(error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
    }
}

#[cfg(not(unix))]
pub(crate) fn keys() -> Result<Vec<knock_client::spa::agent::AgentKey>, AgentError> {
    Err(AgentError::Unsupported)
}

#[cfg(not(unix))]
pub(crate) fn sign(_: &knock_client::spa::PublicKey, _: &[u8]) -> Result<knock_client::spa::Signature, AgentError> {
    Err(AgentError::Unsupported)
}
