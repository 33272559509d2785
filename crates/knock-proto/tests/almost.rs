//! Sources that have knocked all but the last knock of a rule.

use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{
    Almost, Completion, Engine, Identity, Knock, LastKnock, Packet, Rule, RuleId, Settings, TcpFlags, Time,
};
use proptest::prelude::*;

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn rule(id: &str, ports: &[u16]) -> Rule {
    Rule {
        id: RuleId::from(id),
        sequence: ports.iter().map(|&port| Knock::tcp(port)).collect(),
        timeout: Duration::from_secs(5),
        tcp_flags: TcpFlags::default(),
        targets: Vec::new(),
    }
}

fn settings() -> Settings {
    Settings { sources: 100, tripwires: true, guarded: Vec::new() }
}

fn packet(knock: Knock, number: u32) -> Packet {
    Packet {
        source: SOURCE,
        destination: IpAddr::from([198, 51, 100, 1]),
        knock,
        tcp_flags: TcpFlags::SYN,
        identity: Identity { source_port: 50_000, number },
    }
}

/// An engine that these packets have come to, the first at 1 s, and each 10 ms after the one before.
fn after(rules: Vec<Rule>, packets: &[Packet]) -> (Engine, Time) {
    let mut engine = Engine::new(rules, &settings());
    let mut now = Time::from_millis(1000);
    for packet in packets {
        now = now.after(Duration::from_millis(10));
        engine.handle(now, packet, true, &mut Vec::new());
    }
    (engine, now)
}

/// What a source lacks that has knocked at these ports, each with a packet of its own.
fn almost(rules: Vec<Rule>, ports: &[u16]) -> Option<Almost> {
    let packets: Vec<Packet> = (1..).zip(ports).map(|(number, &port)| packet(Knock::tcp(port), number)).collect();
    let (engine, now) = after(rules, &packets);
    engine.almost(now, SOURCE)
}

#[test]
fn a_source_that_lacks_one_knock_is_almost_through_until_its_time_is_over() {
    let rules = vec![rule("ssh", &[1000, 2000, 3000])];
    assert_eq!(almost(rules.clone(), &[1000]), None);
    let expected = Almost {
        rule: RuleId::from("ssh"),
        last: Knock::tcp(3000),
        repeat: Some(Knock::tcp(2000)),
        until: Time::from_millis(6010),
    };
    assert_eq!(almost(rules.clone(), &[1000, 2000]), Some(expected.clone()));
    assert_eq!(almost(rules.clone(), &[1000, 2000, 2000]), Some(expected));
    let (engine, now) = after(rules, &[packet(Knock::tcp(1000), 1), packet(Knock::tcp(2000), 2)]);
    assert_eq!(engine.almost(now, IpAddr::from([192, 0, 2, 8])), None);
    assert!(engine.almost(Time::from_millis(6010), SOURCE).is_some());
    assert_eq!(engine.almost(Time::from_millis(6011), SOURCE), None);
}

#[test]
fn a_tripwire_a_wrong_knock_and_the_last_knock_end_it() {
    let rules = vec![rule("ssh", &[1000, 2000, 3000]), rule("other", &[5000, 6000, 7000])];
    for next in [2001, 5000, 1000, 3000] {
        assert_eq!(almost(rules.clone(), &[1000, 2000, next]), None, "{next}");
    }
}

#[test]
fn two_rules_that_the_next_knock_may_complete_are_none() {
    let ssh = || rule("ssh", &[1000, 2000, 3000]);
    for other in [&[1000, 2000, 4000][..], &[1000, 2000, 3000], &[2000, 3000], &[3000]] {
        assert_eq!(almost(vec![ssh(), rule("other", other)], &[1000, 2000]), None, "{other:?}");
    }
    // One that is longer is not complete with that knock, and one that is complete already waits for none.
    for other in [&[1000, 2000, 3000, 4000][..], &[1000, 2000, 4000, 5000]] {
        assert!(almost(vec![ssh(), rule("other", other)], &[1000, 2000]).is_some(), "{other:?}");
    }
}

#[test]
fn a_rule_of_other_flags_counts_as_another_rule() {
    let other = Rule { tcp_flags: TcpFlags { set: TcpFlags::SYN, clear: 0 }, ..rule("other", &[2000, 3000]) };
    assert_ne!(other.tcp_flags, TcpFlags::default());
    assert_eq!(almost(vec![rule("ssh", &[1000, 2000, 3000]), other], &[1000, 2000]), None);
}

