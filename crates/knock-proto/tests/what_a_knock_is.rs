//! Each row of the table "What a knock is" in docs/matching.md.

use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Engine, Identity, Knock, Packet, Port, Rule, RuleId, Settings, TcpFlags, Time};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 8));
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

/// A rule that [`Bench::new`] gives its number as id.
fn rule(ports: &[u16]) -> Rule {
    Rule {
        id: RuleId::from(""),
        sequence: ports.iter().map(|&port| Knock::tcp(port)).collect(),
        timeout: Duration::from_secs(5),
        tcp_flags: TcpFlags::default(),
        targets: Vec::new(),
    }
}

/// A rule that is known by that number.
fn numbered(number: usize, ports: &[u16]) -> Rule {
    Rule { id: number.to_string().into(), ..rule(ports) }
}

fn settings() -> Settings {
    Settings { sources: 100, tripwires: true, guarded: vec![Port::tcp(22).into()] }
}

/// A client whose every packet is a new connection, one millisecond after the last.
struct Bench {
    engine: Engine,
    now: Time,
    next: u32,
}

impl Bench {
    fn new(rules: Vec<Rule>) -> Bench {
        let numbered = |(number, rule): (usize, Rule)| Rule { id: number.to_string().into(), ..rule };
        let rules = rules.into_iter().enumerate().map(numbered).collect();
        Bench { engine: Engine::new(rules, &settings()), now: Time::from_millis(1000), next: 0 }
    }

    fn packet(&mut self, source: IpAddr, knock: Knock) -> Packet {
        self.next += 1;
        Packet {
            source,
            destination: SERVER,
            knock,
            tcp_flags: TcpFlags::SYN,
            identity: Identity { source_port: 40_000, number: self.next },
        }
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now = self.now.after(Duration::from_millis(milliseconds));
    }

    fn send(&mut self, packet: &Packet) -> Vec<usize> {
        self.wait(1);
        self.send_to(packet, true)
    }

    fn send_to(&mut self, packet: &Packet, local: bool) -> Vec<usize> {
        let mut completions = Vec::new();
        self.engine.handle(self.now, packet, local, &mut completions);
        assert!(completions.iter().all(|completion| completion.source == packet.source));
        completions.iter().map(|completion| completion.rule.parse().expect("a number")).collect()
    }

    fn knock(&mut self, source: IpAddr, port: u16) -> Vec<usize> {
        let packet = self.packet(source, Knock::tcp(port));
        self.send(&packet)
    }

    /// The rules that these knocks complete, in their order.
    fn knocks(&mut self, ports: &[u16]) -> Vec<usize> {
        ports.iter().flat_map(|&port| self.knock(CLIENT, port)).collect()
    }
}

/// Rule 0 is 1000, 2000, 3000; rule 1 uses 5000.
fn opened(ports: &[u16]) -> bool {
    let completed = Bench::new(vec![rule(&[1000, 2000, 3000]), rule(&[5000, 6000])]).knocks(ports);
    assert!(completed.is_empty() || completed == [0], "{completed:?}");
    !completed.is_empty()
}

#[test]
fn the_sequence_opens() {
    assert!(opened(&[1000, 2000, 3000]));
}

#[test]
fn a_part_of_the_sequence_does_not_open() {
    assert!(!opened(&[1000, 2000]));
    assert!(!opened(&[2000, 3000]));
    assert!(!opened(&[1000, 3000]));
}

#[test]
fn a_repeat_of_the_same_port_counts_once() {
    assert!(opened(&[1000, 1000, 2000, 3000]));
    assert!(opened(&[1000, 2000, 2000, 3000]));
    assert!(opened(&[1000, 2000, 2000, 2000, 2000, 2000, 2000, 2000, 2000, 3000, 3000]));
}

#[test]
fn a_new_start_opens() {
    assert!(opened(&[1000, 2000, 1000, 2000, 3000]));
    assert!(opened(&[3000, 1000, 2000, 3000]));
}

#[test]
fn a_wrong_order_does_not_open() {
    assert!(!opened(&[1000, 3000, 2000, 3000]));
}

