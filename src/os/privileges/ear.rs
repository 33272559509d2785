//! The confinement of the ear, the process that reads the packets of strangers: it works with what is handed to it over
//! the socket to its parent, and can reach nothing else.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use caps::{CapSet, CapsHashSet};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use rustix::process::{DumpableBehavior, Signal, geteuid, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::thread::set_no_new_privs;
use serde::{Deserialize, Serialize};

use super::protections::{NotInStatus, StatusFile};
use super::seccomp::Process;
use super::{Error, Protections, bound, landlock, reduce, seccomp};
use crate::os::users::User;

/// The user of an ear whose parent is root. Where there is none of this name, it is `nobody`.
const USER: &str = "knockd-ear";
/// `nobody`, also where that has another name (user_namespaces(7), overflow uid).
const NOBODY: User = User { uid: 65_534, gid: 65_534 };

/// What an ear could not have, and why. The others are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Missing {
    /// Descriptors of the processes before it.
    #[error("descriptors that it inherited may be open: {0}")]
    Closed(String),
    /// A user other than root.
    #[error("it runs as root: {0}")]
    User(String),
    /// A network namespace in which there is nothing.
    #[error("it has no network namespace of its own: {0}")]
    Network(String),
    /// A ruleset that allows nothing.
    #[error("it has no Landlock ruleset: {0}")]
    Landlock(String),
    /// The list of its system calls.
    #[error("it has no system call filter: {0}")]
    SystemCallFilter(String),
}

/// How far an ear is confined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// What is in force.
    pub protections: Protections,
    /// What is not.
    pub missing: Vec<Missing>,
}

/// Confines this process, which has one thread and no descriptor in use but 0 to 2, the socket to its parent.
///
/// It is killed when the *thread* that started it ends (prctl(2), `PR_SET_PDEATHSIG`), provided that this thread may send
/// it a signal: where it has become another user, the parent needs CAP_KILL for that (kill(2)). In any case the socket
/// reports the end of the parent.
///
/// # Errors
///
/// Where it would keep a privilege.
pub fn confine_ear() -> Result<Confinement, Error> {
    let mut missing = Vec::new();
    // From the start, and again below: a change of the user undoes it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("hide its memory"))?;
    if let Err(error) = close_inherited() {
        missing.push(Missing::Closed(error.to_string()));
    }
    let status =
        StatusFile::open().map_err(|source| Error::Confinement { attempted: "open /proc/self/status", source })?;
    // While it may: a change of the user takes the right to it away.
    bound(&CapsHashSet::new())?;
    // A network in which there is nothing. Sockets stay in that where they were opened.
    let mut network = unshare(CloneFlags::CLONE_NEWNET);
    // While it may: another user may not reduce the bounding set.
    bound(&CapsHashSet::new())?;
    if geteuid().is_root()
        && let Err(error) = become_user(User::named(USER).unwrap_or(NOBODY))
    {
        missing.push(Missing::User(error.to_string()));
    }
    if network.is_err() {
        // In a user namespace of its own, which on many systems any user may make, it may leave the network too.
        network = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET);
    }
    let own_network = network.map_err(|error| missing.push(Missing::Network(error.to_string()))).is_ok();
    drop_capabilities()?;
    set_no_new_privs(true).map_err(Error::NoNewPrivileges)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("hide its memory"))?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("end with its parent"))?;
    let landlock =
        landlock::allow_nothing().map_err(|error| missing.push(Missing::Landlock(error.to_string()))).is_ok();
    // Its system calls are none of those above.
    let filter =
        seccomp::install(Process::Ear).map_err(|error| missing.push(Missing::SystemCallFilter(error.to_string())));
    let not_in_status = NotInStatus { memory_is_private: true, landlock, own_network, no_new_code: filter.is_ok() };
    let protections = Protections::of_one_thread(&status, not_in_status)
        .map_err(|source| Error::Confinement { attempted: "read /proc/self/status", source })?;
    Ok(Confinement { protections, missing })
}

fn failed(attempted: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |error| Error::Confinement { attempted, source: error.into() }
}

/// Closes what the processes before it left open, of which nothing in this process knows.
fn close_inherited() -> io::Result<()> {
    let names = fs::read_dir("/proc/self/fd")?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<_> = names.collect::<io::Result<_>>()?;
    for number in names.iter().filter_map(|name| name.to_str()?.parse::<RawFd>().ok()).filter(|number| *number > 2) {
        // One of them was that of the list, and is closed.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// Becomes that user permanently, with no other group.
fn become_user(user: User) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)
}

/// Drops all capabilities from all sets.
fn drop_capabilities() -> Result<(), Error> {
    caps::clear(None, CapSet::Ambient).map_err(super::failed("ambient"))?;
    reduce(&CapsHashSet::new())?;
    caps::clear(None, CapSet::Inheritable).map_err(super::failed("inheritable"))
}
