//! Knocks at the ports of a host, and returns the connection that this opens.
//!
//! It needs no privilege, no daemon of the same make at the other end, and no asynchronous runtime: each call blocks
//! until it is done. It reads no configuration and prints nothing.
//!
//! ```no_run
//! use std::io::Read;
//!
//! use knock_client::{Client, Knock};
//!
//! let knocks = vec![Knock::tcp(28731), Knock::tcp(4219), Knock::udp(51802), Knock::tcp(17660), Knock::tcp(40117)];
//! let mut opened = Client::new("server.example.com", knocks).open(22)?;
//! let mut banner = [0; 4];
//! opened.stream.read_exact(&mut banner)?;
//! assert_eq!(&banner, b"SSH-");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Signed packets
//!
//! Instead of knocks, [`Client::signed`] sends a packet that an ssh key signs; [`Signer`] is for agents and other places
//! where keys are.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use knock_client::{Ask, Client, SignedPackets};
//! use knock_client::spa::{KnockUrl, PrivateKey};
//!
//! let url = KnockUrl::parse(std::fs::read_to_string("url")?.trim())?;
//! let key = Arc::new(PrivateKey::from_openssh(&std::fs::read("id_ed25519")?)?);
//! let packets = SignedPackets::new(url.port, &url.realm, &url.cover, key, Ask::default());
//! let opened = Client::signed("server.example.com", packets).open(22)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is sent
//!
//! Each knock is one TCP SYN or one UDP datagram, from a socket of its own. A host with an IPv4 and an IPv6 address is
//! knocked at over both, at the first address of each: one of the two can be broken on the way without a sign.
//!
//! # How it waits
//!
//! A SYN that overtakes the last knock is dropped, and the kernel sends it again only a second later. [`Client::open`]
//! therefore connects with new sockets, 2, 5, 10, 20, 40 … ms after the last knock, at most [`ATTEMPTS_MAX`] of them
//! under way to one address. Where nothing opens it knocks again, with longer gaps.

mod addresses;
mod attempts;
mod client;
mod error;
mod packet;
mod schedule;
mod send;

pub use addresses::{Family, Target};
pub use attempts::ATTEMPTS_MAX;
pub use client::{Client, GAP, Knocked, Opened, WITHIN};
pub use error::{Error, NotOpen, PacketError, SignError, SignedTry, Unsent};
pub use knock_proto::{Knock, ParseKnockError, Protocol};
pub use knock_spa as spa;
pub use packet::{Ask, GrantFor, SignedPackets, Signer};
