//! What carries grants out.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use knock_nft::Lifetime;
use knock_proto::Prefix;

use crate::{Error, GrantEvent, Place, Policy};

/// What an element is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose packets it lets in.
    pub prefix: Prefix,
    /// Its place.
    pub place: Place,
}

/// An element, as it is or as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// What it is known by.
    pub key: Key,
    /// Its comment: the name of the rule, where knockd added it.
    pub comment: String,
    /// How long it lasts; `None`: permanently.
    pub lifetime: Option<Lifetime>,
}

/// The elements by what they are known by.
pub(crate) fn by_key(elements: &[Element]) -> HashMap<&Key, &Element> {
    elements.iter().map(|element| (&element.key, element)).collect()
}

/// What holds elements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Store {
    /// The managed table, of which every element is knockd's.
    Table,
    /// A user set, of which the elements with the name of a rule as comment are knockd's.
    Set(knock_proto::SetName),
}

impl Place {
    /// The store that holds the elements of this place.
    pub fn store(&self) -> Store {
        match self {
            Place::Table(_) => Store::Table,
            Place::Set(set) => Store::Set(set.clone()),
        }
    }
}

/// What others have changed since it was asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Whether the managed table may be another.
    pub table: bool,
    /// Whether a user set may be another.
    pub sets: bool,
    /// The program that changed it.
    pub by: Option<String>,
}

/// Carries grants out. Failures that are no error of the call as a whole are added to `events`.
pub trait Enforcer {
    /// Puts `policy` in force for the first time. Returns what a daemon before this one left.
    ///
    /// # Errors
    ///
    /// Where that is not possible. Nothing half-made is left.
    fn open(&mut self, policy: &Rc<Policy>) -> Result<Vec<Element>, Error>;

    /// Puts another policy in force: the elements were `before`, and are to be `after`.
    ///
    /// # Errors
    ///
    /// Where that is not possible; everything is as it was then.
    fn apply(
        &mut self,
        policy: &Rc<Policy>,
        before: &[Element],
        after: &[Element],
        events: &mut VecDeque<GrantEvent>,
    ) -> Result<(), Error>;

    /// Adds elements to a store, or replaces those with the same keys. A user set that is not there takes none.
    ///
    /// # Errors
    ///
    /// Where they cannot be added; [`Error::is_missing`] where the store is gone.
    fn add(&mut self, store: &Store, elements: &[Element], events: &mut VecDeque<GrantEvent>) -> Result<(), Error>;

    /// Deletes those of the elements that are knockd's. They may be gone. Returns those that were deleted.
    ///
    /// # Errors
    ///
    /// Where one cannot be deleted. Others may be then.
    fn delete(&mut self, store: &Store, keys: &[Key]) -> Result<Vec<Key>, Error>;

    /// Deletes all elements of the managed table, in one transaction. Returns them.
    ///
    /// # Errors
    ///
    /// Where it cannot; [`Error::is_missing`] where the table is gone.
    fn delete_all(&mut self) -> Result<Vec<Key>, Error>;

    /// The stores that there are now, of those that the policy names.
    fn stores(&mut self) -> Vec<Store>;

    /// What a store holds.
    ///
    /// # Errors
    ///
    /// Where that cannot be read.
    fn list(&mut self, store: &Store) -> Result<Vec<Element>, Error>;

    /// Creates the managed table again, with these elements, where it is gone or its rules were changed. Returns whether it
    /// did.
    ///
    /// # Errors
    ///
    /// Where it cannot.
    fn restore(&mut self, elements: &[Element]) -> Result<bool, Error>;

    /// What others have changed.
    ///
    /// # Errors
    ///
    /// Where that cannot be read.
    fn changes(&mut self) -> Result<Changes, Error>;

    /// How many packets of strangers the gate has dropped since the start. It never gets less.
    fn turned_away(&mut self) -> u64;

    /// Ends: leaves the table with its elements, or removes it.
    ///
    /// # Errors
    ///
    /// Where it cannot be removed.
    fn close(self, keep: bool) -> Result<(), Error>;

    /// Ends after a failed start: an adopted table stays and guards its ports, a new one is deleted.
    fn abandon(self);
}
