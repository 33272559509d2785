//! What happens to grants.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use knock_fleet::{NodeId, Proof};
use knock_proto::{Prefix, RuleId};
use log::Level;

use crate::signer::User;
use crate::{Error, Grant, Place};

/// Why a grant begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The address knocked the rule's sequence.
    Knock,
    /// The address knocked a one-time sequence of the rule.
    OneTime,
    /// The address knocked the sequence of another rule, which revokes this one.
    Rule(RuleId),
    /// A signed packet asked for it.
    Packet {
        /// Of whom.
        user: User,
        /// Whether for the prefix of the address that the policy says, and not for the address alone.
        wide: bool,
        /// What other nodes of the fleet need to believe it.
        proof: Arc<Proof>,
    },
    /// Another node of the fleet has granted it, or revoked it.
    Node {
        /// The name of the node.
        node: Arc<str>,
        /// The node, where the grant rests on its word; `None`: a client has signed for it.
        voucher: Option<NodeId>,
        /// The user who asked for it with a signed packet.
        user: Option<User>,
        /// Whether for the prefix of the address.
        wide: bool,
    },
    /// A user of the control socket asked for it.
    Operator {
        /// The user's id.
        uid: u32,
    },
    /// The rule is gone from the configuration, or has no `allow` any more; or the key that asked for the grant is gone, or may
    /// not ask for the rule any more; or the word of the node that it rests on is not enough any more.
    Reload,
    /// `limits.grants` is lower than before.
    Limit,
}

impl Cause {
    /// The user who signed for it.
    pub fn user(&self) -> Option<&User> {
        match self {
            Cause::Packet { user, .. } => Some(user),
            Cause::Node { user, .. } => user.as_ref(),
            _ => None,
        }
    }

    /// A short name for programs: `knock`, `one-time`, `packet`, `node NAME`, `rule NAME`, `uid N`, `reload` or `limit`.
    pub fn label(&self) -> String {
        match self {
            Cause::Knock => "knock".to_owned(),
            Cause::OneTime => "one-time".to_owned(),
            Cause::Packet { .. } => "packet".to_owned(),
            Cause::Node { node, .. } => format!("node {node}"),
            Cause::Rule(rule) => format!("rule {rule}"),
            Cause::Operator { uid } => format!("uid {uid}"),
            Cause::Reload => "reload".to_owned(),
            Cause::Limit => "limit".to_owned(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Knock => f.write_str("knock"),
            Cause::OneTime => f.write_str("one-time sequence"),
            Cause::Packet { user, .. } => write!(f, "signed by {}", user.name),
            Cause::Node { node, user: Some(user), .. } => write!(f, "signed by {}, from node {node}", user.name),
            Cause::Node { node, user: None, .. } => write!(f, "from node {node}"),
            Cause::Rule(rule) => rule.fmt(f),
            Cause::Operator { uid } => write!(f, "by uid {uid}"),
            Cause::Reload => f.write_str("reload"),
            Cause::Limit => f.write_str("no room under limits.grants"),
        }
    }
}

/// A change of a grant or of an element: the only way to learn of it. Displayed, it is a line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantEvent {
    /// A grant begins.
    Granted {
        /// The grant.
        grant: Grant,
        /// Why.
        cause: Cause,
    },
    /// A live grant was granted again, and lasts longer.
    Extended {
        /// The grant, with its new end.
        grant: Grant,
        /// Why.
        cause: Cause,
    },
    /// A grant could not begin or be extended.
    NotGranted {
        /// The rule.
        rule: RuleId,
        /// The address.
        address: IpAddr,
        /// Why it was to be granted.
        cause: Cause,
        /// Why it was not.
        error: Error,
    },
    /// A grant ended before its time.
    Revoked {
        /// The grant.
        grant: Grant,
        /// Why.
        cause: Cause,
    },
    /// A grant could not be revoked, and is live.
    NotRevoked {
        /// The rule.
        rule: RuleId,
        /// The address.
        address: IpAddr,
        /// Why not.
        error: Error,
    },
    /// A grant was to be revoked that there is not.
    NothingToRevoke {
        /// The rule.
        rule: RuleId,
        /// The address.
        address: IpAddr,
        /// Why it was to be revoked.
        cause: Cause,
    },
    /// The time of a grant was over, and it has ended.
    Expired {
        /// The grant.
        grant: Grant,
    },
    /// The time of a grant is over, but its elements could not be deleted.
    NotExpired {
        /// The grant.
        grant: Grant,
        /// After this time it is tried again.
        pause: Duration,
        /// Why not.
        error: Error,
    },
    /// A stray element was found and deleted.
    Stray {
        /// The rule whose name it bears.
        rule: Option<RuleId>,
        /// Its address or prefix.
        prefix: Prefix,
        /// Where it stood: `22/tcp in table inet knockd`, `set inet filter ssh4`.
        place: String,
    },
    /// Stray elements were deleted by a revocation.
    RevokedStrays {
        /// How many.
        count: usize,
        /// The rule, where one rule was revoked.
        rule: Option<RuleId>,
        /// The address, where one address was revoked.
        address: Option<IpAddr>,
        /// Why.
        cause: Cause,
    },
    /// Another program changed the managed table, and it is restored.
    TableRestored {
        /// The name of the table.
        table: String,
        /// The program that changed it.
        by: String,
    },
    /// Another program deleted elements from user sets, and they are restored.
    SetsRestored {
        /// How many.
        elements: usize,
        /// The program that deleted them.
        by: String,
    },
    /// A change by another program could not be reverted; the daemon tries again.
    NotRestored {
        /// Why not.
        error: Error,
    },
    /// Elements had a longer timeout than their grants; it was shortened.
    Shortened {
        /// How many.
        elements: usize,
    },
    /// Something else that a rule's grant met with.
    Note {
        /// How much it matters.
        level: Level,
        /// The rule.
        rule: RuleId,
        /// What.
        text: String,
    },
}

