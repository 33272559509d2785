//! Ranges of ports, and grants of every guarded port.

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use knock_nft::{Element, ElementKey, GrantKind, ManagedTable, TableSpec};
use knock_proto::{Access, Port, PortRange, Prefix, Protocol};
use knock_testkit::in_namespace;
use support::{HOUR, element, elements, made, nft, nft_text, set_up_after_another, spec};

const fn udp(first: u16, last: u16) -> PortRange {
    PortRange { protocol: Protocol::Udp, first, last }
}

const MOSH: PortRange = udp(60000, 61000);

/// A table that guards TCP 22 and the ranges, which can be granted, and with which every port can be.
fn spec_of(ranges: &[PortRange]) -> TableSpec {
    let guarded = [Port::tcp(22).into()].into_iter().chain(ranges.iter().copied()).collect();
    let grants = ranges.iter().map(|&range| range.into()).chain([Access::Any.into()]).collect();
    TableSpec { guarded, grants, exempt_interfaces: Vec::new(), ..spec() }
}

fn grant(address: &str, access: impl Into<Access>) -> Element {
    let key = ElementKey { access: access.into(), ..element(address, HOUR).key };
    Element { key, ..element(address, HOUR) }
}

fn accesses(table: &mut ManagedTable) -> Vec<String> {
    let listed = table.list().expect("listed").into_iter();
    let mut all: Vec<String> = listed.map(|element| format!("{} {}", element.key.prefix, element.key.access)).collect();
    all.sort_unstable();
    all
}

#[test]
fn nft_lists_a_table_with_ranges() {
    in_namespace(|| {
        let mut table =
            made(TableSpec { guarded: vec![MOSH, udp(500, 500), Port::tcp(22).into()], ..spec_of(&[MOSH]) });
        table.grant(&[grant("192.0.2.1", MOSH), grant("2001:db8::1", Access::Any)]).expect("granted");
        let listing = nft_text("list table inet knockd");
        for expected in [
            "set guarded {
                type inet_proto . inet_service
                flags interval
                elements = { tcp . 22,
                    udp . 500,
                    udp . 60000-61000 }
            }",
            "set grants4_any { type ipv4_addr flags timeout }",
            "set grants6_any { type ipv6_addr flags timeout elements = { 2001:db8::1 timeout 1h expires",
            "set grants4_udp_60000_61000 { type ipv4_addr flags timeout elements = { 192.0.2.1 timeout 1h expires",
            "chain gate {
                meta l4proto udp ct state established accept
                ip saddr . meta l4proto . th dport @grants4 accept
                ip6 saddr . meta l4proto . th dport @grants6 accept
                ip saddr @grants4_any accept
                ip6 saddr @grants6_any accept
                udp dport 60000-61000 ip saddr @grants4_udp_60000_61000 accept
                udp dport 60000-61000 ip6 saddr @grants6_udp_60000_61000 accept
                counter packets 0 bytes 0 drop
            }",
        ] {
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words(&listing).contains(&words(expected)), "{expected}\n{listing}");
        }
        let json = nft("list table inet knockd");
        assert!(json.contains(r#"{"concat": ["udp", {"range": [60000, 61000]}]}"#), "{json}");
    });
}

/// What reaches sockets at those UDP ports of this host, of what one client sends there.
fn arrive(address: IpAddr, ports: &[u16]) -> Vec<u16> {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip is installed");
    assert!(status.success());
    let sockets: Vec<UdpSocket> = ports.iter().map(|&port| UdpSocket::bind((address, port)).expect("bound")).collect();
    let client = UdpSocket::bind((address, 0)).expect("bound");
    for &port in ports {
        // Where the gate drops a datagram of this host, the sender hears nothing of it.
        client.send_to(b"hello", SocketAddr::new(address, port)).expect("sent");
    }
    // Loopback delivers before `send_to` returns.
    let received = |socket: &UdpSocket| {
        socket.set_nonblocking(true).expect("set");
        socket.recv_from(&mut [0; 16]).is_ok()
    };
    sockets.iter().zip(ports).filter(|(socket, _)| received(socket)).map(|(_, &port)| port).collect()
}

#[test]
fn a_range_opens_its_ports_to_granted_sources_alone_and_touches_no_other_port() {
    in_namespace(|| {
        let ports = [59999, 60000, 60500, 61000, 61001];
        let other = udp(60900, 60950);
        let mut table = made(spec_of(&[MOSH, other]));
        for address in ["127.0.0.1", "::1"] {
            let ip = address.parse().expect("an address");
            assert_eq!(arrive(ip, &ports), [59999, 61001], "a stranger");
            table.grant(&[grant(address, MOSH)]).expect("granted");
            assert_eq!(arrive(ip, &ports), ports);
            table.revoke(&[grant(address, MOSH).key]).expect("revoked");
            // Of overlapping ranges, each opens its own ports.
            table.grant(&[grant(address, other)]).expect("granted");
            assert_eq!(arrive(ip, &[60899, 60900, 60950, 60951]), [60900, 60950]);
            table.revoke(&[grant(address, other).key]).expect("revoked");
            // A single port in a range is another grant.
            table.grant(&[grant(address, Port::udp(60500))]).expect("granted");
            assert_eq!(arrive(ip, &ports), [59999, 60500, 61001]);
            table.revoke(&[grant(address, Port::udp(60500)).key]).expect("revoked");
            table.grant(&[grant(address, Access::Any)]).expect("granted");
            assert_eq!(arrive(ip, &ports), ports);
            table.revoke_all().expect("revoked");
            assert_eq!(arrive(ip, &ports), [59999, 61001]);
        }
    });
}