#[test]
fn sequences_whose_last_port_is_at_another_place_too_are_never_almost_complete() {
    assert_eq!(almost(vec![rule("one", &[1000])], &[]), None);
    assert_eq!(almost(vec![rule("twice", &[1000, 1000])], &[1000]), None);
    assert_eq!(almost(vec![rule("back", &[1000, 2000, 1000])], &[1000, 2000]), None);
    assert_eq!(almost(vec![rule("end", &[1000, 2000, 2000])], &[1000, 2000]), None);
    assert!(almost(vec![rule("two", &[1000, 2000])], &[1000]).is_some());
}

#[test]
fn the_rules_that_a_source_may_ever_be_almost_through_with_have_a_last_step() {
    let rules = [("one", &[1000][..]), ("ssh", &[1000, 1000, 2000, 3000]), ("back", &[1, 2, 1]), ("two", &[5, 5, 6])];
    let rules: Vec<Rule> = rules.into_iter().map(|(id, ports)| rule(id, ports)).collect();
    let engine = Engine::new(rules.clone(), &settings());
    let found: Vec<_> =
        engine.last_knocks().into_iter().map(|of| (of.rule.to_string(), of.last.port, of.after)).collect();
    assert_eq!(found, [("ssh".to_owned(), 3000, 2), ("two".to_owned(), 6, 1)]);
    assert_eq!(engine.last_knocks().iter().map(|of| of.repeat).collect::<Vec<_>>(), [Some(Knock::tcp(2000)), None]);
    // What is knocked before the last step, in a row of different ports.
    let (mut engine, now) = after(rules, &[]);
    let mut send = |port, number| engine.handle(now, &packet(Knock::tcp(port), number), true, &mut Vec::new());
    let knocked = [send(1000, 1), send(1000, 2), send(2000, 3)];
    assert_eq!(knocked, [1, 1, 2]);
}

#[test]
fn another_knock_at_a_port_that_the_sequence_repeats_is_a_mistake() {
    let almost = almost(vec![rule("ssh", &[1000, 2000, 2000, 3000])], &[1000, 2000, 2000]).expect("one is missing");
    assert_eq!(almost.repeat, None);
}

#[test]
fn a_packet_to_the_last_port_of_which_a_copy_may_come_keeps_the_source_out() {
    let rules = || vec![rule("ssh", &[1000, 2000, 3000])];
    assert_eq!(almost(rules(), &[1000, 3000, 1000, 2000]), None, "it was sent too early");
    assert_eq!(almost(rules(), &[1000, 2000, 3000, 1000, 2000]), None, "it has completed the rule");
    let (mut engine, now) = after(rules(), &[1000, 2000, 3000].map(|port| packet(Knock::tcp(port), port.into())));
    let later = now.after(Duration::from_secs(131));
    engine.forget_silent(later);
    for port in [1000, 2000] {
        engine.handle(later, &packet(Knock::tcp(port), 1), true, &mut Vec::new());
    }
    assert!(engine.almost(later, SOURCE).is_some());
}

#[test]
fn a_reload_that_changes_the_rule_ends_it() {
    let (mut engine, now) =
        after(vec![rule("ssh", &[1000, 2000, 3000])], &[1000, 2000].map(|port| packet(Knock::tcp(port), 1)));
    assert!(engine.almost(now, SOURCE).is_some());
    engine.reconfigure(now, vec![rule("ssh", &[1000, 2000, 3000]), rule("other", &[7000, 8000])], &settings());
    assert!(engine.almost(now, SOURCE).is_some());
    engine.reconfigure(now, vec![rule("ssh", &[1000, 2000, 4000])], &settings());
    assert_eq!(engine.almost(now, SOURCE), None);
}

fn any_knock() -> impl Strategy<Value = Knock> {
    prop_oneof![
        8 => prop::sample::select(vec![10_u16, 20, 30, 40]).prop_map(Knock::tcp),
        2 => Just(Knock::udp(10)),
        1 => prop::sample::select(vec![9_u16, 11, 21, 31, 443]).prop_map(Knock::tcp),
    ]
}