#[test]
fn another_rules_port_in_between_breaks_the_knock() {
    assert!(!opened(&[1000, 5000, 2000, 3000]));
}

#[test]
fn a_port_of_no_rule_is_invisible() {
    assert!(opened(&[1000, 443, 2000, 3000]));
}

#[test]
fn a_tripwire_breaks_the_knock() {
    for tripwire in [999, 1001, 1999, 2001, 2999, 3001] {
        assert!(!opened(&[1000, tripwire, 2000, 3000]), "{tripwire}");
        assert!(!opened(&[1000, 2000, tripwire, 3000]), "{tripwire}");
    }
}

#[test]
fn without_tripwires_the_neighbours_are_invisible() {
    let settings = Settings { tripwires: false, ..settings() };
    let mut bench = Bench::new(vec![]);
    bench.engine = Engine::new(vec![numbered(0, &[1000, 2000, 3000])], &settings);
    assert_eq!(bench.knocks(&[1000, 1001, 2000, 3000]), [0]);
}

#[test]
fn a_neighbour_that_is_guarded_or_a_knock_port_is_no_tripwire() {
    // 22 is guarded, 1001 is a knock port of the same rule.
    assert_eq!(Bench::new(vec![rule(&[23, 1000])]).knocks(&[23, 22, 1000]), [0]);
    assert_eq!(Bench::new(vec![rule(&[1000, 1001])]).knocks(&[1000, 1001]), [0]);
}

#[test]
fn a_retransmitted_syn_does_not_break_the_knock() {
    let ports = [1000, 2000, 3000];
    for again in 0..3 {
        for after in again..3 {
            let mut bench = Bench::new(vec![rule(&ports)]);
            let packets = ports.map(|port| bench.packet(CLIENT, Knock::tcp(port)));
            let mut completed = Vec::new();
            for (position, packet) in packets.iter().enumerate() {
                completed.extend(bench.send(packet));
                if position == after {
                    completed.extend(bench.send(&packets[again]));
                }
            }
            assert_eq!(completed, [0], "knock {again} again after knock {after}");
        }
    }
}

#[test]
fn a_duplicate_of_the_last_knock_does_not_open_again() {
    let mut bench = Bench::new(vec![rule(&[1000])]);
    let packet = bench.packet(CLIENT, Knock::tcp(1000));
    assert_eq!([&packet, &packet, &packet].iter().flat_map(|packet| bench.send(packet)).collect::<Vec<_>>(), [0]);
}

#[test]
fn a_retransmission_of_a_repeat_does_not_break_the_knock() {
    let mut bench = Bench::new(vec![rule(&[1000, 2000, 3000])]);
    let first = bench.packet(CLIENT, Knock::tcp(1000));
    let again = bench.packet(CLIENT, Knock::tcp(1000));
    let second = bench.packet(CLIENT, Knock::tcp(2000));
    let third = bench.packet(CLIENT, Knock::tcp(3000));
    let sent = [&first, &again, &second, &first, &again, &third];
    assert_eq!(sent.iter().flat_map(|packet| bench.send(packet)).collect::<Vec<_>>(), [0]);
}

#[test]
fn a_retransmitted_tripwire_breaks_nothing_a_second_time() {
    let mut bench = Bench::new(vec![rule(&[1000, 2000, 3000])]);
    bench.knock(CLIENT, 1000);
    let mistake = bench.packet(CLIENT, Knock::tcp(1001));
    bench.send(&mistake);
    bench.knocks(&[1000, 2000]);
    bench.send(&mistake);
    assert_eq!(bench.knocks(&[3000]), [0]);
}

#[test]
fn tripwires_touched_again_with_the_same_packets_break_the_knock_again() {
    // A scan may send the very same packets a second time; only the tripwire touched last is taken as retransmitted.
    let mut bench = Bench::new(vec![rule(&[1000, 2000, 3000])]);
    let scan = [1000, 1001, 1999, 2000, 2001, 3000].map(|port| bench.packet(CLIENT, Knock::tcp(port)));
    for pass in 0..4 {
        for packet in &scan {
            assert_eq!(bench.send(packet), [], "pass {pass}, {}", packet.knock);
        }
    }
}

