//! Attempts to connect that are under way.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use mio::{Events, Interest, Poll, Token};

use crate::addresses::Target;
use crate::send;

/// The most attempts to connect that are under way to one address; a further one replaces the oldest.
pub const ATTEMPTS_MAX: usize = 3;

/// The attempts that are under way, and what became of the others.
pub(crate) struct Attempts {
    poll: Poll,
    events: Events,
    /// The oldest first.
    live: Vec<Attempt>,
    /// How many there were.
    pub(crate) count: u32,
    /// Whether one was refused: by a host where nothing listens, or by a firewall.
    pub(crate) refused: bool,
    /// The last failure that was not a refusal.
    pub(crate) failure: Option<io::Error>,
}

struct Attempt {
    token: Token,
    to: SocketAddr,
    stream: mio::net::TcpStream,
}

impl Attempts {
    pub(crate) fn new() -> io::Result<Attempts> {
        Ok(Attempts {
            poll: Poll::new()?,
            events: Events::with_capacity(8),
            live: Vec::new(),
            count: 0,
            refused: false,
            failure: None,
        })
    }

    /// Begins to connect to `port` of `target`.
    pub(crate) fn begin(&mut self, target: &Target, port: u16) {
        let to = target.at(port);
        let mut to_it = self.live.iter().enumerate().filter(|(_, attempt)| attempt.to == to).map(|(index, _)| index);
        if let (Some(oldest), true) = (to_it.next(), to_it.count() + 1 >= ATTEMPTS_MAX) {
            self.live.remove(oldest);
        }
        self.count = self.count.wrapping_add(1);
        let token = Token(self.count as usize);
        let began = send::connect(target, to).and_then(|socket| {
            let mut stream = mio::net::TcpStream::from_std(socket.into());
            self.poll.registry().register(&mut stream, token, Interest::WRITABLE)?;
            Ok(stream)
        });
        match began {
            Ok(stream) => self.live.push(Attempt { token, to, stream }),
            Err(error) => self.note(error),
        }
    }

    /// The first that is connected before `deadline`; all others are closed. `None` where none is.
    ///
    /// An error is one of waiting itself.
    pub(crate) fn wait(&mut self, deadline: Instant) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // mio rounds up to milliseconds, so that the loop does not spin.
            match self.poll.poll(&mut self.events, Some(left)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            let ready: Vec<Token> = self.events.iter().map(mio::event::Event::token).collect();
            for token in ready {
                if let Some(connected) = self.look(token) {
                    return Ok(Some(connected));
                }
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// The connection of that attempt, if it is there. One that has failed is dropped.
    fn look(&mut self, token: Token) -> Option<(TcpStream, SocketAddr)> {
        let index = self.live.iter().position(|attempt| attempt.token == token)?;
        let stream = &self.live[index].stream;
        let state = stream.take_error().and_then(|error| error.map_or(Ok(()), Err)).and_then(|()| stream.peer_addr());
        match state {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
            Err(error) => {
                self.live.remove(index);
                self.note(error);
                None
            }
            Ok(_) => {
                let mut attempt = self.live.remove(index);
                self.live.clear();
                let blocking = self.poll.registry().deregister(&mut attempt.stream).and_then(|()| {
                    let stream = TcpStream::from(attempt.stream);
                    stream.set_nonblocking(false)?;
                    Ok(stream)
                });
                blocking.map(|stream| (stream, attempt.to)).map_err(|error| self.note(error)).ok()
            }
        }
    }

    fn note(&mut self, error: io::Error) {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => self.refused = true,
            // The kernel has given up on one attempt; others follow.
            io::ErrorKind::TimedOut => {}
            _ => self.failure = Some(error),
        }
    }
}
