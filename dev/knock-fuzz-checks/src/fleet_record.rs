//! A record of a fleet opens nothing that neither a client has signed nor a node may vouch for, whatever node signs it; and in
//! whatever order records come, nothing is open that was revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use knock_fleet::{
    Action, Known, Node, NodeKey, Packets, Peer, PeerGrant, PeerRule, RECORD_LENGTH, Record, Subject, Trust, What,
};
use knock_spa::{
    AuthorizedKeys, BODY_LENGTH, NONCE_LENGTH, Operation, PrivateKey, Realm, Request, RuleName, RuleTerms, Terms,
    UnixTime, Verifier,
};

use crate::import::printable;
use crate::sealer::Sealer;

const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_000);
const REALM: &str = "example.com";
const WINDOW: Duration = Duration::from_secs(60);
const SSH: PeerRule = PeerRule { lifetime: Duration::from_secs(600), prefixes: (24, 64) };
/// The bytes of a record that its client signs, and where the client's signature is.
const FINGERPRINT: usize = 128;
const NONCE: usize = 160;
const BODY: usize = 184;
const CLIENT_SIGNATURE: usize = 280;
/// The bytes of a step of [`history`].
const STEP: usize = 8;

struct Fleet {
    realm: Realm,
    /// The first vouches for ssh, the second for nothing, the third is not known.
    nodes: [NodeKey; 3],
    client: PrivateKey,
    sealer: Sealer,
    peer: Peer,
}

static FLEET: LazyLock<Fleet> = LazyLock::new(|| {
    let realm: Realm = REALM.parse().expect("a realm");
    let nodes = [[1; 32], [2; 32], [3; 32]].map(NodeKey::from_seed);
    let ssh: RuleName = "ssh".parse().expect("a name");
    let node = |at: usize, vouch: BTreeSet<RuleName>| Node { name: "web".into(), key: nodes[at].public(), vouch };
    let trust = Trust::new(&realm, vec![node(0, [ssh.clone()].into()), node(1, [].into())]).expect("two keys");
    let client = PrivateKey::from_seed([7; 32], "");
    let line = format!("wide,address=\"any\" {} alice", client.public_key());
    let keys = AuthorizedKeys::parse(line.as_bytes()).keys;
    let terms =
        Terms { window: WINDOW, rules: [(ssh.clone(), RuleTerms { lifetime: SSH.lifetime, wide: true })].into() };
    let packets = Some(Packets { verifier: Verifier::new(&realm, keys.into()), terms });
    let sealer = Sealer::new(REALM, &[9; 32], client.public_key().blob());
    Fleet { nodes, client, sealer, peer: Peer { trust, packets, rules: [(ssh, SSH)].into() }, realm }
});

/// Checks [`Record::decode`], [`Peer::verify`] and [`Known::admit`] with these bytes: as what a store delivers, as what each node
/// signs with and without the client, and as what happens in a fleet.
///
/// # Panics
///
/// Where a record has two encodings, or opens what nobody may open.
pub fn fleet_record(bytes: &[u8]) {
    assert!(FLEET.peer.verify(bytes, NOW).is_err(), "no node has signed it");
    let mut record = [0; RECORD_LENGTH];
    let length = bytes.len().min(RECORD_LENGTH);
    record[..length].copy_from_slice(&bytes[..length]);
    signed_by_nodes(&record, false);
    // Near the clock of the peer, of a key that it knows, for a rule that it has: a fuzzer does not find these.
    record[8..13].copy_from_slice(&NOW.as_millis().to_be_bytes()[..5]);
    record[32..96].fill(0);
    record[32..35].copy_from_slice(b"ssh");
    signed_by_nodes(&record, false);
    record[1] = 1;
    let (start, nonce) = record.split_at_mut(NONCE);
    start[112..128].copy_from_slice(&nonce[..16]);
    start[FINGERPRINT..].copy_from_slice(FLEET.client.public_key().fingerprint().as_bytes());
    signed_by_nodes(&record, false);
    record[BODY] = 1;
    record[BODY + 8..BODY + 13].copy_from_slice(&NOW.as_millis().to_be_bytes()[..5]);
    let nonce: [u8; NONCE_LENGTH] = record[NONCE..BODY].try_into().expect("24 bytes");
    let body: [u8; BODY_LENGTH] = record[BODY..CLIENT_SIGNATURE].try_into().expect("96 bytes");
    let signature = FLEET.client.sign(&FLEET.sealer.to_be_signed(&nonce, &body)).encode();
    record[CLIENT_SIGNATURE..][..signature.len()].copy_from_slice(&signature);
    signed_by_nodes(&record, true);
    history(bytes);
}

