//! Where knocks are listened for.

use std::net::{IpAddr, SocketAddr};

use knock_testkit::{Network, Packet};
use serde_json::{Value, json};

use crate::doctor::doctor;
use crate::support::{Daemon, Options, element, network, wait_for_grant, wait_until};

/// A server with a second link, `eth1`, to the first client.
fn two_links() -> Network {
    let network = network(1);
    network.add_link("eth1", [10, 78, 0]).expect("a second link");
    network
}

fn configuration(interface: Value) -> Value {
    let mut configuration = json!({ "rules": [
        { "name": "a", "sequence": [1000, 2000], "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "fence", "sequence": [9100, 9200], "allow": { "ports": [99], "timeout": "1h" } }
    ] });
    if !interface.is_null() {
        configuration["interface"] = interface;
    }
    configuration
}

/// Knocks from `source` by ordinary connections to `server`, which the kernel routes by the right link.
fn knock(network: &Network, server: IpAddr, ports: [u16; 2]) {
    for port in ports {
        let to = SocketAddr::new(server, port);
        let connect = || knock_testkit::tcp(to, std::time::Duration::from_secs(2));
        network.client().namespace.run(connect).and_then(|reach| reach).expect("a knock");
    }
}

const FIRST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 1));
const SECOND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 78, 0, 1));
const CLIENT_ON_FIRST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 2));
const CLIENT_ON_SECOND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 78, 0, 2));

#[test]
fn any_interface_is_the_default() {
    for interface in [Value::Null, json!("any")] {
        let network = two_links();
        let _daemon = Daemon::start(&network.server, configuration(interface));
        knock(&network, FIRST, [1000, 2000]);
        wait_for_grant(&network.server, CLIENT_ON_FIRST, ("tcp", 22));
        knock(&network, SECOND, [1000, 2000]);
        wait_for_grant(&network.server, CLIENT_ON_SECOND, ("tcp", 22));
    }
}

#[test]
fn several_named_interfaces_are_listened_on() {
    let network = two_links();
    let _daemon = Daemon::start(&network.server, configuration(json!(["eth0", "eth1"])));
    knock(&network, FIRST, [1000, 2000]);
    wait_for_grant(&network.server, CLIENT_ON_FIRST, ("tcp", 22));
    knock(&network, SECOND, [1000, 2000]);
    wait_for_grant(&network.server, CLIENT_ON_SECOND, ("tcp", 22));
}

#[test]
fn knocks_on_an_interface_that_is_not_named_do_not_count() {
    let network = two_links();
    let _daemon = Daemon::start(&network.server, configuration(json!("eth0")));
    knock(&network, SECOND, [1000, 2000]);
    knock(&network, FIRST, [9100, 9200]);
    wait_for_grant(&network.server, CLIENT_ON_FIRST, ("tcp", 99));
    assert_eq!(element(&network.server, CLIENT_ON_SECOND, ("tcp", 22)), None);
}

#[test]
fn the_command_line_names_interfaces_instead_of_the_configuration() {
    let network = two_links();
    let options = Options { arguments: &["-i", "eth1"], ..Options::default() };
    let _daemon = Daemon::start_with(&network.server, configuration(json!("eth0")), options);
    knock(&network, FIRST, [1000, 2000]);
    knock(&network, SECOND, [9100, 9200]);
    wait_for_grant(&network.server, CLIENT_ON_SECOND, ("tcp", 99));
    assert_eq!(element(&network.server, CLIENT_ON_FIRST, ("tcp", 22)), None);
}

