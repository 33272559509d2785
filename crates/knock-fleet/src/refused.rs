//! Why a record has no effect.

use std::sync::Arc;
use std::time::Duration;

use knock_spa::{Denial, Fingerprint, Refusal, RuleName};

use crate::node_key::NodeId;
use crate::record::RecordError;

/// Why a record has no effect here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It breaks a rule of the format.
    #[error("the record is damaged: {0}")]
    Damaged(#[from] RecordError),
    /// No node here has that id.
    #[error("node {node} is not in `fleet.nodes`")]
    UnknownNode {
        /// The id in the record.
        node: NodeId,
    },
    /// The node did not sign it, or signed it for another fleet.
    #[error("node {node} did not sign the record for this fleet; it is forged, or was changed")]
    NodeSignature {
        /// The name of the node.
        node: Arc<str>,
    },
    /// Its time is not yet.
    #[error("its time is {:.1} s ahead of the clock here; set the clocks of both, for example with NTP", .by.as_secs_f64())]
    Ahead {
        /// By how much.
        by: Duration,
    },
    /// Its grant has ended, or ends within a second.
    #[error("the grant has ended")]
    Ended,
    /// No packets are accepted here.
    #[error("no rule here accepts signed packets")]
    NoPackets,
    /// The client's key is not in the file of keys here.
    #[error("the key {fingerprint} is not in `authorized_keys` here")]
    UnknownKey {
        /// The key.
        fingerprint: Fingerprint,
    },
    /// The client did not sign what the record says.
    #[error("the signature of the client is refused: {0}")]
    Client(#[from] Refusal),
    /// The key, or the rule, does not permit it here.
    #[error("{0}")]
    Denied(#[from] Denial),
    /// The record says something else than what the client signed.
    #[error("the record says another {field} than the client has signed")]
    NotAsSigned {
        /// What differs.
        field: &'static str,
    },
    /// No rule here has that name.
    #[error("there is no rule {rule} with a grant here")]
    UnknownRule {
        /// The rule.
        rule: RuleName,
    },
    /// The rule can't be opened for prefixes here.
    #[error("the rule {rule} can't be opened for a prefix here")]
    NotWide {
        /// The rule.
        rule: RuleName,
    },
    /// The node's word is not enough for the rule.
    #[error("the word of node {node} is not enough for the rule {rule}, which is not in its `vouch`")]
    NotVouched {
        /// The name of the node.
        node: Arc<str>,
        /// The rule.
        rule: RuleName,
    },
    /// It was here before.
    #[error("the record is already known")]
    Known,
    /// The grant was revoked after it was accepted.
    #[error("the grant was revoked")]
    Revoked,
    /// What the revocation is for was granted again after it.
    #[error("a later grant is in force")]
    Superseded,
    /// There is no room to remember it.
    #[error("this node remembers as many grants of other nodes as it can")]
    Full,
}

impl Refused {
    /// A short name for programs.
    pub fn label(&self) -> &'static str {
        match self {
            Refused::Damaged(_) => "damaged",
            Refused::UnknownNode { .. } => "unknown-node",
            Refused::NodeSignature { .. } => "node-signature",
            Refused::Ahead { .. } => "ahead",
            Refused::Ended => "ended",
            Refused::NoPackets => "no-packets",
            Refused::UnknownKey { .. } => "unknown-key",
            Refused::Client(_) => "client-signature",
            Refused::Denied(_) => "denied",
            Refused::NotAsSigned { .. } => "not-as-signed",
            Refused::UnknownRule { .. } => "unknown-rule",
            Refused::NotWide { .. } => "not-wide",
            Refused::NotVouched { .. } => "not-vouched",
            Refused::Known => "known",
            Refused::Revoked => "revoked",
            Refused::Superseded => "superseded",
            Refused::Full => "full",
        }
    }

    /// Whether it is a matter of course in a fleet where everything is right.
    pub fn is_expected(&self) -> bool {
        matches!(self, Refused::Ended | Refused::Known | Refused::Revoked | Refused::Superseded)
    }
}
