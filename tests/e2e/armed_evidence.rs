//! Evidence for doors: many deliberate tries to have the kernel open what the daemon alone would not. Commands of their own, since
//! they take minutes: `docs/studies/armed-knock.md` names them, with what came of them.

use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use knock_testkit::{Answer, Echo, Flags, Host, Network, Packet, Wire};
use serde_json::{Value, json};

use crate::armed::{configuration, listing};
use crate::support::{Daemon, elements, network, wait_until};

/// No rule of these is the beginning of another, and tripwires and other knocks are everywhere.
const SEQUENCE: [u16; 3] = [7000, 9000, 8000];
const OTHERS: [u16; 12] = [6999, 7000, 7001, 8999, 9001, 7999, 8001, 4000, 3000, 2000, 1999, 3001];
/// A daemon arms so many sources a second.
const EACH: Duration = Duration::from_micros(8300);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A server that is reached by a link with so many receive queues.
struct Ground {
    daemon: Daemon,
    wire: Wire,
    server: IpAddr,
    _service: Echo,
    _network: Network,
}

impl Ground {
    fn new(queues: u64) -> Ground {
        let network = network(1);
        let service = Echo::tcp(&network.server.namespace, 22).expect("a service");
        let (wire, server) = link(&network, queues);
        let web = json!({ "name": "web", "sequence": [4000, 3000, 2000], "allow": { "ports": [23], "timeout": "1h" } });
        let ssh = json!({ "name": "ssh", "sequence": SEQUENCE, "allow": { "ports": [22], "timeout": "1h" } });
        let mut all = configuration(&json!([ssh, web]));
        all["timeout"] = json!("4s");
        all["limits"] = json!({ "sources": 200_000 });
        all["log"] = json!({ "target": "stderr", "level": "info" });
        let daemon = Daemon::start(&network.server, all);
        Ground { daemon, wire, server, _service: service, _network: network }
    }

    fn send(&self, source: SocketAddr, port: u16) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let sequence = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) << 8;
        self.wire.send(&Packet::syn(source, SocketAddr::new(self.server, port), sequence)).expect("sent");
    }

    fn is_open(&self, source: SocketAddr) -> bool {
        let answer = self.wire.syn_answer(source, SocketAddr::new(self.server, 22)).expect("asked");
        matches!(answer, Some(Answer::Tcp(flags)) if flags.has(Flags::SYN))
    }

    fn counters(&self) -> Value {
        self.daemon.control_status()["counters"].take()
    }
}

/// A link beside the bridge with so many queues, each with a thread of the kernel of its own where there are several, so that
/// packets to different ports overtake each other.
fn link(network: &Network, queues: u64) -> (Wire, IpAddr) {
    let (server, client) = (&network.server, network.client());
    let queued = format!("numtxqueues {queues} numrxqueues {queues}");
    server
        .namespace
        .ip(&format!(
            "link add q0 address 02:00:00:00:01:01 {queued} type veth peer name q0 address 02:00:00:00:01:02 {queued} netns {}\n\
             addr add 10.78.0.1/24 dev q0\nlink set q0 up",
            client.namespace.pid()
        ))
        .expect("a link");
    client.namespace.ip("addr add 10.78.0.2/24 dev q0\nlink set q0 up\nroute add 10.64.0.0/11 dev q0").expect("a link");
    server.namespace.ip("route add 10.64.0.0/11 via 10.78.0.2").expect("a route");
    if queues > 1 {
        threads(server);
    }
    let address: IpAddr = [10, 78, 0, 1].into();
    let wire = wait_until("the link is up", || {
        client.namespace.run(|| Wire::towards("q0", address)).expect("in the namespace").ok()
    });
    (wire, address)
}

/// `ETHTOOL_SGRO` gives a veth its NAPI, and sysfs gives that threads.
fn threads(server: &Host) {
    let script = "import socket, struct, fcntl, array\n\
        value = array.array('B', struct.pack('II', 0x2c, 1))\n\
        request = struct.pack('16sP', b'q0', value.buffer_info()[0])\n\
        fcntl.ioctl(socket.socket(), 0x8946, request)";
    server.namespace.output(Command::new("python3").args(["-c", script]), "").expect("GRO");
    let script = "mount -t sysfs sysfs /sys && echo 1 > /sys/class/net/q0/threaded && cat /sys/class/net/q0/threaded";
    let shown = server.namespace.output(Command::new("unshare").args(["--mount", "sh", "-c", script]), "");
    assert_eq!(shown.expect("threads").trim(), "1");
}

/// Loops that never sleep, one for each processor.
struct Busy(Vec<Child>);

