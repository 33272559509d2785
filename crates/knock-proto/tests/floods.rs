//! Real knocks while others fill the table of sources, with simulated time: 100,000 packets a second of all that an
//! attacker can know and send, and people who take a second between two knocks. An eighth of all that, so that it is
//! quick: of the places and of the packets.

use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Completion, Engine, Identity, Knock, Packet, Rule, RuleId, Settings, TcpFlags, Time};

const SCALE: u32 = 8;
/// As many as the configuration has by default, to scale.
const SOURCES: usize = 65_536 / SCALE as usize;
/// Between two packets of the flood.
const GAP: Duration = Duration::from_micros(10 * SCALE as u64);
/// Between the first knocks of two people.
const APART: Duration = Duration::from_millis(237);
/// The attacker knows the first rule to the last knock but one, or less of it, and nothing of the second.
const RULES: [[u16; 4]; 2] = [[1000, 2000, 3000, 4000], [5000, 6000, 7000, 8000]];
const PEOPLE: u32 = 20;
const ALL: usize = PEOPLE as usize;

fn engine() -> Engine {
    let rule = |ports: [u16; 4]| Rule {
        id: ports[0].to_string().into(),
        sequence: ports.map(Knock::tcp).to_vec(),
        timeout: Duration::from_secs(5),
        tcp_flags: TcpFlags::default(),
        targets: Vec::new(),
    };
    Engine::new(RULES.map(rule).to_vec(), &Settings { sources: SOURCES, tripwires: true, guarded: Vec::new() })
}

fn packet(source: IpAddr, port: u16, number: u32) -> Packet {
    Packet {
        source,
        destination: IpAddr::from([198, 51, 100, 1]),
        knock: Knock::tcp(port),
        tcp_flags: TcpFlags::SYN,
        identity: Identity { source_port: 50_000, number },
    }
}

/// A number that looks random (SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// How many of twenty people, whose knocks are `pause` apart, get in to the rule of that index while packets come from
/// `attacker`, of which the argument counts up.
fn knocks_that_open(
    rule: usize,
    pause: Duration,
    person: impl Fn(u32) -> IpAddr,
    attacker: impl Fn(u64) -> (IpAddr, u16),
) -> usize {
    let mut engine = engine();
    // The table is full before the first person comes.
    let start = Time::from_millis(2000);
    let mut knocks: Vec<(Time, IpAddr, u16)> = Vec::new();
    for number in 0..PEOPLE {
        for (position, port) in (0..).zip(RULES[rule]) {
            knocks.push((start.after(APART * number).after(pause * position), person(number), port));
        }
    }
    knocks.sort_unstable();
    let mut completions = Vec::new();
    let (mut now, mut sent) = (Time::from_millis(1), 0_u32);
    for (at, source, port) in knocks {
        while now < at {
            let (source, port) = attacker(sent.into());
            engine.handle(now, &packet(source, port, sent), true, &mut completions);
            (now, sent) = (now.after(GAP), sent + 1);
            if engine.next_silent().is_some_and(|due| due <= now) {
                engine.forget_silent(now);
            }
        }
        assert!(engine.sources() <= SOURCES);
        engine.handle(now, &packet(source, port, u32::from(port)), true, &mut completions);
    }
    assert!(engine.counters().evicted > 10_000, "the table was full: {:?}", engine.counters());
    let rule: RuleId = RULES[rule][0].to_string().into();
    let mut opened: Vec<_> =
        (0..PEOPLE).map(|number| Completion { rule: rule.clone(), source: person(number) }).collect();
    assert!(completions.iter().all(|completion| opened.contains(completion)), "the attacker does not get in");
    opened.retain(|completion| completions.contains(completion));
    opened.len()
}

const SECOND: Duration = Duration::from_secs(1);

/// People from IPv6 networks of their own and from IPv4 ones.
fn anybody(number: u32) -> IpAddr {
    let low = u8::try_from(number).expect("few people");
    match number % 2 {
        0 => [0x2001, 0xdb8, 0x7700 + u16::from(low), 1, 0, 0, 0, 1].into(),
        _ => [203, 0, low, 7].into(),
    }
}

