//! Who may ask for grants with signed packets, and how an element says who did.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

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

/// The comment of an element: the name of the rule and, where a key asked for the grant, its fingerprint. At most 115 bytes;
/// the kernel stores 128 with the final NUL (libnftnl, `NFTNL_UDATA_COMMENT_MAXLEN`).
pub(crate) fn comment(rule: &RuleId, key: Option<&Fingerprint>) -> String {
    match key {
        Some(key) => format!("{rule} {key}"),
        None => rule.to_string(),
    }
}

/// The parts of a comment: the name of the rule, and the key. `None`: it is not one of ours.
pub(crate) fn parts(comment: &str) -> Option<(&str, Option<Fingerprint>)> {
    match comment.split_once(' ') {
        Some((rule, key)) => Some((rule, Some(key.parse().ok()?))),
        None => Some((comment, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_names_the_rule_and_the_key() {
        let rule = RuleId::from("a".repeat(64).as_str());
        let key: Fingerprint = format!("SHA256:{}", "A".repeat(43)).parse().expect("a fingerprint");
        for key in [None, Some(key)] {
            let comment = comment(&rule, key.as_ref());
            assert!(comment.len() < 128);
            assert_eq!(parts(&comment), Some((rule.as_str(), key)));
        }
        assert_eq!(parts("office printer"), None);
        assert_eq!(parts(&format!("ssh SHA256:{}", "A".repeat(42))), None);
    }
}
