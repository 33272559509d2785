//! A real Docker behind the gate: strangers neither reach published ports nor recognise them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use knock_testkit::{Answer, Echo, Flags, Host, Network, Packet, Reach, Session, Wire};
use serde_json::json;

use crate::doctor::doctor;
use crate::support::{Client, Daemon, Docker, at, at4, at6, knock, network, wait_for_grant, wire};

/// Guarded ports, of TCP and of UDP: published by a container, served by the host, and empty.
const PUBLISHED: (u16, u16) = (8080, 5353);
const LOCAL: (u16, u16) = (22, 53);
const EMPTY: (u16, u16) = (23, 54);
/// What the container publishes.
const PORTS: [(&str, &str); 2] = [("8080", "80/tcp"), ("5353", "53/udp")];

const SCANS: [(&str, Flags); 9] = [
    ("SYN", Flags::SYN),
    ("ACK", Flags::ACK),
    ("FIN", Flags::FIN),
    ("NULL", Flags::NONE),
    ("Xmas", Flags(0x29)),
    ("Maimon", Flags(0x11)),
    ("SYN and ACK", Flags(0x12)),
    ("RST", Flags::RST),
    ("window", Flags(0x18)),
];

fn guard(server: &Host) -> Daemon {
    let ports = json!([8080, 22, 23, "5353/udp", "53/udp", "54/udp"]);
    let rule = json!({ "name": "app", "sequence": [7000, 9000, 8000], "allow": { "ports": ports, "timeout": "1h" } });
    Daemon::start(server, json!({ "rules": [rule] }))
}

/// Has client 1 knock in both families.
fn grant(network: &Network) {
    let friend = &network.clients[1];
    let wire = friend.wire(&network.server).expect("a packet socket for the client");
    for address in [IpAddr::from(friend.v4), friend.v6.into()] {
        knock(&wire, address, &[7000, 9000, 8000]);
        wait_for_grant(&network.server, address, ("tcp", 8080));
    }
}

/// What a stranger sees of an answer.
type Look = (Answer, u8, u16);

/// Compares what the ports answer to a stranger. No two probes are from the same port: what is tracked of one must not
/// decide what becomes of another.
struct Stranger<'a> {
    wire: Wire,
    network: &'a Network,
    next: u16,
}

impl Stranger<'_> {
    #[track_caller]
    fn sees_no_difference(&mut self, state: &str) {
        let mut different = Vec::new();
        for source in [IpAddr::from(self.network.client().v4), self.network.client().v6.into()] {
            for (name, flags) in SCANS {
                for hops in [64, 1] {
                    let probe = |from, port| Packet { hops, ..Packet::tcp(from, at(source, port), flags) };
                    let looks = self.looks(source, [PUBLISHED.0, LOCAL.0, EMPTY.0], probe);
                    if looks.iter().any(|look| look != &looks[0]) {
                        different.push(format!("{name} with {hops} hops from {source}: {looks:?}"));
                    }
                }
            }
            let probe = |from, port| Packet::udp(from, at(source, port));
            let looks = self.looks(source, [PUBLISHED.1, LOCAL.1, EMPTY.1], probe);
            if looks.iter().any(|look| !look.is_empty()) {
                different.push(format!("UDP from {source}: {looks:?}"));
            }
        }
        assert!(different.is_empty(), "{state}:\n{}", different.join("\n"));
    }

    fn looks(&mut self, source: IpAddr, ports: [u16; 3], probe: impl Fn(SocketAddr, u16) -> Packet) -> [Vec<Look>; 3] {
        self.next += 1;
        let from = SocketAddr::new(source, self.next);
        let packets = ports.map(|port| probe(from, port));
        let fence = SocketAddr::new(source, 9_999);
        let mut answers: HashMap<u16, Vec<Look>> = HashMap::new();
        for reply in self.wire.answers(&packets, fence).expect("the answers") {
            answers.entry(reply.from.port()).or_default().push((reply.answer, reply.hops, reply.window));
        }
        ports.map(|port| answers.remove(&port).unwrap_or_default())
    }
}

#[test]
fn a_stranger_cannot_tell_a_published_port_from_a_local_or_an_empty_one() {
    let network = network(2);
    let (server, friend) = (&network.server, &network.clients[1]);
    let _services =
        (Echo::tcp(&server.namespace, 22).expect("a service"), Echo::udp(&server.namespace, 53).expect("a service"));
    let mut docker = Docker::start(server, &[]);
    docker.run("app", &PORTS);
    let _daemon = guard(server);
    grant(&network);
    let mut stranger = Stranger { wire: wire(&network), network: &network, next: 10_000 };
    let is_up = || [at4(8080), at6(8080)].into_iter().for_each(|port| friend.wait_until_open(port));

    is_up();
    stranger.sees_no_difference("with a container");
    docker.order("app", "restart");
    is_up();
    stranger.sees_no_difference("after its restart");
    docker.order("app", "stop");
    assert_eq!(friend.tcp(at4(8080)), Reach::Refused);
    stranger.sees_no_difference("while it is stopped");
    docker.order("app", "start");
    let tried = closed_while(&network, || {
        docker.restart(&["--userland-proxy=false"]);
        is_up();
    });
    assert!(tried > 10, "{tried} attempts of a stranger");
    stranger.sees_no_difference("after a restart of dockerd, without its proxy");
    docker.order("app", "restart");
    is_up();
    stranger.sees_no_difference("after another restart of the container");
    docker.order("app", "stop");
    assert_eq!(friend.tcp(at4(8080)), Reach::Refused);
    stranger.sees_no_difference("while it is stopped, without the proxy");
}

