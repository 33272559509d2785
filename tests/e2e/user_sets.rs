//! Sets of the administrator's, in a ruleset that drops by default and is reloaded when they please.

use std::net::IpAddr;
use std::time::Duration;

use knock_testkit::{Echo, Host, Reach};
use serde_json::{Value, json};

use crate::support::{
    Client, Daemon, Options, Siege, at4, at6, check, knock, network, ruleset, user_set, wait_until, wire,
};

/// The administrator's ruleset, as `/etc/nftables.conf` has it, with the definitions of the two sets.
fn filter(definition4: &str, definition6: &str) -> String {
    format!(
        "flush ruleset
        table inet filter {{
            set knock4 {{ {definition4} }}
            set knock6 {{ {definition6} }}
            chain input {{
                type filter hook input priority 0; policy drop;
                ct state established,related accept
                iif lo accept
                meta l4proto icmpv6 accept
                ip saddr @knock4 tcp dport 22 accept
                ip6 saddr @knock6 tcp dport 22 accept
            }}
        }}"
    )
}

const ADDRESSES4: &str = "type ipv4_addr; flags timeout;";
const ADDRESSES6: &str = "type ipv6_addr; flags timeout;";
const SET4: &str = "inet filter knock4";
const SET6: &str = "inet filter knock6";

fn load(server: &Host, definition4: &str, definition6: &str) {
    server.namespace.nft(&filter(definition4, definition6)).expect("the administrator's ruleset");
}

fn configuration() -> Value {
    let allow = json!({ "set": SET4, "set6": SET6, "timeout": "1h" });
    json!({ "rules": [{ "name": "ssh", "sequence": [7000, 9000, 8000], "allow": allow }] })
}

const SEQUENCE: [u16; 3] = [7000, 9000, 8000];

/// What is left of the grant; `None` where there is none.
fn remaining(server: &Host, address: IpAddr) -> Option<Duration> {
    user_set(server, if address.is_ipv4() { SET4 } else { SET6 })?.get(&address).copied()
}

#[test]
fn a_user_set_that_appears_later_gets_the_grants_begun_meanwhile() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let daemon = Daemon::start(server, configuration());
    for set in [SET4, SET6] {
        assert!(daemon.log().contains(&format!("set {set}")), "{}", daemon.log());
    }
    assert!(daemon.log().contains("its rules work as soon as it exists"), "{}", daemon.log());
    let addresses = [IpAddr::from(client.v4), client.v6.into()];
    for address in addresses {
        knock(&wire(&network), address, &SEQUENCE);
        daemon.wait_for_log(&format!("the grant of rule ssh to {address} waits for the set"));
    }
    let files = daemon.open_files();
    load(server, ADDRESSES4, ADDRESSES6);
    for address in addresses {
        wait_until("the grant is in the set", || remaining(server, address));
    }
    daemon.wait_for_log(&format!("set {SET4} exists now"));
    client.wait_until_open(at4(22));
    client.wait_until_open(at6(22));
    assert_eq!(daemon.open_files(), files);
}

#[test]
fn grants_are_put_back_after_the_administrator_has_reloaded_their_ruleset() {
    let network = network(2);
    let server = &network.server;
    let friend = &network.clients[1];
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    load(server, ADDRESSES4, ADDRESSES6);
    let daemon = Daemon::start(server, configuration());
    let addresses = [IpAddr::from(friend.v4), friend.v6.into()];
    for address in addresses {
        knock(&wire(&network), address, &SEQUENCE);
        wait_until("it is granted", || remaining(server, address));
    }
    wait_until("some of its time is over", || {
        remaining(server, addresses[1]).is_some_and(|left| left < Duration::from_secs(3599))
    });
    let siege = Siege::begin(&network, 22, &[1]);
    let changes = [
        filter(ADDRESSES4, ADDRESSES6),
        "flush set inet filter knock4\nflush set inet filter knock6".to_owned(),
        format!("delete element inet filter knock4 {{ {} }}", friend.v4),
    ];
    let rounds = 3 * changes.len();
    for change in changes.iter().cycle().take(rounds) {
        let mark = daemon.log_mark();
        server.namespace.nft(change).expect("the administrator may");
        daemon.wait_for_log_after(mark, "they are restored");
        for address in addresses {
            let left = wait_until("it is granted again", || remaining(server, address));
            assert!(left < Duration::from_secs(3600), "{change}: {address} keeps its time");
        }
        siege.go_on();
    }
    let toll = siege.end();
    assert_eq!(toll.broken, 0, "{toll:?}");
    // A packet that is under way while the administrator's chain is replaced can meet neither the old one nor the new one:
    // the kernel puts a hook that accepts in place of what goes (__nf_unregister_net_hook in net/netfilter/core.c).
    assert!(toll.passed.segments <= rounds as u64, "{toll:?}");
    // Two clients send 1000 SYNs a second each; half a second for each change is far more than it takes.
    eprintln!("{} granted SYNs of {} came while the sets were empty", toll.kept_out(), toll.granted);
    assert!(toll.kept_out() <= 1000 * rounds as u64, "{toll:?}");
}