#[test]
fn a_grant_to_a_prefix_lets_in_its_addresses_and_no_others() {
    in_namespace(|| {
        let kind = |access: Access, prefix4, prefix6| GrantKind { access, prefix4, prefix6 };
        let grants = vec![kind(Port::udp(500).into(), 24, 64), kind(MOSH.into(), 24, 64), kind(Access::Any, 16, 48)];
        let guarded = vec![Port::udp(500).into(), MOSH];
        let mut table = made(TableSpec { guarded, grants, exempt_interfaces: Vec::new(), ..spec() });
        let listing = nft_text("list chain inet knockd gate");
        for expected in [
            "ip saddr & 255.255.255.0 . meta l4proto . th dport @grants4_24 accept",
            "ip6 saddr & ffff:ffff:ffff:ffff:: . meta l4proto . th dport @grants6_64 accept",
            "ip saddr & 255.255.0.0 == @grants4_16_any accept",
            "ip6 saddr & ffff:ffff:ffff:: == @grants6_48_any accept",
            "udp dport 60000-61000 ip saddr & 255.255.255.0 == @grants4_24_udp_60000_61000 accept",
        ] {
            assert!(listing.contains(expected), "{expected}\n{listing}");
        }
        for address in ["fd00:1:2:3::1/48", "fd00:1:2:3::2/48", "fd00:1:2:4::1/48", "fd00:1:3::1/48"] {
            let added = Command::new("ip").args(["addr", "add", address, "dev", "lo", "nodad"]).status();
            assert!(added.expect("ip is installed").success());
        }
        let all = [
            ("127.1.2.3", "127.1.2.200", "127.1.3.3", "127.2.2.3", 24, 16),
            ("fd00:1:2:3::1", "fd00:1:2:3::2", "fd00:1:2:4::1", "fd00:1:3::1", 64, 48),
        ];
        for (source, same, near, far, narrow, wide) in all {
            let [source, same, near, far] = [source, same, near, far].map(|text| text.parse::<IpAddr>().expect("it"));
            let open = |expected: [&[u16]; 4], what: &str| {
                for (address, expected) in [source, same, near, far].into_iter().zip(expected) {
                    assert_eq!(arrive(address, &[500, 60500]), expected, "{what}, {address}");
                }
            };
            let element = |access: Access, length| {
                let key = ElementKey { prefix: Prefix::new(source, length), access };
                Element { key, ..element("192.0.2.1", HOUR) }
            };
            let (all, none) = (&[500, 60500][..], &[][..]);
            open([none; 4], "strangers");
            for (access, length, expected) in [
                (Port::udp(500).into(), narrow, [&[500][..], &[500], none, none]),
                (MOSH.into(), narrow, [&[60500][..], &[60500], none, none]),
                (Access::Any, wide, [all, all, all, none]),
                (Port::udp(500).into(), 128, [&[500][..], none, none, none]),
            ] {
                let granted = element(access, length);
                table.grant(std::slice::from_ref(&granted)).expect("granted");
                open(expected, &granted.key.prefix.to_string());
                assert_eq!(table.revoke(&[granted.key]), Ok(vec![granted.key]));
            }
        }
        assert_eq!(table.intact(), Ok(true));
    });
}

#[test]
fn a_grant_is_one_element_however_wide_the_range() {
    in_namespace(|| {
        let mut table = made(spec_of(&[MOSH]));
        for host in 1..=65 {
            table.grant(&[grant(&format!("198.51.100.{host}"), MOSH)]).expect("granted");
            table.grant(&[grant(&format!("198.51.100.{host}"), MOSH)]).expect("extended");
        }
        assert_eq!(elements("grants4_udp_60000_61000").len(), 65);
        assert_eq!((table.list().expect("listed").len(), table.intact()), (65, Ok(true)));
    });
}

