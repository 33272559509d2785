//! The ear: what it holds, and what becomes of the gate when it ends.

use std::fs;
use std::net::IpAddr;

use knock_testkit::Network;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Daemon, Options, elements, knock, network, process, table_exists, wait_for_grant, wire};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 1));

fn configuration() -> Value {
    json!({
        "rules": [
            { "name": "ssh", "sequence": [7000, 9000, 8000], "allow": { "ports": [22], "timeout": "1h" } },
            { "name": "run", "sequence": [17000, 19000, 18000], "command": "true" }
        ]
    })
}

fn status_of(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.expect("the field").split_whitespace().next().expect("a value").to_owned()
}

fn start(network: &Network) -> Daemon {
    Daemon::start(&network.server, configuration())
}

#[test]
fn it_holds_no_privilege_and_nothing_but_packets_links_and_the_keeper() {
    let network = network(1);
    let daemon = start(&network);
    let ear = daemon.ear();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status_of(ear, set), 16), Ok(0), "{set}");
    }
    assert_eq!((status_of(ear, "NoNewPrivs"), status_of(ear, "Seccomp")), ("1".to_owned(), "2".to_owned()));
    assert_ne!(status_of(ear, "Uid"), "0");
    let network_of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).expect("its namespace");
    assert_ne!(network_of(ear), network_of(daemon.pid()), "an empty network");

    // Each descriptor, by what the kernel lists its sockets as.
    let within = |file: &str| {
        let path = format!("/proc/{}/net/{file}", daemon.pid());
        fs::read_to_string(path).expect("the sockets of the daemon's network")
    };
    let (packet, netlink, unix) = (within("packet"), within("netlink"), within("unix"));
    let is_in = |list: &str, inode: &str| list.lines().any(|line| line.split_whitespace().any(|field| field == inode));
    let mut kinds = Vec::new();
    for entry in fs::read_dir(format!("/proc/{ear}/fd")).expect("its descriptors").flatten() {
        let target = fs::read_link(entry.path()).expect("a descriptor").display().to_string();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        kinds.push(match inode {
            Some(inode) if is_in(&packet, inode) => "packets",
            Some(inode) if is_in(&netlink, inode) => "links",
            // Both ends of its pair are in the network that it was made in.
            Some(inode) if is_in(&unix, inode) => "keeper",
            None if target == "anon_inode:[eventpoll]" || target == "anon_inode:[timerfd]" => "waiting",
            _ => panic!("{target}"),
        });
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, ["keeper", "links", "packets", "waiting"]);

    let text = daemon.knockctl(&["status"]);
    let shown = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.contains(&format!(" ear process {ear}: no capabilities runner process ")), "{text}");
}

/// As pkill(1) sends them to all processes of that name.
#[test]
fn signals_to_the_daemon_are_not_for_it() {
    let network = network(1);
    let mut daemon = start(&network);
    let ear = process(daemon.ear());
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1] {
        kill_process(ear, signal).expect("sent");
    }
    knock(&wire(&network), CLIENT, &[7000, 9000, 8000]);
    wait_for_grant(&network.server, CLIENT, ("tcp", 22));
    assert!(daemon.stop().success());
}

/// Whichever process is killed, the daemon ends, the gate stands, grants go on, and the next daemon adopts them.
#[test]
fn whichever_process_is_killed_the_gate_stands_and_nothing_is_lost() {
    let network = network(1);
    let wire = wire(&network);
    let mut directory = None;
    for victim in ["ear", "runner", "keeper", "ear"] {
        let mut daemon = match directory.take() {
            None => start(&network),
            Some(directory) => Daemon::start_in(&network.server, directory, Options::default()),
        };
        knock(&wire, CLIENT, &[7000, 9000, 8000]);
        wait_for_grant(&network.server, CLIENT, ("tcp", 22));
        let others = [daemon.ear(), daemon.runner().expect("a rule has a command")];
        let pid = match victim {
            "ear" => others[0],
            "runner" => others[1],
            _ => daemon.pid(),
        };
        kill_process(process(pid), Signal::KILL).expect("killed");
        let status = daemon.wait();
        assert!(victim == "keeper" || status.code() == Some(1), "{victim}: {status}");
        for other in others {
            crate::support::wait_until("the others end too", || {
                let state = fs::read_to_string(format!("/proc/{other}/stat")).unwrap_or_default();
                state.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" Z"))
            });
        }
        assert!(table_exists(&network.server, "knockd"), "{victim}");
        assert_eq!(elements(&network.server, "grants4").len(), 1, "{victim}");
        directory = Some(daemon.take_directory());
    }
}
