//! docs/studies/scan-odds.md: its tables against its formulas, and its formulas against the engine.
//!
//! The scans are random and their seeds fixed, so that each run makes the same ones.

use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Engine, Identity, Knock, Packet, Port, Rule, Settings, TcpFlags, Time};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/studies/scan-odds.md");
const TIMEOUT: Duration = Duration::from_secs(5);

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`; what the remainder favours is far below what these tests can see.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Rules of `knocks` ports each, none of which are neighbours: rule 0 has the sequence 1010, 1020, …
fn rules(count: u16, knocks: u16) -> Vec<Rule> {
    let sequence = |rule: u16| (1..=knocks).map(|knock| Knock::tcp(1000 * (rule + 1) + 10 * knock)).collect();
    (0..count)
        .map(|index| Rule {
            id: index.to_string().into(),
            sequence: sequence(index),
            timeout: TIMEOUT,
            tcp_flags: TcpFlags::default(),
            targets: Vec::new(),
        })
        .collect()
}

/// A host that is scanned again and again, each time from another address.
struct Host {
    engine: Engine,
    ports: Vec<Knock>,
    now: Time,
    scanner: u32,
    serial: u32,
}

impl Host {
    fn new(rules: Vec<Rule>, tripwires: bool) -> Host {
        let engine = Engine::new(rules, &Settings { sources: 100, tripwires, guarded: Vec::new() });
        // The ports that matter, and a few that don't.
        let mut ports = engine.watches()[0].ports.clone();
        ports.extend([Knock::tcp(22), Knock::tcp(443), Knock::tcp(40_000)]);
        Host { engine, ports, now: Time::from_millis(1), scanner: 0, serial: 0 }
    }

    fn another_scanner(&mut self) {
        self.scanner += 1;
        self.now = self.now.after(TIMEOUT).after(TIMEOUT);
    }

    /// Whether rule 0 is completed by a packet to that port; `number` is its sequence number.
    fn touch(&mut self, now: Time, knock: Knock, number: u32) -> bool {
        let packet = Packet {
            source: IpAddr::from(self.scanner.to_be_bytes()),
            destination: IpAddr::from([198, 51, 100, 1]),
            knock,
            tcp_flags: TcpFlags::SYN,
            identity: Identity { source_port: 40_000, number },
        };
        let mut completions = Vec::new();
        self.engine.handle(now, &packet, true, &mut completions);
        completions.iter().any(|completion| completion.rule == "0")
    }

    /// Whether a quick scan in this order completes rule 0, each packet another one.
    fn scan(&mut self, order: &[Knock]) -> bool {
        let mut opened = false;
        for &knock in order {
            self.now = self.now.after(Duration::from_micros(10));
            self.serial += 1;
            opened |= self.touch(self.now, knock, self.serial);
        }
        opened
    }
}

/// `m (m − 1) … (m − n + 2)`: one scan in how many opens, where `m` ports matter and `n` are knocked.
fn one_in(n: u64, m: u64) -> u64 {
    (m - n + 2..=m).product()
}

/// The share of scans within `τ` times the time of a scan: `p · P[Bin(m, τ) ≥ n − 1]`.
fn odds_within(n: u64, m: u64, share: f64) -> f64 {
    let choose = |k: u64| (0..k).map(|i| (m - i) as f64 / (i + 1) as f64).product::<f64>();
    let power = |base: f64, exponent: u64| (0..exponent).map(|_| base).product::<f64>();
    let at_least: f64 = (n - 1..=m).map(|k| choose(k) * power(share, k) * power(1.0 - share, m - k)).sum();
    at_least / one_in(n, m) as f64
}

/// Checks that so many of `trials` are what `odds` lets one expect, five standard deviations apart.
fn assert_close(opened: u32, trials: u32, odds: f64, what: &str) {
    let expected = f64::from(trials) * odds;
    let tolerance = 5.0 * (expected * (1.0 - odds)).sqrt();
    assert!(expected > 100.0, "{what}: {trials} trials are too few to measure {odds}");
    let found = f64::from(opened);
    assert!((found - expected).abs() <= tolerance, "{what}: {found} of {trials}, expected {expected} ± {tolerance}");
}

/// The cells of the table in the document that has this heading, without its first column.
fn table(first_heading: &str) -> Vec<(u64, Vec<u64>)> {
    let text = std::fs::read_to_string(DOCUMENT).expect("docs/studies/scan-odds.md is in the repository");
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let number = |cell: &str| -> u64 {
        let digits: String = cell.trim_start_matches("1 in ").chars().filter(|c| *c != ',').collect();
        let digits = digits.split(' ').next().unwrap_or_default();
        digits.parse().unwrap_or_else(|_| panic!("`{cell}` is no number"))
    };
    let rows = text.lines().skip_while(|line| !line.starts_with(first_heading)).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(cells);
    rows.map(|row| (number(&row[0]), row[1..].iter().map(|cell| number(cell)).collect())).collect()
}

#[test]
fn the_table_of_odds_is_what_the_formula_says() {
    let expected: Vec<_> = (1..=6).map(|n| (n, [n, 3 * n, 10 * n, 30 * n].map(|m| one_in(n, m)).to_vec())).collect();
    assert_eq!(table("| knocks | one rule | one rule, tripwires |"), expected);
}

#[test]
fn the_table_of_slow_scans_is_what_the_formula_says() {
    let rows = table("| scan takes |");
    assert_eq!(rows.len(), 5);
    for (timeouts, cells) in rows {
        let expected = [(3, 3), (3, 9), (5, 5), (5, 15)].map(|(n, m)| 1.0 / odds_within(n, m, 1.0 / timeouts as f64));
        for (cell, expected) in cells.iter().zip(expected) {
            // Three digits of it are given.
            assert!((*cell as f64 / expected - 1.0).abs() < 0.01, "{timeouts} timeouts: {cell}, expected {expected}");
        }
    }
}

#[test]
fn the_table_of_floods_is_what_the_formula_says() {
    let factorial = |n: u64| (1..=n).product::<u64>();
    let rows: Vec<_> = table("| knocks | packets |").into_iter().map(|(n, cells)| (n, cells[0])).collect();
    let expected: Vec<_> = (3..=8).map(|n: u64| (n, 32_768 * (1 << n) * factorial(n - 1))).collect();
    assert_eq!(rows, expected);
}

#[test]
fn a_random_scan_opens_as_often_as_the_formula_says() {
    for (count, knocks, tripwires, trials) in [
        (1, 2, false, 20_000),
        (1, 2, true, 20_000),
        (1, 3, false, 20_000),
        (1, 3, true, 60_000),
        (1, 4, false, 40_000),
        (10, 2, false, 20_000),
        (10, 2, true, 20_000),
    ] {
        let what = format!("{count} rules of {knocks} knocks, tripwires {tripwires}");
        let mut host = Host::new(rules(count, knocks), tripwires);
        let matter = u64::from(count * knocks) * if tripwires { 3 } else { 1 };
        assert_eq!(host.ports.len() as u64, matter + 3, "{what}");
        let mut random = Random(1);
        let mut opened = 0;
        for _ in 0..trials {
            host.another_scanner();
            let mut order = host.ports.clone();
            random.shuffle(&mut order);
            opened += u32::from(host.scan(&order));
        }
        assert_close(opened, trials, 1.0 / one_in(knocks.into(), matter) as f64, &what);
    }
}

#[test]
fn a_slow_scan_opens_as_often_as_the_formula_says() {
    for (knocks, tripwires, timeouts) in [(2, true, 2), (3, false, 2), (3, true, 2), (3, true, 5), (3, false, 12)] {
        let what = format!("{knocks} knocks, tripwires {tripwires}, a scan of {timeouts} timeouts");
        let mut host = Host::new(rules(1, knocks), tripwires);
        let mut random = Random(2);
        let (trials, mut opened) = (50_000, 0);
        for _ in 0..trials {
            host.another_scanner();
            let length = TIMEOUT.as_nanos() as usize * timeouts;
            let mut order: Vec<(usize, Knock)> = host.ports.iter().map(|&port| (random.below(length), port)).collect();
            order.sort_unstable();
            let start = host.now;
            for (offset, knock) in order {
                host.serial += 1;
                let now = start.after(Duration::from_nanos(offset as u64));
                opened += u32::from(host.touch(now, knock, host.serial));
            }
            host.now = start.after(Duration::from_nanos(length as u64));
        }
        let matter = u64::from(knocks) * if tripwires { 3 } else { 1 };
        assert_close(opened, trials, odds_within(knocks.into(), matter, 1.0 / timeouts as f64), &what);
    }
}

#[test]
fn passes_in_a_row_open_no_more_often_than_the_document_says() {
    let (knocks, trials) = (3, 40_000);
    for (tripwires, passes) in [(false, 2), (true, 2), (true, 4)] {
        let mut host = Host::new(rules(1, knocks), tripwires);
        let mut random = Random(3);
        let (mut completed, mut opened) = (0, 0);
        for _ in 0..trials {
            host.another_scanner();
            let mut any = false;
            for _ in 0..passes {
                let mut order = host.ports.clone();
                random.shuffle(&mut order);
                let opens = host.scan(&order);
                completed += u32::from(opens);
                any |= opens;
            }
            opened += u32::from(any);
        }
        let matter = knocks * if tripwires { 3 } else { 1 };
        let (n, m, r) = (f64::from(knocks), f64::from(matter), f64::from(passes));
        let once = 1.0 / one_in(knocks.into(), matter.into()) as f64;
        let most = f64::from(trials) * once * (r + (r - 1.0) * (n - 1.0) / (m - n + 1.0));
        let found = f64::from(completed);
        let what = format!("{passes} passes, tripwires {tripwires}: {found} of {trials}, at most {most} expected");
        assert!(found <= most + 5.0 * most.sqrt(), "{what}");
        assert!(f64::from(opened) >= f64::from(trials) * once, "{what}");
    }
}

#[test]
fn without_tripwires_two_passes_in_the_same_order_try_n_orders() {
    for knocks in [2, 3, 4] {
        let mut host = Host::new(rules(1, knocks), false);
        let mut random = Random(6);
        let (trials, mut opened) = (20_000, 0);
        for _ in 0..trials {
            host.another_scanner();
            let mut order = host.ports.clone();
            random.shuffle(&mut order);
            opened += u32::from(host.scan(&[order.clone(), order].concat()));
        }
        let n = u64::from(knocks);
        assert_close(opened, trials, n as f64 / one_in(n, n) as f64, &format!("{knocks} knocks"));
    }
}

#[test]
fn the_same_scan_sent_again_with_the_same_packets_meets_its_tripwires_again() {
    let (knocks, trials, passes) = (3, 40_000, 4);
    let mut host = Host::new(rules(1, knocks), true);
    let mut random = Random(4);
    let mut opened = 0;
    for _ in 0..trials {
        host.another_scanner();
        let mut order = host.ports.clone();
        random.shuffle(&mut order);
        let mut opens = false;
        for _ in 0..passes {
            for &knock in &order {
                host.now = host.now.after(Duration::from_micros(10));
                opens |= host.touch(host.now, knock, 7);
            }
        }
        opened += u32::from(opens);
    }
    // In a row the same orders make a ring: the knocks may begin at each of its m places, in place of m − n + 1.
    let ring = 9.0 / 7.0 / one_in(3, 9) as f64;
    assert_close(opened, trials, ring, "four times the same packets");
}

#[test]
fn a_scan_in_the_order_of_the_ports_passes_no_tripwire_the_second_time() {
    let mut rule = rules(1, 1);
    rule[0].sequence = [7000, 7002].map(Knock::tcp).to_vec();
    // All packets of a scan have the same number, or each has its own and comes again with it, as those of masscan do.
    let numbers: [fn(u16) -> u32; 2] = [|_| 7, |port| 7 * u32::from(port)];
    for number in numbers {
        for (first, last) in [(7000, 7002), (6999, 7002), (7000, 7003), (1, 9999)] {
            let mut host = Host::new(rule.clone(), true);
            for pass in 0..3 {
                host.now = host.now.after(Duration::from_secs(1));
                let opens = (first..=last).any(|port| host.touch(host.now, Knock::tcp(port), number(port)));
                assert!(!opens, "{first} to {last}, pass {pass}");
            }
        }
    }
}

#[test]
fn a_scan_of_one_protocol_never_completes_a_sequence_of_two() {
    let mut mixed = rules(1, 3);
    mixed[0].sequence[1] = Knock::udp(1020);
    let mut host = Host::new(mixed, false);
    let mut random = Random(5);
    for _ in 0..2_000 {
        host.another_scanner();
        let mut order: Vec<Knock> = (1..=2000).map(Knock::tcp).collect();
        random.shuffle(&mut order);
        assert!(!host.scan(&order));
    }
}

#[test]
fn a_sequence_between_neighbours_or_guarded_ports_alone_is_open_to_a_scan_in_its_order() {
    let sequences: [&[u16]; 4] = [&[7000, 7001, 7002], &[7002, 7001, 7000], &[21, 23], &[7000, 8000]];
    for (sequence, tripwires, ascending, descending) in [
        (sequences[0], true, true, false),
        (sequences[1], true, false, true),
        (sequences[2], true, true, false),
        (sequences[3], true, false, false),
        (sequences[3], false, true, false),
    ] {
        let mut rule = rules(1, 1);
        rule[0].sequence = sequence.iter().copied().map(Knock::tcp).collect();
        let settings = Settings { sources: 100, tripwires, guarded: vec![Port::tcp(22).into()] };
        let mut host = Host::new(rule.clone(), tripwires);
        host.engine = Engine::new(rule, &settings);
        let all: Vec<Knock> = (1..=u16::MAX).map(Knock::tcp).collect();
        assert_eq!(host.scan(&all), ascending, "{sequence:?} {tripwires}");
        host.another_scanner();
        let all: Vec<Knock> = all.into_iter().rev().collect();
        assert_eq!(host.scan(&all), descending, "{sequence:?} {tripwires}");
    }
}
