//! knock 0.8 itself and ours with its imported configuration, on one interface, under the same random packets: where
//! only one of them opens, the reason is one that docs/moving-from-knock.md lists.

mod matcher;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use knock_testkit::{Host, Network, Wire};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

use crate::support::{Daemon, network, wait_until, wire};
use matcher::{DIFFERENCES, Difference, Openings, Seen, is_visible_to_knock, openings};
use streams::{DOORS, Sent, Stream, Streams, TIMEOUT};

/// Streams whose packets follow each other at once.
const QUICK: usize = 260;
/// Streams with a pause that is shorter than the time limit, but not in whole seconds of the wall clock.
const PAUSED: usize = 60;
/// Streams with a pause that is longer than the time limit.
const LATE: usize = 40;
/// How many sources send at the same time.
const SOURCES: usize = 5;

/// Where Debian's package puts it. Ours has the same name.
const KNOCKD: &str = "/usr/sbin/knockd";

#[test]
fn where_only_one_of_knock_and_ours_opens_the_documented_reason_is_found() {
    let network = network(1);
    let files = tempfile::tempdir().expect("a directory for the commands");
    let (theirs, ours) = (files.path().join("knock"), files.path().join("knockd"));
    fs::write(files.path().join("knock.conf"), configuration(&theirs)).expect("a configuration of knock");
    fs::write(files.path().join("import.conf"), configuration(&ours)).expect("a configuration of knock");
    let knock = Knock::start(&network.server, files.path());
    let daemon = Daemon::start(&network.server, imported(&files.path().join("import.conf")));

    let mut sent = send_streams(&network);
    let end = sent[sent.len() - 1].0.source;
    wait_until("knock has seen all", || read_openings(&theirs).contains_key(&("end", end)));
    wait_until("ours has seen all", || read_openings(&ours).contains_key(&("end", end)));
    let seconds = knock.stop(&sent);
    wait_until("ours has run all commands", || commands_at_work(&daemon) == 0);
    wait_until("knock's commands have run", || knock_children(&theirs, files.path()));
    let (theirs, ours) = (read_openings(&theirs), read_openings(&ours));

    // The wall clock's second is knock's own; what it does not see needs none.
    let mut second = seconds[0];
    let mut left = seconds.into_iter();
    let packets: Vec<Seen> = sent
        .drain(..)
        .map(|(sent, at)| {
            if is_visible_to_knock(&sent) {
                second = left.next().expect("a second for each packet that knock sees");
            }
            Seen { sent, second, at }
        })
        .collect();
    assert_same(&packets, &theirs, &openings(&packets, &[]), "knock 0.8", "its documented matching");
    let ours = with_merged(&ours, openings(&packets, &DIFFERENCES));
    assert_same(&packets, &ours, &openings(&packets, &DIFFERENCES), "knockd", "the matching with all differences");

    let found = reasons(&packets, &theirs, &ours);
    let documented = documented();
    for (reason, count) in DIFFERENCES.iter().map(|difference| (difference, found.get(difference))) {
        let name = format!("{reason:?}");
        assert!(documented.contains(&name), "docs/moving-from-knock.md does not list {name}, of which: {count:?}");
        assert!(count.is_some(), "no stream shows {name}: {found:?}");
    }
    let both = ours.keys().filter(|key| theirs.contains_key(*key)).count();
    assert!(both > QUICK / 10, "both open for {both} of the sources only");
}

/// The knockd.conf of [`DOORS`], whose commands write to `file`.
fn configuration(file: &Path) -> String {
    let mut text = "[options]\n\tInterface = eth0\n".to_owned();
    for door in &DOORS {
        let port = |(protocol, port): &streams::Port| format!("{port}:{}", format!("{protocol:?}").to_lowercase());
        let sequence: Vec<String> = door.sequence.iter().map(port).collect();
        let flags = if door.syn_only { "\tTCPFlags = syn\n" } else { "" };
        text += &format!(
            "\n[{0}]\n\tSequence = {1}\n\tSeq_Timeout = {TIMEOUT}\n{flags}\tCommand = echo {0} %IP% >> {2}\n",
            door.name,
            sequence.join(","),
            file.display()
        );
    }
    text
}

/// What `knockctl import` makes of it.
fn imported(file: &Path) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_knockctl")).arg("import").arg(file).output().expect("knockctl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut configuration: Value = serde_json::from_slice(&output.stdout).expect("knockctl import prints JSON");
    // The openings of all streams come within a few seconds; none may be refused.
    configuration["limits"] = json!({ "command_queue": 4096 });
    configuration["log"] = json!({ "target": "stderr", "level": "info" });
    configuration
}

