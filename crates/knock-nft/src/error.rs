//! What can go wrong, and what to do about it.
//!
//! The kernel answers with an errno and sometimes an offset, never with a text, so each message here is made from what
//! was attempted, on what, and the errno.

use std::fmt;

use rustix::io::Errno;

/// What was attempted when the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Opening or preparing a netlink socket.
    Open,
    /// Joining the group of nf_tables notifications.
    Subscribe,
    /// Sending a request or transaction, or receiving the answer.
    Exchange,
    /// A transaction as a whole.
    Begin,
    /// Adding or claiming a table.
    AddTable,
    /// Deleting a table.
    DeleteTable,
    /// Adding a set.
    AddSet,
    /// Deleting a set.
    DeleteSet,
    /// Adding a chain.
    AddChain,
    /// Emptying a chain.
    FlushChain,
    /// Adding a rule.
    AddRule,
    /// Deleting guarded ports.
    DeleteGuarded,
    /// Adding guarded ports.
    AddGuarded,
    /// Adding an element.
    AddElement,
    /// Deleting an element.
    DeleteElement,
    /// Reading a table.
    ReadTable,
    /// Reading chains.
    ReadChain,
    /// Reading rules.
    ReadRules,
    /// Reading sets.
    ReadSet,
    /// Reading elements.
    ReadElements,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Open => "open a netlink socket for",
            Operation::Subscribe => "subscribe to the nf_tables notifications for",
            Operation::Exchange => "talk to nf_tables about",
            Operation::Begin => "change",
            Operation::AddTable => "add or claim",
            Operation::DeleteTable => "delete",
            Operation::AddSet => "add a set to",
            Operation::DeleteSet => "delete a set of",
            Operation::AddChain => "add a chain to",
            Operation::FlushChain => "empty a chain of",
            Operation::AddRule => "add a rule to",
            Operation::DeleteGuarded => "delete guarded ports of",
            Operation::AddGuarded => "add guarded ports to",
            Operation::AddElement => "add an element to",
            Operation::DeleteElement => "delete an element of",
            Operation::ReadTable => "read",
            Operation::ReadChain => "read the chains of",
            Operation::ReadRules => "read the rules of",
            Operation::ReadSet => "read the definition of",
            Operation::ReadElements => "list the elements of",
        })
    }
}

/// Why something could not be done with nftables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused.
    #[error("cannot {operation} {object}: {}: {}", text(*.errno), advice(*.operation, *.errno))]
    Kernel {
        /// What was attempted.
        operation: Operation,
        /// On what: `table inet knockd`, `set ip filter allowed`.
        object: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// There is a table of the managed table's name that knockd did not make.
    #[error(
        "table inet {table} exists and was not made by knockd (its comment does not say so), so knockd does not change it; \
         delete it with `nft delete table inet {table}`, or set another name as `nftables.table`"
    )]
    Foreign {
        /// The name.
        table: String,
    },
    /// The managed table is owned by a process that lives.
    #[error(
        "table inet {table} is owned by another process (netlink port {port_id}): is another knockd running? \
         stop it, or set another name as `nftables.table`"
    )]
    Owned {
        /// The name.
        table: String,
        /// The netlink port of the owner; for the first netlink socket of a process this is its process id.
        port_id: u32,
    },
    /// [`crate::ManagedTable::apply`] was given another table's name.
    #[error("the managed table is {current}, not {wanted}: set up the new table, then remove the old one")]
    Renamed {
        /// The table as it is.
        current: String,
        /// The name in the specification.
        wanted: String,
    },
    /// A user set cannot be used.
    #[error("set {set} cannot be used: {reason}")]
    UnusableSet {
        /// The set.
        set: String,
        /// Why.
        reason: UnusableSet,
    },
}

/// The reason why a user set cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnusableSet {
    /// It holds ranges.
    #[error(
        "it has the flag `interval`, with which one address opens the range up to the next element; remove `flags interval`"
    )]
    Interval,
    /// Its elements do not expire.
    #[error("its elements cannot expire; add `flags timeout` to its definition")]
    NoTimeout,
    /// Its key is another one than an address of the wanted version.
    #[error("its elements are not of the type {wanted}; define it with `type {wanted}`")]
    KeyType {
        /// The type in nft's words.
        wanted: &'static str,
    },
    /// It cannot be changed.
    #[error("it has the flag `constant`; remove that")]
    Constant,
    /// It is a map.
    #[error("it is a map; define a set")]
    Map,
}

impl Error {
    pub(crate) fn kernel(operation: Operation, object: impl Into<String>, errno: Errno) -> Error {
        Error::Kernel { operation, object: object.into(), errno }
    }

    /// The kernel's answer, where it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Kernel { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether a privilege is missing, or another process owns the table.
    pub fn is_permission(&self) -> bool {
        matches!(self, Error::Owned { .. }) || matches!(self.errno(), Some(Errno::PERM | Errno::ACCESS))
    }

