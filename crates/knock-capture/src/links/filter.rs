//! The kernel filter of the subscription: of routes it passes those that can change what is local.
//!
//! A router may get a hundred thousand routes in a second from its neighbours. None of them wakes the daemon.

use libc::{RT_TABLE_LOCAL, RTM_DELROUTE, RTM_NEWROUTE, RTN_LOCAL};
use netlink_sys::Socket;

use crate::Error;
use crate::capture::socket;
use crate::filter::{Instruction, op};

/// Where the fields are: `struct nlmsghdr` (netlink(7)) of 16 bytes, then `struct rtmsg` (rtnetlink(7)).
const MESSAGE_TYPE: u32 = 4;
const TABLE: u32 = 16 + 4;
const ROUTE_TYPE: u32 = 16 + 7;
const WHOLE: u32 = u32::MAX;

pub(super) fn attach(socket: &Socket) -> Result<(), Error> {
    socket::attach(socket, &program())
}

/// Everything that is no route, each local route, and each route of the table `local`, where another one may take the
/// place of a local one.
fn program() -> [Instruction; 9] {
    // Netlink has the byte order of the host, a load that of the network.
    let kind = |kind: u16| u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    let jump = |code, k, jt, jf| Instruction { code, jt, jf, k };
    [
        jump(op::LD_H_ABS, MESSAGE_TYPE, 0, 0),
        jump(op::JEQ_K, kind(RTM_NEWROUTE), 1, 0),
        jump(op::JEQ_K, kind(RTM_DELROUTE), 0, 4),
        jump(op::LD_B_ABS, ROUTE_TYPE, 0, 0),
        jump(op::JEQ_K, RTN_LOCAL.into(), 2, 0),
        jump(op::LD_B_ABS, TABLE, 0, 0),
        jump(op::JEQ_K, RT_TABLE_LOCAL.into(), 0, 1),
        jump(op::RET_K, WHOLE, 0, 0),
        jump(op::RET_K, 0, 0, 0),
    ]
}
