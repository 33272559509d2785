//! Landlock rulesets (landlock(7)): what this thread and those that it starts can reach, whatever their user and their
//! capabilities allow. A kernel before 5.13 has none, and later ones have more kinds of access.

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope};

/// The newest kinds of access that are named here. Those that the kernel does not know are left out.
const KNOWN: ABI = ABI::V10;

/// Why there is no ruleset.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The kernel was built or started without it, or is too old.
    #[error("the kernel has no Landlock")]
    NotInKernel,
    /// The kernel's answer.
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
}

/// From now on, no file can be opened or made, no TCP port used, and no process outside can be reached by signals or
/// abstract Unix sockets.
///
/// # Errors
///
/// Where no ruleset could be put in force.
pub(super) fn allow_nothing() -> Result<(), Error> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?;
    match ruleset.create()?.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err(Error::NotInKernel),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::{fs, thread};

    use super::*;

    #[test]
    fn a_thread_that_is_allowed_nothing_opens_no_file() {
        let in_thread = || {
            allow_nothing().expect("a kernel with Landlock");
            fs::read("/etc/passwd").map_err(|error| error.kind())
        };
        assert_eq!(thread::spawn(in_thread).join().expect("it has ended"), Err(ErrorKind::PermissionDenied));
        assert!(fs::read("/etc/passwd").is_ok(), "the others are free");
    }
}
