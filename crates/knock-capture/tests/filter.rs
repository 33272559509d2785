//! The filter program, run by an interpreter of classic BPF, against a plain statement of what it shall accept.

mod bpf;

use std::collections::BTreeSet;

use bpf::{ETH_P_IP, ETH_P_IPV6, Packet, run};
use knock_capture::filter::{INSTRUCTIONS_MAX, TRANSPORT_BYTES, WholeDatagrams};
use knock_capture::{FilterClass, FilterSpec, Program};
use knock_proto::{Knock, Protocol, TcpFlags};
use proptest::prelude::*;

/// What the program does, in words of its own: 0 drops, any other number is how many bytes are kept.
fn expected(spec: &FilterSpec, packet: &Packet) -> u32 {
    decide(spec, packet).unwrap_or(0)
}

fn decide(spec: &FilterSpec, packet: &Packet) -> Option<u32> {
    let wanted = |protocol: u8, offset: usize| -> Option<u32> {
        let protocol = Protocol::from_number(protocol)?;
        let flags = match protocol {
            Protocol::Tcp => Some(packet.byte(offset + 13)?),
            Protocol::Udp => None,
        };
        let knock = Knock { protocol, port: packet.half(offset + 2)? };
        let whole = spec.whole.as_ref().filter(|whole| protocol == Protocol::Udp && whole.ports.contains(&knock.port));
        if let Some(whole) = whole
            && whole.lengths.contains(&packet.half(offset + 4)?)
        {
            return Some(0xffff);
        }
        spec.classes
            .iter()
            .any(|class| class.ports.contains(&knock) && flags.is_none_or(|flags| class.tcp_flags.matches(flags)))
            .then(|| u32::try_from(offset).expect("a short packet") + TRANSPORT_BYTES)
    };
    let possible = |class: &FilterClass| {
        class
            .ports
            .iter()
            .any(|knock| knock.protocol == Protocol::Udp || (0..=u8::MAX).any(|flags| class.tcp_flags.matches(flags)))
    };
    let whole = spec.whole.as_ref().is_some_and(|whole| !whole.ports.is_empty());
    if packet.kind != 0 || !whole && !spec.classes.iter().any(possible) {
        return None;
    }
    if spec.interfaces.as_ref().is_some_and(|interfaces| !interfaces.contains(&packet.interface)) {
        return None;
    }
    if packet.tag.is_some_and(|tag| tag & 0xfff != 0) {
        return None;
    }
    match packet.protocol {
        ETH_P_IP => {
            let first = packet.byte(0)?;
            if first >> 4 != 4 || first & 0xf < 5 || packet.half(6)? & 0x1fff != 0 {
                return None;
            }
            if usize::from(packet.half(2)?) > packet.data.len() {
                return None;
            }
            wanted(packet.byte(9)?, usize::from(first & 0xf) * 4)
        }
        ETH_P_IPV6 => {
            if packet.byte(0)? >> 4 != 6 || usize::from(packet.half(4)?) + 40 > packet.data.len() {
                return None;
            }
            let mut offset = 40;
            let mut kind = packet.byte(6)?;
            for _ in 0..4 {
                let length = match kind {
                    0 | 43 | 60 => (usize::from(packet.byte(offset + 1)?) + 1) * 8,
                    44 if packet.half(offset + 2)? & 0xfff8 != 0 => return None,
                    44 => 8,
                    _ => return wanted(kind, offset),
                };
                kind = packet.byte(offset)?;
                offset += length;
            }
            if matches!(kind, 0 | 43 | 44 | 60) { Some(0xffff) } else { wanted(kind, offset) }
        }
        _ => None,
    }
}

/// Few distinct values, so that a hit is as likely as a miss.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 1000u16..1040, 1 => prop::sample::select(vec![0, 1, 0xffff, 0xfffe]), 1 => any::<u16>()]
}

fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![prop::sample::select(vec![0x02, 0x12, 0x10, 0x04, 0x29, 0]), any::<u8>()]
}

fn spec() -> impl Strategy<Value = FilterSpec> {
    let knock = (any::<bool>(), port()).prop_map(|(tcp, port)| if tcp { Knock::tcp(port) } else { Knock::udp(port) });
    let tcp_flags = prop_oneof![
        3 => Just(TcpFlags::FIRST_PACKET),
        2 => (flags(), flags()).prop_map(|(set, clear)| TcpFlags { set, clear: clear & !set }),
        1 => (flags(), flags()).prop_map(|(set, clear)| TcpFlags { set, clear }),
    ];
    let class = (tcp_flags, prop::collection::vec(knock, 0..60))
        .prop_map(|(tcp_flags, ports)| FilterClass { tcp_flags, ports });
    let interfaces = prop::option::of(prop::collection::vec(0..4_u32, 0..4));
    let whole = (prop::collection::vec(port(), 0..9), 5u16..15, 15u16..25)
        .prop_map(|(ports, least, most)| WholeDatagrams { ports, lengths: least..=most });
    (prop::collection::vec(class, 0..4), interfaces, prop::option::of(whole))
        .prop_map(|(classes, interfaces, whole)| FilterSpec { classes, interfaces, whole })
}

fn transport() -> impl Strategy<Value = (u8, Vec<u8>)> {
    (
        prop_oneof![5 => Just(6u8), 3 => Just(17), 1 => any::<u8>()],
        port(),
        flags(),
        prop_oneof![9 => 0u16..30, 1 => any::<u16>()],
        prop::collection::vec(any::<u8>(), 0..30),
    )
        .prop_map(|(protocol, port, flags, length, rest)| {
            let mut bytes = vec![0; 20];
            bytes[2..4].copy_from_slice(&port.to_be_bytes());
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
            bytes[13] = flags;
            bytes.extend(rest);
            (protocol, bytes)
        })
}

fn ipv4() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![5 => Just(0u16), 1 => Just(0x4000), 1 => Just(0x2000), 1 => any::<u16>()];
    let first = prop_oneof![6 => Just(0x45u8), 3 => 0x46u8..=0x4f, 1 => 0x40u8..0x45, 1 => any::<u8>()];
    (transport(), first, fragment, -3i32..3).prop_map(|((protocol, transport), first, fragment, lie)| {
        let mut bytes = vec![0; usize::from(first & 0xf).max(5) * 4];
        bytes[0] = first;
        bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        bytes[9] = protocol;
        bytes.extend(transport);
        let length = i32::try_from(bytes.len()).expect("short") + lie.min(1);
        bytes[2..4].copy_from_slice(&u16::try_from(length).expect("short").to_be_bytes());
        bytes
    })
}

fn ipv6() -> impl Strategy<Value = Vec<u8>> {
    let header = (
        prop::sample::select(vec![0u8, 43, 44, 60]),
        prop_oneof![4 => 0u8..3, 1 => any::<u8>()],
        prop_oneof![4 => Just(0u16), 1 => Just(1), 1 => any::<u16>()],
    );
    (transport(), prop::collection::vec(header, 0..7), prop_oneof![9 => Just(0x60u8), 1 => any::<u8>()], -3i32..3)
        .prop_map(|((protocol, transport), headers, first, lie)| {
            let mut bytes = vec![0; 40];
            bytes[0] = first;
            let mut next_at = 6;
            for (kind, words, fragment) in headers {
                bytes[next_at] = kind;
                next_at = bytes.len();
                let length = if kind == 44 { 8 } else { (usize::from(words) + 1) * 8 };
                bytes.resize(next_at + length, 0);
                bytes[next_at + 1] = words;
                if kind == 44 {
                    bytes[next_at + 2..next_at + 4].copy_from_slice(&fragment.to_be_bytes());
                }
            }
            bytes[next_at] = protocol;
            bytes.extend(transport);
            let length = i32::try_from(bytes.len()).expect("short") - 40 + lie.min(1);
            bytes[4..6].copy_from_slice(&u16::try_from(length).expect("short").to_be_bytes());
            bytes
        })
}

