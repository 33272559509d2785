//! What a confined process can and can't do, tried from inside, each in a process of its own: this program again.
//!
//! A debug build is killed by a system call that it may not make, and a release build is refused it. Root, or a user
//! namespace, is needed as for the other tests with networks.

#![expect(unsafe_code, reason = "an intruder runs any system call")]

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{fs, hint, thread};

use knockd::{Confinement, confine_ear};
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::fs::MemfdFlags;
use rustix::io::{Errno, FdFlags};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, sendto, socket_with, socketpair,
};
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

type Attempt = fn(&Sockets) -> io::Result<()>;

/// What an ear may not do.
const REFUSED: &[(&str, Attempt)] = &[
    ("open an IPv4 socket", |_| socket(AddressFamily::INET)),
    ("open a Unix socket", |_| socket(AddressFamily::UNIX)),
    ("open a packet socket", |_| socket(AddressFamily::PACKET)),
    ("open a netlink socket", |_| socket(AddressFamily::NETLINK)),
    ("open a file", |_| fs::File::open("/etc/passwd").map(drop)),
    ("make a file", |_| fs::write("/tmp/of-the-ear", "").map(drop)),
    ("start a program", |_| Command::new("/bin/true").status().map(drop)),
    ("become another program", |_| call(libc::SYS_execve, [c"/bin/true".as_ptr() as i64, 0, 0, 0, 0, 0])),
    ("make a process", |_| call(libc::SYS_clone, [i64::from(libc::SIGCHLD), 0, 0, 0, 0, 0])),
    ("start a thread", |_| thread::Builder::new().spawn(|| ()).map(drop)),
    ("map new code", |_| map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)),
    ("map a file", |sockets| map(libc::PROT_READ, libc::MAP_PRIVATE, sockets.memory.as_raw_fd())),
    ("make memory executable", |_| call(libc::SYS_mprotect, [0, 4096, i64::from(libc::PROT_EXEC), 0, 0, 0])),
    ("trace its parent", |_| call(libc::SYS_ptrace, [i64::from(libc::PTRACE_ATTACH), parent(), 0, 0, 0, 0])),
    ("kill its parent", |_| call(libc::SYS_kill, [parent(), 0, 0, 0, 0, 0])),
    ("read the memory of its parent", |_| call(libc::SYS_process_vm_readv, [parent(), 0, 0, 0, 0, 0])),
    ("make a namespace", |_| call(libc::SYS_unshare, [i64::from(libc::CLONE_NEWUSER), 0, 0, 0, 0, 0])),
    ("send to the network by address", |sockets| {
        let mut address = [0_u8; 20];
        address[..2].copy_from_slice(&17_u16.to_ne_bytes());
        address[4..8].copy_from_slice(&1_i32.to_ne_bytes());
        let [packet, to] = [i64::from(sockets.packet.as_raw_fd()), address.as_ptr() as i64];
        call(libc::SYS_sendto, [packet, address.as_ptr() as i64, 20, 0, to, 20])
    }),
    ("send to the network without an address", |sockets| {
        call(libc::SYS_sendto, [i64::from(sockets.packet.as_raw_fd()), [0_u8; 20].as_ptr() as i64, 20, 0, 0, 12])
    }),
    ("send a message to the network", |sockets| {
        Ok(sendmsg(&sockets.packet, &[io::IoSlice::new(b"x")], &mut SendAncillaryBuffer::default(), SendFlags::empty())
            .map(drop)?)
    }),
    ("write to the network", |sockets| Ok(rustix::io::write(&sockets.packet, b"x").map(drop)?)),
    ("close the socket to its parent", |_| call(libc::SYS_close, [2, 0, 0, 0, 0, 0])),
    ("put another socket in the place of that to its parent", |sockets| {
        call(libc::SYS_dup3, [i64::from(sockets.packet.as_raw_fd()), 2, 0, 0, 0, 0])
    }),
    ("hear everything on an interface", |sockets| {
        let [level, option] = [libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP].map(i64::from);
        call(libc::SYS_setsockopt, [i64::from(sockets.packet.as_raw_fd()), level, option, 0, 0, 0])
    }),
    ("configure an interface", |sockets| {
        call(libc::SYS_ioctl, [i64::from(sockets.packet.as_raw_fd()), 0x8914, 0, 0, 0, 0])
    }),
    ("change a link", |sockets| {
        // RTM_NEWLINK: the kernel asks for a capability.
        ask(&sockets.netlink, 16, libc::NLM_F_REQUEST | libc::NLM_F_ACK)?;
        let mut answer = [0; 256];
        recv(&sockets.netlink, &mut answer, RecvFlags::empty())?;
        let error = i32::from_ne_bytes(answer[16..20].try_into().expect("four bytes"));
        if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-error)) }
    }),
];

