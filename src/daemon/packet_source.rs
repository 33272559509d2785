//! The packet source: the packet sockets and the interfaces that they listen on.

use std::net::IpAddr;

use knock_capture::{Capture, FilterClass, FilterSpec, LinkChange, Links, Program, Statistics};
use knock_config::Interfaces;
use knock_proto::Watch;

/// The packet sockets, each bound to its interface for as long as there is one.
#[derive(Debug)]
pub(crate) struct PacketSource {
    links: Links,
    program: Program,
    sockets: Vec<PacketSocket>,
    changes: Vec<LinkChange>,
    /// The number of the next socket.
    next_number: usize,
    /// The statistics of the sockets that were closed since.
    past: Statistics,
}

/// A packet socket.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    /// The same as long as the socket lives, whatever a reload does to the others.
    number: usize,
    /// The name in the configuration; `None`: every interface.
    name: Option<String>,
    capture: Capture,
    /// The index that it is bound to; 0 is every interface.
    bound: Option<u32>,
}

/// The state of an interface that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceState {
    /// The name in the configuration, or `any`.
    pub(crate) name: String,
    /// `up`, `down` or `absent`.
    pub(crate) state: &'static str,
}

/// The reason why packets can't be received.
pub(crate) type Error = knock_capture::Error;

impl PacketSource {
    /// Opens a socket for each of the interfaces. An interface that does not exist may appear later.
    ///
    /// # Errors
    ///
    /// Where packet sockets are not permitted, or the kernel refuses the filter.
    pub(crate) fn open(interfaces: &Interfaces, watches: &[Watch]) -> Result<PacketSource, Error> {
        let mut packets = PacketSource {
            links: Links::open()?,
            program: program(watches),
            sockets: Vec::new(),
            changes: Vec::new(),
            next_number: 0,
            past: Statistics::default(),
        };
        let added = packets.missing(interfaces, &packets.program)?;
        packets.listen(interfaces, added);
        Ok(packets)
    }

    /// Listens for other ports and on other interfaces. No packet to a port of both is lost on an interface of both.
    ///
    /// # Errors
    ///
    /// As [`PacketSource::open`]; everything stays as it was then.
    pub(crate) fn reconfigure(&mut self, interfaces: &Interfaces, watches: &[Watch]) -> Result<(), Error> {
        let program = program(watches);
        // The steps that can fail come first, and are undone where one fails.
        let added = self.missing(interfaces, &program)?;
        for index in 0..self.sockets.len() {
            if let Err(error) = self.sockets[index].capture.set_filter(&program) {
                for socket in &mut self.sockets[..=index] {
                    if let Err(error) = socket.capture.set_filter(&self.program) {
                        log::error!("{error}");
                    }
                }
                return Err(error);
            }
        }
        self.program = program;
        self.listen(interfaces, added);
        Ok(())
    }

    /// New sockets, for the interfaces that have none.
    fn missing(&self, interfaces: &Interfaces, program: &Program) -> Result<Vec<PacketSocket>, Error> {
        let mut added = Vec::new();
        for name in names(interfaces) {
            if !self.sockets.iter().any(|socket| socket.name == name) {
                let number = self.next_number + added.len();
                added.push(PacketSocket { number, name, capture: Capture::open(program)?, bound: None });
            }
        }
        Ok(added)
    }

    /// Closes the sockets of other interfaces, and begins to use those that are `added`.
    fn listen(&mut self, interfaces: &Interfaces, added: Vec<PacketSocket>) {
        let wanted = names(interfaces);
        let (kept, closed) =
            std::mem::take(&mut self.sockets).into_iter().partition(|socket| wanted.contains(&socket.name));
        self.sockets = kept;
        for mut socket in closed as Vec<PacketSocket> {
            if let Ok(statistics) = socket.capture.statistics() {
                self.past.received += statistics.received;
                self.past.dropped += statistics.dropped;
            }
        }
        self.next_number += added.len();
        for mut socket in added {
            if socket.bind(&self.links).is_none() {
                let name = socket.name.as_deref().unwrap_or("any");
                log::warn!("interface {name} does not exist; knockd receives knocks on it as soon as it appears");
            }
            self.sockets.push(socket);
        }
        self.warn_if_coarse();
    }

    fn warn_if_coarse(&self) {
        if self.sockets.iter().any(|socket| socket.capture.coarse()) {
            log::warn!(
                "there are too many knock ports for an exact kernel filter, or too little memory for it \
                 (sysctl net.core.optmem_max): packets to other ports wake the daemon too, which then ignores them"
            );
        }
    }

    /// What to poll for changes of the interfaces.
    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    /// What to poll for packets.
    pub(crate) fn sockets(&self) -> &[PacketSocket] {
        &self.sockets
    }

