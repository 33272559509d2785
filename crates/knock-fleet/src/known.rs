//! What a node knows of grants and revocations, its own and those of others: a later time wins, and a tie revokes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use knock_spa::{NONCE_LENGTH, RuleName, UnixTime};

use crate::node_key::NodeId;
use crate::peer::{Act, Identity, PeerRule, PeerUser, Verified, remainder};
use crate::record::Record;
use crate::refused::Refused;
use crate::subject::Subject;

/// The most grants, and the most revocations, that are remembered.
pub const KNOWN_MAX: usize = 1 << 18;
/// The most grants of one subject that are remembered.
const HELD_MAX: usize = 8;
/// How often what is over is forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// How long a revocation is kept beyond the end of what it ends: clocks of nodes differ.
const MARGIN: Duration = Duration::from_secs(10);

/// What follows from a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A grant begins, or is extended.
    Grant(PeerGrant),
    /// Grants end.
    Revoke(PeerRevocation),
}

/// A grant that another node has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerGrant {
    /// The name of the node.
    pub node: Arc<str>,
    /// The node, where the grant rests on its word.
    pub voucher: Option<NodeId>,
    /// Who signed the packet, if it is one.
    pub user: Option<PeerUser>,
    /// The rule.
    pub rule: RuleName,
    /// The address.
    pub address: IpAddr,
    /// Whether for the prefix of the address.
    pub wide: bool,
    /// What is left of it, by the clock of this node.
    pub lifetime: Duration,
}

/// A revocation by another node, or by a user through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRevocation {
    /// The name of the node.
    pub node: Arc<str>,
    /// Who signed the packet, if it is one.
    pub user: Option<PeerUser>,
    /// All grants that overlap with one of these end.
    pub subjects: Vec<Subject>,
    /// Among them were some that were accepted after the revocation: these begin again.
    pub again: Vec<PeerGrant>,
}

/// A grant that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The name of the node that made it.
    pub node: Arc<str>,
    /// The node, where the grant rests on its word; `None`: a client has signed for it, or this node made it.
    pub voucher: Option<NodeId>,
    /// Who signed the packet, if it was one.
    pub user: Option<PeerUser>,
    /// The address.
    pub address: IpAddr,
    /// Whether for the prefix of the address.
    pub wide: bool,
    /// When it was accepted.
    pub time: UnixTime,
    /// When it ends.
    pub end: UnixTime,
}

/// A revocation, and until when it has to be known.
#[derive(Clone, Copy, Debug)]
struct Noted {
    time: UnixTime,
    until: UnixTime,
}

/// A grant whose record was here.
#[derive(Clone, Copy, Debug)]
struct Met {
    /// Until when it has to be known.
    until: UnixTime,
    /// Keys or rules have changed since: what its record is worth is to be decided again.
    undecided: bool,
}

/// The grants and revocations that are known.
#[derive(Clone, Debug)]
pub struct Known {
    identities: HashMap<Identity, Met>,
    /// How many of these each node alone has vouched for.
    vouched: HashMap<NodeId, usize>,
    /// Those of each subject of which none is both later and longer than another one.
    grants: BTreeMap<Subject, Vec<Held>>,
    /// The latest of each subject.
    revocations: BTreeMap<Subject, Noted>,
    /// What was accepted up to then is refused, for there was no room for all revocations.
    floor: Option<UnixTime>,
    forgotten: UnixTime,
    room: usize,
}

impl Default for Known {
    fn default() -> Known {
        Known::with_room(KNOWN_MAX)
    }
}

impl Known {
    /// Remembers that many grants and as many revocations.
    pub fn with_room(room: usize) -> Known {
        let (identities, vouched, grants, revocations) = Default::default();
        Known { identities, vouched, grants, revocations, floor: None, forgotten: UnixTime::from_millis(0), room }
    }

    /// Whether the grant of a record is known. It need not be verified then: nothing would follow from it.
    pub fn has(&self, record: &Record) -> bool {
        Identity::of(record).is_some_and(|identity| self.is_decided(&identity))
    }

    fn is_decided(&self, identity: &Identity) -> bool {
        self.identities.get(identity).is_some_and(|met| !met.undecided)
    }

    /// Whether a node has accepted the packet with that nonce, whatever became of it since.
    pub fn has_packet(&self, nonce: &[u8; NONCE_LENGTH]) -> bool {
        self.identities.contains_key(&Identity::Packet(*nonce))
    }