#[test]
fn the_timeout_is_from_the_first_knock_to_the_last() {
    for (first_pause, second_pause, opens) in [(2500, 2497, true), (2500, 2600, false), (100, 6000, false)] {
        let mut bench = Bench::new(vec![rule(&[1000, 2000, 3000])]);
        bench.knock(CLIENT, 1000);
        bench.wait(first_pause);
        bench.knock(CLIENT, 2000);
        bench.wait(second_pause);
        assert_eq!(!bench.knock(CLIENT, 3000).is_empty(), opens, "{first_pause} {second_pause}");
    }
}

#[test]
fn a_late_repeat_of_the_first_knock_is_a_new_start_of_the_time() {
    let mut bench = Bench::new(vec![rule(&[1000, 2000, 3000])]);
    bench.knock(CLIENT, 1000);
    bench.wait(6000);
    assert_eq!(bench.knocks(&[1000, 2000, 3000]), [0]);
}

#[test]
fn another_source_has_no_effect() {
    let mut bench = Bench::new(vec![rule(&[1000, 2000, 3000])]);
    for port in [1000, 2000, 3000] {
        let opened = bench.knock(CLIENT, port);
        assert_eq!(opened.is_empty(), port != 3000);
        for wrong in [1001, 3000, 2000] {
            assert!(bench.knock(STRANGER, wrong).is_empty());
        }
    }
}

#[test]
fn a_sequence_that_repeats_a_port_counts_each_distinct_knock() {
    let rules = || vec![rule(&[1000, 1000, 2000])];
    assert_eq!(Bench::new(rules()).knocks(&[1000, 2000]), []);
    assert_eq!(Bench::new(rules()).knocks(&[1000, 1000, 2000]), [0]);
    assert_eq!(Bench::new(rules()).knocks(&[1000, 1000, 1000, 2000]), [0]);

    let mut bench = Bench::new(rules());
    let first = bench.packet(CLIENT, Knock::tcp(1000));
    assert!(bench.send(&first).is_empty() && bench.send(&first).is_empty());
    assert!(bench.knock(CLIENT, 2000).is_empty(), "a retransmission is no second knock");

    let middle = || vec![rule(&[1000, 2000, 2000, 3000])];
    assert_eq!(Bench::new(middle()).knocks(&[1000, 2000, 3000]), []);
    assert_eq!(Bench::new(middle()).knocks(&[1000, 2000, 2000, 3000]), [0]);
    assert_eq!(Bench::new(middle()).knocks(&[1000, 2000, 2000, 2000, 3000]), []);
}

#[test]
fn a_rule_is_completed_once_by_each_knock() {
    // The third packet must not be the first of the next knock as well.
    assert_eq!(Bench::new(vec![rule(&[1000, 2000, 1000])]).knocks(&[1000, 2000, 1000, 2000, 1000]), [0]);
    assert_eq!(Bench::new(vec![rule(&[1000, 1000])]).knocks(&[1000, 1000, 1000, 1000]), [0, 0]);
    assert_eq!(Bench::new(vec![rule(&[1000, 2000])]).knocks(&[1000, 2000, 1000, 2000]), [0, 0]);
    assert_eq!(Bench::new(vec![rule(&[1000])]).knocks(&[1000, 1000]), [0, 0]);
}

#[test]
fn prefixes_suffixes_and_overlaps_progress_side_by_side() {
    let rules = || vec![rule(&[1000, 2000, 3000]), rule(&[1000, 2000]), rule(&[2000, 3000]), rule(&[2000, 3000, 4000])];
    assert_eq!(Bench::new(rules()).knocks(&[1000, 2000, 3000, 4000]), [1, 0, 2, 3]);
    assert_eq!(Bench::new(rules()).knocks(&[2000, 3000]), [2]);
    assert_eq!(Bench::new(vec![rule(&[1, 5, 1, 5, 9])]).knocks(&[1, 5, 1, 5, 1, 5, 9]), [0]);
}

