//! A packet socket on one link: frames out, frames in.

use std::fmt;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

use pnet::datalink::{self, Config};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sendmmsg, socket_with,
};

use crate::error::{Attempt, Error, Result};
use crate::packet::{Flags, Packet};
use crate::reply::{Answer, Reply};

/// A port that no test serves or guards: what is sent there is refused at once, after all that was sent before.
pub(crate) const FENCE_PORT: u16 = 1;
/// How many packets go out between two looks at what came in, so that the receive buffer holds the answers.
const CHUNK: usize = 64;
/// How long the fence's answer may take on a busy machine.
const FENCE_PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may come after the fence's, where another processor handled it.
const LINGER: Duration = Duration::from_millis(10);

/// A wait shorter than this is spun through: the kernel's timers are too coarse for it.
const SPIN: Duration = Duration::from_micros(200);

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Mac, String> {
        let bytes: Vec<u8> = text.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
        bytes.try_into().map(Mac).map_err(|_| format!("`{text}` is no hardware address like 02:00:00:00:00:01"))
    }
}

/// A packet socket (packet(7)) whose frames all go from one station to another.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    local: Mac,
    peer: Mac,
}

impl Wire {
    /// Opens it on that interface of the calling thread's namespace.
    pub fn open(interface: &str, local: Mac, peer: Mac) -> Result<Wire> {
        let link = datalink::interfaces()
            .into_iter()
            .find(|link| link.name == interface)
            .ok_or_else(|| Error::NoInterface { name: interface.to_owned() })?;
        // The daemon under test must not inherit it.
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .attempt(|| "open a packet socket (it needs CAP_NET_RAW)".to_owned())?;
        // pnet knows how to bind it; the frames go by sendmmsg, which pnet does not offer. Bound it stays when pnet
        // closes its own descriptor.
        let for_pnet = socket.try_clone().attempt(|| "duplicate a packet socket".to_owned())?;
        let config = Config { socket_fd: Some(for_pnet.into_raw_fd()), promiscuous: false, ..Config::default() };
        datalink::channel(&link, config).attempt(|| format!("bind a packet socket to {interface}"))?;
        Ok(Wire { socket, local, peer })
    }

    /// Opens it on `interface` towards whatever station has `address` on that link.
    pub fn towards(interface: &str, address: IpAddr) -> Result<Wire> {
        let local = datalink::interfaces()
            .into_iter()
            .find(|link| link.name == interface)
            .and_then(|link| link.mac)
            .ok_or_else(|| Error::NoInterface { name: interface.to_owned() })?;
        Wire::open(interface, Mac(local.octets()), neighbour(interface, address)?)
    }

    /// Sends one packet.
    pub fn send(&self, packet: &Packet) -> Result<()> {
        self.send_all(std::slice::from_ref(packet))
    }

    /// Sends packets in order, many to a system call.
    pub fn send_all(&self, packets: &[Packet]) -> Result<()> {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for chunk in packets.chunks(CHUNK) {
            frames.resize_with(chunk.len(), Vec::new);
            for (packet, frame) in chunk.iter().zip(&mut frames) {
                frame.clear();
                self.write_frame(packet, frame);
            }
            self.send_frames(&frames)?;
        }
        Ok(())
    }

