//! Notice of what others change.

mod support;

use knock_nft::{Event, IpVersion, Lifetime, Monitor, Notice, UserSets};
use knock_proto::Family;
use knock_testkit::{in_namespace, wait_until};
use support::{HOUR, element, key, made, many, nft, spec};

/// What there is to read, once there is something.
fn awaited(monitor: &mut Monitor) -> Vec<Event> {
    let mut events = Vec::new();
    wait_until("a notice", || {
        monitor.read(&mut events).expect("read");
        !events.is_empty()
    });
    events
}

/// What there is to read already: the kernel queues notices before the change is acknowledged.
fn present(monitor: &mut Monitor) -> Vec<Event> {
    let mut events = Vec::new();
    monitor.read(&mut events).expect("read");
    events
}

fn tables(events: &[Event]) -> Vec<(Family, &str)> {
    events
        .iter()
        .map(|event| match event {
            Event::Changed(Notice { family, table, actor }) => {
                assert_eq!(actor.name, "nft");
                assert!(actor.process_id > 0 && actor.to_string().starts_with("`nft` (process "));
                (*family, table.as_str())
            }
            Event::Overrun => panic!("no overrun"),
        })
        .collect()
}

#[test]
fn own_transactions_are_no_news() {
    in_namespace(|| {
        let mut monitor = Monitor::open().expect("opened");
        let mut table = made(spec());
        let mut sets = UserSets::open().expect("opened");
        // Changes before the port is known are reported: the caller has to read and drop them.
        assert!(!present(&mut monitor).is_empty());
        monitor.ignore_only(vec![table.port_id(), sets.port_id()]);
        table.grant(&[element("192.0.2.1", HOUR)]).expect("granted");
        table.revoke(&[key("192.0.2.1")]).expect("revoked");
        table.restore(&[]).expect("restored");
        assert_eq!(present(&mut monitor), []);

        nft("add table ip filter; add set ip filter s { type ipv4_addr; flags timeout; }");
        assert!(!awaited(&mut monitor).is_empty());
        let set = "ip filter s".parse().expect("a set");
        sets.inspect(&set, IpVersion::V4).expect("usable");
        sets.grant(&set, "192.0.2.1".parse().expect("an address"), "ssh", Lifetime::whole(HOUR), |_| true)
            .expect("granted");
        assert_eq!(present(&mut monitor), []);
    });
}

#[test]
fn a_change_by_another_program_is_reported_with_its_name() {
    in_namespace(|| {
        let mut monitor = Monitor::open().expect("opened");
        let mut table = made(spec());
        monitor.ignore_only(vec![table.port_id()]);
        drop(present(&mut monitor));
        table.grant(&[element("192.0.2.1", HOUR)]).expect("granted");

        nft("delete element inet knockd grants4 { 192.0.2.1 . tcp . 22 }");
        assert_eq!(tables(&awaited(&mut monitor)), [(Family::Inet, "knockd")]);

        nft("insert rule inet knockd gate accept; add chain inet knockd more; add table ip other; \
             add set ip other s { type ipv4_addr; }; add counter ip other c");
        assert_eq!(tables(&awaited(&mut monitor)), [(Family::Inet, "knockd"), (Family::Ip, "other")]);
        nft("add counter ip other d");
        assert_eq!(tables(&awaited(&mut monitor)), [(Family::Ip, "other")]);

        nft("flush ruleset");
        assert!(tables(&awaited(&mut monitor)).contains(&(Family::Inet, "knockd")));
        assert!(!table.intact().expect("read"));
    });
}

#[test]
fn too_many_changes_are_an_overrun_and_the_next_one_is_reported() {
    in_namespace(|| {
        let mut monitor = Monitor::open().expect("opened");
        let mut table = made(spec());
        // Enough for any queue that the kernel may have given.
        for _ in 0..4 {
            table.restore(&many(100_000, HOUR)).expect("restored");
        }
        let mut events = Vec::new();
        for _ in 0..1000 {
            monitor.read(&mut events).expect("read");
        }
        assert!(events.contains(&Event::Overrun));
        monitor.ignore_only(vec![table.port_id()]);
        nft("add table ip other");
        let events = awaited(&mut monitor);
        let told = events.iter().filter(|&event| *event != Event::Overrun).cloned().collect::<Vec<_>>();
        assert_eq!(tables(&told), [(Family::Ip, "other")], "and no change of our own is attributed to nft");
    });
}

#[test]
fn a_transaction_that_touches_very_many_things_is_an_overrun() {
    in_namespace(|| {
        let mut monitor = Monitor::open().expect("opened");
        let tables: Vec<String> = (0..1000).map(|index| format!("add table ip t{index}")).collect();
        nft(&tables.join("; "));
        let events = awaited(&mut monitor);
        assert!(events.contains(&Event::Overrun));
        assert!(events.len() <= 257, "bounded: {}", events.len());
    });
}

#[test]
fn a_port_that_is_not_named_again_is_ignored_no_longer() {
    in_namespace(|| {
        let mut monitor = Monitor::open().expect("opened");
        let mut table = made(spec());
        monitor.ignore_only(vec![table.port_id()]);
        drop(present(&mut monitor));
        monitor.ignore_only(Vec::new());
        table.grant(&[element("192.0.2.1", HOUR)]).expect("granted");
        assert!(matches!(awaited(&mut monitor)[..], [Event::Changed(_)]));
    });
}
