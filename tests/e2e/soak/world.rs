//! The daemon, what is done to it, and what is seen of it.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use knock_testkit::{Answer, Echo, Flags, Network, Packet, Transport, Wire};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use super::model::{RULES, Setting};
use super::{Expected, Model, OWN_PORT, PORTS, Tally};
use crate::support::{Daemon, Siege, at, elements_of, process, syns, table_exists, user_set, wait_until};

/// How long everything may take to agree where it does not at once.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The administrator's ruleset, as `nft -f` loads it.
const ADMINISTRATORS: &str = "add table inet filter
    add set inet filter own4 { type ipv4_addr; flags timeout; }
    add set inet filter own6 { type ipv6_addr; flags timeout; }
    add chain inet filter input { type filter hook input priority 0; policy accept; }
    add rule inet filter input tcp dport 2323 tcp flags & (syn|ack) == syn ip saddr != @own4 drop
    add rule inet filter input tcp dport 2323 tcp flags & (syn|ack) == syn ip6 saddr != @own6 drop";

/// The network, the daemon in it, and the model of it.
pub(super) struct World<'a> {
    network: &'a Network,
    random: fastrand::Rng,
    /// `None` only while it is down.
    daemon: Option<Daemon>,
    started: Instant,
    setting: Setting,
    began_with_any: bool,
    pub(super) model: Model,
    pub(super) tally: Tally,
    /// To the server over the bridge, and over the link that is deleted and made again.
    wire: Wire,
    second: Wire,
    siege: Option<Siege>,
    got_in: u64,
    /// Source ports for probes, so that late answers are not taken for present ones.
    probe: u16,
    last_steps: VecDeque<String>,
    _services: Vec<Echo>,
}