    /// Decides what follows from a record, and remembers it.
    ///
    /// # Errors
    ///
    /// Why nothing does.
    pub fn admit(&mut self, verified: Verified, now: UnixTime) -> Result<Action, Refused> {
        self.forget(now);
        let Verified { node, voucher, user, address, wide, time, act } = verified;
        match act {
            Act::Grant { identity, subject, rule, end, forget } => {
                if self.is_decided(&identity) {
                    return Err(Refused::Known);
                }
                if let Identity::Packet(nonce) = identity
                    && forget > now
                {
                    // Also of what is revoked or over: its packet must not be used again, at this node.
                    self.accepted(nonce, forget);
                }
                if self.is_revoked(&subject, rule, time) {
                    return Err(Refused::Revoked);
                }
                let lifetime = remainder(end, now, rule.lifetime).ok_or(Refused::Ended)?;
                let is_new = !self.identities.contains_key(&identity);
                let has_room = !is_new || (self.identities.len() < self.room && !self.has_its_share(&identity));
                if !has_room || self.grants.len() >= self.room {
                    return Err(Refused::Full);
                }
                if let (true, Identity::OfNode(node, _)) = (is_new, &identity) {
                    *self.vouched.entry(*node).or_default() += 1;
                }
                self.identities.insert(identity, Met { until: forget, undecided: false });
                let name = subject.rule().clone();
                let held = Held { node: node.clone(), voucher, user: user.clone(), address, wide, time, end };
                self.granted(subject, held);
                Ok(Action::Grant(PeerGrant { node, voucher, user, rule: name, address, wide, lifetime }))
            }
            Act::Revoke { revoked, packet } => {
                if let Some((identity, forget)) = packet {
                    self.identify(identity, forget);
                }
                self.admit_revocation(node, user, time, revoked, now).map(Action::Revoke)
            }
        }
    }

    fn admit_revocation(
        &mut self,
        node: Arc<str>,
        user: Option<PeerUser>,
        time: UnixTime,
        revoked: Vec<(Subject, PeerRule)>,
        now: UnixTime,
    ) -> Result<PeerRevocation, Refused> {
        let (mut subjects, mut again) = (Vec::new(), Vec::new());
        let mut refused = Refused::Known;
        for (subject, rule) in revoked {
            // All that it could end has ended. Without this, an old one could end what was adopted at a start.
            if time.after(rule.lifetime.saturating_add(MARGIN)) <= now {
                refused = Refused::Ended;
                continue;
            }
            if self.revocations.get(&subject).is_some_and(|noted| noted.time >= time) {
                continue;
            }
            match self.revoked(subject.clone(), rule, time, now) {
                None => refused = Refused::Superseded,
                Some(rest) => {
                    subjects.push(subject);
                    again.extend(rest);
                }
            }
        }
        if subjects.is_empty() { Err(refused) } else { Ok(PeerRevocation { node, user, subjects, again }) }
    }

    /// Remembers a grant. Without room nothing happens: a revocation also ends what is not remembered.
    pub fn granted(&mut self, subject: Subject, held: Held) {
        if self.grants.len() >= self.room && !self.grants.contains_key(&subject) {
            return;
        }
        let all = self.grants.entry(subject).or_default();
        // One that is both later and longer makes another one superfluous.
        if !all.iter().any(|other| other.time >= held.time && other.end >= held.end) {
            all.retain(|other| other.time > held.time || other.end > held.end);
            if all.len() >= HELD_MAX {
                all.remove(0);
            }
            // Nearly always the only one.
            all.reserve_exact(1);
            all.push(held);
        }
    }

    /// Remembers a packet that this node has accepted, for so long that it can't be sent again.
    pub fn accepted(&mut self, nonce: [u8; NONCE_LENGTH], until: UnixTime) {
        self.identify(Identity::Packet(nonce), until);
    }

    /// Remembers a record that this node has written: it comes back from the store, and is nothing new then.
    pub fn written(&mut self, record: &Record) {
        if let Some(identity) = Identity::of(record) {
            self.identify(identity, record.end());
        }
    }

    fn identify(&mut self, identity: Identity, until: UnixTime) {
        if let Some(met) = self.identities.get_mut(&identity) {
            *met = Met { until: until.max(met.until), undecided: false };
        } else if self.identities.len() < self.room {
            self.identities.insert(identity, Met { until, undecided: false });
        }
    }

