//! User sets: those that the administrator owns, and that rules add to.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use knock_nft::{IpVersion, Notice, Outcome};
use knock_proto::{RuleId, SetName};
use log::Level;

use crate::enforcer::by_key;
use crate::signer::parts;
use crate::{Element, Error, GrantEvent, Key, Opens, Place, Policy};

/// The sets that the policy names. One that is not there is waited for.
#[derive(Default)]
pub(super) struct UserSets {
    /// `None` where no rule names one.
    connection: Option<knock_nft::UserSets>,
    sets: Vec<UserSet>,
}

#[derive(Debug)]
struct UserSet {
    name: SetName,
    version: IpVersion,
    /// Why it can't be used now.
    problem: Option<knock_nft::Error>,
}

/// The state of a user set, for a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetState {
    /// `FAMILY TABLE SET`.
    pub name: String,
    /// Why it can't be used now.
    pub problem: Option<String>,
}

impl UserSets {
    /// Looks at each set that the policy names.
    pub(super) fn open(policy: &Policy) -> Result<UserSets, Error> {
        let mut sets = UserSets::default();
        for opens in policy.rules.values() {
            if let Opens::Sets { v4, v6 } = opens {
                v4.iter().for_each(|set| sets.name(set, IpVersion::V4));
                v6.iter().for_each(|set| sets.name(set, IpVersion::V6));
            }
        }
        if sets.sets.is_empty() {
            return Ok(sets);
        }
        sets.sets.sort_by(|a, b| a.name.cmp(&b.name));
        sets.connection = Some(knock_nft::UserSets::open()?);
        sets.inspect();
        match sets.sets.iter().find_map(|set| set.problem.clone().filter(|problem| !problem.is_missing())) {
            Some(problem) => Err(problem.into()),
            None => Ok(sets),
        }
    }

    fn name(&mut self, name: &SetName, version: IpVersion) {
        if !self.sets.iter().any(|set| set.name == *name && set.version == version) {
            self.sets.push(UserSet { name: name.clone(), version, problem: None });
        }
    }

