//! A connection: one request, one response, each with a time limit.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use knock_proto::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::protocol::{Code, Command, REQUEST_MAX, Refusal};
use super::response::{Progress, Response};
use crate::os::local_socket::Peer;

/// The time for a request to arrive.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for the client to read the response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that wait for a client that follows what happens. Lines above that are left out.
const FOLLOWING_MAX: usize = 64 << 10;

/// A connection to a client that may send a request.
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    pub(crate) peer: Peer,
    state: State,
}

enum State {
    /// These bytes of the request have arrived; the rest arrives before the deadline.
    Receiving(Vec<u8>, Time),
    /// The request is a reload, which has no time limit.
    Waiting,
    /// The client follows what happens: these bytes wait for it, and this is how many lines did not fit.
    Following(Vec<u8>, u64),
    /// The client reads the response before the deadline.
    Responding(Response, Time),
}

/// The result of a look at a connection.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// A request has arrived, or a line that is none.
    Request(Result<Command, Refusal>),
    /// There is more to come.
    Open,
    /// The client has closed it, or has the whole response.
    Closed,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, peer: Peer, now: Time) -> Connection {
        Connection { stream, peer, state: State::Receiving(Vec::new(), now.after(REQUEST_TIMEOUT)) }
    }

    /// The time at which it ends.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Receiving(_, deadline) | State::Responding(_, deadline) => Some(deadline),
            State::Waiting | State::Following(..) => None,
        }
    }

    /// Sends lines to the client from now on, for as long as it is connected.
    pub(crate) fn follow(&mut self) {
        self.state = State::Following(Vec::new(), 0);
    }

    /// Whether lines are sent to the client.
    pub(crate) fn is_following(&self) -> bool {
        matches!(self.state, State::Following(..))
    }

    /// Adds a line for the client, where it has room for one.
    pub(crate) fn push(&mut self, line: &[u8]) {
        if let State::Following(waiting, left_out) = &mut self.state {
            if waiting.len() + line.len() > FOLLOWING_MAX {
                *left_out += 1;
            } else {
                waiting.extend_from_slice(line);
            }
        }
    }

    /// The lines for the client that did not fit since this was asked last.
    pub(crate) fn left_out(&mut self) -> u64 {
        match &mut self.state {
            State::Following(_, left_out) => std::mem::take(left_out),
            _ => 0,
        }
    }

    /// Whether bytes wait for the client to take them.
    pub(crate) fn has_waiting(&self) -> bool {
        matches!(&self.state, State::Following(waiting, _) if !waiting.is_empty())
    }

    /// Makes it wait for its response.
    pub(crate) fn wait(&mut self) {
        self.state = State::Waiting;
    }

    /// Whether it waits for its response.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// Whether the request has not arrived yet.
    pub(crate) fn is_receiving(&self) -> bool {
        matches!(self.state, State::Receiving(..))
    }

    /// Whether the client has closed it (`POLLHUP` of poll(2); one that only shut down its sending side has not).
    pub(crate) fn is_closed(&self) -> bool {
        let mut descriptors = [PollFd::new(&self.stream, PollFlags::empty())];
        poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
            && descriptors[0].revents().contains(PollFlags::HUP)
    }

    /// Starts the response.
    pub(crate) fn respond(&mut self, response: Response, now: Time) -> Step {
        self.state = State::Responding(response, now.after(RESPONSE_TIMEOUT));
        self.on_ready()
    }

    /// Reads what has arrived of the request, or writes what the client takes of the response.
    pub(crate) fn on_ready(&mut self) -> Step {
        match &mut self.state {
            State::Receiving(request, _) => match read_request(&self.stream, request) {
                Ok(Some(request)) => Step::Request(request),
                Ok(None) => Step::Open,
                Err(_) => Step::Closed,
            },
            State::Waiting => Step::Open,
            State::Following(waiting, _) => {
                match write_some(&self.stream, waiting).and_then(|()| is_open(&self.stream)) {
                    Ok(true) => Step::Open,
                    Ok(false) | Err(_) => Step::Closed,
                }
            }
            State::Responding(response, _) => match response.write_to(&self.stream) {
                Ok(Progress::More) => Step::Open,
                Ok(Progress::Done) | Err(_) => Step::Closed,
            },
        }
    }
}

/// Writes what the client takes at once.
fn write_some(mut stream: &UnixStream, waiting: &mut Vec<u8>) -> io::Result<()> {
    while !waiting.is_empty() {
        match stream.write(waiting) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => drop(waiting.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the client has not closed its side. What it sends is not for anybody.
fn is_open(mut stream: &UnixStream) -> io::Result<bool> {
    let mut piece = [0; 512];
    // A few reads at most: a client that sends without end is not followed.
    for _ in 0..8 {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Reads up to the newline or the end of what the client sends; `None` where neither has arrived.
fn read_request(mut stream: &UnixStream, request: &mut Vec<u8>) -> io::Result<Option<Result<Command, Refusal>>> {
    let mut piece = [0; REQUEST_MAX + 1];
    loop {
        let space = REQUEST_MAX + 1 - request.len();
        match stream.read(&mut piece[..space]) {
            Ok(0) if request.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(Some(Command::parse(request))),
            Ok(count) => {
                request.extend_from_slice(&piece[..count]);
                if let Some(end) = request.iter().position(|&byte| byte == b'\n') {
                    return Ok(Some(Command::parse(&request[..end])));
                }
                if request.len() > REQUEST_MAX {
                    let message = format!("the request is longer than {REQUEST_MAX} bytes");
                    return Ok(Some(Err(Refusal::new(Code::TooLarge, message))));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;

    use super::*;

    fn connection() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_nonblocking(true).expect("a socket");
        (Connection::new(ours, Peer { uid: 0, gid: 0 }, Time::ZERO), theirs)
    }

    #[test]
    fn a_request_may_come_byte_by_byte() {
        let (mut connection, mut peer) = connection();
        let line = Command::Status {}.to_line();
        for byte in &line.as_bytes()[..line.len() - 1] {
            peer.write_all(&[*byte]).expect("sent");
            assert_eq!(connection.on_ready(), Step::Open);
        }
        peer.write_all(b"\nand more, which nobody reads").expect("sent");
        assert_eq!(connection.on_ready(), Step::Request(Ok(Command::Status {})));
    }

    #[test]
    fn the_end_of_what_is_sent_ends_a_request_too() {
        let (mut connection, mut peer) = connection();
        peer.write_all(Command::Reload {}.to_line().trim_end().as_bytes()).expect("sent");
        peer.shutdown(Shutdown::Write).expect("a socket");
        assert_eq!(connection.on_ready(), Step::Request(Ok(Command::Reload {})));
    }

    #[test]
    fn a_peer_that_says_nothing_is_gone() {
        let (mut connection, peer) = connection();
        drop(peer);
        assert_eq!(connection.on_ready(), Step::Closed);
    }

    #[test]
    fn a_request_of_the_greatest_length_is_read_and_a_longer_one_refused() {
        for (length, code) in [(REQUEST_MAX, Code::BadRequest), (REQUEST_MAX + 1, Code::TooLarge)] {
            let (mut connection, mut peer) = connection();
            peer.write_all(&vec![b' '; length]).expect("sent");
            peer.write_all(b"\n").expect("sent");
            let Step::Request(Err(refusal)) = connection.on_ready() else { panic!("it is refused") };
            assert_eq!(refusal.code, code, "{length}");
        }
    }
}
