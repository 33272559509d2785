//! Memory enforces grants: for tests of the manager.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use knock_nft::{Errno, Operation};

use crate::{Changes, Element, Enforcer, Error, GrantEvent, Key, Policy, Store};

/// Holds elements as the kernel does, and fails where a test asks for it.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) elements: BTreeMap<Key, Element>,
    /// What others have changed.
    pub(crate) changes: Changes,
    /// Stores that take no change.
    pub(crate) broken: Vec<Store>,
    /// There is no room for another element.
    pub(crate) full: bool,
    /// The managed table is gone.
    pub(crate) gone: bool,
    sets: Vec<Store>,
}

impl Memory {
    fn usable(&self, store: &Store) -> Result<(), Error> {
        if self.broken.contains(store) {
            return Err(refusal(Errno::PERM));
        }
        if self.gone && *store == Store::Table {
            return Err(refusal(Errno::NOENT));
        }
        Ok(())
    }
}

fn refusal(errno: Errno) -> Error {
    knock_nft::Error::Kernel { operation: Operation::AddElement, object: "a store".to_owned(), errno }.into()
}

impl Enforcer for Memory {
    fn open(&mut self, policy: &Rc<Policy>) -> Result<Vec<Element>, Error> {
        let sets = policy.rules.values().flat_map(|opens| match opens {
            crate::Opens::Sets { v4, v6 } => v4.iter().chain(v6).cloned().map(Store::Set).collect(),
            _ => Vec::new(),
        });
        self.sets = sets.collect();
        Ok(self.elements.values().cloned().collect())
    }

    fn apply(
        &mut self,
        policy: &Rc<Policy>,
        before: &[Element],
        after: &[Element],
        _: &mut VecDeque<GrantEvent>,
    ) -> Result<(), Error> {
        self.usable(&Store::Table)?;
        for element in before {
            self.elements.remove(&element.key);
        }
        self.elements.extend(after.iter().map(|element| (element.key.clone(), element.clone())));
        self.open(policy).map(drop)
    }

    fn add(&mut self, store: &Store, elements: &[Element], _: &mut VecDeque<GrantEvent>) -> Result<(), Error> {
        self.usable(store)?;
        if self.full {
            return Err(refusal(Errno::NFILE));
        }
        assert!(elements.iter().all(|element| element.key.place.store() == *store));
        self.elements.extend(elements.iter().map(|element| (element.key.clone(), element.clone())));
        Ok(())
    }

    fn delete(&mut self, store: &Store, keys: &[Key]) -> Result<Vec<Key>, Error> {
        self.usable(store)?;
        Ok(keys.iter().filter(|key| self.elements.remove(key).is_some()).cloned().collect())
    }

    fn delete_all(&mut self) -> Result<Vec<Key>, Error> {
        self.usable(&Store::Table)?;
        let keys: Vec<Key> = self.elements.keys().filter(|key| key.place.store() == Store::Table).cloned().collect();
        self.delete(&Store::Table, &keys)
    }

    fn stores(&mut self) -> Vec<Store> {
        std::iter::once(Store::Table).chain(self.sets.iter().cloned()).collect()
    }

    fn list(&mut self, store: &Store) -> Result<Vec<Element>, Error> {
        Ok(self.elements.values().filter(|element| element.key.place.store() == *store).cloned().collect())
    }

    fn restore(&mut self, elements: &[Element]) -> Result<bool, Error> {
        let gone = std::mem::take(&mut self.gone);
        if gone {
            self.elements.extend(elements.iter().map(|element| (element.key.clone(), element.clone())));
        }
        Ok(gone)
    }

    fn changes(&mut self) -> Result<Changes, Error> {
        Ok(std::mem::take(&mut self.changes))
    }

    fn turned_away(&mut self) -> u64 {
        0
    }

    fn close(self, _keep: bool) -> Result<(), Error> {
        Ok(())
    }

    fn abandon(self) {}
}
