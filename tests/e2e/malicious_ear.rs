//! An ear that was taken over. The tests take its end of the socket to the keeper, stop the real ear, and say in its place
//! whatever they like: nothing but what a knock can do follows.

use std::io::{BufRead, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use knock_testkit::{Network, Wire};
use rustix::net::sockopt::socket_type;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, recv, send, sendmsg};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open};
use serde_json::{Value, json};

use crate::armed::in_set;
use crate::spa_commands::submit;
use crate::support::spa::{Signer, SpaFiles, datagram, open};
use crate::support::{
    Daemon, elements, knock, network, process, ruleset, table_exists, wait_for_grant, wait_until, wire,
};

/// The numbers of messages, as postcard writes them: the order of `ToKeeper`.
const COMPLETED: u8 = 4;
const OPENED: u8 = 5;
const STATE: u8 = 6;
const MEANT: u8 = 7;
const AT_GUARDED_PORT: u8 = 8;
const LEFT_OUT: u8 = 9;
const EXPLAINED: u8 = 10;
const PROBLEM: u8 = 12;
const ALMOST: u8 = 13;
const STILL_ALMOST: u8 = 14;
/// What the keeper says, in the order of `ToEar`.
const ASK_ALMOST: u8 = 9;

const WINDOW: Duration = Duration::from_secs(60);

fn client(number: u8) -> IpAddr {
    [198, 18, 0, number].into()
}

/// A daemon with a rule of each kind, and users.
struct Scene {
    network: Network,
    alice: Signer,
    daemon: Daemon,
    _files: SpaFiles,
}

/// The ear's end of its socket, and the keeper's, to see what the real ear says.
struct Ear {
    pid: Pid,
    socket: OwnedFd,
    keeper: Pid,
    keepers_end: OwnedFd,
}

fn rules() -> Value {
    json!([
        { "name": "knock", "sequence": [7000, 9000, 8000], "allow": { "ports": [22], "timeout": "1h" } },
        { "name": "signed", "spa": true, "allow": { "ports": [443], "timeout": "1h" } },
    ])
}

impl Scene {
    fn new() -> Scene {
        Scene::with(json!({}))
    }

    /// With these settings of `nftables`.
    fn with(nftables: Value) -> Scene {
        let (files, network) = (SpaFiles::new(""), network(1));
        let alice = Signer::new(1, &files.cover);
        files.write_keys(&alice.line("", "alice"));
        let mut configuration = files.configuration(rules(), WINDOW);
        configuration["nftables"] = nftables;
        configuration["timeout"] = json!("60s");
        let daemon = Daemon::start(&network.server, configuration);
        Scene { network, alice, daemon, _files: files }
    }

    fn ear(&self) -> Ear {
        let (pid, keeper) = (process(self.daemon.ear()), process(self.daemon.pid()));
        let copy = |of: Pid, number: i32| {
            let of = pidfd_open(of, PidfdFlags::empty()).expect("a running process");
            pidfd_getfd(&of, number, PidfdGetfdFlags::empty())
        };
        let socket = copy(pid, 0).expect("root may copy descriptors");
        kill_process(keeper, Signal::STOP).expect("stopped");
        // What is sent to one end arrives at the other, and is taken back from there before the keeper sees it.
        send(&socket, &[LEFT_OUT, 0], SendFlags::DONTWAIT).expect("sent");
        let has_arrived = |candidate: &OwnedFd| recv(candidate, &mut [0; 512], RecvFlags::DONTWAIT).is_ok();
        let keepers_end = (3..64)
            .filter_map(|number| copy(keeper, number).ok())
            .find(|candidate| socket_type(candidate) == Ok(SocketType::SEQPACKET) && has_arrived(candidate))
            .expect("the keeper has the other end");
        kill_process(keeper, Signal::CONT).expect("continued");
        Ear { pid, socket, keeper, keepers_end }
    }

    /// The addresses in the grants of a port.
    fn granted(&self) -> Vec<(IpAddr, u16)> {
        elements(&self.network.server, "grants4").iter().map(|element| (element.address, element.service.1)).collect()
    }
}

impl Ear {
    /// Has the real ear wait, so that it says nothing more.
    fn silence(&self) {
        kill_process(self.pid, Signal::STOP).expect("stopped");
    }

