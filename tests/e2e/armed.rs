//! Guarded ports that the kernel opens by itself at the last knock, for sources that the daemon has followed so far.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use knock_testkit::{Answer, Echo, Flags, Host, Network, Packet, Wire};
use rustix::net::{AddressFamily, RecvFlags, recv, sockopt::socket_domain};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open};
use serde_json::{Value, json};

use crate::doctor::knockctl;
use crate::support::spa::{self, Signer, SpaFiles};
use crate::support::{Daemon, at, element, elements, knock, network, process, syns, wait_until, wire};

const SEQUENCE: [u16; 3] = [7000, 9000, 8000];

/// A server with the service that is guarded, and a daemon whose kernel opens.
struct Scene {
    network: Network,
    wire: Wire,
    daemon: Daemon,
    _services: [Echo; 2],
}

fn ssh() -> Value {
    json!({ "name": "ssh", "sequence": SEQUENCE, "allow": { "ports": [22], "timeout": "1h" } })
}

pub(crate) fn configuration(rules: &Value) -> Value {
    // Longer than the kernel waits, so that a busy machine is not too slow for the knocks.
    json!({ "timeout": "60s", "nftables": { "last_knock": "kernel" }, "rules": rules })
}

fn v4(number: u8) -> IpAddr {
    [198, 18, 0, number].into()
}

fn v6(number: u16) -> IpAddr {
    [0x2001, 0xdb8, 0, 0, 0, 0, 0, number].into()
}

impl Scene {
    fn new(configuration: Value) -> Scene {
        let network = network(1);
        let services = [22, 23].map(|port| Echo::tcp(&network.server.namespace, port).expect("a service"));
        let daemon = Daemon::start(&network.server, configuration);
        Scene { wire: wire(&network), daemon, network, _services: services }
    }

    fn with_ssh() -> Scene {
        Scene::new(configuration(&json!([ssh()])))
    }

    fn knock(&self, source: IpAddr, ports: &[u16]) {
        knock(&self.wire, source, ports);
    }

    /// Knocks all but the last knock, and waits until the source is armed.
    fn arm(&self, source: IpAddr) {
        self.knock(source, &SEQUENCE[..2]);
        self.wait_until_armed(source);
    }

    fn wait_until_armed(&self, source: IpAddr) {
        wait_until(&format!("{source} is armed"), || self.is_armed(source).then_some(()));
    }

    fn is_armed(&self, source: IpAddr) -> bool {
        in_set(&self.network.server, "armed", source)
    }

    /// Whether port 22 answers that source, without the help of a daemon that is stopped.
    fn is_open(&self, source: IpAddr) -> bool {
        let answer = self.wire.syn_answer((source, 50_000).into(), at(source, 22)).expect("asked");
        matches!(answer, Some(Answer::Tcp(flags)) if flags.has(Flags::SYN))
    }

    fn stop(&self) {
        self.each_process(Signal::STOP);
    }

    fn go_on(&self) {
        self.each_process(Signal::CONT);
    }

    fn each_process(&self, signal: Signal) {
        for number in [self.daemon.pid(), self.daemon.ear()] {
            kill_process(process(number), signal).expect("signalled");
        }
    }

    /// Sends the last knock, which the ear does not get to see.
    fn last_knock_unheard(&self, source: IpAddr) {
        let ear = process(self.daemon.ear());
        kill_process(ear, Signal::STOP).expect("stopped");
        self.knock(source, &SEQUENCE[2..]);
        assert!(self.is_open(source), "the kernel opens");
        let of = pidfd_open(ear, PidfdFlags::empty()).expect("a running process");
        let copies = (0..64).filter_map(|number| pidfd_getfd(&of, number, PidfdGetfdFlags::empty()).ok());
        let mut stolen = 0;
        for socket in copies.filter(|copy| socket_domain(copy) == Ok(AddressFamily::PACKET)) {
            while recv(&socket, &mut [0; 256], RecvFlags::DONTWAIT).is_ok() {
                stolen += 1;
            }
        }
        assert_eq!(stolen, 1, "the last knock");
        kill_process(ear, Signal::CONT).expect("continued");
    }

    fn counter(&self, name: &str) -> u64 {
        self.daemon.control_status()["counters"][name].as_u64().expect("a counter")
    }

    fn doors(&self) -> Value {
        self.daemon.control_status()["doors"].take()
    }

    fn wait_until_granted(&self, source: IpAddr) {
        wait_until(&format!("{source} has a grant"), || element(&self.network.server, source, ("tcp", 22)));
    }

