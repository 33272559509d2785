//! Which protections the kernel has in force, whatever was intended.

use std::fs::{self, File};
use std::io;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// The protections of a process, those of its least protected thread (proc_pid_status(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protections {
    /// The effective user.
    pub(crate) user: u32,
    /// A filter knows which system calls it needs (seccomp(2)).
    pub(crate) system_call_filter: bool,
    /// No program that it starts has more privileges than it has (prctl(2), `PR_SET_NO_NEW_PRIVS`).
    pub(crate) no_new_privileges: bool,
    /// Its memory can be read by root alone, and leaves no core dump (prctl(2), `PR_SET_DUMPABLE`).
    pub(crate) memory_is_private: bool,
    /// The effective capabilities (capabilities(7)).
    pub(crate) capabilities: Vec<String>,
    /// No program that it starts can get other ones: they are all of the bounding set.
    pub(crate) bounded: bool,
    /// A Landlock ruleset of its own says what it can reach (landlock(7)).
    #[serde(default)]
    pub(crate) landlock: bool,
    /// It is in a network namespace in which there is nothing.
    #[serde(default)]
    pub(crate) own_network: bool,
    /// Memory that is not executable cannot become so.
    #[serde(default)]
    pub(crate) no_new_code: bool,
}

/// What this process has put in force, and the file `status` does not show.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NotInStatus {
    pub(super) memory_is_private: bool,
    pub(super) landlock: bool,
    pub(super) own_network: bool,
    pub(super) no_new_code: bool,
}

/// Of this process; it has put that in force once.
static NOT_IN_STATUS: OnceLock<NotInStatus> = OnceLock::new();

impl NotInStatus {
    /// Remembers it for [`Protections::of_this_process`].
    pub(super) fn remember(self) {
        let _ = NOT_IN_STATUS.set(self);
    }
}

/// The open file /proc/self/status, for a process that will not be able to open it.
pub(super) struct StatusFile(File);

impl StatusFile {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// Where there is no such file.
    pub(super) fn open() -> io::Result<StatusFile> {
        File::open("/proc/self/status").map(StatusFile)
    }

    /// What it says now.
    fn read(&self) -> io::Result<String> {
        let (mut text, mut part) = (Vec::new(), [0; 4096]);
        loop {
            match rustix::io::pread(&self.0, &mut part[..], text.len() as u64)? {
                0 => return String::from_utf8(text).map_err(io::Error::other),
                length => text.extend_from_slice(&part[..length]),
            }
        }
    }
}

