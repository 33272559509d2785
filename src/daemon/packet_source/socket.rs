//! A packet socket, and the interfaces that it listens on.

use std::collections::HashSet;

use knock_capture::{Capture, Link, Links, Program};
use knock_config::nearest;
use knock_proto::InterfaceName;

use super::Error;

/// The most interfaces that one pattern is for: each makes the kernel filter longer.
const MATCHES_MAX: usize = 512;

/// A packet socket.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    /// The same as long as the socket lives, whatever a reload does to the others.
    pub(super) number: usize,
    /// The name in the configuration; `None`: every interface.
    pub(super) name: Option<InterfaceName>,
    pub(super) capture: Capture,
    /// The index that it is bound to; 0 is every interface.
    pub(super) bound: Option<u32>,
    /// For a pattern: the interfaces that its filter lets through.
    matches: Vec<u32>,
}

/// The state of an interface that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceState {
    /// The name in the configuration, or `any`.
    pub(crate) name: String,
    /// `up`, `down` or `absent`.
    pub(crate) state: &'static str,
    /// Where it is absent: the name of an interface that is most like it.
    pub(crate) nearest: Option<String>,
}

impl PacketSocket {
    /// One that is bound to no interface yet.
    pub(super) fn open(number: usize, name: Option<InterfaceName>, program: &Program) -> Result<PacketSocket, Error> {
        Ok(PacketSocket { number, name, capture: Capture::open(program)?, bound: None, matches: Vec::new() })
    }

    /// Its number, for [`super::PacketSource::next`].
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// What to poll.
    pub(crate) fn capture(&self) -> &Capture {
        &self.capture
    }

    pub(super) fn pattern(&self) -> Option<&InterfaceName> {
        self.name.as_ref().filter(|name| name.prefix().is_some())
    }

    /// Whether it listens on that interface, or would.
    pub(super) fn concerns(&self, index: u32, name: &str) -> bool {
        let is_named = self.name.as_ref().is_none_or(|wanted| wanted.matches(name));
        is_named || self.matches.contains(&index) || (self.bound == Some(index) && self.pattern().is_none())
    }

    pub(super) fn set_filter(&mut self, program: &Program) -> Result<(), Error> {
        match self.pattern() {
            Some(_) => self.capture.set_filter(&program.on(self.matches.clone())),
            None => self.capture.set_filter(program),
        }
    }

    pub(super) fn state(&self, links: &Links) -> InterfaceState {
        match &self.name {
            None => InterfaceState { name: "any".to_owned(), state: "up", nearest: None },
            Some(name) => {
                let listens = |link: &&Link| match self.pattern() {
                    Some(_) => self.matches.contains(&link.index),
                    None => self.bound == Some(link.index),
                };
                state(name, &links.interfaces().filter(listens).collect::<Vec<_>>(), links)
            }
        }
    }

    /// Where it is for a pattern: listens on the interfaces that match and that are not `taken`, which takes them.
    ///
    /// Its socket is bound to every interface, and its filter knows those that it is for. So nothing has to be opened
    /// when one appears, and ten bridges of containers need no ten sockets.
    pub(super) fn bind_pattern(&mut self, links: &Links, program: &Program, taken: &mut HashSet<u32>) {
        let Some(pattern) = self.pattern() else { return };
        let matching = links.interfaces().filter(|link| pattern.matches(&link.name)).map(|link| link.index);
        let mut matches: Vec<u32> = matching.filter(|index| !taken.contains(index)).collect();
        if matches.len() > MATCHES_MAX {
            // Once, and not at each change.
            let level = if self.matches.len() < MATCHES_MAX { log::Level::Warn } else { log::Level::Debug };
            log::log!(
                level,
                "{} interfaces match {pattern}; knockd receives knocks on {MATCHES_MAX} of them; write \"any\" for every \
                 interface",
                matches.len()
            );
            matches.truncate(MATCHES_MAX);
        }
        taken.extend(&matches);
        if self.bound.is_some() && self.matches == matches {
            return;
        }
        let before = std::mem::replace(&mut self.matches, matches);
        let result = self.set_filter(program).and_then(|()| match self.bound {
            Some(_) => Ok(()),
            None => self.capture.bind(0).map(|()| self.bound = Some(0)),
        });
        if let Err(error) = result {
            log::error!("{}: {error}", self.name.as_deref().unwrap_or_default());
            self.matches = before;
        }
    }

    /// Binds to the interface of its name, where there is one that it is not bound to yet. An interface that got
    /// another name is kept until one has the name that is wanted.
    pub(super) fn bind(&mut self, links: &Links) -> Option<u32> {
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

/// The interfaces that there are of a name.
pub(super) fn meant<'l>(links: &'l Links, name: &InterfaceName) -> Vec<&'l Link> {
    match name.prefix() {
        Some(_) => links.interfaces().filter(|link| name.matches(&link.name)).collect(),
        None => links.interface(name).into_iter().collect(),
    }
}

pub(super) fn state(name: &InterfaceName, meant: &[&Link], links: &Links) -> InterfaceState {
    let state = match meant {
        [] => "absent",
        some if some.iter().any(|link| link.up) => "up",
        _ => "down",
    };
    let others = || links.interfaces().flat_map(|link| [&link.name].into_iter().chain(&link.alternative_names));
    let nearest = if meant.is_empty() { nearest(name, others().map(String::as_str)) } else { None };
    InterfaceState { name: name.to_string(), state, nearest: nearest.map(str::to_owned) }
}