fn packet() -> impl Strategy<Value = Packet> {
    let data = prop_oneof![
        4 => ipv4().prop_map(|data| (ETH_P_IP, data)),
        4 => ipv6().prop_map(|data| (ETH_P_IPV6, data)),
        1 => (any::<u16>(), ipv4()),
        1 => (prop::sample::select(vec![ETH_P_IP, ETH_P_IPV6]), prop::collection::vec(any::<u8>(), 0..80)),
    ];
    let tag = prop_oneof![8 => Just(None), 1 => Just(Some(0x6000u16)), 1 => any::<u16>().prop_map(Some)];
    let kind = prop_oneof![9 => Just(0u32), 1 => 1u32..8];
    let cut = prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    (data, kind, tag, cut, 0..4_u32).prop_map(|((protocol, mut data), kind, tag, cut, interface)| {
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len() + 1));
        }
        Packet { kind, interface, tag, protocol, data }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_program_accepts_what_the_description_says(spec in spec(), packets in prop::collection::vec(packet(), 40)) {
        let program = Program::new(&spec);
        prop_assert!(!program.coarse());
        for packet in &packets {
            prop_assert_eq!(run(&program, packet).verdict, expected(&spec, packet), "{:?}", packet);
        }
    }

    #[test]
    fn a_coarse_program_is_short_and_accepts_no_less(spec in spec(), packets in prop::collection::vec(packet(), 40)) {
        let program = Program::new(&spec).to_coarse();
        prop_assert!(program.coarse() && program.instructions().len() < 200, "{}", program.instructions().len());
        for packet in &packets {
            prop_assert!(run(&program, packet).verdict >= expected(&spec, packet), "{:?}", packet);
        }
    }
}

proptest! {
    // Each case looks up all 65,536 ports.
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn every_port_of_a_large_set_is_found_and_no_other(seed in prop::collection::btree_set(any::<u16>(), 0..1200)) {
        let spec = ports(seed.iter().copied());
        let program = Program::new(&spec);
        prop_assert!(!program.coarse());
        for port in 0..=u16::MAX {
            prop_assert_eq!(run(&program, &syn(port)).verdict != 0, seed.contains(&port), "{}", port);
        }
    }
}

fn ports(ports: impl IntoIterator<Item = u16>) -> FilterSpec {
    let ports = ports.into_iter().map(Knock::tcp).collect();
    FilterSpec {
        classes: vec![FilterClass { tcp_flags: TcpFlags::FIRST_PACKET, ports }],
        interfaces: None,
        whole: None,
    }
}

fn syn(port: u16) -> Packet {
    let mut data = vec![0; 40];
    data[0] = 0x45;
    data[3] = 40;
    data[9] = 6;
    data[22..24].copy_from_slice(&port.to_be_bytes());
    data[33] = TcpFlags::SYN;
    Packet { kind: 0, interface: 1, tag: None, protocol: ETH_P_IP, data }
}

/// The longest path of any SYN through the program.
fn longest_path(program: &Program) -> usize {
    (0..=u16::MAX).map(|port| run(program, &syn(port)).steps).max().expect("ports")
}

#[test]
fn five_thousand_ports_cost_a_handful_of_comparisons_more_than_five() {
    let five = Program::new(&ports([1000, 2000, 3000, 4000, 5000]));
    // Knock ports with their two tripwires: 5,001 ports in 1,667 ranges.
    let knocks = (0..1667u16).map(|at| 1000 + at * 37);
    let spec = ports(knocks.flat_map(|port| [port - 1, port, port + 1]));
    assert_eq!(spec.classes[0].ports.len(), 5001);
    let many = Program::new(&spec);
    assert!(!many.coarse());
    assert!(many.instructions().len() <= INSTRUCTIONS_MAX, "{}", many.instructions().len());
    let (short, long) = (longest_path(&five), longest_path(&many));
    // 10 and 3,334 boundaries: 4 and 12 halvings, and a jump for each of the few that are far.
    assert!(long <= short + 16, "{short} and {long} instructions");
    // What is not a knock by its flags never comes to the ports.
    let mut data = syn(1000);
    data.data[33] = TcpFlags::ACK;
    assert!(run(&many, &data).steps <= run(&five, &data).steps + 1);
}

