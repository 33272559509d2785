//! The sets that the administrator owns, and that rules add to.

use std::net::IpAddr;
use std::time::Duration;

use knock_config::{Allow, Config, SetName};
use knock_nft::{Error, IpVersion, Lifetime, Notice, Outcome, SetAddress, UserSets};
use knock_proto::Time;
use log::Level;

use crate::logging::events::EventLog;

/// The sets that rules use. One that is not there is waited for.
pub(crate) struct OwnSets {
    /// `None` where no rule uses one.
    connection: Option<UserSets>,
    sets: Vec<OwnSet>,
    /// For what there is to say about a grant, of which knocks can make very many.
    pub(super) log: EventLog,
}

#[derive(Debug)]
struct OwnSet {
    name: SetName,
    address: SetAddress,
    version: IpVersion,
    /// Why it can't be used now.
    problem: Option<Error>,
}

/// A set that a rule uses, for `knockctl status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetState {
    /// `FAMILY TABLE SET`.
    pub(crate) name: String,
    /// Why it can't be used now.
    pub(crate) problem: Option<String>,
}

/// An element that was found in a set.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) set: SetName,
    pub(crate) address: IpAddr,
    /// Its comment: the rule that it was granted for.
    pub(crate) rule: String,
    pub(crate) timeout: Duration,
    pub(crate) remaining: Duration,
}

impl OwnSets {
    /// Looks at each set that the configuration names.
    pub(crate) fn open(config: &Config, log: EventLog) -> Result<OwnSets, Error> {
        let mut own = OwnSets { connection: None, sets: Vec::new(), log };
        for rule in &config.rules {
            let Some(Allow::Sets { v4, v6, .. }) = &rule.allow else { continue };
            own.add(v4.as_ref(), IpVersion::V4);
            own.add(v6.as_ref(), IpVersion::V6);
        }
        if own.sets.is_empty() {
            return Ok(own);
        }
        own.connection = Some(UserSets::open()?);
        own.inspect();
        match own.sets.iter().find_map(|set| set.problem.clone().filter(|problem| !problem.is_missing())) {
            Some(problem) => Err(problem),
            None => Ok(own),
        }
    }

    fn add(&mut self, name: Option<&SetName>, version: IpVersion) {
        if let Some(name) = name
            && !self.sets.iter().any(|set| set.name == *name && set.version == version)
        {
            self.sets.push(OwnSet { name: name.clone(), address: address_of(name), version, problem: None });
        }
    }

    /// The netlink port from which the sets are changed.
    pub(crate) fn port_id(&self) -> Option<u32> {
        self.connection.as_ref().map(UserSets::port_id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Looks at the sets anew, and says what changed.
    pub(crate) fn inspect(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        for set in &mut self.sets {
            let problem = connection.inspect(&set.address, set.version).err();
            match (&set.problem, &problem) {
                (before, Some(problem)) if before.as_ref() != Some(problem) => {
                    let wait = if problem.is_missing() { "; its rules work as soon as it is there" } else { "" };
                    log::warn!("{problem}{wait}");
                }
                (Some(_), None) => log::info!("set {} is there now; its rules work", set.address),
                _ => {}
            }
            set.problem = problem;
        }
    }

    pub(crate) fn is_usable(&self, name: &SetName) -> bool {
        self.sets.iter().any(|set| set.name == *name && set.problem.is_none())
    }

    pub(crate) fn concern(&self, notice: &Notice) -> bool {
        self.sets.iter().any(|set| set.address.family == notice.family && set.address.table == notice.table)
    }

    pub(crate) fn states(&self) -> Vec<SetState> {
        let state = |set: &OwnSet| SetState {
            name: set.address.to_string(),
            problem: set.problem.as_ref().map(ToString::to_string),
        };
        self.sets.iter().map(state).collect()
    }

    /// What is in the sets, with a comment and a timeout, as what is granted has.
    pub(crate) fn list(&mut self) -> Vec<Held> {
        let Some(connection) = &mut self.connection else { return Vec::new() };
        let mut held = Vec::new();
        for set in self.sets.iter().filter(|set| set.problem.is_none()) {
            match connection.list(&set.address) {
                Ok(elements) => held.extend(elements.into_iter().filter_map(|element| {
                    let lifetime = element.lifetime?;
                    Some(Held {
                        set: set.name.clone(),
                        address: element.address,
                        rule: element.comment,
                        timeout: lifetime.timeout,
                        remaining: lifetime.remaining,
                    })
                })),
                Err(error) => log::warn!("{error}"),
            }
        }
        held
    }

    /// Adds an address. Where the set is not there, nothing happens: the grant is put in when it comes.
    pub(crate) fn grant(
        &mut self,
        now: Time,
        name: &SetName,
        address: IpAddr,
        rule: &str,
        timeout: Duration,
        remaining: Duration,
    ) -> Result<(), Error> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        match connection.grant(&address_of(name), address, rule, Lifetime { timeout, remaining }) {
            Err(error) if error.is_missing() => {
                let message = format_args!("{error}; the grant of rule {rule} to {address} waits for it");
                self.log.line(now, Level::Warn, rule, message);
                Ok(())
            }
            Ok(Outcome::Permanent) => {
                let set = address_of(name);
                let message = format_args!("{address} is in the set {set} for good; rule {rule} changes nothing");
                self.log.line(now, Level::Info, rule, message);
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Deletes the elements of these addresses, where they bear a comment that `is_ours`. Returns whose there were.
    pub(crate) fn revoke(
        &mut self,
        name: &SetName,
        addresses: &[IpAddr],
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<Vec<IpAddr>, Error> {
        let Some(connection) = &mut self.connection else { return Ok(Vec::new()) };
        let (set, Some(&address)) = (address_of(name), addresses.first()) else { return Ok(Vec::new()) };
        match connection.revoke(&set, addresses, is_ours) {
            Err(error) if error.is_missing() => Ok(Vec::new()),
            // One that was made anew as another kind of set has no element of ours.
            Err(error) => match connection.inspect(&set, IpVersion::of(address)) {
                Err(Error::UnusableSet { .. }) => Ok(Vec::new()),
                _ => Err(error),
            },
            result => result,
        }
    }

    /// The sets for addresses of the version of this one.
    pub(crate) fn names(&self, address: IpAddr) -> Vec<SetName> {
        let version = IpVersion::of(address);
        self.sets.iter().filter(|set| set.version == version).map(|set| set.name.clone()).collect()
    }
}

pub(super) fn address_of(name: &SetName) -> SetAddress {
    let family = match name.family {
        knock_config::Family::Ip => knock_nft::Family::Ip,
        knock_config::Family::Ip6 => knock_nft::Family::Ip6,
        knock_config::Family::Inet => knock_nft::Family::Inet,
        knock_config::Family::Bridge => knock_nft::Family::Bridge,
        knock_config::Family::Netdev => knock_nft::Family::Netdev,
    };
    SetAddress { family, table: name.table.clone(), set: name.set.clone() }
}
