//! What can go wrong with a grant.

use crate::ledger::Full;

/// A grant cannot begin or end, or the policy cannot be put in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The kernel refuses.
    #[error(transparent)]
    Nft(#[from] knock_nft::Error),
    /// There is no room for the grant.
    #[error(transparent)]
    Full(#[from] Full),
    /// Another knockd serves the managed table.
    #[error(
        "table inet {table} is managed by another knockd (process {process_id}): stop it, or set another name as \
         `nftables.table`"
    )]
    Served {
        /// The name of the table.
        table: String,
        /// The process id of the other daemon.
        process_id: i32,
    },
}

impl Error {
    /// Whether the kernel refuses for lack of a capability.
    pub fn is_permission(&self) -> bool {
        matches!(self, Error::Nft(error) if error.is_permission())
    }

    /// Whether what was to be changed is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Nft(error) if error.is_missing())
    }

    /// Whether the configuration has to be changed.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Error::Nft(knock_nft::Error::UnusableSet { .. }))
    }
}