fn any_flags() -> impl Strategy<Value = TcpFlags> {
    prop_oneof![4 => Just(TcpFlags::default()), 1 => Just(TcpFlags { set: TcpFlags::SYN, clear: 0 })]
}

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    let target = prop::option::weighted(0.2, Just(IpAddr::from([198, 51, 100, 1])));
    let one = (prop::collection::vec(any_knock(), 1..5), 1..2000_u64, any_flags(), target);
    prop::collection::vec(one, 1..5).prop_map(|rules| {
        let rule = |(number, (sequence, timeout, tcp_flags, target)): (usize, (_, _, _, Option<IpAddr>))| Rule {
            id: number.to_string().into(),
            sequence,
            timeout: Duration::from_millis(timeout),
            tcp_flags,
            targets: target.into_iter().collect(),
        };
        rules.into_iter().enumerate().map(rule).collect()
    })
}

/// A pause in ms, a packet, and whether it bears the number of an earlier one.
fn any_packet() -> impl Strategy<Value = (u64, Knock, u32)> {
    (prop_oneof![9 => 0..50_u64, 1 => 0..3000_u64], any_knock(), prop_oneof![4 => 100..u32::MAX, 1 => 0..3_u32])
}

struct Replayed {
    engine: Engine,
    now: Time,
}

fn replay(rules: &[Rule], packets: &[(u64, Knock, u32)]) -> Replayed {
    let mut replayed = Replayed { engine: Engine::new(rules.to_vec(), &settings()), now: Time::from_millis(1000) };
    for packet in packets {
        replayed.send(packet);
    }
    replayed
}

impl Replayed {
    fn send(&mut self, &(pause, knock, number): &(u64, Knock, u32)) -> Vec<Completion> {
        self.now = self.now.after(Duration::from_millis(pause)).after(Duration::from_nanos(1));
        let mut completions = Vec::new();
        self.engine.handle(self.now, &packet(knock, number), true, &mut completions);
        completions
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// At any time until the end, and with any number, that of an earlier packet too; after repeats and foreign packets.
    #[test]
    fn the_last_knock_completes_the_rule_that_a_source_almost_has(
        rules in any_rules(),
        packets in prop::collection::vec(any_packet(), 1..40),
        late in 0.0..1.0_f64,
        repeats in 0..3_usize,
        number in prop_oneof![0..3_u32, 100..u32::MAX],
    ) {
        let mut replayed = replay(&rules, &[]);
        for (sent, packet) in (1..).zip(&packets) {
            replayed.send(packet);
            let Some(almost) = replayed.engine.almost(replayed.now, SOURCE) else { continue };
            let mut twin = replay(&rules, &packets[..sent]);
            prop_assert!(twin.now <= almost.until);
            let is_it = |of: &LastKnock| (&of.rule, of.last, of.repeat) == (&almost.rule, almost.last, almost.repeat);
            prop_assert!(replayed.engine.last_knocks().iter().any(is_it));
            if let Some(repeat) = almost.repeat {
                for again in 0..u32::try_from(repeats).expect("few") {
                    twin.send(&(0, repeat, 90 + again));
                }
            }
            twin.send(&(0, Knock::tcp(50_000), 5));
            let left = almost.until.since(twin.now).mul_f64(late).as_millis();
            let completions = twin.send(&(u64::try_from(left).expect("short").saturating_sub(1), almost.last, number));
            let rules: Vec<_> = completions.into_iter().map(|completion| completion.rule).collect();
            prop_assert_eq!(rules, vec![almost.rule]);
        }
    }

    /// And where a new packet would complete one rule alone, the source almost had it, unless there is a reason.
    #[test]
    fn a_source_that_a_new_packet_lets_through_was_almost_through(
        packets in prop::collection::vec(any_packet(), 1..40),
    ) {
        let rules = [rule("0", &[10, 20, 30]), rule("1", &[20, 10, 40])];
        let mut replayed = replay(&rules, &[]);
        let mut completed = false;
        for (sent, packet) in (1..).zip(&packets) {
            completed |= !replayed.send(packet).is_empty();
            for last in [30, 40] {
                let mut twin = replay(&rules, &packets[..sent]);
                let completions = twin.send(&(0, Knock::tcp(last), 99));
                let was_sent = packets[..sent].iter().any(|packet| packet.1 == Knock::tcp(last));
                if !completions.is_empty() && !was_sent && !completed {
                    prop_assert!(replayed.engine.almost(replayed.now, SOURCE).is_some_and(|of| of.last.port == last));
                }
            }
        }
    }
}
