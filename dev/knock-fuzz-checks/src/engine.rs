//! The engine opens nothing that was not knocked, whatever the rules, the packets and the clock.

use std::net::IpAddr;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use knock_proto::{
    Completion, Counters, Engine, Identity, Knock, Packet, Port, Rule, SEQUENCE_MAX, Settings, TcpFlags,
};
use knock_proto::{Protocol, Time};

use crate::history::{History, accepts};

const RULES_MAX: usize = 6;
const STEPS_MAX: usize = 200;
const PACKETS_MAX: usize = 1000;

/// Few ports, so that made-up packets meet made-up sequences; some are neighbours, some the first or last there are.
const PORTS: [Knock; 16] = [
    Knock::tcp(1000),
    Knock::tcp(2000),
    Knock::tcp(3000),
    Knock::udp(1000),
    Knock::tcp(1001),
    Knock::tcp(999),
    Knock::tcp(1999),
    Knock::tcp(2001),
    Knock::udp(1001),
    Knock::tcp(65_535),
    Knock::tcp(65_534),
    Knock::tcp(1),
    Knock::tcp(2),
    Knock::tcp(0),
    Knock::tcp(1002),
    Knock::tcp(443),
];

/// What the fuzzer makes up.
#[derive(Arbitrary, Debug)]
struct Input {
    first: Setup,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
struct Setup {
    rules: Vec<RuleInput>,
    sources: u8,
    tripwires: bool,
    guarded: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct RuleInput {
    sequence: Vec<u8>,
    timeout_ms: u16,
    other_flags: bool,
    target: bool,
    /// The inputs that are kept in `fuzz/corpus` have these here; they mean nothing.
    _ignored: (bool, Option<u8>, bool),
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A packet of a source.
    Packet { source: u8, port: u8, number: u8, odd: bool },
    /// The sequence of a rule, a nanosecond or more between its knocks.
    Sequence { source: u8, rule: u8, number: u8, pause: Pause },
    /// Some time.
    Pause(Pause),
    /// Another configuration.
    Reconfigure(Setup),
    /// The same rules in another order.
    Rotate,
    /// The packets from that one on again, the very same ones.
    Again(u8),
    /// What is silent is forgotten.
    Forget,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Pause {
    Nanoseconds(u8),
    Milliseconds(u16),
    /// The clock goes backwards.
    Back(u16),
}

impl Pause {
    fn after(self, now: Time) -> Time {
        match self {
            Pause::Nanoseconds(nanoseconds) => now.after(Duration::from_nanos(nanoseconds.into())),
            Pause::Milliseconds(milliseconds) => now.after(Duration::from_millis(milliseconds.into())),
            Pause::Back(milliseconds) => now.before(Duration::from_millis(milliseconds.into())),
        }
    }
}

impl Setup {
    fn settings(&self) -> Settings {
        let guarded = self
            .guarded
            .map(port)
            .into_iter()
            .map(|Knock { protocol, port }| Port { protocol, number: port }.into())
            .collect();
        Settings { sources: usize::from(self.sources % 5), tripwires: self.tripwires, guarded }
    }

    fn rules(&self) -> Vec<Rule> {
        self.rules.iter().take(RULES_MAX).enumerate().map(|(number, rule)| rule.rule(number)).collect()
    }
}

impl RuleInput {
    fn rule(&self, number: usize) -> Rule {
        let fin = TcpFlags { set: TcpFlags::FIN, clear: TcpFlags::ACK };
        Rule {
            id: number.to_string().into(),
            sequence: self.sequence.iter().take(SEQUENCE_MAX).copied().map(port).collect(),
            timeout: Duration::from_millis(self.timeout_ms.into()),
            tcp_flags: if self.other_flags { fin } else { TcpFlags::default() },
            targets: self.target.then(elsewhere).into_iter().collect(),
        }
    }
}

fn port(number: u8) -> Knock {
    PORTS[usize::from(number) % PORTS.len()]
}

fn here() -> IpAddr {
    IpAddr::from([198, 51, 100, 1])
}

fn elsewhere() -> IpAddr {
    IpAddr::from([198, 51, 100, 2])
}

/// Of each source, a second one differs from the first only in its version of IP.
fn source(number: u8) -> IpAddr {
    match number % 6 {
        even if even % 2 == 0 => IpAddr::from([192, 0, 2, even]),
        odd => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(odd)]),
    }
}

/// Checks [`knock_proto::Engine`] with the rules, packets and times that these bytes stand for.
///
/// # Panics
///
/// Where it opens what was not knocked, or remembers more than it may.
pub fn engine(bytes: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let (rules, settings) = (input.first.rules(), input.first.settings());
    let mut bench = Bench {
        engine: Engine::new(rules.clone(), &settings),
        history: History::new(rules, &settings),
        now: Time::from_millis(100_000),
        latest: Time::ZERO,
        packets: Vec::new(),
        sent: 0,
        settings,
    };
    input.steps.iter().take(STEPS_MAX).for_each(|step| bench.step(step));
}

struct Bench {
    engine: Engine,
    history: History,
    settings: Settings,
    now: Time,
    /// The latest time that there has been.
    latest: Time,
    /// What was sent, the latest last.
    packets: Vec<(Packet, bool)>,
    sent: usize,
}

impl Bench {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Packet { source, port: number, number: serial, odd } => {
                // An odd packet is one that the default rule does not look at.
                let knock = port(number);
                let tcp_flags = if odd && serial % 2 == 0 { TcpFlags::FIN } else { TcpFlags::SYN };
                let local = !(odd && serial % 2 == 1);
                self.send_new(source, knock, serial, tcp_flags, local);
            }
            Step::Sequence { source, rule, number, pause } => {
                let rules = self.history.rules();
                let Some(rule) = rules.get(usize::from(rule) % rules.len().max(1)).cloned() else { return };
                let tcp_flags = if rule.tcp_flags.set == TcpFlags::FIN { TcpFlags::FIN } else { TcpFlags::SYN };
                for (serial, knock) in rule.sequence.iter().enumerate() {
                    let serial = number.wrapping_add(u8::try_from(serial).unwrap_or(0));
                    self.send_new(source, *knock, serial, tcp_flags, rule.targets.is_empty());
                    self.now = pause.after(self.now);
                }
            }
            Step::Pause(pause) => self.now = pause.after(self.now),
            Step::Reconfigure(ref setup) => {
                self.settings = setup.settings();
                self.reconfigure(setup.rules());
            }
            Step::Rotate => {
                let mut rules = self.history.rules().to_vec();
                let first = usize::from(!rules.is_empty());
                rules.rotate_left(first);
                self.reconfigure(rules);
            }
            Step::Again(from) => {
                let from = usize::from(from) % self.packets.len().max(1);
                for index in from..self.packets.len() {
                    let (packet, local) = self.packets[index];
                    self.send(packet, local);
                }
            }
            Step::Forget => {
                self.latest = self.latest.max(self.now);
                self.engine.forget_silent(self.now);
            }
        }
        let (sources, most) = (self.engine.sources(), self.settings.sources.max(1));
        assert!(sources <= most, "{sources} of {most} sources");
        assert!(self.engine.next_silent().is_some() || self.engine.sources() == 0, "sources that are never forgotten");
    }

    fn reconfigure(&mut self, rules: Vec<Rule>) {
        self.engine.reconfigure(self.now, rules.clone(), &self.settings);
        self.history.reconfigure(self.now, rules, &self.settings);
    }

    fn send_new(&mut self, number: u8, knock: Knock, serial: u8, tcp_flags: u8, local: bool) {
        let packet = Packet {
            source: source(number),
            destination: if local { here() } else { elsewhere() },
            knock,
            tcp_flags: if knock.protocol == Protocol::Udp { 0 } else { tcp_flags },
            identity: Identity { source_port: 40_000, number: (serial % 16).into() },
        };
        self.packets.push((packet, local));
        self.send(packet, local);
    }

    fn send(&mut self, packet: Packet, local: bool) {
        if self.sent == PACKETS_MAX {
            return;
        }
        self.sent += 1;
        self.latest = self.latest.max(self.now);
        self.history.note(self.now, packet, local);
        let before = self.engine.counters();
        let mut completions: Vec<Completion> = Vec::new();
        self.engine.handle(self.now, &packet, local, &mut completions);
        for Completion { rule, source } in &completions {
            assert_eq!(*source, packet.source);
            self.history.complete(self.latest, *source, rule);
        }
        self.counted(before, &packet, local, completions.len());
        let completed = completions.len();
        completions.sort_unstable();
        completions.dedup();
        assert_eq!(completions.len(), completed, "one packet completes a rule once: {completions:?}");
    }

    /// Each packet is counted once for each kind of rule that looks at it, or once as ignored.
    fn counted(&self, before: Counters, packet: &Packet, local: bool, completed: usize) {
        let after = self.engine.counters();
        let total = |of: Counters| of.knocks + of.retransmissions + of.tripwires + of.ignored;
        let mut kinds: Vec<_> = Vec::new();
        if self.history.meaning(packet.knock).is_some() {
            let looking = self.history.rules().iter().filter(|rule| accepts(rule, packet, local));
            kinds.extend(looking.map(|rule| (rule.tcp_flags, rule.targets.clone())));
            kinds.sort_unstable();
            kinds.dedup();
        }
        assert_eq!(total(after) - total(before), kinds.len().max(1) as u64, "{before:?} {after:?}");
        assert_eq!(after.ignored - before.ignored, u64::from(kinds.is_empty()));
        assert_eq!(after.completed - before.completed, completed as u64);
    }
}
