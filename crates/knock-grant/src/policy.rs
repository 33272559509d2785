//! What the configuration says of grants.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use knock_nft::TableSpec;
use knock_proto::{Access, Prefix, RuleId, SetName};
use knock_spa::Fingerprint;

use crate::signer::{Signers, parts};

/// What each rule opens, and how much may be open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Every rule, also one that opens nothing.
    pub rules: HashMap<RuleId, Opens>,
    /// The lengths of the prefixes, IPv4 and IPv6, of rules whose grants are for the prefix of a source.
    pub prefixes: HashMap<RuleId, (u8, u8)>,
    /// Who may ask for grants with signed packets.
    pub signers: Signers,
    /// The managed table; `None` where no rule guards a port.
    pub table: Option<TableSpec>,
    /// The elements that all grants to one IP version may have.
    pub limit: usize,
}

/// What a grant of a rule opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opens {
    /// Nothing: the rule has no grants.
    Nothing,
    /// Guarded ports.
    Ports(Vec<Access>),
    /// What the administrator's own rules let the members of user sets do.
    Sets {
        /// The set for IPv4 addresses.
        v4: Option<SetName>,
        /// The set for IPv6 addresses.
        v6: Option<SetName>,
    },
}

/// The place of an element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In the managed table.
    Table(Access),
    /// In a user set.
    Set(SetName),
}

impl fmt::Display for Place {
    /// `22/tcp`, `60000-61000/udp`, `any`, or `inet filter ssh4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Table(access) => access.fmt(f),
            Place::Set(set) => set.fmt(f),
        }
    }
}

impl Policy {
    /// Where a grant of that rule to that address has its elements; nowhere where the rule has no set for the address's
    /// version of IP, or is not there.
    pub fn places(&self, rule: &RuleId, address: IpAddr) -> Vec<Place> {
        match self.rules.get(rule) {
            None | Some(Opens::Nothing) => Vec::new(),
            Some(Opens::Ports(ports)) => ports.iter().copied().map(Place::Table).collect(),
            Some(Opens::Sets { v4, v6 }) => {
                let set = if address.is_ipv4() { v4 } else { v6 };
                set.iter().cloned().map(Place::Set).collect()
            }
        }
    }

    /// The addresses that a grant of that rule to a source is for.
    pub fn prefix(&self, rule: &RuleId, source: IpAddr) -> Prefix {
        let (v4, v6) = self.prefixes.get(rule).copied().unwrap_or((u8::MAX, u8::MAX));
        Prefix::new(source, if source.is_ipv4() { v4 } else { v6 })
    }

    /// All that a grant of that rule to an address can be for: the prefix, and for a rule that accepts signed packets the
    /// address alone too.
    pub(crate) fn prefixes(&self, rule: &RuleId, address: IpAddr) -> impl Iterator<Item = Prefix> + use<> {
        let prefix = self.prefix(rule, address);
        let alone = Some(Prefix::from(address)).filter(|alone| *alone != prefix && self.signers.rules.contains(rule));
        [Some(prefix), alone].into_iter().flatten()
    }

    /// What a grant of that rule to `prefix` is for under this policy, where the key asked for it, if one did. `None`: it
    /// ends.
    pub(crate) fn carried_over(&self, rule: &RuleId, prefix: Prefix, key: Option<&Fingerprint>) -> Option<Prefix> {
        let present = self.prefix(rule, prefix.address());
        match key {
            // A grant to fewer addresses than the rule's grants are for now is widened. Of a grant to more addresses,
            // nobody knows which of them knocked.
            None => (present.length() <= prefix.length()).then_some(present),
            // A key gets what it asked for, or nothing.
            Some(key) if self.signers.may_ask(key, rule) => {
                self.prefixes(rule, prefix.address()).find(|possible| *possible == prefix)
            }
            Some(_) => None,
        }
    }

    /// The rule that an element with this comment belongs to, and the key that asked for it. The rule's id is that of the
    /// policy, which all grants share.
    pub(crate) fn owner_of(&self, comment: &str) -> Option<(&RuleId, Option<Fingerprint>)> {
        let (rule, key) = parts(comment)?;
        self.rules.get_key_value(rule).map(|(rule, _)| (rule, key))
    }

    /// The rule that an element with this comment belongs to.
    pub(crate) fn rule_of(&self, comment: &str) -> Option<&RuleId> {
        self.owner_of(comment).map(|(rule, _)| rule)
    }

    /// Whether the rule can be granted.
    pub(crate) fn has_grants(&self, rule: &RuleId) -> bool {
        !matches!(self.rules.get(rule), None | Some(Opens::Nothing))
    }

    /// How much of [`Policy::limit`] a grant of that rule to that address takes. One without elements takes room in the
    /// record.
    pub(crate) fn size(&self, rule: &RuleId, address: IpAddr) -> usize {
        self.places(rule, address).len().max(1)
    }
}
