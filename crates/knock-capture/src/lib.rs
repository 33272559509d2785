//! The wire side of knockd: a packet socket that only knocks wake, and the state of the network's links.
//!
//! [`filter`] turns a description of the knocks into a classic BPF program for the kernel, [`Capture`] is the
//! packet socket, read through pnet, with that program attached, and [`links`] follows interfaces and addresses
//! over rtnetlink. Nothing here waits: both have a descriptor to poll.

#![expect(unsafe_code, reason = "the socket options and addresses of packet(7), for which rustix has no safe call")]

mod capture;
mod error;
pub mod filter;
pub mod links;

pub use capture::{Capture, RECEIVE_BUFFER, Statistics, open_packet_socket};
pub use error::Error;
pub use filter::{FilterClass, FilterSpec, Program, WholeDatagrams};
pub use links::{Link, LinkChange, LinkSockets, Links};
