//! nftables for knockd, over netlink: the managed table with its gate and its grants, the sets of the administrator, and
//! notice of what others change.
//!
//! Nothing here runs `nft` or starts a thread, and the kernel has answered when a call to it returns. Only where the
//! managed table is made again, it waits some milliseconds. Everything works on the network namespace in which the calling
//! thread is when the socket is opened.

#![expect(unsafe_code, reason = "the C libraries libnftnl and libmnl, and the socket options of netlink(7)")]

mod attribute;
mod batch;
mod connection;
mod door;
mod element;
mod error;
mod expression;
mod grant_set;
mod ip_version;
mod layout;
mod message;
mod monitor;
mod rules;
mod sets;
mod spec;
mod table;
mod user_sets;
mod writer;

pub use door::{Door, Doors};
pub use element::{AddressElement, Element, ElementKey, Lifetime};
pub use error::{Error, Operation, UnusableSet};
pub use grant_set::GrantKind;
pub use ip_version::IpVersion;
pub use monitor::{Actor, Event, Monitor, Notice};
pub use rustix::io::Errno;
pub use spec::TableSpec;
pub use table::{DropCount, ManagedTable};
pub use user_sets::{Outcome, UserSets};