impl<'a> World<'a> {
    pub(super) fn new(network: &'a Network, seed: u64) -> World<'a> {
        let server = &network.server;
        let ports = PORTS.iter().chain([&OWN_PORT]);
        let services = ports.map(|port| Echo::tcp(&server.namespace, *port).expect("an echo service")).collect();
        server.namespace.nft(ADMINISTRATORS).expect("the administrator's ruleset");
        network.add_link("knock0", [10, 78, 0]).expect("a second link");
        let mut random = fastrand::Rng::with_seed(seed);
        let setting = random_setting(&mut random);
        let daemon = Daemon::start(server, setting.configuration());
        let mut world = World {
            network,
            random,
            daemon: Some(daemon),
            started: Instant::now(),
            began_with_any: setting.any_interface,
            setting,
            model: Model::default(),
            tally: Tally::default(),
            wire: crate::support::wire(network),
            second: second_wire(network),
            siege: Some(Siege::begin_slowly(network, PORTS[0])),
            got_in: 0,
            probe: 1024,
            last_steps: VecDeque::new(),
            _services: services,
        };
        world.look();
        world
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    /// Does something, and compares.
    pub(super) fn step(&mut self) {
        let choice = self.random.usize(..100);
        let step = match choice {
            0..30 => self.knock(),
            30..40 => self.knock_wrongly(),
            40..48 => self.grant_by_hand(),
            48..56 => self.revoke_by_hand(),
            56 => self.revoke_all(),
            57..69 => self.reload(),
            69..73 => self.reload_wrongly(),
            73..79 => self.crash(),
            79..84 => self.restart(),
            84..92 => self.lay_hands(),
            92..94 => self.reload_administrators(),
            94..97 => self.flap(),
            97 => self.delete_and_remake_link(),
            _ => self.let_one_expire(),
        };
        let (kind, detail, may_leak) = step;
        self.tally.step(kind);
        self.last_steps.push_back(format!("{kind}: {detail}"));
        if self.last_steps.len() > 12 {
            self.last_steps.pop_front();
        }
        self.agree(may_leak);
        self.model.forget(Instant::now());
    }

    /// Ends the daemon and says what came of it.
    pub(super) fn end(mut self) -> Tally {
        self.look();
        drop(self.siege.take());
        let mut daemon = self.daemon.take().expect("it runs");
        assert!(daemon.stop().success());
        self.tally
    }
}

/// What a step was: its kind, what it was about, and whether strangers may have got in meanwhile.
type Step = (&'static str, String, bool);

impl World<'_> {
    fn address(&mut self) -> IpAddr {
        let number = u16::try_from(self.random.usize(..12)).unwrap_or(0) + 1;
        addresses(number)
    }

    fn rule(&mut self) -> &'static str {
        let names: Vec<&str> = self.setting.rules.keys().copied().collect();
        names[self.random.usize(..names.len())]
    }

    fn knock(&mut self) -> Step {
        let (address, rule) = (self.address(), self.rule());
        let sequence = RULES.iter().find(|(name, _)| *name == rule).expect("it is one of them").1;
        let from = Instant::now();
        let completed = self.counter("completed");
        if address.is_ipv4() && self.random.usize(..4) == 0 {
            let over_there = |packet: Packet| Packet {
                destination: SocketAddr::new(Ipv4Addr::new(10, 78, 0, 1).into(), packet.destination.port()),
                ..packet
            };
            let packets: Vec<Packet> = syns(address, &sequence).into_iter().map(over_there).collect();
            self.second.send_all(&packets).expect("the knock is sent");
        } else {
            self.wire.send_all(&syns(address, &sequence)).expect("the knock is sent");
        }
        self.wait_for_counter("completed", completed + 1);
        self.model.grant(rule, address, (from, Instant::now()), self.setting.rules[rule].1);
        ("knock", format!("{rule} from {address}"), false)
    }

    /// Each ends with a tripwire, so that nothing is left in progress.
    fn knock_wrongly(&mut self) -> Step {
        let (address, rule) = (self.address(), self.rule());
        let [first, second, third] = RULES.iter().find(|(name, _)| *name == rule).expect("it is one of them").1;
        let near = [first + 1, second + 1, third + 1][self.random.usize(..3)];
        let ports = match self.random.usize(..5) {
            0 => vec![first, second],
            1 => vec![third, second, first],
            2 => vec![first, near, second, third],
            3 => vec![first, third, second, third],
            _ => vec![second, third],
        };
        let before = self.counter("packets");
        let completed = self.counter("completed");
        let sent = ports.len() as u64 + 1;
        self.wire.send_all(&syns(address, &ports)).expect("the knock is sent");
        self.wire.send_all(&syns(address, &[first + 1])).expect("the tripwire is touched");
        self.wait_for_counter("packets", before + sent);
        let opened = self.counter("completed") - completed;
        if opened > 0 {
            self.disagree(format!("{ports:?} from {address} opened {opened} rules"));
        }
        ("wrong knock", format!("{ports:?} from {address}"), false)
    }

    fn grant_by_hand(&mut self) -> Step {
        let (address, rule) = (self.address(), self.rule());
        let seconds = [3, 20, 900][self.random.usize(..3)];
        let from = Instant::now();
        self.knockctl_ok(&["grant", rule, &address.to_string(), "--timeout", &seconds.to_string()]);
        self.model.grant(rule, address, (from, Instant::now()), Duration::from_secs(seconds));
        ("grant by hand", format!("{rule} to {address} for {seconds} s"), false)
    }

    fn revoke_by_hand(&mut self) -> Step {
        let (address, rule) = (self.address(), self.rule());
        let text = address.to_string();
        let rule = (self.random.usize(..2) == 0).then_some(rule);
        let arguments: Vec<&str> = ["revoke", &text].into_iter().chain(rule).collect();
        self.knockctl_ok(&arguments);
        self.model.revoke(address, rule);
        ("revoke by hand", format!("{rule:?} of {address}"), false)
    }

    fn revoke_all(&mut self) -> Step {
        self.knockctl_ok(&["revoke", "--all"]);
        self.model.end(false);
        ("revoke all", String::new(), false)
    }

    fn reload(&mut self) -> Step {
        let mut setting = random_setting(&mut self.random);
        // One that began with any interface gave up the right to bind to a single one.
        setting.any_interface |= self.began_with_any;
        let reloads = self.counter("reloads");
        self.daemon().reload(setting.configuration());
        self.wait_for_counter("reloads", reloads + 1);
        let table = (self.setting.table != setting.table).then_some(self.setting.table);
        self.setting = setting;
        self.model.reload(&self.setting);
        if let Some(table) = table.filter(|table| table_exists(&self.network.server, table)) {
            self.disagree(format!("table {table} is left after a reload"));
        }
        self.look();
        ("reload", format!("{:?}", self.setting), false)
    }

    fn reload_wrongly(&mut self) -> Step {
        let file = self.daemon().path("config.json");
        let valid = fs::read_to_string(&file).expect("the configuration");
        let wrong = match self.random.usize(..3) {
            0 => valid.replacen("sequence", "sequense", 1),
            1 => valid.replacen("7000", "70000", 1),
            _ => valid[..valid.len() / 2].to_owned(),
        };
        fs::write(&file, wrong).expect("written");
        let output = self.knockctl(&["reload"]);
        if output.status.code() != Some(78) {
            self.disagree(format!("an invalid file: {output:?}"));
        }
        fs::write(&file, valid).expect("written");
        ("invalid reload", String::new(), false)
    }

    /// Where two rules end at the same time, which of them a new daemon knows is chance.
    fn settle(&mut self) {
        for address in self.model.ambiguous(&self.setting) {
            self.knockctl_ok(&["revoke", &address.to_string()]);
            self.model.revoke(address, None);
        }
    }

    /// Starts a new daemon on what the one before it left, perhaps listening elsewhere.
    fn start_again(&mut self) {
        self.setting.any_interface = self.random.usize(..2) == 0;
        self.began_with_any = self.setting.any_interface;
        self.daemon = Some(Daemon::start(&self.network.server, self.setting.configuration()));
        self.started = Instant::now();
        self.look();
    }

    fn crash(&mut self) -> Step {
        self.settle();
        self.look();
        let mut daemon = self.daemon.take().expect("it runs");
        let kills_ear = self.random.usize(..2) == 0;
        if kills_ear {
            kill_process(process(daemon.ear()), Signal::KILL).expect("killed");
            assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
            drop(daemon.take_directory());
        } else {
            drop(daemon.kill());
        }
        self.compare_wire(&PORTS);
        self.start_again();
        self.model.take_up(&self.setting);
        ("SIGKILL and start", if kills_ear { "the ear" } else { "the keeper" }.to_owned(), false)
    }

    fn restart(&mut self) -> Step {
        self.settle();
        self.look();
        let hand_over = self.random.usize(..2) == 0;
        let removed = !hand_over && !self.setting.keep;
        let mut daemon = self.daemon.take().expect("it runs");
        daemon.signal(if hand_over { Signal::USR1 } else { Signal::TERM });
        assert!(daemon.wait().success(), "{}", daemon.log());
        if table_exists(&self.network.server, self.setting.table) == removed {
            self.disagree(format!("the table after a stop; removed: {removed}"));
        }
        if removed {
            self.model.end(true);
        } else {
            self.compare_wire(&PORTS);
        }
        self.start_again();
        self.model.take_up(&self.setting);
        let kind = if hand_over { "USR1 and start" } else { "SIGTERM and start" };
        (kind, format!("removed: {removed}"), removed)
    }

    /// Somebody else's hand on the managed table.
    fn lay_hands(&mut self) -> Step {
        let table = self.setting.table;
        let hands = [
            format!("flush ruleset\n{ADMINISTRATORS}"),
            format!("delete table inet {table}"),
            format!("flush chain inet {table} prerouting"),
            format!("flush chain inet {table} gate"),
            format!("flush set inet {table} guarded"),
            format!("flush set inet {table} grants4"),
            format!("flush set inet {table} grants6\nflush set inet {table} grants4"),
            format!("insert rule inet {table} prerouting accept"),
        ];
        let hands = &hands[self.random.usize(..hands.len())];
        let result = self.network.server.namespace.nft(hands);
        let flush = hands.starts_with("flush ruleset");
        if result.is_ok() != (flush || !self.setting.owner) {
            self.disagree(format!("{hands}: {result:?}"));
        }
        let kind = match (flush, self.setting.owner) {
            (true, true) => "flush ruleset, owned",
            (true, false) => "flush ruleset, not owned",
            (false, true) => "hand on the table, owned",
            (false, false) => "hand on the table, not owned",
        };
        (kind, hands.lines().next().unwrap_or("").to_owned(), !self.setting.owner)
    }

    fn reload_administrators(&mut self) -> Step {
        let script = format!("delete table inet filter\n{ADMINISTRATORS}");
        self.network.server.namespace.nft(&script).expect("the administrator's ruleset");
        ("administrator's reload", String::new(), false)
    }

    fn flap(&mut self) -> Step {
        let (server, router) = (&self.network.server, self.network.client());
        let down_and_up = format!(
            "link set eth0 down\nlink set eth0 up\naddr replace {}/64 dev eth0 nodad\n\
             route replace default via {}\nroute replace ::/0 via {}",
            server.v6, router.v4, router.v6
        );
        server.namespace.ip(&down_and_up).expect("the interface goes down and up");
        self.wait_for_interfaces();
        for address in [addresses(1), addresses(2)] {
            let reaches = || {
                let fence = [Packet::syn(SocketAddr::new(address, 999), at(address, 2), 9)];
                self.wire.answers(&fence, SocketAddr::new(address, 998)).is_ok_and(|answers| !answers.is_empty())
            };
            wait_until("packets arrive again", reaches);
        }
        ("interface down and up", String::new(), false)
    }

    fn delete_and_remake_link(&mut self) -> Step {
        self.network.server.namespace.ip("link del knock0").expect("the link is deleted");
        self.network.add_link("knock0", [10, 78, 0]).expect("the link is made again");
        self.second = second_wire(self.network);
        self.wait_for_interfaces();
        ("interface deleted and made again", String::new(), false)
    }

    fn let_one_expire(&mut self) -> Step {
        let soon = Instant::now() + Duration::from_secs(5);
        match self.model.next_end() {
            Some(end) if end < soon => {
                // Time itself is what is waited for here.
                thread::sleep(end.saturating_duration_since(Instant::now()));
                ("expiry", String::new(), false)
            }
            _ => ("nothing", String::new(), false),
        }
    }
}

impl World<'_> {
    fn disagree(&mut self, what: String) {
        let steps: Vec<&str> = self.last_steps.iter().map(String::as_str).collect();
        let log = self.daemon.as_ref().map(Daemon::log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(15).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        let text =
            format!("{what}\n  after {}\n  the log ends with\n    {}", steps.join("\n    "), tail.join("\n    "));
        println!("soak: disagreement: {text}");
        self.tally.disagreements.push(text);
    }

    /// Compares the model with the kernel, the record and the wire. Where others changed a table that anybody may change,
    /// the daemon restores it some time later; everything else holds at once.
    fn agree(&mut self, may_leak: bool) {
        let start = Instant::now();
        loop {
            let mut wrong = self.compare_kernel();
            wrong.extend(self.compare_record());
            if wrong.is_empty() {
                break;
            }
            if start.elapsed() > AGREEMENT_TIMEOUT {
                self.disagree(wrong.join("; "));
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        if may_leak {
            self.tally.longest_repair = self.tally.longest_repair.max(start.elapsed());
        }
        let ports: Vec<u16> = PORTS.iter().chain([&OWN_PORT]).copied().collect();
        self.compare_wire(&ports);
        let passed = self.siege.as_ref().map_or(0, |siege| siege.passed().segments);
        let new = passed - std::mem::replace(&mut self.got_in, passed);
        if may_leak {
            self.tally.got_in += new;
        } else if new > 0 {
            self.disagree(format!("{new} SYNs of the flood got in"));
        }
    }

    /// The elements in the kernel that are not as they should be.
    fn compare_kernel(&mut self) -> Vec<String> {
        let server = &self.network.server;
        let from = Instant::now();
        let mut found: BTreeMap<(IpAddr, u16), Duration> = BTreeMap::new();
        for set in ["grants4", "grants6"] {
            for element in elements_of(server, self.setting.table, set) {
                found.insert((element.address, element.service.1), element.expires.unwrap_or_default());
            }
        }
        for set in ["inet filter own4", "inet filter own6"] {
            let held = user_set(server, set).unwrap_or_default();
            found.extend(held.into_iter().map(|(address, expires)| ((address, OWN_PORT), expires)));
        }
        let at = (from, Instant::now());
        self.tally.compared[1] += found.len() as u64;
        let mut wrong = Vec::new();
        for number in 1..=12 {
            let address = addresses(number);
            for port in PORTS.iter().chain([&OWN_PORT]) {
                let expires = found.remove(&(address, *port));
                match self.model.expected(&self.setting, address, *port, at) {
                    Expected::Open if !self.setting.guards(*port) && expires.is_some() => {
                        wrong.push(format!("the kernel has an element for {address} and {port}, which is not guarded"));
                    }
                    Expected::Open if self.setting.guards(*port) => {
                        let remaining = self.model.remaining(&self.setting, address, *port, at.1).unwrap_or_default();
                        let near = expires.is_some_and(|expires| expires.abs_diff(remaining) < Duration::from_secs(3));
                        if !near {
                            wrong.push(format!(
                                "{address} should have {port} for {remaining:?}; the kernel says {expires:?}"
                            ));
                        }
                    }
                    Expected::Closed if expires.is_some() => {
                        wrong.push(format!("{address} should not have {port}; the kernel says {expires:?}"));
                    }
                    _ => {}
                }
            }
        }
        wrong.extend(found.keys().map(|key| format!("nobody knows the element {key:?}")));
        wrong
    }

    /// The grants in the daemon's record that are not as they should be.
    fn compare_record(&mut self) -> Vec<String> {
        let from = Instant::now();
        let listed = self.knockctl_ok(&["--json", "grants"]);
        let at = (from, Instant::now());
        let grants = listed["grants"].as_array().cloned().unwrap_or_default();
        self.tally.compared[2] += grants.len() as u64;
        let has = |address: IpAddr, rule: &str| {
            let address = address.to_string();
            grants.iter().any(|grant| grant["address"] == *address && grant["rule"] == rule)
        };
        let mut wrong = Vec::new();
        for (number, (rule, _)) in (1..=12).flat_map(|number| RULES.iter().map(move |rule| (number, rule))) {
            let address = addresses(number);
            let expected = self.model.recorded(address, rule, at);
            if expected != Expected::Either && (expected == Expected::Open) != has(address, rule) {
                wrong.push(format!("{rule} to {address}: {expected:?} expected, recorded: {}", has(address, rule)));
            }
        }
        wrong
    }

    /// Sends a SYN from each of some addresses to each of the ports.
    fn compare_wire(&mut self, ports: &[u16]) {
        for version6 in [false, true] {
            let mut asked = Vec::new();
            let mut packets: Vec<Packet> = Vec::new();
            for number in 1..=12 {
                let address = addresses(number);
                if address.is_ipv6() != version6 {
                    continue;
                }
                for port in ports {
                    self.probe = if self.probe >= 60_000 { 1024 } else { self.probe + 1 };
                    packets.push(Packet::syn(SocketAddr::new(address, self.probe), at(address, *port), 77));
                    asked.push((address, *port));
                }
            }
            let from = Instant::now();
            let fence = SocketAddr::new(packets[0].source.ip(), 1000);
            let answers = self.wire.answers(&packets, fence).expect("the answers to the probes");
            let at = (from, Instant::now());
            self.tally.compared[0] += packets.len() as u64;
            let mut resets = Vec::new();
            for (packet, (address, port)) in packets.iter().zip(asked) {
                let syn_ack = |answer: Answer| matches!(answer, Answer::Tcp(flags) if flags.has(Flags::SYN));
                let open = answers.iter().any(|reply| {
                    reply.from == packet.destination && reply.to == packet.source && syn_ack(reply.answer)
                });
                let expected = self.model.expected(&self.setting, address, port, at);
                if expected != Expected::Either && (expected == Expected::Open) != open {
                    self.disagree(format!("on the wire: {port} from {address}: {expected:?} expected, open: {open}"));
                }
                if open {
                    let transport = Transport::Tcp { flags: Flags::RST, sequence: 78, acknowledgment: 0 };
                    resets.push(Packet { transport, ..packet.clone() });
                }
            }
            self.wire.send_all(&resets).expect("half-open connections are reset");
        }
    }

    /// Notes descriptors and memory.
    fn look(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        let kind = (self.setting.owner, self.setting.any_interface, self.setting.rules.contains_key("own"));
        // A knockctl that has just ended may still be connected.
        let files = || daemon.open_files();
        let mut least = files();
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(1));
            least = least.min(files());
        }
        self.tally.look(kind, least, daemon.status("VmRSS"), self.started.elapsed());
    }

    fn knockctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knockctl"));
        command.arg("--socket").arg(self.daemon().path("control.sock")).args(arguments);
        command.output().expect("knockctl runs")
    }

