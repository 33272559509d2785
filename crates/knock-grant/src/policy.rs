//! What the configuration says of grants.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use knock_nft::TableSpec;
use knock_proto::{Access, Prefix, RuleId, SetName};

use crate::signer::{Basis, Signers, Vouchers, parts};

/// What each rule opens, and how much may be open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Every rule, also one that opens nothing.
    pub rules: HashMap<RuleId, Opens>,
    /// The lengths of the prefixes, IPv4 and IPv6, of rules whose grants are for the prefix of a source.
    pub prefixes: HashMap<RuleId, (u8, u8)>,
    /// Who may ask for grants with signed packets.
    pub signers: Signers,
    /// The nodes of the fleet.
    pub vouchers: Vouchers,
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

    /// All that a grant of that rule to an address can be for: the prefix, and where signed packets or other nodes can ask for
    /// the rule the address alone too.
    pub(crate) fn prefixes(&self, rule: &RuleId, address: IpAddr) -> impl Iterator<Item = Prefix> + use<> {
        let prefix = self.prefix(rule, address);
        let alone = Some(Prefix::from(address)).filter(|alone| *alone != prefix && self.grants_alone(rule));
        [Some(prefix), alone].into_iter().flatten()
    }

    /// Whether the rule can be granted to an address alone, also where its grants are for prefixes.
    pub fn grants_alone(&self, rule: &RuleId) -> bool {
        self.vouchers.fleet || self.signers.rules.contains(rule)
    }

    /// What a grant of that rule to `prefix` is for under this policy, with what it rests on. `None`: it ends.
    pub(crate) fn carried_over(&self, rule: &RuleId, prefix: Prefix, basis: &Basis) -> Option<Prefix> {
        let Basis { key, voucher } = basis;
        let may_ask = key.is_none_or(|key| self.signers.may_ask(&key, rule));
        let may_vouch = voucher.is_none_or(|node| self.vouchers.may_vouch(node, rule));
        if !may_ask || !may_vouch {
            return None;
        }
        if key.is_some() || voucher.is_some() {
            // It stays what was asked for, or ends.
            return self.prefixes(rule, prefix.address()).find(|possible| *possible == prefix);
        }
        // A grant to fewer addresses than the rule's grants are for now is widened. Of a grant to more addresses, nobody
        // knows which of them knocked.
        let present = self.prefix(rule, prefix.address());
        (present.length() <= prefix.length()).then_some(present)
    }

    /// The rule that an element with this comment belongs to, and what its grant rests on. The rule's id is that of the
    /// policy, which all grants share.
    pub(crate) fn owner_of(&self, comment: &str) -> Option<(&RuleId, Basis)> {
        let (rule, basis) = parts(comment)?;
        self.rules.get_key_value(rule).map(|(rule, _)| (rule, basis))
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