#[test]
fn udp_and_tcp_ports_are_different_knocks() {
    let mut udp = rule(&[1000, 2000]);
    udp.sequence[1] = Knock::udp(2000);
    let mut bench = Bench::new(vec![udp]);
    assert_eq!(bench.knocks(&[1000, 2000]), []);
    bench.knock(CLIENT, 1000);
    let second = bench.packet(CLIENT, Knock::udp(2000));
    assert_eq!(bench.send(&second), [0]);
}

#[test]
fn only_packets_to_this_host_count_unless_the_rule_has_a_target() {
    let mut bench = Bench::new(vec![rule(&[1000]), Rule { targets: vec![STRANGER], ..rule(&[1000]) }]);
    let mut packet = bench.packet(CLIENT, Knock::tcp(1000));
    assert_eq!(bench.send_to(&packet, false), []);
    packet.destination = STRANGER;
    assert_eq!(bench.send_to(&packet, false), [1]);
}

#[test]
fn only_segments_with_the_rules_flags_count() {
    let fin = TcpFlags { set: TcpFlags::FIN, clear: TcpFlags::SYN };
    let mut bench = Bench::new(vec![rule(&[1000]), Rule { tcp_flags: fin, ..rule(&[1000]) }]);
    for (flags, completed) in [
        (TcpFlags::SYN, vec![0]),
        (TcpFlags::SYN | TcpFlags::ACK, vec![]),
        (TcpFlags::SYN | TcpFlags::RST, vec![]),
        (TcpFlags::SYN | TcpFlags::FIN, vec![]),
        (TcpFlags::FIN | TcpFlags::ACK, vec![1]),
        (TcpFlags::ACK, vec![]),
    ] {
        let packet = Packet { tcp_flags: flags, ..bench.packet(CLIENT, Knock::tcp(1000)) };
        assert_eq!(bench.send(&packet), completed, "{flags:#x}");
    }
}

#[test]
fn ascending_and_descending_scans_open_nothing() {
    for sequence in [[1000, 2000, 3000], [3000, 2000, 1000], [3, 2, 65_535]] {
        let ascending = (0..=u16::MAX).collect::<Vec<_>>();
        let descending = (0..=u16::MAX).rev().collect::<Vec<_>>();
        for scan in [ascending, descending] {
            // Both directions are one after the other: nothing of a scan may help the next.
            let mut bench = Bench::new(vec![rule(&sequence)]);
            assert_eq!(bench.knocks(&scan), [], "{sequence:?}");
            assert_eq!(bench.knocks(&scan), [], "{sequence:?}");
        }
    }
}

#[test]
fn a_flood_of_first_knocks_does_not_evict_a_source_that_is_further() {
    let mut bench = Bench::new(vec![rule(&[1000, 2000, 3000])]);
    bench.knocks(&[1000, 2000]);
    for number in 0..10_000_u32 {
        bench.knock(IpAddr::from(number.to_be_bytes()), 1000);
    }
    assert_eq!(bench.engine.sources(), 100);
    // The flood took ten seconds of the bench's clock; the knock is late, but the source is still known.
    assert_eq!(bench.engine.counters().evicted, 9_901);
}

#[test]
fn a_reload_keeps_knocks_that_are_under_way() {
    let mut bench = Bench::new(vec![rule(&[1000, 2000, 3000])]);
    bench.knocks(&[1000, 2000]);
    let rules = vec![numbered(1, &[7000, 8000]), numbered(0, &[1000, 2000, 3000])];
    bench.engine.reconfigure(bench.now, rules, &settings());
    assert_eq!(bench.knocks(&[3000]), [0]);
}

#[test]
fn a_reload_that_adds_a_rule_for_other_segments_or_another_target_keeps_them_too() {
    let mut bench = Bench::new(vec![rule(&[1000, 2000, 3000])]);
    bench.knocks(&[1000, 2000]);
    let fin = TcpFlags { set: TcpFlags::FIN, clear: TcpFlags::ACK };
    let others = [
        Rule { tcp_flags: fin, ..numbered(1, &[7000, 8000]) },
        Rule { targets: vec![STRANGER], ..numbered(2, &[7001, 8001]) },
    ];
    let rules = others.into_iter().chain([numbered(0, &[1000, 2000, 3000])]).collect();
    bench.engine.reconfigure(bench.now, rules, &settings());
    assert_eq!(bench.knocks(&[3000]), [0]);
}

