//! Who the nodes of a fleet are, and what their word is enough for.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use knock_spa::{Realm, RuleName};

use crate::node_key::{NodeId, NodePublicKey};
use crate::record::{RECORD_LENGTH, Record};
use crate::refused::Refused;

/// A node of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, for people.
    pub name: Arc<str>,
    /// The key that it signs its records with.
    pub key: NodePublicKey,
    /// The rules for which its word is enough: a sequence, a grant by hand, an address that no client has signed.
    pub vouch: BTreeSet<RuleName>,
}

/// Two nodes can't be told apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the nodes {first} and {second} have the same key; make a key for each with `knockctl fleet keygen`")]
pub struct TrustError {
    /// The name of one of them.
    pub first: Arc<str>,
    /// The name of the other one.
    pub second: Arc<str>,
}

/// The nodes that are trusted, and for which fleet.
#[derive(Clone, Debug)]
pub struct Trust {
    audience: [u8; 32],
    nodes: HashMap<NodeId, Node>,
}

impl Trust {
    /// These nodes, for the fleet of that realm.
    ///
    /// # Errors
    ///
    /// If two of them have the same id.
    pub fn new(realm: &Realm, nodes: Vec<Node>) -> Result<Trust, TrustError> {
        let mut by_id: HashMap<NodeId, Node> = HashMap::with_capacity(nodes.len());
        for node in nodes {
            let second = node.name.clone();
            if let Some(first) = by_id.insert(node.key.id(), node) {
                return Err(TrustError { first: first.name, second });
            }
        }
        Ok(Trust { audience: realm.audience(), nodes: by_id })
    }

    /// The node with that id.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// The node that has signed a record.
    ///
    /// # Errors
    ///
    /// If it is not known here, or did not sign it.
    pub(crate) fn signer(&self, bytes: &[u8; RECORD_LENGTH], record: &Record) -> Result<&Node, Refused> {
        let node = self.node(record.node).ok_or(Refused::UnknownNode { node: record.node })?;
        let signed = Record::is_signed(bytes, &node.key, &self.audience);
        signed.then_some(node).ok_or(Refused::NodeSignature { node: node.name.clone() })
    }
}
