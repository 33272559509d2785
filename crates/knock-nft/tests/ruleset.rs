//! The managed table as nft shows it.

mod support;

use knock_proto::Knock;
use support::{HOUR, element, elements, in_namespace, made, nft_text, objects, spec};

#[test]
fn nft_lists_the_table_as_the_design_has_it() {
    in_namespace(|| {
        let mut spec = spec();
        spec.guarded = vec![Knock::tcp(22), Knock::udp(51820)];
        spec.exempt_interfaces = vec!["lo".to_owned(), "wg0".to_owned()];
        let mut table = made(spec);
        table.grant(&[element("192.0.2.1", HOUR), element("2001:db8::1", HOUR)]).expect("granted");
        let listing = nft_text("list table inet knockd");
        let lines: Vec<&str> = listing.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let expected = "table inet knockd {
comment \"managed by knockd, layout 1\"
set guarded {
type inet_proto . inet_service
elements = { … . …,
… . … }
}
set grants4 {
type ipv4_addr . inet_proto . inet_service
size 1000
flags timeout
elements = { 192.0.2.1 . tcp . 22 timeout 1h expires … comment \"ssh\" }
}
set grants6 {
type ipv6_addr . inet_proto . inet_service
size 1000
flags timeout
elements = { 2001:db8::1 . tcp . 22 timeout 1h expires … comment \"ssh\" }
}
chain gate {
tcp flags rst,ack accept
meta l4proto udp ct state established accept
iifname \"lo\" accept
iifname \"wg0\" accept
fib daddr type != local accept
ip saddr . meta l4proto . th dport @grants4 accept
ip6 saddr . meta l4proto . th dport @grants6 accept
counter packets 0 bytes 0 drop
}
chain prerouting {
type filter hook prerouting priority mangle; policy accept;
meta l4proto . th dport @guarded jump gate
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
        assert_eq!(objects("rule").len(), 7);
    });
}

#[test]
fn a_table_may_guard_more_ports_than_one_message_holds() {
    in_namespace(|| {
        let mut spec = spec();
        spec.guarded = (1..=1000).map(Knock::tcp).collect();
        spec.exempt_interfaces.clear();
        let mut table = made(spec);
        assert_eq!(elements("guarded").len(), 1000);
        assert!(table.intact().expect("read"));
    });
}
