//! Very many rules cost a packet no more than a few, and are taken up in time that grows as they do.
//!
//! Times are compared with times of the same run, the least of several, with much room: what is to be seen is a cost
//! that grows with the number of rules.

use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Completion, Engine, Identity, Knock, Packet, Rule, Settings, TcpFlags, Time};
use rustix::time::{ClockId, clock_gettime};

const FEW: u32 = 1024;
const MANY: u32 = 16 * FEW;

fn target(rule: u32) -> IpAddr {
    IpAddr::from((0x0a00_0000 + rule).to_be_bytes())
}

/// A rule of three knocks, of which the first is another one for each 50,000 rules.
fn rule(number: u32, target: Option<IpAddr>) -> Rule {
    let first = u16::try_from(10_000 + number % 50_000).expect("a port");
    Rule {
        id: format!("{number} {target:?}").into(),
        sequence: [first, 2000, 3000].map(Knock::tcp).to_vec(),
        timeout: Duration::from_secs(5),
        tcp_flags: TcpFlags::default(),
        targets: target.into_iter().collect(),
    }
}

fn with_targets(rules: u32) -> Vec<Rule> {
    (0..rules).map(|number| rule(number, Some(target(number)))).collect()
}

fn without_targets(rules: u32) -> Vec<Rule> {
    (0..rules).map(|number| rule(number, None)).collect()
}

fn settings() -> Settings {
    Settings { sources: 65_536, tripwires: true, guarded: Vec::new() }
}

fn packet(source: u32, destination: IpAddr, knock: Knock) -> Packet {
    let IpAddr::V4(target) = destination else { panic!("{destination} is no IPv4 address") };
    // A number of its own for each target and port, as the packets of several connections have.
    let number = target.to_bits().wrapping_mul(0x9e37_79b1) ^ u32::from(knock.port);
    Packet {
        source: IpAddr::from((0xc612_0000 + source).to_be_bytes()),
        destination,
        knock,
        tcp_flags: TcpFlags::SYN,
        identity: Identity { source_port: 50_000, number },
    }
}

/// The least processor time of five that it takes: what else runs on the machine does not count.
fn least_time(mut what: impl FnMut()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a time after the start");
    let time = || {
        let start = now();
        what();
        now() - start
    };
    std::iter::repeat_with(time).take(5).min().unwrap_or_default()
}

#[test]
fn a_knock_at_one_of_very_many_targets_is_for_its_rule_alone() {
    // More than 2^16, so that no number is too small for them.
    const RULES: u32 = 70_000;
    let rules = with_targets(RULES);
    let mut engine = Engine::new(rules.clone(), &settings());
    let mut completions = Vec::new();
    for number in [0, 1, FEW, 65_534, 65_535, 65_536, RULES - 1] {
        for &knock in &rules[number as usize].sequence {
            engine.handle(Time::from_millis(1), &packet(1, target(number), knock), false, &mut completions);
            // The neighbours' targets are knocked at too, which is nothing to this rule.
            engine.handle(Time::from_millis(1), &packet(1, target(number ^ 2), knock), false, &mut completions);
        }
        let source = packet(1, target(number), Knock::tcp(1)).source;
        assert_eq!(completions, [Completion { rule: rules[number as usize].id.clone(), source }]);
        completions.clear();
    }
}

#[test]
fn a_packet_costs_no_more_with_very_many_targets() {
    let time = |rules: u32| {
        let mut engine = Engine::new(with_targets(rules), &settings());
        let mut completions = Vec::new();
        least_time(|| {
            for source in 0..2000 {
                let packet = packet(source, target(source * 7919 % rules), Knock::tcp(2000));
                engine.handle(Time::from_millis(1), &packet, false, &mut completions);
            }
        })
    };
    let (few, many) = (time(1), time(MANY));
    assert!(many < 10 * few, "2000 packets: {many:?} with {MANY} targets, {few:?} with one");
}

#[test]
fn the_time_to_take_up_rules_grows_as_they_do() {
    for rules in [with_targets, without_targets] {
        let time = |number: u32| {
            let rules = rules(number);
            least_time(|| {
                let mut engine = Engine::new(rules.clone(), &settings());
                let mut others = rules.clone();
                others.rotate_left(1);
                engine.reconfigure(Time::from_millis(1), others, &settings());
            })
        };
        let (few, many) = (time(FEW), time(MANY));
        // Sixteen times as much, and some for memory that is further away; a quadratic cost is 256 times as much.
        assert!(many < 80 * few, "{MANY} rules: {many:?}, {FEW} rules: {few:?}");
    }
}

#[test]
fn the_same_rules_in_another_order_go_on_with_the_knocks_that_are_under_way() {
    let (mut rules, settings) = (with_targets(3), settings());
    rules.push(rule(7, None));
    let mut engine = Engine::new(rules.clone(), &settings);
    let mut completions = Vec::new();
    for &knock in &rules[0].sequence[..2] {
        engine.handle(Time::from_millis(1), &packet(1, target(0), knock), false, &mut completions);
    }
    rules.reverse();
    engine.reconfigure(Time::from_millis(2), rules.clone(), &settings);
    engine.handle(Time::from_millis(3), &packet(1, target(0), rules[3].sequence[2]), false, &mut completions);
    let source = packet(1, target(0), Knock::tcp(1)).source;
    assert_eq!(completions, [Completion { rule: rules[3].id.clone(), source }]);
}