#[test]
fn a_set_that_cannot_serve_is_refused_at_the_start_with_the_reason_and_left_alone() {
    let network = network(1);
    let server = &network.server;
    for (definition4, definition6, words) in [
        ("type ipv4_addr; flags interval, timeout;", ADDRESSES6, [SET4, "flag `interval`", "remove `flags interval`"]),
        ("type ipv4_addr;", ADDRESSES6, [SET4, "cannot expire", "add `flags timeout`"]),
        ("type inet_service; flags timeout;", ADDRESSES6, [SET4, "ipv4_addr", "define it with"]),
        (ADDRESSES4, "type ipv4_addr; flags timeout;", [SET6, "ipv6_addr", "define it with"]),
        ("type ipv4_addr . inet_service; flags timeout;", ADDRESSES6, [SET4, "ipv4_addr", "define it with"]),
    ] {
        // The rules that look into the sets would not take these.
        server
            .namespace
            .nft(&format!(
                "flush ruleset\ntable inet filter {{ set knock4 {{ {definition4} }}; set knock6 {{ {definition6} }}; }}"
            ))
            .expect("a set");
        let before = ruleset(server);
        let refused = check(server, &configuration().to_string(), Options::default());
        assert_eq!(refused.code, Some(78), "{refused:?}");
        assert!(words.iter().all(|word| refused.stderr.contains(word)), "{words:?}: {}", refused.stderr);
        assert_eq!(ruleset(server), before);
    }
}

#[test]
fn a_reload_to_a_set_that_cannot_serve_is_refused_and_all_goes_on() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    load(server, ADDRESSES4, ADDRESSES6);
    server.namespace.nft("add set inet filter wide { type ipv4_addr; flags interval, timeout; }").expect("a set");
    let daemon = Daemon::start(server, configuration());
    knock(&wire(&network), client.v4.into(), &SEQUENCE);
    client.wait_until_open(at4(22));
    let before = ruleset(server);
    let mut other = configuration();
    other["rules"][0]["allow"]["set"] = json!("inet filter wide");
    let mark = daemon.log_mark();
    daemon.reload(other);
    let told = daemon.wait_for_log_after(mark, "not reloaded");
    assert!(told.contains("inet filter wide") && told.contains("interval"), "{told}");
    assert_eq!(ruleset(server), before);
    assert_eq!(client.tcp(at4(22)), Reach::Open);
    // To none at all: the grants that were in it end.
    let mark = daemon.log_mark();
    daemon.reload(json!({ "rules": [
        { "name": "other", "sequence": SEQUENCE, "allow": { "set": SET4, "timeout": "1h" } }
    ] }));
    daemon.wait_for_log_after(mark, "reloaded: rules");
    assert_eq!(user_set(server, SET4), Some([].into()));
    assert_eq!(client.tcp(at4(22)), Reach::Filtered);
}

#[test]
fn a_set_that_has_become_one_of_ranges_gets_no_address() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    load(server, ADDRESSES4, ADDRESSES6);
    let daemon = Daemon::start(server, configuration());
    load(server, "type ipv4_addr; flags interval, timeout;", ADDRESSES6);
    let mark = daemon.log_mark();
    knock(&wire(&network), client.v4.into(), &SEQUENCE);
    let told = daemon.wait_for_log_after(mark, "not granted");
    assert!(told.contains("interval"), "{told}");
    let mut nft = std::process::Command::new("nft");
    let listing = server.namespace.output(nft.args(["list", "ruleset"]), "").expect("nft lists");
    assert!(!listing.contains("elements"), "one address would open a range:\n{listing}");
    // And when it is as it should be again, so is the rule.
    load(server, ADDRESSES4, ADDRESSES6);
    daemon.wait_for_log_after(mark, &format!("set {SET4} exists now"));
    knock(&wire(&network), client.v4.into(), &SEQUENCE);
    wait_until("it is granted", || remaining(server, client.v4.into()));
}

