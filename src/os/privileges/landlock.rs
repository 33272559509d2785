//! Landlock rulesets (landlock(7)): what this thread and those that it starts can reach, whatever their user and their
//! capabilities allow. A kernel before 5.13 has none, and later ones have more kinds of access.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, make_bitflags,
};

pub(super) use landlock::PathFd;

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
    put_in_force(ruleset.create()?)
}

/// From now on, no file is made, changed or removed but beneath these `directories`, none changed but there and beneath the
/// directories of `files`; no program is started, no device controlled, and no TCP port used. What is read is left alone,
/// and so are Unix sockets: those of the log and of the service manager may be anywhere.
///
/// # Errors
///
/// Where no ruleset could be put in force.
pub(super) fn write_only_beneath(directories: &[PathFd], files: &[PathFd]) -> Result<(), Error> {
    let writing = AccessFs::from_write(KNOWN) & !AccessFs::ResolveUnix;
    let making = make_bitflags!(AccessFs::{
        WriteFile | Truncate | MakeReg | MakeDir | MakeSock | RemoveFile | RemoveDir
    });
    let ruleset = Ruleset::default()
        .handle_access(writing | AccessFs::Execute)?
        .handle_access(AccessNet::from_all(KNOWN))?
        .create()?
        .add_rules(rules(directories, making))?
        .add_rules(rules(files, AccessFs::WriteFile.into()))?;
    put_in_force(ruleset)
}

fn rules(
    places: &[PathFd],
    access: BitFlags<AccessFs>,
) -> impl Iterator<Item = Result<PathBeneath<&PathFd>, RulesetError>> {
    places.iter().map(move |place| Ok(PathBeneath::new(place, access)))
}

fn put_in_force(ruleset: RulesetCreated) -> Result<(), Error> {
    match ruleset.restrict_self()?.ruleset {
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
