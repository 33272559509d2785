//! The packet sockets and the interfaces that they listen on.

use std::os::fd::OwnedFd;

use knock_capture::{Capture, Error, FilterClass, FilterSpec, LinkChange, Links, Program, Statistics, WholeDatagrams};
use knock_proto::{InterfaceName, Watch};

use crate::ear::listener::{Listener, follow, note};

/// The packets that are received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Knocks, and what disturbs them.
    pub(crate) watches: Vec<Watch>,
    /// Datagrams whose payload is looked at.
    pub(crate) whole: Option<WholeDatagrams>,
}

/// A packet socket, and its interfaces.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    listener: Listener,
    capture: Capture,
}

/// The packet sockets, each bound to its interface for as long as there is one.
#[derive(Debug)]
pub(crate) struct PacketSource {
    links: Links,
    wanted: Wanted,
    program: Program,
    sockets: Vec<PacketSocket>,
    /// Those of the next plan.
    added: Vec<PacketSocket>,
    changes: Vec<LinkChange>,
    /// The statistics of the sockets that were closed since.
    past: Statistics,
}

impl PacketSocket {
    /// Its number, for [`PacketSource::next`].
    pub(crate) fn number(&self) -> u32 {
        self.listener.number
    }

    /// What to poll.
    pub(crate) fn capture(&self) -> &Capture {
        &self.capture
    }

    fn set_filter(&mut self, program: &Program) -> Result<(), Error> {
        match self.listener.pattern() {
            Some(_) => self.capture.set_filter(&program.on(self.listener.matches.clone())),
            None => self.capture.set_filter(program),
        }
    }
}

impl PacketSource {
    /// Without sockets yet.
    pub(crate) fn new(links: Links) -> PacketSource {
        PacketSource {
            links,
            wanted: Wanted::default(),
            program: Program::default(),
            sockets: Vec::new(),
            added: Vec::new(),
            changes: Vec::new(),
            past: Statistics::default(),
        }
    }

    /// Takes a socket for the next plan.
    pub(crate) fn add(&mut self, number: u32, name: Option<InterfaceName>, socket: OwnedFd) -> Result<(), Error> {
        let capture = Capture::new(socket, &Program::default())?;
        self.added.push(PacketSocket { listener: Listener::new(number, name), capture });
        Ok(())
    }

    /// Receives the packets of this plan and of that one. Those that mean nothing yet do no harm, and nothing is lost that
    /// arrives between.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses the filter; everything stays as it was then.
    pub(crate) fn prepare(&mut self, next: &Wanted) -> Result<(), Error> {
        let both = self.wanted.and(next).program();
        let mut result = Ok(());
        for socket in &mut self.sockets {
            result = result.and_then(|()| socket.set_filter(&both));
        }
        let next = next.program();
        for socket in &mut self.added {
            result = result.and_then(|()| socket.set_filter(&next));
        }
        result.inspect_err(|_| drop(self.abort()))
    }

    /// Receives the packets of the plan in force alone, and closes the sockets that were added.
    pub(crate) fn abort(&mut self) -> Result<(), Error> {
        self.added.clear();
        self.receive(self.wanted.clone())
    }

    /// Listens with the sockets of these numbers alone, for those packets.
    pub(crate) fn commit(&mut self, wanted: Wanted, numbers: &[u32]) -> Result<(), Error> {
        let all = std::mem::take(&mut self.sockets).into_iter().chain(std::mem::take(&mut self.added));
        let (kept, closed): (Vec<_>, Vec<_>) = all.partition(|socket| numbers.contains(&socket.number()));
        self.sockets = kept;
        for mut socket in closed {
            if let Ok(statistics) = socket.capture.statistics() {
                self.past.received += statistics.received;
                self.past.dropped += statistics.dropped;
            }
        }
        let received = self.receive(wanted);
        received.and(self.bind())
    }

    /// Receives other packets from now on.
    pub(crate) fn receive(&mut self, wanted: Wanted) -> Result<(), Error> {
        self.program = wanted.program();
        self.wanted = wanted;
        let mut result = Ok(());
        // Each of them, also where one fails.
        for socket in &mut self.sockets {
            result = result.and(socket.set_filter(&self.program));
        }
        result
    }

