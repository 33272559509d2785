//! The base of knockd's tests and benchmarks: network namespaces, raw packets, scans, floods, probes and echo
//! servers. Nothing here is part of the product.
//!
//! All of it needs CAP_NET_ADMIN and CAP_NET_RAW, as root or in `unshare -Urnm`, and touches only namespaces that it
//! made itself.

mod arrivals;
mod delivered;
mod echo;
mod error;
mod flood;
mod latency;
mod namespace;
mod network;
mod packet;
mod probe;
mod relay;
mod reply;
mod scan;
mod store;
mod wait;
mod wire;

pub use arrivals::{Arrival, Arrivals};
pub use delivered::{Delivered, Passed};
pub use echo::Echo;
pub use error::{Error, Result};
pub use flood::{Flood, Sent};
pub use latency::{Latency, Opening, opening};
pub use namespace::{Namespace, in_namespace};
pub use network::{Host, Network, SERVER_V4, SERVER_V6};
pub use packet::{Flags, Fragment, Packet, Transport, checksum};
pub use probe::{Reach, Session, tcp, udp};
pub use relay::{Conditions, RELAYED_V4, RELAYED_V6, Relay};
pub use reply::{Answer, Reply};
pub use scan::Order;
pub use store::{Store, store_engines};
pub use wait::{DEADLINE, Held, wait_until};
pub use wire::{Mac, Wire, neighbour};