#[test]
fn a_table_with_ranges_is_adopted_with_its_grants_whatever_the_next_configuration() {
    in_namespace(|| {
        let grants = [grant("192.0.2.1", MOSH), grant("2001:db8::1", Access::Any), grant("192.0.2.2", Port::tcp(22))];
        let all = ["192.0.2.1 60000-61000/udp", "192.0.2.2 22/tcp", "2001:db8::1 any"];
        for owner in [false, true] {
            let mut table = made(TableSpec { owner, ..spec_of(&[MOSH]) });
            table.grant(&grants).expect("granted");
            drop(table);
            for (next, expected) in [
                (spec_of(&[MOSH]), &all[..]),
                // Another range beside it.
                (spec_of(&[MOSH, udp(1, 2)]), &all),
                // Other ports are guarded, and the grants of what remains go on.
                (TableSpec { guarded: vec![udp(1, 65535)], ..spec_of(&[MOSH]) }, &all),
                (TableSpec { grants: vec![Access::Any.into()], ..spec_of(&[]) }, &all[1..]),
                (spec(), &all[1..2]),
            ] {
                let (mut table, _) = set_up_after_another(&TableSpec { owner, ..next });
                assert!(table.is_adopted());
                assert_eq!(accesses(&mut table), expected);
                assert_eq!(table.intact(), Ok(true));
            }
            set_up_after_another(&TableSpec { owner, ..spec() }).0.remove().expect("removed");
        }
    });
}

#[test]
fn ranges_come_change_and_go_with_the_grants_that_the_configuration_wants() {
    in_namespace(|| {
        for owner in [false, true] {
            let mut table = made(TableSpec { owner, ..spec() });
            let apply = |table: &mut ManagedTable, ranges: &[PortRange], remove: &[Element], add: &[Element]| {
                let remove: Vec<ElementKey> = remove.iter().map(|element| element.key).collect();
                let spec = if ranges.is_empty() { spec() } else { spec_of(ranges) };
                table.apply(TableSpec { owner, ..spec }, &remove, add).expect("applied");
                assert_eq!(table.intact(), Ok(true));
                accesses(table)
            };
            let narrow = udp(60000, 60010);
            let (ssh, wide) = (grant("192.0.2.1", Port::tcp(22)), grant("192.0.2.1", MOSH));
            table.grant(std::slice::from_ref(&ssh)).expect("granted");
            // A range comes, overlaps, changes and goes.
            assert_eq!(
                apply(&mut table, &[MOSH], &[], std::slice::from_ref(&wide)),
                ["192.0.2.1 22/tcp", "192.0.2.1 60000-61000/udp"]
            );
            assert_eq!(apply(&mut table, &[MOSH, narrow], &[], &[]).len(), 2);
            assert_eq!(
                apply(&mut table, &[narrow], std::slice::from_ref(&wide), &[grant("192.0.2.1", narrow)]),
                ["192.0.2.1 22/tcp", "192.0.2.1 60000-60010/udp"]
            );
            assert_eq!(apply(&mut table, &[], &[grant("192.0.2.1", narrow)], &[]), ["192.0.2.1 22/tcp"]);
            table.remove().expect("removed");
        }
    });
}

#[test]
fn guarded_ranges_that_overlap_the_former_ones_are_replaced_in_place() {
    in_namespace(|| {
        let guarding = |ranges: &[PortRange]| TableSpec { guarded: ranges.to_vec(), ..spec_of(&[MOSH]) };
        let mut table = made(guarding(&[MOSH]));
        for ranges in [&[udp(60500, 61500)][..], &[udp(1, 65535)], &[udp(60000, 60100), udp(60100, 60200)], &[MOSH]] {
            table.apply(guarding(ranges), &[], &[]).expect("applied");
            assert_eq!(table.intact(), Ok(true), "{ranges:?}");
        }
    });
}

#[test]
fn a_change_of_a_guarded_range_or_of_a_set_by_others_is_seen_and_repaired() {
    in_namespace(|| {
        let mut table = made(spec_of(&[MOSH]));
        let grants = [grant("192.0.2.1", MOSH), grant("192.0.2.2", Access::Any)];
        table.grant(&grants).expect("granted");
        for change in [
            "flush set inet knockd guarded",
            "add element inet knockd guarded { udp . 1-2 }",
            "delete element inet knockd guarded { udp . 60000-61000 }",
            "flush chain inet knockd gate",
            "add set inet knockd grants4_udp_1_2 { type ipv4_addr; flags timeout; }",
            "flush chain inet knockd gate; delete set inet knockd grants4_udp_60000_61000",
            "delete table inet knockd",
        ] {
            nft(change);
            assert_eq!(table.intact(), Ok(false), "{change}");
            table.restore(&grants).expect("restored");
            assert_eq!(table.intact(), Ok(true), "{change}");
            assert_eq!(accesses(&mut table), ["192.0.2.1 60000-61000/udp", "192.0.2.2 any"]);
        }
    });
}

#[test]
fn a_configuration_without_ranges_has_the_table_that_it_always_had() {
    in_namespace(|| {
        let mut plain = made(TableSpec { guarded: vec![Port::tcp(22).into(), Port::tcp(23).into()], ..spec() });
        plain.grant(&[grant("192.0.2.1", Port::tcp(22))]).expect("granted");
        let sets: Vec<String> = support::objects("set").iter().map(|set| set["name"].to_string()).collect();
        assert_eq!(sets, ["\"guarded\"", "\"grants4\"", "\"grants6\""]);
        assert!(!nft_text("list set inet knockd guarded").contains("interval"));
        assert_eq!(elements("guarded").len(), 2, "neighbours are two elements");
        assert_eq!(plain.list().expect("listed")[0].timeout, Duration::from_secs(3600));
    });
}
