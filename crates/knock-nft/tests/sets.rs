//! Sets of the administrator's.

mod support;

use std::net::IpAddr;
use std::time::Duration;

use knock_nft::{AddressElement, Error, IpVersion, Lifetime, Outcome, UnusableSet, UserSets};
use knock_proto::SetName;
use knock_testkit::{in_namespace, wait_until};
use support::{HOUR, MINUTE, nft};

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn set(text: &str) -> SetName {
    text.parse().expect("a set")
}

/// Grants as a rule whose elements bear any comment.
fn grant(
    sets: &mut UserSets,
    set: &SetName,
    address: IpAddr,
    comment: &str,
    lifetime: Lifetime,
) -> Result<Outcome, Error> {
    sets.grant(set, address, comment, lifetime, |_| true)
}

fn opened() -> UserSets {
    UserSets::open().expect("opened")
}

#[test]
fn a_set_of_each_family_that_can_hold_addresses_serves() {
    in_namespace(|| {
        let mut sets = opened();
        for family in ["ip", "ip6", "inet", "bridge", "netdev"] {
            nft(&format!(
                "add table {family} filter; add set {family} filter v4 {{ type ipv4_addr; flags timeout; }}; \
                 add set {family} filter v6 {{ type ipv6_addr; flags dynamic, timeout; timeout 1h; size 10; }}"
            ));
            let (v4, v6) = (set(&format!("{family} filter v4")), set(&format!("{family} filter v6")));
            sets.inspect(&v4, IpVersion::V4).expect("usable");
            sets.inspect(&v6, IpVersion::V6).expect("usable");
            for (set, granted) in [(&v4, address("192.0.2.1")), (&v6, address("2001:db8::1"))] {
                let lifetime = Lifetime { timeout: HOUR, remaining: MINUTE };
                assert_eq!(grant(&mut sets, set, granted, "ssh", lifetime), Ok(Outcome::Done));
                let listed = sets.list(set).expect("listed");
                assert_eq!((listed.len(), listed[0].address, listed[0].comment.as_str()), (1, granted, "ssh"));
                let lifetime = listed[0].lifetime.expect("not permanent");
                assert_eq!(lifetime.timeout, HOUR, "the set's own default too");
                assert!(lifetime.remaining <= MINUTE);

                assert_eq!(grant(&mut sets, set, granted, "again", Lifetime::whole(HOUR)), Ok(Outcome::Done));
                let listed = sets.list(set).expect("listed");
                assert_eq!((listed.len(), listed[0].comment.as_str()), (1, "again"));
                assert!(listed[0].lifetime.expect("not permanent").remaining > MINUTE, "started anew");

                assert_eq!(sets.revoke(set, &[granted], |comment| comment == "again"), Ok(vec![granted]));
                assert_eq!(sets.list(set).expect("listed"), []);
                assert_eq!(sets.revoke(set, &[granted], |_| true), Ok(vec![]), "there is none any more");
            }
        }
    });
}

#[test]
fn an_interval_set_is_refused_because_one_address_would_open_a_range() {
    in_namespace(|| {
        nft("add table inet filter; add set inet filter ranges { type ipv4_addr; flags interval, timeout; }");
        let mut sets = opened();
        let ranges = set("inet filter ranges");
        for error in [
            sets.inspect(&ranges, IpVersion::V4).expect_err("refused"),
            grant(&mut sets, &ranges, address("10.77.0.2"), "ssh", Lifetime::whole(HOUR)).expect_err("refused"),
        ] {
            assert!(matches!(error, Error::UnusableSet { reason: UnusableSet::Interval, .. }), "{error}");
            assert!(error.to_string().contains("set inet filter ranges cannot be used: it has the flag `interval`"));
        }
        assert_eq!(sets.list(&ranges).expect("listed"), []);
    });
}

#[test]
fn each_kind_of_set_that_cannot_serve_is_refused_with_its_reason() {
    in_namespace(|| {
        let mut sets = opened();
        nft("add table inet filter");
        for (name, definition, reason) in [
            (
                "other",
                "set inet filter other { type ipv6_addr; flags timeout; }",
                UnusableSet::KeyType { wanted: "ipv4_addr" },
            ),
            (
                "port",
                "set inet filter port { type inet_service; flags timeout; }",
                UnusableSet::KeyType { wanted: "ipv4_addr" },
            ),
            (
                "pairs",
                "set inet filter pairs { type ipv4_addr . inet_service; flags timeout; }",
                UnusableSet::KeyType { wanted: "ipv4_addr" },
            ),
            (
                "m1",
                "set inet filter m1 { typeof meta mark; flags timeout; }",
                UnusableSet::KeyType { wanted: "ipv4_addr" },
            ),
            ("lasting", "set inet filter lasting { type ipv4_addr; }", UnusableSet::NoTimeout),
            ("fixed", "set inet filter fixed { type ipv4_addr; flags constant; }", UnusableSet::Constant),
            ("m2", "map inet filter m2 { type ipv4_addr : mark; flags timeout; }", UnusableSet::Map),
        ] {
            nft(&format!("add {definition}"));
            let name = set(&format!("inet filter {name}"));
            let found = sets.inspect(&name, IpVersion::V4).expect_err("refused");
            assert_eq!(found, Error::UnusableSet { set: name.to_string(), reason });
            assert_eq!(grant(&mut sets, &name, address("192.0.2.1"), "ssh", Lifetime::whole(HOUR)), Err(found));
        }
    });
}

