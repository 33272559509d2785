//! What a record of another node proves, by the keys and rules of this one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use knock_spa::{Action, Fingerprint, NONCE_LENGTH, RuleName, Terms, UnixTime, Verifier};

use crate::node_key::NodeId;
use crate::record::{GrantId, Proof, RECORD_LENGTH, Record, RecordError, What};
use crate::refused::Refused;
use crate::subject::Subject;
use crate::trust::{Node, Trust};

/// How far the clock of a node may be ahead.
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// The shortest grant: the kernel takes a part of a jiffy for no timeout.
const SHORTEST: Duration = Duration::from_secs(1);

/// What this node knows and demands.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The nodes.
    pub trust: Trust,
    /// For signed packets; `None`: no rule here accepts them.
    pub packets: Option<Packets>,
    /// The rules that can be granted here.
    pub rules: BTreeMap<RuleName, PeerRule>,
}

/// For signed packets of clients that other nodes have accepted.
#[derive(Clone, Debug)]
pub struct Packets {
    /// The keys of the clients.
    pub verifier: Verifier,
    /// What is demanded of packets that come here.
    pub terms: Terms,
}

/// What is demanded of the grants of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRule {
    /// The lifetime of its grants. A record may have a shorter one.
    pub lifetime: Duration,
    /// The lengths of the prefixes, IPv4 and IPv6, that wide grants of the rule are for.
    pub prefixes: (u8, u8),
}

/// Who signed a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUser {
    /// The comment of the key.
    pub name: Option<Box<str>>,
    /// The key.
    pub key: Fingerprint,
}

/// By what a grant is known when it comes again: all nodes share the nonce of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    Packet([u8; NONCE_LENGTH]),
    OfNode(NodeId, GrantId),
}

impl Identity {
    /// `None`: it is a revocation.
    pub(crate) fn of(record: &Record) -> Option<Identity> {
        match &record.what {
            What::Packet(proof) => Some(Identity::Packet(proof.request.nonce)),
            What::Sequence { grant } | What::Manual { grant } => Some(Identity::OfNode(record.node, *grant)),
            What::Revocation => None,
        }
    }
}

/// What a record proves. Whether it still matters is for [`crate::Known::admit`].
#[derive(Clone, Debug)]
pub struct Verified {
    pub(crate) node: Arc<str>,
    /// The node, where the grant rests on its word.
    pub(crate) voucher: Option<NodeId>,
    pub(crate) user: Option<PeerUser>,
    pub(crate) address: IpAddr,
    pub(crate) wide: bool,
    pub(crate) time: UnixTime,
    pub(crate) act: Act,
}

#[derive(Clone, Debug)]
pub(crate) enum Act {
    Grant {
        identity: Identity,
        subject: Subject,
        rule: PeerRule,
        end: UnixTime,
        /// From when on it need not be remembered.
        forget: UnixTime,
    },
    Revoke {
        /// With the rules whose grants it ends.
        revoked: Vec<(Subject, PeerRule)>,
        /// Where a packet closed it: what it is known by, and from when on it need not be remembered.
        packet: Option<(Identity, UnixTime)>,
    },
}

impl PeerRule {
    pub(crate) fn length(&self, address: IpAddr) -> u8 {
        if address.is_ipv4() { self.prefixes.0 } else { self.prefixes.1 }
    }
}

impl Peer {
    /// Verifies a record: all signatures, and what this node permits.
    ///
    /// # Errors
    ///
    /// Why it proves nothing here.
    pub fn verify(&self, bytes: &[u8], now: UnixTime) -> Result<Verified, Refused> {
        let record = Record::decode(bytes)?;
        let bytes: &[u8; RECORD_LENGTH] = bytes.try_into().map_err(|_| RecordError::Length { length: bytes.len() })?;
        let node = self.trust.signer(bytes, &record)?;
        let ahead = record.time.since(now);
        if ahead > AHEAD_MAX {
            return Err(Refused::Ahead { by: ahead });
        }
        match &record.what {
            What::Packet(proof) => self.packet(&record, proof, node, now),
            What::Sequence { .. } | What::Manual { .. } => self.vouched(&record, node),
            What::Revocation => self.revocation(&record, node),
        }
    }

