//! Reload, crash and restart: under a flood at the guarded port, not one packet of a stranger gets through, no granted
//! one is lost, and what is granted keeps its time.

use std::net::IpAddr;
use std::time::Duration;

use knock_testkit::{Echo, Host, Network, Reach};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Client, Daemon, Element, Options, Siege, at4, at6, element, elements, elements_of, knock, network, ruleset,
    table_exists, wait_for_grant, wait_until, wire,
};

fn rule(name: &str, sequence: [u16; 2], ports: &[u16]) -> Value {
    json!({ "name": name, "sequence": sequence, "allow": { "ports": ports, "timeout": "1h" } })
}

fn ssh() -> Value {
    rule("ssh", [7000, 8000], &[22])
}

/// Has client 1 knock in both families, and waits until some of the hour of both grants is over: what is kept can be
/// distinguished from new grants.
fn grant(network: &Network) -> Vec<IpAddr> {
    let (server, friend) = (&network.server, &network.clients[1]);
    let wire = friend.wire(server).expect("a packet socket for the client");
    let addresses = vec![IpAddr::from(friend.v4), friend.v6.into()];
    for address in &addresses {
        knock(&wire, *address, &[7000, 8000]);
        wait_for_grant(server, *address, ("tcp", 22));
    }
    wait_until("some of its time is over", || {
        remaining(server, "knockd", addresses[1]) < HOUR - Duration::from_secs(1)
    });
    addresses
}

const HOUR: Duration = Duration::from_secs(3600);

/// What is left of the grant for port 22.
fn remaining(server: &Host, table: &str, address: IpAddr) -> Duration {
    let set = if address.is_ipv4() { "grants4" } else { "grants6" };
    let found = elements_of(server, table, set)
        .into_iter()
        .find(|element| element.address == address && element.service == ("tcp".to_owned(), 22));
    let element = found.unwrap_or_else(|| panic!("{address} has a grant in table {table}"));
    assert_eq!(element.timeout, Some(HOUR));
    element.expires.expect("a remaining time")
}

#[track_caller]
fn reload(daemon: &Daemon, configuration: &Value) {
    let mark = daemon.log_mark();
    daemon.reload(configuration.clone());
    daemon.wait_for_log_after(mark, "reloaded: rules");
}

#[test]
fn under_a_flood_no_reload_lets_a_stranger_in_or_a_granted_client_out() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    // One that names interfaces keeps the right to bind to others.
    let plain = json!({ "interface": ["eth0"], "rules": [ssh()] });
    let daemon = Daemon::start(server, plain.clone());
    let addresses = grant(&network);
    let siege = Siege::begin(&network, 22, &[1]);

    let mut longer = ssh();
    longer["allow"]["timeout"] = json!("2h");
    let mut knocked_otherwise = ssh();
    knocked_otherwise["sequence"] = json!([7100, 9100, 8100]);
    let web = rule("web", [7200, 8200], &[80, 443]);
    let changes = [
        ("a rule is added", json!({ "rules": [web.clone(), ssh()] })),
        (
            "ports are added, one for UDP",
            json!({ "rules": [rule("ssh", [7000, 8000], &[22, 2222]), web,
            { "name": "dns", "sequence": [7300, 8300], "allow": { "ports": ["53/udp"], "timeout": "1h" } }] }),
        ),
        ("rules and ports are removed", plain.clone()),
        ("the timeout is another", json!({ "rules": [longer] })),
        ("the sequence is another", json!({ "rules": [knocked_otherwise] })),
        ("it listens elsewhere", json!({ "interface": ["eth0", "wg0"], "rules": [ssh()] })),
        ("it listens everywhere", json!({ "rules": [ssh()] })),
        ("an interface is exempt", json!({ "nftables": { "exempt_interfaces": ["lo", "wg0"] }, "rules": [ssh()] })),
        ("there is less room", json!({ "limits": { "grants": 100 }, "rules": [ssh()] })),
        ("the table is not owned", json!({ "nftables": { "owner": false }, "rules": [ssh()] })),
        ("and has another name", json!({ "nftables": { "owner": false, "table": "gate" }, "rules": [ssh()] })),
        ("and is owned again", json!({ "nftables": { "table": "gate" }, "rules": [ssh()] })),
        ("and has its own name again", plain),
    ];
    for (change, configuration) in changes.iter().cycle().take(2 * changes.len()) {
        let table = configuration["nftables"]["table"].as_str().unwrap_or("knockd");
        let before = siege.passed();
        reload(&daemon, configuration);
        siege.go_on();
        assert_eq!(siege.passed(), before, "{change}");
        for address in &addresses {
            assert!(remaining(server, table, *address) < HOUR, "{change}: the grant of {address} keeps its time");
        }
        let other = if table == "knockd" { "gate" } else { "knockd" };
        assert!(!table_exists(server, other), "{change}");
    }
    siege.end().assert_held();
}