    /// Whether the table or set is not there.
    pub fn is_missing(&self) -> bool {
        self.errno() == Some(Errno::NOENT)
    }

    /// Whether the set has no room for another element.
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Kernel { operation: Operation::AddElement, errno: Errno::NFILE, .. })
    }
}

/// The system's own text, without the number that `Errno` shows.
fn text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// What to do about it.
fn advice(operation: Operation, errno: Errno) -> &'static str {
    match (operation, errno) {
        // Without the capability the kernel answers to the first message of a batch and never looks at the rest.
        (
            Operation::Open
            | Operation::Subscribe
            | Operation::Exchange
            | Operation::Begin
            | Operation::ReadTable
            | Operation::ReadChain
            | Operation::ReadRules
            | Operation::ReadSet
            | Operation::ReadElements,
            Errno::PERM | Errno::ACCESS,
        ) => "run as root, or with the capability CAP_NET_ADMIN in the user namespace of this network namespace",
        (_, Errno::PERM | Errno::ACCESS) => {
            "another process owns the table, and only that one may change it; see `nft list tables` and stop it"
        }
        (Operation::AddRule | Operation::AddChain, Errno::NOENT) => {
            "the kernel lacks a part that the rules need (nft_fib_inet, nft_ct or nft_counter): load the module, \
             or the table was deleted in the meantime"
        }
        (Operation::AddTable, Errno::EXIST) => "another program has just created a table of that name",
        (_, Errno::NOENT) => "it does not exist; it was deleted, or never created",
        (Operation::AddElement, Errno::NFILE) => {
            "the set is full; wait until elements expire, or give it a greater size"
        }
        (_, Errno::NFILE) => "a limit of the kernel on objects is reached",
        (Operation::AddElement, Errno::EXIST) => {
            "the element conflicts with an existing one, or the set has another type"
        }
        (_, Errno::EXIST) => "an object of that name exists, of another type",
        (Operation::AddElement | Operation::DeleteElement, Errno::INVAL) => {
            "the set has another key type, or no `flags timeout`"
        }
        (_, Errno::INVAL) => "the kernel rejects the request as malformed; it may be too old",
        (_, Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => {
            "the kernel does not have this; it needs nf_tables with inet tables (Linux 5.10 or later, modules nf_tables, nft_fib_inet, nft_ct)"
        }
        (_, Errno::BUSY) => "it is in use; a constant set cannot be changed",
        (_, Errno::MSGSIZE | Errno::NOBUFS) => {
            "the transaction or its answer does not fit the socket's buffer; raise net.core.wmem_max and net.core.rmem_max"
        }
        (_, Errno::NOMEM) => "the kernel has no memory for it",
        (_, Errno::RANGE) => "a timeout is out of the kernel's range",
        (_, Errno::MFILE) => "this process has too many files open; raise LimitNOFILE",
        (_, Errno::INTR) => "the ruleset changed repeatedly while it was read; try again",
        _ => "see the kernel log (dmesg)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(operation: Operation, errno: Errno) -> String {
        Error::kernel(operation, "table inet knockd", errno).to_string()
    }

    #[test]
    fn a_missing_capability_and_a_foreign_owner_read_differently() {
        assert_eq!(
            message(Operation::Begin, Errno::PERM),
            "cannot change table inet knockd: Operation not permitted: run as root, or with the capability \
             CAP_NET_ADMIN in the user namespace of this network namespace"
        );
        assert!(message(Operation::AddElement, Errno::PERM).contains("another process owns the table"));
    }

    #[test]
    fn each_errno_says_what_was_attempted_and_what_to_do() {
        for (operation, errno, parts) in [
            (Operation::AddElement, Errno::NFILE, ["cannot add an element to", "the set is full"]),
            (Operation::AddElement, Errno::NOENT, ["cannot add an element to", "it does not exist"]),
            (Operation::AddSet, Errno::EXIST, ["cannot add a set to", "of another type"]),
            (Operation::AddElement, Errno::INVAL, ["cannot add an element to", "flags timeout"]),
            (Operation::AddTable, Errno::OPNOTSUPP, ["cannot add or claim", "Linux 5.10 or later"]),
            (Operation::Exchange, Errno::NOBUFS, ["cannot talk to nf_tables about", "rmem_max"]),
        ] {
            let message = message(operation, errno);
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }

    #[test]
    fn the_predicates_tell_the_cases_apart() {
        let full = Error::kernel(Operation::AddElement, "set", Errno::NFILE);
        let missing = Error::kernel(Operation::AddElement, "set", Errno::NOENT);
        let denied = Error::kernel(Operation::Begin, "set", Errno::PERM);
        assert!(full.is_full() && !full.is_missing() && !full.is_permission());
        assert!(missing.is_missing() && !missing.is_full());
        assert!(denied.is_permission());
        assert!(!Error::kernel(Operation::Open, "", Errno::NFILE).is_full(), "too many files is no full set");
    }
}