impl GrantEvent {
    /// The grant that begins, lasts longer or has ended.
    pub fn grant(&self) -> Option<&Grant> {
        match self {
            GrantEvent::Granted { grant, .. }
            | GrantEvent::Extended { grant, .. }
            | GrantEvent::Revoked { grant, .. }
            | GrantEvent::Expired { grant }
            | GrantEvent::NotExpired { grant, .. } => Some(grant),
            _ => None,
        }
    }

    /// Why it happened; `None` where time alone is the cause, or another program.
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            GrantEvent::Granted { cause, .. }
            | GrantEvent::Extended { cause, .. }
            | GrantEvent::NotGranted { cause, .. }
            | GrantEvent::Revoked { cause, .. }
            | GrantEvent::NothingToRevoke { cause, .. }
            | GrantEvent::RevokedStrays { cause, .. } => Some(cause),
            _ => None,
        }
    }

    /// The rule that it is about.
    pub fn rule(&self) -> Option<&RuleId> {
        match self {
            GrantEvent::Granted { grant, .. }
            | GrantEvent::Extended { grant, .. }
            | GrantEvent::Revoked { grant, .. }
            | GrantEvent::Expired { grant }
            | GrantEvent::NotExpired { grant, .. } => Some(&grant.rule),
            GrantEvent::NotGranted { rule, .. }
            | GrantEvent::NotRevoked { rule, .. }
            | GrantEvent::NothingToRevoke { rule, .. }
            | GrantEvent::Note { rule, .. } => Some(rule),
            GrantEvent::Stray { rule, .. } | GrantEvent::RevokedStrays { rule, .. } => rule.as_ref(),
            GrantEvent::TableRestored { .. }
            | GrantEvent::SetsRestored { .. }
            | GrantEvent::NotRestored { .. }
            | GrantEvent::Shortened { .. } => None,
        }
    }

    /// The address that it is about.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            GrantEvent::Granted { grant, .. }
            | GrantEvent::Extended { grant, .. }
            | GrantEvent::Revoked { grant, .. }
            | GrantEvent::Expired { grant }
            | GrantEvent::NotExpired { grant, .. } => Some(grant.address),
            GrantEvent::NotGranted { address, .. }
            | GrantEvent::NotRevoked { address, .. }
            | GrantEvent::NothingToRevoke { address, .. } => Some(*address),
            GrantEvent::Stray { prefix, .. } => Some(prefix.address()),
            GrantEvent::RevokedStrays { address, .. } => *address,
            _ => None,
        }
    }

    pub(crate) fn stray(rule: Option<RuleId>, prefix: Prefix, place: &Place, table: &str) -> GrantEvent {
        let place = match place {
            Place::Table(access) => format!("{access} in table inet {table}"),
            Place::Set(set) => format!("set {set}"),
        };
        GrantEvent::Stray { rule, prefix, place }
    }
}