    /// Remembers a revocation. `None`: it changes nothing, for all that it would end was granted again after it. Otherwise
    /// what overlaps with the subject has to end, and these begin again.
    pub fn revoked(
        &mut self,
        subject: Subject,
        rule: PeerRule,
        time: UnixTime,
        now: UnixTime,
    ) -> Option<Vec<PeerGrant>> {
        let (mut changes, mut is_known, mut again) = (false, false, Vec::new());
        for overlapping in overlapping(&self.grants, &subject, rule) {
            let Some(all) = self.grants.get_mut(&overlapping) else { continue };
            is_known = true;
            let before = all.iter().map(|held| held.end).max();
            all.retain(|held| held.time > time);
            let longest = all.iter().max_by_key(|held| held.end);
            changes |= longest.map(|held| held.end) != before;
            again.extend(longest.and_then(|held| held.again(&overlapping, rule, now)));
            if all.is_empty() {
                self.grants.remove(&overlapping);
            }
        }
        if self.revocations.len() >= self.room && !self.revocations.contains_key(&subject) {
            // Rather refuse too much than grant what was revoked.
            let latest = self.revocations.values().map(|noted| noted.time).max();
            self.floor = self.floor.max(latest).max(Some(time));
            self.revocations.clear();
        }
        let noted = Noted { time, until: time.after(rule.lifetime.saturating_add(MARGIN)) };
        let known = self.revocations.entry(subject).or_insert(noted);
        if noted.time > known.time {
            *known = noted;
        }
        // What is not known, such as a grant that was adopted at a start, may be there.
        (changes || !is_known).then_some(again)
    }

    /// Whether a grant of that time has been revoked.
    fn is_revoked(&self, subject: &Subject, rule: PeerRule, time: UnixTime) -> bool {
        let later = |subject| self.revocations.get(&subject).is_some_and(|noted| time <= noted.time);
        self.floor.is_some_and(|floor| time <= floor)
            || overlapping(&self.revocations, subject, rule).into_iter().any(later)
    }

    /// Whether a node has vouched for as much as one node may: half of the room. One that was broken into leaves the rest to the
    /// others.
    fn has_its_share(&self, identity: &Identity) -> bool {
        match identity {
            Identity::OfNode(node, _) => self.vouched.get(node).is_some_and(|count| *count >= self.room.div_ceil(2)),
            Identity::Packet(_) => false,
        }
    }

    /// Forgets from time to time what is over.
    fn forget(&mut self, now: UnixTime) {
        if now.since(self.forgotten).max(self.forgotten.since(now)) < FORGET_EVERY {
            return;
        }
        self.forgotten = now;
        self.identities.retain(|_, met| met.until > now);
        self.vouched.clear();
        for identity in self.identities.keys() {
            if let Identity::OfNode(node, _) = identity {
                *self.vouched.entry(*node).or_default() += 1;
            }
        }
        self.grants.retain(|_, all| {
            all.retain(|held| held.end > now);
            !all.is_empty()
        });
        self.revocations.retain(|_, noted| noted.until > now);
    }

    /// The time of the last grant that overlaps with the subject: a revocation has to be of that time or later to end all.
    pub fn latest(&self, subject: &Subject, rule: PeerRule) -> Option<UnixTime> {
        let overlapping = overlapping(&self.grants, subject, rule);
        overlapping.iter().flat_map(|subject| &self.grants[subject]).map(|held| held.time).max()
    }

    /// Forgets the grants that are not permitted any more, so that none of them begins again. Records that come again are decided
    /// again: what was refused or ended may be permitted now.
    pub fn keep_only(&mut self, is_permitted: impl Fn(&Subject, &Held) -> bool) {
        self.identities.values_mut().for_each(|met| met.undecided = true);
        self.grants.retain(|subject, all| {
            all.retain(|held| is_permitted(subject, held));
            !all.is_empty()
        });
    }

    /// The grants that are known, also such as are over and not forgotten yet; those of a rule in a row.
    pub fn grants(&self) -> impl Iterator<Item = (&Subject, &Held)> {
        self.grants.iter().flat_map(|(subject, all)| all.iter().map(move |held| (subject, held)))
    }

    /// How many grants and how many revocations are remembered.
    pub fn len(&self) -> (usize, usize) {
        (self.identities.len(), self.revocations.len())
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}

impl Held {
    /// What is left of it; `None`: nothing.
    fn again(&self, subject: &Subject, rule: PeerRule, now: UnixTime) -> Option<PeerGrant> {
        let lifetime = remainder(self.end, now, rule.lifetime)?;
        let Held { node, voucher, user, address, wide, .. } = self.clone();
        Some(PeerGrant { node, voucher, user, rule: subject.rule().clone(), address, wide, lifetime })
    }
}

/// Those that have an address in common with the subject: inside of it, and the prefix around it.
fn overlapping<T>(map: &BTreeMap<Subject, T>, subject: &Subject, rule: PeerRule) -> Vec<Subject> {
    let bound = |first, length| Subject { rule: subject.rule.clone(), first, length };
    let inside = map.range(bound(subject.first, 0)..=bound(subject.last(), u8::MAX)).map(|(inside, _)| inside.clone());
    let around = subject.widened(rule.length(subject.first));
    let around = Some(around).filter(|around| around.first != subject.first && map.contains_key(around));
    inside.chain(around).collect()
}
