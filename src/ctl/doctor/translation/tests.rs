use serde_json::json;

use super::*;
use crate::ctl::doctor::table;

fn translation(from: u16, address: Option<&str>, port: Option<u16>) -> Translation {
    let address = address.map(|address| address.parse().expect("an address"));
    Translation { protocol: "tcp".to_owned(), from: vec![from], address, port, place: "there".to_owned() }
}

fn rule(expr: &Value) -> Value {
    json!({ "rule": { "family": "ip", "table": "nat", "chain": "pre", "handle": 7, "expr": expr } })
}

fn dport(port: &Value) -> Value {
    json!({ "match": { "op": "==", "left": { "payload": { "protocol": "tcp", "field": "dport" } }, "right": port } })
}

fn texts(ruleset: &Ruleset, known: Vec<Translation>, guarded: &[&str], listening: &[&str]) -> Vec<String> {
    let listening: Vec<String> = listening.iter().map(|&port| port.to_owned()).collect();
    let found = findings(ruleset, &Translations { known, unknown: None }, &table(guarded), &listening);
    found.into_iter().map(|finding| finding.text).collect()
}

#[test]
fn rules_of_nft_are_read_as_they_are_printed() {
    let of = |expr: Value| {
        let document = json!({ "nftables": [rule(&expr)] });
        of_nft(&Ruleset::new(&document).rules[0])
    };
    let read = of(json!([dport(&json!(8080)), { "dnat": { "addr": "172.17.0.2", "port": 80 } }]));
    let read = read.expect("a translation").expect("a readable target");
    assert_eq!((read.from, read.address, read.port), (vec![8080], Some([172, 17, 0, 2].into()), Some(80)));
    let read = of(json!([dport(&json!({ "set": [2222, 2223] })), { "redirect": { "port": 22 } }]));
    let read = read.expect("a translation").expect("a readable target");
    assert_eq!((read.from, read.address, read.port), (vec![2222, 2223], None, Some(22)));
    let map = json!([dport(&json!(80)), { "dnat": { "addr": { "map": { "key": {}, "data": {} } } } }]);
    assert!(of(map).expect("a translation").expect_err("a map").contains("handle 7"));
    assert!(of(json!([{ "dnat": { "addr": "172.17.0.2" } }])).expect("a translation").is_err(), "of every port");
    assert_eq!(of(json!([dport(&json!(80)), { "accept": null }])), None);
}

#[test]
fn rules_of_iptables_are_read_as_they_are_printed() {
    let text = "*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER ! -i docker0 -p udp -m udp --dport 53 -j DNAT --to-destination [fd00:d0c::2]:53
-A PREROUTING -p tcp -m multiport --dports 81,82 -j REDIRECT --to-ports 80
-A PREROUTING -p tcp -m tcp ! --dport 83 -j REDIRECT --to-ports 80
COMMIT";
    let all = of_iptables("iptables-save", text);
    let read: Vec<_> =
        all.iter().map(|one| (one.protocol.as_str(), one.from.as_slice(), one.address, one.port)).collect();
    let container6 = "fd00:d0c::2".parse().ok();
    assert_eq!(
        read,
        [
            ("tcp", &[8080][..], Some([172, 17, 0, 2].into()), Some(80)),
            ("udp", &[53], container6, Some(53)),
            ("tcp", &[81, 82], None, Some(80)),
        ]
    );
    assert!(all[0].place.contains("-A DOCKER ! -i docker0"), "{}", all[0].place);
}

#[test]
fn each_way_to_a_guarded_service_is_found_and_no_other() {
    let closed = Ruleset::new(&json!({ "nftables": [] }));
    let container = |from| translation(from, Some("172.17.0.2"), Some(80));
    // By another published port, and by the container's own address.
    let found = texts(&closed, vec![container(8080), container(8082)], &["8080/tcp"], &[]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("connect to 8082/tcp") && found[1].contains("neighbour"), "{found:?}");
    let other = translation(8082, Some("172.17.0.3"), Some(80));
    assert_eq!(texts(&closed, vec![container(8080), other], &["8080/tcp"], &[]).len(), 1);
    // A redirect to a guarded port does not bypass the gate: input judges it.
    let redirect = translation(2222, None, Some(22));
    assert_eq!(texts(&closed, vec![redirect], &["22/tcp"], &["22/tcp"]), [] as [String; 0]);
    // A guarded port that leads to a port which is not guarded, where other hosts can reach that one.
    let onward = || vec![translation(8080, None, Some(80))];
    assert!(texts(&closed, onward(), &["8080/tcp"], &["80/tcp"])[0].contains("80/tcp, which is not guarded"));
    assert_eq!(texts(&closed, onward(), &["8080/tcp"], &[]), [] as [String; 0]);
    assert_eq!(texts(&closed, onward(), &["8080/tcp", "80/tcp"], &["80/tcp"]), [] as [String; 0]);
}

#[test]
fn a_rule_that_drops_packets_to_the_container_closes_the_direct_way() {
    let drops = |right: Value| {
        let daddr = json!({ "payload": { "protocol": "ip", "field": "daddr" } });
        let condition = json!({ "match": { "op": "==", "left": daddr, "right": right } });
        Ruleset::new(&json!({ "nftables": [rule(&json!([condition, { "drop": null }]))] }))
    };
    let of = |ruleset| texts(&ruleset, vec![translation(8080, Some("172.17.0.2"), Some(80))], &["8080/tcp"], &[]);
    for right in [
        json!("172.17.0.2"),
        json!({ "prefix": { "addr": "172.17.0.0", "len": 16 } }),
        json!({ "set": ["172.17.0.9", { "prefix": { "addr": "172.17.0.0", "len": 24 } }] }),
    ] {
        assert_eq!(of(drops(right)), [] as [String; 0]);
    }
    for right in [json!("172.17.0.3"), json!({ "prefix": { "addr": "172.18.0.0", "len": 16 } }), json!("fd00::2")] {
        assert_eq!(of(drops(right)).len(), 1);
    }
}