/// An address in one /64 of 2001:db8:bad::/48.
fn in_one_link(number: u64) -> IpAddr {
    let [.., c, d] =
        [number >> 48, number >> 32, number >> 16, number].map(|part| u16::try_from(part & 0xffff).unwrap_or(0));
    [0x2001, 0xdb8, 0xbad, 0, 0, 0, c, d].into()
}

/// An address in any /64 of that /48.
fn in_one_site(number: u64) -> IpAddr {
    let part = |shift: u32| u16::try_from(mixed(number) >> shift & 0xffff).unwrap_or(0);
    [0x2001, 0xdb8, 0xbad, part(0), part(16), 0, 0, part(32)].into()
}

/// Any IPv4 address.
fn spoofed(number: u64) -> IpAddr {
    let [.., b, c, d] = mixed(number).to_be_bytes();
    [1 + (b & 0x7f), mixed(number).to_be_bytes()[0], c, d].into()
}

/// The packets of a flood of these ports, all from one address before the next comes.
fn sequence(ports: &'static [u16], address: fn(u64) -> IpAddr) -> impl Fn(u64) -> (IpAddr, u16) {
    let length = ports.len() as u64;
    move |number| (address(number / length), ports[usize::try_from(number % length).unwrap_or(0)])
}

#[test]
fn two_knocks_from_one_link_lock_nobody_out() {
    for rule in [0, 1] {
        assert_eq!(knocks_that_open(rule, SECOND, anybody, sequence(&[1000, 2000], in_one_link)), ALL, "rule {rule}");
    }
}

#[test]
fn one_two_or_three_knocks_from_a_whole_site_lock_nobody_out() {
    for known in [&[1000][..], &[1000, 2000], &[1000, 2000, 3000]] {
        for rule in [0, 1] {
            let opened = knocks_that_open(rule, SECOND, anybody, sequence(known, in_one_site));
            assert_eq!(opened, ALL, "rule {rule}, {known:?}");
        }
    }
}

#[test]
fn a_mix_of_first_and_second_knocks_of_both_rules_locks_nobody_out() {
    let mixed_knocks = |number: u64| {
        let ports: [&[u16]; 4] = [&[1000], &[1000, 2000], &[5000], &[5000, 6000]];
        // One address in turn does all of one kind, and the flood is a mix of the kinds.
        let kind = usize::try_from(mixed(number / 2) % 4).unwrap_or(0);
        let position = usize::try_from(number % 2).unwrap_or(0);
        (in_one_site(number / 2), ports[kind][position.min(ports[kind].len() - 1)])
    };
    for rule in [0, 1] {
        assert_eq!(knocks_that_open(rule, SECOND, anybody, mixed_knocks), ALL, "rule {rule}");
    }
}

#[test]
fn tripwires_after_first_knocks_lock_nobody_out() {
    assert_eq!(knocks_that_open(0, SECOND, anybody, sequence(&[1000, 1001], in_one_site)), ALL);
}

#[test]
fn one_link_of_a_site_does_not_lock_out_the_others() {
    let neighbour = |number: u32| {
        let link = u16::try_from(number + 1).expect("few people");
        IpAddr::from([0x2001, 0xdb8, 0xbad, link, 0, 0, 0, 1])
    };
    assert_eq!(knocks_that_open(0, SECOND, neighbour, sequence(&[1000, 2000], in_one_link)), ALL);
}

#[test]
fn forged_ipv4_sources_lock_out_nobody_with_ipv6_and_nobody_who_knocks_for_another_rule() {
    let with_ipv6 = |number: u32| anybody(2 * number);
    for known in [&[1000][..], &[1000, 2000]] {
        assert_eq!(knocks_that_open(0, SECOND, with_ipv6, sequence(known, spoofed)), ALL, "{known:?}");
        assert_eq!(knocks_that_open(1, SECOND, anybody, sequence(known, spoofed)), ALL, "{known:?}");
    }
}

#[test]
fn forged_ipv4_sources_leave_time_for_a_quick_knock_with_ipv4() {
    // 65,536 places shared by two levels, and at most 100,000 new sources a second: a third of a second.
    let with_ipv4 = |number: u32| anybody(2 * number + 1);
    let quick = Duration::from_millis(300);
    for known in [&[1000][..], &[1000, 2000], &[1000, 1000, 2000]] {
        assert_eq!(knocks_that_open(0, quick, with_ipv4, sequence(known, spoofed)), ALL, "{known:?}");
    }
}
