//! What ranges and doors cost a packet. Run it in a release build: `cargo test --release -p knock-nft --test cost -- --ignored
//! --nocapture`.

mod support;

use std::net::UdpSocket;
use std::process::Command;
use std::time::Instant;

use knock_nft::{Door, Doors, GrantKind, TableSpec};
use knock_proto::{Knock, Port, PortRange, Protocol, TcpFlags};
use knock_testkit::in_namespace;
use support::{HOUR, element, made, spec};

/// A port that is guarded by each configuration, and one that none guards.
const GUARDED: u16 = 51_820;
const FREE: u16 = 51_822;
const PACKETS: u32 = 20_000;
const ROUNDS: usize = 9;

fn with_ranges(count: u16) -> TableSpec {
    let range = |number: u16| PortRange { protocol: Protocol::Udp, first: number * 100, last: number * 100 + 50 };
    let ranges: Vec<PortRange> = (1..=count).map(range).collect();
    let guarded = [Port::udp(GUARDED).into()].into_iter().chain(ranges.iter().copied()).collect();
    let grants = ranges.into_iter().map(GrantKind::from).collect();
    TableSpec { guarded, grants, exempt_interfaces: Vec::new(), ..spec() }
}

/// The nanoseconds from sending a datagram to where it is dropped or waits for its reader: loopback carries it there at once.
fn nanoseconds(port: u16) -> f64 {
    let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let _service = UdpSocket::bind(("127.0.0.1", port)).expect("bound");
    let start = Instant::now();
    for _ in 0..PACKETS {
        client.send_to(b"x", ("127.0.0.1", port)).expect("sent");
    }
    start.elapsed().div_f64(f64::from(PACKETS)).as_secs_f64() * 1e9
}

#[test]
#[ignore = "a measurement"]
fn ranges_cost_a_packet_little() {
    in_namespace(|| {
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs").success());
        let counts = [0, 1, 16, 64];
        let mut times = vec![Vec::new(); counts.len()];
        for _ in 0..ROUNDS {
            for (times, &count) in times.iter_mut().zip(&counts) {
                let mut table = made(with_ranges(count));
                let addresses = (1..=50).map(|host| element(&format!("198.51.100.{host}"), HOUR));
                table.grant(&addresses.collect::<Vec<_>>()).expect("granted");
                times.push([nanoseconds(GUARDED), nanoseconds(FREE)]);
                table.remove().expect("removed");
            }
        }
        let median = |index: usize, port: usize| {
            let mut all: Vec<f64> = times[index].iter().map(|of| of[port]).collect();
            all.sort_by(f64::total_cmp);
            all[ROUNDS / 2]
        };
        for (index, count) in counts.iter().enumerate() {
            for (port, what) in ["dropped at a guarded port", "to a port that is not guarded"].iter().enumerate() {
                let (time, base) = (median(index, port), median(0, port));
                println!("{count} ranges, {what}: {time:.0} ns, {:.2} of none", time / base);
            }
        }
    });
}

/// A table that is owned, with so many doors, and three knock ports and their tripwires for each.
fn with_doors(count: u16) -> TableSpec {
    let door = |number: u16| Door {
        last: Knock::tcp(1000 + 9 * number),
        repeat: None,
        tcp_flags: TcpFlags::default(),
        targets: Vec::new(),
        interfaces: Vec::new(),
        opens: vec![Port::udp(GUARDED).into()],
        timeout: HOUR,
    };
    let watched = (1000..1000 + 9 * count).map(Knock::udp).collect();
    let doors = Doors { doors: (0..count).map(door).collect(), watched, grants: 65_536 };
    TableSpec { owner: true, doors, ..with_ranges(0) }
}

#[test]
#[ignore = "a measurement"]
fn doors_cost_a_packet_to_another_port_little() {
    in_namespace(|| {
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs").success());
        let counts = [0, 1, 250];
        let mut times = vec![Vec::new(); counts.len()];
        for _ in 0..5 * ROUNDS {
            for (times, &count) in times.iter_mut().zip(&counts) {
                let table = made(with_doors(count));
                assert_eq!(table.has_doors(), count > 0);
                times.push([nanoseconds(FREE), nanoseconds(1000)]);
                table.remove().expect("removed");
            }
        }
        for (count, times) in counts.iter().zip(&mut times) {
            for (port, what) in ["a port that is none of ours", "a knock port, where there is one"].iter().enumerate() {
                times.sort_by(|a, b| a[port].total_cmp(&b[port]));
                let quarter = |of: usize| times[times.len() * of / 4][port];
                println!(
                    "{count} doors, {what}: median {:.0} ns, quarters {:.0} and {:.0}",
                    quarter(2),
                    quarter(1),
                    quarter(3)
                );
            }
        }
    });
}