#[test]
fn a_rule_that_takes_the_place_of_another_counts_new_knocks_only() {
    let mut bench = Bench::new(vec![rule(&[1000, 2000, 3000])]);
    bench.knocks(&[1000, 2000]);
    bench.engine.reconfigure(bench.now, vec![numbered(1, &[1000, 2000, 3000])], &settings());
    assert_eq!(bench.knocks(&[3000]), []);
    assert_eq!(bench.knocks(&[1000, 2000, 3000]), [1]);
}

#[test]
fn a_reload_that_moves_a_rule_does_not_give_used_knocks_back() {
    let mut bench = Bench::new(vec![rule(&[1000, 2000, 1000]), rule(&[7000, 8000])]);
    assert_eq!(bench.knocks(&[1000, 2000, 1000]), [0]);
    let rules = vec![numbered(1, &[7000, 8000]), numbered(0, &[1000, 2000, 1000])];
    bench.engine.reconfigure(bench.now, rules, &settings());
    assert_eq!(bench.knocks(&[2000, 1000]), [], "the third knock was not the first of another one");
    assert_eq!(bench.knocks(&[2000, 1000]), [0]);
}

#[test]
fn a_changed_sequence_counts_new_knocks_only() {
    // A one-time sequence was used, and the next one is longer by a knock.
    let mut bench = Bench::new(vec![rule(&[9000]), rule(&[1000, 2000])]);
    assert_eq!(bench.knocks(&[1000, 2000]), [1]);
    let rules = vec![numbered(0, &[9000]), numbered(1, &[1000, 2000, 3000])];
    bench.engine.reconfigure(bench.now, rules, &settings());
    assert_eq!(bench.knocks(&[3000]), []);
}

#[test]
fn rules_that_one_knock_completes_are_completed_in_their_order() {
    let mut bench = Bench::new(vec![rule(&[2000]), rule(&[1000, 2000]), rule(&[2000])]);
    assert_eq!(bench.knocks(&[1000, 2000]), [1, 0, 2], "the longer one began first");
    let rules = vec![numbered(2, &[2000]), numbered(0, &[2000])];
    bench.engine.reconfigure(bench.now, rules, &settings());
    assert_eq!(bench.knocks(&[2000]), [2, 0]);
}

#[test]
fn a_rule_with_several_targets_counts_knocks_to_each_of_them_and_to_no_other() {
    let (one, other) = (IpAddr::from([198, 51, 100, 8]), IpAddr::from([198, 51, 100, 9]));
    let targets = |targets: &[IpAddr]| Rule { targets: targets.to_vec(), ..rule(&[1000, 2000]) };
    let both = Rule { id: "both".into(), ..targets(&[one, other]) };
    let mut engine = Engine::new(vec![both.clone(), Rule { id: "one".into(), ..targets(&[one]) }], &settings());
    let mut completed = |destinations: [IpAddr; 2], serial: u32| {
        let mut completions = Vec::new();
        for (destination, port) in destinations.into_iter().zip([1000, 2000]) {
            let identity = Identity { source_port: 40_000, number: serial + u32::from(port) };
            let packet = Packet { source: STRANGER, destination, knock: Knock::tcp(port), tcp_flags: 2, identity };
            engine.handle(Time::from_millis(serial.into()), &packet, true, &mut completions);
        }
        completions.into_iter().map(|completion| completion.rule.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(completed([one, one], 10_000), ["one", "both"]);
    assert_eq!(completed([one, other], 20_000), ["both"]);
    assert_eq!(completed([other, other], 30_000), ["both"]);
    assert_eq!(completed([other, [198, 51, 100, 1].into()], 40_000), [""; 0], "an address of this host, and no target");
}
