//! The managed table set up, adopted, rebuilt, refused, restored and removed.

mod support;

use std::time::Duration;

use knock_nft::{Element, Error, ManagedTable, TableSpec};
use knock_proto::{Port, PortRange};
use knock_testkit::in_namespace;
use rustix::time::{ClockId, clock_gettime};
use support::{HOUR, element, elements, key, made, many, nft, nft_text, objects, set_up_after_another, spec, try_nft};

/// The grants in the order of their addresses.
fn sorted(mut grants: Vec<Element>) -> Vec<Element> {
    grants.sort_by_key(|grant| grant.key);
    grants
}

fn rule_count() -> usize {
    objects("rule").len()
}

#[test]
fn a_table_of_an_earlier_process_is_adopted_with_its_grants_and_their_remaining_time() {
    in_namespace(|| {
        let mut first = made(spec());
        let mut half = element("192.0.2.1", HOUR);
        half.remaining = HOUR / 2;
        first.grant(&[half, element("2001:db8::1", HOUR)]).expect("granted");
        let handle = objects("table")[0]["handle"].clone();
        drop(first);

        let mut other = spec();
        other.guarded = vec![Port::tcp(80).into(), Port::udp(53).into()];
        other.exempt_interfaces.clear();
        let (mut table, adopted) = ManagedTable::set_up(other).expect("adopted");
        let adopted = sorted(adopted);
        assert_eq!(adopted.len(), 2);
        assert_eq!((adopted[0].key, adopted[0].comment.as_str(), adopted[0].timeout), (key("192.0.2.1"), "ssh", HOUR));
        assert!(adopted[0].remaining <= HOUR / 2 && adopted[0].remaining > HOUR / 2 - Duration::from_secs(30));
        assert!(adopted[1].remaining > HOUR / 2);
        assert_eq!(objects("table")[0]["handle"], handle, "not rebuilt");
        assert_eq!(elements("guarded").len(), 2);
        assert_eq!(rule_count(), 17, "the old rules are gone");
        assert!(table.intact().expect("read"));
        let (mut kept, mut listed) = (adopted, sorted(table.list().expect("listed")));
        for grant in kept.iter_mut().chain(&mut listed) {
            grant.remaining = Duration::ZERO;
        }
        assert_eq!(kept, listed);
    });
}

