//! Packets that reach a service of this host by another way than an address of its own and the port that they name.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use knock_testkit::{Network, Packet, Wire};
use serde_json::json;

use crate::support::{Arrivals, Daemon, element, knock, network, syns, wait_for_grant, wait_until, wire};

/// The addresses that the packets go to.
const ADDRESSES: [&str; 2] = ["10.99.0.1", "fd99::1"];

/// A way in: its name, what `ip` does for it, what `nft` does, and the port that the client sends to.
type Way = (&'static str, &'static str, &'static str, u16);

const OWN_ADDRESSES: &str = "addr add ADDRESS dev lo";

const WAYS: [Way; 5] = [
    (
        "a local route that a rule by interface chooses",
        "route add local NET dev lo table 100\nrule add iif eth0 lookup 100",
        "",
        22,
    ),
    (
        "a local route that a rule by mark chooses, as for a transparent proxy",
        "route add local NET dev lo table 100\nrule add fwmark 1 lookup 100",
        "table inet theirs { chain c { type filter hook prerouting priority -160
           ip daddr 10.99.0.0/24 meta mark set 1
           ip6 daddr fd99::/64 meta mark set 1
         }; }",
        22,
    ),
    ("a local route in the table main", "route add local NET dev lo table main", "", 22),
    (
        "a redirect from a port that is not guarded",
        OWN_ADDRESSES,
        "table inet theirs { chain c { type nat hook prerouting priority dstnat; tcp dport 2222 redirect to :22; }; }",
        2222,
    ),
    (
        "a translation from another address and a port that is not guarded",
        OWN_ADDRESSES,
        "table inet theirs { chain c { type nat hook prerouting priority dstnat
           ip daddr 10.99.0.1 tcp dport 2222 dnat ip to 10.77.0.1:22
           ip6 daddr fd99::1 tcp dport 2222 dnat ip6 to [fd77::1]:22
         }; }",
        2222,
    ),
];

/// Sends a SYN that way, from a port of its own, and says whether the service's port got it.
fn arrives(network: &Network, wire: &Wire, arrivals: &mut Arrivals, source: IpAddr, (.., port): Way) -> bool {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let address = ADDRESSES[usize::from(source.is_ipv6())].parse().expect("an address");
    let from = SocketAddr::new(source, number);
    wire.send(&Packet::syn(from, SocketAddr::new(address, port), 1)).expect("sent");
    arrivals.wait_for_all(wire, from, SocketAddr::new(network.server.address(source), number));
    arrivals.has(from, 22)
}

/// What `ip` does for both addresses.
fn route(network: &Network, lines: &str) {
    for (version, net, address) in [("-4", "10.99.0.0/24", ADDRESSES[0]), ("-6", "fd99::/64", ADDRESSES[1])] {
        let mut ip = Command::new("ip");
        let lines = lines.replace("NET", net).replace("ADDRESS", address);
        network.server.namespace.output(ip.args([version, "-batch", "-"]), &lines).expect("routes");
    }
}

/// Knocks from `source` at the server's address that only a route makes local.
fn knock_at_route(wire: &Wire, source: IpAddr) {
    let address: IpAddr = ADDRESSES[usize::from(source.is_ipv6())].parse().expect("an address");
    let mut packets = syns(source, &[7000, 8000]);
    packets.iter_mut().for_each(|packet| packet.destination.set_ip(address));
    wire.send_all(&packets).expect("the knock is sent");
}

fn addresses(last: u8) -> [IpAddr; 2] {
    [[198, 18, 0, last].into(), [0xfd88, 0, 0, 0, 0, 0, 0, last.into()].into()]
}

#[test]
fn a_knock_at_an_address_that_only_a_route_makes_local_opens_it() {
    for way in [("", "route add local NET dev lo", "", 22), WAYS[0], WAYS[1], WAYS[2]] {
        let (name, routes, ..) = way;
        let network = network(1);
        let (server, wire) = (&network.server, wire(&network));
        let ssh = json!({ "name": "ssh", "sequence": [7000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
        let fence = json!({ "name": "fence", "sequence": [9100, 9200], "allow": { "ports": [99], "timeout": "1h" } });
        let configuration = json!({ "rules": [ssh, fence] });
        let mut daemon = Daemon::start(server, configuration.clone());
        let opens = |source| {
            knock_at_route(&wire, source);
            knock(&wire, source, &[9100, 9200]);
            wait_for_grant(server, source, ("tcp", 99));
            element(server, source, ("tcp", 22)).is_some()
        };
        assert!(!addresses(1).into_iter().any(opens), "{name}: there is no route yet");
        for (lines, expected) in [(routes.to_owned(), true), (routes.replace("add", "del"), false)] {
            route(&network, &lines);
            for family in 0..2 {
                // A knock may come before the news of the route.
                let mut last = if expected { 10 } else { 100 };
                wait_until(&format!("{name}: {lines}"), || {
                    last += 1;
                    opens(addresses(last)[family]) == expected
                });
            }
        }
        route(&network, routes);
        assert!(daemon.stop().success());
        let _daemon = Daemon::start(server, configuration);
        assert!(addresses(2).into_iter().all(opens), "{name}: the route is there at the start");
    }
}

#[test]
fn no_way_of_routing_or_translating_brings_a_stranger_to_a_guarded_port() {
    for way in WAYS {
        let (name, routes, rules, _) = way;
        let network = network(1);
        let server = &network.server;
        let wire = wire(&network);
        let mut arrivals = Arrivals::watch(&server.namespace);
        route(&network, routes);
        server.namespace.nft(rules).expect("rules");
        let strangers: [IpAddr; 2] = [[198, 18, 0, 7].into(), [0xfd88, 0, 0, 0, 0, 0, 0, 7].into()];
        for source in strangers {
            assert!(arrives(&network, &wire, &mut arrivals, source, way), "{name}: {source}, without a gate");
        }
        let rule = json!({ "name": "ssh", "sequence": [7000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
        let _daemon = Daemon::start(server, json!({ "rules": [rule] }));
        for source in strangers {
            assert!(!arrives(&network, &wire, &mut arrivals, source, way), "{name}: {source} has no grant");
            knock(&wire, source, &[7000, 8000]);
            wait_for_grant(server, source, ("tcp", 22));
            assert!(arrives(&network, &wire, &mut arrivals, source, way), "{name}: {source} has a grant");
        }
    }
}