impl fmt::Display for GrantEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// ` (by uid 0)` where it was not a knock.
        fn by(cause: &Cause) -> String {
            if matches!(cause, Cause::Knock | Cause::OneTime) { String::new() } else { format!(" ({cause})") }
        }
        /// To a tenth: of a grant of another node, some milliseconds are over.
        fn seconds(timeout: Duration) -> f64 {
            (timeout.as_secs_f64() * 10.0).round() / 10.0
        }
        match self {
            GrantEvent::Granted { grant: Grant { rule, prefix, timeout, .. }, cause } => {
                write!(f, "rule {rule}: granted to {prefix}, {} s{}", seconds(*timeout), by(cause))
            }
            GrantEvent::Extended { grant: Grant { rule, prefix, timeout, .. }, cause } => {
                write!(f, "rule {rule}: extended for {prefix}, {} s{}", seconds(*timeout), by(cause))
            }
            GrantEvent::NotGranted { rule, address, cause, error } => {
                write!(f, "rule {rule}: not granted to {address}{}: {error}", by(cause))
            }
            GrantEvent::Revoked { grant: Grant { rule, prefix, .. }, cause } => {
                write!(f, "rule {rule}: the grant to {prefix} is revoked ({cause})")
            }
            GrantEvent::NotRevoked { rule, address, error } => {
                write!(f, "rule {rule}: the grant to {address} could not be revoked: {error}")
            }
            GrantEvent::NothingToRevoke { rule, address, cause } => {
                write!(f, "rule {rule}: {address} has no grant to revoke ({cause})")
            }
            GrantEvent::Expired { grant: Grant { rule, prefix, .. } } => {
                write!(f, "rule {rule}: the grant to {prefix} has ended")
            }
            GrantEvent::NotExpired { grant: Grant { rule, prefix, .. }, pause, error } => write!(
                f,
                "rule {rule}: the grant to {prefix} has expired, but its access may still be open, because it could not be \
                 removed; trying again in {} s: {error}",
                pause.as_secs()
            ),
            GrantEvent::Stray { rule, prefix, place } => {
                let of = rule.as_ref().map_or(String::new(), |rule| format!(" of rule {rule}"));
                write!(f, "deleted a stray element{of}, which belongs to no grant: {prefix}, {place}")
            }
            GrantEvent::RevokedStrays { rule: Some(rule), address: Some(address), cause, .. } => {
                write!(f, "rule {rule}: {address} had access without a grant; the access is removed ({cause})")
            }
            GrantEvent::RevokedStrays { count, address, cause, .. } => {
                let of = address.map_or(String::new(), |address| format!(" of {address}"));
                write!(f, "deleted {count} stray elements{of}, which belong to no grant ({cause})")
            }
            GrantEvent::TableRestored { table, by } => {
                write!(f, "table inet {table} was changed by {by}; it is restored with its live grants")
            }
            GrantEvent::SetsRestored { elements, by } => {
                write!(f, "{by} removed {elements} live grants from user sets; they are restored")
            }
            GrantEvent::NotRestored { error } => {
                write!(f, "the gate may be open or incomplete; trying again: {error}")
            }
            GrantEvent::Shortened { elements } => {
                write!(f, "{elements} elements had a longer timeout than their grants; knockd shortened it")
            }
            GrantEvent::Note { text, .. } => f.write_str(text),
        }
    }
}
