//! Ranges of guarded ports, and rules that open every guarded port.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use knock_testkit::{Echo, Host, Network, Reach};
use serde_json::{Value, json};

use crate::doctor::doctor;
use crate::support::{Client, Daemon, Siege, at, at4, at6, knock, network, user_set, wait_until, wire};

const SEQUENCE: [u16; 3] = [7300, 9300, 8300];
/// The ports that mosh uses.
const MOSH: &str = "60000-61000/udp";
const MOSH4: &str = "inet knockd grants4_udp_60000_61000";
const MOSH6: &str = "inet knockd grants6_udp_60000_61000";

fn rule(name: &str, sequence: &[u16], ports: &Value) -> Value {
    json!({ "name": name, "sequence": sequence, "allow": { "ports": ports, "timeout": "1h" } })
}

fn mosh() -> Value {
    rule("mosh", &SEQUENCE, &json!([MOSH]))
}

/// UDP echo services around the range of mosh, and what a client gets of them.
struct Services(Vec<Echo>);

const PORTS: [u16; 5] = [59_999, 60_000, 60_500, 61_000, 61_001];
const NOT_GUARDED: [u16; 2] = [59_999, 61_001];

impl Services {
    fn start(server: &Host) -> Services {
        Services(PORTS.map(|port| Echo::udp(&server.namespace, port).expect("an echo service")).into())
    }

    /// These ports answer the client, and no others. On a busy machine an answer may take longer than the probe waits.
    #[track_caller]
    fn assert_open(&self, client: &Host, at: fn(u16) -> SocketAddr, expected: &[u16], what: &str) {
        assert_eq!(self.0.len(), PORTS.len());
        wait_until(&format!("{expected:?} are open: {what}"), || {
            PORTS.into_iter().filter(|&port| client.udp(at(port)) == Reach::Open).eq(expected.iter().copied())
        });
    }
}

/// How many elements a set has.
fn count(server: &Host, set: &str) -> usize {
    user_set(server, set).expect("the set").len()
}

fn reload(daemon: &Daemon, configuration: Value) {
    let mark = daemon.log_mark();
    daemon.reload(configuration);
    daemon.wait_for_log_after(mark, "reloaded: rules");
}

/// Has the client knock in both families, and waits for the element in `sets`.
fn knock_both(network: &Network, client: &Host, sequence: &[u16], sets: [&str; 2]) {
    let wire = client.wire(&network.server).expect("a packet socket for the client");
    for (address, set) in [IpAddr::from(client.v4), client.v6.into()].into_iter().zip(sets) {
        knock(&wire, address, sequence);
        wait_until("it is granted", || user_set(&network.server, set)?.contains_key(&address).then_some(()));
    }
}

#[test]
fn a_range_opens_for_the_client_that_knocked_and_its_neighbours_are_not_touched() {
    let network = network(2);
    let (server, friend, stranger) = (&network.server, &network.clients[0], &network.clients[1]);
    let services = Services::start(server);
    // Two knock ports are in the range.
    let close = json!({ "name": "close", "sequence": [8000, 60_200, 7000], "revoke": "mosh" });
    let daemon = Daemon::start(
        server,
        json!({ "rules": [rule("mosh", &[7000, 60_100, 8000], &json!([MOSH, "60000-61000"])), close] }),
    );
    for at in [at4, at6] {
        services.assert_open(friend, at, &NOT_GUARDED, "a stranger so far");
    }
    knock_both(&network, friend, &[7000, 60_100, 8000], [MOSH4, MOSH6]);
    for at in [at4, at6] {
        services.assert_open(friend, at, &PORTS, "granted");
        services.assert_open(stranger, at, &NOT_GUARDED, "not granted");
    }
    // What knockctl shows is folded.
    let grants: Value = serde_json::from_str(&daemon.knockctl(&["grants", "--json"])).expect("JSON");
    assert_eq!(grants["grants"][0]["opens"], json!([MOSH, "60000-61000/tcp"]));
    assert!(daemon.knockctl(&["grants"]).contains("60000-61000/udp, 60000-61000/tcp"));
    let status: Value = serde_json::from_str(&daemon.knockctl(&["status", "--json"])).expect("JSON");
    assert_eq!(status["table"]["guarded"], json!(["60000-61000/tcp", MOSH]));
    let (problems, healthy) = doctor(server, &daemon, "gate");
    assert!(problems.is_empty() && healthy, "{problems:?}");

    let wire = friend.wire(server).expect("a packet socket for the client");
    knock(&wire, friend.v4.into(), &[8000, 60_200, 7000]);
    wait_until("it is revoked", || count(server, MOSH4) == 0);
    // Flows that were let in go on; these are new ones.
    services.assert_open(friend, at4, &NOT_GUARDED, "not granted");
    services.assert_open(friend, at6, &PORTS, "granted");
    daemon.knockctl(&["revoke", &friend.v6.to_string()]);
    services.assert_open(friend, at6, &NOT_GUARDED, "not granted");
    assert_eq!(count(server, "inet knockd grants6_tcp_60000_61000"), 0);
}

