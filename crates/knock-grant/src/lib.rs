//! The grants of knockd. A grant begins and ends through [`GrantManager`] alone, which keeps the record of live grants and
//! has an [`Enforcer`] carry each change out: nftables, or memory in tests. To learn of changes, a caller reads
//! [`GrantManager::poll_event`].
//!
//! There is no clock here: time is an argument.

#![forbid(unsafe_code)]

mod enforcer;
mod error;
mod event;
mod ledger;
mod manager;
#[cfg(test)]
mod memory;
mod nftables;
mod policy;
mod signer;

pub use enforcer::{Changes, Element, Enforcer, Key, Store};
pub use error::Error;
pub use event::{Cause, GrantEvent};
pub use ledger::{Full, Grant, Ledger};
pub use manager::{GrantManager, Revoked};
pub use nftables::{Nftables, SetState};
pub use policy::{Opens, Place, Policy};
pub use signer::{Basis, Signer, Signers, User, Vouchers};
