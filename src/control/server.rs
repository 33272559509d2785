//! The daemon's end of the control socket: a few connections at once, none of which can hold it up.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use knock_proto::Time;

use super::connection::{Connection, PATIENCE, Received};
use super::listing::Outgoing;
use super::protocol::{Code, Command, Refusal};
use super::socket::{Peer, Socket};
use crate::os::poller::Poller;

/// Connections at once; one more is told that it is one too many.
pub(crate) const CONNECTIONS_MAX: usize = 8;
/// Connections that wait for a reload at once: the others are for those who ask how things are.
const WAITING_MAX: usize = CONNECTIONS_MAX / 2;
/// Connections that are accepted before packets have their turn.
const ACCEPTED_IN_A_ROW: usize = 32;
/// How long none is accepted after the kernel had no descriptor for one.
const PAUSE: Duration = Duration::from_secs(1);

/// The control socket and its connections.
pub(crate) struct Server {
    socket: Socket,
    token: u64,
    connections: [Option<Connection>; CONNECTIONS_MAX],
    /// Until when none is accepted.
    paused: Option<Time>,
}

impl Server {
    /// Serves that socket. The poller knows it by `token`, and its connections by the [`CONNECTIONS_MAX`] tokens after
    /// that one.
    pub(crate) fn new(socket: Socket, token: u64) -> Server {
        Server { socket, token, connections: Default::default(), paused: None }
    }

    /// Serves another socket instead. Whoever is connected stays so.
    pub(crate) fn replace(&mut self, socket: Socket) {
        self.socket = socket;
        self.paused = None;
    }

    /// Where the socket is.
    pub(crate) fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Has the poller tell of connections. Needed after [`Server::replace`] too.
    ///
    /// # Errors
    ///
    /// Where the poller refuses.
    pub(crate) fn watch(&self, poller: &Poller) -> io::Result<()> {
        if self.paused.is_some() {
            return Ok(());
        }
        match poller.watch(self.socket.listener(), self.token) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    /// The token of the connection in that slot.
    const fn connection_token(&self, slot: usize) -> u64 {
        self.token + 1 + slot as u64
    }

    /// The slot of the connection with that token; `None` for the socket's own.
    pub(crate) fn slot(&self, token: u64) -> Option<usize> {
        let slot = usize::try_from(token.checked_sub(self.token + 1)?).ok()?;
        (slot < CONNECTIONS_MAX).then_some(slot)
    }

    /// Accepts who wants to ask, and refuses who may not or is one too many.
    pub(crate) fn accept(&mut self, now: Time, poller: &Poller) {
        for _ in 0..ACCEPTED_IN_A_ROW {
            match self.socket.listener().accept() {
                Ok((stream, _)) => self.take_up(stream, now, poller),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    log::warn!("cannot accept a connection to the control socket: {error}; trying again in a second");
                    // It stays readable until there is a descriptor.
                    if poller.forget(self.socket.listener()).is_ok() {
                        self.paused = Some(now.after(PAUSE));
                    }
                    return;
                }
            }
        }
    }

