//! A flood as fast as the machine sends it, while the table becomes another one again and again: no SYN gets through.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use knock_nft::{ManagedTable, TableSpec};
use knock_proto::{Port, PortRange};
use knock_testkit::{Delivered, Flood, Network, Packet};
use support::{made, set_up_after_another, spec};

const PORT: u16 = 22;
/// A port that nothing guards.
const FREE: u16 = 9;
/// The first source of the flood (RFC 2544).
const STRANGERS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0));
/// For how long the table changes. Without a shield it does so 700 times in that, and lets some SYNs in.
const TIME: Duration = Duration::from_secs(2);

/// A table that guards the port, and a range.
fn with_range(range: &str) -> TableSpec {
    let range: PortRange = range.parse().expect("a range");
    TableSpec { guarded: vec![Port::tcp(PORT).into(), range], grants: vec![range.into()], ..spec() }
}

/// Floods the port while `change` makes of the table what a specification says, each in turn.
fn assert_no_gap(specs: [TableSpec; 2], mut change: impl FnMut(ManagedTable, TableSpec) -> ManagedTable + Send) {
    let network = Network::new(1).expect("namespaces");
    let server = &network.server.namespace;
    let delivered = Delivered::watch(server).expect("raw sockets on the server");
    let wire = network.client().wire(&network.server).expect("a packet socket for the flood");
    let to = SocketAddr::new(network.server.v4.into(), PORT);
    let stop = Arc::new(AtomicBool::new(false));
    let (changes, flooded) = server
        .run(|| {
            let mut table = made(specs[0].clone());
            let stopped = Arc::clone(&stop);
            let flood = thread::spawn(move || {
                let example = Packet::syn(SocketAddr::new(STRANGERS, 1), to, 0);
                let flood = Flood { count: None, ..Flood::new(example, 1024, 0) };
                flood.run(&wire, &stopped).expect("the flood goes out").packets
            });
            let (start, mut changes) = (Instant::now(), 0);
            while start.elapsed() < TIME {
                for spec in [&specs[1], &specs[0]] {
                    table = change(table, spec.clone());
                    changes += 1;
                }
            }
            stop.store(true, Ordering::Relaxed);
            (changes, flood.join().expect("the flood ends"))
        })
        .expect("in the namespace");
    // What passes the gate waits here: all of it was delivered when the flood's thread had sent it.
    let got_in = || delivered.passed(|_, port| port == PORT).segments;
    let open = network.client().wire(&network.server).expect("a packet socket");
    open.send(&Packet::syn(SocketAddr::new(STRANGERS, 1), SocketAddr::new(to.ip(), FREE), 0)).expect("sent");
    knock_testkit::wait_until("a later SYN is there", || delivered.passed(|_, port| port == FREE).segments > 0);
    println!("{} SYNs of {flooded} got through while the table changed {changes} times", got_in());
    assert_eq!(got_in(), 0, "of {flooded} SYNs, while the table changed {changes} times");
}

fn applied(mut table: ManagedTable, spec: TableSpec) -> ManagedTable {
    table.apply(spec, &[], &[]).expect("applied");
    table
}

#[test]
fn a_table_that_is_made_again_for_its_owner_has_no_gap() {
    let range = with_range("1000-2000/udp");
    assert_no_gap([range.clone(), TableSpec { owner: true, ..range }], applied);
}

#[test]
fn a_first_range_comes_and_goes_without_a_gap() {
    assert_no_gap([spec(), with_range("1000-2000/udp")], applied);
}

#[test]
fn the_range_of_the_port_changes_without_a_gap() {
    assert_no_gap([with_range("20-24"), with_range("21-25")], applied);
}

#[test]
fn another_process_adopts_a_table_for_a_range_without_a_gap() {
    assert_no_gap([spec(), with_range("1000-2000/udp")], |table, spec| {
        drop(table);
        set_up_after_another(&spec).0
    });
}

#[test]
fn a_table_of_another_name_takes_its_place_without_a_gap() {
    let range = with_range("1000-2000/udp");
    assert_no_gap([range.clone(), TableSpec { name: "gate".parse().expect("a name"), ..range }], |table, spec| {
        let (next, _) = ManagedTable::set_up(spec).expect("set up");
        table.give_way().expect("removed");
        next
    });
}