/// What its parent hands to an ear.
struct Sockets {
    packet: OwnedFd,
    netlink: OwnedFd,
    memory: OwnedFd,
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("ear") => ear(&std::env::args().nth(2).expect("what to try")),
        Some("parent") => {
            let (child, socket) = start("stay");
            assert_eq!(receive(&socket).as_deref(), Some("confined"));
            println!("{}", child.id());
            // It ends, and the ear with it.
        }
        // `--list` and names of tests are for other test programs.
        _ => tests(),
    }
}

fn tests() {
    let not_refused = REFUSED.iter().filter_map(|(what, _)| {
        let (status, told) = run(what);
        (!is_refused(status, &told)).then(|| format!("{what}: {status}, {told:?}"))
    });
    assert_eq!(not_refused.collect::<Vec<_>>(), Vec::<String>::new());
    it_works();
    what_is_said_and_seen_of_it();
    a_panic_is_reported();
    an_overflow_of_the_stack_ends_it();
    it_ends_with_its_parent();
    println!("{} attempts were refused", REFUSED.len());
}

fn is_refused(status: ExitStatus, told: &[String]) -> bool {
    let refused = [Errno::PERM, Errno::ACCESS].map(|errno| format!("refused {}", errno.raw_os_error()));
    if status.signal() == Some(libc::SIGSYS) {
        return cfg!(debug_assertions) && told == ["confined"];
    }
    status.success() && matches!(told, [first, second] if first == "confined" && refused.contains(second))
}

fn it_works() {
    let (status, told) = run("work");
    assert!(status.success(), "{status}, {told:?}");
    assert_eq!(told, ["confined", "by standard error", "worked"], "{status}");
}

fn a_panic_is_reported() {
    let (status, told) = run("panic");
    assert!(told.iter().any(|text| text.contains("this is the end")), "{status}, {told:?}");
    assert_eq!(status.code(), Some(101));
}

fn an_overflow_of_the_stack_ends_it() {
    let (status, told) = run("overflow");
    assert!(status.signal().is_some(), "{status}, {told:?}");
}

fn it_ends_with_its_parent() {
    let output = Command::new(this()).arg("parent").stderr(Stdio::inherit()).output().expect("this program");
    let ear: u32 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("the id of a process");
    let since = Instant::now();
    while fs::read_to_string(format!("/proc/{ear}/stat")).is_ok_and(|text| !text.contains(") Z")) {
        assert!(since.elapsed() < Duration::from_secs(60), "the ear lives on");
        thread::sleep(Duration::from_millis(10));
    }
}

