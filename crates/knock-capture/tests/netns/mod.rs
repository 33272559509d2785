//! Links in the namespace of the calling test, and the packets that it sends there.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::io::{self, Write as _};
use std::mem::zeroed;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use knock_capture::{Capture, Error, FilterClass, FilterSpec, Program};
use knock_proto::{Knock, TcpFlags};
use knock_testkit::{Mac, Wire, wait_until};
use rustix::event::{PollFd, PollFlags, poll};

/// Runs `ip` with these arguments in the thread's namespace.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip (iproute2) runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs many commands of `ip`, one a line, in one process.
pub(crate) fn ip_batch(commands: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip (iproute2) runs");
    child.stdin.take().expect("its input").write_all(commands.as_bytes()).expect("written");
    assert!(child.wait().expect("its status").success(), "ip -batch failed");
}

/// Writes a sysctl of the thread's namespace.
pub(crate) fn sysctl(path: &str, value: &str) {
    std::fs::write(format!("/proc/thread-self/root/proc/sys/{path}"), value)
        .unwrap_or_else(|error| panic!("cannot set the sysctl {path}: {error}"));
}

/// A veth pair, both ends up, without IPv6 so that nothing is sent on it unasked. Our end is `near` with 10.7.0.1 and
/// MAC address `NEAR`, the other is `far`.
pub(crate) fn veth(near: &str, far: &str) {
    ip(&format!("link add {near} address 02:00:00:00:00:01 type veth peer name {far} address 02:00:00:00:00:02"));
    for name in [near, far] {
        ip(&format!("link set {name} addrgenmode none"));
        ip(&format!("link set {name} up"));
    }
    // The end that was up first has no queue to send from before the kernel has noticed the carrier.
    for name in [near, far] {
        wait_until("the carrier is noticed", || shown(name).contains("state UP"));
    }
}

/// What `ip -details link show` says.
pub(crate) fn shown(interface: &str) -> String {
    let output = Command::new("ip").args(["-details", "link", "show", interface]).output().expect("ip (iproute2) runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Knocks until it is heard: after a link came up, the other end loses what it sends until the kernel has noticed the
/// carrier.
pub(crate) fn knock_until_heard(capture: &mut Capture, port: u16) {
    let sender = Sender::new("far");
    wait_until("a knock is heard", || {
        sender.knock(port);
        ready(capture, Duration::from_millis(50))
    });
    assert_eq!(destination_port(&receive(capture)), port);
    while let Ok(Some(_)) = capture.next() {}
}

pub(crate) const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub(crate) fn index_of(name: &str) -> u32 {
    rustix::net::netdevice::name_to_index(
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).expect("a socket"),
        name,
    )
    .unwrap_or_else(|error| panic!("no interface {name}: {error}"))
}

/// Whether the descriptor is readable (or in error) within `limit`.
pub(crate) fn ready(fd: &impl std::os::fd::AsFd, limit: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let limit = rustix::time::Timespec::try_from(limit).expect("a short time");
    poll(&mut fds, Some(&limit)).expect("poll") > 0
}

/// The last knock of a test: what was sent before it has arrived when it arrives.
pub(crate) const SENTINEL: u16 = 9999;

/// A program for these knocks and the sentinel.
pub(crate) fn program(ports: &[Knock]) -> Program {
    let mut ports = ports.to_vec();
    ports.push(Knock::tcp(SENTINEL));
    let classes = vec![FilterClass { tcp_flags: TcpFlags::FIRST_PACKET, ports }];
    let spec = FilterSpec { classes, interfaces: None, whole: None };
    Program::new(&spec)
}

/// A socket for these knocks and the sentinel on an interface, or on `any`.
pub(crate) fn capture(ports: &[Knock], interface: &str) -> Capture {
    let mut capture = Capture::open(&program(ports)).unwrap_or_else(|error| panic!("{error}"));
    let index = if interface == "any" { 0 } else { index_of(interface) };
    capture.bind(index).unwrap_or_else(|error| panic!("{error}"));
    capture
}

/// Takes all capabilities from this thread, as a daemon gives them up after its start.
pub(crate) fn drop_capabilities() {
    let empty = rustix::thread::CapabilitySets {
        effective: rustix::thread::CapabilitySet::empty(),
        permitted: rustix::thread::CapabilitySet::empty(),
        inheritable: rustix::thread::CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, empty).expect("capabilities given up");
}

/// A tun device (Documentation/networking/tuntap.rst in the kernel) whose packets begin at their IP header.
#[expect(
    unsafe_code,
    reason = "ioctl(2) alone makes a tun device, and no crate that is used here has a safe call for it"
)]
pub(crate) fn tun(name: &str) -> std::fs::File {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap_or_else(|error| panic!("cannot open /dev/net/tun, which this test needs: {error}"));
    // SAFETY: integers and pointers, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::try_from(from).expect("ASCII");
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("small flags");
    // SAFETY: the descriptor is open, and the kernel reads and writes the request, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "cannot make a tun device: {}", io::Error::last_os_error());
    file
}