#[test]
fn a_reload_ends_the_grants_of_rules_and_ports_that_are_gone_and_of_no_others() {
    let network = network(1);
    let (server, client) = (&network.server, IpAddr::from(network.client().v4));
    let ports = [22, 80, 443, 8080];
    let _services = ports.map(|port| Echo::tcp(&server.namespace, port).expect("an echo service"));
    let rules = |a: &[u16], b: &[u16]| json!({ "rules": [rule("a", [7000, 8000], a), rule("b", [7100, 8100], b)] });
    let daemon = Daemon::start(server, rules(&[22, 80], &[443, 8080]));
    let wire = wire(&network);
    knock(&wire, client, &[7000, 8000, 7100, 8100]);
    wait_for_grant(server, client, ("tcp", 8080));
    let granted = || -> Vec<(u16, String)> {
        let all = elements(server, "grants4").into_iter();
        let mut all: Vec<_> = all.map(|element| (element.service.1, element.comment.expect("its rule"))).collect();
        all.sort();
        all
    };
    let pairs = |expected: &[(u16, &str)]| expected.iter().map(|(port, rule)| (*port, (*rule).to_owned())).collect();
    let all: Vec<_> = pairs(&[(22, "a"), (80, "a"), (443, "b"), (8080, "b")]);
    assert_eq!(granted(), all);

    // Port 80 goes from one rule to the other, 443 is nobody's.
    reload(&daemon, &rules(&[22], &[80, 8080]));
    let moved: Vec<_> = pairs(&[(22, "a"), (80, "b"), (8080, "b")]);
    assert_eq!(granted(), moved);
    assert_eq!(network.client().tcp(at4(443)), Reach::Open, "it is not guarded any more");

    // A rule gains a port: it opens for those who knocked already, and is guarded against the others.
    reload(&daemon, &rules(&[22, 443], &[80, 8080]));
    let gained: Vec<_> = pairs(&[(22, "a"), (80, "b"), (443, "a"), (8080, "b")]);
    assert_eq!(granted(), gained);
    for port in ports {
        assert_eq!(network.client().tcp(at4(port)), Reach::Open, "{port}");
        assert_eq!(network.client().tcp(at6(port)), Reach::Filtered, "{port}");
    }

    let mark = daemon.log_mark();
    reload(&daemon, &json!({ "rules": [rule("b", [7100, 8100], &[22, 80, 443, 8080])] }));
    daemon.wait_for_log_after(mark, &format!("rule a: the grant to {client} is revoked"));
    let theirs: Vec<_> = pairs(&[(22, "b"), (80, "b"), (443, "b"), (8080, "b")]);
    assert_eq!(granted(), theirs, "what two rules open is the other one's now");

    reload(&daemon, &json!({ "rules": [rule("c", [7100, 8100], &[22, 80, 443, 8080])] }));
    assert_eq!(granted(), []);
    assert_eq!(network.client().tcp(at4(22)), Reach::Filtered);
}

#[test]
fn a_port_that_becomes_guarded_stays_open_to_granted_addresses() {
    let network = network(2);
    let server = &network.server;
    let _services = [22, 80].map(|port| Echo::tcp(&server.namespace, port).expect("an echo service"));
    let daemon = Daemon::start(server, json!({ "rules": [ssh()] }));
    grant(&network);
    // Port 80 is open to all between two reloads, so only that nobody granted is dropped is looked at.
    let siege = Siege::begin(&network, 80, &[1]);
    for _ in 0..10 {
        reload(&daemon, &json!({ "rules": [rule("ssh", [7000, 8000], &[22, 80])] }));
        reload(&daemon, &json!({ "rules": [ssh()] }));
    }
    siege.end().assert_let_in();
}

