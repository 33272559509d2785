//! The interfaces, as the keeper sees them: which of them are listened on, what the log says of their changes, and the packet
//! sockets that it opens for the ear.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use knock_capture::{Error, LinkChange, Links, open_packet_socket};
use knock_config::Interfaces as Wanted;
use knock_proto::InterfaceName;
use log::Level;

use crate::ear::listener::{InterfaceState, Listener, MATCHES_MAX, follow, meant, note, state};

/// The interfaces of this host, and which of them packets are received on.
#[derive(Debug)]
pub(crate) struct Interfaces {
    links: Links,
    listeners: Vec<Listener>,
    /// The number of the next socket.
    next_number: u32,
    changes: Vec<LinkChange>,
}

/// A packet socket for the ear.
#[derive(Debug)]
pub(crate) struct NewSocket {
    pub(crate) listener: Listener,
    pub(crate) socket: OwnedFd,
}

/// A line for the log.
pub(crate) type Line = (Level, String);

impl Interfaces {
    /// Follows the interfaces; none is listened on yet.
    ///
    /// # Errors
    ///
    /// Where the kernel does not tell about them.
    pub(crate) fn open() -> Result<Interfaces, Error> {
        Ok(Interfaces { links: Links::open()?, listeners: Vec::new(), next_number: 0, changes: Vec::new() })
    }

    /// Opens a packet socket for each of the interfaces that has none.
    ///
    /// # Errors
    ///
    /// Where packet sockets are not permitted.
    pub(crate) fn open_missing(&mut self, wanted: &Wanted) -> Result<Vec<NewSocket>, Error> {
        let mut added = Vec::new();
        for name in names(wanted) {
            if self.listeners.iter().all(|listener| listener.name != name) {
                let listener = Listener::new(self.next_number, name);
                self.next_number += 1;
                added.push(NewSocket { listener, socket: open_packet_socket()? });
            }
        }
        Ok(added)
    }

    /// The numbers of the sockets that are to listen, with those that are `added`.
    pub(crate) fn numbers(&self, wanted: &Wanted, added: &[NewSocket]) -> Vec<u32> {
        let (names, added) = (names(wanted), added.iter().map(|new| &new.listener));
        let listeners = self.listeners.iter().chain(added).filter(|listener| names.contains(&listener.name));
        listeners.map(|listener| listener.number).collect()
    }

    /// Notes that the ear listens on these interfaces now, and warns of those that there are none of.
    pub(crate) fn listen(&mut self, wanted: &Wanted, added: Vec<Listener>) {
        let names = names(wanted);
        self.listeners.retain(|listener| names.contains(&listener.name));
        let new: Vec<u32> = added.iter().map(|listener| listener.number).collect();
        self.listeners.extend(added);
        self.follow_names();
        for listener in self.listeners.iter().filter(|listener| new.contains(&listener.number)) {
            let InterfaceState { name, state, nearest } = listener.state(&self.links);
            if state == "absent" {
                let hint = nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default();
                let receives = "knockd receives knocks on it as soon as it appears";
                match listener.pattern() {
                    Some(_) => log::warn!("no interface matches {name}; {receives}"),
                    None => log::warn!("interface {name} does not exist; {receives}{hint}"),
                }
            }
        }
    }

    /// The listeners change to the interfaces that have their names now, as those of the ear do.
    fn follow_names(&mut self) {
        let full = |listener: &Listener| listener.matches.len() >= MATCHES_MAX;
        let before: Vec<bool> = self.listeners.iter().map(full).collect();
        follow(self.listeners.iter_mut(), &self.links);
        for (listener, was_full) in self.listeners.iter().zip(before) {
            let Some(pattern) = listener.pattern().filter(|_| full(listener)) else { continue };
            // Once, and not at each change.
            let level = if was_full { Level::Debug } else { Level::Warn };
            log::log!(
                level,
                "{MATCHES_MAX} interfaces match {pattern}, or more; knockd receives knocks on {MATCHES_MAX} of them; write \
                 \"any\" for every interface"
            );
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

    /// The state of each interface that is listened on.
    pub(crate) fn states(&self) -> Vec<InterfaceState> {
        self.listeners.iter().map(|listener| listener.state(&self.links)).collect()
    }

    /// Reads the changes of the interfaces. Returns what the log should say once the ear has followed them too.
    pub(crate) fn follow(&mut self) -> Vec<Line> {
        let mut changes = std::mem::take(&mut self.changes);
        let mut lines = Vec::new();
        if let Err(error) = self.links.read(&mut changes) {
            lines.push((Level::Error, error.to_string()));
        }
        for change in changes.drain(..) {
            lines.extend(self.line(&change));
            if note(self.listeners.iter_mut(), &change) {
                self.follow_names();
            }
        }
        self.changes = changes;
        lines
    }

    fn line(&self, change: &LinkChange) -> Option<Line> {
        let concerns = |index: u32, name: &str| self.listeners.iter().any(|listener| listener.concerns(index, name));
        let stays = |index: u32, name: &str| {
            self.listeners.iter().any(|listener| {
                listener.pattern().is_none_or(|pattern| pattern.matches(name)) && listener.concerns(index, name)
            })
        };
        Some(match change {
            LinkChange::Appeared { index, name } if concerns(*index, name) => {
                (Level::Info, format!("interface {name} appeared (index {index})"))
            }
            LinkChange::Disappeared { index, name } if concerns(*index, name) => {
                let text =
                    format!("interface {name} was deleted; knockd receives knocks on it again when it exists again");
                (Level::Warn, text)
            }
            LinkChange::Up { index, name } if concerns(*index, name) => {
                (Level::Info, format!("interface {name} is up; knockd receives knocks on it"))
            }
            LinkChange::Down { index, name } if concerns(*index, name) => {
                (Level::Warn, format!("interface {name} is down; knockd receives knocks on it again when it is up"))
            }
            LinkChange::Renamed { index, from, to } if concerns(*index, from) || concerns(*index, to) => {
                let still = if stays(*index, to) { "still receives" } else { "no longer receives" };
                (Level::Warn, format!("interface {from} is now called {to}; knockd {still} knocks on it"))
            }
            LinkChange::AlternativeNames { name, .. } => {
                (Level::Debug, format!("interface {name} has other alternative names"))
            }
            LinkChange::AddressAdded { name, address, .. } => {
                (Level::Debug, format!("interface {name} now has the address {address}"))
            }
            LinkChange::AddressRemoved { name, address, .. } => {
                (Level::Debug, format!("interface {name} no longer has the address {address}"))
            }
            _ => return None,
        })
    }
}

impl AsFd for Interfaces {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.links.as_fd()
    }
}

/// The names of interfaces that are listened on; `None`: every interface.
fn names(interfaces: &Wanted) -> Vec<Option<InterfaceName>> {
    match interfaces {
        Wanted::Any => vec![None],
        Wanted::Named(names) => names.iter().cloned().map(Some).collect(),
    }
}