#[test]
fn ports_too_scattered_for_the_kernel_make_a_coarse_program_that_says_so() {
    let all: BTreeSet<u16> = (0..5000u16).map(|at| at.wrapping_mul(40503)).collect();
    assert_eq!(all.len(), 5000);
    let program = Program::new(&ports(all.iter().copied()));
    assert!(program.coarse());
    assert!(program.instructions().len() <= INSTRUCTIONS_MAX);
    assert!(all.iter().all(|&port| run(&program, &syn(port)).verdict != 0));
    assert!(longest_path(&program) < 60);
}

#[test]
fn more_classes_of_flags_than_a_program_holds_are_taken_together() {
    let classes = (0..=u8::MAX)
        .flat_map(|set| [0u8, 0x04, 0x14].map(|clear| TcpFlags { set: set | 0x02, clear: clear & !(set | 0x02) }))
        .zip(1000..)
        .map(|(tcp_flags, port)| FilterClass {
            tcp_flags,
            ports: (0..9).map(|at| Knock::tcp(port + at * 1000)).collect(),
        })
        .collect();
    let spec = FilterSpec { classes, interfaces: None, whole: None };
    let program = Program::new(&spec);
    assert!(program.coarse());
    let mut packet = syn(1000);
    assert_ne!(run(&program, &packet).verdict, 0);
    packet.data[33] = TcpFlags::ACK;
    assert_eq!(run(&program, &packet).verdict, 0, "all classes demand SYN");
}

#[test]
fn packets_pass_on_each_of_many_interfaces_and_on_no_other() {
    let program = Program::new(&ports([1000])).on((1000..1600).collect());
    assert!(!program.coarse());
    for interface in [1, 999, 1000, 1001, 1300, 1599, 1600] {
        let packet = Packet { interface, ..syn(1000) };
        assert_eq!(run(&program, &packet).verdict != 0, (1000..1600).contains(&interface), "{interface}");
        assert_eq!(run(&program.on(Vec::new()), &packet).verdict, 0);
    }
}

#[test]
fn a_datagram_of_another_length_is_a_knock_or_nothing() {
    let whole = WholeDatagrams { ports: vec![443, 2000], lengths: 224..=479 };
    let knocks = FilterClass { tcp_flags: TcpFlags::FIRST_PACKET, ports: vec![Knock::udp(2000)] };
    let spec = FilterSpec { classes: vec![knocks], interfaces: None, whole: Some(whole) };
    for (port, length, verdict) in [
        (443, 223, 0),
        (443, 224, 0xffff),
        (443, 479, 0xffff),
        (443, 480, 0),
        (2000, 8, 20 + TRANSPORT_BYTES),
        (2000, 300, 0xffff),
        (2001, 300, 0),
    ] {
        let mut packet = syn(port);
        packet.data[9] = 17;
        packet.data[24..26].copy_from_slice(&u16::to_be_bytes(length));
        assert_eq!(run(&Program::new(&spec), &packet).verdict, verdict, "port {port}, length {length}");
        packet.data[9] = 6;
        assert_eq!(run(&Program::new(&spec), &packet).verdict, 0, "TCP");
    }
}

#[test]
fn without_ports_nothing_passes() {
    let program = Program::new(&FilterSpec::default());
    for program in [&program, &program.to_coarse()] {
        assert_eq!(run(program, &syn(1000)).verdict, 0);
    }
}
