//! One packet counts once, however often its sender or the network sends it; packets that only look the same count
//! each.

use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Engine, Identity, Knock, Packet, Rule, Settings, TcpFlags, Time};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));
/// After the SYN, in seconds: when Linux retransmits it with up to seven retries.
const RETRIES: [u64; 7] = [1, 3, 7, 15, 31, 63, 127];

fn rule(number: usize, sequence: &[Knock], timeout: u64) -> Rule {
    Rule {
        id: number.to_string().into(),
        sequence: sequence.to_vec(),
        timeout: Duration::from_secs(timeout),
        tcp_flags: TcpFlags::default(),
        targets: Vec::new(),
    }
}

fn tcp(number: usize, ports: &[u16]) -> Rule {
    rule(number, &ports.iter().copied().map(Knock::tcp).collect::<Vec<_>>(), 5)
}

fn udp(number: usize, ports: &[u16]) -> Rule {
    rule(number, &ports.iter().copied().map(Knock::udp).collect::<Vec<_>>(), 5)
}

fn settings() -> Settings {
    Settings { sources: 100, tripwires: true, guarded: Vec::new() }
}

fn packet(source: IpAddr, knock: Knock, number: u32) -> Packet {
    let tcp_flags = if knock.protocol == knock_proto::Protocol::Tcp { TcpFlags::SYN } else { 0 };
    let identity = Identity { source_port: 40_000, number };
    Packet { source, destination: SERVER, knock, tcp_flags, identity }
}

fn syn(port: u16, number: u32) -> Packet {
    packet(CLIENT, Knock::tcp(port), number)
}

/// An engine that forgets when it is due, as the daemon lets it.
struct Bench {
    engine: Engine,
    now: Time,
}

impl Bench {
    fn new(rules: Vec<Rule>) -> Bench {
        Bench { engine: Engine::new(rules, &settings()), now: Time::from_millis(1000) }
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now = self.now.after(Duration::from_millis(milliseconds));
    }

    fn send(&mut self, packet: &Packet) -> Vec<usize> {
        if self.engine.next_silent().is_some_and(|due| due <= self.now) {
            self.engine.forget_silent(self.now);
        }
        let mut completions = Vec::new();
        self.engine.handle(self.now, packet, true, &mut completions);
        completions.iter().map(|completion| completion.rule.parse().expect("a number")).collect()
    }

    /// Each 10 milliseconds after the last.
    fn send_all(&mut self, packets: &[Packet]) -> Vec<usize> {
        let mut completed = Vec::new();
        for packet in packets {
            self.wait(10);
            completed.extend(self.send(packet));
        }
        completed
    }

    /// The packets again, each at its times after `sent`, when they were sent 10 milliseconds apart.
    fn retransmit(&mut self, sent: Time, packets: &[Packet]) -> Vec<usize> {
        let mut completed = Vec::new();
        for after in RETRIES {
            self.now = sent.after(Duration::from_secs(after));
            completed.extend(self.send_all(packets));
        }
        completed
    }
}

fn three() -> [Packet; 3] {
    [syn(1000, 11), syn(2000, 12), syn(3000, 13)]
}

#[test]
fn a_syn_completes_a_rule_of_one_port_once_however_often_it_is_retransmitted() {
    let mut bench = Bench::new(vec![rule(0, &[Knock::tcp(1000)], 1)]);
    let (sent, packets) = (bench.now, [syn(1000, 11)]);
    assert_eq!(bench.send_all(&packets), [0]);
    assert_eq!(bench.retransmit(sent, &packets), []);
    // Another connection is another knock.
    assert_eq!(bench.send_all(&[syn(1000, 12)]), [0]);
}

#[test]
fn retransmissions_of_three_knocks_complete_nothing_again() {
    for timeout in [1, 5, 60] {
        let mut bench = Bench::new(vec![rule(0, &[1000, 2000, 3000].map(Knock::tcp), timeout)]);
        let sent = bench.now;
        assert_eq!(bench.send_all(&three()), [0]);
        assert_eq!(bench.retransmit(sent, &three()), []);
    }
}

#[test]
fn retransmissions_of_a_broken_or_late_sequence_complete_nothing() {
    let mut broken = Bench::new(vec![tcp(0, &[1000, 2000, 3000]), tcp(1, &[5000, 6000])]);
    let [a, b, c] = three();
    for mistake in [syn(1001, 20), syn(5000, 21)] {
        let sent = broken.now;
        assert_eq!(broken.send_all(&[a, b, mistake, c]), []);
        assert_eq!(broken.retransmit(sent, &[a, b, c]), [], "{}", mistake.knock);
        broken.wait(200_000);
    }

    let mut late = Bench::new(vec![tcp(0, &[1000, 2000, 3000])]);
    let sent = late.now;
    assert_eq!(late.send_all(&[a, b]), []);
    late.wait(6000);
    assert_eq!(late.send(&c), []);
    late.wait(6000);
    assert_eq!(late.retransmit(sent.after(Duration::from_secs(6)), &[a, b, c]), []);
}

