//! Grants in the managed table: begun, extended, expired, revoked, refused.

mod support;

use std::time::{Duration, Instant};

use knock_nft::{Errno, Error, ManagedTable, Operation, TableSpec};
use knock_proto::Port;
use knock_testkit::{in_namespace, wait_until};
use support::{HOUR, MINUTE, element, elements, key, made, many, nft, set_up_after_another, spec};

#[test]
fn a_grant_is_an_element_with_the_rules_name_and_its_timeout() {
    in_namespace(|| {
        let mut table = made(spec());
        table.grant(&[element("192.0.2.1", MINUTE)]).expect("granted");
        let grants = elements("grants4");
        assert_eq!(grants.len(), 1);
        let grant = &grants[0]["elem"];
        assert_eq!(grant["val"]["concat"].to_string(), r#"["192.0.2.1","tcp",22]"#);
        assert_eq!((grant["timeout"].as_u64(), grant["comment"].as_str()), (Some(60), Some("ssh")));
        assert_eq!(elements("grants6").len(), 0);
        assert_eq!(table.list().expect("listed")[0].key, key("192.0.2.1"));
    });
}

#[test]
fn a_mapped_address_is_granted_as_the_ipv4_one() {
    in_namespace(|| {
        let mut table = made(spec());
        table.grant(&[element("::ffff:192.0.2.1", MINUTE)]).expect("granted");
        assert_eq!((elements("grants4").len(), elements("grants6").len()), (1, 0));
        table.revoke(&[key("::ffff:192.0.2.1")]).expect("revoked");
        assert_eq!(elements("grants4").len(), 0);
    });
}

#[test]
fn granting_again_restarts_the_time_of_the_one_element() {
    in_namespace(|| {
        let mut table = made(spec());
        let mut spent = element("192.0.2.1", HOUR);
        spent.remaining = MINUTE;
        for (timeout, comment) in [(HOUR, "same"), (HOUR * 2, "longer"), (MINUTE, "shorter")] {
            table.grant(std::slice::from_ref(&spent)).expect("granted");
            assert!(table.list().expect("listed")[0].remaining <= MINUTE);
            let mut again = element("192.0.2.1", timeout);
            again.comment = comment.to_owned();
            table.grant(&[again.clone(), again]).expect("granted");
            let listed = table.list().expect("listed");
            assert_eq!(listed.len(), 1);
            assert_eq!((listed[0].timeout, listed[0].comment.as_str()), (timeout, comment));
            assert!(listed[0].remaining > timeout - Duration::from_secs(30), "{:?}", listed[0]);
        }
    });
}

#[test]
fn a_grant_ends_by_itself() {
    in_namespace(|| {
        let mut table = made(spec());
        table.grant(&[element("192.0.2.1", Duration::from_millis(200)), element("192.0.2.2", HOUR)]).expect("granted");
        assert_eq!(table.list().expect("listed").len(), 2);
        let start = Instant::now();
        wait_until("it expires", || table.list().expect("listed").len() == 1);
        assert!(start.elapsed() >= Duration::from_millis(100));
        assert_eq!(table.list().expect("listed")[0].key, key("192.0.2.2"));
    });
}

#[test]
fn a_grant_of_no_time_or_of_all_time_is_neither_permanent_nor_refused() {
    in_namespace(|| {
        let mut table = made(spec());
        table.grant(&[element("192.0.2.1", Duration::MAX)]).expect("granted");
        assert!(table.list().expect("listed")[0].timeout > HOUR * 24 * 365 * 30);
        table.grant(&[element("192.0.2.1", Duration::ZERO)]).expect("granted");
        wait_until("it expires", || table.list().expect("listed").is_empty());
    });
}

#[test]
fn revoking_deletes_existing_grants_and_ignores_missing_ones() {
    in_namespace(|| {
        let mut table = made(spec());
        table.grant(&many(600, HOUR)).expect("granted");
        table.grant(&[element("2001:db8::1", HOUR)]).expect("granted");
        let mut keys: Vec<_> = many(1200, HOUR).iter().map(|grant| grant.key).skip(1).collect();
        keys.extend([key("2001:db8::1"), key("2001:db8::2"), key("2001:db8::1")]);
        assert_eq!(table.revoke(&keys).expect("revoked").len(), 600, "those that were there");
        assert_eq!(table.list().expect("listed").iter().map(|grant| grant.key).collect::<Vec<_>>(), [key("10.0.0.0")]);
        assert_eq!(table.revoke(&keys).expect("again"), []);
        assert_eq!(table.revoke(&[]).expect("nothing"), []);
        nft("flush ruleset");
        table.revoke(&keys).expect("no table, so no grant");
    });
}

#[test]
fn a_table_that_is_gone_is_a_distinct_error() {
    in_namespace(|| {
        let mut table = made(spec());
        nft("flush ruleset");
        let error = table.grant(&[element("192.0.2.1", HOUR)]).expect_err("gone");
        assert!(error.is_missing() && !error.is_full(), "{error}");
        assert_eq!(
            error.to_string(),
            "cannot add an element to table inet knockd: No such file or directory: \
             it does not exist; it was deleted, or never created"
        );
        assert!(table.list().expect_err("gone").is_missing());
        assert!(!table.intact().expect("read"));
    });
}

#[test]
fn answers_to_a_batch_that_failed_in_many_places_are_not_taken_for_those_to_the_next() {
    in_namespace(|| {
        let mut table = made(spec());
        for _ in 0..20 {
            nft("flush ruleset");
            assert!(table.grant(&many(50, HOUR)).expect_err("gone").is_missing());
            table.restore(&[]).expect("the next one is judged by its own answer");
            table.grant(&[element("192.0.2.1", HOUR)]).expect("and so is this one");
            assert_eq!(table.list().expect("listed").len(), 1);
            table.revoke(&[key("192.0.2.1"), key("192.0.2.2")]).expect("revoked");
        }
    });
}

#[test]
fn more_failures_than_the_socket_has_room_for_are_still_failures() {
    in_namespace(|| {
        let mut table = made(spec());
        nft("flush ruleset");
        assert!(table.grant(&many(20_000, HOUR)).expect_err("gone").is_missing());
        table.restore(&[]).expect("restored");
        table.grant(&[element("192.0.2.1", HOUR)]).expect("granted");
    });
}

#[test]
fn a_set_of_another_type_under_our_name_is_an_error_and_not_a_panic() {
    in_namespace(|| {
        let mut table = made(spec());
        nft("flush ruleset; add table inet knockd; add set inet knockd grants4 { type ipv4_addr; flags timeout; }");
        let error = table.grant(&[element("192.0.2.1", HOUR)]).expect_err("another key");
        assert!(
            matches!(error, Error::Kernel { operation: Operation::AddElement, errno: Errno::INVAL, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("another key type"), "{error}");
    });
}

#[test]
fn without_the_capability_the_error_names_it() {
    in_namespace(|| {
        drop_capabilities();
        let error = ManagedTable::set_up(spec()).err().expect("not permitted");
        assert!(error.is_permission() && error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}

#[test]
fn a_grant_without_the_capability_names_it_too() {
    in_namespace(|| {
        let mut table = made(spec());
        drop_capabilities();
        let error = table.grant(&[element("192.0.2.1", HOUR)]).expect_err("not permitted");
        assert!(error.is_permission() && error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}

/// Takes all capabilities from this thread (capset(2)).
fn drop_capabilities() {
    let none = rustix::thread::CapabilitySets {
        effective: rustix::thread::CapabilitySet::empty(),
        permitted: rustix::thread::CapabilitySet::empty(),
        inheritable: rustix::thread::CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).expect("dropped");
}

#[test]
fn a_hundred_thousand_grants_are_restored_rebuilt_and_adopted_within_seconds() {
    in_namespace(|| {
        let mut table = made(spec());
        let mut grants = many(100_000, HOUR);
        for grant in &mut grants {
            grant.remaining = HOUR / 2;
            grant.comment = "a-rule-with-a-name-of-sixty-four-letters-which-is-the-longest-one".to_owned();
        }
        nft("flush ruleset");
        let start = Instant::now();
        table.restore(&grants).expect("restored");
        let restored = start.elapsed();
        assert_eq!(table.list().expect("listed").len(), 100_000);
        let start = Instant::now();
        for index in 0..100 {
            table.grant(&[element(&format!("192.0.2.{index}"), HOUR)]).expect("granted");
        }
        let granted = start.elapsed();
        let owned = TableSpec { owner: true, ..spec() };
        let start = Instant::now();
        table.apply(owned.clone(), &[key("192.0.2.0")], &[]).expect("rebuilt");
        let rebuilt = start.elapsed();
        drop(table);
        let start = Instant::now();
        let (_table, adopted) = set_up_after_another(&owned);
        let adopted_in = start.elapsed();
        println!("restored {restored:?}, 100 grants {granted:?}, rebuilt {rebuilt:?}, adopted {adopted_in:?}");
        assert_eq!(adopted.len(), 100_099);
        assert!(adopted.iter().any(|grant| grant.remaining <= HOUR / 2 && grant.timeout == HOUR));
        // Generous, for a loaded machine: 100,000 transactions would take longer.
        assert!(restored < Duration::from_secs(5) && granted < Duration::from_secs(2), "{restored:?} {granted:?}");
    });
}

#[test]
fn all_elements_of_the_sets_of_grants_are_listed_and_deleted_permanent_ones_too() {
    in_namespace(|| {
        let mut table = made(spec());
        table.grant(&[element("192.0.2.1", HOUR), element("2001:db8::1", HOUR)]).expect("granted");
        nft("add element inet knockd grants4 { 192.0.2.2 . tcp . 22 }");
        let listed = table.list().expect("listed");
        let permanent: Vec<_> = listed.iter().filter(|grant| grant.remaining == Duration::MAX).collect();
        assert_eq!(permanent.iter().map(|grant| grant.key).collect::<Vec<_>>(), [key("192.0.2.2")]);
        assert_eq!(table.revoke_all().expect("revoked").len(), 3);
        assert_eq!(table.list().expect("listed"), []);
        assert_eq!(table.revoke_all().expect("nothing"), []);
        assert!(table.intact().expect("read"));
        nft("delete table inet knockd");
        assert!(table.revoke_all().expect_err("gone").is_missing());
    });
}

#[test]
fn a_grant_opens_its_port_alone() {
    in_namespace(|| {
        let mut table = made(spec());
        let mut grant = element("192.0.2.1", HOUR);
        grant.key.access = Port::udp(53).into();
        table.grant(&[grant.clone(), element("192.0.2.1", HOUR)]).expect("granted");
        assert_eq!(elements("grants4").len(), 2);
        table.revoke(&[grant.key]).expect("revoked");
        assert_eq!(table.list().expect("listed")[0].key, key("192.0.2.1"));
    });
}

/// More than fits into one transaction where net.core.wmem_max bounds it, even at twenty times its usual value.
#[test]
fn fifty_thousand_grants_are_restored() {
    in_namespace(|| {
        let mut table = made(spec());
        let mut grants = many(50_000, HOUR);
        for grant in &mut grants {
            grant.comment = "a-rule-with-a-name-of-sixty-four-letters-which-is-the-longest-one".to_owned();
        }
        table.restore(&grants).expect("restored");
        assert_eq!(table.list().expect("listed").len(), 50_000);
        assert!(table.intact().expect("read"));
    });
}

#[test]
fn so_many_are_restored_in_a_user_namespace_too_where_the_sockets_buffer_is_bounded() {
    let program = std::env::current_exe().expect("a path");
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(program)
        .args(["--exact", "fifty_thousand_grants_are_restored"])
        .output()
        .expect("unshare is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