#[test]
fn a_rule_that_names_no_ports_any_more_leaves_no_table_and_one_that_does_makes_it() {
    let network = network(1);
    let server = &network.server;
    let client = IpAddr::from(network.client().v4);
    let daemon = Daemon::start(server, json!({ "rules": [ssh()] }));
    let runs = json!({ "name": "ssh", "sequence": [7000, 8000], "command": "true" });
    knock(&wire(&network), client, &[7000, 8000]);
    wait_for_grant(server, client, ("tcp", 22));
    // A daemon that gave up the right to start programs takes no rule up that would.
    let mark = daemon.log_mark();
    daemon.reload(json!({ "rules": [runs] }));
    let told = daemon.wait_for_log_after(mark, "reloaded");
    if told.contains("not reloaded") {
        assert!(table_exists(server, "knockd"), "{told}");
    } else {
        assert!(!table_exists(server, "knockd"), "{told}");
        reload(&daemon, &json!({ "rules": [ssh()] }));
        assert!(table_exists(server, "knockd") && elements(server, "grants4").is_empty());
    }
}

#[test]
fn an_invalid_file_changes_nothing_and_the_log_names_the_place() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let mut daemon = Daemon::start(server, json!({ "rules": [ssh()] }));
    grant(&network);
    let before = ruleset(server);
    let siege = Siege::begin(&network, 22, &[1]);
    let file = daemon.path("config.json");
    let valid = std::fs::read_to_string(&file).expect("the configuration");
    let place = |text: &str, needle: &str| {
        let before = &text[..text.find(needle).expect("it is there")];
        (before.matches('\n').count() + 1, before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1)
    };
    let pretty: Value = serde_json::from_str(&valid).expect("JSON");
    let pretty = serde_json::to_string_pretty(&pretty).expect("JSON");
    for (from, to, words) in [
        ("7000", "70000", "rules[0].sequence[0]"),
        ("\"ports\"", "\"prots\"", "prots"),
        ("\"1h\"", "\"an hour\"", "rules[0].allow.timeout"),
    ] {
        let text = pretty.replacen(from, to, 1);
        let (line, column) = place(&text, to);
        let mark = daemon.log_mark();
        std::fs::write(&file, &text).expect("written");
        daemon.signal(Signal::HUP);
        let told = daemon.wait_for_log_after(mark, "not reloaded");
        let at = format!("config.json:{line}:{column}");
        assert!(told.contains(&at) && told.contains(words), "{at}, {words}: {told}");
        siege.go_on();
        assert_eq!(ruleset(server), before);
    }
    // A file that ends early has no column of its own to name; one that is gone has none at all.
    std::fs::write(&file, &pretty[..pretty.len() / 2]).expect("written");
    let mark = daemon.log_mark();
    daemon.signal(Signal::HUP);
    daemon.wait_for_log_after(mark, "not reloaded");
    std::fs::remove_file(&file).expect("removed");
    let mark = daemon.log_mark();
    daemon.signal(Signal::HUP);
    let told = daemon.wait_for_log_after(mark, "not reloaded");
    assert!(told.contains("config.json"), "{told}");
    siege.end().assert_held();
    assert_eq!(ruleset(server), before);
    assert!(daemon.is_running());
    let address = IpAddr::from(network.client().v4);
    knock(&wire(&network), address, &[7000, 8000]);
    wait_for_grant(server, address, ("tcp", 22));
}

#[test]
fn killed_under_a_flood_and_started_again_it_adopts_every_grant() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    for owner in [true, false] {
        let mut daemon = Daemon::start(server, json!({ "nftables": { "owner": owner }, "rules": [ssh()] }));
        let addresses = grant(&network);
        let siege = Siege::begin(&network, 22, &[1]);
        for _ in 0..4 {
            let directory = daemon.kill();
            siege.go_on();
            assert!(table_exists(server, "knockd"), "it exists without a daemon; owner: {owner}");
            daemon = Daemon::start_again(server, directory);
            daemon.wait_for_log("adopted 2 live grants");
            siege.go_on();
            for address in &addresses {
                assert!(remaining(server, "knockd", *address) < HOUR, "it keeps its time; owner: {owner}");
            }
        }
        siege.end().assert_held();
        // An adopted grant is recorded with its time, and ends like another grant.
        let knockctl = |arguments: &[&str]| -> Value {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_knockctl"));
            command.arg("--socket").arg(daemon.path("control.sock")).args(arguments);
            let output = command.output().expect("knockctl runs");
            assert!(output.status.success(), "{output:?}");
            serde_json::from_slice(&output.stdout).unwrap_or_default()
        };
        let recorded = knockctl(&["--json", "grants"]);
        let recorded = recorded["grants"].as_array().expect("a list");
        let left = |grant: &Value| grant["remaining_seconds"].as_f64().expect("a number");
        assert_eq!(recorded.len(), addresses.len());
        assert!(recorded.iter().all(|grant| left(grant) < 3600.0 - 1.0), "{recorded:?}");
        for address in &addresses {
            knockctl(&["revoke", &address.to_string()]);
            assert_eq!(element(server, *address, ("tcp", 22)), None);
        }
        assert!(daemon.stop().success());
    }
}

