//! How the kernel's table becomes that of a specification.

use crate::layout::{FLAG_OWNER, FLAG_PERSIST, SetChanges};

/// How the kernel's table becomes that of a specification.
#[derive(Clone)]
pub(super) enum Plan {
    /// There is none yet.
    Create,
    /// Chains and sets with grants stay, rules and guarded ports are replaced; an orphaned table is claimed.
    Replace { claim: bool, sets: SetChanges },
    /// It is deleted and created again, with its grants.
    Rebuild,
}

impl Plan {
    /// Whether a port may be unguarded for a moment though it was guarded before and is guarded afterwards.
    pub(super) fn has_gap(&self) -> bool {
        match self {
            Plan::Create => false,
            Plan::Replace { sets, .. } => sets.has_gap,
            Plan::Rebuild => true,
        }
    }
}

/// Whether a table with these flags has to be claimed to become one with the wanted ones; `None` where that does not go
/// without rebuilding: the kernel lets a persistent table without an owner be claimed, and changes nothing else.
pub(super) fn claims_in_place(flags: u32, wanted: u32) -> Option<bool> {
    match flags {
        _ if flags == wanted => Some(false),
        FLAG_PERSIST if wanted & FLAG_OWNER != 0 => Some(true),
        // Persistent without an owner is as good as neither.
        FLAG_PERSIST if wanted == 0 => Some(false),
        _ => None,
    }
}
