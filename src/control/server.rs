//! The daemon's end of the control socket: a few connections at once, none of which can block the daemon.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use knock_proto::Time;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use super::connection::{Connection, REQUEST_TIMEOUT, Step};
use super::protocol::{Code, Command, Refusal};
use super::response::Response;
use super::socket::Socket;
use crate::os::local_socket::Peer;

/// The limit of connections at once. One more gets the error `busy`.
pub(crate) const CONNECTIONS_MAX: usize = 8;
/// The limit of connections that wait for a reload: the others are for requests that are answered at once.
const WAITING_MAX: usize = CONNECTIONS_MAX / 2;
/// The limit of connections that are kept open for lines.
const FOLLOWERS_MAX: usize = 2;
/// The limit of connections that are accepted before the loop looks at packets again.
const ACCEPTED_IN_A_ROW: usize = 32;
/// How long no connection is accepted after the kernel had no descriptor for one.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The control socket and its connections. Its descriptor is readable when [`Server::on_ready`] has something to do.
pub(crate) struct Server {
    socket: Socket,
    /// An epoll(7) instance, which the event loop waits for as for any other descriptor. What is ready does not matter:
    /// each turn looks at all connections, as they are few.
    epoll: OwnedFd,
    connections: [Option<Connection>; CONNECTIONS_MAX],
    /// When it begins to accept connections, where it does not do so yet.
    accepts_from: Option<Time>,
}

/// A request that [`Server::answer`] or [`Server::wait`] has to follow.
pub(crate) struct Request {
    /// The number of the connection.
    pub(crate) slot: usize,
    pub(crate) peer: Peer,
    pub(crate) command: Command,
}