/// Sends all streams, and returns their packets in the order in which they went out, with the time. The last is a knock
/// at the door `end`.
fn send_streams(network: &Network) -> Vec<(Sent, Duration)> {
    let wire = wire(network);
    let client = IpAddr::from(network.client().v4);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            // Packets that two processors send may overtake each other.
            let all = sched_getaffinity(None).expect("the processors of this thread");
            let mut one = CpuSet::new();
            one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).expect("a processor"));
            sched_setaffinity(None, &one).expect("one of its own processors");
            Sender { wire: &wire, client, start: Instant::now(), sent: Vec::new() }.run()
        });
        sender.join().expect("the packets are sent")
    })
}

struct Sender<'a> {
    wire: &'a Wire,
    client: IpAddr,
    start: Instant,
    sent: Vec<(Sent, Duration)>,
}

impl Sender<'_> {
    fn run(mut self) -> Vec<(Sent, Duration)> {
        let mut streams = Streams::new(5);
        let quick: Vec<Stream> = (0..QUICK).map(|_| streams.next()).collect();
        self.send_merged(&mut streams, &quick, |stream| &stream.packets);

        // Just before a second is over, so that a pause of 2.3 s spans three of its ends.
        let plain = |streams: &mut Streams, index: usize| match index % 4 {
            0 => streams.plain(&DOORS[0]),
            _ => streams.next(),
        };
        let paused: Vec<Stream> = (0..PAUSED).map(|index| plain(&mut streams, index)).collect();
        let late: Vec<Stream> = (0..LATE).map(|index| plain(&mut streams, index)).collect();
        wait_until("a second is almost over", || (820..900).contains(&wall_clock().subsec_millis()));
        let begin = Instant::now();
        let mut before = paused.clone();
        before.extend(late.iter().cloned());
        self.send_merged(&mut streams, &before, |stream| &stream.packets[..stream.before_pause]);
        sleep_until(begin + Duration::from_millis(2300));
        self.send_merged(&mut streams, &paused, |stream| &stream.packets[stream.before_pause..]);
        sleep_until(Instant::now() + Duration::from_millis(u64::from(TIMEOUT) * 1000 - 1400));
        self.send_merged(&mut streams, &late, |stream| &stream.packets[stream.before_pause..]);

        let end = streams.plain(&DOORS[streams::RANDOM_DOORS]);
        self.send(&end.packets);
        self.sent
    }

    fn send_merged(&mut self, streams: &mut Streams, of: &[Stream], part: impl Fn(&Stream) -> &[Sent]) {
        for together in of.chunks(SOURCES) {
            let parts: Vec<&[Sent]> = together.iter().map(&part).collect();
            let merged = streams.merge(&parts);
            self.send(&merged);
        }
    }

    /// Sends them and waits until the server has taken them.
    fn send(&mut self, packets: &[Sent]) {
        if packets.is_empty() {
            return;
        }
        let at = self.start.elapsed();
        self.sent.extend(packets.iter().map(|sent| (*sent, at)));
        let packets: Vec<_> = packets.iter().map(Sent::packet).collect();
        self.wire.answers(&packets, (self.client, 50_000).into()).expect("the packets are sent");
    }
}

/// A pause is part of what is sent.
fn sleep_until(time: Instant) {
    thread::sleep(time.saturating_duration_since(Instant::now()));
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set")
}

/// knock's daemon, with its debug output in a file.
struct Knock {
    child: Child,
    output: std::path::PathBuf,
}

impl Knock {
    fn start(server: &Host, directory: &Path) -> Knock {
        assert!(Path::new(KNOCKD).exists(), "{KNOCKD} is missing; run: apt-get install knockd");
        let output = directory.join("knock.out");
        let stdout = File::create(&output).expect("a file for its output");
        let mut command = Command::new(KNOCKD);
        command.args(["-D", "-v", "-i", "eth0", "-c"]).arg(directory.join("knock.conf")).env("TZ", "UTC");
        command.stdin(Stdio::null()).stderr(stdout.try_clone().expect("a descriptor")).stdout(stdout);
        let child = server.namespace.run(|| command.spawn()).expect("the server's namespace").expect("knock's daemon");
        let knock = Knock { child, output };
        wait_until("knock listens", || knock.text().contains("listening on eth0"));
        knock
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Ends it; the second in which it saw each packet, which must be those that were sent, in their order.
    fn stop(mut self, sent: &[(Sent, Duration)]) -> Vec<u32> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("it runs");
        self.child.wait().expect("a child of this process");
        let text = self.text();
        let seen: Vec<(u32, String)> = text.lines().filter_map(seen_packet).collect();
        let visible: Vec<String> = sent
            .iter()
            .filter(|(sent, _)| is_visible_to_knock(sent))
            .map(|(sent, _)| format!("{} -> 10.77.0.1:{}", sent.from(), sent.port.1))
            .collect();
        for (index, (sent, seen)) in visible.iter().zip(&seen).enumerate() {
            assert_eq!(*sent, seen.1, "packet {index} of those that knock saw");
        }
        assert_eq!(seen.len(), visible.len(), "the packets that knock saw and that were sent to its ports");
        seen.into_iter().map(|(second, _)| second).collect()
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let text = self.text();
            eprintln!("---- the end of knock's output ----\n{}----", &text[text.len().saturating_sub(2000)..]);
        }
    }
}