#[test]
fn late_retransmissions_of_a_failed_knock_do_not_break_the_next_one() {
    let mut bench = Bench::new(vec![tcp(0, &[1000, 2000, 3000])]);
    let [a, b, c] = three();
    let again = [syn(1000, 31), syn(2000, 32), syn(3000, 33)];
    assert_eq!(bench.send_all(&[a, b, syn(2999, 20), c]), []);
    assert_eq!(bench.send_all(&[again[0], again[1], a, b, c, again[2]]), [0]);
    assert_eq!(bench.send_all(&[a, b, c]), []);
}

#[test]
fn retransmissions_complete_nothing_after_a_tripwire() {
    let mut bench = Bench::new(vec![tcp(0, &[1000, 2000, 3000]), tcp(1, &[7000])]);
    let (sent, one) = (bench.now, syn(7000, 14));
    assert_eq!(bench.send_all(&three()), [0]);
    assert_eq!(bench.send_all(&[one]), [1]);
    assert_eq!(bench.send_all(&[syn(1001, 20), syn(7001, 21)]), []);
    assert_eq!(bench.retransmit(sent, &[three().as_slice(), &[one]].concat()), []);
}

#[test]
fn retransmissions_complete_nothing_after_a_reload() {
    let rules = || vec![tcp(0, &[1000, 2000, 3000]), tcp(1, &[7000])];
    let changed = || {
        let with_ece = TcpFlags { set: TcpFlags::SYN, clear: TcpFlags::ACK };
        rules().into_iter().map(|rule| Rule { tcp_flags: with_ece, ..rule }).collect::<Vec<_>>()
    };
    let others = Settings { sources: 50, ..settings() };
    for (rules_after, settings) in [(rules(), settings()), (rules(), others.clone()), (changed(), others)] {
        let mut bench = Bench::new(rules());
        let sent = bench.now;
        let packets = [three().as_slice(), &[syn(7000, 14)]].concat();
        assert_eq!(bench.send_all(&packets), [0, 1]);
        bench.engine.reconfigure(bench.now, rules_after, &settings);
        assert_eq!(bench.retransmit(sent, &packets), []);
    }
}

#[test]
fn retransmissions_complete_nothing_when_other_sources_have_filled_the_table() {
    let mut bench = Bench::new(vec![tcp(0, &[1000, 2000, 3000]), tcp(1, &[7000])]);
    let (sent, packets) = (bench.now, [three().as_slice(), &[syn(7000, 14)]].concat());
    assert_eq!(bench.send_all(&packets), [0, 1]);
    for number in 0..10_000_u32 {
        bench.send(&packet(IpAddr::from(number.to_be_bytes()), Knock::tcp(1000), number));
    }
    assert!(bench.engine.counters().evicted > 9000);
    assert_eq!(bench.retransmit(sent, &packets), []);
}

#[test]
fn a_packet_that_is_retransmitted_no_more_may_come_again() {
    let mut bench = Bench::new(vec![tcp(0, &[1000, 2000, 3000])]);
    assert_eq!(bench.send_all(&three()), [0]);
    bench.wait(130_001);
    assert_eq!(bench.send_all(&three()), [0]);
}

#[test]
fn the_same_packets_in_mirrored_rules_do_not_close_what_they_opened() {
    let mut bench = Bench::new(vec![tcp(0, &[1000, 2000, 3000]), tcp(1, &[3000, 2000, 1000])]);
    let [a, b, c] = three();
    assert_eq!(bench.send_all(&[a, b, c]), [0]);
    // They were lost in part, so that they come again one by one.
    assert_eq!(bench.send_all(&[c, b, a]), []);
    assert_eq!(bench.send_all(&[syn(3000, 31), syn(2000, 32), syn(1000, 33)]), [1]);
}

#[test]
fn packets_with_constant_numbers_open_and_close_and_open_again_at_once() {
    for number in [0, 1234] {
        let knock = |bench: &mut Bench, ports: &[u16]| {
            bench.send_all(&ports.iter().map(|&port| syn(port, number)).collect::<Vec<_>>())
        };
        let mut bench = Bench::new(vec![tcp(0, &[1000, 2000, 3000]), tcp(1, &[7000, 8000, 9000])]);
        for _ in 0..3 {
            assert_eq!(knock(&mut bench, &[1000, 2000, 3000]), [0], "number {number}");
            assert_eq!(knock(&mut bench, &[1000, 2000, 3000]), [0], "number {number}");
            assert_eq!(knock(&mut bench, &[7000, 8000, 9000]), [1], "number {number}");
        }

        let mut mirrored = Bench::new(vec![tcp(0, &[1000, 2000, 3000]), tcp(1, &[3000, 2000, 1000])]);
        for _ in 0..3 {
            assert_eq!(knock(&mut mirrored, &[1000, 2000, 3000]), [0], "number {number}, mirrored");
            assert_eq!(knock(&mut mirrored, &[3000, 2000, 1000]), [1], "number {number}, mirrored");
        }

        let mut one_port = Bench::new(vec![tcp(0, &[1000]), tcp(1, &[2000])]);
        for _ in 0..3 {
            assert_eq!(knock(&mut one_port, &[1000]), [0], "number {number}, one port");
            assert_eq!(knock(&mut one_port, &[2000]), [1], "number {number}, one port");
        }

        let mut repeats = Bench::new(vec![tcp(0, &[1000, 2000, 1000])]);
        assert_eq!(knock(&mut repeats, &[1000, 2000, 1000]), [0], "number {number}, a port twice");
    }
}

