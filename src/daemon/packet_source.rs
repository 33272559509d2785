//! The packet source: the packet sockets and the interfaces that they listen on.

mod socket;

use std::collections::HashSet;

use knock_capture::{FilterClass, FilterSpec, LinkChange, Links, Program, Statistics, WholeDatagrams};
use knock_config::Interfaces;
use knock_proto::{InterfaceName, Watch};

pub(crate) use socket::{InterfaceState, PacketSocket};
use socket::{meant, state};

/// The packets that are received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Knocks, and what disturbs them.
    pub(crate) watches: Vec<Watch>,
    /// Datagrams whose payload is looked at.
    pub(crate) whole: Option<WholeDatagrams>,
}

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

/// The reason why packets can't be received.
pub(crate) type Error = knock_capture::Error;

impl PacketSource {
    /// Opens a socket for each of the interfaces. An interface that does not exist may appear later.
    ///
    /// # Errors
    ///
    /// Where packet sockets are not permitted, or the kernel refuses the filter.
    pub(crate) fn open(interfaces: &Interfaces, wanted: &Wanted) -> Result<PacketSource, Error> {
        let mut packets = PacketSource {
            links: Links::open()?,
            program: wanted.program(),
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
    pub(crate) fn reconfigure(&mut self, interfaces: &Interfaces, wanted: &Wanted) -> Result<(), Error> {
        let program = wanted.program();
        // The steps that can fail come first, and are undone where one fails.
        let added = self.missing(interfaces, &program)?;
        for index in 0..self.sockets.len() {
            if let Err(error) = self.sockets[index].set_filter(&program) {
                for socket in &mut self.sockets[..=index] {
                    if let Err(error) = socket.set_filter(&self.program) {
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
                added.push(PacketSocket::open(number, name, program)?);
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
        let new = self.sockets.len();
        self.sockets.extend(added);
        self.bind();
        for socket in &self.sockets[new..] {
            let InterfaceState { name, state, nearest } = socket.state(&self.links);
            if state == "absent" {
                let hint = nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default();
                let receives = "knockd receives knocks on it as soon as it appears";
                match socket.pattern() {
                    Some(_) => log::warn!("no interface matches {name}; {receives}"),
                    None => log::warn!("interface {name} does not exist; {receives}{hint}"),
                }
            }
        }
        self.warn_if_coarse();
    }

    /// Binds each socket to the interfaces of its name, as far as there are any. No interface has two sockets: a packet
    /// would count twice.
    fn bind(&mut self) {
        let mut taken = HashSet::new();
        for socket in self.sockets.iter_mut().filter(|socket| socket.pattern().is_none()) {
            taken.extend(socket.bind(&self.links));
        }
        for socket in &mut self.sockets {
            socket.bind_pattern(&self.links, &self.program, &mut taken);
        }
    }

    /// For each of these names, where it is an alternative name, the name that its interface has now. Names that are for
    /// no interface are left out if no interface can ever have them as its name.
    pub(crate) fn resolve(&self, names: &[InterfaceName]) -> Vec<InterfaceName> {
        let mut resolved = Vec::new();
        for name in names {
            let real = match self.links.interface(name).filter(|link| name.prefix().is_none() && *link.name != **name) {
                // One whose name looks like a pattern cannot be named.
                Some(link) => link.name.parse::<InterfaceName>().ok().filter(|name| name.prefix().is_none()),
                None => (!name.is_alternative()).then(|| name.clone()),
            };
            resolved.extend(real.filter(|real| !resolved.contains(real)));
        }
        resolved
    }

    /// The state of an interface that may exist, as the configuration names it.
    pub(crate) fn state_of(&self, name: &InterfaceName) -> InterfaceState {
        state(name, &meant(&self.links, name), &self.links)
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

    /// The next packet of the socket with that number, from its IP header on, and the addresses of this host.
    ///
    /// `None` where nothing is queued. [`PacketSource::follow`] logs an interface that went down or was deleted.
    pub(crate) fn next(&mut self, socket: usize) -> Option<(&[u8], &Links)> {
        let socket = self.sockets.iter_mut().find(|other| other.number == socket)?;
        match socket.capture.next() {
            Ok(packet) => packet.map(|packet| (packet, &self.links)),
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
        let concerns = |index: u32, name: &str| self.sockets.iter().any(|socket| socket.concerns(index, name));
        let stays = |index: u32, name: &str| {
            self.sockets.iter().any(|socket| {
                socket.pattern().is_none_or(|pattern| pattern.matches(name)) && socket.concerns(index, name)
            })
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
                let still = if stays(*index, to) { "still receives" } else { "no longer receives" };
                log::warn!("interface {from} is now called {to}; knockd {still} knocks on it");
            }
            LinkChange::AlternativeNames { name, .. } => log::debug!("interface {name} has other alternative names"),
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
        if let LinkChange::Appeared { .. }
        | LinkChange::Renamed { .. }
        | LinkChange::AlternativeNames { .. }
        | LinkChange::Disappeared { .. } = change
        {
            self.bind();
        }
    }

    /// The state of each interface that is listened on.
    pub(crate) fn states(&self) -> Vec<InterfaceState> {
        self.sockets.iter().map(|socket| socket.state(&self.links)).collect()
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
fn names(interfaces: &Interfaces) -> Vec<Option<InterfaceName>> {
    match interfaces {
        Interfaces::Any => vec![None],
        Interfaces::Named(names) => names.iter().cloned().map(Some).collect(),
    }
}

impl Wanted {
    fn program(&self) -> Program {
        let class = |watch: &Watch| FilterClass { tcp_flags: watch.tcp_flags, ports: watch.ports.clone() };
        let classes = self.watches.iter().map(class).collect();
        Program::new(&FilterSpec { classes, interfaces: None, whole: self.whole.clone() })
    }
}