#[test]
fn a_start_with_another_configuration_adopts_the_grants_that_it_still_has() {
    let network = network(1);
    let (server, client) = (&network.server, IpAddr::from(network.client().v4));
    let rules = json!([rule("a", [7000, 8000], &[22, 80]), rule("b", [7100, 8100], &[443])]);
    let daemon = Daemon::start(server, json!({ "rules": rules }));
    knock(&wire(&network), client, &[7000, 8000, 7100, 8100]);
    wait_for_grant(server, client, ("tcp", 443));
    drop(daemon.kill());
    // Rule b is gone; rule a has lost port 80 and got 8080.
    let _daemon = Daemon::start(server, json!({ "rules": [rule("a", [7000, 8000], &[22, 8080])] }));
    let mut ports: Vec<u16> = elements(server, "grants4").into_iter().map(|element| element.service.1).collect();
    ports.sort_unstable();
    assert_eq!(ports, [22, 8080]);
}

#[test]
fn a_restart_with_on_stop_keep_or_for_another_daemon_never_opens_the_gate() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    // USR1 is what systemd sends where the service is restarted: the next daemon is about to come.
    for (on_stop, signal) in [("keep", Signal::TERM), ("remove", Signal::USR1)] {
        for owner in [true, false] {
            let nftables = json!({ "on_stop": on_stop, "owner": owner });
            let mut daemon = Daemon::start(server, json!({ "nftables": nftables, "rules": [ssh()] }));
            let addresses = grant(&network);
            let siege = Siege::begin(&network, 22, &[1]);
            for _ in 0..3 {
                daemon.signal(signal);
                assert!(daemon.wait().success());
                siege.go_on();
                daemon = Daemon::start_again(server, daemon.take_directory());
                siege.go_on();
                for address in &addresses {
                    assert!(remaining(server, "knockd", *address) < HOUR, "on_stop: {on_stop}, owner: {owner}");
                }
            }
            siege.end().assert_held();
            drop(daemon.kill());
            server.namespace.nft("delete table inet knockd").expect("the table of a daemon that is dead");
        }
    }
}

#[test]
fn a_stopped_daemon_removes_its_table_and_the_flood_is_let_in() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let mut daemon = Daemon::start(server, json!({ "rules": [ssh()] }));
    grant(&network);
    let siege = Siege::begin(&network, 22, &[1]);
    assert_eq!(siege.passed().segments, 0);
    assert!(daemon.stop().success());
    assert!(!table_exists(server, "knockd"));
    siege.go_on();
    // This is what all the other tests would see of a gap.
    wait_until("strangers get through", || siege.passed().segments > 0);
    siege.end().assert_let_in();
}

#[test]
fn a_start_that_fails_leaves_nothing_half_made_and_an_adopted_table_guarding() {
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let unusable =
        json!({ "name": "own", "sequence": [7100, 8100], "allow": { "set": "inet filter wide", "timeout": "1h" } });
    server
        .namespace
        .nft("add table inet filter\nadd set inet filter wide { type ipv4_addr; flags interval, timeout; }")
        .expect("a set");
    let untouched = ruleset(server);
    let mut failed = Daemon::launch(server, json!({ "rules": [ssh(), unusable] }), Options::default());
    assert_eq!(failed.wait().code(), Some(78), "{}", failed.log());
    assert_eq!(ruleset(server), untouched);
    let wrapper = ["setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all"];
    let options = Options { wrapper: &wrapper, ..Options::default() };
    let mut failed = Daemon::launch(server, json!({ "rules": [ssh()] }), options);
    assert_eq!(failed.wait().code(), Some(77), "{}", failed.log());
    assert!(failed.log().contains("CAP_NET_ADMIN"), "{}", failed.log());
    assert_eq!(ruleset(server), untouched);

    let daemon = Daemon::start(server, json!({ "rules": [ssh()] }));
    let addresses = grant(&network);
    let siege = Siege::begin(&network, 22, &[1]);
    drop(daemon.kill());
    let guarding = ruleset(server);
    let starts: [(Value, &[&str], i32); 3] = [
        (json!({ "rules": [ssh(), unusable] }), &[], 78),
        (json!({ "rules": [ssh()] }), &wrapper, 77),
        (json!({ "rules": [ssh()], "control_socket": "/proc/no/such/place" }), &[], 1),
    ];
    for (configuration, wrapper, status) in starts {
        let options = Options { wrapper, ..Options::default() };
        let mut failed = Daemon::launch(server, configuration, options);
        assert_eq!(failed.wait().code(), Some(status), "{}", failed.log());
        siege.go_on();
        assert_eq!(ruleset(server), guarding);
    }
    let _daemon = Daemon::start(server, json!({ "rules": [ssh()] }));
    for address in &addresses {
        assert!(remaining(server, "knockd", *address) < HOUR);
    }
    siege.end().assert_held();
}

