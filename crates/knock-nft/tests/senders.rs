//! Messages that other processes write to the netlink sockets are not taken for answers or changes of the kernel.

mod support;

use knock_nft::{Monitor, UserSets};
use knock_testkit::in_namespace;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, sendto, socket_with};
use support::{HOUR, element, key, made, nft, spec};

/// The group of nf_tables as a bit of `nl_groups`: `NFNLGRP_NFTABLES` is 7.
const GROUP: u32 = 1 << 6;

fn send(from: &OwnedFd, to: &SocketAddrNetlink, datagram: &[u8]) -> Result<(), Errno> {
    sendto(from, datagram, SendFlags::DONTWAIT, to).map(drop)
}

fn forger() -> OwnedFd {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER));
    let socket = socket.expect("a socket");
    bind(&socket, &SocketAddrNetlink::new(0, 0)).expect("bound");
    socket
}

/// A message with `struct nlmsghdr`.
fn message(kind: u16, sequence: u32, port_id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).expect("short");
    let (kind, flags) = (kind.to_ne_bytes(), [0, 0]);
    [&length.to_ne_bytes()[..], &kind, &flags, &sequence.to_ne_bytes(), &port_id.to_ne_bytes(), payload].concat()
}

/// An `NLMSG_ERROR` that says EPERM.
fn refusal(sequence: u32) -> Vec<u8> {
    let errno = -libc::EPERM;
    message(2, sequence, 0, &[&errno.to_ne_bytes()[..], &[0; 16]].concat())
}

#[test]
fn a_forged_answer_is_refused_or_ignored() {
    in_namespace(|| {
        let mut table = made(spec());
        let mut sets = UserSets::open().expect("opened");
        nft("add table ip filter; add set ip filter s { type ipv4_addr; flags timeout; }");
        let set = "ip filter s".parse().expect("a set");
        let forger = forger();
        // Each number that the next exchange may have.
        for port_id in [table.port_id(), sets.port_id()] {
            for sequence in 0..200 {
                let sent = send(&forger, &SocketAddrNetlink::new(port_id, 0), &refusal(sequence));
                assert!(sent.is_ok() || sent == Err(Errno::CONNREFUSED), "the forger may send: {sent:?}");
            }
        }
        table.grant(&[element("192.0.2.1", HOUR)]).expect("granted");
        assert_eq!(table.list().expect("listed").len(), 1);
        assert!(table.intact().expect("read"));
        table.revoke(&[key("192.0.2.1")]).expect("revoked");
        assert_eq!(sets.list(&set).expect("listed"), []);
    });
}

#[test]
fn no_other_process_can_fill_the_queue_of_answers() {
    in_namespace(|| {
        let mut table = made(spec());
        let forger = forger();
        let to = SocketAddrNetlink::new(table.port_id(), 0);
        let sent = (0..100_000).filter(|_| send(&forger, &to, &[0; 4096]).is_ok()).count();
        table.grant(&[element("192.0.2.1", HOUR)]).expect("granted");
        assert_eq!(sent, 0, "datagrams that were taken");
    });
}

#[test]
fn a_forged_notice_is_no_change() {
    in_namespace(|| {
        let mut monitor = Monitor::open().expect("opened");
        let forger = forger();
        let subsystem = 10 << 8;
        // `NFT_MSG_DELTABLE` with `NFTA_TABLE_NAME`, in the family inet, and `NFT_MSG_NEWGEN`.
        let name = [&[11, 0, 1, 0][..], b"knockd\0\0"].concat();
        let deleted = message(subsystem | 2, 0, 4711, &[&[1, 0, 0, 0][..], &name].concat());
        let generation = message(subsystem | 15, 0, 4711, &[0, 0, 0, 0]);
        let datagram = [deleted, generation].concat();
        send(&forger, &SocketAddrNetlink::new(0, GROUP), &datagram).expect("the forger may send");
        let mut events = Vec::new();
        monitor.read(&mut events).expect("read");
        assert_eq!(events, []);
        // It still receives true changes.
        nft("add table inet other");
        monitor.read(&mut events).expect("read");
        assert_eq!(events.len(), 1, "{events:?}");
    });
}
