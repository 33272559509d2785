//! The link follower, each test in a network namespace of its own.

mod netns;

use std::net::IpAddr;

use knock_capture::LinkChange::{AddressAdded, AddressRemoved, Appeared, Disappeared, Down, Renamed, Up};
use knock_capture::{LinkChange, Links};
use knock_testkit::{in_namespace, wait_until};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use netns::{index_of, ip, ip_batch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn at(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// The changes up to and with the one that `last` knows.
fn until(links: &mut Links, last: impl Fn(&LinkChange) -> bool) -> Vec<LinkChange> {
    let mut changes = Vec::new();
    wait_until("the last change", || {
        links.read(&mut changes).expect("changes");
        changes.iter().any(&last)
    });
    changes
}

/// The changes up to the end of a sentinel's life, without the sentinel's.
fn all(links: &mut Links) -> Vec<LinkChange> {
    ip("link add sentinel type bridge");
    ip("link delete sentinel");
    let mut changes = until(links, |change| matches!(change, Disappeared { name, .. } if name == "sentinel"));
    changes.retain(|change| !matches!(change, Appeared { name, .. } | Disappeared { name, .. } if name == "sentinel"));
    changes
}

/// An interface that does nothing: a bridge without ports. (Not every kernel has dummy interfaces.) It takes no address
/// by itself.
fn plain(name: &str) -> u32 {
    ip(&format!("link add {name} type bridge"));
    ip(&format!("link set {name} addrgenmode none"));
    index_of(name)
}

#[test]
fn interfaces_that_exist_at_the_start_are_known_and_no_change() {
    in_namespace(|| {
        let index = plain("d1");
        ip("address add 10.7.0.1/24 broadcast 10.7.0.255 dev d1");
        ip("address add fd07::1/64 dev d1 nodad");
        ip("link set d1 up");
        plain("d2");
        let mut links = Links::open().expect("a follower");
        assert_eq!(all(&mut links), []);

        let link = links.interface("d1").expect("d1");
        assert_eq!((link.index, link.up), (index, true));
        assert!(links.interface("lo").expect("lo").running);
        let link = links.interface("d2").expect("d2");
        assert!(!link.up && !link.running);
        assert!(links.interface("d3").is_none());
        let names: Vec<&str> = links.interfaces().map(|link| link.name.as_str()).collect();
        assert_eq!(names, ["lo", "d1", "d2"]);

        for local in ["10.7.0.1", "fd07::1", "127.0.0.1", "127.9.9.9", "::1"] {
            assert!(links.is_local(at(local)), "{local}");
        }
        for other in
            ["10.7.0.2", "10.7.0.255", "10.7.0.0", "255.255.255.255", "224.0.0.1", "fd07::2", "fd07::", "ff02::1"]
        {
            assert!(!links.is_local(at(other)), "{other}");
        }
    });
}

#[test]
fn an_interface_is_known_by_its_alternative_names() {
    in_namespace(|| {
        let long = "lan-side-of-the-house-".to_owned() + &"x".repeat(105);
        let index = plain("d1");
        ip(&format!("link property add dev d1 altname {long} altname lan"));
        let mut links = Links::open().expect("a follower");
        for name in ["d1", "lan", &long] {
            assert_eq!(links.interface(name).map(|link| link.index), Some(index), "{name}");
        }
        assert!(links.interface("wan").is_none());
        ip("link set d1 up");
        all(&mut links);

        ip("link property del dev d1 altname lan");
        let name = || "d1".to_owned();
        assert_eq!(all(&mut links), [LinkChange::AlternativeNames { index, name: name() }]);
        assert!(links.interface("lan").is_none());
        let index = plain("d2");
        ip("link property add dev d2 altname lan");
        ip("link set d2 up");
        assert!(all(&mut links).contains(&LinkChange::AlternativeNames { index, name: "d2".to_owned() }));
        assert_eq!(links.interface("lan").map(|link| link.index), Some(index));
    });
}

#[test]
fn what_a_local_route_is_for_is_local() {
    in_namespace(|| {
        let index = plain("d1");
        ip("link set d1 up");
        ip("route add local 10.50.0.0/16 dev lo");
        ip("route add 10.60.0.0/16 dev d1");
        ip("route add local 10.70.0.0/16 dev d1 table 100");
        ip("-6 route add local fd50::/64 dev lo");
        let mut links = Links::open().expect("a follower");
        for local in ["10.50.0.0", "10.50.9.9", "10.70.1.1", "fd50::7"] {
            assert!(links.is_local(at(local)), "{local}");
        }
        assert!(!links.is_local(at("10.60.0.1")) && !links.is_local(at("fd51::1")));

        ip("route del local 10.50.0.0/16 dev lo");
        ip("route add local 10.51.0.0/16 dev lo table 7");
        ip("-6 route add local fd51::/64 dev lo");
        assert_eq!(all(&mut links), [], "a route is no change of an interface");
        assert!(!links.is_local(at("10.50.9.9")) && links.is_local(at("10.51.0.1")) && links.is_local(at("fd51::1")));

        // The kernel says nothing of the routes of an interface that is deleted.
        ip("link delete d1");
        let changes = all(&mut links);
        assert!(changes.contains(&Disappeared { index, name: "d1".to_owned() }), "{changes:?}");
        assert!(!links.is_local(at("10.70.1.1")));

        // Of a route that takes the place of another one there is no word that the other one is gone.
        ip("route add local 10.50.0.0/16 dev lo");
        ip("route replace prohibit 10.50.0.0/16 table local");
        all(&mut links);
        assert!(!links.is_local(at("10.50.9.9")));
    });
}

#[test]
fn a_flood_of_other_routes_wakes_nobody() {
    in_namespace(|| {
        plain("d1");
        ip("link set d1 up");
        ip("address add 10.7.0.1/24 dev d1");
        let mut links = Links::open().expect("a follower");
        all(&mut links);
        let line = |number: u32| format!("route add 20.{}.{}.0/24 dev d1\n", number / 256, number % 256);
        ip_batch(&(0..5000).map(line).collect::<String>());
        let mut ready = [PollFd::new(&links, PollFlags::IN)];
        assert_eq!(poll(&mut ready, Some(&Timespec::default())), Ok(0));
        ip("route add local 10.50.0.0/16 dev lo");
        all(&mut links);
        assert!(links.is_local(at("10.50.0.1")) && !links.is_local(at("20.1.1.1")));
    });
}

#[test]
fn each_change_is_reported_once() {
    in_namespace(|| {
        let mut links = Links::open().expect("a follower");
        let (index, name) = (plain("d1"), || "d1".to_owned());
        assert_eq!(all(&mut links), [Appeared { index, name: name() }]);

        ip("link set d1 up");
        ip("link set d1 mtu 1400");
        ip("link set d1 alias something");
        assert_eq!(all(&mut links), [Up { index, name: name() }]);
        assert!(links.interface("d1").expect("d1").up);

        ip("address add 10.7.0.1/24 dev d1");
        assert_eq!(all(&mut links), [AddressAdded { index, name: name(), address: at("10.7.0.1") }]);
        assert!(links.is_local(at("10.7.0.1")));

        ip("link set d1 down");
        assert_eq!(all(&mut links), [Down { index, name: name() }]);
        assert!(!links.interface("d1").expect("d1").up);

        ip("link set d1 name d9");
        assert_eq!(all(&mut links), [Renamed { index, from: name(), to: "d9".to_owned() }]);
        assert!(links.interface("d1").is_none());
        assert_eq!(links.interface("d9").expect("d9").index, index);

        ip("link delete d9");
        let name = || "d9".to_owned();
        assert_eq!(
            all(&mut links),
            [AddressRemoved { index, name: name(), address: at("10.7.0.1") }, Disappeared { index, name: name() }]
        );
        assert!(!links.is_local(at("10.7.0.1")));
        assert!(links.interface("d9").is_none());
    });
}

#[test]
fn an_interface_that_is_made_again_has_a_new_index() {
    in_namespace(|| {
        let first = plain("d1");
        let mut links = Links::open().expect("a follower");
        ip("link delete d1");
        let second = plain("d1");
        let name = || "d1".to_owned();
        assert_eq!(
            all(&mut links),
            [Disappeared { index: first, name: name() }, Appeared { index: second, name: name() }]
        );
        assert_eq!(links.interface("d1").expect("d1").index, second);
    });
}

#[test]
fn an_address_is_local_until_its_last_place_is_gone() {
    in_namespace(|| {
        let (first, second) = (plain("d1"), plain("d2"));
        let mut links = Links::open().expect("a follower");
        let address = at("10.7.0.1");
        ip("address add 10.7.0.1/24 dev d1");
        ip("address add 10.7.0.1/32 dev d1");
        ip("address add 10.7.0.1/32 dev d2");
        ip("address delete 10.7.0.1/32 dev d1");
        assert_eq!(
            all(&mut links),
            [
                AddressAdded { index: first, name: "d1".to_owned(), address },
                AddressAdded { index: second, name: "d2".to_owned(), address }
            ]
        );
        ip("address delete 10.7.0.1/24 dev d1");
        assert_eq!(all(&mut links), [AddressRemoved { index: first, name: "d1".to_owned(), address }]);
        assert!(links.is_local(address));
        ip("address delete 10.7.0.1/32 dev d2");
        assert_eq!(all(&mut links), [AddressRemoved { index: second, name: "d2".to_owned(), address }]);
        assert!(!links.is_local(address));
    });
}

#[test]
fn the_other_end_of_a_point_to_point_link_is_not_local() {
    in_namespace(|| {
        plain("d1");
        ip("address add 10.7.0.1 peer 10.7.0.2/32 dev d1");
        ip("address add fd07::1 peer fd07::2/128 dev d1 nodad");
        let links = Links::open().expect("a follower");
        assert!(links.is_local(at("10.7.0.1")) && links.is_local(at("fd07::1")));
        assert!(!links.is_local(at("10.7.0.2")) && !links.is_local(at("fd07::2")));
    });
}

#[test]
fn an_ipv6_address_is_local_while_it_is_tentative() {
    in_namespace(|| {
        netns::veth("near", "far");
        let mut links = Links::open().expect("a follower");
        ip("address add fd07::1/64 dev near");
        let address = at("fd07::1");
        let added = |change: &LinkChange| matches!(change, AddressAdded { address: at, .. } if *at == address);
        until(&mut links, added);
        assert!(links.is_local(address));
        // The end of duplicate address detection is reported by the kernel, but nothing has changed.
        wait_until("the address is not tentative any more", settled);
        assert_eq!(all(&mut links), []);
    });
}

fn settled() -> bool {
    let output = std::process::Command::new("ip").args(["-6", "address", "show", "tentative"]).output().expect("ip");
    output.stdout.is_empty()
}

#[test]
fn a_port_that_leaves_a_bridge_is_still_there() {
    in_namespace(|| {
        ip("link add bridge7 type bridge");
        netns::veth("near", "far");
        let mut links = Links::open().expect("a follower");
        ip("link set near master bridge7");
        ip("link set near nomaster");
        assert_eq!(all(&mut links), []);
        assert!(links.interface("near").expect("near").up);
    });
}

#[test]
fn when_changes_are_lost_the_difference_is_reported() {
    in_namespace(|| {
        let (gone, stays) = (plain("gone"), plain("stays"));
        ip("address add 10.7.0.1/24 dev gone");
        let mut links = Links::open().expect("a follower");
        rustix::net::sockopt::set_socket_recv_buffer_size(&links, 1).expect("a short queue");
        ip("link set stays up");
        for mtu in 1400..1440 {
            ip(&format!("link set stays mtu {mtu}"));
        }
        ip("link set stays down");
        ip("link delete gone");
        let index = plain("new");
        ip("link set new up");
        ip("address add 10.7.0.2/24 dev new");

        let last = |change: &LinkChange| matches!(change, AddressAdded { address, .. } if *address == at("10.7.0.2"));
        let name = |name: &str| name.to_owned();
        let expected = vec![
            AddressRemoved { index: gone, name: name("gone"), address: at("10.7.0.1") },
            Disappeared { index: gone, name: name("gone") },
            Appeared { index, name: name("new") },
            Up { index, name: name("new") },
            AddressAdded { index, name: name("new"), address: at("10.7.0.2") },
        ];
        let changes = until(&mut links, last);
        assert_eq!(changes, expected);
        let link = links.interface("stays").expect("stays");
        assert_eq!((link.index, link.up), (stays, false), "an older change was applied after the newer state");
        rustix::net::sockopt::set_socket_recv_buffer_size(&links, 200_000).expect("a longer queue");
        assert_eq!(all(&mut links), []);
    });
}

#[test]
fn one_read_does_a_bounded_amount_of_work() {
    in_namespace(|| {
        let index = plain("d1");
        let mut links = Links::open().expect("a follower");
        let batch: String =
            (0..600).map(|at| format!("address add 10.7.{}.{}/32 dev d1\n", at / 200, at % 200 + 1)).collect();
        netns::ip_batch(&batch);
        let mut changes = Vec::new();
        links.read(&mut changes).expect("changes");
        assert!(!changes.is_empty() && changes.len() < 600, "{} changes", changes.len());
        wait_until("the other changes", || {
            links.read(&mut changes).expect("changes");
            changes.len() >= 600
        });
        assert!(changes.iter().all(|change| matches!(change, AddressAdded { index: at, .. } if *at == index)));
    });
}

#[test]
fn a_message_of_another_process_about_an_interface_is_ignored() {
    in_namespace(|| {
        let index = plain("d1");
        let mut links = Links::open().expect("a follower");
        // RTM_DELLINK: `struct nlmsghdr` and `struct ifinfomsg`, to the group of links.
        let fields: [(u32, usize); 9] =
            [(32, 4), (17, 2), (0, 2), (0, 4), (0, 4), (0, 4), (index, 4), (0, 4), (u32::MAX, 4)];
        let message: Vec<u8> = fields.iter().flat_map(|&(value, size)| value.to_ne_bytes()[..size].to_vec()).collect();
        let mut forger = Socket::new(NETLINK_ROUTE).expect("a socket");
        forger.bind_auto().expect("bound");
        let group = libc::RTMGRP_LINK.cast_unsigned();
        forger.send_to(&message, &SocketAddr::new(0, group), 0).expect("who administers the network may send");
        assert_eq!(all(&mut links), []);
        assert!(links.interface("d1").is_some());
    });
}
