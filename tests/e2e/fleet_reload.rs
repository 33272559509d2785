//! Nodes that start again, and nodes whose configuration changes: what is granted and what is not follows at once.

use std::net::IpAddr;

use knock_spa::Request;
use knock_testkit::{Store, store_engines};
use serde_json::{Value, json};

use crate::support::fleet::{Fleet, Node, source, wait_until_exactly, wait_until_open};
use crate::support::spa::{Signer, open};
use crate::support::{Daemon, wait_until};

fn named(source: IpAddr) -> Request {
    Request { address: Some(source), ..open("ssh") }
}

#[test]
fn a_node_that_was_killed_follows_what_happened_meanwhile() {
    let fleet = Fleet::new(2);
    for engine in store_engines() {
        let _store = Store::start(engine, &fleet.network.server.namespace, "");
        let [first, second] = <[Node<'_>; 2]>::try_from(fleet.start_all()).ok().expect("two nodes");
        for number in [1, 2] {
            first.knock(source(number));
        }
        second.send(source(3), &fleet.alice.payload(&named(source(3))));
        second.knock(source(4));
        for node in [&first, &second] {
            node.wait_until_exactly(&[source(1), source(2), source(3), source(4)], &[source(9)]);
        }
        // An old revocation of what is granted again afterwards, here.
        first.knockd.knockctl(&["revoke", "198.18.0.4"]);
        second.wait_until_exactly(&[source(1), source(2), source(3)], &[source(4)]);
        second.knock(source(4));
        first.wait_until_exactly(&[source(1), source(2), source(3), source(4)], &[source(9)]);

        let Node { number, knockd, program, .. } = second;
        let directory = knockd.kill();
        first.knockd.knockctl(&["revoke", "198.18.0.1"]);
        first.knockd.knockctl(&["revoke", "198.18.0.3"]);
        first.knock(source(5));
        first.wait_until_exactly(&[source(2), source(4), source(5)], &[source(1), source(3)]);
        let kept: Vec<IpAddr> = [1, 2, 3, 4].map(source).to_vec();
        assert!(kept.iter().all(|source| crate::support::element(fleet.host(1), *source, ("tcp", 22)).is_some()));
        let second = Node { fleet: &fleet, number, knockd: Daemon::start_again(fleet.host(1), directory), program };
        second.wait_until_exactly(&[source(2), source(4), source(5)], &[source(1), source(3)]);
        second.wait_until_in_step();

        // Without a kernel that remembers, and with another knockd-fleet: the store has all of it.
        let Node { number, mut knockd, .. } = second;
        assert!(knockd.stop().success());
        let directory = knockd.take_directory();
        first.knockd.knockctl(&["revoke", "198.18.0.2"]);
        let knockd = Daemon::start_again(fleet.host(1), directory);
        let mut second = Node { fleet: &fleet, number, knockd, program: None };
        second.start_program();
        for node in [&first, &second] {
            node.wait_until_exactly(&[source(4), source(5)], &[source(1), source(2), source(3)]);
        }
        // Its own word is as good as before.
        second.knock(source(6));
        first.wait_until_exactly(&[source(4), source(5), source(6)], &[source(9)]);
    }
}

/// What the second node has of what the first, the third and a user grant, after each change of its configuration.
#[test]
fn who_is_taken_out_of_the_configuration_grants_nothing_any_more_until_they_are_back() {
    const THIRD: usize = 2;
    let mut fleet = Fleet::new(2);
    let node = |number: usize, vouch: &[&str]| {
        let key = fleet.key(number).public().to_string();
        json!({ "name": format!("web{}", number + 1), "key": key, "vouch": vouch })
    };
    let [two, without_word, all] = [
        json!([node(0, &["ssh"]), node(1, &["ssh"])]),
        json!([node(0, &["ssh"]), node(1, &["ssh"]), node(THIRD, &[])]),
        json!([node(0, &["ssh"]), node(1, &["ssh"]), node(THIRD, &["ssh"])]),
    ];
    fleet.more = json!({ "nodes": all });
    let (of_first, of_third, of_user, of_here) = (source(1), source(2), source(3), source(4));
    let everything = [of_first, of_third, of_user, of_here];
    for engine in store_engines() {
        let store = Store::start(engine, &fleet.network.server.namespace, "");
        let mut nodes = fleet.start_all();
        let grant = || {
            nodes[0].knock(of_first);
            fleet.put(&store, THIRD, &fleet.sequence(of_third));
            fleet.put(&store, THIRD, &fleet.packet(&fleet.alice, of_user, &named(of_user)));
            nodes[1].knock(of_here);
        };
        grant();
        wait_until_exactly(&nodes, &everything, &[source(9)]);
        let complete = nodes[1].fleet.configuration(1);
        let change = |change: &dyn Fn(&mut Value)| {
            let mut other = complete.clone();
            change(&mut other);
            let mark = nodes[1].knockd.log_mark();
            nodes[1].knockd.reload(other);
            nodes[1].knockd.wait_for_log_after(mark, "reloaded: rules:");
        };
        let expect = |open: &[IpAddr]| {
            nodes[1].wait_until_exactly(open, &everything);
            nodes[0].wait_until_exactly(&everything, &[source(9)]);
        };
        // A node that is gone, and one whose word counts for nothing: what a user signed stays.
        for nodes in [&two, &without_word] {
            change(&|other| other["fleet"]["nodes"] = nodes.clone());
            expect(&[of_first, of_user, of_here]);
            change(&|_| {});
            expect(&everything);
        }
        // A user who is gone.
        let keys = fleet.alice.line("address=\"any\"", "alice");
        fleet.spa.write_keys(&Signer::new(2, &fleet.spa.cover).line("", "bob"));
        change(&|_| {});
        expect(&[of_first, of_third, of_here]);
        fleet.spa.write_keys(&keys);
        change(&|_| {});
        expect(&everything);
        // No fleet at all: what rests on the word of another node ends.
        change(&|other| drop(other.as_object_mut().expect("an object").remove("fleet")));
        expect(&[of_user, of_here]);
        assert!(!nodes[1].knockd.path("fleet.sock").exists());
        change(&|_| {});
        expect(&everything);
        // A rule that is gone.
        change(&|other| {
            other["rules"] =
                json!([{ "name": "web", "sequence": [1, 2, 3], "allow": { "ports": [22], "timeout": 60 } }]);
            other.as_object_mut().expect("an object").remove("spa");
            let nodes = other["fleet"]["nodes"].as_array_mut().expect("a list");
            nodes.iter_mut().for_each(|node| node["vouch"] = json!([]));
        });
        expect(&[]);
        change(&|_| {});
        expect(&everything);
        // Another fleet: what was granted stays to its end, and nothing new comes or goes.
        change(&|other| other["fleet"]["realm"] = json!("other.example.com"));
        nodes[1].wait_until_in_step();
        nodes[1].knock(source(5));
        nodes[0].knock(source(6));
        wait_until("it is open where it was knocked", || nodes[1].is_open(source(5)) && nodes[0].is_open(source(6)));
        nodes[1].wait_until_exactly(&[of_first, of_third, of_user, of_here, source(5)], &[source(6)]);
        change(&|_| {});
        nodes[1].wait_until_in_step();
        nodes[1].wait_until_exactly(&[of_first, of_third, of_user, of_here, source(5), source(6)], &[source(9)]);
        nodes[1].knock(source(7));
        wait_until_open(&nodes, source(7));
        nodes[0].wait_until_exactly(&[of_first, of_third, of_user, of_here, source(6), source(7)], &[source(5)]);
        for node in &nodes {
            assert_eq!(node.status()["refused"].get("node-signature"), None, "nothing for one fleet gets to the other");
        }
        // Not even a restart brings back what was removed.
        change(&|other| other["fleet"]["nodes"] = two.clone());
        let second = nodes.pop().expect("the second").restart();
        second.wait_until_in_step();
        second.wait_until_exactly(&[of_first, of_user, of_here, source(5), source(6), source(7)], &[of_third]);
    }
}
