//! Full sets, and very many grants.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use knock_testkit::{Echo, Flood, Packet};
use serde_json::{Value, json};

use crate::hostile::EndOnDrop;
use crate::support::{
    Daemon, Siege, at, element, elements, knock, network, table_exists, wait_for_grant, wait_until, wire,
};

const SEQUENCE: [u16; 3] = [7000, 9000, 8000];

fn ssh() -> Value {
    json!({ "name": "ssh", "sequence": SEQUENCE, "allow": { "ports": [22], "timeout": "1h" } })
}

/// What the daemon answers to a request, and how long it took.
#[track_caller]
fn ask(daemon: &Daemon, request: &Value) -> (Value, Duration) {
    let start = Instant::now();
    let mut stream = UnixStream::connect(daemon.path("control.sock")).expect("it listens");
    stream.write_all(format!("{request}\n").as_bytes()).expect("it reads");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    (serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:.200}")), start.elapsed())
}

#[test]
fn a_full_set_is_reported_and_live_grants_stay() {
    let network = network(1);
    let server = &network.server;
    let daemon = Daemon::start(server, json!({ "limits": { "grants": 3 }, "rules": [ssh()] }));
    let wire = wire(&network);
    let address = |last: u8| IpAddr::from(Ipv4Addr::new(198, 18, last, 1));
    for last in 1..=3 {
        knock(&wire, address(last), &SEQUENCE);
        wait_for_grant(server, address(last), ("tcp", 22));
    }
    let granted = |addresses: [u8; 3]| {
        let all = elements(server, "grants4");
        all.len() == 3 && addresses.iter().all(|last| all.iter().any(|element| element.address == address(*last)))
    };
    knock(&wire, address(4), &SEQUENCE);
    let told = daemon.wait_for_log(&format!("not granted to {}", address(4)));
    assert!(told.contains("rule ssh") && told.contains("the set is full"), "{told}");
    assert!(granted([1, 2, 3]));
    let status = ask(&daemon, &json!({ "version": 1, "command": "status" })).0;
    assert!(status.to_string().contains("\"grants\":3"), "{status}");

    // A granted address can extend its grant, and the other IP version has room of its own.
    let mark = daemon.log_mark();
    knock(&wire, address(1), &SEQUENCE);
    daemon.wait_for_log_after(mark, &format!("extended for {}", address(1)));
    knock(&wire, network.client().v6.into(), &SEQUENCE);
    wait_for_grant(server, network.client().v6.into(), ("tcp", 22));
    // Once one ends there is room.
    let revoke = json!({ "version": 1, "command": "revoke", "address": address(2) });
    ask(&daemon, &revoke);
    knock(&wire, address(4), &SEQUENCE);
    wait_for_grant(server, address(4), ("tcp", 22));
    assert!(granted([1, 3, 4]));

    // A reload gives more room, and keeps what is there.
    let mark = daemon.log_mark();
    daemon.reload(json!({ "limits": { "grants": 4 }, "rules": [ssh()] }));
    daemon.wait_for_log_after(mark, "reloaded: rules");
    assert!(granted([1, 3, 4]));
    knock(&wire, address(5), &SEQUENCE);
    wait_for_grant(server, address(5), ("tcp", 22));
}

/// How many sources lost their place so far.
fn evicted(daemon: &Daemon) -> u64 {
    let status = daemon.control_status();
    status["counters"]["evicted"].as_u64().unwrap_or_else(|| panic!("no such counter: {status}"))
}

#[test]
fn a_table_full_of_other_sources_locks_no_client_out() {
    const SOURCES: u64 = 1024;
    let network = network(2);
    let server = &network.server;
    let web = json!({ "name": "web", "sequence": [7100, 9100, 8100], "allow": { "ports": [80], "timeout": "1h" } });
    // The knocks are slow where the machine is.
    let configuration = json!({ "timeout": "1m", "limits": { "sources": SOURCES }, "rules": [ssh(), web] });
    let daemon = Daemon::start(server, configuration);
    // All but the last knock of one rule from one IPv6 network, and the first of the other one with forged sources.
    let flood = |first: IpAddr, ports: &[u16]| {
        let example = Packet::syn((first, 1).into(), at(first, ports[0]), 0);
        Flood { ports: ports.to_vec(), rate: Some(5000), count: None, ..Flood::new(example, 1 << 17, 0) }
    };
    let floods =
        [flood([0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0].into(), &SEQUENCE[..2]), flood([198, 18, 0, 0].into(), &[7100])];
    let stop = AtomicBool::new(false);
    let knocking = network.clients[1].wire(server).expect("a packet socket");
    let mut tries = 0;
    thread::scope(|scope| {
        let end = EndOnDrop(&stop);
        for flood in &floods {
            let (wire, stop) = (network.clients[0].wire(server).expect("a packet socket"), &stop);
            scope.spawn(move || flood.run(&wire, stop).expect("the flood is sent"));
        }
        wait_until("the table is full", || evicted(&daemon) > 0);
        for number in 0..20_u8 {
            let source = match number % 2 {
                0 => IpAddr::from([10, 77, 0, 100 + number]),
                _ => IpAddr::from([0xfd88, 0, 0, 0, 0, 0, 0, u16::from(number)]),
            };
            // A packet may be lost where the machine is busy: it is knocked again, as anybody would.
            wait_until(&format!("{source} gets in"), || {
                tries += 1;
                for port in SEQUENCE {
                    knock(&knocking, source, &[port]);
                    let before = evicted(&daemon);
                    // As many new sources as there are places.
                    wait_until("the flood goes on", || evicted(&daemon) > before + SOURCES);
                }
                element(server, source, ("tcp", 22)).is_some()
            });
        }
        drop(end);
    });
    eprintln!("20 got in with {tries} knocks, while {} sources lost their place", evicted(&daemon));
    let strangers = elements(server, "grants6").iter().any(|element| element.address.to_string().starts_with("2001:"));
    assert!(!strangers, "who knows all but the last knock does not get in");
}