    /// Whether the address is one of this host.
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        self.links.is_local(address)
    }

    /// The next packet of the socket with that number, from its IP header on.
    ///
    /// `None` where nothing is queued. [`PacketSource::follow`] logs an interface that went down or was deleted.
    pub(crate) fn next(&mut self, socket: usize) -> Option<&[u8]> {
        let socket = self.sockets.iter_mut().find(|other| other.number == socket)?;
        match socket.capture.next() {
            Ok(packet) => packet,
            Err(error) if error.is_link_state() => {
                log::debug!("{}: {error}", socket.name.as_deref().unwrap_or("any"));
                None
            }
            Err(error) => {
                log::error!("{error}");
                None
            }
        }
    }

    /// Reads the changes of the interfaces: logs them, and binds sockets to new interfaces.
    ///
    /// # Errors
    ///
    /// Where the kernel's notifications can't be read.
    pub(crate) fn follow(&mut self) -> Result<(), Error> {
        let mut changes = std::mem::take(&mut self.changes);
        let result = self.links.read(&mut changes);
        for change in changes.drain(..) {
            self.on_link_change(&change);
        }
        self.changes = changes;
        result
    }

    fn on_link_change(&mut self, change: &LinkChange) {
        let any = self.sockets.iter().any(|socket| socket.name.is_none());
        let concerns = |index: u32, name: &str| {
            any || self.sockets.iter().any(|socket| socket.bound == Some(index) || socket.name.as_deref() == Some(name))
        };
        match change {
            LinkChange::Appeared { index, name } if concerns(*index, name) => {
                log::info!("interface {name} appeared (index {index})");
            }
            LinkChange::Disappeared { index, name } if concerns(*index, name) => {
                log::warn!("interface {name} was deleted; knockd receives knocks on it again when it exists again");
            }
            LinkChange::Up { index, name } if concerns(*index, name) => {
                log::info!("interface {name} is up; knockd receives knocks on it");
            }
            LinkChange::Down { index, name } if concerns(*index, name) => {
                log::warn!("interface {name} is down; knockd receives knocks on it again when it is up");
            }
            LinkChange::Renamed { index, from, to } if concerns(*index, from) || concerns(*index, to) => {
                log::warn!("interface {from} is now called {to}; knockd still receives knocks on it");
            }
            LinkChange::AddressAdded { name, address, .. } => {
                log::debug!("interface {name} now has the address {address}");
            }
            LinkChange::AddressRemoved { name, address, .. } => {
                log::debug!("interface {name} no longer has the address {address}");
            }
            _ => {}
        }
        if let LinkChange::Disappeared { index, .. } = change {
            for socket in &mut self.sockets {
                if socket.bound == Some(*index) {
                    socket.bound = None;
                }
            }
        }
        if let LinkChange::Appeared { .. } | LinkChange::Renamed { .. } | LinkChange::Disappeared { .. } = change {
            for socket in &mut self.sockets {
                socket.bind(&self.links);
            }
        }
    }

    /// The state of each interface that is listened on.
    pub(crate) fn states(&self) -> Vec<InterfaceState> {
        let state = |socket: &PacketSocket| {
            let name = socket.name.clone().unwrap_or_else(|| "any".to_owned());
            let link = self.links.interfaces().find(|link| socket.bound == Some(link.index));
            let state = match (socket.bound, link) {
                (Some(0), _) => "up",
                (_, Some(link)) if link.up => "up",
                (_, Some(_)) => "down",
                (_, None) => "absent",
            };
            InterfaceState { name, state }
        };
        self.sockets.iter().map(state).collect()
    }

    /// What the kernel counted at all sockets, those that were closed too.
    pub(crate) fn statistics(&mut self) -> Statistics {
        let mut sum = self.past;
        for socket in &mut self.sockets {
            match socket.capture.statistics() {
                Ok(statistics) => {
                    sum.received += statistics.received;
                    sum.dropped += statistics.dropped;
                }
                Err(error) => log::warn!("{error}"),
            }
        }
        sum
    }
}

/// The names of interfaces that are listened on; `None`: every interface.
fn names(interfaces: &Interfaces) -> Vec<Option<String>> {
    match interfaces {
        Interfaces::Any => vec![None],
        Interfaces::Named(names) => names.iter().map(|name| Some(name.to_string())).collect(),
    }
}

impl PacketSocket {
    /// Its number, for [`PacketSource::next`].
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// What to poll.
    pub(crate) fn capture(&self) -> &Capture {
        &self.capture
    }

    /// Binds to the interface of its name, where there is one that it is not bound to yet. An interface that got
    /// another name is kept until one has the name that is wanted.
    fn bind(&mut self, links: &Links) -> Option<u32> {
        let wanted = match &self.name {
            None => Some(0),
            Some(name) => links.interface(name).map(|link| link.index),
        };
        let wanted = wanted.or(self.bound)?;
        if self.bound != Some(wanted) {
            match self.capture.bind(wanted) {
                Ok(()) => self.bound = Some(wanted),
                // It went away in this moment; there will be a notification.
                Err(error) if error.is_link_state() => self.bound = None,
                Err(error) => {
                    log::error!("{}: {error}", self.name.as_deref().unwrap_or("any"));
                    self.bound = None;
                }
            }
        }
        self.bound
    }
}

fn program(watches: &[Watch]) -> Program {
    let class = |watch: &Watch| FilterClass { tcp_flags: watch.tcp_flags, ports: watch.ports.clone() };
    Program::new(&FilterSpec { classes: watches.iter().map(class).collect() })
}