#[test]
fn constant_numbers_are_known_as_such_when_the_source_was_forgotten_for_others() {
    let mut bench = Bench::new(vec![tcp(0, &[1000]), tcp(1, &[2000]), tcp(2, &[3000, 4000])]);
    assert_eq!(bench.send_all(&[syn(1000, 1234)]), [0]);
    for number in 0..1000_u32 {
        bench.send(&packet(IpAddr::from(number.to_be_bytes()), Knock::tcp(3000), number));
    }
    assert_eq!(bench.send_all(&[syn(2000, 1234), syn(1000, 1234), syn(2000, 1234)]), [1, 0, 1]);
}

#[test]
fn a_copy_of_a_packet_without_a_number_is_one_only_at_once() {
    for knock in [Knock::tcp(1000), Knock::udp(1000)] {
        let mut bench = Bench::new(vec![rule(0, &[knock], 5)]);
        // Of UDP, 0x1234 is the checksum.
        let number = if knock == Knock::udp(1000) { 0x1234 } else { 0 };
        let packet = packet(CLIENT, knock, number);
        assert_eq!(bench.send_all(&[packet, packet, packet]), [0], "{knock}");
        bench.wait(100);
        assert_eq!(bench.send_all(&[packet]), [0], "{knock}");
    }
}

/// A datagram with equal contents: its checksum depends on the port.
fn datagram(port: u16, identification: u16) -> Packet {
    packet(CLIENT, Knock::udp(port), u32::from(identification) << 16 | u32::from(!port))
}

#[test]
fn equal_datagrams_of_one_socket_count_each() {
    // Without an identification, as with IPv6, and with one that does not change.
    for identification in [0, 1] {
        let knock = |bench: &mut Bench, ports: &[u16]| {
            bench.send_all(&ports.iter().map(|&port| datagram(port, identification)).collect::<Vec<_>>())
        };
        let mut bench = Bench::new(vec![udp(0, &[1000, 2000, 1000]), udp(1, &[4000, 5000, 4000, 5000])]);
        for _ in 0..3 {
            assert_eq!(knock(&mut bench, &[1000, 2000, 1000]), [0], "identification {identification}");
            assert_eq!(knock(&mut bench, &[4000, 5000, 4000, 5000]), [1], "identification {identification}");
        }
        let mut mirrored = Bench::new(vec![udp(0, &[1000, 2000, 3000]), udp(1, &[3000, 2000, 1000])]);
        for _ in 0..3 {
            assert_eq!(knock(&mut mirrored, &[1000, 2000, 3000]), [0], "identification {identification}");
            mirrored.wait(100);
            assert_eq!(knock(&mut mirrored, &[3000, 2000, 1000]), [1], "identification {identification}");
            mirrored.wait(100);
        }
    }
}

#[test]
fn a_datagram_that_is_captured_twice_counts_once() {
    for identification in [0, 1] {
        let mut bench = Bench::new(vec![udp(0, &[1000, 1000, 2000])]);
        let [first, second] = [datagram(1000, identification), datagram(2000, identification)];
        assert_eq!(bench.send_all(&[first, first, second]), [], "identification {identification}");
        bench.wait(10_000);
        assert_eq!(bench.send_all(&[first]), []);
        bench.wait(101);
        // A second knock, not a copy, where no identification says otherwise.
        let opens: &[usize] = if identification == 0 { &[0] } else { &[] };
        let mut completed = bench.send_all(&[first, second]);
        completed.truncate(1);
        assert_eq!(completed, opens, "identification {identification}");
    }
}

#[test]
fn a_copy_of_a_datagram_with_an_identification_is_known_between_other_knocks() {
    let mut bench = Bench::new(vec![udp(0, &[1000, 2000, 3000])]);
    let [a, b, c] = [datagram(1000, 7), datagram(2000, 8), datagram(3000, 9)];
    assert_eq!(bench.send_all(&[a, b, a, b, c, c]), [0]);
}

#[test]
fn what_is_remembered_is_forgotten_in_the_end_and_an_idle_daemon_wakes_seldom_for_it() {
    let mut bench = Bench::new(vec![tcp(0, &[1000, 2000, 3000])]);
    assert_eq!(bench.send_all(&three()), [0]);
    let mut wakes = 0;
    while let Some(due) = bench.engine.next_silent() {
        assert!(due > bench.now && due.since(bench.now) < Duration::from_secs(131));
        bench.engine.forget_silent(due);
        bench.now = due;
        wakes += 1;
        assert!(wakes <= 2, "the source and its packets");
    }
    assert_eq!(bench.engine.sources(), 0);
}