#[test]
fn a_set_or_table_that_is_not_there_is_a_distinct_error() {
    in_namespace(|| {
        let mut sets = opened();
        nft("add table inet filter; add set inet filter here { type ipv4_addr; flags timeout; }");
        for name in ["inet filter missing", "inet missing here", "ip filter here"] {
            let name = set(name);
            let error = sets.inspect(&name, IpVersion::V4).expect_err("missing");
            assert!(error.is_missing(), "{error}");
            assert!(error.to_string().starts_with(&format!("cannot read the definition of set {name}: No such file")));
            let lifetime = Lifetime::whole(HOUR);
            assert!(grant(&mut sets, &name, address("192.0.2.1"), "ssh", lifetime).expect_err("missing").is_missing());
            assert!(sets.list(&name).expect_err("missing").is_missing());
            assert_eq!(sets.revoke(&name, &[address("192.0.2.1")], |_| true), Ok(vec![]));
        }
        sets.inspect(&set("inet filter here"), IpVersion::V4).expect("the connection still works");
    });
}

#[test]
fn the_administrators_own_permanent_address_is_left_alone() {
    in_namespace(|| {
        nft("add table inet filter; add set inet filter allowed { type ipv4_addr; flags timeout; }; \
             add element inet filter allowed { 192.0.2.1 comment \"office\" }");
        let mut sets = opened();
        let allowed = set("inet filter allowed");
        let office = address("192.0.2.1");
        assert_eq!(grant(&mut sets, &allowed, office, "ssh", Lifetime::whole(MINUTE)), Ok(Outcome::Permanent));
        assert_eq!(sets.revoke(&allowed, &[office], |_| true), Ok(vec![]));
        let expected = AddressElement { address: office, comment: "office".to_owned(), lifetime: None };
        assert_eq!(sets.list(&allowed), Ok(vec![expected]));
    });
}

#[test]
fn the_administrators_element_that_lasts_longer_is_left_alone_and_a_shorter_one_is_extended() {
    in_namespace(|| {
        nft("add table inet filter; add set inet filter allowed { type ipv4_addr; flags timeout; timeout 2h; }; \
             add element inet filter allowed { 192.0.2.1 timeout 1d comment \"office\", 192.0.2.2, \
             192.0.2.3 timeout 1m, 192.0.2.4 timeout 1d comment \"ssh\" }");
        let mut sets = opened();
        let allowed = set("inet filter allowed");
        let is_ours = |comment: &str| comment == "ssh";
        for (last, outcome, comment, hours) in [
            (1, Outcome::LastsLonger, "office", 24),
            (2, Outcome::LastsLonger, "", 2),
            (3, Outcome::Done, "ssh", 1),
            (4, Outcome::Done, "ssh", 1),
        ] {
            let address = IpAddr::from([192, 0, 2, last]);
            assert_eq!(sets.grant(&allowed, address, "ssh", Lifetime::whole(HOUR), is_ours), Ok(outcome), "{address}");
            let listed = sets.list(&allowed).expect("listed");
            let element = listed.iter().find(|element| element.address == address).expect("it is there");
            let timeout = element.lifetime.map(|lifetime| lifetime.timeout);
            assert_eq!((element.comment.as_str(), timeout), (comment, Some(hours * HOUR)), "{address}");
        }
    });
}

#[test]
fn of_the_administrators_elements_only_those_with_a_comment_of_ours_are_deleted() {
    in_namespace(|| {
        nft("add table inet filter; add set inet filter allowed { type ipv4_addr; flags timeout; }; \
             add element inet filter allowed { 192.0.2.1 timeout 1h comment \"ssh\", 192.0.2.2 timeout 1h, \
             192.0.2.3 timeout 1h comment \"office\", 192.0.2.4 comment \"ssh\" }");
        let mut sets = opened();
        let allowed = set("inet filter allowed");
        let addresses: Vec<IpAddr> = (0..=200).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        let revoked = sets.revoke(&allowed, &addresses, |comment| comment == "ssh");
        assert_eq!(revoked, Ok(vec![address("192.0.2.1")]));
        assert_eq!(sets.list(&allowed).expect("listed").len(), 3);
    });
}

#[test]
fn a_full_user_set_keeps_its_elements() {
    in_namespace(|| {
        nft("add table inet filter; add set inet filter one { type ipv4_addr; flags timeout; size 1; }");
        let mut sets = opened();
        let one = set("inet filter one");
        assert_eq!(grant(&mut sets, &one, address("192.0.2.1"), "ssh", Lifetime::whole(HOUR)), Ok(Outcome::Done));
        let error = grant(&mut sets, &one, address("192.0.2.2"), "ssh", Lifetime::whole(HOUR)).expect_err("full");
        assert!(error.is_full(), "{error}");
        assert_eq!(grant(&mut sets, &one, address("192.0.2.1"), "ssh", Lifetime::whole(HOUR)), Ok(Outcome::Done));
        assert_eq!(sets.list(&one).expect("listed").len(), 1);
    });
}

#[test]
fn an_address_in_a_set_expires_by_itself() {
    in_namespace(|| {
        nft("add table ip filter; add set ip filter s { type ipv4_addr; flags timeout; }");
        let mut sets = opened();
        let name = set("ip filter s");
        let lifetime = Lifetime { timeout: HOUR, remaining: Duration::from_millis(100) };
        grant(&mut sets, &name, address("192.0.2.1"), "ssh", lifetime).expect("granted");
        wait_until("it expires", || sets.list(&name).expect("listed").is_empty());
    });
}