    /// What the real ear says when that is done, without the keeper hearing it.
    fn overhear(&self, kind: u8, act: impl Fn()) -> Vec<u8> {
        kill_process(self.keeper, Signal::STOP).expect("stopped");
        act();
        let mut buffer = [0; 512];
        let said = wait_until("the ear has said it", || {
            let (length, _) = recv(&self.keepers_end, &mut buffer, RecvFlags::DONTWAIT).ok()?;
            (buffer[0] == kind).then(|| buffer[..length].to_vec())
        });
        kill_process(self.keeper, Signal::CONT).expect("continued");
        said
    }

    /// Says something in place of the ear, as soon as the keeper has room for it. Returns whether it listens.
    fn say(&self, message: &[u8]) -> bool {
        wait_until("the keeper reads", || {
            match send(&self.socket, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => Some(true),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => None,
                Err(_) => Some(false),
            }
        })
    }
}

/// The message with another source at its end, which is an IPv4 address.
fn from(message: &[u8], source: IpAddr) -> Vec<u8> {
    let IpAddr::V4(source) = source else { panic!("an IPv4 address") };
    [&message[..message.len() - 4], &source.octets()].concat()
}

/// A number as postcard writes it: seven bits a byte, the lowest first.
fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Waits until the keeper has heard everything so far.
fn settle(scene: &Scene, ear: &Ear, genuine: &[u8], last: IpAddr) {
    assert!(ear.say(&from(genuine, last)));
    wait_for_grant(&scene.network.server, last, ("tcp", 22));
}

#[test]
fn it_can_knock_for_anybody_and_nothing_else() {
    let scene = Scene::new();
    let (wire, ear) = (wire(&scene.network), scene.ear());
    let genuine = ear.overhear(COMPLETED, || knock(&wire, client(1), &[7000, 9000, 8000]));
    ear.silence();
    assert_eq!(scene.granted(), [], "the keeper has not heard it");

    // For rules that do not exist, or that no sequence triggers.
    for rule in (0..2000).map(|_| fastrand::u64(..)).chain([0, 1, u64::MAX]) {
        assert!(ear.say(&[&[COMPLETED][..], &number(rule), &[0, 198, 18, 0, 9]].concat()));
    }
    // Words that nobody asked for.
    for token in 0..100 {
        assert!(ear.say(&[&[STATE][..], &number(token), &[0; 15]].concat()));
        assert!(ear.say(&[&[EXPLAINED][..], &number(token), &[0, 0, 198, 18, 0, 9, 0, 0, 0, 0]].concat()));
        assert!(ear.say(&[&[LEFT_OUT][..], &number(u64::MAX)].concat()));
    }
    // Descriptors.
    let files = scene.daemon.open_files();
    for _ in 0..100 {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let handed = [rustix::stdio::stdin()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&handed)));
        let word = [&[LEFT_OUT][..], &[0]].concat();
        sendmsg(&ear.socket, &[IoSlice::new(&word)], &mut control, SendFlags::NOSIGNAL).expect("sent");
    }
    settle(&scene, &ear, &genuine, client(3));
    assert_eq!(scene.granted(), [(client(3), 22)], "what a knock of that address would have opened");
    assert!(scene.daemon.open_files() <= files, "no descriptor is kept");
    kill_process(ear.pid, Signal::CONT).expect("continued");
}

#[test]
fn it_can_forge_no_signed_packet() {
    let scene = Scene::new();
    let (wire, ear) = (wire(&scene.network), scene.ear());
    let knocked = ear.overhear(COMPLETED, || knock(&wire, client(1), &[7000, 9000, 8000]));
    let packet = datagram(client(2), &scene.alice.payload(&open("signed")));
    let genuine = ear.overhear(OPENED, || wire.send(&packet).expect("sent"));
    ear.silence();
    // Each bit of what was opened, but for the source in front of it and the cover, which say nothing of who signed it.
    let start = genuine.len() - 205;
    for bit in (start * 8..genuine.len() * 8).filter(|bit| !(start + 4..start + 8).contains(&(bit / 8))) {
        let mut forged = genuine.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(ear.say(&forged));
    }
    settle(&scene, &ear, &knocked, client(3));
    assert_eq!(scene.granted(), [(client(3), 22)]);
    // The real one works, once.
    wait_until("the checks of alice are there again", || {
        assert!(ear.say(&genuine));
        scene.granted().contains(&(client(2), 443)).then_some(())
    });
    scene.daemon.knockctl(&["revoke", "198.18.0.2"]);
    for _ in 0..50 {
        assert!(ear.say(&genuine));
    }
    settle(&scene, &ear, &knocked, client(4));
    assert!(!scene.granted().iter().any(|(_, port)| *port == 443), "replayed");
    kill_process(ear.pid, Signal::CONT).expect("continued");
}

