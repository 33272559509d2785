//! The fleet: the state of the sharing, the nodes, the grants of other nodes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How grants are shared with the other nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FleetStatus {
    pub(crate) realm: String,
    /// The name of this node.
    pub(crate) node: String,
    /// The id of this node, 16 hexadecimal digits.
    pub(crate) node_id: String,
    /// Whether knockd-fleet is connected to the daemon. Where it is not, the next fields up to `problem` are of no meaning.
    pub(crate) connected: bool,
    /// Whether records can be written to the store.
    pub(crate) writes: bool,
    /// Whether records are read from the store.
    pub(crate) reads: bool,
    /// Whether everything in the store has been read since the connection to it was made.
    pub(crate) in_step: bool,
    /// Records that wait for the store.
    pub(crate) queue: u32,
    /// Records that wait for knockd-fleet.
    pub(crate) waiting: usize,
    /// Records that were dropped, because a queue was full.
    pub(crate) lost: u64,
    /// Records that were written.
    pub(crate) published: u64,
    /// Records that were read.
    pub(crate) received: u64,
    /// What was in the store and is no record.
    pub(crate) foreign: u64,
    /// How old the newest record was when it was read.
    pub(crate) lag_seconds: f64,
    /// How far the clock of the store is ahead of that of this host.
    pub(crate) clock_offset_seconds: f64,
    /// What is wrong with the store; `null`: nothing.
    pub(crate) problem: Option<String>,
    /// Records that wait for their verification.
    pub(crate) verifying: usize,
    /// Grants of other nodes that are remembered.
    pub(crate) known_grants: usize,
    /// Revocations that are remembered.
    pub(crate) known_revocations: usize,
    /// Grants that records of other nodes began.
    pub(crate) granted: u64,
    /// Grants that records of other nodes ended.
    pub(crate) revoked: u64,
    /// Records that were refused, by the reason.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Signed packets that wait for the answer whether another node has accepted them.
    pub(crate) claims_pending: usize,
    /// The nodes of the configuration, this one too.
    pub(crate) nodes: usize,
    /// Of these, those with other keys or rules than this one.
    pub(crate) nodes_differing: usize,
    /// Of these, those that were not seen in the last two minutes.
    pub(crate) nodes_silent: usize,
    /// The rules whose grants the other nodes get.
    pub(crate) publish: Vec<String>,
    /// `grant` or `refuse`.
    pub(crate) on_outage: String,
}

/// The nodes of the configuration, in its order, and those that only the store knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FleetNodes {
    pub(crate) nodes: Vec<FleetNode>,
}

/// A node of the fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FleetNode {
    /// Its name; `null`: it is not in the configuration.
    pub(crate) name: Option<String>,
    /// Its id, 16 hexadecimal digits.
    pub(crate) id: String,
    /// How long ago it was seen; `null`: never since the start.
    pub(crate) seen_seconds: Option<f64>,
    /// Its version of knockd.
    pub(crate) version: Option<String>,
    /// Whether it has the same keys and rules as this one.
    pub(crate) same_rules: Option<bool>,
    /// The rules for which its word is enough.
    pub(crate) vouch: Vec<String>,
    /// Whether it is this one.
    pub(crate) this: bool,
}

/// The live grants that other nodes have made, in the order in which they end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FleetGrants {
    pub(crate) grants: Vec<FleetGrant>,
}

/// A live grant that another node has made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FleetGrant {
    pub(crate) rule: String,
    pub(crate) address: String,
    /// Whether it is for the prefix of the address.
    pub(crate) wide: bool,
    /// The name of the node.
    pub(crate) node: String,
    /// The user who signed the packet; nothing where it was something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// How long ago the node has accepted it.
    pub(crate) age_seconds: f64,
    pub(crate) remaining_seconds: f64,
}

/// Grants were ended here and are to end on the other nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FleetRevoked {
    /// How many were ended here.
    pub(crate) revoked: usize,
    /// The number of elements without a grant that were found in the kernel and deleted.
    pub(crate) strays: usize,
    /// Whether knockd-fleet is connected.
    pub(crate) connected: bool,
    /// Whether the store can be written to. Where it can't, the revocation waits.
    pub(crate) writes: bool,
}
