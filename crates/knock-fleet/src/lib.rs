//! A fleet: nodes that share their grants, so that one knock opens on all of them.
//!
//! `docs/fleet-protocol.md` is the reference. A node writes each of its grants as a [`Record`] and signs it. A store that
//! nobody has to trust carries records to the other nodes. There a [`Peer`] decides what a record proves, and [`Known`]
//! whether it still matters: nothing that the store or another node sends makes, changes or lengthens a grant beyond what
//! the [`Trust`] table allows.
//!
//! Everything here is pure: no I/O, no clock, no randomness.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::time::Duration;
//!
//! use knock_fleet::{Action, Known, Node, NodeKey, Peer, PeerRule, Record, Trust, What};
//! use knock_spa::UnixTime;
//!
//! let realm = "web.example.com".parse()?;
//! let now = UnixTime::from_millis(1_800_000_000_000);
//! let web1 = NodeKey::from_seed([1; 32]);
//! let record = Record {
//!     what: What::Sequence { grant: [5; 16] },
//!     wide: false,
//!     lifetime: 600.try_into()?,
//!     time: now,
//!     address: "192.0.2.7".parse()?,
//!     rule: Some("ssh".parse()?),
//!     node: web1.id(),
//!     counter: 1,
//! };
//! let bytes = record.sign(&web1, &realm);
//!
//! let node = Node { name: "web1".into(), key: web1.public(), vouch: ["ssh".parse()?].into() };
//! let rule = PeerRule { lifetime: Duration::from_secs(600), prefixes: (32, 128) };
//! let peer = Peer {
//!     trust: Trust::new(&realm, vec![node])?,
//!     packets: None,
//!     rules: BTreeMap::from([("ssh".parse()?, rule)]),
//! };
//! let mut known = Known::default();
//! let later = UnixTime::from_millis(now.as_millis() + 60_000);
//! let Action::Grant(grant) = known.admit(peer.verify(&bytes, later)?, later)? else { panic!("a grant") };
//! assert_eq!(grant.lifetime, Duration::from_secs(540));
//! assert!(known.admit(peer.verify(&bytes, later)?, later).is_err(), "it is already known");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod author;
mod known;
pub mod link;
mod node_key;
mod peer;
mod record;
mod refused;
mod subject;
mod trust;

pub use author::{Author, Statement};
pub use known::{Action, Held, KNOWN_MAX, Known, PeerGrant, PeerRevocation};
pub use node_key::{NodeId, NodeKey, NodeKeyError, NodePublicKey};
pub use peer::{Packets, Peer, PeerRule, PeerUser, Verified};
pub use record::{GrantId, Proof, RECORD_LENGTH, Record, RecordError, What};
pub use refused::Refused;
pub use subject::Subject;
pub use trust::{Node, Trust, TrustError};
