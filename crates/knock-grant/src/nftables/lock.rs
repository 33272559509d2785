//! One daemon for a table: each of two daemons would undo the changes of the other.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::geteuid;

use crate::Error;

/// Connections to the lock are never accepted, so each start of another daemon uses a place in the backlog.
const ASKING_MAX: i32 = 4096;

/// Takes the lock of the table of that name in this network namespace. It is a socket with an abstract name (unix(7)),
/// which goes with the process, however that ends. `None` where it can't be had for another reason than a daemon: a
/// user without rights must not keep the gate from closing.
///
/// # Errors
///
/// Where root, or this daemon's own user, holds it.
pub(super) fn lock(table: &str) -> Result<Option<OwnedFd>, Error> {
    match take(table) {
        Ok(lock) => Ok(Some(lock)),
        Err(Errno::ADDRINUSE) => match holder(table) {
            Ok((uid, process_id)) if uid == 0 || uid == geteuid().as_raw() => {
                Err(Error::Served { table: table.to_owned(), process_id })
            }
            other => {
                let who = match other {
                    Ok((uid, process_id)) => format!("process {process_id} of uid {uid}"),
                    Err(error) => format!("a process that is not known ({error})"),
                };
                log::warn!("{who} holds the lock of table inet {table}; knockd continues without the lock");
                Ok(None)
            }
        },
        Err(error) => {
            log::warn!("cannot lock table inet {table}: {error}; knockd continues without the lock");
            Ok(None)
        }
    }
}

fn name(table: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new_abstract_name(format!("knockd/inet/{table}").as_bytes())
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn take(table: &str) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    rustix::net::bind(&socket, &name(table)?)?;
    rustix::net::listen(&socket, ASKING_MAX)?;
    Ok(socket)
}

/// The user and the process that hold the lock, from the kernel.
fn holder(table: &str) -> Result<(u32, i32), Errno> {
    let socket = socket()?;
    rustix::net::connect(&socket, &name(table)?)?;
    let credentials = sockopt::socket_peercred(&socket)?;
    Ok((credentials.uid.as_raw(), credentials.pid.as_raw_nonzero().get()))
}

#[cfg(test)]
mod tests {
    use knock_testkit::wait_until;

    use super::*;

    #[test]
    fn a_table_is_locked_until_its_daemon_is_gone() {
        let table = format!("test_{}", std::process::id());
        let held = lock(&table).expect("nobody holds it").expect("it can be had");
        let Err(Error::Served { process_id, .. }) = lock(&table) else { panic!("it is held") };
        assert_eq!(process_id.unsigned_abs(), std::process::id());
        let other = lock(&format!("{table}b")).expect("another table is free");
        assert!(other.is_some());
        drop(held);
        // A program that a test beside this one starts holds a copy of the descriptor until it has called execve(2).
        let again = wait_until("it is free again", || lock(&table).ok());
        assert!(again.is_some());
    }
}