/// Where the number ends that follows the kind of a message.
fn number_end(message: &[u8]) -> usize {
    2 + message[1..].iter().position(|byte| byte & 0x80 == 0).expect("the end of a number")
}

/// An ear that speaks of sources that lack one knock.
struct FalseEar {
    scene: Scene,
    wire: Wire,
    ear: Ear,
    /// The number of the rule `knock`.
    rule: Vec<u8>,
    completed: Vec<u8>,
}

impl FalseEar {
    fn new() -> FalseEar {
        let scene = Scene::with(json!({ "last_knock": "kernel" }));
        let (wire, ear) = (wire(&scene.network), scene.ear());
        let almost = ear.overhear(ALMOST, || knock(&wire, client(1), &[7000, 9000]));
        let completed = ear.overhear(COMPLETED, || knock(&wire, client(2), &[7000, 9000, 8000]));
        ear.silence();
        let rule = almost[1..number_end(&almost)].to_vec();
        FalseEar { scene, wire, ear, rule, completed }
    }

    /// Says that a source lacks the last knock of a rule, for ever.
    fn claim(&self, rule: &[u8], source: IpAddr) {
        let message = [&[ALMOST][..], rule, &[0, 0, 0, 0, 0]].concat();
        assert!(self.ear.say(&[from(&message, source), number(u64::MAX)].concat()));
    }

    /// Says yes to each question that has come. Returns how many there were.
    fn say_yes(&self) -> usize {
        let (mut asked, mut buffer) = (0, [0; 512]);
        while let Ok((length, _)) = recv(&self.ear.socket, &mut buffer, RecvFlags::DONTWAIT) {
            if buffer[0] == ASK_ALMOST {
                let (token, source) = (&buffer[1..number_end(&buffer)], &buffer[length - 5..length]);
                assert!(self.ear.say(&[&[STILL_ALMOST][..], token, source, &[1], &number(u64::MAX)].concat()));
                asked += 1;
            }
        }
        asked
    }

    fn settle(&self, last: u8) {
        settle(&self.scene, &self.ear, &self.completed, client(last));
    }

    fn status(&self, part: &str, name: &str) -> u64 {
        self.scene.daemon.control_status()[part][name].as_u64().expect("a number")
    }
}

/// It has any source armed that it names, and so can do what it could do by a completion, for a shorter time.
#[test]
fn it_can_have_sources_armed_within_bounds_and_no_longer_than_a_while() {
    let false_ear = FalseEar::new();
    let source = |number: u16| IpAddr::from([198, 19, number.to_be_bytes()[0], number.to_be_bytes()[1]]);
    // Rules without a door, answers to what nobody asked.
    for number in 0..500 {
        false_ear.claim(&self::number(fastrand::u64(..)), source(number));
        let token = self::number(number.into());
        let answer = [&[STILL_ALMOST][..], &token, &[0, 198, 19, 0, 1, 1], &self::number(u64::MAX)].concat();
        assert!(false_ear.ear.say(&answer));
    }
    // Sources without number, and a yes to each question.
    let mut asked = 0;
    for number in 0..5000 {
        false_ear.claim(&false_ear.rule, source(number));
        asked += false_ear.say_yes();
    }
    false_ear.settle(3);
    asked += false_ear.say_yes();
    false_ear.settle(4);
    // Those over the budget are not asked for.
    assert!((1..2500).contains(&asked), "{asked}");
    assert!((1..=1024).contains(&false_ear.status("doors", "armed")), "{}", false_ear.status("doors", "armed"));
    assert_eq!(false_ear.scene.granted().len(), 2, "nothing is open but what it has completed");
    // The last knock of one that it has armed opens to that one alone, and not for an hour.
    let victim = source(6000);
    wait_until("it is armed", || {
        false_ear.claim(&false_ear.rule, victim);
        false_ear.say_yes();
        in_set(&false_ear.scene.network.server, "armed", victim).then_some(())
    });
    knock(&false_ear.wire, victim, &[8000]);
    wait_until("the kernel opens", || false_ear.scene.granted().contains(&(victim, 22)).then_some(()));
    wait_until("that ends", || {
        (false_ear.scene.granted().len() == 2 && false_ear.status("doors", "armed") == 0).then_some(())
    });
    kill_process(false_ear.ear.pid, Signal::CONT).expect("continued");
}

