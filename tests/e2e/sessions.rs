//! Sessions that are older than the gate, such as the administrator's own.

use knock_testkit::{Echo, Reach};
use serde_json::json;

use crate::support::{Client, Daemon, at4, at6, network};

#[test]
fn sessions_from_before_the_gate_go_on() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _ssh = Echo::tcp(&server.namespace, 22).expect("an echo service");
    let mut used = [client.session(at4(22)), client.session(at6(22))];
    let mut idle = [client.session(at4(22)), client.session(at6(22))];
    assert!(used.iter_mut().all(knock_testkit::Session::is_alive));

    let rule = json!({ "name": "ssh", "sequence": [7000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
    let mut daemon = Daemon::start(server, json!({ "rules": [rule] }));
    assert_eq!(client.tcp(at4(22)), Reach::Filtered, "new ones are kept out");
    assert!(used.iter_mut().all(knock_testkit::Session::is_alive), "those in use go on");
    assert!(idle.iter_mut().all(knock_testkit::Session::is_alive), "idle ones too");

    assert!(daemon.stop().success());
    assert!(used.iter_mut().chain(&mut idle).all(knock_testkit::Session::is_alive), "and when the gate goes");
}

#[test]
fn the_host_reaches_its_own_guarded_ports_and_other_hosts() {
    let network = network(1);
    let (server, client) = (&network.server, network.client());
    let _services = [
        Echo::tcp(&server.namespace, 22).expect("an echo service"),
        Echo::tcp(&client.namespace, 22).expect("an echo service"),
    ];
    let rule = json!({ "name": "ssh", "sequence": [7000, 8000], "allow": { "ports": [22], "timeout": "1h" } });
    let _daemon = Daemon::start(server, json!({ "rules": [rule] }));
    assert_eq!(server.tcp(([127, 0, 0, 1], 22).into()), Reach::Open, "over the loopback interface");
    assert_eq!(server.tcp(at4(22)), Reach::Open, "by its own address");
    assert_eq!(server.tcp((client.v4, 22).into()), Reach::Open, "the same port of another host");
    assert_eq!(server.tcp((client.v6, 22).into()), Reach::Open, "and over IPv6");
}