#[test]
fn a_table_of_another_layout_of_knockd_is_rebuilt() {
    in_namespace(|| {
        nft("table inet knockd {
            comment \"managed by knockd, layout 1\"
            set guarded { type inet_proto . inet_service; elements = { tcp . 22 }; }
            set grants4 {
                type ipv4_addr . inet_proto . inet_service; size 1000; flags timeout
                elements = { 192.0.2.1 . tcp . 22 timeout 1h comment \"ssh\" }
            }
            set grants6 { type ipv6_addr . inet_proto . inet_service; size 1000; flags timeout; }
            chain gate { ip saddr . meta l4proto . th dport @grants4 accept; counter drop; }
            chain prerouting {
                type filter hook prerouting priority mangle
                meta l4proto . th dport @guarded jump gate
            }
        }");
        let (mut table, adopted) = ManagedTable::set_up(spec()).expect("rebuilt");
        assert_eq!(adopted.iter().map(|grant| grant.key).collect::<Vec<_>>(), [key("192.0.2.1")]);
        assert_eq!(objects("chain").len(), 5);
        assert_eq!(elements("grants4").len(), 1);
        assert!(table.intact().expect("read"));
    });
}

#[test]
fn a_foreign_table_is_not_changed() {
    in_namespace(|| {
        for comment in ["", "{ comment \"mine\"; }"] {
            nft(&format!("add table inet knockd {comment}; add chain inet knockd mine"));
            let before = nft("list ruleset");
            let error = ManagedTable::set_up(spec()).err().expect("refused");
            assert!(
                matches!(error, Error::Foreign { .. }) && error.to_string().contains("`nft delete table inet knockd`"),
                "{error}"
            );
            assert_eq!(nft("list ruleset"), before);
            nft("delete table inet knockd");
        }
    });
}

#[test]
fn nft_can_list_and_delete_a_table_of_each_kind_of_name_that_is_allowed() {
    in_namespace(|| {
        for name in ["a", "A_9", "Knock_2.b-c/d", "knockd-rt", "rt1", &"a".repeat(255)] {
            let mut named = spec();
            named.name = name.parse().expect("a name");
            drop(made(named));
            assert!(nft_text(&format!("list table inet {name}")).contains("chain gate"));
            nft(&format!("delete table inet {name}"));
        }
    });
}

#[test]
fn an_owned_table_survives_a_flush_and_other_writers_and_is_kept_when_its_owner_goes() {
    in_namespace(|| {
        let mut owned = spec();
        owned.owner = true;
        let mut table = made(owned.clone());
        assert!(table.is_owned(), "this test needs Linux 6.9");
        table.grant(&[element("192.0.2.1", HOUR)]).expect("granted");
        nft("flush ruleset");
        assert!(table.intact().expect("read"));
        assert_eq!(elements("grants4").len(), 1);
        assert!(!try_nft("delete table inet knockd").0);

        // A second process, that is another socket, gets an error that says so.
        let error = ManagedTable::set_up(owned.clone()).err().expect("owned");
        assert!(matches!(error, Error::Owned { port_id, .. } if port_id == table.port_id()), "{error}");
        assert!(error.to_string().contains("is another knockd running?"));

        drop(table);
        let (mut next, adopted) = set_up_after_another(&owned);
        assert!(next.is_owned());
        assert_eq!(adopted.len(), 1);
        assert_eq!(rule_count(), 18);
        nft("flush ruleset");
        assert!(next.intact().expect("read"), "owned again");
        next.remove().expect("removed");
        assert!(!nft("list ruleset").contains("knockd"));
    });
}

#[test]
fn a_table_changes_between_owned_and_not_with_its_grants() {
    in_namespace(|| {
        let mut table = made(spec());
        assert!(!table.is_owned());
        table.grant(&[element("192.0.2.1", HOUR), element("192.0.2.2", HOUR)]).expect("granted");
        let mut owned = spec();
        owned.owner = true;
        table.apply(owned.clone(), &[key("192.0.2.2")], &[]).expect("owned");
        assert!(table.is_owned() && table.intact().expect("read"));
        assert_eq!(elements("grants4").len(), 1);
        table.apply(spec(), &[], &[]).expect("not owned");
        assert!(!table.is_owned() && table.intact().expect("read"));
        assert_eq!(elements("grants4").len(), 1);
        drop(table);

        // What was left without an owner becomes owned, and an orphan becomes nobody's.
        let (table, adopted) = set_up_after_another(&owned);
        assert!(table.is_owned());
        assert_eq!(adopted.len(), 1);
        drop(table);
        let (mut table, adopted) = set_up_after_another(&spec());
        assert!(!table.is_owned() && table.intact().expect("read"));
        assert_eq!(adopted.len(), 1);
        nft("flush ruleset");
        assert!(!table.intact().expect("read"));
    });
}

#[test]
fn a_reload_replaces_rules_and_guarded_ports_and_touches_no_other_grant() {
    in_namespace(|| {
        let mut table = made(spec());
        table.grant(&[element("192.0.2.1", HOUR), element("192.0.2.2", HOUR)]).expect("granted");
        let handle = objects("table")[0]["handle"].clone();
        let mut other = spec();
        other.guarded = vec![Port::udp(53).into()];
        // A key without a grant must not make the reload fail.
        table.apply(other.clone(), &[key("192.0.2.9"), key("192.0.2.1"), key("192.0.2.1")], &[]).expect("applied");
        assert_eq!(objects("table")[0]["handle"], handle);
        assert_eq!(table.list().expect("listed").iter().map(|grant| grant.key).collect::<Vec<_>>(), [key("192.0.2.2")]);
        assert_eq!(rule_count(), 19);
        assert!(elements("guarded")[0].to_string().contains("53"));
        assert!(table.intact().expect("read"));

        table.grant(&[element("192.0.2.3", HOUR)]).expect("granted");
        let owned = TableSpec { owner: true, ..other.clone() };
        table.apply(owned, &[key("::ffff:192.0.2.3")], &[]).expect("another owner");
        table.apply(other.clone(), &[], &[]).expect("and back");
        assert_ne!(objects("table")[0]["handle"], handle);
        assert_eq!(table.list().expect("listed").iter().map(|grant| grant.key).collect::<Vec<_>>(), [key("192.0.2.2")]);

        other.name = "other".parse().expect("a name");
        assert!(matches!(table.apply(other, &[], &[]), Err(Error::Renamed { .. })));
        nft("flush ruleset");
        assert!(table.apply(spec(), &[], &[]).expect_err("gone").is_missing());
        table.restore(&[]).expect("restored");
        assert!(elements("guarded")[0].to_string().contains("53"), "a failed reload leaves the specification");
    });
}

#[test]
fn each_kind_of_damage_is_found_and_put_right() {
    in_namespace(|| {
        let mut table = made(spec());
        let mut half = element("192.0.2.1", HOUR);
        half.remaining = HOUR / 2;
        let mut over = element("192.0.2.2", HOUR);
        over.remaining = Duration::ZERO;
        table.grant(std::slice::from_ref(&half)).expect("granted");
        for damage in [
            "flush ruleset",
            "delete table inet knockd",
            "flush chain inet knockd gate",
            "flush chain inet knockd prerouting",
            "insert rule inet knockd gate accept",
            "insert rule inet knockd prerouting accept",
            "flush chain inet knockd input",
            "insert rule inet knockd input accept",
            "insert rule inet knockd unreadable accept",
            "flush chain inet knockd postrouting; delete chain inet knockd postrouting",
            "delete element inet knockd guarded { tcp . 22 }",
            "add element inet knockd guarded { tcp . 23 }",
            "add chain inet knockd prerouting { policy drop; }",
            "add table inet knockd { flags dormant; }",
            "flush chain inet knockd gate; flush chain inet knockd prerouting; delete set inet knockd grants4",
        ] {
            assert!(table.intact().expect("read"), "before: {damage}");
            nft(damage);
            assert!(!table.intact().expect("read"), "after: {damage}");
            for _ in 0..2 {
                table.restore(&[half.clone(), over.clone()]).expect("restored");
                assert!(table.intact().expect("read"), "restored: {damage}");
                let listed = table.list().expect("listed");
                assert_eq!(listed.len(), 1, "{damage}");
                assert_eq!((listed[0].key, listed[0].timeout), (half.key, HOUR));
                assert!(listed[0].remaining <= HOUR / 2, "{damage}");
            }
        }
        table.grant(&[element("192.0.2.3", HOUR)]).expect("granted");
        assert!(table.intact().expect("read"), "a grant is no damage");
    });
}

#[test]
fn a_table_that_took_the_place_of_ours_is_neither_overwritten_nor_removed() {
    in_namespace(|| {
        let mut table = made(spec());
        nft("delete table inet knockd; add table inet knockd");
        assert!(!table.intact().expect("read"));
        assert!(matches!(table.restore(&[]), Err(Error::Foreign { .. })));
        assert!(matches!(table.remove(), Err(Error::Foreign { .. })));
        assert_eq!(objects("table").len(), 1);
    });
}

#[test]
fn removing_takes_the_table_away_and_may_find_it_gone() {
    in_namespace(|| {
        made(spec()).remove().expect("removed");
        assert!(!nft("list ruleset").contains("knockd"));
        let table = made(spec());
        nft("flush ruleset");
        table.remove().expect("already gone");
    });
}

#[test]
fn a_refused_transaction_leaves_no_half_made_table() {
    in_namespace(|| {
        let mut table = made(spec());
        let before = nft("list ruleset");
        let mut other = spec();
        other.guarded = vec![Port::udp(53).into()];
        // Of a range that the specification does not have.
        let mut stray = element("192.0.2.1", HOUR);
        stray.key.access = "2000-3000".parse::<PortRange>().expect("a range").into();
        assert!(table.apply(other, &[], &[stray]).expect_err("no such set").is_missing());
        assert_eq!(nft("list ruleset"), before);
        assert!(table.intact().expect("read"));
    });
}

#[test]
fn a_reload_may_take_away_thousands_of_grants_of_which_most_are_over() {
    in_namespace(|| {
        let mut table = made(spec());
        let grants = many(10_000, HOUR);
        table.grant(&grants[9_000..]).expect("granted");
        let keys: Vec<_> = grants[..9_999].iter().map(|grant| grant.key).collect();
        table.apply(spec(), &keys, &[]).expect("applied");
        assert_eq!(table.list().expect("listed").len(), 1);
        table.revoke(&keys).expect("revoked");
        assert_eq!(table.list().expect("listed").len(), 1);
    });
}

#[test]
fn a_process_that_lost_the_table_to_another_owner_gets_an_error() {
    in_namespace(|| {
        let mut first = made(spec());
        let mut owned = spec();
        owned.owner = true;
        let (_second, _) = ManagedTable::set_up(owned.clone()).expect("taken over");
        let error = first.grant(&[element("192.0.2.1", HOUR)]).expect_err("not permitted");
        assert!(error.is_permission() && error.to_string().contains("another process owns the table"), "{error}");
        for error in [
            first.apply(owned, &[], &[]).expect_err("owned"),
            first.restore(&[]).expect_err("owned"),
            first.remove().expect_err("owned"),
        ] {
            assert!(matches!(error, Error::Owned { .. }), "{error}");
        }
    });
}

#[test]
fn a_shield_that_a_killed_process_left_goes_at_the_next_start_and_a_foreign_table_is_no_shield() {
    in_namespace(|| {
        let shield = "add table inet knockd-next { comment \"managed by knockd while its table is made again\"; }";
        for left in ["", "add table inet other", shield] {
            nft(left);
            drop(made(spec()));
            let (mut table, _) = set_up_after_another(&spec());
            assert!(!nft("list tables").contains("knockd-next"));
            nft(left);
            let owned = TableSpec { owner: true, ..spec() };
            table.apply(owned, &[], &[]).expect("made again, behind another shield");
            assert!(!nft("list tables").contains("knockd-next"));
            table.remove().expect("removed");
        }
        let mut table = made(spec());
        nft("add table inet knockd-next { comment \"managed by knockd, layout 2\"; }");
        let before = nft("list ruleset");
        let error = table.apply(TableSpec { owner: true, ..spec() }, &[], &[]).expect_err("in the way");
        assert!(error.to_string().contains("table inet knockd-next: File exists"), "{error}");
        assert_eq!(nft("list ruleset"), before);
        assert!(table.intact().expect("read"));
    });
}

#[test]
fn tens_of_thousands_of_guarded_ports_take_no_longer_each_than_a_few() {
    in_namespace(|| {
        let mut wide = spec();
        wide.guarded = (0..u16::MAX).step_by(2).map(|number| Port::tcp(number + 1).into()).collect();
        // The processor's time, which a busy machine does not change.
        let start = clock_gettime(ClockId::ThreadCPUTime);
        let mut table = made(wide);
        let spent = clock_gettime(ClockId::ThreadCPUTime) - start;
        println!("{} ports in {spent:?}", elements("guarded").len());
        // 80 milliseconds; where each port asks for all others, more than four seconds.
        assert!(spent.tv_sec < 1, "{spent:?}");
        assert!(table.intact().expect("read"));
    });
}
