//! The engine against a slow and obvious matcher, on random rules and random packets.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Engine, Identity, Knock, Packet, Port, Rule, RuleId, Settings, TcpFlags, Time};
use proptest::prelude::*;

type Events = Vec<(Time, Knock)>;

/// Remembers everything that a source has ever sent, and looks at all of it each time.
struct Reference {
    rules: Vec<Rule>,
    tripwires: bool,
    guarded: Vec<Port>,
    /// What each source sent since its last tripwire, and for each rule how much of that is used up.
    history: HashMap<IpAddr, (Events, Vec<usize>)>,
}

impl Reference {
    fn is_knock(&self, knock: Knock) -> bool {
        self.rules.iter().any(|rule| rule.sequence.contains(&knock))
    }

    fn is_tripwire(&self, knock: Knock) -> bool {
        let neighbours = [knock.port.wrapping_sub(1), knock.port.wrapping_add(1)].map(|port| Knock { port, ..knock });
        self.tripwires
            && knock.port != 0
            && neighbours.iter().any(|&neighbour| neighbour.port != 0 && self.is_knock(neighbour))
            && !self.is_knock(knock)
            && !self.guarded.iter().any(|port| port.knock() == knock)
    }

    fn handle(&mut self, now: Time, source: IpAddr, knock: Knock) -> Vec<usize> {
        let (is_knock, is_tripwire) = (self.is_knock(knock), self.is_tripwire(knock));
        let (events, used) = self.history.entry(source).or_insert_with(|| (Vec::new(), vec![0; self.rules.len()]));
        if is_tripwire {
            events.clear();
            used.fill(0);
        }
        if !is_knock {
            return Vec::new();
        }
        events.push((now, knock));
        let mut completed = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            if completes(&events[used[index]..], now, rule) {
                used[index] = events.len();
                completed.push(index);
            }
        }
        completed
    }
}

/// Whether some of these events, to the last one, are the sequence.
fn completes(events: &[(Time, Knock)], now: Time, rule: &Rule) -> bool {
    (0..events.len()).any(|start| {
        now.since(events[start].0) <= rule.timeout && {
            let ports: Vec<Knock> = events[start..].iter().map(|event| event.1).collect();
            is_sequence(&ports, &rule.sequence)
        }
    })
}

/// Whether these knocks are exactly the sequence, repeats of a port that it does not itself repeat aside.
fn is_sequence(knocks: &[Knock], sequence: &[Knock]) -> bool {
    let chunks = |knocks: &[Knock]| knocks.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect::<Vec<_>>();
    let (knocked, wanted) = (chunks(knocks), chunks(sequence));
    knocked.len() == wanted.len()
        && knocked.iter().zip(&wanted).enumerate().all(|(position, (knocked, wanted))| {
            let in_the_middle = position > 0 && position + 1 < sequence_runs(sequence);
            knocked.0 == wanted.0 && (knocked.1 == wanted.1 || (in_the_middle && wanted.1 == 1))
        })
}

fn sequence_runs(sequence: &[Knock]) -> usize {
    sequence.chunk_by(|a, b| a == b).count()
}

/// Few ports, so that random knocks complete random sequences; some are neighbours.
fn any_knock() -> impl Strategy<Value = Knock> {
    prop_oneof![
        8 => prop::sample::select(vec![10_u16, 20, 30]).prop_map(Knock::tcp),
        2 => Just(Knock::udp(10)),
        1 => prop::sample::select(vec![9_u16, 11, 21, 31, 443]).prop_map(Knock::tcp),
    ]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (prop::collection::vec(any_knock(), 1..6), 1..2000_u64).prop_map(|(sequence, timeout)| Rule {
        id: RuleId::from(""),
        sequence,
        timeout: Duration::from_millis(timeout),
        tcp_flags: TcpFlags::default(),
        targets: Vec::new(),
    })
}

/// Rules that are known by their numbers.
fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    let numbered = |(number, rule): (usize, Rule)| Rule { id: number.to_string().into(), ..rule };
    prop::collection::vec(any_rule(), 1..5).prop_map(move |rules| rules.into_iter().enumerate().map(numbered).collect())
}

/// A packet of one of three sources, and how long after the one before it comes.
fn any_packet() -> impl Strategy<Value = (u64, u8, Knock)> {
    (prop_oneof![9 => 0..50_u64, 1 => 0..3000_u64], 1..4_u8, any_knock())
}

fn source(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

fn packet(number: u8, knock: Knock, serial: u32) -> Packet {
    Packet {
        source: source(number),
        destination: IpAddr::from([198, 51, 100, 1]),
        knock,
        tcp_flags: TcpFlags::SYN,
        identity: Identity { source_port: 50_000, number: serial },
    }
}

fn handle(engine: &mut Engine, now: Time, packet: &Packet) -> Vec<usize> {
    let mut completions = Vec::new();
    engine.handle(now, packet, true, &mut completions);
    let mut rules: Vec<usize> = completions.iter().map(|of| of.rule.parse().expect("a number")).collect();
    rules.sort_unstable();
    rules
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_opens_what_the_reference_opens(
        rules in any_rules(),
        tripwires: bool,
        packets in prop::collection::vec(any_packet(), 1..200),
    ) {
        let guarded = vec![Port::tcp(21)];
        let settings = Settings { sources: 10, tripwires, guarded: guarded.iter().map(|&port| port.into()).collect() };
        let mut engine = Engine::new(rules.clone(), &settings);
        let mut reference = Reference { rules, tripwires, guarded, history: HashMap::new() };
        let mut now = Time::from_millis(1);
        for (serial, &(pause, number, knock)) in (0..).zip(&packets) {
            now = now.after(Duration::from_millis(pause)).after(Duration::from_nanos(1));
            let completed = handle(&mut engine, now, &packet(number, knock, serial));
            prop_assert_eq!(completed, reference.handle(now, source(number), knock), "packet {}", serial);
            if serial % 7 == 0 {
                // Whenever it is done, forgetting changes nothing.
                engine.forget_silent(now);
            }
        }
    }

    #[test]
    fn duplicates_of_knocks_that_are_under_way_change_nothing(
        rules in any_rules(),
        packets in prop::collection::vec((any_packet(), any::<bool>()), 1..100),
    ) {
        // Each packet comes twice in a row or once: the completions are the same.
        let settings = Settings { sources: 10, tripwires: true, guarded: Vec::new() };
        let mut engine = Engine::new(rules.clone(), &settings);
        let mut duplicated = Engine::new(rules, &settings);
        let mut now = Time::from_millis(1);
        for (serial, &((pause, number, knock), twice)) in (0..).zip(&packets) {
            now = now.after(Duration::from_millis(pause)).after(Duration::from_nanos(1));
            let packet = packet(number, knock, serial);
            let expected = handle(&mut engine, now, &packet);
            prop_assert_eq!(handle(&mut duplicated, now, &packet), expected);
            if twice {
                prop_assert_eq!(handle(&mut duplicated, now, &packet), Vec::<usize>::new());
            }
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), version in 4..8_u8) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = *first & 0x0f | version << 4;
        }
        let _ = knock_proto::parse(&bytes);
    }
}
