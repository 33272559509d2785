//! Which interfaces a packet socket listens on. Ear and keeper work it out alike, each from what the kernel tells it: the
//! ear to bind its sockets, the keeper to say how things stand.

use std::collections::HashSet;

use knock_capture::{Link, LinkChange, Links};
use knock_config::nearest;
use knock_proto::InterfaceName;

/// The most interfaces that one pattern is for: each makes the kernel filter longer.
pub(crate) const MATCHES_MAX: usize = 512;

/// The interfaces of one packet socket.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    /// The same as long as the socket lives, whatever a reload does to the others.
    pub(crate) number: u32,
    /// The name in the configuration; `None`: every interface.
    pub(crate) name: Option<InterfaceName>,
    /// The index that it is bound to; 0 is every interface.
    pub(crate) bound: Option<u32>,
    /// For a pattern: the interfaces that its filter lets through.
    pub(crate) matches: Vec<u32>,
}

/// What a socket has to do to listen on other interfaces than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rebind {
    /// It has to be bound to that index.
    pub(crate) to: Option<u32>,
    /// Its filter is for other interfaces.
    pub(crate) filter: bool,
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

impl Listener {
    /// One that listens on no interface yet.
    pub(crate) fn new(number: u32, name: Option<InterfaceName>) -> Listener {
        Listener { number, name, bound: None, matches: Vec::new() }
    }

    /// Its pattern, where its name is one.
    pub(crate) fn pattern(&self) -> Option<&InterfaceName> {
        self.name.as_ref().filter(|name| name.prefix().is_some())
    }

    /// Whether it listens on that interface, or would.
    pub(crate) fn concerns(&self, index: u32, name: &str) -> bool {
        let is_named = self.name.as_ref().is_none_or(|wanted| wanted.matches(name));
        is_named || self.matches.contains(&index) || (self.bound == Some(index) && self.pattern().is_none())
    }

    /// The state of its interfaces.
    pub(crate) fn state(&self, links: &Links) -> InterfaceState {
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
}

/// Has each listener listen on the interfaces of its name, as far as there are any, and returns what its socket has to do, in
/// their order. No interface is for two of them: a packet would count twice.
pub(crate) fn follow<'l>(listeners: impl Iterator<Item = &'l mut Listener>, links: &Links) -> Vec<Rebind> {
    let mut listeners: Vec<_> = listeners.collect();
    let mut taken = HashSet::new();
    let mut rebinds = vec![Rebind::default(); listeners.len()];
    for (listener, rebind) in
        listeners.iter_mut().zip(&mut rebinds).filter(|(listener, _)| listener.pattern().is_none())
    {
        let wanted = match &listener.name {
            None => Some(0),
            Some(name) => links.interface(name).map(|link| link.index),
        };
        // An interface that got another name is kept until one has the name that is wanted.
        let Some(wanted) = wanted.or(listener.bound) else { continue };
        if listener.bound != Some(wanted) {
            (listener.bound, rebind.to) = (Some(wanted), Some(wanted));
        }
        taken.insert(wanted);
    }
    // The socket of a pattern is bound to every interface, and its filter knows those that it is for. So nothing has to be
    // opened when one appears, and ten bridges of containers need no ten sockets.
    for (listener, rebind) in listeners.iter_mut().zip(&mut rebinds) {
        let Some(pattern) = listener.pattern() else { continue };
        let matching = links.interfaces().filter(|link| pattern.matches(&link.name)).map(|link| link.index);
        let matches: Vec<u32> = matching.filter(|index| !taken.contains(index)).take(MATCHES_MAX).collect();
        taken.extend(&matches);
        rebind.filter = listener.bound.is_none() || listener.matches != matches;
        listener.matches = matches;
        if listener.bound.is_none() {
            (listener.bound, rebind.to) = (Some(0), Some(0));
        }
    }
    rebinds
}

/// Notes a change of an interface. Returns whether the listeners may have to listen on others.
pub(crate) fn note<'l>(listeners: impl Iterator<Item = &'l mut Listener>, change: &LinkChange) -> bool {
    if let LinkChange::Disappeared { index, .. } = change {
        for listener in listeners {
            if listener.bound == Some(*index) {
                listener.bound = None;
            }
        }
    }
    matches!(
        change,
        LinkChange::Appeared { .. }
            | LinkChange::Renamed { .. }
            | LinkChange::AlternativeNames { .. }
            | LinkChange::Disappeared { .. }
    )
}

/// The interfaces that there are of a name.
pub(crate) fn meant<'l>(links: &'l Links, name: &InterfaceName) -> Vec<&'l Link> {
    match name.prefix() {
        Some(_) => links.interfaces().filter(|link| name.matches(&link.name)).collect(),
        None => links.interface(name).into_iter().collect(),
    }
}

/// The state of an interface, of which these are `meant`.
pub(crate) fn state(name: &InterfaceName, meant: &[&Link], links: &Links) -> InterfaceState {
    let state = match meant {
        [] => "absent",
        some if some.iter().any(|link| link.up) => "up",
        _ => "down",
    };
    let others = || links.interfaces().flat_map(|link| [&link.name].into_iter().chain(&link.alternative_names));
    let nearest = if meant.is_empty() { nearest(name, others().map(String::as_str)) } else { None };
    InterfaceState { name: name.to_string(), state, nearest: nearest.map(str::to_owned) }
}
