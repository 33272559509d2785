//! What a verified request leads to: the rule and the address, or the reason why not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::authorized_keys::{AddressPolicy, AuthorizedKey};
use crate::request::{Operation, Request, RuleName};
use crate::time::UnixTime;

/// What a server demands of every packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How far the time of a packet may be from the clock of the server, either way.
    pub window: Duration,
    /// The rules that packets may ask for.
    pub rules: BTreeMap<RuleName, RuleTerms>,
}

/// What a rule demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleTerms {
    /// The lifetime of its grants. A packet may ask for a shorter one.
    pub lifetime: Duration,
    /// Whether it can be opened for the prefix of an address.
    pub wide: bool,
}

/// What follows from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The rule.
    pub rule: RuleName,
    /// The address.
    pub address: IpAddr,
    /// Whether it is for the prefix of the address.
    pub wide: bool,
    /// What happens.
    pub action: Action,
}

/// What happens to the grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It begins, or is extended.
    Open {
        /// For so long from now on.
        lifetime: Duration,
    },
    /// It ends.
    Close,
}

/// Why a request of an authenticated user leads to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The packet is from the future.
    #[error("the clock of the client is {} s ahead; set it, for example with NTP", .by.as_secs())]
    ClockAhead {
        /// By how much.
        by: Duration,
    },
    /// The packet is old.
    #[error("the clock of the client is {} s behind, or the packet was held back; set it, for example with NTP", .by.as_secs())]
    ClockBehind {
        /// By how much.
        by: Duration,
    },
    /// `expiry-time` is over.
    #[error("the key has expired; change its `expiry-time`")]
    Expired,
    /// `from` does not permit the address.
    #[error("the option `from` of the key does not permit {address}")]
    From {
        /// The source of the packet, or the address that it asks for.
        address: IpAddr,
    },
    /// The key may not ask for the rule.
    #[error("the option `rules` of the key does not permit the rule {rule}")]
    RuleNotPermitted {
        /// The rule.
        rule: RuleName,
    },
    /// There is no such rule, or it takes no packets.
    #[error("no rule {rule} accepts signed packets")]
    UnknownRule {
        /// The rule.
        rule: RuleName,
    },
    /// It does not follow from the key which rule is meant.
    #[error("the packet names no rule, and the key may ask for {count} rules; name one of them")]
    RuleNotNamed {
        /// How many there are; not 1.
        count: usize,
    },
    /// `address=source`, and another address is asked for.
    #[error(
        "the packet asks for {requested}, but came from {origin}; a proxy or NAT is between, or the key needs `address=\"any\"`"
    )]
    OtherAddress {
        /// What it asks for.
        requested: IpAddr,
        /// Where it came from.
        origin: IpAddr,
    },
    /// `address=strict`, and no address is named.
    #[error("the packet names no address, which the option `address=\"strict\"` of the key demands")]
    AddressNotNamed,
    /// The key may not open prefixes.
    #[error("the packet asks for a prefix, for which the key has no option `wide`")]
    KeyNotWide,
    /// The rule can't be opened for prefixes.
    #[error("the packet asks for a prefix, for which the rule {rule} can't be opened")]
    RuleNotWide {
        /// The rule.
        rule: RuleName,
    },
}

impl AuthorizedKey {
    /// Decides on a request that this key has signed, in a packet that came from `source`. That the packet is new is not
    /// checked here.
    ///
    /// # Errors
    ///
    /// Why nothing follows.
    pub fn decide(&self, request: &Request, source: IpAddr, now: UnixTime, terms: &Terms) -> Result<Decision, Denial> {
        let source = source.to_canonical();
        check_clock(request.time, now, terms.window)?;
        if self.options.expires.is_some_and(|end| end <= now) {
            return Err(Denial::Expired);
        }
        let (rule, rule_terms) = self.rule(request, terms)?;
        let address = request.address.unwrap_or(source);
        if let Some(from) = &self.options.from {
            // Of both: neither may a stolen key be used elsewhere, nor be opened for elsewhere.
            if let Some(address) = [source, address].into_iter().find(|&address| !from.permits(address)) {
                return Err(Denial::From { address });
            }
        }
        if !self.options.address.permits(request.address, source) {
            return Err(match (self.options.address, request.address) {
                (AddressPolicy::Strict, None) => Denial::AddressNotNamed,
                (_, requested) => Denial::OtherAddress { requested: requested.unwrap_or(source), origin: source },
            });
        }
        if request.widen && !self.options.wide {
            return Err(Denial::KeyNotWide);
        }
        if request.widen && !rule_terms.wide {
            return Err(Denial::RuleNotWide { rule: rule.clone() });
        }
        let action = match request.operation {
            Operation::Close => Action::Close,
            Operation::Open => {
                let asked = request.lifetime.map(|seconds| Duration::from_secs(seconds.get().into()));
                Action::Open { lifetime: asked.unwrap_or(rule_terms.lifetime).min(rule_terms.lifetime) }
            }
        };
        Ok(Decision { rule: rule.clone(), address, wide: request.widen, action })
    }

    /// The rule that a request is for.
    fn rule<'t>(&self, request: &Request, terms: &'t Terms) -> Result<(&'t RuleName, RuleTerms), Denial> {
        let permitted = |rule: &RuleName| self.options.rules.as_ref().is_none_or(|rules| rules.contains(rule));
        let Some(rule) = &request.rule else {
            let mut possible = terms.rules.iter().filter(|(rule, _)| permitted(rule));
            return match (possible.next(), possible.count()) {
                (Some((rule, &rule_terms)), 0) => Ok((rule, rule_terms)),
                (first, more) => Err(Denial::RuleNotNamed { count: usize::from(first.is_some()) + more }),
            };
        };
        if !permitted(rule) {
            return Err(Denial::RuleNotPermitted { rule: rule.clone() });
        }
        let found = terms.rules.get_key_value(rule).map(|(rule, &rule_terms)| (rule, rule_terms));
        found.ok_or_else(|| Denial::UnknownRule { rule: rule.clone() })
    }
}

impl Terms {
    /// Whether the time of a packet is in the window.
    pub fn is_in_window(&self, time: UnixTime, now: UnixTime) -> bool {
        time.is_within(self.window, now)
    }
}

fn check_clock(time: UnixTime, now: UnixTime, window: Duration) -> Result<(), Denial> {
    if time.is_within(window, now) {
        return Ok(());
    }
    Err(match time > now {
        true => Denial::ClockAhead { by: time.since(now) },
        false => Denial::ClockBehind { by: now.since(time) },
    })
}