    fn wait_for_confirmed_grant(&self, source: IpAddr) {
        wait_until(&format!("{source} has a grant with the name of its rule"), || {
            element(&self.network.server, source, ("tcp", 22)).filter(|found| found.comment.as_deref() == Some("ssh"))
        });
    }
}

/// What nft shows, with handles, as an administrator asks for it.
pub(crate) fn listing(server: &Host) -> String {
    let mut command = Command::new("nft");
    command.args(["-a", "list", "table", "inet", "knockd"]);
    server.namespace.output(&mut command, "").expect("nft lists")
}

/// Whether a set for sources of an IP version has that one.
pub(crate) fn in_set(server: &Host, set: &str, source: IpAddr) -> bool {
    let (kind, version) = (if set == "armed" { "map" } else { "set" }, if source.is_ipv4() { 4 } else { 6 });
    let mut command = Command::new("nft");
    command.args(["list", kind, "inet", "knockd", &format!("{set}{version}")]);
    let text = server.namespace.output(&mut command, "").unwrap_or_default();
    text.contains(&format!("{source} "))
}

#[test]
fn it_opens_at_the_last_knock_while_the_daemon_does_nothing() {
    let scene = Scene::with_ssh();
    for (number, source) in [v4(1), v6(1)].into_iter().enumerate() {
        scene.arm(source);
        assert!(!scene.is_open(source), "the last knock is missing");
        scene.stop();
        scene.knock(source, &SEQUENCE[2..]);
        assert!(scene.is_open(source) && !scene.is_open(v4(9)) && !scene.is_open(v6(9)));
        scene.go_on();
        // The daemon makes the grant: record and kernel agree, and nobody is waited for any more.
        scene.wait_for_confirmed_grant(source);
        wait_until("it is confirmed", || (scene.counter("armed_confirmed") == number as u64 + 1).then_some(()));
        let found = element(&scene.network.server, source, ("tcp", 22)).expect("the grant");
        assert_eq!(found.timeout, Some(Duration::from_secs(3600)));
        assert!(!scene.is_armed(source) && scene.is_open(source));
    }
    let status = scene.daemon.control_status();
    assert_eq!((&status["grants"], &status["doors"]["armed"]), (&json!(2), &json!(0)));
    assert_eq!((scene.counter("armed_unconfirmed"), scene.counter("strays")), (0, 0));
    let text = scene.daemon.knockctl(&["status"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("opened by the kernel for 1 rule; 0 armed now; since the start 2 armed"), "{text}");
}

#[test]
fn any_other_knock_and_any_tripwire_comes_before_the_last_knock_in_the_kernel_too() {
    let scene = Scene::with_ssh();
    for (number, between) in (1..).zip([6999, 7000, 7001, 7999, 8001, 8999, 9001]) {
        let source = v4(number);
        scene.arm(source);
        scene.stop();
        scene.knock(source, &[between, 8000]);
        assert!(!scene.is_open(source), "{between}");
        scene.go_on();
        // What comes after it has been read then.
        let fence = v4(100 + number);
        scene.knock(fence, &SEQUENCE);
        scene.wait_for_confirmed_grant(fence);
        assert!(!scene.is_open(source), "{between}");
    }
    // The knock before it once more, and what is no knock.
    let source = v4(50);
    scene.arm(source);
    scene.stop();
    scene.knock(source, &[9000, 443, 8000]);
    assert!(scene.is_open(source));
    scene.go_on();
    scene.wait_for_confirmed_grant(source);
    assert_eq!(scene.counter("armed_unconfirmed"), 0);
}

#[test]
fn what_the_kernel_opens_and_no_completion_confirms_ends_soon() {
    let scene = Scene::new(json!({
        "timeout": "60s", "nftables": { "last_knock": "kernel" },
        "rules": [{ "timeout": "4s", "name": "ssh", "sequence": SEQUENCE, "allow": { "ports": [22], "timeout": "1h" } }],
    }));
    let source = v4(1);
    scene.arm(source);
    scene.last_knock_unheard(source);
    assert_eq!(scene.daemon.control_status()["grants"], 0);
    // Not after the hour that it would have.
    wait_until("it ends", || (!scene.is_open(source)).then_some(()));
    scene.daemon.wait_for_log("deleted a stray element of rule ssh, which belongs to no grant: 198.18.0.1, 22/tcp");
    assert_eq!((scene.counter("armed_unconfirmed"), scene.counter("strays")), (1, 1));
    // The source is not locked out.
    scene.knock(source, &SEQUENCE);
    scene.wait_for_confirmed_grant(source);
}

#[test]
fn a_time_that_is_over_is_over_in_the_kernel_too() {
    let scene = Scene::new(json!({
        "nftables": { "last_knock": "kernel" },
        "rules": [{ "timeout": "2s", "name": "ssh", "sequence": SEQUENCE, "allow": { "ports": [22], "timeout": "1h" } }],
    }));
    let source = v4(1);
    scene.arm(source);
    scene.stop();
    wait_until("it is not armed any more", || (!scene.is_armed(source)).then_some(()));
    scene.knock(source, &SEQUENCE[2..]);
    assert!(!scene.is_open(source));
    scene.go_on();
    wait_until("the record of it is gone", || (scene.doors()["armed"] == 0).then_some(()));
}

#[test]
fn a_reload_disarms_and_deletes_what_is_not_confirmed() {
    let scene = Scene::with_ssh();
    let (armed, opened) = (v4(1), v6(1));
    scene.arm(armed);
    scene.arm(opened);
    scene.last_knock_unheard(opened);
    let other = json!({ "name": "web", "sequence": [4000, 3000, 2000], "allow": { "ports": [23], "timeout": "1h" } });
    scene.daemon.reload(configuration(&json!([other, ssh()])));
    scene.daemon.wait_for_log("reloaded");
    assert!(!scene.is_armed(armed) && !scene.is_open(opened));
    scene.stop();
    scene.knock(armed, &SEQUENCE[2..]);
    assert!(!scene.is_open(armed), "the kernel waits for nobody");
    scene.go_on();
    // Its knocks count on, and the daemon opens.
    scene.wait_for_confirmed_grant(armed);
    assert_eq!(scene.doors()["rules"], json!(["web", "ssh"]));
    // The doors have other numbers now.
    let source = v4(2);
    scene.arm(source);
    scene.stop();
    scene.knock(source, &SEQUENCE[2..]);
    assert!(scene.is_open(source));
    scene.go_on();
    scene.wait_for_confirmed_grant(source);
    // And none when the daemon is to open.
    scene.arm(v4(3));
    let mark = scene.daemon.log_mark();
    scene.daemon.reload(json!({ "timeout": "60s", "rules": [ssh()] }));
    scene.daemon.wait_for_log_after(mark, "reloaded");
    assert_eq!(scene.doors(), Value::Null);
    assert!(!listing(&scene.network.server).contains("armed"));
    scene.knock(v4(3), &SEQUENCE[2..]);
    scene.wait_for_confirmed_grant(v4(3));
    assert!(scene.is_open(source) && scene.is_open(armed), "grants stay");
}

#[test]
fn a_kill_at_any_moment_leaves_nobody_armed_and_nothing_open_that_was_not_confirmed() {
    let mut scene = Scene::with_ssh();
    let (armed, opened, granted) = (v4(1), v4(2), v4(3));
    scene.arm(opened);
    scene.last_knock_unheard(opened);
    scene.arm(granted);
    scene.knock(granted, &SEQUENCE[2..]);
    scene.wait_for_confirmed_grant(granted);
    scene.arm(armed);
    let server = &scene.network.server;
    let placeholder = Daemon::start(&network(1).server, json!({ "rules": [] }));
    let directory = std::mem::replace(&mut scene.daemon, placeholder).kill();
    // Until the next start, the kernel may open to who is armed, for seconds.
    scene.wait_until_armed(armed);
    scene.knock(armed, &SEQUENCE[2..]);
    assert!(scene.is_open(armed) && scene.is_open(opened) && !scene.is_open(v4(9)));
    scene.daemon = Daemon::start_again(server, directory);
    assert!(!scene.is_open(armed) && !scene.is_open(opened), "a stray element is deleted at the start");
    assert!(scene.is_open(granted), "what was confirmed is adopted");
    assert_eq!(scene.daemon.control_status()["grants"], 1);
    // They are not locked out.
    scene.knock(armed, &SEQUENCE);
    scene.wait_for_confirmed_grant(armed);
}

#[test]
fn a_stop_that_keeps_the_table_disarms() {
    let mut scene = Scene::new(json!({
        "timeout": "60s", "nftables": { "last_knock": "kernel", "on_stop": "keep" }, "rules": [ssh()],
    }));
    scene.arm(v4(1));
    scene.arm(v4(2));
    scene.last_knock_unheard(v4(2));
    assert!(scene.daemon.stop().success());
    scene.knock(v4(1), &SEQUENCE[2..]);
    assert!(!scene.is_open(v4(1)) && !scene.is_open(v4(2)));
}

#[test]
fn a_revocation_ends_what_the_kernel_has_opened() {
    let scene = Scene::with_ssh();
    let source = v4(1);
    scene.arm(source);
    scene.last_knock_unheard(source);
    scene.daemon.knockctl(&["revoke", "198.18.0.1"]);
    assert!(!scene.is_open(source));
    // And what was granted, whatever comes again.
    let source = v4(2);
    scene.arm(source);
    scene.knock(source, &SEQUENCE[2..]);
    scene.wait_for_confirmed_grant(source);
    scene.daemon.knockctl(&["revoke", "--all"]);
    scene.knock(source, &SEQUENCE[2..]);
    assert!(!scene.is_open(source));
}

#[test]
fn rules_open_in_the_kernel_what_they_open_else() {
    let rules = json!([
        { "name": "wide", "sequence": ["5000/udp", 5100, "5200/udp"], "allow": { "ports": ["20-30"], "prefix4": 24, "prefix6": 64, "timeout": "1h" } },
        { "name": "any", "sequence": [6000, "6100/udp", 6200], "allow": { "ports": "any", "timeout": "1h" } },
        { "name": "here", "sequence": [7000, 7100], "target": ["10.77.0.1", "fd77::1"], "allow": { "ports": [22, 23], "timeout": "1h" } },
    ]);
    let mut configuration = configuration(&rules);
    configuration["interface"] = json!(["eth0", "eth1"]);
    let scene = Scene::new(configuration);
    assert_eq!(scene.doors(), json!({ "rules": ["wide", "any", "here"], "armed": 0, "problem": null }));
    let knock = |source: IpAddr, port: u16, udp: bool| match udp {
        true => Packet::udp((source, 40_000).into(), at(source, port)),
        false => syns(source, &[port]).remove(0),
    };
    let sequences = [
        vec![(5000, true), (5100, false), (5200, true)],
        vec![(6000, false), (6100, true), (6200, false)],
        vec![(7000, false), (7100, false)],
    ];
    for (number, sequence) in (1..).zip(sequences) {
        // A source that has completed a rule is not armed again so soon.
        for source in [v4(number), v6(number.into())] {
            let mut packets: Vec<Packet> = sequence.iter().map(|&(port, udp)| knock(source, port, udp)).collect();
            let last = packets.pop().expect("a last knock");
            scene.wire.send_all(&packets).expect("sent");
            scene.wait_until_armed(source);
            assert!(!scene.is_open(source));
            scene.stop();
            scene.wire.send(&last).expect("sent");
            assert!(scene.is_open(source), "{last:?}");
            scene.go_on();
            wait_until("it is granted", || (scene.daemon.control_status()["grants"] == 1).then_some(()));
            scene.daemon.knockctl(&["revoke", "--all"]);
            assert!(!scene.is_open(source));
        }
    }
    assert_eq!((scene.counter("armed_confirmed"), scene.counter("armed_unconfirmed")), (6, 0));
}

#[test]
fn nobody_is_armed_where_the_kernel_could_open_wrongly() {
    let problem = |change: &dyn Fn(&mut Value), rules: Value| {
        let mut configuration = configuration(&rules);
        change(&mut configuration);
        let scene = Scene::new(configuration);
        scene.knock(v4(1), &SEQUENCE);
        assert!(!listing(&scene.network.server).contains("armed"));
        scene.doors()["problem"].as_str().unwrap_or_default().to_owned()
    };
    let nothing = |_: &mut Value| {};
    let unowned = problem(&|all| all["nftables"]["owner"] = json!(false), json!([ssh()]));
    assert!(unowned.contains("nftables.owner is false"), "{unowned}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), " 1000 2000 3000\n 4000 5000 6000\n").expect("written");
    let one_time =
        json!({ "name": "once", "one_time_sequences": file.path(), "allow": { "ports": [23], "timeout": "1h" } });
    let one_time = problem(&nothing, json!([ssh(), one_time]));
    assert!(one_time.contains("one-time sequences"), "{one_time}");
    let single = json!({ "name": "single", "sequence": [7000, 7000], "allow": { "ports": [22], "timeout": "1h" } });
    let back = json!({ "name": "back", "sequence": [7000, 8000, 7000], "allow": { "ports": [22], "timeout": "1h" } });
    let acks =
        json!({ "name": "acks", "sequence": [1, 4], "tcp_flags": "ack", "allow": { "ports": [22], "timeout": "1h" } });
    let none = problem(&nothing, json!([single, back, acks]));
    assert!(none.contains("no rule opens guarded ports by a sequence that the kernel can complete"), "{none}");

    // With one door, the others are none.
    let scene = Scene::new(configuration(&json!([single, back, acks, ssh()])));
    assert_eq!(scene.doors()["rules"], json!(["ssh"]));
    scene.knock(v4(2), &[7000, 8000]);
    scene.arm(v4(3));
    assert!(!scene.is_armed(v4(2)));
    assert_eq!(scene.counter("armed"), 1);
}

#[test]
fn nft_lists_the_table_of_a_daemon_that_arms() {
    let scene = Scene::with_ssh();
    scene.arm(v4(1));
    let text = listing(&scene.network.server);
    for part in ["map armed4 {", "198.18.0.1 timeout", "chain armed6 { # handle", "@watched jump knock", "size 66560"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // And nothing of it looks wrong to the doctor.
    let plain = Scene::new(json!({ "timeout": "60s", "rules": [ssh()] }));
    let found = [&scene, &plain].map(|scene| knockctl(&scene.network.server, &scene.daemon, &["doctor", "--json"]));
    let [with, without] = found.map(|output| {
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let findings = report["findings"].as_array().expect("a list").clone();
        findings.into_iter().map(|of| format!("{} {}", of["subject"], of["severity"])).collect::<Vec<_>>()
    });
    assert_eq!(with, without);
}

#[test]
fn who_knows_all_but_the_last_knock_takes_the_places_and_no_more() {
    let scene = Scene::with_ssh();
    let sources = (0..3000_u32).map(|number| IpAddr::from((0xc613_0000 + number).to_be_bytes()));
    for source in sources {
        scene.knock(source, &SEQUENCE[..2]);
    }
    let client = v4(1);
    scene.knock(client, &SEQUENCE);
    scene.wait_for_confirmed_grant(client);
    assert!(scene.doors()["armed"].as_u64().is_some_and(|armed| (1..=1024).contains(&armed)), "{}", scene.doors());
    // IPv6 has places of its own.
    scene.arm(v6(1));
    assert_eq!(elements(&scene.network.server, "grants4").len(), 1);
}

#[test]
fn where_there_is_no_room_for_a_grant_the_kernel_opens_nothing() {
    let mut configuration = configuration(&json!([ssh()]));
    configuration["limits"] = json!({ "grants": 1 });
    let scene = Scene::new(configuration);
    scene.knock(v4(1), &SEQUENCE);
    scene.wait_for_confirmed_grant(v4(1));
    scene.knock(v4(2), &SEQUENCE[..2]);
    // There is for IPv6.
    scene.arm(v6(1));
    assert!(!scene.is_armed(v4(2)));
    scene.knock(v4(2), &SEQUENCE[2..]);
    scene.daemon.wait_for_log("198.18.0.2");
    assert!(!scene.is_open(v4(2)));
}

#[test]
fn in_a_cooldown_the_kernel_opens_nothing_either() {
    let files = SpaFiles::new("");
    let alice = Signer::new(1, &files.cover);
    files.write_keys(&alice.line("", "alice"));
    let mut rule = ssh();
    (rule["spa"], rule["cooldown"]) = (json!(true), json!("1h"));
    let mut configuration = files.configuration(json!([rule]), Duration::from_secs(60));
    (configuration["timeout"], configuration["nftables"]) = (json!("60s"), json!({ "last_knock": "kernel" }));
    let scene = Scene::new(configuration);
    // The cooldown begins while the source is armed, and while it is not.
    let (armed, other) = (v4(1), v4(2));
    scene.arm(armed);
    for source in [armed, other] {
        spa::send(&scene.wire, source, &alice.payload(&spa::open("ssh")));
        scene.wait_until_granted(source);
        scene.daemon.knockctl(&["revoke", &source.to_string()]);
    }
    scene.knock(other, &SEQUENCE[..2]);
    scene.arm(v4(3));
    for source in [armed, other] {
        assert!(!scene.is_armed(source), "{source}");
        scene.knock(source, &SEQUENCE[2..]);
        assert!(!scene.is_open(source), "{source}");
    }
    wait_until("the daemon has ignored both", || (scene.counter("in_cooldown") == 2).then_some(()));
}