/// The next packet, waited for.
pub(crate) fn receive(capture: &mut Capture) -> Vec<u8> {
    wait_until("a packet", || capture.next().unwrap_or_else(|error| panic!("{error}")).map(<[u8]>::to_vec))
}

/// All that is queued. On veth and lo, a packet is queued before the sender's call returns, or soon after by the
/// receiving softirq: a sentinel knock shows that everything before it has arrived.
pub(crate) fn ports_until(capture: &mut Capture, sentinel: u16) -> Vec<u16> {
    let mut ports = Vec::new();
    loop {
        let port = destination_port(&receive(capture));
        if port == sentinel {
            return ports;
        }
        ports.push(port);
    }
}

/// The next error, waited for; packets before it are left out.
pub(crate) fn error(capture: &mut Capture) -> Error {
    wait_until("an error", || capture.next().err())
}

pub(crate) fn destination_port(packet: &[u8]) -> u16 {
    let transport = match packet[0] >> 4 {
        4 => usize::from(packet[0] & 0x0f) * 4,
        6 => 40,
        version => panic!("not IP: version {version}"),
    };
    u16::from_be_bytes([packet[transport + 2], packet[transport + 3]])
}

/// A TCP header with these flags.
pub(crate) fn tcp(port: u16, flags: u8) -> Vec<u8> {
    let mut header = vec![0x9c, 0x40, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&port.to_be_bytes());
    header
}

/// A UDP datagram.
pub(crate) fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x9c, 0x40, 0, 0, 0, 0, 0, 0];
    datagram[2..4].copy_from_slice(&port.to_be_bytes());
    datagram[4..6].copy_from_slice(&u16::try_from(8 + payload.len()).expect("a short payload").to_be_bytes());
    datagram.extend_from_slice(payload);
    datagram
}

/// An IPv4 packet from 10.7.0.2 to 10.7.0.1.
pub(crate) fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 7, 0, 2, 10, 7, 0, 1];
    let length = u16::try_from(20 + payload.len()).expect("a short payload");
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("one carry");
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// An IPv6 packet from fd07::2 to fd07::1.
pub(crate) fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next_header, 64];
    packet[4..6].copy_from_slice(&u16::try_from(payload.len()).expect("a short payload").to_be_bytes());
    packet.extend_from_slice(&Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2).octets());
    packet.extend_from_slice(&Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1).octets());
    packet.extend_from_slice(payload);
    packet
}

/// An Ethernet frame from `far` to `destination`; with `tag`, in a VLAN.
pub(crate) fn frame(destination: [u8; 6], tag: Option<u16>, packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&destination);
    frame.extend_from_slice(&FAR);
    if let Some(tag) = tag {
        frame.extend_from_slice(&[0x81, 0]);
        frame.extend_from_slice(&tag.to_be_bytes());
    }
    frame.extend_from_slice(if packet[0] >> 4 == 6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
    frame.extend_from_slice(packet);
    frame
}

/// A packet socket that sends whole Ethernet frames out of an interface.
pub(crate) struct Sender(Wire);

impl Sender {
    pub(crate) fn new(interface: &str) -> Sender {
        Sender(Wire::open(interface, Mac(FAR), Mac(NEAR)).unwrap_or_else(|error| panic!("{error}")))
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        self.0.send_frames(&[frame.to_vec()]).unwrap_or_else(|error| panic!("{error}"));
    }

    /// A TCP knock to this host.
    pub(crate) fn knock(&self, port: u16) {
        self.send(&frame(NEAR, None, &ipv4(6, &tcp(port, 0x02))));
    }
}