/// What the ear says of itself, and what is seen from outside.
fn what_is_said_and_seen_of_it() {
    // An open descriptor that a program inherits.
    let inherited = fs::File::open("/etc/passwd").expect("a file");
    rustix::io::fcntl_setfd(&inherited, FdFlags::empty()).expect("an open descriptor");
    let (mut child, socket) = start("report");
    let confinement: Confinement = serde_json::from_str(&receive(&socket).expect("a message")).expect("what it says");
    let place = |name: &str| format!("/proc/{}/{name}", child.id());
    let status = fs::read_to_string(place("status")).expect("a running process");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("{name} is not in {status}"))
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp"), field("Threads")), ("1", "2", "1"));
    // As another user than root, it stays that one.
    let becomes_another = rustix::process::geteuid().is_root() && is_user_mapped(65_534);
    let own = if becomes_another { 65_534 } else { rustix::process::geteuid().as_raw() };
    if !becomes_another || !fs::read_to_string("/etc/passwd").expect("a file").contains("knockd-ear:") {
        assert_eq!(field("Uid"), format!("{own}\t{own}\t{own}\t{own}"));
    }
    if becomes_another {
        assert_eq!(field("CapBnd"), "0000000000000000");
        assert_eq!((field("Gid") == "0\t0\t0\t0", field("Groups").trim()), (false, ""));
    }
    let namespace = |name: &str| fs::read_link(name).expect("a running process");
    assert_ne!(namespace(&place("ns/net")), namespace("/proc/self/ns/net"));
    let open = fs::read_dir(place("fd")).expect("a running process").flatten();
    let open: BTreeSet<String> = open.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(open, BTreeSet::from(["0", "1", "2"].map(str::to_owned)), "it is asleep, with nothing else open");

    let said = serde_json::to_value(&confinement.protections).expect("plain data");
    assert_eq!(said["capabilities"], serde_json::json!([]));
    let in_force =
        ["system_call_filter", "no_new_privileges", "memory_is_private", "landlock", "own_network", "no_new_code"];
    for name in in_force {
        assert_eq!(said[name], true, "{name}: {:?}", confinement.missing);
    }
    if becomes_another {
        assert_eq!(confinement.missing, []);
    }
    drop(socket);
    child.kill().expect("a running process");
    child.wait().expect("it has ended");
}

/// Whether there is such a user in this user namespace.
fn is_user_mapped(uid: u32) -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").expect("a file");
    map.lines().any(|line| {
        let numbers: Vec<u32> = line.split_whitespace().flat_map(str::parse).collect();
        (numbers[0]..=numbers[0].saturating_add(numbers[2] - 1)).contains(&uid)
    })
}

fn this() -> std::path::PathBuf {
    std::env::current_exe().expect("this program")
}

/// Starts an ear that tries that.
fn start(what: &str) -> (Child, OwnedFd) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair of sockets");
    let theirs = || Stdio::from(theirs.try_clone().expect("a descriptor"));
    let mut command = Command::new(this());
    command.args(["ear", what]).env_remove("RUST_BACKTRACE").stdin(theirs()).stdout(theirs()).stderr(theirs());
    (command.spawn().expect("this program"), ours)
}

/// How an ear ended, and what it sent.
fn run(what: &str) -> (ExitStatus, Vec<String>) {
    let (mut child, socket) = start(what);
    hand_over(&socket);
    let told = std::iter::from_fn(|| receive(&socket)).collect();
    (child.wait().expect("it has ended"), told)
}

fn receive(socket: &OwnedFd) -> Option<String> {
    let mut buffer = [0; 4096];
    let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty()).unwrap_or((0, 0));
    (length > 0).then(|| String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn hand_over(socket: &OwnedFd) {
    let open = |family, protocol| socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol);
    let packet = open(AddressFamily::PACKET, None).expect("a packet socket; is this root?");
    let netlink = open(AddressFamily::NETLINK, None).expect("a netlink socket");
    let memory = rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC).expect("a file in memory");
    rustix::io::write(&memory, b"a long message").expect("room");
    let descriptors = [packet.as_fd(), netlink.as_fd(), memory.as_fd()];
    let mut space = [MaybeUninit::uninit(); 128];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    // Where it has ended already, that is what the test finds out.
    let _ = sendmsg(socket, &[io::IoSlice::new(b"sockets")], &mut ancillary, SendFlags::NOSIGNAL);
}