#[test]
fn elements_of_the_administrator_in_a_user_set_are_not_changed() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    load(server, ADDRESSES4, ADDRESSES6);
    let theirs = "add element inet filter knock4 { 192.0.2.1, 10.77.0.2, 192.0.2.2 timeout 1d }";
    server.namespace.nft(theirs).expect("elements of their own");
    let before = ruleset(server);
    let daemon = Daemon::start(server, configuration());
    knock(&wire(&network), client.v4.into(), &SEQUENCE);
    daemon.wait_for_log("is a permanent element of set inet filter knock4");
    assert_eq!(ruleset(server), before);
    drop(daemon.kill());
    let mut daemon = Daemon::start(server, configuration());
    assert!(!daemon.log().contains("adopted"), "{}", daemon.log());
    assert!(daemon.stop().success());
    assert_eq!(ruleset(server), before);
}

#[test]
fn an_element_of_the_administrator_that_lasts_longer_survives_knock_revoke_end_and_restart() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    load(server, ADDRESSES4, ADDRESSES6);
    let theirs = format!(
        "add element {SET4} {{ {} timeout 1d comment \"office\" }}\nadd element {SET6} {{ {} timeout 1d }}",
        client.v4, client.v6
    );
    server.namespace.nft(&theirs).expect("elements of their own");
    let before = ruleset(server);
    let mut configuration = configuration();
    configuration["rules"][0]["allow"]["timeout"] = json!("1s");
    let close = json!({ "name": "close", "sequence": [8000, 9000, 7000], "revoke": "ssh" });
    configuration["rules"].as_array_mut().expect("a list").push(close);
    let mut daemon = Daemon::start(server, configuration);
    let addresses = [IpAddr::from(client.v4), client.v6.into()];
    for _ in 0..2 {
        for address in addresses {
            let mark = daemon.log_mark();
            knock(&wire(&network), address, &SEQUENCE);
            let line = daemon.wait_for_log_after(mark, "lasts longer");
            assert!(line.contains(&format!("{address} is an element of set")), "{line}");
            daemon.wait_for_log_after(mark, &format!("rule ssh: the grant to {address} has ended"));
            assert_eq!(ruleset(server), before, "a knock and the end of its grant");
            let mark = daemon.log_mark();
            knock(&wire(&network), address, &SEQUENCE);
            daemon.wait_for_log_after(mark, &format!("rule ssh: granted to {address}"));
            knock(&wire(&network), address, &[8000, 9000, 7000]);
            daemon.wait_for_log_after(mark, "(close)");
            daemon.knockctl(&["revoke", &address.to_string()]);
            daemon.knockctl(&["revoke", "--all"]);
            assert_eq!(ruleset(server), before, "a revoke");
        }
        daemon = Daemon::start_again(server, daemon.kill());
        assert_eq!(ruleset(server), before, "a restart");
    }
    assert_eq!(client.tcp(at4(22)), Reach::Open);
    let left = remaining(server, addresses[0]).expect("their element");
    assert!(left > Duration::from_secs(86_000), "{left:?}");
}

#[test]
fn a_new_daemon_adopts_the_grants_in_the_set_and_ends_them_as_its_own() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    load(server, ADDRESSES4, ADDRESSES6);
    let daemon = Daemon::start(server, configuration());
    let addresses = [IpAddr::from(client.v4), client.v6.into()];
    for address in addresses {
        knock(&wire(&network), address, &SEQUENCE);
        wait_until("it is granted", || remaining(server, address));
    }
    let daemon = Daemon::start_again(server, daemon.kill());
    assert_eq!(client.tcp(at4(22)), Reach::Open);
    // They are in its record: restored after a flush, and ended by a revocation.
    server.namespace.nft("flush set inet filter knock4\nflush set inet filter knock6").expect("the administrator may");
    for address in addresses {
        let left = wait_until("it is granted again", || remaining(server, address));
        assert!(left <= Duration::from_secs(3600));
        let mut revoke = std::process::Command::new(env!("CARGO_BIN_EXE_knockctl"));
        revoke.arg("--socket").arg(daemon.path("control.sock")).args(["revoke", &address.to_string()]);
        assert!(revoke.output().expect("knockctl runs").status.success());
        assert_eq!(remaining(server, address), None);
    }
    assert_eq!(client.tcp(at4(22)), Reach::Filtered);
}