    fn knockctl_ok(&self, arguments: &[&str]) -> Value {
        let output = self.knockctl(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}; the log:\n{}", self.daemon().log());
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn status(&self) -> Value {
        self.knockctl_ok(&["--json", "status"])
    }

    fn counter(&self, name: &str) -> u64 {
        self.status()["counters"][name].as_u64().unwrap_or_else(|| panic!("a counter {name}"))
    }

    fn wait_for_counter(&self, name: &str, least: u64) {
        wait_until(&format!("{name} is {least}; {:?}", self.last_steps), || self.counter(name) >= least);
    }

    fn wait_for_interfaces(&self) {
        wait_until("all interfaces are up", || {
            let status = self.status();
            status["interfaces"].as_array().is_some_and(|all| all.iter().all(|interface| interface["state"] == "up"))
        });
    }
}

/// The addresses that knock: eight of IPv4, four of IPv6, next to those of the flood.
fn addresses(number: u16) -> IpAddr {
    if number.is_multiple_of(3) {
        Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, number).into()
    } else {
        Ipv4Addr::new(198, 19, 0, number.to_le_bytes()[0]).into()
    }
}

fn second_wire(network: &Network) -> Wire {
    let towards = || Wire::towards("knock0", Ipv4Addr::new(10, 78, 0, 1).into());
    network.client().namespace.run(towards).and_then(|wire| wire).expect("a packet socket on the second link")
}

/// Any configuration that guards the first port.
fn random_setting(random: &mut fastrand::Rng) -> Setting {
    let mut rules = BTreeMap::new();
    for (name, _) in RULES {
        let mut ports: Vec<u16> = PORTS.iter().copied().filter(|_| random.usize(..2) == 0).collect();
        if name == "a" && !ports.contains(&PORTS[0]) {
            ports.push(PORTS[0]);
        }
        let timeout = Duration::from_secs([4, 30, 3600][random.usize(..3)]);
        match name {
            "own" => ports = vec![OWN_PORT],
            _ if ports.is_empty() => continue,
            _ => {}
        }
        if name == "a" || random.usize(..5) > 0 {
            rules.insert(name, (ports, timeout));
        }
    }
    Setting {
        rules,
        table: ["knockd", "gate"][usize::from(random.usize(..4) == 0)],
        owner: random.usize(..2) == 0,
        doors: random.usize(..2) == 0,
        keep: random.usize(..2) == 0,
        any_interface: random.usize(..2) == 0,
    }
}