/// The median time of a grant by hand, of addresses from `first` on.
fn grant_time(daemon: &Daemon, first: u32) -> Duration {
    let mut times: Vec<Duration> = (0..201)
        .map(|number| {
            let address = Ipv4Addr::from(first + number);
            let request = json!({ "version": 1, "command": "grant", "rule": "ssh", "address": address });
            let (answer, time) = ask(daemon, &request);
            assert!(answer.get("error").is_none_or(Value::is_null), "{answer}");
            time
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn with_a_hundred_thousand_grants_all_goes_on_as_with_one() {
    const MANY: u32 = 100_000;
    let network = network(2);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let configuration = |extra: &[Value]| {
        let rules: Vec<Value> = [ssh()].into_iter().chain(extra.iter().cloned()).collect();
        json!({ "limits": { "grants": 200_000 }, "log": { "target": "stderr", "level": "info" }, "rules": rules })
    };
    let mut daemon = Daemon::start(server, configuration(&[]));
    let few = grant_time(&daemon, u32::from(Ipv4Addr::new(10, 1, 0, 0)));
    let friend = &network.clients[1];
    for address in [IpAddr::from(friend.v4), friend.v6.into()] {
        knock(&friend.wire(server).expect("a packet socket"), address, &SEQUENCE);
        wait_for_grant(server, address, ("tcp", 22));
    }
    let small = daemon.status("VmRSS");

    // As a daemon would have left them behind. The table has no owner between two daemons.
    let siege = Siege::begin(&network, 22, &[1]);
    let directory = daemon.kill();
    let mut script = String::from("add element inet knockd grants4 {\n");
    for number in 0..MANY {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 2, 0, 0)) + number);
        let _ = writeln!(script, "{address} . tcp . 22 timeout 1h comment \"ssh\",");
    }
    script += "}\n";
    server.namespace.nft(&script).expect("very many grants");
    let start = Instant::now();
    daemon = Daemon::start_again(server, directory);
    let (started, large) = (start.elapsed(), daemon.status("VmRSS"));
    let total = u64::from(MANY) + 201 + 2;
    daemon.wait_for_log(&format!("adopted {total} live grants"));
    siege.go_on();

    let many = grant_time(&daemon, u32::from(Ipv4Addr::new(10, 9, 0, 0)));
    let (listing, listed) = ask(&daemon, &json!({ "version": 1, "command": "grants" }));
    let start = Instant::now();
    let mut knockctl = Command::new(env!("CARGO_BIN_EXE_knockctl"));
    knockctl.arg("--socket").arg(daemon.path("control.sock")).arg("grants");
    let printed = knockctl.output().expect("knockctl runs");
    let shown = start.elapsed();
    let total = usize::try_from(total).expect("it fits") + 201;
    assert!(printed.stdout.iter().filter(|byte| **byte == b'\n').count() >= total, "{:?}", printed.status);
    drop(listing);

    let reload = |configuration: Value| {
        let mark = daemon.log_mark();
        let start = Instant::now();
        daemon.reload(configuration);
        daemon.wait_for_log_after(mark, "reloaded: rules");
        start.elapsed()
    };
    let web = json!({ "name": "web", "sequence": [7100, 9100, 8100], "allow": { "ports": [80], "timeout": "1h" } });
    let same_grants = reload(configuration(&[web]));
    siege.go_on();
    // The new table has all grants from its first moment: the clients of the siege notice nothing.
    let mut renamed = configuration(&[]);
    renamed["nftables"] = json!({ "table": "gate" });
    let under_another_name = reload(renamed.clone());
    siege.go_on();
    let mut wider = renamed;
    wider["rules"][0]["allow"]["ports"] = json!([22, 2222]);
    wider["limits"]["grants"] = json!(400_000);
    let twice_the_elements = reload(wider);
    siege.go_on();
    let start = Instant::now();
    let (answer, _) = ask(&daemon, &json!({ "version": 1, "command": "status" }));
    let status_time = start.elapsed();
    assert!(answer.to_string().contains(&format!("\"grants\":{total}")), "{answer}");
    siege.end().assert_held();

    eprintln!(
        "with {total} grants: a new one {many:?} (with few: {few:?}), adopted in {started:?}, listed in {listed:?}, \
         shown by knockctl in {shown:?}, reload {same_grants:?}, to another table {under_another_name:?}, with another port for all {twice_the_elements:?}, \
         status {status_time:?}, memory {large} KiB (with few: {small} KiB)"
    );
    // Generous bounds: this is a build without optimisation on a machine that does much else.
    assert!(many < 4 * few + Duration::from_millis(2), "a new grant: {many:?} against {few:?}");
    assert!(listed < Duration::from_secs(3) && shown < Duration::from_secs(6), "{listed:?}, {shown:?}");
    assert!(same_grants < Duration::from_secs(10), "{same_grants:?}");
    assert!(large < small + 200 * 1024, "{large} KiB");
    assert!(daemon.stop().success());
    wait_until("the tables are gone", || !table_exists(server, "knockd") && !table_exists(server, "gate"));
}