impl Protections {
    /// Those of this process.
    ///
    /// # Errors
    ///
    /// Where /proc has no such line.
    pub(crate) fn of_this_process() -> io::Result<Protections> {
        let private = rustix::process::dumpable_behavior()? == rustix::process::DumpableBehavior::NotDumpable;
        let mut threads = Vec::new();
        for thread in fs::read_dir("/proc/self/task")? {
            match fs::read_to_string(thread?.path().join("status")) {
                Ok(text) => threads.push(text),
                // It has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let other = NotInStatus { memory_is_private: private, ..NOT_IN_STATUS.get().copied().unwrap_or_default() };
        Ok(Protections::of(&threads, other))
    }

    /// Those of this process, which has one thread.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read.
    pub(super) fn of_one_thread(status: &StatusFile, other: NotInStatus) -> io::Result<Protections> {
        Ok(Protections::of(&[status.read()?], other))
    }

    /// What the files `status` of all threads say.
    fn of(threads: &[String], other: NotInStatus) -> Protections {
        let field = |text: &str, name: &str| -> Option<String> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().nth(usize::from(name == "Uid")).map(str::to_owned)
        };
        let all = |name: &str, value: &str| threads.iter().all(|text| field(text, name).as_deref() == Some(value));
        let bits = |text: &String, name: &str| u64::from_str_radix(&field(text, name)?, 16).ok();
        // A set that cannot be read may be the full set.
        let effective = threads.iter().fold(0, |so_far, text| so_far | bits(text, "CapEff").unwrap_or(u64::MAX));
        let bounded = |text: &String| Some(bits(text, "CapBnd")? & !bits(text, "CapEff")? == 0);
        let held = caps::all().into_iter().filter(|capability| effective & capability.bitmask() != 0);
        let mut capabilities: Vec<String> = held.map(|capability| capability.to_string()).collect();
        capabilities.sort();
        Protections {
            user: threads.first().and_then(|text| field(text, "Uid")?.parse().ok()).unwrap_or(0),
            system_call_filter: all("Seccomp", "2"),
            no_new_privileges: all("NoNewPrivs", "1"),
            memory_is_private: other.memory_is_private,
            capabilities,
            bounded: threads.iter().all(|text| bounded(text) == Some(true)),
            landlock: other.landlock,
            own_network: other.own_network,
            no_new_code: other.no_new_code,
        }
    }

    /// In words: the protections that are in force, and those that are not.
    pub(crate) fn in_words(&self) -> (String, Option<String>) {
        let all = [
            (self.system_call_filter, "system call filter"),
            (self.no_new_privileges, "no new privileges"),
            // Where nothing can be added, the bounding set bounds nothing.
            (self.bounded || self.no_new_privileges, "bounded capabilities"),
            (self.memory_is_private, "private memory"),
            (self.no_new_code, "no new code"),
            (self.landlock, "Landlock"),
        ];
        // Only the ear can be without a network, and not everywhere: where it is not, nothing is missing.
        let network = self.own_network.then_some((true, "no network"));
        let named = |wanted: bool| {
            let names = all.into_iter().chain(network).filter(|(is, _)| *is == wanted).map(|(_, name)| name);
            names.collect::<Vec<_>>().join(", ")
        };
        let has =
            if self.capabilities.is_empty() { "no capabilities".to_owned() } else { self.capabilities.join(", ") };
        let (in_force, missing) = (named(true), named(false));
        let in_force = if in_force.is_empty() { "none".to_owned() } else { in_force };
        (format!("{in_force}; user {}, {has}", self.user), (!missing.is_empty()).then_some(missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(effective: &str, bounding: &str, privileges: u8, filter: u8) -> String {
        format!(
            "Name:\tknockd\nUid:\t0\t998\t998\t998\nCapEff:\t{effective}\nCapBnd:\t{bounding}\nNoNewPrivs:\t{privileges}\n\
             Seccomp:\t{filter}\nSeccomp_filters:\t1\n"
        )
    }

    #[test]
    fn the_least_protected_thread_counts() {
        let (net_admin, all) = ("0000000000001000", "000001ffffffffff");
        let protected = thread(net_admin, net_admin, 1, 2);
        let other = NotInStatus { memory_is_private: true, landlock: true, own_network: false, no_new_code: true };
        let found = Protections::of(std::slice::from_ref(&protected), other);
        assert_eq!((found.user, found.capabilities.as_slice()), (998, &["CAP_NET_ADMIN".to_owned()][..]));
        assert!(found.system_call_filter && found.no_new_privileges && found.bounded);
        for (thread, missing) in [
            (thread(net_admin, net_admin, 1, 0), "system call filter"),
            (thread(net_admin, net_admin, 0, 2), "no new privileges"),
            (thread(net_admin, all, 0, 2), "no new privileges, bounded capabilities"),
        ] {
            let found = Protections::of(&[protected.clone(), thread], other);
            assert_eq!(found.in_words().1.as_deref(), Some(missing));
        }
        let unknown = Protections::of(&["Name:\tknockd\n".to_owned()], NotInStatus::default());
        assert!(!unknown.system_call_filter && !unknown.no_new_privileges && !unknown.bounded);
        assert!(
            unknown.capabilities.contains(&"CAP_SYS_ADMIN".to_owned()),
            "an unknown set is not taken for a safe one"
        );
    }
}