#[test]
fn a_rule_with_any_opens_every_guarded_port_by_one_element() {
    let network = network(2);
    let (server, friend, stranger) = (&network.server, &network.clients[0], &network.clients[1]);
    let services = Services::start(server);
    let _tcp = [22, 80].map(|port| Echo::tcp(&server.namespace, port).expect("an echo service"));
    let rules = |guarded: &Value| {
        json!({ "rules": [
            rule("all", &[7100, 9100, 8100], &json!("any")),
            rule("ssh", &[7200, 9200, 8200], guarded),
            mosh(),
        ] })
    };
    let daemon = Daemon::start(server, rules(&json!([22])));
    knock_both(&network, friend, &[7100, 9100, 8100], ["inet knockd grants4_any", "inet knockd grants6_any"]);
    for at in [at4, at6] {
        services.assert_open(friend, at, &PORTS, "granted");
        services.assert_open(stranger, at, &NOT_GUARDED, "not granted");
        assert_eq!((friend.tcp(at(22)), stranger.tcp(at(22))), (Reach::Open, Reach::Filtered));
    }
    assert_eq!((count(server, "inet knockd grants4_any"), count(server, "inet knockd grants4")), (1, 0));
    assert!(daemon.knockctl(&["grants"]).lines().nth(1).is_some_and(|line| line.trim_end().ends_with(" any")));
    // A port that another rule guards from now on is open too.
    reload(&daemon, rules(&json!([22, 80])));
    assert_eq!((friend.tcp(at4(80)), stranger.tcp(at4(80))), (Reach::Open, Reach::Filtered));
    daemon.knockctl(&["revoke", &friend.v4.to_string(), "all"]);
    services.assert_open(friend, at4, &NOT_GUARDED, "not granted");
    assert_eq!(friend.tcp(at4(22)), Reach::Filtered);
}

#[test]
fn a_new_daemon_adopts_live_grants_of_a_range() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let services = Services::start(server);
    for owner in [true, false] {
        let any = rule("all", &[7100, 9100, 8100], &json!(["any"]));
        let configuration = json!({ "nftables": { "owner": owner }, "rules": [mosh(), any] });
        let mut daemon = Daemon::start(server, configuration);
        knock_both(&network, client, &SEQUENCE, [MOSH4, MOSH6]);
        daemon = Daemon::start_again(server, daemon.kill());
        for at in [at4, at6] {
            services.assert_open(client, at, &PORTS, &format!("owner {owner}"));
        }
        let address = client.v4.to_string();
        assert!(daemon.knockctl(&["grants"]).contains(MOSH));
        assert!(daemon.knockctl(&["revoke", &address]).contains("1 grant revoked"));
        services.assert_open(client, at4, &NOT_GUARDED, "not granted");
        assert!(daemon.stop().success());
    }
}

#[test]
fn what_others_do_to_the_sets_of_a_watched_table_is_repaired() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let services = Services::start(server);
    let daemon = Daemon::start(server, json!({ "nftables": { "owner": false }, "rules": [mosh()] }));
    knock_both(&network, client, &SEQUENCE, [MOSH4, MOSH6]);
    for change in [
        "flush ruleset",
        "flush set inet knockd guarded",
        "flush set inet knockd grants4_udp_60000_61000",
        "flush chain inet knockd gate\ndelete set inet knockd grants4_udp_60000_61000",
    ] {
        let mark = daemon.log_mark();
        server.namespace.nft(change).expect("others may");
        daemon.wait_for_log_after(mark, "it is restored with its live grants");
        services.assert_open(client, at4, &PORTS, change);
        assert_eq!((count(server, MOSH4), count(server, MOSH6)), (1, 1), "{change}");
    }
    let mark = daemon.log_mark();
    server
        .namespace
        .nft("add element inet knockd grants4_udp_60000_61000 { 192.0.2.9 timeout 1h }")
        .expect("others may");
    let line = daemon.wait_for_log_after(mark, "stray");
    assert!(line.contains("192.0.2.9, 60000-61000/udp in table inet knockd"), "{line}");
}