impl Server {
    /// Serves that socket.
    ///
    /// # Errors
    ///
    /// Where there are no more descriptors.
    pub(crate) fn new(socket: Socket) -> io::Result<Server> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Server { socket, epoll, connections: Default::default(), accepts_from: Some(Time::ZERO) })
    }

    /// Serves this socket instead of the one before. The connections stay.
    pub(crate) fn replace(&mut self, socket: Socket) {
        self.socket = socket;
        self.accepts_from = Some(Time::ZERO);
    }

    /// Where the socket is.
    pub(crate) fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Accepts connections, continues their responses, and returns the requests that have arrived.
    pub(crate) fn on_ready(&mut self, now: Time) -> Vec<Request> {
        // Before requests are read: a new connection may take the slot of a closed one.
        self.accept(now);
        let mut requests = Vec::new();
        for slot in 0..CONNECTIONS_MAX {
            let Some(connection) = &mut self.connections[slot] else { continue };
            let peer = connection.peer;
            match connection.on_ready() {
                Step::Request(Ok(command)) => requests.push(Request { slot, peer, command }),
                Step::Request(Err(refusal)) => self.answer(slot, Response::refusal(refusal), now),
                Step::Open if connection.is_following() => self.push(slot, &[]),
                Step::Open => {}
                Step::Closed => self.connections[slot] = None,
            }
        }
        requests
    }

    /// Accepts connections, and refuses those that are not permitted or are one too many.
    fn accept(&mut self, now: Time) {
        for _ in 0..ACCEPTED_IN_A_ROW {
            if self.accepts_from.is_some() {
                return;
            }
            match self.socket.accept() {
                Ok(stream) => self.admit(stream, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    log::warn!("cannot accept a connection to the control socket: {error}; trying again in a second");
                    // It stays readable until there is a descriptor.
                    if epoll::delete(&self.epoll, &self.socket).is_ok() {
                        self.accepts_from = Some(now.after(ACCEPT_RETRY_DELAY));
                    }
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: UnixStream, now: Time) {
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => return log::warn!("cannot read the user of a connection to the control socket: {error}"),
        };
        if !self.socket.admits(peer) {
            log::warn!("refused uid {} at the control socket", peer.uid);
            let message = "only root, the daemon's own user and members of the group of the control socket may ask";
            return refuse(&stream, Code::NotPermitted, message);
        }
        let Some(slot) = self.free_slot() else {
            let message = format!("{CONNECTIONS_MAX} others are connected to the control socket; try again");
            return refuse(&stream, Code::Busy, &message);
        };
        match self.watch(&stream, EventFlags::IN) {
            Ok(()) => self.connections[slot] = Some(Connection::new(stream, peer, now)),
            Err(error) => log::warn!("cannot wait for a request at the control socket: {error}"),
        }
    }

    /// Waits for these events of the descriptor.
    fn watch(&self, descriptor: impl AsFd, flags: EventFlags) -> io::Result<()> {
        let data = EventData::new_u64(0);
        match epoll::add(&self.epoll, &descriptor, data, flags) {
            Err(Errno::EXIST) => Ok(epoll::modify(&self.epoll, &descriptor, data, flags)?),
            result => Ok(result?),
        }
    }

    /// A slot for one more connection. Where all are taken, connections that their clients have closed make room. A
    /// connection that waits for a reload keeps its slot, because the response goes there.
    fn free_slot(&mut self) -> Option<usize> {
        if self.connections.iter().all(Option::is_some) {
            for slot in &mut self.connections {
                let _ = slot.take_if(|connection| connection.is_closed() && !connection.is_waiting());
            }
        }
        self.connections.iter().position(Option::is_none)
    }

    /// The peer of that connection.
    pub(crate) fn peer(&self, slot: usize) -> Option<Peer> {
        self.connections.get(slot)?.as_ref().map(|connection| connection.peer)
    }

    /// Keeps that connection until its response is ready. `false` where too many wait: it gets that as its response.
    pub(crate) fn wait(&mut self, slot: usize, now: Time) -> bool {
        let waiting = self.connections.iter().flatten().filter(|connection| connection.is_waiting()).count();
        if waiting >= WAITING_MAX {
            let message = format!("{WAITING_MAX} others wait for a reload; try again");
            self.answer(slot, Response::refusal(Refusal::new(Code::Busy, message)), now);
            return false;
        }
        self.wait_briefly(slot)
    }

    /// The same, for a response that is there in a moment.
    pub(crate) fn wait_briefly(&mut self, slot: usize) -> bool {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return false };
        // What it sends, and even its end, would wake the loop again and again.
        let _ = epoll::delete(&self.epoll, &connection.stream);
        connection.wait();
        true
    }

    /// Sends a first line to that connection and keeps it open for others. `false` where too many do that already: it gets
    /// that as its response.
    pub(crate) fn follow(&mut self, slot: usize, line: &[u8], now: Time) -> bool {
        if self.followers().count() >= FOLLOWERS_MAX {
            let message = format!("{FOLLOWERS_MAX} others watch already; try again");
            self.answer(slot, Response::refusal(Refusal::new(Code::Busy, message)), now);
            return false;
        }
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return false };
        connection.follow();
        self.push(slot, line);
        true
    }

    /// The connections that are kept open for lines.
    pub(crate) fn followers(&self) -> impl Iterator<Item = usize> {
        let following = |connection: &Option<Connection>| connection.as_ref().is_some_and(Connection::is_following);
        self.connections.iter().enumerate().filter(move |(_, connection)| following(connection)).map(|(slot, _)| slot)
    }

    /// Sends a line to a connection that is kept open for lines. One that does not read gets some of the later ones only:
    /// see [`Server::left_out`].
    pub(crate) fn push(&mut self, slot: usize, line: &[u8]) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        if !connection.is_following() {
            // Another client has its place.
            return;
        }
        connection.push(line);
        if connection.on_ready() == Step::Closed {
            self.connections[slot] = None;
            return;
        }
        // The end of the client wakes the loop, and room for more where something waits.
        let flags = if connection.has_waiting() { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        let Some(Some(connection)) = self.connections.get(slot) else { return };
        if self.watch(&connection.stream, flags).is_err() {
            self.connections[slot] = None;
        }
    }

    /// The lines to that connection that were left out since this was asked last.
    pub(crate) fn left_out(&mut self, slot: usize) -> u64 {
        self.connections.get_mut(slot).and_then(Option::as_mut).map_or(0, Connection::left_out)
    }

    /// Sends the response to the request of that connection.
    pub(crate) fn answer(&mut self, slot: usize, answer: Response, now: Time) {
        let Some(mut connection) = self.connections.get_mut(slot).and_then(Option::take) else { return };
        if connection.respond(answer, now) == Step::Open && self.watch(&connection.stream, EventFlags::OUT).is_ok() {
            self.connections[slot] = Some(connection);
        }
    }

    /// Ends the connections whose time is over, and starts to accept connections when it is time.
    pub(crate) fn tick(&mut self, now: Time) {
        for slot in &mut self.connections {
            if let Some(connection) = slot.take_if(|connection| connection.deadline().is_some_and(|due| due <= now))
                && connection.is_receiving()
            {
                let message = format!("no request came within {} seconds", REQUEST_TIMEOUT.as_secs());
                refuse(&connection.stream, Code::Timeout, &message);
            }
        }
        if self.accepts_from.take_if(|from| *from <= now).is_some()
            && let Err(error) = self.watch(&self.socket, EventFlags::IN)
        {
            log::error!("cannot wait for connections to the control socket: {error}; trying again in a second");
            self.accepts_from = Some(now.after(ACCEPT_RETRY_DELAY));
        }
    }

    /// When [`Server::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.connections.iter().flatten().filter_map(Connection::deadline).chain(self.accepts_from).min()
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Sends an error to a client that may not read it.
fn refuse(stream: &UnixStream, code: Code, message: &str) {
    // A new socket takes a response of this size at once.
    let _ = Response::refusal(Refusal::new(code, message)).write_to(stream);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn clients_that_hung_up_do_not_keep_others_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        let mut server = Server::new(Socket::listen(&path).expect("a socket")).expect("an epoll instance");
        server.tick(Time::ZERO);
        let connect = || UnixStream::connect(&path).expect("it listens");

        let open: Vec<UnixStream> = (0..CONNECTIONS_MAX - 1).map(|_| connect()).collect();
        drop(connect());
        let waits = connect();
        server.accept(Time::ZERO);
        assert_eq!(server.connections.iter().flatten().filter(|connection| !connection.is_closed()).count(), 8);
        waits.set_nonblocking(true).expect("a socket");
        assert_eq!((&waits).read(&mut [0; 1]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "not refused");

        // A client that has only shut down its sending side still waits.
        open[0].shutdown(std::net::Shutdown::Write).expect("half closed");
        let mut one_too_many = connect();
        server.accept(Time::ZERO);
        let mut answer = String::new();
        one_too_many.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains("\"busy\""), "{answer}");
    }
}
