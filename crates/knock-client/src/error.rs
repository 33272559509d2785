//! Errors. None of them shows a knock: the sequence is a secret, and errors end up in logs.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use knock_spa::{BodyError, Fingerprint, UnixTime};

/// Why a host could not be knocked at, or did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The resolver does not know the host.
    #[error("cannot find the address of `{host}`: {error}; check the name and the network")]
    Resolve {
        /// The host.
        host: String,
        /// The error of the resolver.
        error: io::Error,
    },
    /// The host has only addresses of the other IP version.
    #[error("`{host}` has no {version} address; it has: {}",
        has.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "))]
    NoAddress {
        /// The host.
        host: String,
        /// The requested IP version.
        version: &'static str,
        /// Its addresses.
        has: Vec<IpAddr>,
    },
    /// The knocks alone take longer than the limit.
    #[error("the knocks take {} s, and the limit is {} s; shorten the gap between them, or raise the limit",
        seconds(*needs), seconds(*within))]
    TooShort {
        /// The time from the first knock to the last.
        needs: Duration,
        /// The limit.
        within: Duration,
    },
    /// Not one address of the host got every knock.
    #[error("{}", .0.iter().map(Unsent::to_string).collect::<Vec<_>>().join("\n"))]
    NotSent(Vec<Unsent>),
    /// Every knock was sent, but the port did not open in time.
    #[error("{0}")]
    NotOpen(NotOpen),
    /// There is no signed packet to send.
    #[error(transparent)]
    NotMade(#[from] PacketError),
    /// The system refuses what is needed to wait for a connection.
    #[error("cannot wait for a connection: {0}")]
    Wait(io::Error),
}

/// A knock or a signed packet that was not sent. Where later knocks to the same address failed too, the first of them.
#[derive(Debug)]
pub struct Unsent {
    /// The address of the host.
    pub address: IpAddr,
    /// The number of the knock in the sequence, from 1, and how many there are; `None`: it was a signed packet.
    pub knock: Option<(usize, usize)>,
    /// The error of the system.
    pub error: io::Error,
}

impl Unsent {
    /// Whether there is no way to the address: a host without IPv6, for example.
    pub fn is_no_route(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)
    }

    /// The probable cause, and a remedy.
    fn hint(&self) -> String {
        match self.error.kind() {
            _ if self.is_no_route() => {
                format!("; there is no {} route to that address: check the network", version(self.address))
            }
            io::ErrorKind::PermissionDenied => {
                "; the firewall or the routing of this machine does not permit it: allow it there".to_owned()
            }
            io::ErrorKind::AddrNotAvailable => {
                "; the source address is not one of this machine, or no local port is free".to_owned()
            }
            _ => String::new(),
        }
    }
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.knock {
            Some((number, of)) => write!(f, "knock {number} of {of}")?,
            None => write!(f, "the signed packet")?,
        }
        write!(f, " to {} was not sent: {}{}", self.address, self.error, self.hint())
    }
}

/// What was tried in vain.
#[derive(Debug)]
pub struct NotOpen {
    /// The host.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// How many times all knocks were sent.
    pub rounds: u32,
    /// How many connections were tried.
    pub attempts: u32,
    /// The addresses that were knocked at.
    pub addresses: Vec<IpAddr>,
    /// The limit.
    pub within: Duration,
    /// Whether an attempt was refused, by a host where nothing listens or by a firewall.
    pub refused: bool,
    /// The last failure that was not a refusal, such as an unreachable network.
    pub failure: Option<io::Error>,
    /// What was sent was a signed packet.
    pub packet: Option<Box<SignedTry>>,
}

/// What an administrator has to know about signed packets that opened nothing.
#[derive(Clone, Copy, Debug)]
pub struct SignedTry {
    /// The UDP port.
    pub port: u16,
    /// The key that signed.
    pub key: Fingerprint,
    /// What the clock of this machine says.
    pub time: UnixTime,
}

impl fmt::Display for SignedTry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SignedTry { port, key, time } = self;
        write!(
            f,
            "\n  A packet is never answered; the log of the server says why it refuses one. Look at these:\n  - Is the key \
             {key} in the server's authorized_keys, and may it use the rule?\n  - This machine's clock says {time}; a \
             server refuses packets that are more than 60 s off.\n  - Does this network let UDP port {port} out?"
        )
    }
}

impl fmt::Display for NotOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions: Vec<&str> = self.addresses.iter().map(|address| version(*address)).collect();
        let (host, port) = (&self.host, self.port);
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let what = if self.packet.is_some() { "signed packet" } else { "knock" };
        let times = if self.rounds == 1 { format!("1 {what}") } else { format!("{} {what}s", self.rounds) };
        write!(
            f,
            "{host}:{port} did not open: {times} over {} in {} s, ",
            versions.join(" and "),
            seconds(self.within)
        )?;
        match (&self.failure, self.refused, &self.packet) {
            (_, true, Some(packet)) => write!(
                f,
                "connections were refused.\n  Either nothing listens at that port, or a firewall rejects: then the packet \
                 opened nothing.{packet}"
            ),
            (_, true, None) => write!(
                f,
                "connections were refused.\n  Either nothing listens at that port, or a firewall rejects: then the \
                 sequence can be wrong. (On the server: knockctl status.)"
            ),
            (Some(failure), ..) => write!(f, "{failure}.\n  Check the network, and the firewall of this machine."),
            (None, _, Some(packet)) => write!(f, "no answer.{packet}"),
            (None, _, None) => write!(
                f,
                "no answer.\n  Is it the server's sequence? (There: knockctl status.) Does this network let the ports out?"
            ),
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{}", (time.as_secs_f64() * 10.0).round() / 10.0)
}

/// A packet cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// What it asks for is not valid.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Nobody signs it.
    #[error("{0}")]
    Sign(SignError),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// Why a packet was not signed.
pub type SignError = Box<dyn std::error::Error + Send + Sync>;

/// The name of the IP version of `address`.
pub(crate) fn version(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
