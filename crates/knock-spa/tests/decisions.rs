//! What follows from a request that is signed.

mod support;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use knock_spa::{Action, Decision, Denial, Operation, Request, RuleTerms, Terms, UnixTime};
use support::{NOW, alice, authorized, request};

const HOUR: Duration = Duration::from_secs(3600);

fn terms() -> Terms {
    let rule = |name: &str, wide| (name.parse().expect("a name"), RuleTerms { lifetime: HOUR, wide });
    Terms { window: Duration::from_secs(60), rules: [rule("ssh", false), rule("web", true)].into() }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What a key with these options gets for that request from 192.0.2.7.
fn decide(options: &str, request: &Request) -> Result<Decision, Denial> {
    let keys = authorized(&format!("{options} {} alice", alice().public_key()));
    keys[0].decide(request, address("192.0.2.7"), NOW, &terms())
}

fn denied(options: &str, request: &Request, wanted: &str) {
    let message = decide(options, request).expect_err(options).to_string();
    assert!(message.contains(wanted), "{options}: {message}");
}

#[test]
fn a_request_is_for_its_source_and_the_lifetime_of_the_rule() {
    let decision = Decision {
        rule: "ssh".parse().expect("a name"),
        address: address("192.0.2.7"),
        wide: false,
        action: Action::Open { lifetime: HOUR },
    };
    assert_eq!(decide("", &request(NOW)), Ok(decision.clone()));
    let named = Request { address: Some(address("192.0.2.7")), ..request(NOW) };
    assert_eq!(decide("", &named), Ok(decision.clone()));
    assert_eq!(decide("address=\"strict\"", &named), Ok(decision.clone()));
    let close = Request { operation: Operation::Close, ..request(NOW) };
    assert_eq!(decide("", &close), Ok(Decision { action: Action::Close, ..decision.clone() }));
    // Never longer than the rule says.
    for (seconds, lifetime) in
        [(1, Duration::from_secs(1)), (3599, Duration::from_secs(3599)), (3601, HOUR), (u32::MAX, HOUR)]
    {
        let asked = Request { lifetime: NonZeroU32::new(seconds), ..request(NOW) };
        assert_eq!(decide("", &asked).map(|decision| decision.action), Ok(Action::Open { lifetime }));
    }
    // As a socket for both versions of IP has it.
    let keys = authorized(&alice().public_key().to_string());
    let mapped = keys[0].decide(&request(NOW), address("::ffff:192.0.2.7"), NOW, &terms());
    assert_eq!(mapped, Ok(decision));
}

#[test]
fn a_clock_that_is_off_is_named_with_how_much() {
    let at = |offset: i64| request(UnixTime::from_millis(NOW.as_millis().saturating_add_signed(offset)));
    for offset in [-60_000, 0, 60_000] {
        assert!(decide("", &at(offset)).is_ok(), "{offset} ms");
    }
    denied("", &at(60_001), "the clock of the client is 60 s ahead");
    denied("", &at(14_754_000), "the clock of the client is 14754 s ahead");
    denied("", &at(-60_001), "the clock of the client is 60 s behind, or the packet was held back");
    let by =
        |error: Result<Decision, Denial>| matches!(error, Err(Denial::ClockAhead { .. } | Denial::ClockBehind { .. }));
    assert!(
        by(decide("", &request(UnixTime::from_millis(0)))) && by(decide("", &request(UnixTime::from_millis(u64::MAX))))
    );
}

#[test]
fn a_key_is_refused_from_its_expiry_time_on() {
    // NOW is 2027-01-15 08:00:00.
    assert!(decide("expiry-time=\"20270115080001Z\"", &request(NOW)).is_ok());
    assert_eq!(decide("expiry-time=\"20270115080000Z\"", &request(NOW)), Err(Denial::Expired));
    assert_eq!(decide("expiry-time=\"19700101Z\"", &request(NOW)), Err(Denial::Expired));
}

#[test]
fn a_key_has_the_rules_of_its_options_among_those_that_accept_packets() {
    let named = |rule: &str| Request { rule: Some(rule.parse().expect("a name")), ..request(NOW) };
    let unnamed = Request { rule: None, ..request(NOW) };
    assert!(decide("rules=\"web,ssh\"", &named("ssh")).is_ok());
    denied("rules=\"web\"", &named("ssh"), "the option `rules` of the key does not permit the rule ssh");
    denied("", &named("mail"), "no rule mail accepts signed packets");
    denied("rules=\"mail\"", &named("mail"), "no rule mail accepts signed packets");
    let rule = |options| decide(options, &unnamed).map(|decision| decision.rule.to_string());
    assert_eq!(rule("rules=\"web\""), Ok("web".to_owned()));
    assert_eq!(rule("rules=\"web,mail\""), Ok("web".to_owned()), "mail accepts none");
    assert_eq!(rule(""), Err(Denial::RuleNotNamed { count: 2 }));
    assert_eq!(rule("rules=\"mail\""), Err(Denial::RuleNotNamed { count: 0 }));
}

#[test]
fn from_limits_the_source_and_the_address_that_is_asked_for() {
    let elsewhere = Request { address: Some(address("198.51.100.1")), ..request(NOW) };
    assert!(decide("from=\"192.0.2.0/24\"", &request(NOW)).is_ok());
    denied("from=\"198.51.100.0/24\"", &request(NOW), "does not permit 192.0.2.7");
    denied("from=\"198.51.100.0/24\",address=\"any\"", &elsewhere, "does not permit 192.0.2.7");
    denied("from=\"192.0.2.0/24\",address=\"any\"", &elsewhere, "does not permit 198.51.100.1");
    let both = decide("from=\"192.0.2.0/24,198.51.100.0/24\",address=\"any\"", &elsewhere);
    assert_eq!(both.map(|decision| decision.address), Ok(address("198.51.100.1")));
}

#[test]
fn a_packet_on_another_path_opens_for_nobody_else() {
    let elsewhere = Request { address: Some(address("198.51.100.1")), ..request(NOW) };
    denied("", &elsewhere, "asks for 198.51.100.1, but came from 192.0.2.7");
    denied("address=\"strict\"", &elsewhere, "asks for 198.51.100.1, but came from 192.0.2.7");
    denied("address=\"strict\"", &request(NOW), "names no address");
    assert!(decide("address=\"any\"", &elsewhere).is_ok());
}

#[test]
fn a_prefix_is_opened_where_key_and_rule_permit_it() {
    let wide = |rule: &str| Request { widen: true, rule: Some(rule.parse().expect("a name")), ..request(NOW) };
    assert_eq!(decide("wide", &wide("web")).map(|decision| decision.wide), Ok(true));
    assert_eq!(decide("", &wide("web")), Err(Denial::KeyNotWide));
    denied("wide", &wide("ssh"), "the rule ssh can't be opened");
    assert_eq!(decide("wide", &request(NOW)).map(|decision| decision.wide), Ok(false));
}
