//! The socket between two processes of the daemon: messages that arrive whole and in order, each with one descriptor at most
//! (unix(7), `SOCK_SEQPACKET`, `SCM_RIGHTS`). No end of it ever waits for the other on the event loop.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use knock_proto::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::os::clock::now;

/// The longest message, in bytes. What is longer goes as a [sealed file](seal).
pub(crate) const MESSAGE_MAX: usize = 512;
/// The longest sealed file, in bytes.
const SEALED_MAX: usize = 64 << 20;
/// Room for messages that the other end has not read, in bytes of the kernel: some thousands.
const QUEUE: usize = 4 << 20;

/// One end.
#[derive(Debug)]
pub(crate) struct Channel<S> {
    socket: S,
    buffer: [u8; MESSAGE_MAX],
}

/// What happened to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    Yes,
    /// The other end has not read for long: there is no room.
    NoRoom,
}

/// A message that was received.
#[derive(Debug)]
pub(crate) struct Received<'b> {
    pub(crate) bytes: &'b [u8],
    pub(crate) descriptor: Option<OwnedFd>,
}

/// Two ends: ours, and the one for a process that is started.
///
/// # Errors
///
/// Where there are no more descriptors.
pub(crate) fn pair() -> io::Result<(Channel<OwnedFd>, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for end in [&ours, &theirs] {
        // More than net.core.wmem_max needs CAP_NET_ADMIN; with less, a burst is cut off sooner, and counted.
        if sockopt::set_socket_send_buffer_size_force(end, QUEUE).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(end, QUEUE);
        }
    }
    Ok((Channel::new(ours), theirs))
}

/// The end of a process that was started with it as its standard input.
pub(crate) fn of_parent() -> Channel<BorrowedFd<'static>> {
    Channel::new(rustix::stdio::stdin())
}

impl<S: AsFd> Channel<S> {
    fn new(socket: S) -> Channel<S> {
        Channel { socket, buffer: [0; MESSAGE_MAX] }
    }

    /// Sends a message, with that descriptor.
    ///
    /// # Errors
    ///
    /// Where the other process has ended, or the message is too long.
    pub(crate) fn send(&mut self, message: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> io::Result<Sent> {
        let bytes = postcard::to_slice(message, &mut self.buffer).map_err(invalid)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|descriptor| [descriptor]);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        match sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => Ok(Sent::Yes),
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(Sent::NoRoom),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until a message or room for one is there, at the start and at the stop of the daemon.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] at the deadline.
    pub(crate) fn wait(&self, what: PollFlags, deadline: Time) -> io::Result<()> {
        let left = deadline.since(now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        match poll(&mut [PollFd::new(&self.socket, what)], Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The next message; `None` where none has arrived.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnexpectedEof`] where the other process has ended; [`ErrorKind::InvalidData`] where a message is too
    /// long.
    pub(crate) fn receive(&mut self) -> io::Result<Option<Received<'_>>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut self.buffer)], &mut control, flags);
        let received = match received {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if received.flags.contains(rustix::net::ReturnFlags::TRUNC) {
            return Err(io::Error::new(ErrorKind::InvalidData, "a message is too long"));
        }
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match received.bytes {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => Ok(Some(Received { bytes: &self.buffer[..length], descriptor })),
        }
    }
}

/// Whether that error says that the other process has ended.
pub(crate) fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

impl<S: AsFd> AsFd for Channel<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a message says. One with anything behind it is none.
///
/// # Errors
///
/// Where the bytes are no such message.
pub(crate) fn decode<'b, M: serde::Deserialize<'b>>(bytes: &'b [u8]) -> io::Result<M> {
    match postcard::take_from_bytes(bytes).map_err(invalid)? {
        (message, []) => Ok(message),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "there is something behind the message")),
    }
}

/// A file in memory with that content, which nobody can change any more (memfd_create(2)).
///
/// # Errors
///
/// Where there is no memory or no descriptor.
pub(crate) fn seal(content: &impl Serialize) -> io::Result<OwnedFd> {
    let bytes = zeroize::Zeroizing::new(postcard::to_allocvec(content).map_err(invalid)?);
    let file = memfd_create("knockd", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = &rest[written..];
    }
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

/// The content of a [sealed file](seal).
///
/// # Errors
///
/// Where it has another form.
pub(crate) fn unseal<C: DeserializeOwned>(file: &OwnedFd) -> io::Result<C> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let mut block = zeroize::Zeroizing::new(vec![0; 64 << 10]);
    loop {
        match rustix::io::pread(file, &mut block[..], bytes.len() as u64)? {
            0 => return decode(&bytes),
            _ if bytes.len() > SEALED_MAX => {
                return Err(io::Error::new(ErrorKind::InvalidData, "the file is too long"));
            }
            length => bytes.extend_from_slice(&block[..length]),
        }
    }
}

fn invalid(error: postcard::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_in_order_and_with_their_descriptors() {
        let (mut ours, theirs) = pair().expect("a pair");
        let mut theirs = Channel::new(theirs);
        assert!(theirs.receive().expect("open").is_none());
        let file = seal(&"secret").expect("a file");
        assert_eq!(ours.send(&(7_u32, "first"), Some(file.as_fd())).expect("sent"), Sent::Yes);
        assert_eq!(ours.send(&(8_u32, "second"), None).expect("sent"), Sent::Yes);
        let first = theirs.receive().expect("open").expect("a message");
        assert_eq!(decode::<(u32, &str)>(first.bytes).expect("its form"), (7, "first"));
        let content: String = unseal(&first.descriptor.expect("its descriptor")).expect("its content");
        assert_eq!(content, "secret");
        let second = theirs.receive().expect("open").expect("a message");
        assert!(second.descriptor.is_none());
        assert!(decode::<(u32, &str, u8)>(second.bytes).is_err(), "shorter than its form");
        assert!(decode::<u32>(second.bytes).is_err(), "longer than its form");
        drop(ours);
        assert_eq!(theirs.receive().expect_err("ended").kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_end_that_is_not_read_holds_up_nobody() {
        let (mut ours, theirs) = pair().expect("a pair");
        let sent = (0..1_000_000).take_while(|_| ours.send(&[0_u8; 32], None).expect("sent") == Sent::Yes).count();
        assert!((100..1_000_000).contains(&sent), "{sent}");
        drop(theirs);
        assert!(ours.send(&0_u8, None).is_err());
    }

    #[test]
    fn a_message_or_a_file_that_is_too_long_is_refused() {
        let (mut ours, theirs) = pair().expect("a pair");
        assert!(ours.send(&[[0_u8; 32]; 17], None).is_err());
        rustix::io::write(&theirs, &[0; MESSAGE_MAX + 1]).expect("sent past the limit");
        assert_eq!(ours.receive().expect_err("too long").kind(), ErrorKind::InvalidData);
        assert!(rustix::io::write(seal(&0_u8).expect("a file"), b"x").is_err(), "sealed");
    }
}