    /// The netlink port from which the sets are changed.
    pub(super) fn port_id(&self) -> Option<u32> {
        self.connection.as_ref().map(knock_nft::UserSets::port_id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Looks at the sets again, and logs what changed.
    pub(super) fn inspect(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        for set in &mut self.sets {
            let problem = connection.inspect(&set.name, set.version).err();
            match (&set.problem, &problem) {
                (before, Some(problem)) if before.as_ref() != Some(problem) => {
                    let wait = if problem.is_missing() { "; its rules work as soon as it exists" } else { "" };
                    log::warn!("{problem}{wait}");
                }
                (Some(_), None) => log::info!("set {} exists now; its rules work", set.name),
                _ => {}
            }
            set.problem = problem;
        }
    }

    /// The sets that could be used when they were inspected last.
    pub(super) fn usable(&self) -> Vec<SetName> {
        self.sets.iter().filter(|set| set.problem.is_none()).map(|set| set.name.clone()).collect()
    }

    pub(super) fn concern(&self, notice: &Notice) -> bool {
        self.sets.iter().any(|set| set.name.family() == notice.family && *set.name.table() == *notice.table)
    }

    pub(super) fn states(&self) -> Vec<SetState> {
        let state = |set: &UserSet| SetState {
            name: set.name.to_string(),
            problem: set.problem.as_ref().map(ToString::to_string),
        };
        self.sets.iter().map(state).collect()
    }

    /// The elements of all usable sets. A set that cannot be read is logged.
    pub(super) fn list_all(&mut self) -> Vec<Element> {
        let mut found = Vec::new();
        for set in self.usable() {
            match self.list(&set) {
                Ok(elements) => found.extend(elements),
                Err(error) => log::warn!("{error}"),
            }
        }
        found
    }

    pub(super) fn list(&mut self, set: &SetName) -> Result<Vec<Element>, Error> {
        let Some(connection) = &mut self.connection else { return Ok(Vec::new()) };
        let element = |element: knock_nft::AddressElement| Element {
            key: Key { prefix: element.address.into(), place: Place::Set(set.clone()) },
            comment: element.comment,
            lifetime: element.lifetime,
        };
        Ok(connection.list(set)?.into_iter().map(element).collect())
    }

    /// Adds elements. Where the set is not there, nothing happens: they are added when it comes. An element whose comment
    /// is not one that `is_ours` is the administrator's, and stays as it is where it lasts longer.
    pub(super) fn add(
        &mut self,
        set: &SetName,
        elements: &[Element],
        is_ours: impl Fn(&str) -> bool,
        events: &mut VecDeque<GrantEvent>,
    ) -> Result<(), Error> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let mut result = Ok(());
        for Element { key: Key { prefix, .. }, comment, lifetime } in elements {
            // Grants in user sets are for single addresses.
            let address = prefix.address();
            let Some(lifetime) = *lifetime else { continue };
            let rule = parts(comment).map_or(comment.as_str(), |(rule, _)| rule);
            let mut note = |level, text| {
                events.push_back(GrantEvent::Note { level, rule: RuleId::from(rule), text });
            };
            match connection.grant(set, address, comment, lifetime, &is_ours) {
                Ok(Outcome::Done) => {}
                Ok(Outcome::LastsLonger) => {
                    let text = format!(
                        "{address} is an element of set {set} that knockd did not add and that lasts longer; rule {rule} \
                         changes nothing"
                    );
                    note(Level::Info, text);
                }
                Ok(Outcome::Permanent) => {
                    let text = format!("{address} is a permanent element of set {set}; rule {rule} changes nothing");
                    note(Level::Info, text);
                }
                Err(error) if error.is_missing() => {
                    note(Level::Warn, format!("{error}; the grant of rule {rule} to {address} waits for the set"));
                }
                Err(error) => result = Err(error.into()),
            }
        }
        result
    }

    /// Deletes the elements that have the name of a rule as comment. Returns those that there were.
    pub(super) fn delete(&mut self, set: &SetName, keys: &[Key], policy: &Policy) -> Result<Vec<Key>, Error> {
        let (Some(connection), Some(first)) = (&mut self.connection, keys.first()) else { return Ok(Vec::new()) };
        let addresses: Vec<IpAddr> = keys.iter().map(|key| key.prefix.address()).collect();
        let is_ours = |comment: &str| policy.rule_of(comment).is_some();
        let deleted = match connection.revoke(set, &addresses, is_ours) {
            Err(error) if error.is_missing() => Vec::new(),
            // One that was made again as another kind of set has no element of ours.
            Err(error) => match connection.inspect(set, IpVersion::of(first.prefix.address())) {
                Err(knock_nft::Error::UnusableSet { .. }) => Vec::new(),
                _ => return Err(error.into()),
            },
            Ok(deleted) => deleted,
        };
        Ok(deleted.into_iter().map(|address| Key { prefix: address.into(), place: Place::Set(set.clone()) }).collect())
    }

    /// Changes to the sets of policy `new`, with the elements that go, come or change. Failures are logged: the new policy
    /// is in force.
    pub(super) fn change_to(
        &mut self,
        sets: UserSets,
        [old, new]: [&Policy; 2],
        before: &[Element],
        after: &[Element],
        events: &mut VecDeque<GrantEvent>,
    ) {
        // An element may still bear the name of a rule that goes.
        let is_ours = |comment: &str| old.rule_of(comment).or(new.rule_of(comment)).is_some();
        let (was, will_be) = (by_key(before), by_key(after));
        for element in before.iter().filter(|element| !will_be.contains_key(&element.key)) {
            if let Place::Set(set) = &element.key.place
                && let Err(error) = self.delete(set, std::slice::from_ref(&element.key), old)
            {
                events.push_back(failure(element, &error));
            }
        }
        *self = sets;
        for element in after.iter().filter(|element| was.get(&element.key) != Some(element)) {
            let over = element.lifetime.is_none_or(|lifetime| lifetime.remaining == Duration::ZERO);
            if let Place::Set(set) = &element.key.place
                && !over
                && let Err(error) = self.add(set, std::slice::from_ref(element), is_ours, events)
            {
                events.push_back(failure(element, &error));
            }
        }
    }
}

fn failure(element: &Element, error: &Error) -> GrantEvent {
    let rule = RuleId::from(element.comment.as_str());
    GrantEvent::Note { level: Level::Warn, rule, text: error.to_string() }
}