#[test]
fn grants_and_sessions_outlive_restarts_of_docker_and_closed_ports_stay_closed() {
    let network = network(2);
    let (server, friend) = (&network.server, &network.clients[1]);
    let mut docker = Docker::start(server, &["--live-restore"]);
    docker.run("app", &PORTS);
    let _daemon = guard(server);
    grant(&network);
    let is_up = || [at4(8080), at6(8080)].into_iter().for_each(|port| friend.wait_until_open(port));
    is_up();
    let mut sessions = [friend.session(at4(8080)), friend.session(at6(8080))];
    let tried = closed_while(&network, || {
        // With --live-restore dockerd leaves its containers running.
        docker.restart(&["--live-restore"]);
        assert!(sessions.iter_mut().all(Session::is_alive), "a session that was let in goes on");
        is_up();
        docker.order("app", "restart");
        is_up();
    });
    assert!(tried > 10, "{tried} attempts of a stranger");
}

#[test]
fn the_ruleset_for_neighbours_shuts_the_way_by_the_containers_own_addresses() {
    let network = network(2);
    let (server, friend, neighbour) = (&network.server, &network.clients[1], network.client());
    let docker = Docker::start(server, &[]);
    docker.run("app", &PORTS);
    docker.run("local", &[("127.0.0.1:8081", "80/tcp")]);
    docker.run("twice", &[("8082", "80/tcp"), ("23", "80/tcp")]);
    let daemon = guard(server);
    grant(&network);
    friend.wait_until_open(at4(8080));
    server.wait_until_open(([127, 0, 0, 1], 8081).into());
    let routes = format!("route add 172.17.0.0/16 via {}\nroute add fd00:d0c::/64 via {}\n", server.v4, server.v6);
    neighbour.namespace.ip(&routes).expect("a neighbour who knows where containers are");
    // What is published for 127.0.0.1 is published over IPv4 alone.
    let containers = [&docker.addresses("app")[..], &docker.addresses("local")[..1]].concat();

    for address in [at4(8080), at6(8080), at4(23), at6(23)] {
        assert_eq!(neighbour.tcp(address), Reach::Filtered, "{address} is guarded");
    }
    assert_eq!(neighbour.tcp(at4(8082)), Reach::Open, "another port that leads to the same container is not guarded");
    // Docker has a rule of its own against it from its version 28 on.
    if docker.version() < 28 {
        for address in &containers {
            assert_eq!(neighbour.tcp((*address, 80).into()), Reach::Open, "{address}");
        }
    }
    let told = |text: &str| {
        let findings = doctor(server, &daemon, "8080/tcp").0;
        findings.iter().filter(|finding| finding["text"].as_str().is_some_and(|own| own.contains(text))).count()
    };
    // No other port leads to the first container, and each of the ports of the third to the same one.
    assert_eq!(told("past the gate"), if docker.version() < 28 { 2 } else { 0 }, "in each family");
    assert_eq!(doctor(server, &daemon, "23/tcp").0.iter().filter(|f| f.to_string().contains("8082/tcp")).count(), 2);
    server.namespace.nft(include_str!("../../examples/docker-neighbours.nft")).expect("the ruleset");
    assert_eq!(told("past the gate"), 0);
    for address in &containers {
        assert_eq!(neighbour.tcp((*address, 80).into()), Reach::Filtered, "{address}");
        assert_eq!(server.tcp((*address, 80).into()), Reach::Open, "{address} from the host itself");
    }
    assert_eq!([friend.tcp(at4(8080)), friend.tcp(at6(8080))], [Reach::Open; 2], "a granted address gets in");
    let _elsewhere = Echo::tcp(&friend.namespace, 7777).expect("a service of another host");
    for address in [IpAddr::from(friend.v4), friend.v6.into()] {
        let reply = docker.run_in("app", &format!("exec 3<>/dev/tcp/{address}/7777; echo hello >&3; head -n 1 <&3"));
        assert_eq!(reply, "hello\n", "a container reaches {address}");
    }
}

/// Has client 0 try the published port all the while, in both families. How often it did.
fn closed_while(network: &Network, work: impl FnOnce()) -> u16 {
    let wire = wire(network);
    let stop = AtomicBool::new(false);
    let sources = [IpAddr::from(network.client().v4), network.client().v6.into()];
    thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            let mut tried = 0;
            while !stop.load(Ordering::Relaxed) {
                for source in sources {
                    let probe = Packet::syn(SocketAddr::new(source, 10_000 + tried % 50_000), at(source, 8080), 7);
                    let answers = wire.answers(&[probe], SocketAddr::new(source, 9_999)).expect("the answers");
                    assert_eq!(answers, [], "attempt {tried} from {source}");
                }
                tried += 1;
            }
            tried
        });
        let stop = Stop(&stop);
        work();
        drop(stop);
        stranger.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Ends the stranger's attempts also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
