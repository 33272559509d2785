//! Who may ask for grants with signed packets, on whose word grants of other nodes rest, and how an element says both.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64ct::{Base64Unpadded, Encoding};
use knock_fleet::NodeId;
use knock_proto::RuleId;
use knock_spa::Fingerprint;

/// The user of an ssh key, as grants and the log name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The comment of the key; its fingerprint, where it has none.
    pub name: Arc<str>,
    /// The key.
    pub key: Fingerprint,
}

/// What a key may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The name of its user.
    pub name: Arc<str>,
    /// The rules; `None`: all that accept signed packets.
    pub rules: Option<HashSet<RuleId>>,
}

/// The keys whose grants stay. A grant that a key asked for ends when the key may not ask for it any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers {
    /// The rules that accept signed packets.
    pub rules: HashSet<RuleId>,
    /// The keys.
    pub keys: HashMap<Fingerprint, Signer>,
}

impl Signers {
    /// Whether the key may ask for the rule.
    pub(crate) fn may_ask(&self, key: &Fingerprint, rule: &RuleId) -> bool {
        let permits = |signer: &Signer| signer.rules.as_ref().is_none_or(|rules| rules.contains(rule));
        self.rules.contains(rule) && self.keys.get(key).is_some_and(permits)
    }
}

/// The nodes whose grants stay. A grant that rests on the word of a node ends when that is not enough any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vouchers {
    /// Whether other nodes can grant at all.
    pub fleet: bool,
    /// The rules for which the word of each node is enough.
    pub nodes: HashMap<NodeId, HashSet<RuleId>>,
}

impl Vouchers {
    /// Whether the word of the node is enough for the rule.
    pub(crate) fn may_vouch(&self, node: NodeId, rule: &RuleId) -> bool {
        self.nodes.get(&node).is_some_and(|rules| rules.contains(rule))
    }
}

/// What a grant rests on, beside a knock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    /// The key that asked for it; `None`: something else made it.
    pub key: Option<Fingerprint>,
    /// The node whose word it rests on; `None`: it was made here, or the client's signature is enough.
    pub voucher: Option<NodeId>,
}

/// In front of the id of a node where no key is: an administrator may write words behind the name of a rule too.
const NODE: &str = "node:";

/// The comment of an element: the name of the rule and, where a key asked for the grant, its fingerprint and, where it rests
/// on the word of a node, its id. At most 127 bytes, so the id is in base64; the kernel stores 128 with the final NUL
/// (libnftnl, `NFTNL_UDATA_COMMENT_MAXLEN`).
pub(crate) fn comment(rule: &RuleId, basis: &Basis) -> String {
    let node = basis.voucher.map(|node| Base64Unpadded::encode_string(node.as_bytes()));
    match (basis.key, node) {
        (None, None) => rule.to_string(),
        (Some(key), None) => format!("{rule} {key}"),
        (None, Some(node)) => format!("{rule} {NODE}{node}"),
        (Some(key), Some(node)) => format!("{rule} {key} {node}"),
    }
}

/// The parts of a comment: the name of the rule, and what the grant rests on. `None`: it is not one of ours.
pub(crate) fn parts(comment: &str) -> Option<(&str, Basis)> {
    let Some((rule, rest)) = comment.split_once(' ') else { return Some((comment, Basis::default())) };
    let (key, node) = match (rest.strip_prefix(NODE), rest.split_once(' ')) {
        (Some(node), _) => (None, Some(node)),
        (None, Some((key, node))) => (Some(key), Some(node)),
        (None, None) => (Some(rest), None),
    };
    let key = key.map(str::parse).transpose().ok()?;
    let voucher = match node {
        Some(node) => Some(node_id(node)?),
        None => None,
    };
    Some((rule, Basis { key, voucher }))
}

fn node_id(text: &str) -> Option<NodeId> {
    let mut bytes = [0; 8];
    let length = Base64Unpadded::decode(text, &mut bytes).ok()?.len();
    (length == bytes.len()).then_some(NodeId::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_names_the_rule_the_key_and_the_node() {
        let rule = RuleId::from("a".repeat(64).as_str());
        let key: Fingerprint = format!("SHA256:{}", "A".repeat(43)).parse().expect("a fingerprint");
        let node = NodeId::from_bytes([0xff; 8]);
        for key in [None, Some(key)] {
            for voucher in [None, Some(node)] {
                let basis = Basis { key, voucher };
                let comment = comment(&rule, &basis);
                assert!(comment.len() < 128, "{comment}");
                assert_eq!(parts(&comment), Some((rule.as_str(), basis)));
            }
        }
        for other in [
            "office printer".to_owned(),
            format!("ssh SHA256:{}", "A".repeat(42)),
            format!("ssh SHA256:{} x", "A".repeat(43)),
            "ssh production1".to_owned(),
            "ssh node:production".to_owned(),
            "ssh node:AAAAAAAAAA".to_owned(),
            "ssh node:AAAAAAAAAAA AAAAAAAAAAA".to_owned(),
            "ssh AAAAAAAAAAA AAAAAAAAAAA".to_owned(),
        ] {
            assert_eq!(parts(&other), None, "{other}");
        }
    }
}