#[test]
fn under_a_flood_ranges_come_change_and_go_and_grants_follow_their_rule() {
    let network = network(2);
    let server = &network.server;
    let _service = Echo::tcp(&server.namespace, 2500).expect("an echo service");
    let with = |ports: Value, more: &[Value]| {
        let rules: Vec<Value> = [rule("ftp", &[7000, 9000, 8000], &ports)].into_iter().chain(more.to_vec()).collect();
        json!({ "rules": rules })
    };
    let ftp = json!(["2000-3000"]);
    let daemon = Daemon::start(server, with(ftp.clone(), &[]));
    let sets = ["inet knockd grants4_tcp_2000_3000", "inet knockd grants6_tcp_2000_3000"];
    knock_both(&network, &network.clients[1], &[7000, 9000, 8000], sets);
    let siege = Siege::begin(&network, 2500, &[1]);
    let any = rule("all", &[7100, 9100, 8100], &json!("any"));
    let of = |nftables: Value| {
        let mut configuration = with(ftp.clone(), &[]);
        configuration["nftables"] = nftables;
        configuration
    };
    let changes = [
        ("the table is not owned", of(json!({ "owner": false }))),
        ("and has another name", of(json!({ "owner": false, "table": "gate" }))),
        ("and is owned again", of(json!({ "table": "gate" }))),
        ("and has its own name again", of(json!({}))),
        ("another range comes", with(ftp.clone(), &[mosh()])),
        (
            "one that overlaps it",
            with(ftp.clone(), &[mosh(), rule("b", &[7200, 9200], &json!(["2400-2600", "2500-2650"]))]),
        ),
        ("both go, and any comes", with(ftp.clone(), &[any])),
        ("the range is narrower", with(json!(["2400-2600"]), &[])),
        ("it is a single port", with(json!([2500]), &[])),
        ("a single one and a range", with(json!([2500, "2600-2700"]), &[])),
        ("every port", with(json!(["1-65535", "1-65535/udp"]), &[])),
        ("it is as it was", with(ftp, &[])),
    ];
    for (change, configuration) in changes.iter().cycle().take(2 * changes.len()) {
        let before = siege.passed();
        reload(&daemon, configuration.clone());
        siege.go_on();
        assert_eq!(siege.passed(), before, "{change}");
        assert_eq!(network.clients[0].tcp(at4(2500)), Reach::Filtered, "{change}");
    }
    siege.end().assert_held();
    assert_eq!((count(server, sets[0]), count(server, sets[1])), (1, 1));
    // Without the rule, they end.
    reload(&daemon, json!({ "rules": [mosh()] }));
    assert!(daemon.knockctl(&["grants"]).contains("no live grants"));
    assert_eq!(network.clients[0].tcp(at4(2500)), Reach::Open, "nobody guards it any more");
}

#[test]
fn sixty_five_clients_of_a_thousand_ports_fill_sixty_five_elements() {
    let network = network(1);
    let server = &network.server;
    let _service = Echo::udp(&server.namespace, 60_500).expect("an echo service");
    let daemon = Daemon::start(server, json!({ "limits": { "grants": 128 }, "rules": [mosh()] }));
    let wire = wire(&network);
    let clients: Vec<IpAddr> = (1..=65).map(|net| Ipv4Addr::new(198, 18, net, 1).into()).collect();
    for client in &clients {
        for port in SEQUENCE {
            knock(&wire, *client, &[port]);
        }
    }
    wait_until("all are granted", || count(server, MOSH4) == 65);
    let status: Value = serde_json::from_str(&daemon.knockctl(&["status", "--json"])).expect("JSON");
    assert_eq!(status["grants"], 65);
    assert_eq!(daemon.knockctl(&["grants"]).matches(MOSH).count(), 65, "one line for each");
    assert!(!daemon.log().contains("full"), "{}", daemon.log());
    // The gate lets them in, and nobody else.
    for (source, passes) in [(clients[64], true), (Ipv4Addr::new(198, 18, 66, 1).into(), false)] {
        let dropped = || {
            let listing = server.namespace.nft("list chain inet knockd gate").expect("nft lists");
            let packets = listing.split("counter packets ").nth(1).and_then(|text| text.split(' ').next());
            packets.and_then(|text| text.parse::<u64>().ok()).unwrap_or_else(|| panic!("a counter in {listing}"))
        };
        let before = dropped();
        let packet = knock_testkit::Packet::udp((source, 5000).into(), at(source, 60_500));
        wire.send_all(&[packet]).expect("sent");
        let drops = wait_until("it is judged", || {
            let drops = dropped() - before;
            (passes || drops > 0).then_some(drops)
        });
        assert_eq!(drops, u64::from(!passes), "{source}");
    }
}
