//! Signed packets: what they open, what they don't, and that none of them ever works twice.

use std::net::IpAddr;
use std::time::Duration;

use knock_spa::{Operation, Request};
use knock_testkit::{Answer, Echo, Flags, Network, Reach};
use serde_json::{Value, json};

use crate::support::spa::{SPA_PORT, Signer, SpaFiles, clock, datagram, open, send};
use crate::support::{
    Client, Daemon, Options, answer, at4, check, elements, knock, network, wait_for_grant, wait_until, wire,
};

const WINDOW: Duration = Duration::from_secs(60);

fn client(number: u8) -> IpAddr {
    [198, 18, 0, number].into()
}

fn rules() -> Value {
    json!([
        { "name": "ssh", "spa": true, "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "web", "spa": true, "sequence": [7000, 9000, 8000], "allow": { "ports": [443], "timeout": "1h" } },
    ])
}

/// A daemon that accepts packets of alice, and of bob for the rule `web` alone.
struct Scene {
    network: Network,
    files: SpaFiles,
    alice: Signer,
    bob: Signer,
}

impl Scene {
    fn new() -> Scene {
        let files = SpaFiles::new("");
        let (alice, bob) = (Signer::new(1, &files.cover), Signer::new(2, &files.cover));
        let scene = Scene { network: network(1), files, alice, bob };
        scene.authorize(&[scene.alice.line("", "alice"), scene.bob.line("rules=\"web\"", "bob")]);
        scene
    }

    fn authorize(&self, lines: &[String]) {
        self.files.write_keys(&lines.concat());
    }

    fn start(&self) -> Daemon {
        Daemon::start(&self.network.server, self.files.configuration(rules(), WINDOW))
    }
}

fn counter(daemon: &Daemon, name: &str) -> u64 {
    daemon.control_status()["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
}

#[test]
fn a_packet_opens_its_rule_for_its_source_and_names_its_user() {
    let scene = Scene::new();
    let server = &scene.network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let daemon = scene.start();
    let wire = wire(&scene.network);
    for source in [client(1), "fd99::1:1".parse().expect("an address")] {
        assert_eq!(answer(&wire, source, 22), None, "a stranger");
        send(&wire, source, &scene.alice.payload(&open("ssh")));
        wait_until("the port is open", || answer(&wire, source, 22) == Some(Answer::Tcp(Flags::SYN | Flags::ACK)));
        assert_eq!(answer(&wire, source, 443), None, "another rule's port");
        let line = daemon.wait_for_log(&format!("rule ssh: granted to {source}"));
        assert!(line.contains("3600 s (signed by alice); opens 22/tcp"), "{line}");
    }
    let grants: Value = serde_json::from_str(&daemon.knockctl(&["grants", "--json"])).expect("JSON");
    let grant = &grants["grants"][0];
    assert_eq!((&grant["user"], &grant["key"]), (&json!("alice"), &json!(scene.alice.fingerprint())));
    assert_eq!(counter(&daemon, "signed_accepted"), 2);
    let state = &daemon.control_status()["signed_packets"];
    assert_eq!(*state, json!({ "ports": [SPA_PORT], "keys": 2, "remembered": 2, "problem": null }));
}

#[test]
fn a_packet_of_an_ecdsa_key_opens_its_rule() {
    let scene = Scene::new();
    let carol = Signer::with_ecdsa(3, &scene.files.cover);
    scene.authorize(&[scene.alice.line("", "alice"), carol.line("rules=\"ssh\"", "carol")]);
    let daemon = scene.start();
    let wire = wire(&scene.network);
    for (number, user) in [(1, &carol), (2, &scene.alice)] {
        send(&wire, client(number), &user.payload(&open("ssh")));
        wait_for_grant(&scene.network.server, client(number), ("tcp", 22));
    }
    daemon.wait_for_log("granted to 198.18.0.1, 3600 s (signed by carol)");
    send(&wire, client(1), &carol.payload(&Request { operation: Operation::Close, ..open("ssh") }));
    wait_until("her grant has ended", || elements(&scene.network.server, "grants4").len() == 1);
}

#[test]
fn a_user_gets_what_the_key_permits_and_the_log_says_why_not() {
    let scene = Scene::new();
    let daemon = scene.start();
    let wire = wire(&scene.network);
    let (alice, bob) = (&scene.alice, &scene.bob);
    let elsewhere = Some(IpAddr::from([192, 0, 2, 9]));
    for (user, request, reason) in [
        (
            bob,
            open("ssh"),
            "of bob from 198.18.0.1 is refused: the option `rules` of the key does not permit the rule ssh",
        ),
        (alice, open("none"), "of alice from 198.18.0.1 is refused: no rule none accepts signed packets"),
        (
            alice,
            Request { time: clock(-4000), ..open("ssh") },
            "of alice from 198.18.0.1 is refused: the clock of the client is 400",
        ),
        (alice, Request { time: clock(90), ..open("ssh") }, "is refused: the clock of the client is"),
        (alice, Request { address: elsewhere, ..open("ssh") }, "asks for 192.0.2.9, but came from 198.18.0.1"),
        (alice, Request { widen: true, ..open("ssh") }, "asks for a prefix, for which the key has no option `wide`"),
        (alice, Request { rule: None, ..open("ssh") }, "names no rule, and the key may ask for 2 rules"),
    ] {
        let mark = daemon.log_mark();
        send(&wire, client(1), &user.payload(&request));
        daemon.wait_for_log_after(mark, reason);
    }
    assert_eq!(counter(&daemon, "signed_accepted"), 0);
    assert!(elements(&scene.network.server, "grants4").is_empty());
    // bob's only rule need not be named.
    send(&wire, client(2), &bob.payload(&Request { rule: None, ..open("web") }));
    wait_for_grant(&scene.network.server, client(2), ("tcp", 443));
    let explained = daemon.knockctl(&["explain", "198.18.0.1"]);
    assert!(explained.contains("signed packet refused: bob: the option `rules`"), "{explained}");
}

#[test]
fn no_packet_works_twice_whatever_happens_to_the_daemon() {
    let scene = Scene::new();
    let server = &scene.network.server;
    let mut daemon = scene.start();
    let wire = wire(&scene.network);
    let (first, second) = (scene.alice.payload(&open("ssh")), scene.alice.payload(&open("web")));
    send(&wire, client(1), &first);
    wait_for_grant(server, client(1), ("tcp", 22));
    send(&wire, client(1), &second);
    wait_for_grant(server, client(1), ("tcp", 443));
    let replayed = |daemon: &Daemon, what: &str| {
        let before = counter(daemon, "signed_refused");
        // From its own address, and from one that recorded it.
        for source in [client(1), client(66)] {
            send(&wire, source, &first);
            send(&wire, source, &second);
        }
        wait_until(what, || counter(daemon, "signed_refused") == before + 4);
        let held: Vec<_> = elements(server, "grants4").into_iter().map(|element| element.address).collect();
        assert!(!held.contains(&client(66)), "{what}");
        daemon.knockctl(&["revoke", "--all"]);
    };
    replayed(&daemon, "at once");
    daemon.wait_for_log("the packet was already accepted");
    daemon.reload(scene.files.configuration(rules(), Duration::from_secs(600)));
    daemon.wait_for_log("reloaded");
    replayed(&daemon, "after a reload with another window");
    let directory = daemon.kill();
    daemon = Daemon::start_again(server, directory);
    replayed(&daemon, "after SIGKILL");
    daemon.stop();
    daemon = Daemon::start_again(server, daemon.take_directory());
    replayed(&daemon, "after a restart");
    // Nobody else has to wait because of all that.
    send(&wire, client(1), &scene.alice.payload(&open("ssh")));
    wait_for_grant(server, client(1), ("tcp", 22));
}

#[test]
fn no_packet_works_twice_wherever_the_daemon_is_killed_between_its_arrival_and_its_grant() {
    let scene = Scene::new();
    let server = &scene.network.server;
    let wire = wire(&scene.network);
    // Before the record, before the grant, and before its acknowledgment is read; strace counts from when it is attached.
    let steps = ["pwrite64:signal=KILL", "sendto:signal=KILL", "recvfrom:signal=KILL:when=2"];
    for (number, inject) in (1_u8..).zip(steps) {
        let mut daemon = scene.start();
        let pid = daemon.pid().to_string();
        let (first, second, fresh) = (client(10 + number), client(20 + number), client(30 + number));
        let traced =
            ["-f", "-qq", "-p", &pid, "-e", "trace=pwrite64,sendto,recvfrom", "-e", &format!("inject={inject}")];
        let mut strace = std::process::Command::new("strace")
            .args(traced)
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("strace");
        wait_until("strace is attached", || daemon.status("TracerPid") != 0);
        let packet = scene.alice.payload(&open("ssh"));
        send(&wire, first, &packet);
        wait_until("the daemon is killed", || !daemon.is_running());
        strace.wait().expect("strace ends with what it traces");
        let daemon = Daemon::start_again(server, daemon.take_directory());
        let before = counter(&daemon, "signed_accepted") + counter(&daemon, "signed_refused");
        send(&wire, second, &packet);
        wait_until("the replay is judged", || {
            counter(&daemon, "signed_accepted") + counter(&daemon, "signed_refused") > before
        });
        let held: Vec<_> = elements(server, "grants4").into_iter().map(|element| element.address).collect();
        assert!(!(held.contains(&first) && held.contains(&second)), "{inject}: {held:?}");
        // A fresh one works at once, whatever happened.
        send(&wire, fresh, &scene.alice.payload(&open("ssh")));
        wait_for_grant(server, fresh, ("tcp", 22));
    }
}

#[test]
fn after_a_crash_of_the_machine_or_damage_no_packet_from_before_works() {
    let scene = Scene::new();
    let server = &scene.network.server;
    let configuration = || scene.files.configuration(rules(), Duration::from_secs(5));
    let daemon = Daemon::start(server, configuration());
    let wire = wire(&scene.network);
    send(&wire, client(1), &scene.alice.payload(&open("ssh")));
    wait_for_grant(server, client(1), ("tcp", 22));
    let directory = daemon.kill();
    let replays = directory.path().join("state/replays");
    let file = std::fs::read_dir(&replays).expect("the files").next().expect("one").expect("readable").path();
    let mut content = std::fs::read(&file).expect("readable");
    content[40] ^= 1;
    std::fs::write(&file, content).expect("writable");
    let daemon = Daemon::start_again(server, directory);
    daemon.wait_for_log("signed packets are refused for the next 5 s: the file of accepted packets is damaged");
    send(&wire, client(2), &scene.alice.payload(&open("ssh")));
    daemon.wait_for_log("dated before the time from which this server remembers packets");
    // It opens again by itself.
    wait_until("packets are accepted again", || {
        send(&wire, client(2), &scene.alice.payload(&open("ssh")));
        elements(server, "grants4").iter().any(|element| element.address == client(2))
    });
}

#[test]
fn a_key_that_is_gone_loses_its_grants_at_once_and_others_stay() {
    let scene = Scene::new();
    let server = &scene.network.server;
    let daemon = scene.start();
    let wire = wire(&scene.network);
    send(&wire, client(1), &scene.alice.payload(&open("ssh")));
    send(&wire, client(2), &scene.bob.payload(&open("web")));
    knock(&wire, client(3), &[7000, 9000, 8000]);
    wait_for_grant(server, client(1), ("tcp", 22));
    wait_for_grant(server, client(2), ("tcp", 443));
    wait_for_grant(server, client(3), ("tcp", 443));
    scene.authorize(&[scene.bob.line("rules=\"web\"", "bob")]);
    daemon.reload(scene.files.configuration(rules(), WINDOW));
    daemon.wait_for_log("rule ssh: the grant to 198.18.0.1 is revoked");
    let mut held: Vec<_> = elements(server, "grants4").into_iter().map(|element| element.address).collect();
    held.sort_unstable();
    assert_eq!(held, [client(2), client(3)]);
    let before = counter(&daemon, "signed_foreign");
    send(&wire, client(1), &scene.alice.payload(&open("ssh")));
    wait_until("alice is a stranger", || counter(&daemon, "signed_foreign") == before + 1);

    // Also where the daemon was not running when the key went.
    let directory = daemon.kill();
    scene.authorize(&[scene.alice.line("", "alice")]);
    let _daemon = Daemon::start_again(server, directory);
    wait_until("bob's grant is gone", || {
        elements(server, "grants4").iter().map(|element| element.address).eq([client(3)])
    });
}

#[test]
fn a_broken_file_of_keys_changes_nothing_at_a_reload_and_is_named_at_a_start() {
    let scene = Scene::new();
    let daemon = scene.start();
    let wire = wire(&scene.network);
    scene.authorize(&["-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n".to_owned()]);
    let configuration = scene.files.configuration(rules(), WINDOW);
    daemon.reload(configuration.clone());
    daemon.wait_for_log("not reloaded");
    let log = daemon.log();
    assert!(log.contains("authorized_keys:1: the line is skipped: a private key begins here"), "{log}");
    send(&wire, client(1), &scene.alice.payload(&open("ssh")));
    wait_for_grant(&scene.network.server, client(1), ("tcp", 22));

    let refused = |what: &str, says: &str| {
        let checked = check(&scene.network.server, &configuration.to_string(), Options::default());
        assert_eq!(checked.code, Some(78), "{what}: {}", checked.stderr);
        assert!(checked.stderr.contains(says), "{what}: {}", checked.stderr);
    };
    refused("a private key", "no line has a key that can sign packets");
    scene.authorize(&[scene.alice.line("", "alice")]);
    let mode = |name: &str, mode| {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(scene.files.path(name), permissions).expect("our file");
    };
    mode("authorized_keys", 0o666);
    refused("keys that others can write", "everybody can write");
    mode("authorized_keys", 0o644);
    mode("cover", 0o644);
    refused("a cover that others can read", "others may read the cover");
    std::fs::remove_file(scene.files.path("cover")).expect("our file");
    refused("no cover", "make one with `knockctl spa init`");
}

#[test]
fn a_grant_ends_with_its_key_and_lasts_no_longer_than_asked() {
    let scene = Scene::new();
    let server = &scene.network.server;
    let end = time::OffsetDateTime::now_utc() + Duration::from_secs(600);
    let (hour, minute, second) = end.to_hms();
    let date = format!("{}{:02}{:02}", end.year(), u8::from(end.month()), end.day());
    let option = format!("expiry-time=\"{date}{hour:02}{minute:02}{second:02}Z\"");
    scene.authorize(&[scene.alice.line(&option, "alice"), scene.bob.line("", "bob")]);
    let _daemon = scene.start();
    let wire = wire(&scene.network);
    let asked = |seconds| Request { lifetime: std::num::NonZeroU32::new(seconds), ..open("ssh") };
    for (number, user, request, at_most) in
        [(1, &scene.alice, open("ssh"), 600), (2, &scene.alice, asked(60), 60), (3, &scene.bob, asked(u32::MAX), 3600)]
    {
        send(&wire, client(number), &user.payload(&request));
        let timeout = wait_for_grant(server, client(number), ("tcp", 22)).timeout.expect("it ends");
        let at_most = Duration::from_secs(at_most);
        assert!(timeout <= at_most && timeout + Duration::from_secs(30) > at_most, "{number}: {timeout:?}");
    }
}

#[test]
fn a_packet_closes_what_it_opened() {
    let scene = Scene::new();
    let server = &scene.network.server;
    let daemon = scene.start();
    let wire = wire(&scene.network);
    send(&wire, client(1), &scene.alice.payload(&open("ssh")));
    wait_for_grant(server, client(1), ("tcp", 22));
    send(&wire, client(1), &scene.alice.payload(&Request { operation: Operation::Close, ..open("ssh") }));
    daemon.wait_for_log("rule ssh: the grant to 198.18.0.1 is revoked (signed by alice)");
    assert!(elements(server, "grants4").is_empty());
}

#[test]
fn a_rule_with_commands_runs_them_and_a_packet_brings_the_stop_command_forward() {
    let scene = Scene::new();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("ran");
    let echo = |what: &str| format!("echo {what} %IP% >> {}", file.display());
    let rules = json!([{
        "name": "run", "spa": true, "command": echo("start"), "stop_command": echo("stop"), "stop_after": "1h",
    }]);
    scene.authorize(&[scene.alice.line("", "alice")]);
    let daemon = Daemon::start(&scene.network.server, scene.files.configuration(rules, WINDOW));
    let wire = wire(&scene.network);
    let ran = || std::fs::read_to_string(&file).unwrap_or_default();
    send(&wire, client(1), &scene.alice.payload(&open("run")));
    send(&wire, client(2), &scene.alice.payload(&open("run")));
    wait_until("both commands have run", || ran().lines().count() == 2);
    daemon.wait_for_log("rule run: 198.18.0.1 has knocked with a signed packet of alice");
    send(&wire, client(1), &scene.alice.payload(&Request { operation: Operation::Close, ..open("run") }));
    wait_until("the stop command has run", || ran().contains("stop 198.18.0.1"));
    assert!(!ran().contains("stop 198.18.0.2"));
}

#[test]
fn a_prefix_is_opened_only_where_key_and_rule_permit_it() {
    let scene = Scene::new();
    let server = &scene.network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    scene.authorize(&[scene.alice.line("wide", "alice")]);
    let rules = json!([
        { "name": "ssh", "spa": true, "allow": { "ports": [22], "prefix4": 24, "prefix6": 64, "timeout": "1h" } },
        { "name": "web", "spa": true, "allow": { "ports": [443], "timeout": "1h" } },
    ]);
    let mut daemon = Daemon::start(server, scene.files.configuration(rules, WINDOW));
    let wire = wire(&scene.network);
    let opens = |address: IpAddr| answer(&wire, address, 22) == Some(Answer::Tcp(Flags::SYN | Flags::ACK));
    let neighbour = IpAddr::from([198, 18, 0, 200]);
    send(&wire, client(1), &scene.alice.payload(&open("ssh")));
    wait_until("the address is open", || opens(client(1)));
    assert!(!opens(neighbour), "a packet that asks for the address alone");
    daemon = Daemon::start_again(server, daemon.kill());
    assert!(opens(client(1)) && !opens(neighbour), "after a restart");
    send(&wire, client(1), &scene.alice.payload(&Request { widen: true, ..open("ssh") }));
    wait_until("the prefix is open", || opens(neighbour));
    send(&wire, client(1), &scene.alice.payload(&Request { widen: true, ..open("web") }));
    daemon.wait_for_log("asks for a prefix, for which the rule web can't be opened");
}

#[test]
fn junk_and_damaged_packets_are_counted_and_open_nothing() {
    let scene = Scene::new();
    let daemon = scene.start();
    let wire = wire(&scene.network);
    let valid = scene.alice.payload(&open("ssh"));
    let mut packets = Vec::new();
    for bit in (0..valid.len() * 8).step_by(7) {
        let mut damaged = valid.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        packets.push(datagram(client(1), &damaged));
    }
    let flipped = packets.len() as u64;
    for length in [0, 1, 215, 472, 1400] {
        packets.push(datagram(client(1), &vec![7; length]));
    }
    packets.push(datagram(client(1), &valid[..valid.len() - 1]));
    wire.send_all(&packets).expect("the packets are sent");
    // The last of them: one that works, after all.
    send(&wire, client(2), &scene.alice.payload(&open("ssh")));
    wait_for_grant(&scene.network.server, client(2), ("tcp", 22));
    assert_eq!(elements(&scene.network.server, "grants4").len(), 1);
    // The one that was cut by a byte may have the length of a packet.
    assert!((flipped..=flipped + 1).contains(&counter(&daemon, "signed_foreign")));
    assert_eq!(counter(&daemon, "signed_refused"), 0);
    assert!(!daemon.log().contains("refused"), "strangers write nothing into the log");
}

#[test]
fn a_service_on_the_port_of_packets_is_served_and_sequences_go_on() {
    let scene = Scene::new();
    let server = &scene.network.server;
    let _service = Echo::udp(&server.namespace, SPA_PORT).expect("an echo service");
    let _daemon = scene.start();
    let wire = wire(&scene.network);
    send(&wire, client(1), &scene.alice.payload(&open("ssh")));
    wait_for_grant(server, client(1), ("tcp", 22));
    assert_eq!(scene.network.client().udp(at4(SPA_PORT)), Reach::Open);
    knock(&wire, client(3), &[7000, 9000, 8000]);
    wait_for_grant(server, client(3), ("tcp", 443));
}

#[test]
fn a_recorded_packet_at_full_rate_does_not_keep_its_user_out() {
    let scene = Scene::new();
    let server = &scene.network.server;
    let daemon = scene.start();
    let wire = wire(&scene.network);
    let recorded = scene.alice.payload(&open("ssh"));
    let old = scene.alice.payload(&Request { time: clock(-3600), ..open("ssh") });
    let mut flood = vec![datagram(client(66), &recorded); 1_000];
    flood.extend(vec![datagram(client(66), &old); 1_000]);
    for number in 1..=8 {
        wire.send_all(&flood).expect("the flood is sent");
        send(&wire, client(number), &scene.alice.payload(&open("ssh")));
        wait_for_grant(server, client(number), ("tcp", 22));
    }
    assert!(counter(&daemon, "signed_over_budget") > 1_000);
    // The first copy was alice's packet, as far as anybody can know.
    assert!(elements(server, "grants4").len() <= 9);
    assert!(daemon.log().lines().count() < 60, "{}", daemon.log());
}

#[test]
fn with_a_full_disk_nobody_new_gets_in_and_all_is_well_once_there_is_room() {
    let scene = Scene::new();
    let server = &scene.network.server;
    // A file system for the state directory alone, with less room than the file of accepted packets has at its beginning.
    let mount = "mkdir -p \"$0\" && mount -t tmpfs -o size=1m,mode=700 none \"$0\" && exec \"$@\"";
    let state = tempfile::tempdir().expect("a directory");
    let path = state.path().display().to_string();
    let mut configuration = scene.files.configuration(rules(), WINDOW);
    configuration["state_dir"] = json!(path);
    let wrapper = ["unshare", "--mount", "sh", "-c", mount, &path];
    let daemon = Daemon::start_with(server, configuration, Options { wrapper: &wrapper, ..Options::default() });
    daemon.wait_for_log("signed packets are refused: cannot write");
    let wire = wire(&scene.network);
    send(&wire, client(1), &scene.alice.payload(&open("ssh")));
    daemon.wait_for_log("of alice from 198.18.0.1 is refused: cannot write");
    let problem = daemon.control_status()["signed_packets"]["problem"].to_string();
    assert!(problem.contains("No space left on device"), "{problem}");
    // Knocks need no file.
    knock(&wire, client(3), &[7000, 9000, 8000]);
    wait_for_grant(server, client(3), ("tcp", 443));

    let pid = daemon.pid().to_string();
    let remount = ["-t", &pid, "--mount", "mount", "-o", "remount,size=40m", &path];
    let status = std::process::Command::new("nsenter").args(remount).status().expect("nsenter of util-linux");
    assert!(status.success());
    wait_until("packets are accepted again", || {
        send(&wire, client(2), &scene.alice.payload(&open("ssh")));
        elements(server, "grants4").iter().any(|element| element.address == client(2))
    });
    assert_eq!(daemon.control_status()["signed_packets"]["problem"], Value::Null);
}