impl Busy {
    fn start(loops: usize) -> Busy {
        let one = || Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        Busy((0..loops).map(|_| one().expect("a loop")).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// All but the last knock, then a tripwire or another knock around the moment in which the source is armed, then the last knock.
fn tries(ground: &Ground, first: u32, count: u32) -> u32 {
    let mut random = fastrand::Rng::with_seed(u64::from(first) + 1);
    let (start, mut opened) = (Instant::now(), 0);
    // How long it takes until a source is armed is the machine's.
    let most = number("MOST_US", 1000);
    for number in 0..count {
        let source = SocketAddr::new(IpAddr::from((0x0a40_0000 + first + number).to_be_bytes()), 40_000);
        ground.send(source, SEQUENCE[0]);
        ground.send(source, SEQUENCE[1]);
        spin(Duration::from_micros(random.u64(..most)));
        ground.send(source, OTHERS[random.usize(..OTHERS.len())]);
        spin(Duration::from_micros(random.u64(..50)));
        ground.send(source, SEQUENCE[2]);
        opened += u32::from(ground.is_open(source));
        thread::sleep((EACH * (number + 1)).saturating_sub(start.elapsed()));
    }
    opened
}

/// `TRIES=25000 QUEUES=2 BUSY=2 cargo test --features evidence --test e2e -- --ignored --nocapture armed_evidence::a_knock`: four
/// daemons at once, which do not pause after a refusal.
#[test]
#[ignore = "evidence that takes minutes"]
fn a_knock_that_the_daemon_would_not_count_opens_nothing_in_many_tries() {
    let (all, queues) = (number("TRIES", 1000), number("QUEUES", 1));
    let daemons = number("DAEMONS", 4);
    let _busy = Busy::start(usize::try_from(number("BUSY", 0)).expect("few"));
    let count = u32::try_from(all / daemons).expect("a number");
    let results: Vec<(u32, Value)> = thread::scope(|scope| {
        let one = |place: u64| {
            let ground = Ground::new(queues);
            let first = u32::try_from(place).expect("few") * 0x0004_0000;
            let opened = tries(&ground, first, count);
            wait_until("everybody's time is over", || {
                (ground.daemon.control_status()["doors"]["armed"] == 0).then_some(())
            });
            (opened, ground.counters())
        };
        let running: Vec<_> = (0..daemons).map(|place| scope.spawn(move || one(place))).collect();
        running.into_iter().map(|thread| thread.join().expect("a run")).collect()
    });
    let sum = |name: &str| results.iter().map(|(_, counters)| counters[name].as_u64().unwrap_or(0)).sum::<u64>();
    let opened: u32 = results.iter().map(|(opened, _)| opened).sum();
    println!(
        "{all} tries, {queues} queues: {} armed, {} refused by the kernel, {opened} seen open, {} completed in the engine, \
         {} opened by the kernel alone, {} lost by the capture",
        sum("armed"),
        sum("armed_refused"),
        sum("completed"),
        sum("armed_unconfirmed"),
        sum("kernel_dropped"),
    );
    assert_eq!(sum("armed_unconfirmed"), 0);
    assert!(u64::from(opened) <= sum("completed"));
    assert!(queues > 1 || opened == 0);
}

/// `ROUNDS=100 cargo test --test e2e -- --ignored --nocapture armed_evidence::a_kill`.
#[test]
#[ignore = "evidence that takes minutes"]
fn a_kill_at_any_moment_leaves_nothing_that_the_next_start_does_not_end() {
    let rounds = number("ROUNDS", 20);
    let network = network(1);
    let _service = Echo::tcp(&network.server.namespace, 22).expect("a service");
    let (wire, server) = link(&network, 1);
    let ssh = json!({ "name": "ssh", "sequence": SEQUENCE, "allow": { "ports": [22], "timeout": "1h" } });
    let mut daemon = Daemon::start(&network.server, configuration(&json!([ssh])));
    let (mut strays, mut granted) = (0, 0);
    for round in 0..u32::try_from(rounds).expect("few") {
        let source = IpAddr::from((0x0a40_0000 + round).to_be_bytes());
        let from = SocketAddr::new(source, 40_000);
        let knocks = SEQUENCE.map(|port| Packet::syn(from, SocketAddr::new(server, port), (round + 1) << 8));
        wire.send_all(&knocks[..2]).expect("sent");
        spin(Duration::from_micros(fastrand::u64(..1500)));
        wire.send(&knocks[2]).expect("sent");
        spin(Duration::from_micros(fastrand::u64(..1500)));
        let directory = daemon.kill();
        let before = elements(&network.server, "grants4");
        let stray = before.iter().any(|element| element.address == source && element.comment.is_none());
        daemon = Daemon::start_again(&network.server, directory);
        let after = elements(&network.server, "grants4");
        assert!(after.iter().all(|element| element.comment.as_deref() == Some("ssh")), "{after:?}");
        assert!(!listing(&network.server).contains(&format!("{source} timeout 10s")), "armed");
        strays += u32::from(stray);
        granted += u32::from(after.iter().any(|element| element.address == source));
    }
    println!("{rounds} kills: {granted} grants were confirmed and adopted, {strays} stray elements were deleted");
}
