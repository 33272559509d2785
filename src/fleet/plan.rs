//! What the fleet needs from the configuration, and from the file of the node's key.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use knock_config::{Config, OnOutage};
use knock_fleet::link::{Settings, Tls};
use knock_fleet::{Node, NodeId, NodeKey, NodeKeyError, Packets, Peer, PeerRule, Trust, TrustError};
use knock_grant::Vouchers;
use knock_proto::RuleId;
use knock_spa::{AuthorizedKey, Realm, RuleName};
use sha2::{Digest, Sha256};

use crate::os::trusted::{Owners, Untrusted};
use crate::triggers::signed_packets::plan::SignedPlan;

/// The biggest key file that is read.
const FILE_MAX: u64 = 4096;
/// For how long a claim lasts where no packets are accepted.
const NO_WINDOW: Duration = Duration::from_secs(60);

/// What the fleet needs.
pub(crate) struct FleetPlan {
    pub(super) realm: Realm,
    pub(super) key: NodeKey,
    /// The name of this node in the table of nodes.
    pub(super) name: Arc<str>,
    pub(super) peer: Arc<Peer>,
    /// The nodes, in the order of the configuration; the peer has the rest of them.
    pub(super) nodes: Vec<NodeId>,
    pub(super) settings: Settings,
    pub(super) publish: BTreeSet<RuleName>,
    pub(super) on_outage: OnOutage,
    /// How far the time of a packet may be from the clock.
    pub(super) window: Duration,
}

/// The fleet can't be used. No message has any part of a private key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    /// The key can't be read.
    #[error("{}: cannot read the key of this node: {error}; make one with: knockctl fleet keygen", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// Others can change it.
    #[error("{0}")]
    Untrusted(Untrusted),
    /// Others than its owner can read it.
    #[error("{}: others may read the key of this node (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// It holds no key.
    #[error("{}: {error}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: NodeKeyError,
    },
    /// This node is not in the table.
    #[error(
        "fleet.nodes has no node with the key of this host, {key}, which is in {}; add it on every host of the fleet: {{\"name\": \
         \"…\", \"key\": \"{key}\"}}",
        path.display()
    )]
    NotANode {
        /// The file.
        path: PathBuf,
        /// The public key.
        key: String,
    },
    /// Two nodes can't be told apart.
    #[error("fleet.nodes: {0}")]
    Trust(#[from] TrustError),
}

impl FleetPlan {
    /// Reads the key of the node, which must be of these owners; `None` where the configuration has no `fleet`.
    ///
    /// # Errors
    ///
    /// Where the key can't be used or trusted, or is none of the fleet.
    pub(crate) fn load(
        config: &Config,
        signed: Option<&SignedPlan>,
        owners: Owners,
    ) -> Result<Option<FleetPlan>, FleetError> {
        let Some(fleet) = &config.fleet else { return Ok(None) };
        let key = read_key(&fleet.node_key, owners)?;
        let node = |node: &knock_config::FleetNode| Node {
            name: node.name.clone(),
            key: node.key.clone(),
            vouch: node.vouch.clone(),
        };
        let nodes: Vec<Node> = fleet.nodes.iter().map(node).collect();
        let ids = nodes.iter().map(|node| node.key.id()).collect();
        let packets = signed.zip(config.spa.as_ref()).map(|(plan, spa)| plan.packets(spa));
        let rules = rules(config);
        let digest = digest(config, &nodes, &rules, packets.as_ref());
        let trust = Trust::new(&fleet.realm, nodes)?;
        let Some(this) = trust.node(key.id()) else {
            return Err(FleetError::NotANode { path: fleet.node_key.clone(), key: key.public().to_string() });
        };
        let name = this.name.clone();
        let window = config.spa.as_ref().map_or(NO_WINDOW, |spa| spa.window);
        let settings = Settings {
            realm: fleet.realm.to_string(),
            node: key.id().to_string(),
            servers: fleet.servers.clone(),
            read_from: fleet.read_from.clone(),
            tls: fleet.tls.as_ref().map(|tls| Tls { ca: tls.ca.clone() }),
            user: fleet.user.clone(),
            password_file: fleet.password_file.clone(),
            digest,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let publish = fleet.publish.iter().filter_map(|rule| rule.as_str().parse().ok()).collect();
        let peer = Arc::new(Peer { trust, packets, rules });
        let (realm, on_outage) = (fleet.realm.clone(), fleet.on_outage);
        Ok(Some(FleetPlan { realm, key, name, peer, nodes: ids, settings, publish, on_outage, window }))
    }

    /// For the grant manager: the rules for which the word of each node is enough.
    pub(crate) fn vouchers(&self) -> Vouchers {
        let rules = |node: &Node| node.vouch.iter().map(|rule| RuleId::from(rule.as_str())).collect::<HashSet<_>>();
        let nodes = self.nodes.iter().filter_map(|id| Some((*id, rules(self.peer.trust.node(*id)?))));
        Vouchers { fleet: true, nodes: nodes.collect::<HashMap<NodeId, _>>() }
    }
}

/// The rules that can be granted.
fn rules(config: &Config) -> BTreeMap<RuleName, PeerRule> {
    let of_rule = |rule: &knock_config::Rule| {
        let allow = rule.allow.as_ref()?;
        let terms = PeerRule { lifetime: allow.timeout(), prefixes: allow.prefixes() };
        // Names of rules are checked by the configuration.
        Some((rule.name.as_str().parse().ok()?, terms))
    };
    config.rules.iter().filter_map(of_rule).collect()
}

/// The digest of what decides on records, in hexadecimal: with the same on two nodes, both grant the same.
fn digest(config: &Config, nodes: &[Node], rules: &BTreeMap<RuleName, PeerRule>, packets: Option<&Packets>) -> String {
    let mut nodes: Vec<String> = nodes.iter().map(|node| format!("node {} {:?}\n", node.key, node.vouch)).collect();
    nodes.sort_unstable();
    let mut text = nodes.concat();
    for (name, PeerRule { lifetime, prefixes }) in rules {
        let _ = writeln!(text, "rule {name} {} {prefixes:?}", lifetime.as_millis());
    }
    if let (Some(packets), Some(spa)) = (packets, &config.spa) {
        let _ = writeln!(text, "realm {} {}", spa.realm, packets.terms.window.as_millis());
        for (name, terms) in &packets.terms.rules {
            let _ = writeln!(text, "packets {name} {} {}", terms.lifetime.as_millis(), terms.wide);
        }
        let mut keys: Vec<String> = packets.verifier.keys().iter().map(key_line).collect();
        keys.sort_unstable();
        text.push_str(&keys.concat());
    }
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_line(key: &AuthorizedKey) -> String {
    let options = &key.options;
    let from = options.from.as_ref().map(ToString::to_string);
    let expires = options.expires.map(knock_spa::UnixTime::as_millis);
    format!(
        "key {} {from:?} {expires:?} {:?} {:?} {:?} {}\n",
        key.key.fingerprint(),
        options.presence,
        options.rules,
        options.address,
        options.wide
    )
}

fn read_key(path: &Path, owners: Owners) -> Result<NodeKey, FleetError> {
    let (content, mode) = owners.read_secret(path, FILE_MAX).map_err(|untrusted| match untrusted {
        Untrusted::Io(error) => FleetError::Read { path: path.to_owned(), error },
        untrusted => FleetError::Untrusted(untrusted),
    })?;
    if mode & 0o004 != 0 {
        return Err(FleetError::Readable { path: path.to_owned(), mode });
    }
    NodeKey::from_file(&content).map_err(|error| FleetError::Key { path: path.to_owned(), error })
}
