//! The object `fleet` as the file writes it.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::OnOutage;

/// The nodes that share their grants, and the store that they share them through. It is the same on every node.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schemars(rename = "fleet")]
pub(crate) struct RawFleet {
    /// The name that the nodes have in common, as in "web.example.com".
    #[schemars(required, regex(pattern = r"^[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?$"))]
    pub(crate) realm: Option<String>,
    /// The servers of the store, each a host and a port: "store.example.com:6379". The first that accepts records is used.
    #[schemars(required, length(min = 1, max = 8), inner(regex(pattern = r"^\S+:[0-9]{1,5}$")))]
    pub(crate) servers: Option<Vec<String>>,
    /// The servers that records are read from, such as replicas. Default: `servers`.
    #[schemars(length(max = 8), inner(regex(pattern = r"^\S+:[0-9]{1,5}$")))]
    pub(crate) read_from: Option<Vec<String>>,
    /// Connections to the store are encrypted. Default: they are not.
    pub(crate) tls: Option<RawFleetTls>,
    /// The user of the store. Default: the store's own default user.
    #[schemars(length(min = 1))]
    pub(crate) user: Option<String>,
    /// The absolute path of the file of the password, one line.
    pub(crate) password_file: Option<String>,
    /// The absolute path of the file of this node's private key. `knockctl fleet keygen` makes it.
    #[schemars(extend("default" = "/etc/knockd/node.key"))]
    pub(crate) node_key: Option<String>,
    /// The nodes, this one too.
    #[schemars(required, length(min = 1, max = 10_000))]
    pub(crate) nodes: Option<Vec<RawFleetNode>>,
    /// The names of the rules whose grants the other nodes get. Default: all rules with `allow`.
    pub(crate) publish: Option<Vec<String>>,
    /// What becomes of a signed packet that names no address while the store is away: "grant" grants it on this node,
    /// "refuse" does not, because nobody can say whether another node has accepted the same packet.
    #[schemars(extend("default" = "grant"))]
    pub(crate) on_outage: Option<OnOutage>,
}

/// How connections to the store are encrypted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schemars(rename = "fleet_tls")]
pub(crate) struct RawFleetTls {
    /// The absolute path of the file of the authority whose certificates are accepted. Default: those of the system.
    pub(crate) ca: Option<String>,
}

/// A node of the fleet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schemars(rename = "fleet_node")]
pub(crate) struct RawFleetNode {
    /// The name, unique among the nodes: letters, digits, `_`, `.` and `-`.
    #[schemars(required, regex(pattern = r"^[A-Za-z0-9_.-]{1,64}$"))]
    pub(crate) name: Option<String>,
    /// The public key, as `knockctl fleet keygen` prints it.
    #[schemars(required, regex(pattern = r"^ed25519:[A-Za-z0-9+/]{43}=$"))]
    pub(crate) key: Option<String>,
    /// The names of the rules for which the word of this node is enough: grants by a sequence, by hand, or by a signed
    /// packet that names no address. Default: none, only addresses that a user has signed are granted.
    pub(crate) vouch: Option<Vec<String>>,
}