/// The confined process.
fn ear(what: &str) {
    PARENT.set(std::os::unix::process::parent_id()).expect("known for the first time");
    let confinement = confine_ear().expect("confined");
    let tell = |text: &str| assert_eq!(send(parent_socket(), text.as_bytes(), SendFlags::NOSIGNAL), Ok(text.len()));
    match what {
        "report" => {
            tell(&serde_json::to_string(&confinement).expect("plain data"));
            let _end = recv(parent_socket(), &mut [0; 1], RecvFlags::empty());
            return;
        }
        _ => tell("confined"),
    }
    if what == "stay" {
        loop {
            let _ = poll(&mut [], None);
        }
    }
    let sockets = take_sockets();
    match what {
        "work" => work(&sockets),
        "panic" => panic!("this is the end"),
        "overflow" => println!("{}", overflow(0)),
        what => {
            let (_, attempt) = REFUSED.iter().find(|(name, _)| *name == what).expect("one of the list");
            match attempt(&sockets) {
                Ok(()) => tell("done"),
                Err(error) => tell(&format!("refused {}", error.raw_os_error().unwrap_or(0))),
            }
        }
    }
    if what == "work" {
        tell("worked");
    }
}

fn parent_socket() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

fn take_sockets() -> Sockets {
    let (mut text, mut space) = ([0; 16], [MaybeUninit::uninit(); 128]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(parent_socket(), &mut [io::IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .expect("sockets");
    let taken = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let [packet, netlink, memory] = taken.flatten().collect::<Vec<_>>().try_into().expect("three descriptors");
    Sockets { packet, netlink, memory }
}

/// What an ear does all day.
fn work(sockets: &Sockets) {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC).expect("a timer");
    epoll::add(&epoll, &timer, epoll::EventData::new_u64(1), epoll::EventFlags::IN).expect("watched");
    drop(sockets.packet.try_clone().expect("another descriptor of it"));
    let ready = poll(&mut [PollFd::new(&sockets.packet, PollFlags::IN)], Some(&rustix::time::Timespec::default()));
    assert_eq!(ready, Ok(0));
    let mut text = [0; 64];
    assert_eq!(rustix::io::pread(&sockets.memory, &mut text, 0), Ok(14));
    eprint!("by standard error");
    // RTM_GETLINK: the links are those of the parent's network, where the socket was opened.
    ask(&sockets.netlink, 18, libc::NLM_F_REQUEST | libc::NLM_F_DUMP).expect("asked");
    let mut links = vec![0; 32 << 10];
    let (length, _) = recv(&sockets.netlink, &mut links[..], RecvFlags::empty()).expect("links");
    assert!(links[..length].windows(3).any(|bytes| bytes == b"lo\0"));
    // Large and small, growing and shrinking: brk, mmap, mremap, munmap, madvise.
    let mut much: Vec<u64> = Vec::new();
    let mut map = HashMap::new();
    for number in 0..1_000_000 {
        much.push(number);
        map.insert(number, vec![0_u8; 16]);
    }
    assert_eq!(hint::black_box(&much).len(), hint::black_box(&map).len());
    much.truncate(1);
    much.shrink_to_fit();
    drop(map);
    assert!(Instant::now().elapsed() < Duration::from_secs(60));
}

/// Sends a request of this kind about links to the kernel.
fn ask(netlink: &OwnedFd, kind: u16, flags: libc::c_int) -> io::Result<()> {
    let mut request = [0_u8; 32];
    request[..4].copy_from_slice(&32_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&u16::try_from(flags).expect("16 bits").to_ne_bytes());
    // `ifinfomsg.ifi_index`: the loopback interface.
    request[20..24].copy_from_slice(&i32::from(kind == 16).to_ne_bytes());
    sendto(netlink, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    Ok(())
}

fn socket(family: AddressFamily) -> io::Result<()> {
    Ok(socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map(drop)?)
}

fn map(protection: libc::c_int, flags: libc::c_int, descriptor: libc::c_int) -> io::Result<()> {
    let [protection, flags, descriptor] = [protection, flags, descriptor].map(i64::from);
    call(libc::SYS_mmap, [0, 4096, protection, flags, descriptor, 0])
}

fn call(number: libc::c_long, arguments: [i64; 6]) -> io::Result<()> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: none. It is refused, or the test fails.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The process that started this one; an ear may not even ask.
static PARENT: OnceLock<u32> = OnceLock::new();

fn parent() -> i64 {
    i64::from(*PARENT.get().expect("known"))
}

#[expect(unconditional_recursion, reason = "the stack is to overflow")]
fn overflow(depth: u64) -> u64 {
    hint::black_box([depth; 64])[1] + overflow(depth + 1)
}
