//! A connection: one request, one answer, both in time.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use knock_proto::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::protocol::{Code, Command, REQUEST_MAX, Refusal};
use super::response::{Progress, Response};
use super::socket::Peer;

/// The time for a request to arrive.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for the client to read the response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to somebody who may ask.
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    pub(crate) peer: Peer,
    deadline: Time,
    /// It waits for a reload, and has no time limit.
    waiting: bool,
    /// What came of the request.
    request: Vec<u8>,
    /// The answer, as soon as there is one.
    answer: Option<Response>,
}

/// What a connection gave.
#[derive(Debug, PartialEq)]
pub(crate) enum Received {
    /// A request, or why it is none.
    Request(Result<Command, Refusal>),
    /// The request is still to come.
    Nothing,
    /// The peer is gone.
    Gone,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, peer: Peer, now: Time) -> Connection {
        Connection {
            stream,
            peer,
            deadline: now.after(REQUEST_TIMEOUT),
            waiting: false,
            request: Vec::new(),
            answer: None,
        }
    }

    /// When its time is over; `None` while it waits.
    pub(crate) fn deadline(&self) -> Option<Time> {
        (!self.waiting).then_some(self.deadline)
    }

    /// Has it wait for its answer.
    pub(crate) fn wait(&mut self) {
        self.waiting = true;
    }

    /// Whether its answer comes later.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Whether the request is still to come.
    pub(crate) fn is_asking(&self) -> bool {
        self.answer.is_none() && !self.waiting
    }

    /// Whether the client has closed it (`POLLHUP` of poll(2); one that only shut down its sending side has not).
    pub(crate) fn is_closed(&self) -> bool {
        let mut descriptors = [PollFd::new(&self.stream, PollFlags::empty())];
        poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
            && descriptors[0].revents().contains(PollFlags::HUP)
    }

    /// Takes what has come, up to the newline or the end of what the peer sends.
    pub(crate) fn receive(&mut self) -> Received {
        let mut piece = [0; REQUEST_MAX + 1];
        loop {
            let space = REQUEST_MAX + 1 - self.request.len();
            match self.stream.read(&mut piece[..space]) {
                Ok(0) if self.request.is_empty() => return Received::Gone,
                Ok(0) => return Received::Request(Command::parse(&self.request)),
                Ok(count) => {
                    self.request.extend_from_slice(&piece[..count]);
                    if let Some(end) = self.request.iter().position(|&byte| byte == b'\n') {
                        return Received::Request(Command::parse(&self.request[..end]));
                    }
                    if self.request.len() > REQUEST_MAX {
                        let message = format!("the request is longer than {REQUEST_MAX} bytes");
                        return Received::Request(Err(Refusal::new(Code::TooLarge, message)));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Received::Nothing,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Received::Gone,
            }
        }
    }

    /// Begins to answer.
    pub(crate) fn answer(&mut self, answer: Response, now: Time) {
        self.answer = Some(answer);
        self.waiting = false;
        self.request = Vec::new();
        self.deadline = now.after(RESPONSE_TIMEOUT);
    }

    /// Goes on with the answer. `false` where there is nothing more to do.
    pub(crate) fn send(&mut self) -> bool {
        let Some(answer) = &mut self.answer else { return true };
        // Who does not want the answer, does not get it.
        matches!(answer.write_to(&self.stream), Ok(Progress::More))
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
            assert_eq!(connection.receive(), Received::Nothing);
        }
        peer.write_all(b"\nand more, which nobody reads").expect("sent");
        assert_eq!(connection.receive(), Received::Request(Ok(Command::Status {})));
    }

    #[test]
    fn the_end_of_what_is_sent_ends_a_request_too() {
        let (mut connection, mut peer) = connection();
        peer.write_all(Command::Reload {}.to_line().trim_end().as_bytes()).expect("sent");
        peer.shutdown(Shutdown::Write).expect("a socket");
        assert_eq!(connection.receive(), Received::Request(Ok(Command::Reload {})));
    }

    #[test]
    fn a_peer_that_says_nothing_is_gone() {
        let (mut connection, peer) = connection();
        drop(peer);
        assert_eq!(connection.receive(), Received::Gone);
    }

    #[test]
    fn a_request_of_the_greatest_length_is_read_and_a_longer_one_refused() {
        for (length, code) in [(REQUEST_MAX, Code::BadRequest), (REQUEST_MAX + 1, Code::TooLarge)] {
            let (mut connection, mut peer) = connection();
            peer.write_all(&vec![b' '; length]).expect("sent");
            peer.write_all(b"\n").expect("sent");
            let Received::Request(Err(refusal)) = connection.receive() else { panic!("it is refused") };
            assert_eq!(refusal.code, code, "{length}");
        }
    }
}