#[test]
fn knocks_over_the_loopback_interface_count_once() {
    let network = network(1);
    let server = &network.server;
    // Where each packet counted twice, one connection would be both knocks of the sequence.
    let rules = json!([
        { "name": "twice", "sequence": [1000, 1000], "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "fence", "sequence": [9100, 9200], "allow": { "ports": [99], "timeout": "1h" } }
    ]);
    let _daemon = Daemon::start(server, json!({ "interface": "lo", "rules": rules }));
    let source = IpAddr::from([127, 0, 0, 1]);
    let connect = |port: u16| {
        let connect = || knock_testkit::tcp(SocketAddr::new(source, port), std::time::Duration::from_secs(2));
        server.namespace.run(connect).and_then(|reach| reach).expect("a knock");
    };
    for port in [1000, 9100, 9200] {
        connect(port);
    }
    wait_for_grant(server, source, ("tcp", 99));
    assert_eq!(element(server, source, ("tcp", 22)), None);
    for _ in 0..2 {
        connect(1000);
    }
    wait_for_grant(server, source, ("tcp", 22));
}

#[test]
fn an_interface_that_goes_down_and_up_again_is_listened_on_again() {
    let network = two_links();
    let mut daemon = Daemon::start(&network.server, configuration(json!(["eth0", "eth1"])));
    let server = &network.server.namespace;
    server.ip("link set eth1 down").expect("the link goes down");
    server.ip("link set eth1 up").expect("the link goes up");
    wait_until("a knock opens again", || {
        knock(&network, SECOND, [1000, 2000]);
        element(&network.server, CLIENT_ON_SECOND, ("tcp", 22))
    });
    assert!(daemon.is_running());
}

#[test]
fn an_interface_that_is_deleted_and_made_again_is_listened_on_again() {
    let network = two_links();
    let mut daemon = Daemon::start(&network.server, configuration(json!(["eth0", "eth1"])));
    network.server.namespace.ip("link del eth1").expect("the link is deleted");
    network.add_link("eth1", [10, 78, 0]).expect("a second link again");
    wait_until("a knock opens again", || {
        knock(&network, SECOND, [1000, 2000]);
        element(&network.server, CLIENT_ON_SECOND, ("tcp", 22))
    });
    assert!(daemon.is_running());
}

#[test]
fn an_interface_that_is_absent_at_start_is_listened_on_once_it_comes() {
    let network = network(1);
    let _daemon = Daemon::start(&network.server, configuration(json!(["eth0", "eth1"])));
    network.add_link("eth1", [10, 78, 0]).expect("a second link");
    wait_until("a knock opens", || {
        knock(&network, SECOND, [1000, 2000]);
        element(&network.server, CLIENT_ON_SECOND, ("tcp", 22))
    });
}

#[test]
fn an_address_that_is_added_later_is_knocked_like_any_other() {
    let network = network(1);
    let server = &network.server;
    let _daemon = Daemon::start(server, configuration(json!("eth0")));
    server.namespace.ip("addr add 10.77.0.200/24 dev eth0").expect("another address");
    let wire = crate::support::wire(&network);
    let from = SocketAddr::new(CLIENT_ON_FIRST, 40_000);
    wait_until("a knock at the new address opens", || {
        let packets = [1000, 2000].map(|port| Packet::syn(from, ([10, 77, 0, 200], port).into(), port.into()));
        wire.send_all(&packets).expect("the knock is sent");
        element(server, CLIENT_ON_FIRST, ("tcp", 22))
    });
}

#[test]
fn a_link_that_is_down_costs_no_processor_time() {
    let network = two_links();
    let daemon = Daemon::start(&network.server, configuration(json!(["eth0", "eth1"])));
    network.server.namespace.ip("link set eth1 down").expect("the link goes down");
    // A daemon that spins on the link's error would use most of the time that these knocks take.
    let before = daemon.cpu_ticks();
    let started = std::time::Instant::now();
    wait_until("half a second of knocks", || {
        knock(&network, FIRST, [1000, 2000]);
        started.elapsed().as_millis() >= 500
    });
    wait_for_grant(&network.server, CLIENT_ON_FIRST, ("tcp", 22));
    let used = daemon.cpu_ticks() - before;
    assert!(used < 25, "{used} ticks of 10 ms");
}

#[test]
fn knocks_are_heard_after_a_reload_that_failed_and_names_another_interface() {
    let network = two_links();
    let server = &network.server;
    server.namespace.nft("table inet filter { set ranges { type ipv4_addr; flags interval; }; }").expect("a set");
    let daemon = Daemon::start(server, configuration(json!(["eth0"])));
    let mut refused = configuration(json!(["eth1"]));
    // Only the kernel knows that knockd can't use that set.
    let own = json!({ "set": "inet filter ranges", "timeout": "1h" });
    let own = json!({ "name": "own", "sequence": [7100, 9100, 8100], "allow": own });
    refused["rules"].as_array_mut().expect("the rules").push(own);
    daemon.reload(refused);
    daemon.wait_for_log("not reloaded");
    knock(&network, FIRST, [1000, 2000]);
    wait_for_grant(server, CLIENT_ON_FIRST, ("tcp", 22));
}

#[test]
fn a_pattern_listens_on_the_interfaces_that_match_also_on_those_that_come_later() {
    let network = network(1);
    network.add_link("wan1", [10, 78, 0]).expect("a second link");
    let daemon = Daemon::start(&network.server, configuration(json!(["lo", "e+"])));
    knock(&network, SECOND, [1000, 2000]);
    knock(&network, FIRST, [9100, 9200]);
    wait_for_grant(&network.server, CLIENT_ON_FIRST, ("tcp", 99));
    assert_eq!(element(&network.server, CLIENT_ON_SECOND, ("tcp", 22)), None, "wan1 does not match");

    // Another name makes it match, and one that does not match is no longer listened on.
    let server = &network.server.namespace;
    server.ip("link set wan1 down\nlink set wan1 name eth7\nlink set eth7 up").expect("another name");
    daemon.wait_for_log("wan1 is now called eth7; knockd still receives knocks on it");
    // A link that has just come up may lose packets.
    wait_until("a knock on the link of another name opens", || {
        knock(&network, SECOND, [1000, 2000]);
        element(&network.server, CLIENT_ON_SECOND, ("tcp", 22))
    });
    server.ip("link set eth0 down\nlink set eth0 name lan0\nlink set lan0 up").expect("another name");
    daemon.wait_for_log("eth0 is now called lan0; knockd no longer receives knocks on it");
    knock(&network, FIRST, [1000, 2000]);
    knock(&network, SECOND, [9100, 9200]);
    wait_for_grant(&network.server, CLIENT_ON_SECOND, ("tcp", 99));
    assert_eq!(element(&network.server, CLIENT_ON_FIRST, ("tcp", 22)), None);

    // A link that is new, and one that is deleted.
    server.ip("link delete eth7").expect("the link is deleted");
    daemon.wait_for_log("interface eth7 was deleted");
    let interfaces = daemon.control_status()["interfaces"].clone();
    assert_eq!(interfaces, json!([{ "name": "lo", "state": "up" }, { "name": "e+", "state": "absent" }]));
    network.add_link("eth8", [10, 78, 0]).expect("a new link");
    wait_until("a knock on the new link opens", || {
        knock(&network, SECOND, [1000, 2000]);
        element(&network.server, CLIENT_ON_SECOND, ("tcp", 22))
    });
}

#[test]
fn an_interface_that_two_names_mean_is_listened_on_once() {
    let network = network(1);
    // Where each packet came twice, one connection would be both knocks of the sequence.
    let twice =
        json!({ "name": "twice", "sequence": ["1000/udp", "1000/udp"], "allow": { "ports": [22], "timeout": "1h" } });
    let fence = json!({ "name": "fence", "sequence": ["9100/udp"], "allow": { "ports": [99], "timeout": "1h" } });
    let configuration = json!({ "interface": ["e*", "eth0", "eth*"], "rules": [twice, fence] });
    let daemon = Daemon::start(&network.server, configuration);
    let wire = crate::support::wire(&network);
    let packets = [1000, 9100].map(|port| Packet::udp((CLIENT_ON_FIRST, 5000).into(), (FIRST, port).into()));
    wire.send_all(&packets).expect("the knocks are sent");
    wait_for_grant(&network.server, CLIENT_ON_FIRST, ("tcp", 99));
    assert_eq!(daemon.control_status()["counters"]["packets"], 2);
    assert_eq!(element(&network.server, CLIENT_ON_FIRST, ("tcp", 22)), None);
}

#[test]
fn an_interface_is_meant_by_its_alternative_name() {
    let network = two_links();
    let long = "lan-side-of-the-house";
    let daemon = Daemon::start(&network.server, configuration(json!(long)));
    daemon.wait_for_log(&format!("interface {long} does not exist"));
    network.server.namespace.ip(&format!("link property add dev eth1 altname {long}")).expect("an alternative name");
    wait_until("a knock on this interface opens", || {
        knock(&network, SECOND, [1000, 2000]);
        element(&network.server, CLIENT_ON_SECOND, ("tcp", 22))
    });
    knock(&network, FIRST, [1000, 2000]);
    knock(&network, SECOND, [9100, 9200]);
    wait_for_grant(&network.server, CLIENT_ON_SECOND, ("tcp", 99));
    assert_eq!(element(&network.server, CLIENT_ON_FIRST, ("tcp", 22)), None);
}

/// Whether a stranger on the second link can reach the guarded port of the server.
fn is_exempt(network: &Network) -> bool {
    let connect = || knock_testkit::tcp((SECOND, 22).into(), std::time::Duration::from_millis(300));
    network.client().namespace.run(connect).and_then(|reach| reach).expect("an answer")
        != knock_testkit::Reach::Filtered
}

/// The findings of the doctor about exempt interfaces.
fn missing_exempt(network: &Network, daemon: &Daemon) -> Vec<String> {
    let (findings, _) = doctor(&network.server, daemon, "exempt interface");
    findings.iter().map(|finding| finding["text"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn a_pattern_exempts_the_interfaces_that_match() {
    let network = two_links();
    let mut configuration = configuration(json!("any"));
    configuration["nftables"] = json!({ "exempt_interfaces": ["lo", "wan*", "eth"] });
    let daemon = Daemon::start(&network.server, configuration);
    assert!(!is_exempt(&network));
    let expected = [
        "wan* matches no interface: it exempts no packet",
        "eth does not exist: it exempts no packet; did you mean eth0?",
    ];
    assert_eq!(missing_exempt(&network, &daemon), expected);
    let rename = "link set eth1 down\nlink set eth1 name wan1\nlink set wan1 up";
    network.server.namespace.ip(rename).expect("another name");
    wait_until("it is exempt", || is_exempt(&network));
    wait_until("the doctor is content", || missing_exempt(&network, &daemon) == expected[1..]);
}

#[test]
fn an_alternative_name_exempts_the_interface_that_has_it() {
    for name in ["house", "the-house-of-the-administrator"] {
        let network = two_links();
        let server = &network.server.namespace;
        let mut configuration = configuration(json!("any"));
        configuration["nftables"] = json!({ "exempt_interfaces": ["lo", name] });
        let daemon = Daemon::start(&network.server, configuration);
        assert!(!is_exempt(&network));
        assert_eq!(missing_exempt(&network, &daemon), [format!("{name} does not exist: it exempts no packet")]);
        server.ip(&format!("link property add dev eth1 altname {name}")).expect("an alternative name");
        wait_until("it is exempt", || is_exempt(&network));
        assert_eq!(missing_exempt(&network, &daemon), [""; 0]);
        // A live grant is not lost when the table changes.
        knock(&network, FIRST, [1000, 2000]);
        wait_for_grant(&network.server, CLIENT_ON_FIRST, ("tcp", 22));
        server.ip(&format!("link property del dev eth1 altname {name}")).expect("it loses the name");
        server.ip(&format!("link property add dev eth0 altname {name}")).expect("another interface gets it");
        daemon.wait_for_log("the exempt interfaces are now: lo, eth0");
        assert!(!is_exempt(&network));
        assert!(element(&network.server, CLIENT_ON_FIRST, ("tcp", 22)).is_some());
    }
}