    /// A packet that a client has signed.
    fn packet(&self, record: &Record, proof: &Proof, node: &Node, now: UnixTime) -> Result<Verified, Refused> {
        let Packets { verifier, terms } = self.packets.as_ref().ok_or(Refused::NoPackets)?;
        let fingerprint = proof.fingerprint;
        let key = verifier.key(&fingerprint).ok_or(Refused::UnknownKey { fingerprint })?;
        let request = verifier.verify(key, &proof.request)?;
        let not_as_signed = |field| Err(Refused::NotAsSigned { field });
        if proof.observed != request.address.is_none()
            || request.address.is_some_and(|address| address != record.address)
        {
            return not_as_signed("address");
        }
        if request.widen != record.wide {
            return not_as_signed("prefix");
        }
        if request.lifetime.is_some_and(|lifetime| lifetime < record.lifetime) {
            return not_as_signed("lifetime");
        }
        // When the node accepted it, the time of the client was in the window. Where a packet came from only the node knows;
        // what is granted is the address of the record.
        let decision = key.decide(&request, record.address, record.time, terms)?;
        if record.rule.as_ref() != Some(&decision.rule) {
            return not_as_signed("rule");
        }
        if proof.observed {
            vouch(node, &decision.rule)?;
        }
        if key.options.expires.is_some_and(|end| end <= now) {
            return Err(Refused::Denied(knock_spa::Denial::Expired));
        }
        let user = Some(PeerUser { name: key.user.clone(), key: fingerprint });
        let rule = self.rule(&decision.rule)?;
        let subject = self.subject(record, &decision.rule, rule)?;
        let identity = Identity::Packet(proof.request.nonce);
        // As long as the packet itself could be sent again, and longer.
        let forget = request.time.after(terms.window.saturating_mul(2));
        let act = match decision.action {
            Action::Close => Act::Revoke { revoked: vec![(subject, rule)], packet: Some((identity, forget)) },
            Action::Open { lifetime } => {
                let end = end(record, lifetime.min(rule.lifetime));
                let end = key.options.expires.map_or(end, |expires| end.min(expires));
                let forget = end.max(forget);
                Act::Grant { identity, subject, rule, end, forget }
            }
        };
        Ok(Verified { voucher: proof.observed.then_some(record.node), ..verified(record, node, user, act) })
    }

    /// What the node alone says.
    fn vouched(&self, record: &Record, node: &Node) -> Result<Verified, Refused> {
        let (Some(name), Some(identity)) = (&record.rule, Identity::of(record)) else {
            return Err(Refused::Damaged(RecordError::Rule));
        };
        let rule = self.rule(name)?;
        vouch(node, name)?;
        let subject = self.subject(record, name, rule)?;
        let end = end(record, rule.lifetime);
        let act = Act::Grant { identity, subject, rule, end, forget: end };
        Ok(Verified { voucher: Some(record.node), ..verified(record, node, None, act) })
    }

    /// Every node may revoke.
    fn revocation(&self, record: &Record, node: &Node) -> Result<Verified, Refused> {
        let revoked = match &record.rule {
            Some(name) => {
                let rule = self.rule(name)?;
                vec![(self.subject(record, name, rule)?, rule)]
            }
            None => {
                let subject =
                    |(name, &rule): (&RuleName, &PeerRule)| (Subject::of_address(name.clone(), record.address), rule);
                self.rules.iter().map(subject).collect()
            }
        };
        Ok(verified(record, node, None, Act::Revoke { revoked, packet: None }))
    }

    fn rule(&self, name: &RuleName) -> Result<PeerRule, Refused> {
        self.rules.get(name).copied().ok_or_else(|| Refused::UnknownRule { rule: name.clone() })
    }

    fn subject(&self, record: &Record, name: &RuleName, rule: PeerRule) -> Result<Subject, Refused> {
        let subject = Subject::of_address(name.clone(), record.address);
        if !record.wide {
            return Ok(subject);
        }
        let wide = subject.widened(rule.length(record.address));
        if wide == subject { Err(Refused::NotWide { rule: name.clone() }) } else { Ok(wide) }
    }
}

fn verified(record: &Record, node: &Node, user: Option<PeerUser>, act: Act) -> Verified {
    let node = node.name.clone();
    Verified { node, voucher: None, user, address: record.address, wide: record.wide, time: record.time, act }
}

fn vouch(node: &Node, rule: &RuleName) -> Result<(), Refused> {
    let vouched = node.vouch.contains(rule);
    vouched.then_some(()).ok_or_else(|| Refused::NotVouched { node: node.name.clone(), rule: rule.clone() })
}

/// When a grant ends that lasts no longer than the record says, nor than `most`.
fn end(record: &Record, most: Duration) -> UnixTime {
    record.end().min(record.time.after(most))
}

/// What is left of a grant; `None`: too little for the kernel.
pub(crate) fn remainder(end: UnixTime, now: UnixTime, most: Duration) -> Option<Duration> {
    let left = end.since(now).min(most);
    (left >= SHORTEST).then_some(left)
}
