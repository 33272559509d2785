//! The managed table as nft shows it.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use knock_proto::Port;
use knock_testkit::in_namespace;
use support::{HOUR, element, elements, made, nft_text, objects, spec};

#[test]
fn nft_lists_the_table_as_the_design_has_it() {
    in_namespace(|| {
        let mut spec = spec();
        spec.guarded = vec![Port::tcp(22).into(), Port::udp(51820).into()];
        spec.exempt_interfaces = ["lo", "wg0", "br-*", "ppp+"].map(|name| name.parse().expect("a name")).to_vec();
        let mut table = made(spec);
        table.grant(&[element("192.0.2.1", HOUR), element("2001:db8::1", HOUR)]).expect("granted");
        let listing = nft_text("list table inet knockd");
        let lines: Vec<&str> = listing.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let expected = "table inet knockd {
comment \"managed by knockd, layout 2\"
set guarded {
type inet_proto . inet_service
elements = { … . …,
… . … }
}
set grants4 {
type ipv4_addr . inet_proto . inet_service
flags timeout
elements = { 192.0.2.1 . tcp . 22 timeout 1h expires … comment \"ssh\" }
}
set grants6 {
type ipv6_addr . inet_proto . inet_service
flags timeout
elements = { 2001:db8::1 . tcp . 22 timeout 1h expires … comment \"ssh\" }
}
chain gate {
meta l4proto udp ct state established accept
iifname \"lo\" accept
iifname \"wg0\" accept
iifname \"br-*\" accept
iifname \"ppp*\" accept
ip saddr . meta l4proto . th dport @grants4 accept
ip6 saddr . meta l4proto . th dport @grants6 accept
counter packets 0 bytes 0 drop
}
chain unreadable {
th dport >= 0 accept
meta l4proto != tcp meta l4proto != udp accept
frag frag-off != 0 accept
iifname \"lo\" accept
iifname \"wg0\" accept
iifname \"br-*\" accept
iifname \"ppp*\" accept
counter packets 0 bytes 0 drop
}
chain prerouting {
type filter hook prerouting priority mangle; policy accept;
ip ttl 1 meta l4proto . th dport @guarded fib daddr type local ip ttl set 2
ip6 hoplimit 1 meta l4proto . th dport @guarded fib daddr type local ip6 hoplimit set 2
tcp flags rst,ack accept
meta l4proto . th dport @guarded fib daddr type != unicast jump gate
}
chain input {
type filter hook input priority mangle; policy accept;
tcp flags rst,ack accept
meta l4proto . th dport @guarded jump gate
meta nfproto ipv6 jump unreadable
}
chain postrouting {
type filter hook postrouting priority srcnat + 1; policy accept;
ip ttl 63 tcp flags rst meta l4proto . tcp sport @guarded fib saddr type local ip ttl set 64
ip6 hoplimit 63 tcp flags rst meta l4proto . tcp sport @guarded fib saddr type local ip6 hoplimit set 64
}
}";
        let expected: Vec<&str> = expected.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{listing}");
        assert!(listing.contains("tcp . 22") && listing.contains("udp . 51820"), "{listing}");
        for (line, expected) in lines.iter().zip(expected) {
            match expected.split_once('…') {
                // What comes in no fixed order, or is a remaining time.
                Some((start, end)) => {
                    let end = end.rsplit('…').next().unwrap_or(end);
                    assert!(line.starts_with(start) && line.ends_with(end), "{line}");
                }
                None => assert_eq!(*line, expected, "{listing}"),
            }
        }
    });
}

#[test]
fn connection_tracking_is_asked_for_only_where_a_udp_port_is_guarded() {
    in_namespace(|| {
        let _table = made(spec());
        assert!(!nft_text("list table inet knockd").contains("ct state"));
        assert_eq!(objects("rule").len(), 18);
    });
}

#[test]
fn a_table_may_guard_more_ports_than_one_message_holds() {
    in_namespace(|| {
        let mut spec = spec();
        spec.guarded = (1..=1000).map(|port| Port::tcp(port).into()).collect();
        spec.exempt_interfaces.clear();
        let mut table = made(spec);
        assert_eq!(elements("guarded").len(), 1000);
        assert!(table.intact().expect("read"));
    });
}

/// How many packets the gate has dropped.
fn dropped() -> u64 {
    let rules = objects("rule");
    let counter = rules.iter().find_map(|rule| rule["expr"][0].get("counter").cloned()).expect("a counter");
    counter["packets"].as_u64().expect("a number")
}

/// Both versions' own address, and a loopback interface that is up.
fn own_addresses() -> [IpAddr; 2] {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip is installed");
    assert!(status.success());
    ["127.0.0.1", "::1"].map(|address| address.parse().expect("an address"))
}

#[test]
fn a_guarded_tcp_port_is_open_to_granted_sources_and_to_sessions_from_before() {
    in_namespace(|| {
        for address in own_addresses() {
            let listener = TcpListener::bind((address, 0)).expect("bound");
            let target = listener.local_addr().expect("an address");
            let mut before = TcpStream::connect(target).expect("not guarded yet");
            let (mut accepted, _) = listener.accept().expect("accepted");
            let mut guarding = spec();
            guarding.guarded = vec![Port::tcp(target.port()).into(), Port::udp(1).into()];
            guarding.exempt_interfaces.clear();
            let mut table = made(guarding.clone());

            let patience = Duration::from_millis(200);
            TcpStream::connect_timeout(&target, patience).expect_err("closed");
            let count = table.drop_count().expect("read").expect("the counter of the gate");
            assert!(dropped() > 0 && count.packets == dropped());
            before.write_all(b"goes on").expect("sent");
            let mut text = [0; 7];
            accepted.read_exact(&mut text).expect("the session goes on");

            let mut grant = element(&address.to_string(), HOUR);
            grant.key.access = Port::tcp(target.port()).into();
            table.grant(std::slice::from_ref(&grant)).expect("granted");
            TcpStream::connect_timeout(&target, Duration::from_secs(10)).expect("open");
            table.revoke(&[grant.key]).expect("revoked");
            TcpStream::connect_timeout(&target, patience).expect_err("closed again");

            guarding.exempt_interfaces = vec!["lo".parse().expect("a name")];
            table.apply(guarding, &[], &[]).expect("applied");
            let other = table.drop_count().expect("read").expect("the counter of the gate");
            assert!(other.counter != count.counter && other.packets == 0, "{other:?} after {count:?}");
            TcpStream::connect_timeout(&target, Duration::from_secs(10)).expect("exempt");
            table.remove().expect("removed");
        }
    });
}

#[test]
fn a_guarded_udp_port_takes_packets_of_granted_sources_alone() {
    in_namespace(|| {
        for address in own_addresses() {
            let service = UdpSocket::bind((address, 0)).expect("bound");
            service.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
            let target: SocketAddr = service.local_addr().expect("an address");
            let mut guarding = spec();
            guarding.guarded = vec![Port::udp(target.port()).into()];
            guarding.exempt_interfaces.clear();
            let mut table = made(guarding);
            let client = UdpSocket::bind((address, 0)).expect("bound");
            client.send_to(b"stranger", target).expect("sent");
            assert_eq!(dropped(), 1);

            let mut grant = element(&address.to_string(), HOUR);
            // The grant of the TCP port of the same number opens nothing.
            grant.key.access = Port::tcp(target.port()).into();
            table.grant(std::slice::from_ref(&grant)).expect("granted");
            client.send_to(b"wrong protocol", target).expect("sent");
            assert_eq!(dropped(), 2);
            grant.key.access = Port::udp(target.port()).into();
            table.grant(std::slice::from_ref(&grant)).expect("granted");
            client.send_to(b"granted", target).expect("sent");
            let mut text = [0; 64];
            let (length, _) = service.recv_from(&mut text).expect("received");
            assert_eq!(&text[..length], b"granted");
            table.remove().expect("removed");
        }
    });
}

#[test]
fn a_guarded_udp_port_is_closed_to_broadcasts_too() {
    in_namespace(|| {
        own_addresses();
        let service = UdpSocket::bind("0.0.0.0:0").expect("bound");
        service.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        let target = SocketAddr::from(([127, 255, 255, 255], service.local_addr().expect("an address").port()));
        let client = UdpSocket::bind("0.0.0.0:0").expect("bound");
        client.set_broadcast(true).expect("set");
        client.send_to(b"before", target).expect("sent");
        service.recv_from(&mut [0; 64]).expect("where nothing is guarded, the service gets it");

        let mut guarding = spec();
        guarding.guarded = vec![Port::udp(target.port()).into()];
        guarding.exempt_interfaces.clear();
        let _table = made(guarding);
        client.send_to(b"stranger", target).expect("sent");
        assert_eq!(dropped(), 1);
    });
}