#[test]
fn between_the_two_stages_a_tripwire_has_the_kernel_refuse_whatever_it_says() {
    let false_ear = FalseEar::new();
    let server = &false_ear.scene.network.server;
    for (count, source) in (1..).zip([[198, 19, 0, 1], [198, 19, 0, 2]].map(IpAddr::from)) {
        false_ear.claim(&false_ear.rule, source);
        wait_until("it is pending", || in_set(server, "pending", source).then_some(()));
        knock(&false_ear.wire, source, &[7001]);
        wait_until("the kernel has seen the tripwire", || in_set(server, "spoiled", source).then_some(()));
        wait_until("the question has come", || (false_ear.say_yes() > 0).then_some(()));
        wait_until("it is refused", || (false_ear.status("counters", "armed_refused") == count).then_some(()));
        assert!(!in_set(server, "armed", source));
        knock(&false_ear.wire, source, &[8000]);
        false_ear.settle(10 + u8::try_from(count).expect("few"));
        assert!(!false_ear.scene.granted().contains(&(source, 22)));
        // For a second nobody is made pending.
        let paused = IpAddr::from([198, 19, 1, u8::try_from(count).expect("few")]);
        false_ear.claim(&false_ear.rule, paused);
        false_ear.settle(20 + u8::try_from(count).expect("few"));
        wait_until("it waits for others again", || {
            false_ear.claim(&false_ear.rule, paused);
            (false_ear.say_yes() > 0).then_some(())
        });
    }
    kill_process(false_ear.ear.pid, Signal::CONT).expect("continued");
}

#[test]
fn a_kill_between_the_two_stages_leaves_nobody_pending() {
    let mut false_ear = FalseEar::new();
    let source = IpAddr::from([198, 19, 0, 1]);
    false_ear.claim(&false_ear.rule, source);
    let server = &false_ear.scene.network.server;
    wait_until("it is pending", || in_set(server, "pending", source).then_some(()));
    let placeholder = Daemon::start(&network(1).server, json!({ "rules": [] }));
    false_ear.scene.daemon.signal(Signal::KILL);
    // It ends too, as soon as it runs.
    kill_process(false_ear.ear.pid, Signal::CONT).expect("continued");
    let directory = std::mem::replace(&mut false_ear.scene.daemon, placeholder).kill();
    knock(&false_ear.wire, source, &[8000]);
    let _daemon = Daemon::start_again(server, directory);
    assert!(!in_set(server, "pending", source) && !in_set(server, "armed", source));
    assert_eq!(false_ear.scene.granted(), []);
}

