//! Writes the records of this node.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use knock_spa::{Fingerprint, Realm, RuleName, SignedRequest, UnixTime};

use crate::link::RecordBytes;
use crate::node_key::{NodeId, NodeKey};
use crate::record::{GrantId, Proof, Record, What};

/// How much longer than the grants of a rule its revocations are kept: the store has them in front of what they end.
const MARGIN: Duration = Duration::from_secs(10);

/// A grant, or a revocation, of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The rule.
    pub rule: RuleName,
    /// The address.
    pub address: IpAddr,
    /// Whether for the prefix of the address.
    pub wide: bool,
    /// When it was accepted.
    pub time: UnixTime,
    /// How long the grant lasts; of a revocation, how long grants of the rule last at most.
    pub lifetime: Duration,
}

/// Signs what this node says.
#[derive(Debug)]
pub struct Author {
    key: NodeKey,
    realm: Realm,
    counter: u64,
}

impl Author {
    /// A node with that key in the fleet of that realm. `counter` must be greater than in any record before: microseconds since
    /// 1970 are.
    pub fn new(key: NodeKey, realm: Realm, counter: u64) -> Author {
        Author { key, realm, counter }
    }

    /// How records name this node.
    pub fn id(&self) -> NodeId {
        self.key.id()
    }

    /// A signed packet has opened a rule. `named`: the packet names the address.
    pub fn packet(
        &mut self,
        granted: Statement,
        fingerprint: Fingerprint,
        request: SignedRequest,
        named: bool,
    ) -> RecordBytes {
        self.sign(What::Packet(Box::new(Proof { fingerprint, request, observed: !named })), granted)
    }

    /// A signed packet has closed a rule.
    pub fn closing_packet(
        &mut self,
        mut closed: Statement,
        fingerprint: Fingerprint,
        request: SignedRequest,
        named: bool,
    ) -> RecordBytes {
        closed.lifetime = closed.lifetime.saturating_add(MARGIN);
        self.packet(closed, fingerprint, request, named)
    }

    /// A sequence was completed. `grant` has to be random.
    pub fn sequence(&mut self, granted: Statement, grant: GrantId) -> RecordBytes {
        self.sign(What::Sequence { grant }, granted)
    }

    /// A user of the control socket has granted. `grant` has to be random.
    pub fn manual(&mut self, granted: Statement, grant: GrantId) -> RecordBytes {
        self.sign(What::Manual { grant }, granted)
    }

    /// A grant was revoked.
    pub fn revocation(&mut self, mut revoked: Statement) -> RecordBytes {
        revoked.lifetime = revoked.lifetime.saturating_add(MARGIN);
        self.sign(What::Revocation, revoked)
    }

    /// All grants to an address were revoked, which last no longer than `lifetime`.
    pub fn revocation_of_all(&mut self, address: IpAddr, time: UnixTime, lifetime: Duration) -> RecordBytes {
        let lifetime = seconds(lifetime.saturating_add(MARGIN));
        self.write(Record { lifetime, ..self.record(What::Revocation, None, address, time) })
    }

    fn sign(&mut self, what: What, of: Statement) -> RecordBytes {
        let record = self.record(what, Some(of.rule), of.address, of.time);
        self.write(Record { lifetime: seconds(of.lifetime), wide: of.wide, ..record })
    }

    fn record(&self, what: What, rule: Option<RuleName>, address: IpAddr, time: UnixTime) -> Record {
        let (node, counter) = (self.key.id(), self.counter);
        Record {
            what,
            wide: false,
            lifetime: NonZeroU32::MIN,
            time,
            address: address.to_canonical(),
            rule,
            node,
            counter,
        }
    }

    fn write(&mut self, record: Record) -> RecordBytes {
        self.counter += 1;
        record.sign(&self.key, &self.realm)
    }
}

/// Rounded down, so that no record is longer than the client has signed, but not to nothing.
fn seconds(lifetime: Duration) -> NonZeroU32 {
    let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
    NonZeroU32::new(seconds).unwrap_or(NonZeroU32::MIN)
}
