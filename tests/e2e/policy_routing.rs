//! Packets that reach a service of this host by another way than an address of its own and the port that they name.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use knock_testkit::{Network, Packet, Wire};
use serde_json::json;

use crate::support::{Arrivals, Daemon, knock, network, wait_for_grant, wire};

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

#[test]
fn no_way_of_routing_or_translating_brings_a_stranger_to_a_guarded_port() {
    for way in WAYS {
        let (name, routes, rules, _) = way;
        let network = network(1);
        let server = &network.server;
        let wire = wire(&network);
        let mut arrivals = Arrivals::watch(&server.namespace);
        for (version, net, address) in [("-4", "10.99.0.0/24", ADDRESSES[0]), ("-6", "fd99::/64", ADDRESSES[1])] {
            let mut ip = Command::new("ip");
            let routes = routes.replace("NET", net).replace("ADDRESS", address);
            server.namespace.output(ip.args([version, "-batch", "-"]), &routes).expect("routes");
        }
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