    /// Sends whole Ethernet frames in order.
    pub fn send_frames(&self, frames: &[Vec<u8>]) -> Result<()> {
        let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            frames.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<MMsgHdr<'_>> =
            slices.iter().zip(&mut controls).map(|(slice, control)| MMsgHdr::new(slice, control)).collect();
        let mut sent = 0;
        while sent < messages.len() {
            match sendmmsg(&self.socket, &mut messages[sent..], SendFlags::empty()) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    self.wait(PollFlags::OUT, Duration::from_millis(100))?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).attempt(|| format!("send {} frames", frames.len())),
            }
        }
        Ok(())
    }

    /// The next packet from the peer that is an answer, or `None` when there is none before `deadline`.
    pub fn receive(&self, deadline: Instant) -> Result<Option<Reply>> {
        let mut frame = [0; 2048];
        loop {
            match rustix::io::read(&self.socket, &mut frame) {
                Ok(length) => {
                    // The socket sees what this host sends, too.
                    if length > 14
                        && frame[6..12] == self.peer.0
                        && let Some(reply) = Reply::parse(&frame[14..length])
                    {
                        return Ok(Some(reply));
                    }
                }
                Err(Errno::AGAIN) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    if left > SPIN {
                        self.wait(PollFlags::IN, left)?;
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).attempt(|| "receive from a packet socket".to_owned()),
            }
        }
    }

    /// The next frame, whoever it is from and for, as it is on the link: its length. `None` when there is none within
    /// `longest`.
    pub(crate) fn read_frame(&self, buffer: &mut [u8], longest: Duration) -> Result<Option<usize>> {
        for wait in [true, false] {
            match rustix::io::read(&self.socket, &mut *buffer) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::AGAIN) if wait => self.wait(PollFlags::IN, longest)?,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error).attempt(|| "receive from a packet socket".to_owned()),
            }
        }
        Ok(None)
    }

    /// Sends packets and returns all the answers to them.
    ///
    /// To know that a packet got none, nothing is waited for: a SYN from `fence` to a port that refuses goes after
    /// them, and once its reset is back, the others' answers are.
    pub fn answers(&self, packets: &[Packet], fence: SocketAddr) -> Result<Vec<Reply>> {
        let mut replies = Vec::new();
        while self.receive(Instant::now())?.is_some() {}
        for (number, chunk) in (1_u32..).zip(packets.chunks(CHUNK)) {
            let server = SocketAddr::new(chunk[0].destination.ip(), FENCE_PORT);
            let mut chunk = chunk.to_vec();
            chunk.push(Packet::syn(fence, server, number << 8));
            self.send_all(&chunk)?;
            let mut deadline = Instant::now() + FENCE_PATIENCE;
            let mut fenced = false;
            while let Some(reply) = self.receive(deadline)? {
                if reply.from == server && reply.to == fence && reply.acknowledgment == (number << 8) + 1 {
                    fenced = true;
                    deadline = Instant::now() + LINGER;
                } else if chunk.iter().any(|sent| sent.destination == reply.from && sent.source == reply.to) {
                    replies.push(reply);
                }
            }
            if !fenced {
                return Err(Error::TimedOut {
                    what: format!("the reset from port {FENCE_PORT} of {}", server.ip()),
                    seconds: FENCE_PATIENCE.as_secs_f32(),
                });
            }
        }
        Ok(replies)
    }

    /// The answer to one SYN from `source` to `destination`, `None` where it was dropped. See [`Wire::answers`].
    ///
    /// A half-open connection that this made is reset.
    pub fn syn_answer(&self, source: SocketAddr, destination: SocketAddr) -> Result<Option<Answer>> {
        let fence = SocketAddr::new(source.ip(), source.port() ^ 1);
        let answer = self.answers(&[Packet::syn(source, destination, 7)], fence)?.first().map(|reply| reply.answer);
        if matches!(answer, Some(Answer::Tcp(flags)) if flags.has(Flags::SYN)) {
            let mut reset = Packet::tcp(source, destination, Flags::RST);
            reset.transport = crate::Transport::Tcp { flags: Flags::RST, sequence: 8, acknowledgment: 0 };
            self.send(&reset)?;
        }
        Ok(answer)
    }

    /// Appends the Ethernet frame of a packet to `frame`.
    pub(crate) fn write_frame(&self, packet: &Packet, frame: &mut Vec<u8>) {
        frame.extend(self.peer.0);
        frame.extend(self.local.0);
        if let Some(tag) = packet.vlan {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(if packet.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        packet.write(frame);
    }

    fn wait(&self, events: PollFlags, longest: Duration) -> Result<()> {
        let timeout = Timespec::try_from(longest).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&self.socket, events)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error).attempt(|| "wait on a packet socket".to_owned()),
        }
    }
}

/// The hardware address that `address` has on that interface of the calling thread's namespace.
pub fn neighbour(interface: &str, address: IpAddr) -> Result<Mac> {
    // Any datagram makes the kernel resolve the address.
    let local: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = std::net::UdpSocket::bind(local).attempt(|| "open a UDP socket".to_owned())?;
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let _ = socket.send_to(&[0], (address, 9));
        let shown = Command::new("ip")
            .args(["neigh", "show", &address.to_string(), "dev", interface])
            .output()
            .attempt(|| "run `ip neigh`".to_owned())?;
        let text = String::from_utf8_lossy(&shown.stdout);
        let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr").skip(1);
        if let Some(Ok(mac)) = words.next().map(str::parse) {
            return Ok(mac);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Error::NoNeighbour { address, interface: interface.to_owned() })
}
