//! A program in the place of knockd-fleet, which says whatever it likes.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use knock_fleet::link::{FromFleet, MESSAGE_MAX, ToFleet};
use knock_testkit::{DEADLINE, wait_until};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
};

use super::Daemon;

/// A connection that knockd takes for knockd-fleet.
pub(crate) struct Impostor(OwnedFd);

impl Impostor {
    /// Connects, as soon as knockd has noticed that nobody else is connected.
    pub(crate) fn connect(daemon: &Daemon) -> Impostor {
        wait_until("knockd accepts the connection", || {
            let impostor = Impostor::knock(daemon).ok()?;
            matches!(impostor.hear(), Some(ToFleet::Settings(_))).then_some(impostor)
        })
    }

    /// Connects, whatever knockd does then.
    pub(crate) fn knock(daemon: &Daemon) -> Result<Impostor, Errno> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(daemon.path("fleet.sock"))?)?;
        Ok(Impostor(socket))
    }

    /// Says something, and waits where knockd has not read what was said before. Returns whether it listens.
    pub(crate) fn say(&self, message: &FromFleet) -> bool {
        self.say_bytes(&message.encode())
    }

    /// The same, of any bytes.
    pub(crate) fn say_bytes(&self, bytes: &[u8]) -> bool {
        send(&self.0, bytes, SendFlags::NOSIGNAL).is_ok()
    }

    /// What knockd says next; `None`: it has closed the connection.
    #[track_caller]
    pub(crate) fn hear(&self) -> Option<ToFleet> {
        let (mut buffer, start) = (vec![0; MESSAGE_MAX], Instant::now());
        loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return None,
                Ok((length, _)) => return Some(ToFleet::decode(&buffer[..length]).expect("a message of knockd")),
                Err(_) if start.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("knockd says nothing: {error}"),
            }
        }
    }

    /// The nonce that knockd asks about next.
    pub(crate) fn claim(&self) -> [u8; 24] {
        loop {
            match self.hear() {
                Some(ToFleet::Claim { nonce, .. }) => return nonce,
                Some(_) => {}
                None => panic!("knockd has closed the connection"),
            }
        }
    }
}
