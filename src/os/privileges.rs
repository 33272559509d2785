//! Least privilege: once everything is open, the daemon permanently drops the privileges that it will not need.
//!
//! The configuration at start decides which it needs, see [`RequiredPrivileges`]; a reload that needs more is refused
//! ([`RequiredPrivileges::check`]), and a restart, during which the gate stays closed, gives it.
//!
//! The daemon itself starts no program ever again: the bounding, inheritable and ambient sets are emptied,
//! `no_new_privs` is set, a [system call filter](seccomp) that knows neither execve(2) nor ptrace(2) is in force, and
//! files can be changed only in the [places](Places) that the configuration names.
//!
//! Commands run in another process, which is started before that, with the privileges of the user who starts the daemon
//! ([`drop_for_commands`]). Where that is root, the kernel gives a program of user 0 the whole bounding set at execve(2),
//! whatever little its parent kept (capabilities(7)), so in that process the bounding set stays, `no_new_privs` is not set,
//! and there is no filter, which they would inherit. Where it is another user, as under the systemd unit, they get the
//! ambient set, and that process keeps the capabilities in it.
//!
//! The process that reads the packets of strangers keeps none at all: [`confine_ear`].
//!
//! Everything here is about the calling thread, and is inherited by the threads that it starts (capabilities(7)).

mod ear;
mod landlock;
mod places;
mod protections;
mod seccomp;

use std::fmt;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use knock_config::{Config, Interfaces};
use rustix::process::geteuid;
use rustix::thread::{no_new_privs, set_no_new_privs};

pub use ear::{Confinement, Missing, confine_ear};
pub(crate) use places::{GivenUp, Places};
use protections::NotInStatus;
pub use protections::Protections;

/// The privileges that the daemon needs after its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequiredPrivileges {
    /// `CAP_NET_ADMIN`: rules grant over netlink.
    nftables: bool,
    /// `CAP_NET_RAW`, for socket(2) only: a reload may name another interface. The socket for all interfaces hears
    /// those that come later too, and a socket whose interface was deleted is bound again without it.
    sockets: bool,
    /// A process that may run programs, with the privileges that the daemon was started with. The daemon itself runs none.
    commands: bool,
}

/// Privileges could not be dropped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A capability set.
    #[error(
        "cannot read or reduce the {set} capability set: {source}; does a system call filter forbid capset or prctl?"
    )]
    Capabilities {
        /// Which one.
        set: &'static str,
        /// The kernel's answer.
        source: CapsError,
    },
    /// `no_new_privs`.
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivileges(rustix::io::Errno),
    /// Another part of the confinement of the ear.
    #[error("cannot {attempted}: {source}")]
    Confinement {
        /// Which one.
        attempted: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// The privileges that a new configuration needs and the daemon has dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dropped(RequiredPrivileges);

impl std::error::Error for Dropped {}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = [
            (
                self.0.commands,
                "a rule has a command, and as no rule had one at start, there is no process that may run programs",
            ),
            (self.0.nftables, "a rule has `allow`, and no rule had one at start"),
            (self.0.sockets, "it names interfaces, and the configuration at start did not"),
        ];
        let missing: Vec<&str> = missing.into_iter().filter_map(|(lacks, what)| lacks.then_some(what)).collect();
        write!(
            f,
            "the privileges for it were given up at start ({}); restart knockd; `systemctl restart` keeps the gate and live grants",
            missing.join("; ")
        )
    }
}

impl RequiredPrivileges {
    /// The privileges that this configuration needs; `pending`: stop commands of an earlier run are pending.
    pub(crate) fn of(config: &Config, pending: bool) -> RequiredPrivileges {
        if config.rules.is_empty() {
            // No packet reaches the daemon yet, and its first rules may be of any kind.
            return RequiredPrivileges { nftables: true, sockets: true, commands: true };
        }
        let mut rules = config.rules.iter();
        let runs = |rule: &knock_config::Rule| {
            rule.command.is_some() || rule.stop.is_some() || rule.setup.is_some() || rule.teardown.is_some()
        };
        RequiredPrivileges {
            nftables: rules.any(|rule| rule.allow.is_some()),
            sockets: matches!(config.interfaces, Interfaces::Named(_)),
            commands: pending || config.rules.iter().any(runs),
        }
    }

    /// Whether the needs of another configuration can be met with what these have kept.
    ///
    /// # Errors
    ///
    /// The privileges that were dropped.
    pub(crate) fn check(self, wanted: RequiredPrivileges) -> Result<(), Dropped> {
        let missing = RequiredPrivileges {
            nftables: wanted.nftables && !self.nftables,
            sockets: wanted.sockets && !self.sockets,
            commands: wanted.commands && !self.commands,
        };
        let none = RequiredPrivileges { nftables: false, sockets: false, commands: false };
        if missing == none { Ok(()) } else { Err(Dropped(missing)) }
    }

    /// Whether there is to be a process that may run programs.
    pub(crate) fn commands(self) -> bool {
        self.commands
    }