#[test]
fn two_daemons_with_one_table_do_not_fight() {
    for owner in [true, false] {
        let network = network(1);
        let server = &network.server;
        let nftables = json!({ "owner": owner });
        let first = Daemon::start(server, json!({ "rules": [ssh()], "nftables": nftables }));
        let client = IpAddr::from(network.client().v4);
        knock(&wire(&network), client, &[7000, 8000]);
        let Element { address, .. } = wait_for_grant(server, client, ("tcp", 22));
        assert_eq!(address, client);
        let before = ruleset(server);
        let other = json!({ "rules": [rule("other", [7100, 8100], &[80])], "nftables": nftables });
        let mut second = Daemon::launch(server, other, Options::default());
        assert_eq!(second.wait().code(), Some(1));
        assert!(second.log().contains("managed by another knockd"), "{}", second.log());
        assert_eq!(ruleset(server), before);
        drop(first);
    }
}

#[test]
fn whichever_answer_of_the_kernel_fails_a_start_makes_all_or_nothing() {
    let network = network(1);
    let server = &network.server;
    let empty = ruleset(server);
    let (mut started, mut failed) = (0, 0);
    // What is sent to the kernel goes by sendto(2): links and routes first, then the table.
    for number in 1..=24 {
        let inject = format!("inject=sendto:error=ENOMEM:when={number}");
        let wrapper = ["strace", "-D", "-qq", "-o", "/dev/null", "-e", "trace=sendto", "-e", &inject];
        let options = Options { wrapper: &wrapper, ..Options::default() };
        let mut daemon = Daemon::launch(server, json!({ "rules": [ssh()] }), options);
        let is_ready = |daemon: &Daemon| daemon.log().lines().any(|line| line.starts_with("ready"));
        wait_until("it runs or has ended", || is_ready(&daemon) || !daemon.is_running());
        if is_ready(&daemon) {
            started += 1;
            assert!(table_exists(server, "knockd"), "message {number}");
            drop(daemon.kill());
            server.namespace.nft("delete table inet knockd").expect("the table of a daemon that is dead");
        } else {
            failed += 1;
            let status = daemon.wait();
            assert_eq!(status.code(), Some(1), "message {number}: {}", daemon.log());
            assert!(daemon.log().contains("memory"), "it says why: {}", daemon.log());
            assert_eq!(ruleset(server), empty, "message {number}: {}", daemon.log());
        }
    }
    assert!(started > 0 && failed > 2, "{started} started, {failed} failed");
}

#[test]
fn whichever_call_fails_a_start_leaves_the_table_that_it_found_guarding() {
    let network = network(1);
    let server = &network.server;
    // Without an owner the daemon opens more after it has taken the table up: what hears of changes by others.
    let configuration = json!({ "nftables": { "owner": false }, "rules": [ssh()] });
    let daemon = Daemon::start(server, configuration.clone());
    let client = IpAddr::from(network.client().v4);
    knock(&wire(&network), client, &[7000, 8000]);
    wait_for_grant(server, client, ("tcp", 22));
    drop(daemon.kill());
    let guarding = ruleset(server);
    let mut failed = 0;
    for (call, error) in [("sendto", "ENOMEM"), ("socket", "EMFILE"), ("pipe2", "EMFILE")] {
        for number in 1..=16 {
            let inject = format!("inject={call}:error={error}:when={number}");
            let trace = format!("trace={call}");
            let wrapper = ["strace", "-D", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let options = Options { wrapper: &wrapper, ..Options::default() };
            let mut daemon = Daemon::launch(server, configuration.clone(), options);
            let is_ready = |daemon: &Daemon| daemon.log().lines().any(|line| line.starts_with("ready"));
            wait_until("it runs or has ended", || is_ready(&daemon) || !daemon.is_running());
            failed += u32::from(!is_ready(&daemon));
            drop(daemon);
            assert_eq!(ruleset(server), guarding, "{call} {number}");
        }
    }
    assert!(failed > 4, "{failed} starts failed");
}