/// Numbers that no ear counts to, while somebody watches and asks.
#[test]
fn its_numbers_are_believed_by_nobody_and_break_nothing() {
    let scene = Scene::new();
    let (wire, ear) = (wire(&scene.network), scene.ear());
    let genuine = ear.overhear(COMPLETED, || knock(&wire, client(1), &[7000, 9000, 8000]));
    let mut watch = Command::new(env!("CARGO_BIN_EXE_knockctl"))
        .arg("--socket")
        .arg(scene.daemon.path("control.sock"))
        .args(["--json", "watch"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("knockctl");
    let stdout = BufReader::new(watch.stdout.take().expect("its output"));
    let (sender, lines) = channel();
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let too_many = [&[LEFT_OUT][..], &number(u64::MAX)].concat();
    let is_shown = || {
        assert!(ear.say(&too_many) && ear.say(&too_many));
        lines.try_iter().any(|line| line.contains("left_out") && line.contains(&u64::MAX.to_string()))
    };
    wait_until("knockctl watches", is_shown);
    submit(&scene.daemon, client(5), &scene.alice.payload(&open("signed")));
    // What is asked for is answered by numbers that no sum has room for.
    let state = [&[STATE][..], &number(u64::MAX), &number(u64::MAX).repeat(15)].concat();
    let rule = &genuine[1..genuine.len() - 5];
    for what in 0..10 {
        // TooSlow has two times, of seconds and nanoseconds.
        let times =
            if what == 5 { [number(u64::MAX), vec![0], number(u64::MAX), vec![0]].concat() } else { Vec::new() };
        let at = number(if what % 2 == 0 { u64::MAX } else { 0 });
        assert!(ear.say(&[&[MEANT][..], &at, &[0, 198, 18, 0, 9], rule, &[255, 0, what], &times].concat()));
    }
    for port in [(6, 22), (17, 0), (99, 65_535_u64)] {
        assert!(ear.say(&[&[AT_GUARDED_PORT, 0, 198, 18, 0, 9, port.0][..], &number(port.1)].concat()));
    }
    settle(&scene, &ear, &genuine, client(3));
    wait_until("it still watches", is_shown);
    // From now on, what it said last is what is known.
    ear.silence();
    assert!(ear.say(&state));
    assert_eq!(scene.daemon.control_status()["counters"]["signed_received"], u64::MAX);
    kill_process(ear.pid, Signal::CONT).expect("continued");
    watch.kill().expect("ended");
    watch.wait().expect("collected");
}

#[test]
fn what_no_ear_says_ends_the_daemon_and_the_gate_stands() {
    let noise = |length: usize| std::iter::repeat_with(|| fastrand::u8(..)).take(length).collect::<Vec<u8>>();
    let words = [
        vec![200],
        vec![COMPLETED],
        vec![COMPLETED, 1, 0],
        [&[OPENED, 0, 198, 18, 0, 9, 5][..], &[0; 5]].concat(),
        noise(513),
        noise(4096),
    ];
    for word in words {
        let mut scene = Scene::new();
        let ear = scene.ear();
        ear.silence();
        assert!(ear.say(&word));
        assert_eq!(scene.daemon.wait().code(), Some(1), "{}", scene.daemon.log());
        assert!(table_exists(&scene.network.server, "knockd"), "the gate stands for the next daemon");
        assert_eq!(scene.granted(), []);
    }
}

#[test]
fn one_that_floods_is_bounded_and_one_that_is_silent_holds_up_nobody() {
    let scene = Scene::new();
    let (wire, ear) = (wire(&scene.network), scene.ear());
    let genuine = ear.overhear(COMPLETED, || knock(&wire, client(1), &[7000, 9000, 8000]));
    ear.silence();
    let lines = scene.daemon.log().lines().count();
    let start = Instant::now();
    let (mut said, mut answered) = (0_u64, 0);
    let problem = [&[PROBLEM, 21][..], b"\x1b[31ma problem\n fake\0"].concat();
    while answered < 3 {
        for _ in 0..5000 {
            assert!(ear.say(&genuine) && ear.say(&problem));
            said += 1;
        }
        // By hand, and answered although the ear is not.
        scene.daemon.knockctl(&["grant", "knock", "198.18.0.77"]);
        assert!(scene.daemon.knockctl(&["status"]).contains("ear"));
        answered += 1;
    }
    println!("{said} completions were claimed in {:?}", start.elapsed());
    assert_eq!(scene.daemon.knockctl(&["grants"]).lines().filter(|line| line.contains("198.18.0.1 ")).count(), 1);
    let log = scene.daemon.log();
    assert!(log.lines().count() - lines < 600, "{} lines", log.lines().count() - lines);
    assert!(!log.contains('\u{1b}') && !log.lines().any(|line| line.starts_with(" fake")), "{log}");
    assert!(ruleset(&scene.network.server).contains("198.18.0.77"));
    kill_process(ear.pid, Signal::CONT).expect("continued");
}