    /// The capabilities that the daemon itself keeps, of those that it has.
    fn capabilities(self, root: bool) -> CapsHashSet {
        let wanted = [
            (self.nftables, Capability::CAP_NET_ADMIN),
            (self.sockets, Capability::CAP_NET_RAW),
            // The configuration, one-time sequences and the state directory may be another user's.
            (root, Capability::CAP_DAC_OVERRIDE),
            // The ear, which has become another user's, is killed when the daemon is (prctl(2), `PR_SET_PDEATHSIG`).
            (root, Capability::CAP_KILL),
        ];
        wanted.into_iter().filter_map(|(wanted, capability)| wanted.then_some(capability)).collect()
    }

    /// Drops all other privileges, for this thread and those that it starts. `places`: what the configuration has it
    /// write to.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses; some privileges may be dropped already.
    pub(crate) fn drop_unneeded(self, places: &Places) -> Result<(), Error> {
        let root = geteuid().is_root();
        let mut keep = self.capabilities(root);
        bound(&keep)?;
        let _ = caps::clear(None, CapSet::Ambient);
        keep = reduce(&keep)?;
        caps::clear(None, CapSet::Inheritable).map_err(failed("inheritable"))?;
        set_no_new_privs(true).map_err(Error::NoNewPrivileges)?;
        let landlock = places.give_up_others();
        if let Err(error) = &landlock {
            log::info!("no Landlock ruleset limits where knockd can write: {error}");
        }
        let filter = seccomp::install(seccomp::Process::Keeper);
        if let Err(error) = &filter {
            log::warn!("there is no system call filter: {error}");
        }
        let (landlock, no_new_code) = (landlock.is_ok(), filter.is_ok());
        NotInStatus { landlock, no_new_code, ..NotInStatus::default() }.remember();
        log::debug!("kept the capabilities {keep:?}");
        Ok(())
    }
}

/// Drops the privileges that a process does not need itself which does nothing but run commands.
///
/// # Errors
///
/// Where the kernel refuses.
pub(crate) fn drop_for_commands() -> Result<(), Error> {
    // Where the kernel adds nothing at execve(2), commands get the capabilities of this process.
    if geteuid().is_root() && !no_new_privs().unwrap_or(false) {
        // The state directory may be another user's, and a command that became another user's has a time limit too.
        reduce(&CapsHashSet::from([Capability::CAP_DAC_OVERRIDE, Capability::CAP_KILL]))?;
    }
    Ok(())
}

fn failed(set: &'static str) -> impl Fn(CapsError) -> Error {
    move |source| Error::Capabilities { set, source }
}

/// Makes the effective and permitted sets no more than `keep`, and returns what they are.
fn reduce(keep: &CapsHashSet) -> Result<CapsHashSet, Error> {
    let had = caps::read(None, CapSet::Permitted).map_err(failed("permitted"))?;
    let keep: CapsHashSet = had.intersection(keep).copied().collect();
    caps::set(None, CapSet::Effective, &keep).map_err(failed("effective"))?;
    caps::set(None, CapSet::Permitted, &keep).map_err(failed("permitted"))?;
    Ok(keep)
}

/// Makes the bounding set no more than `keep`. A process without `CAP_SETPCAP` may not, and can't use the set either once
/// `no_new_privs` is set.
fn bound(keep: &CapsHashSet) -> Result<(), Error> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(failed("effective"))? {
        return Ok(());
    }
    let bounding = caps::read(None, CapSet::Bounding).map_err(failed("bounding"))?;
    for &capability in bounding.difference(keep) {
        caps::drop(None, CapSet::Bounding, capability).map_err(failed("bounding"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTS: &str = r#"{"name": "ssh", "sequence": [7000, 9000, 8000], "allow": {"ports": [22], "timeout": 60}}"#;
    const RUNS: &str = r#"{"name": "run", "sequence": [7100, 9100, 8100], "command": "true"}"#;

    fn required(interface: &str, rules: &str) -> RequiredPrivileges {
        let text = format!(r#"{{"interface": "{interface}", "rules": [{rules}]}}"#);
        RequiredPrivileges::of(&knock_config::parse("test.json", &text).expect("a valid configuration").config, false)
    }

    #[test]
    fn rules_without_allow_need_no_net_admin() {
        assert_eq!(required("any", RUNS).capabilities(false), CapsHashSet::new());
        assert_eq!(required("any", GRANTS).capabilities(false), CapsHashSet::from([Capability::CAP_NET_ADMIN]));
    }

    #[test]
    fn without_rules_nothing_is_given_up_so_that_the_first_ones_may_be_of_any_kind() {
        let none = required("any", "");
        for rules in [GRANTS, RUNS] {
            assert_eq!(none.check(required("eth0", rules)), Ok(()));
        }
    }

    #[test]
    fn every_interface_needs_no_further_socket() {
        assert_eq!(required("eth0", RUNS).capabilities(false), CapsHashSet::from([Capability::CAP_NET_RAW]));
    }

    #[test]
    fn a_reload_that_needs_dropped_privileges_names_them() {
        let both = format!("{GRANTS}, {RUNS}");
        assert_eq!(required("any", &both).check(required("any", GRANTS)), Ok(()));
        let error =
            required("any", GRANTS).check(required("eth0", &both)).expect_err("commands and sockets were dropped");
        assert_eq!(
            error.to_string(),
            "the privileges for it were given up at start (a rule has a command, and as no rule had one at start, there is no \
             process that may run programs; it names interfaces, and the configuration at start did not); restart knockd; `systemctl restart` keeps the gate and live grants"
        );
    }
}