/// Each node signs the record.
fn signed_by_nodes(bytes: &[u8; RECORD_LENGTH], by_client: bool) {
    let Ok(record) = Record::decode(bytes).inspect_err(|error| printable(&error.to_string())) else { return };
    printable(&record.to_string());
    for (node, key) in FLEET.nodes.iter().enumerate() {
        let signed = record.sign(key, &FLEET.realm);
        // All but node and signature are as they were.
        assert_eq!((&signed[..96], &signed[104..352]), (&bytes[..96], &bytes[104..352]));
        let verified = FLEET.peer.verify(&signed, NOW);
        let action = verified.and_then(|verified| Known::default().admit(verified, NOW));
        let action = match action {
            Ok(action) => action,
            Err(refused) => {
                printable(&refused.to_string());
                continue;
            }
        };
        assert!(node < 2, "an unknown node");
        let request = match &record.what {
            What::Packet(proof) => {
                assert!(by_client, "the client has not signed it");
                Some(Request::decode(&proof.request.body).expect("a valid body"))
            }
            _ => None,
        };
        match action {
            Action::Grant(grant) => permitted(&record, &grant, request.as_ref(), node == 0),
            Action::Revoke(_) => {
                let closes = request.is_some_and(|request| request.operation == Operation::Close);
                assert!(record.what == What::Revocation || closes);
            }
        }
    }
}

/// A grant is what the client has signed or what the node may vouch for, and no longer than both and the rule say.
fn permitted(record: &Record, grant: &PeerGrant, request: Option<&Request>, vouches: bool) {
    assert!((grant.address, grant.wide, Some(&grant.rule)) == (record.address, record.wide, record.rule.as_ref()));
    assert!(grant.lifetime <= SSH.lifetime && grant.lifetime <= record.end().since(NOW).max(Duration::ZERO));
    assert!(grant.lifetime <= Duration::from_secs(record.lifetime.get().into()));
    let Some(request) = request else { return assert!(vouches, "the word of a node that may not vouch") };
    assert!(request.operation == Operation::Open && grant.wide == request.widen);
    assert!(request.address.map_or(vouches, |address| address == grant.address), "an address that nobody signed");
    assert!(request.rule.as_ref().is_none_or(|rule| *rule == grant.rule));
    let asked = request.lifetime.map_or(SSH.lifetime, |lifetime| Duration::from_secs(lifetime.get().into()));
    assert!(grant.lifetime <= asked);
    assert!(record.time.since(request.time).max(request.time.since(record.time)) <= WINDOW);
}

/// Grants and revocations of few addresses: what is open is what the model says.
fn history(bytes: &[u8]) {
    let mut known = Known::default();
    let mut open: BTreeMap<Subject, UnixTime> = BTreeMap::new();
    let mut records: Vec<Record> = Vec::new();
    let subject = |record: &Record| {
        Subject::new("ssh".parse().expect("a name"), record.address, if record.wide { 24 } else { 32 })
    };
    let begin = |open: &mut BTreeMap<Subject, UnixTime>, grant: &PeerGrant| {
        let millis = u64::try_from(grant.lifetime.as_millis()).expect("short");
        let end = UnixTime::from_millis(NOW.as_millis() + millis);
        let subject = Subject::new(grant.rule.clone(), grant.address, if grant.wide { 24 } else { 32 });
        let known = open.entry(subject).or_insert(end);
        *known = end.max(*known);
    };
    for (step, counter) in bytes.chunks_exact(STEP).take(32).zip(0u8..) {
        let grants = step[0] & 1 == 0;
        // An earlier one again, or another one.
        let record = match records.get(usize::from(step[7])) {
            Some(earlier) => earlier.clone(),
            None => Record {
                what: if grants { What::Sequence { grant: [counter; 16] } } else { What::Revocation },
                wide: step[0] & 2 != 0,
                lifetime: (100 + u32::from(step[1])).try_into().expect("not 0"),
                time: UnixTime::from_millis(NOW.as_millis() - u64::from(step[2] & 7) * 1000),
                address: [192, 0, 2, step[3] & 3].into(),
                rule: Some("ssh".parse().expect("a name")),
                node: FLEET.nodes[0].id(),
                counter: counter.into(),
            },
        };
        records.push(record.clone());
        let bytes = record.sign(&FLEET.nodes[0], &FLEET.realm);
        match known.admit(FLEET.peer.verify(&bytes, NOW).expect("valid"), NOW) {
            Ok(Action::Grant(grant)) => begin(&mut open, &grant),
            Ok(Action::Revoke(revocation)) => {
                open.retain(|open, _| !revocation.subjects.iter().any(|subject| subject.overlaps(open)));
                revocation.again.iter().for_each(|grant| begin(&mut open, grant));
            }
            Err(refused) => assert!(refused.is_expected(), "{refused}"),
        }
    }
    let revocations: Vec<&Record> = records.iter().filter(|record| record.what == What::Revocation).collect();
    let mut model: BTreeMap<Subject, UnixTime> = BTreeMap::new();
    for record in records.iter().filter(|record| record.what != What::Revocation) {
        let subject_of = subject(record);
        if !revocations.iter().any(|other| other.time >= record.time && subject(other).overlaps(&subject_of)) {
            let end = model.entry(subject_of).or_insert(record.end());
            *end = record.end().max(*end);
        }
    }
    assert_eq!(open, model);
}