/// `2026-10-22 15:52:18: tcp: 198.18.0.1:40000 -> 10.77.0.1:1000 60 bytes`: the second of the day, then who sent where.
/// A midnight in between is counted on.
fn seen_packet(line: &str) -> Option<(u32, String)> {
    let (stamp, rest) = line.split_once(": ")?;
    let packet = rest.strip_prefix("tcp: ").or_else(|| rest.strip_prefix("udp: "))?;
    let (day, time) = stamp.split_once(' ')?;
    let number = |text: &str| text.parse::<u32>().ok();
    let day = number(day.rsplit('-').next()?)?;
    let seconds = time.split(':').try_fold(0, |sum, part| Some(sum * 60 + number(part)?))?;
    Some((day * 86_400 + seconds, packet.split_once(" bytes")?.0.rsplit_once(' ')?.0.to_owned()))
}

/// What the commands wrote: `door address`.
fn read_openings(file: &Path) -> Openings {
    let mut openings = Openings::new();
    for line in fs::read_to_string(file).unwrap_or_default().lines() {
        let Some((name, address)) = line.split_once(' ') else { continue };
        let door = DOORS.iter().find(|door| door.name == name).expect("a door");
        let Ok(address) = address.parse::<Ipv4Addr>() else { continue };
        *openings.entry((door.name, address)).or_default() += 1;
    }
    openings
}

/// Whether knock's commands have written as many lines as it opened doors.
fn knock_children(file: &Path, directory: &Path) -> bool {
    let output = fs::read_to_string(directory.join("knock.out")).unwrap_or_default();
    let opened = output.lines().filter(|line| line.ends_with("OPEN SESAME")).count();
    fs::read_to_string(file).unwrap_or_default().lines().count() == opened
}

/// The commands of ours that run or wait.
fn commands_at_work(daemon: &Daemon) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knockctl"));
    command.arg("--socket").arg(daemon.path("control.sock")).args(["--json", "status"]);
    let output = command.output().expect("knockctl runs");
    let status: Value = serde_json::from_slice(&output.stdout).expect("knockctl status prints JSON");
    ["commands_running", "commands_queued"].iter().map(|field| status[field].as_u64().expect("a number")).sum()
}

/// The packets of one source, for a message.
fn shown(packets: &[Seen], source: Ipv4Addr) -> String {
    let of_source = packets.iter().filter(|packet| packet.sent.source == source);
    of_source
        .map(|Seen { sent, second, at }| {
            format!("{:?} {:#04x} #{} at {second} s, {at:?}\n", sent.port, sent.flags.0, sent.number >> 8)
        })
        .collect()
}

/// The openings of ours, with commands that did not run because an equal one waited for the same address: fewer than in
/// the model, and at least one.
fn with_merged(real: &Openings, model: Openings) -> Openings {
    let merged = |key: &_, count: u32| match model.get(key) {
        Some(&wanted) if (1..=wanted).contains(&count) => wanted,
        _ => count,
    };
    real.iter().map(|(key, &count)| (*key, merged(key, count))).collect()
}

#[track_caller]
fn assert_same(packets: &[Seen], real: &Openings, model: &Openings, who: &str, what: &str) {
    for key in real.keys().chain(model.keys()) {
        let packets = || shown(packets, key.1);
        assert_eq!(real.get(key), model.get(key), "{who} and {what}, for {key:?}:\n{}", packets());
    }
}

/// For each difference, where it explains, alone or with others that are needed too, why only one opens.
fn reasons(packets: &[Seen], theirs: &Openings, ours: &Openings) -> BTreeMap<Difference, BTreeSet<Ipv4Addr>> {
    // Few differences first.
    let mut subsets: Vec<Vec<Difference>> = (0..1_usize << DIFFERENCES.len())
        .map(|bits| (0..DIFFERENCES.len()).filter(|i| bits >> i & 1 == 1).map(|i| DIFFERENCES[i]).collect())
        .collect();
    subsets.sort_by_key(Vec::len);
    let keys: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    let mut unexplained: Vec<_> = keys.into_iter().filter(|key| theirs.get(key) != ours.get(key)).collect();
    let mut reasons: BTreeMap<Difference, BTreeSet<Ipv4Addr>> = Default::default();
    for subset in subsets {
        if unexplained.is_empty() {
            break;
        }
        let with = openings(packets, &subset);
        unexplained.retain(|key| {
            let explained = with.get(key) == ours.get(key);
            if explained {
                for difference in &subset {
                    reasons.entry(*difference).or_default().insert(key.1);
                }
            }
            !explained
        });
    }
    assert!(unexplained.is_empty(), "no listed difference is the reason for {unexplained:?}");
    reasons
}

/// The identifiers in the document's tables.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/moving-from-knock.md");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let identifier = |line: &str| Some(line.strip_prefix("| ")?.split_once(" |")?.0.to_owned());
    text.lines().filter_map(identifier).collect()
}