    fn take_up(&mut self, stream: UnixStream, now: Time, poller: &Poller) {
        let peer = match stream.set_nonblocking(true).and_then(|()| Peer::of(&stream)) {
            Ok(peer) => peer,
            Err(error) => return log::warn!("cannot tell who connected to the control socket: {error}"),
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
        match poller.watch(&stream, self.connection_token(slot)) {
            Ok(()) => self.connections[slot] = Some(Connection::new(stream, peer, now)),
            Err(error) => log::warn!("cannot wait for a request at the control socket: {error}"),
        }
    }

    /// A slot for one more connection. Where all are taken, connections whose client has closed them make room: a client
    /// that waits for its answer is not refused because of clients that do not. A connection that waits for a reload keeps
    /// its slot, for the answer goes there.
    fn free_slot(&mut self) -> Option<usize> {
        if self.connections.iter().all(Option::is_some) {
            for slot in &mut self.connections {
                let _ = slot.take_if(|connection| connection.is_closed() && !connection.is_waiting());
            }
        }
        self.connections.iter().position(Option::is_none)
    }

    /// Goes on with a connection that is ready. Returns a request that is to be answered by [`Server::answer`].
    pub(crate) fn proceed(&mut self, slot: usize, now: Time, poller: &Poller) -> Option<(Peer, Command)> {
        let connection = self.connections.get_mut(slot)?.as_mut()?;
        if !connection.is_asking() {
            if !connection.send() {
                self.connections[slot] = None;
            }
            return None;
        }
        let peer = connection.peer;
        match connection.receive() {
            Received::Request(Ok(command)) => return Some((peer, command)),
            Received::Request(Err(refusal)) => self.answer(slot, Outgoing::refusal(refusal), now, poller),
            Received::Nothing => {}
            Received::Gone => self.connections[slot] = None,
        }
        None
    }

    /// Who asks on that connection.
    pub(crate) fn peer(&self, slot: usize) -> Option<Peer> {
        self.connections.get(slot)?.as_ref().map(|connection| connection.peer)
    }

    /// Has that connection wait for an answer that comes later. `false` where too many wait, which is its answer.
    pub(crate) fn wait(&mut self, slot: usize, now: Time, poller: &Poller) -> bool {
        let waiting = self.connections.iter().flatten().filter(|connection| connection.is_waiting()).count();
        if waiting >= WAITING_MAX {
            let message = format!("{WAITING_MAX} others wait for a reload; try again");
            self.answer(slot, Outgoing::refusal(Refusal::new(Code::Busy, message)), now, poller);
            return false;
        }
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return false };
        // Whatever it sends and even its end would wake the loop again and again.
        let _ = poller.forget(&connection.stream);
        connection.wait();
        true
    }

    /// Answers the request of that connection.
    pub(crate) fn answer(&mut self, slot: usize, answer: Outgoing, now: Time, poller: &Poller) {
        let token = self.connection_token(slot);
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        let watched = !connection.is_waiting() || poller.watch(&connection.stream, token).is_ok();
        connection.answer(answer, now);
        let more = connection.send() && watched && poller.watch_output(&connection.stream, token, true).is_ok();
        if !more {
            self.connections[slot] = None;
        }
    }

    /// Ends the connections whose time is over, and accepts again after a pause.
    pub(crate) fn tick(&mut self, now: Time, poller: &Poller) {
        for slot in &mut self.connections {
            if let Some(connection) = slot.take_if(|connection| connection.deadline().is_some_and(|due| due <= now))
                && connection.is_asking()
            {
                let message = format!("no request came within {} seconds", PATIENCE.as_secs());
                refuse(&connection.stream, Code::Timeout, &message);
            }
        }
        if self.paused.take_if(|until| *until <= now).is_some()
            && let Err(error) = self.watch(poller)
        {
            log::error!("cannot wait for connections to the control socket: {error}");
        }
    }

    /// When [`Server::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.connections.iter().flatten().filter_map(Connection::deadline).chain(self.paused).min()
    }
}

/// Says no, to a peer that may not be listening.
fn refuse(stream: &UnixStream, code: Code, message: &str) {
    // A fresh socket takes an answer of this size at once.
    let _ = Outgoing::refusal(Refusal::new(code, message)).write_to(stream);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn clients_that_hung_up_do_not_keep_others_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        let poller = Poller::new().expect("a poller");
        let mut server = Server::new(Socket::listen(&path).expect("a socket"), 100);
        let connect = || UnixStream::connect(&path).expect("it listens");

        let open: Vec<UnixStream> = (0..CONNECTIONS_MAX - 1).map(|_| connect()).collect();
        drop(connect());
        let waits = connect();
        server.accept(Time::ZERO, &poller);
        assert_eq!(server.connections.iter().flatten().filter(|connection| !connection.is_closed()).count(), 8);
        waits.set_nonblocking(true).expect("a socket");
        assert_eq!((&waits).read(&mut [0; 1]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "not refused");

        // Who only says that no more comes is still there.
        open[0].shutdown(std::net::Shutdown::Write).expect("half closed");
        let mut one_too_many = connect();
        server.accept(Time::ZERO, &poller);
        let mut answer = String::new();
        one_too_many.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains("\"busy\""), "{answer}");
    }
}
