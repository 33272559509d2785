//! The packet socket, read through pnet.

pub(crate) mod socket;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use pnet::datalink::{Channel, ChannelType, DataLinkReceiver, NetworkInterface, linux};

use crate::Error;
use crate::filter::Program;

/// What is asked of `SO_RCVBUFFORCE`, in bytes; the kernel accounts for twice as much (socket(7)).
///
/// A queued first packet of a connection is charged 0.8 to 1.3 kB, so 32 MiB hold 25,000 to 40,000 of them: what a
/// flood of 300,000 a second brings while the daemon is away for 100 ms. It is a bound, not an allocation: an empty
/// queue takes nothing.
pub const RECEIVE_BUFFER: usize = 16 << 20;

/// Read buffer of pnet, in bytes. Accepted packets are cut behind their transport header; only an IPv6 packet with
/// long extension headers fills more than a few hundred bytes, and what does not fit is cut.
const READ_BUFFER: usize = 4096;

/// How many packets passed the filter since the socket was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Put into the receive queue.
    pub received: u64,
    /// Lost because the receive queue was full.
    pub dropped: u64,
}

/// A cooked packet socket (packet(7): `AF_PACKET`, `SOCK_DGRAM`) that receives what a [`Program`] accepts.
///
/// It never waits: poll its descriptor for input, then call [`next`](Capture::next) until there is nothing left or
/// your budget for one round is used up (the poll reports what remains).
pub struct Capture {
    /// Declared first: pnet's duplicate of the descriptor is closed before ours.
    receiver: Option<Box<dyn DataLinkReceiver>>,
    socket: OwnedFd,
    coarse: bool,
    total: Statistics,
}

/// Opens a packet socket for [`Capture::new`], perhaps in another process. It receives nothing yet.
///
/// This alone needs CAP_NET_RAW. CAP_NET_ADMIN, where it is held, makes the receive queue large; without it the
/// sysctl `net.core.rmem_max` limits it.
pub fn open_packet_socket() -> Result<OwnedFd, Error> {
    let socket = socket::open().map_err(|source| Error::OpenPacketSocket { source })?;
    socket::enlarge_queue(&socket, RECEIVE_BUFFER)?;
    socket::ignore_outgoing(&socket);
    Ok(socket)
}

impl Capture {
    /// Opens the socket with the filter attached: see [`open_packet_socket`].
    pub fn open(program: &Program) -> Result<Capture, Error> {
        Capture::new(open_packet_socket()?, program)
    }

    /// Uses a socket of [`open_packet_socket`], with that filter. It receives nothing before it is [bound](Capture::bind).
    /// Needs no capability.
    pub fn new(socket: OwnedFd, program: &Program) -> Result<Capture, Error> {
        let mut capture = Capture { receiver: None, socket, coarse: false, total: Statistics::default() };
        capture.set_filter(program)?;
        Ok(capture)
    }

    /// Starts the delivery from the interface with this index, or from all interfaces where it is 0; again after an
    /// interface was deleted and created again, or to change it. Needs no capability.
    ///
    /// An interface that is down can be bound: [`next`](Capture::next) says [`Error::LinkDown`] once and delivers
    /// from when it is up.
    pub fn bind(&mut self, index: u32) -> Result<(), Error> {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => Error::NoSuchLink { index },
            _ => Error::Bind { index, source },
        };
        // pnet converts the index to a signed number, of which a negative one is no interface.
        if i32::try_from(index).is_err() {
            return Err(Error::NoSuchLink { index });
        }
        let interface = NetworkInterface {
            name: String::new(),
            description: String::new(),
            index,
            mac: None,
            ips: Vec::new(),
            flags: 0,
        };
        let duplicate = self.socket.try_clone().map_err(failed)?;
        let config = linux::Config {
            read_buffer_size: READ_BUFFER,
            write_buffer_size: 0,
            read_timeout: Some(Duration::ZERO),
            channel_type: ChannelType::Layer3(socket::ALL_PROTOCOLS),
            promiscuous: false,
            // pnet closes it, on failure too.
            socket_fd: Some(duplicate.into_raw_fd()),
            ..linux::Config::default()
        };
        match linux::channel(&interface, config).map_err(failed)? {
            Channel::Ethernet(_, receiver) => self.receiver = Some(receiver),
            // The enum is open, but pnet's Linux backend makes no other kind.
            _ => return Err(failed(io::Error::from(io::ErrorKind::Unsupported))),
        }
        Ok(())
    }

    /// The next packet, from its IP header on, or `None` where nothing is queued or the socket is not bound.
    ///
    /// The packet is cut [`TRANSPORT_BYTES`](crate::filter::TRANSPORT_BYTES) after the start of its transport header,
    /// unless it is one of [`WholeDatagrams`](crate::filter::WholeDatagrams).
    /// [`Error::LinkDown`] and [`Error::LinkGone`] are reported once each; a link that is deleted goes down first,
    /// so only [`Links`](crate::Links) says reliably that it is gone.
    #[expect(clippy::should_implement_trait, reason = "the packet borrows the buffer, so this cannot be an iterator")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        let Some(receiver) = &mut self.receiver else {
            return Ok(None);
        };
        match receiver.next() {
            Ok(packet) => Ok(Some(packet)),
            Err(error) => match error.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                // poll(2) reported an error, which pnet leaves in the socket, where it would be reported for ever.
                _ if error.raw_os_error().is_none() => match socket::take_error(&self.socket)? {
                    Some(pending) => Err(socket::receive_error(&self.socket, pending)),
                    None => Ok(None),
                },
                _ => Err(socket::receive_error(&self.socket, error)),
            },
        }
    }

    /// Replaces the filter. Each packet meets either the old or the new one; what is queued stays queued.
    ///
    /// Where the kernel lacks memory for the program (`net.core.optmem_max`, 20 kB before Linux 6.7; an instruction
    /// takes 8 to 16 bytes), the [coarse](Program::to_coarse) one for the same packets takes its place.
    pub fn set_filter(&mut self, program: &Program) -> Result<(), Error> {
        if self.attach(program)? {
            return Ok(());
        }
        // The old program counts until the new one has taken its place: put a short one between. The last resort lets
        // nothing pass, for the microseconds until the next one is attached.
        let coarse = program.to_coarse();
        if !self.attach(&coarse)? {
            socket::attach(&self.socket, Program::default().instructions())?;
            socket::attach(&self.socket, coarse.instructions())?;
            self.coarse = true;
        }
        if !program.coarse() {
            self.attach(program)?;
        }
        Ok(())
    }

    /// Whether the kernel had memory for the program.
    fn attach(&mut self, program: &Program) -> Result<bool, Error> {
        match socket::attach(&self.socket, program.instructions()) {
            Ok(()) => {
                self.coarse = program.coarse();
                Ok(true)
            }
            Err(error) if error.is_out_of_memory() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the filter in force is [coarse](Program::coarse).
    pub fn coarse(&self) -> bool {
        self.coarse
    }

    /// Packets since the socket was opened.
    ///
    /// The kernel counts in 32 bits and starts again at each reading, so read it at least once an hour.
    pub fn statistics(&mut self) -> Result<Statistics, Error> {
        let (queued_or_dropped, dropped) = socket::statistics(&self.socket)?;
        self.total.received += u64::from(queued_or_dropped.saturating_sub(dropped));
        self.total.dropped += u64::from(dropped);
        Ok(self.total)
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture")
            .field("socket", &self.socket)
            .field("bound", &self.receiver.is_some())
            .field("coarse", &self.coarse)
            .finish_non_exhaustive()
    }
}
