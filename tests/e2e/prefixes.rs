//! Grants to the prefix of the source that knocked.

use std::net::IpAddr;

use knock_testkit::{Answer, Echo, Flags};
use serde_json::{Value, json};

use crate::support::{Daemon, answer, knock, network, user_set, wait_until, wire};

fn configuration(prefix4: u8, prefix6: u8) -> Value {
    let allow = json!({ "ports": [22], "prefix4": prefix4, "prefix6": prefix6, "timeout": "1h" });
    json!({ "rules": [
        { "name": "ssh", "sequence": [7000, 9000, 8000], "allow": allow },
        { "name": "close", "sequence": [8000, 9000, 7000], "revoke": "ssh" },
    ] })
}

#[test]
fn a_knock_opens_for_the_prefix_of_its_source_and_each_address_of_it_closes() {
    let network = network(1);
    let server = &network.server;
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let mut daemon = Daemon::start(server, configuration(24, 64));
    let wire = wire(&network);
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let is_open = |source: IpAddr| match answer(&wire, source, 22) {
        Some(answer) => {
            assert_eq!(answer, Answer::Tcp(Flags::SYN | Flags::ACK));
            true
        }
        None => false,
    };
    for (sources, foreign, prefix) in [
        (["198.18.5.1", "198.18.5.200"], "198.18.6.1", "198.18.5.0/24"),
        (["fd99:0:0:5::1", "fd99::5:ffff:0:0:9"], "fd99:0:0:6::1", "fd99:0:0:5::/64"),
    ] {
        let ([one, other], foreign) = (sources.map(address), address(foreign));
        let opened = |expected: bool, what: &str| {
            wait_until(what, || is_open(one) == expected);
            assert_eq!(is_open(other), expected, "{what}");
            assert!(!is_open(foreign), "{what}");
        };
        opened(false, "strangers so far");
        knock(&wire, one, &[7000, 9000, 8000]);
        opened(true, "a knock");
        let mark = daemon.log_mark();
        knock(&wire, other, &[7000, 9000, 8000]);
        daemon.wait_for_log_after(mark, &format!("rule ssh: extended for {prefix}, 3600 s"));
        let grants: Value = serde_json::from_str(&daemon.knockctl(&["grants", "--json"])).expect("JSON");
        assert_eq!(
            (grants["grants"].as_array().map(Vec::len), &grants["grants"][0]["address"]),
            (Some(1), &json!(prefix))
        );
        assert!(daemon.knockctl(&["grants", &foreign.to_string()]).contains("no live grants"));

        // It is adopted, and follows the rule to a wider prefix.
        daemon = Daemon::start_again(server, daemon.kill());
        opened(true, "a restart");
        let mark = daemon.log_mark();
        daemon.reload(configuration(23, 60));
        daemon.wait_for_log_after(mark, "reloaded: rules");
        assert!(is_open(one) && is_open(other));
        knock(&wire, other, &[8000, 9000, 7000]);
        opened(false, "a closing knock from another address");
        let mark = daemon.log_mark();
        daemon.reload(configuration(24, 64));
        daemon.wait_for_log_after(mark, "reloaded: rules");
        knock(&wire, one, &[7000, 9000, 8000]);
        opened(true, "another knock");
        assert!(daemon.knockctl(&["revoke", &foreign.to_string()]).contains("0 grants revoked"));
        assert!(daemon.knockctl(&["revoke", &other.to_string()]).contains("1 grant revoked"));
        opened(false, "a revoke");
    }
    // For single addresses, the table is what it always was.
    let mark = daemon.log_mark();
    daemon.reload(configuration(32, 128));
    daemon.wait_for_log_after(mark, "reloaded: rules");
    assert_eq!(user_set(server, "inet knockd grants6_64"), None);
}