    /// Binds each socket to the interfaces of its name.
    fn bind(&mut self) -> Result<(), Error> {
        let rebinds = follow(self.sockets.iter_mut().map(|socket| &mut socket.listener), &self.links);
        let mut result = Ok(());
        for (socket, rebind) in self.sockets.iter_mut().zip(rebinds) {
            let filtered = if rebind.filter { socket.set_filter(&self.program) } else { Ok(()) };
            let bound = filtered.and_then(|()| rebind.to.map_or(Ok(()), |index| socket.capture.bind(index)));
            if let Err(error) = bound {
                socket.listener.bound = None;
                // One that went away in this moment is notified.
                if !error.is_link_state() {
                    result = Err(error);
                }
            }
        }
        result
    }

    /// What to poll for packets.
    pub(crate) fn sockets(&self) -> &[PacketSocket] {
        &self.sockets
    }

    /// The next packet of the socket with that number, from its IP header on, and the addresses of this host. `None` where
    /// nothing is queued.
    ///
    /// # Errors
    ///
    /// Where the socket can't be read. That its interface is down or gone is none.
    pub(crate) fn next(&mut self, socket: u32) -> Result<Option<(&[u8], &Links)>, Error> {
        let Some(socket) = self.sockets.iter_mut().find(|other| other.number() == socket) else { return Ok(None) };
        match socket.capture.next() {
            Ok(packet) => Ok(packet.map(|packet| (packet, &self.links))),
            Err(error) if error.is_link_state() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the changes of the interfaces, and binds sockets to new interfaces.
    ///
    /// # Errors
    ///
    /// Where the kernel's notifications can't be read, or a socket can't be bound.
    pub(crate) fn follow(&mut self) -> Result<(), Error> {
        let mut changes = std::mem::take(&mut self.changes);
        let read = self.links.read(&mut changes);
        let mut concerned = false;
        for change in changes.drain(..) {
            concerned |= note(self.sockets.iter_mut().map(|socket| &mut socket.listener), &change);
        }
        self.changes = changes;
        let bound = if concerned { self.bind() } else { Ok(()) };
        read.and(bound)
    }

    /// Whether a kernel filter lets packets to other ports pass too.
    pub(crate) fn is_coarse(&self) -> bool {
        self.sockets.iter().chain(&self.added).any(|socket| socket.capture.coarse())
    }

    /// What the kernel counted at all sockets, those that were closed too.
    ///
    /// # Errors
    ///
    /// Where a socket can't be asked.
    pub(crate) fn statistics(&mut self) -> Result<Statistics, Error> {
        let mut sum = self.past;
        for socket in &mut self.sockets {
            let statistics = socket.capture.statistics()?;
            sum.received += statistics.received;
            sum.dropped += statistics.dropped;
        }
        Ok(sum)
    }
}

impl Wanted {
    fn program(&self) -> Program {
        let class = |watch: &Watch| FilterClass { tcp_flags: watch.tcp_flags, ports: watch.ports.clone() };
        let classes = self.watches.iter().map(class).collect();
        Program::new(&FilterSpec { classes, interfaces: None, whole: self.whole.clone() })
    }

    /// The packets that either of them wants.
    fn and(&self, other: &Wanted) -> Wanted {
        let mut watches = self.watches.clone();
        for watch in &other.watches {
            match watches.iter_mut().find(|known| known.tcp_flags == watch.tcp_flags) {
                None => watches.push(watch.clone()),
                Some(known) => {
                    known.ports.extend(&watch.ports);
                    known.ports.sort_unstable();
                    known.ports.dedup();
                }
            }
        }
        let whole = match (&self.whole, &other.whole) {
            (Some(whole), Some(other)) => {
                let ports = whole.ports.iter().chain(&other.ports).copied().collect();
                Some(WholeDatagrams { ports, lengths: whole.lengths.clone() })
            }
            (whole, other) => whole.clone().or_else(|| other.clone()),
        };
        Wanted { watches, whole }
    }
}
