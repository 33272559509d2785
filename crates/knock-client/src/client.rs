//! A host, its knocks or signed packets, and how to send them.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use knock_proto::Knock;

use crate::addresses::{Family, Target, resolve};
use crate::attempts::Attempts;
use crate::error::{Error, NotOpen, SignedTry, Unsent};
use crate::packet::{self, Kept, SendError, SignedPackets};
use crate::schedule::Round;
use crate::send;

/// The default gap between two knocks. Each knock is a flow of its own, and a later one can overtake an earlier one;
/// on a path whose delay varies by ± 20 ms none does.
pub const GAP: Duration = Duration::from_millis(40);
/// The default limit of [`Client::open`].
pub const WITHIN: Duration = Duration::from_secs(10);

/// A host, and the knocks or signed packets that open a port there.
#[derive(Clone, Debug)]
pub struct Client {
    host: String,
    sends: Sends,
    family: Family,
    source: Option<IpAddr>,
    gap: Duration,
    within: Duration,
}

/// What opens a port.
#[derive(Clone, Debug)]
enum Sends {
    Knocks(Vec<Knock>),
    Packets(SignedPackets),
}

/// Knocks or signed packets that were sent.
#[derive(Debug)]
pub struct Knocked {
    /// The addresses that got every knock, or a packet; at least one.
    pub addresses: Vec<IpAddr>,
    /// The other addresses, each with the first knock that failed, or with the packet.
    pub unsent: Vec<Unsent>,
}

/// A connection to a port that has opened.
#[derive(Debug)]
pub struct Opened {
    /// The connection, in blocking mode.
    pub stream: TcpStream,
    /// The address and the port; the address is one that was knocked at.
    pub address: SocketAddr,
    /// How many times all knocks were sent.
    pub rounds: u32,
    /// How many connections were tried.
    pub attempts: u32,
    /// The time from the first knock.
    pub elapsed: Duration,
}

impl Client {
    /// The knocks of `host`, a name or an address. They are sent over IPv4 and IPv6, with a gap of [`GAP`].
    pub fn new(host: impl Into<String>, knocks: impl Into<Vec<Knock>>) -> Client {
        Client::of(host.into(), Sends::Knocks(knocks.into()))
    }

    /// Signed packets for `host`, a name or an address: one to each address, over IPv4 and IPv6, and new ones for each
    /// time they are sent. Where a signature takes a person's time, as a touch does, the same packet is sent for half a
    /// minute, and that time is not counted.
    pub fn signed(host: impl Into<String>, packets: SignedPackets) -> Client {
        Client::of(host.into(), Sends::Packets(packets))
    }

    fn of(host: String, sends: Sends) -> Client {
        Client { host, sends, family: Family::Both, source: None, gap: GAP, within: WITHIN }
    }

    /// Knocks over this IP version only. A rule with a command runs it for each source address, so twice where both
    /// are used.
    #[must_use]
    pub fn family(mut self, family: Family) -> Client {
        self.family = family;
        self
    }

    /// Knocks and connects from this address of this machine, which selects the IP version too.
    #[must_use]
    pub fn source(mut self, source: Option<IpAddr>) -> Client {
        self.source = source;
        self
    }

    /// The gap between two knocks.
    #[must_use]
    pub fn gap(mut self, gap: Duration) -> Client {
        self.gap = gap;
        self
    }

    /// The limit of [`Client::open`], from the first knock.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Client {
        self.within = within;
        self
    }

    /// The addresses that are knocked at: the first of each IP version, in the order of the resolver.
    ///
    /// # Errors
    ///
    /// Where the host has no address of a requested IP version.
    pub fn targets(&self) -> Result<Vec<Target>, Error> {
        resolve(&self.host, self.family, self.source)
    }

    /// Sends every knock, or a signed packet, once. There is no answer, so the effect is unknown.
    ///
    /// # Errors
    ///
    /// Where the host has no address, not one of its addresses got every knock, or a packet can't be made.
    pub fn knock(&self) -> Result<Knocked, Error> {
        self.knock_each(|_, _| {})
    }

    /// The same; `sent` is called after each knock or packet that was sent, with its port.
    ///
    /// # Errors
    ///
    /// As [`Client::knock`].
    pub fn knock_each(&self, mut sent: impl FnMut(IpAddr, Knock)) -> Result<Knocked, Error> {
        let targets = self.targets()?;
        let (mut unsent, mut kept) = (Vec::new(), Kept::default());
        for number in 0..self.count() {
            if number > 0 {
                thread::sleep(self.gap);
            }
            self.send(number, &targets, &mut unsent, &mut kept, &mut sent)?;
        }
        let addresses = addresses(&targets, &unsent);
        if addresses.is_empty() && self.count() > 0 {
            return Err(Error::NotSent(unsent));
        }
        Ok(Knocked { addresses, unsent })
    }

    /// Knocks, and returns the connection to TCP port `port` as soon as there is one.
    ///
    /// It connects with new sockets on a growing schedule, and knocks again with longer gaps while nothing opens. A
    /// refused connection is tried again: it can come from a firewall that rejects.
    ///
    /// # Errors
    ///
    /// Where the limit is shorter than the knocks take, the host has no address, not one of its addresses got every
    /// knock, a packet can't be made, or the port does not open in time.
    pub fn open(&self, port: u16) -> Result<Opened, Error> {
        self.open_each(port, |_, _| {})
    }

    /// The same; `sent` is called after each knock or packet that was sent, with its port.
    ///
    /// # Errors
    ///
    /// As [`Client::open`].
    pub fn open_each(&self, port: u16, mut sent: impl FnMut(IpAddr, Knock)) -> Result<Opened, Error> {
        let (needs, within) = (self.length(Round(0)), self.within);
        if needs >= within {
            return Err(Error::TooShort { needs, within });
        }
        let targets = self.targets()?;
        let start = Instant::now();
        let attempts = Attempts::new().map_err(Error::Wait)?;
        let mut course = Course { deadline: start + self.within, attempts, kept: Kept::default() };
        let mut rounds = 0;
        let mut knocked = Vec::new();
        while Instant::now() < course.deadline {
            let connected = self.round(Round(rounds), port, &targets, &mut course, &mut sent)?;
            rounds += 1;
            match connected {
                Ended::Open(stream, address) => {
                    let (attempts, elapsed) = (course.attempts.count, start.elapsed());
                    return Ok(Opened { stream, address, rounds, attempts, elapsed });
                }
                Ended::Shut(addresses) if !addresses.is_empty() => knocked = addresses,
                Ended::Shut(_) => {}
            }
        }
        let packet = match &self.sends {
            Sends::Knocks(_) => None,
            Sends::Packets(packets) => {
                Some(Box::new(SignedTry { port: packets.port(), key: packets.key(), time: packet::now() }))
            }
        };
        Err(Error::NotOpen(NotOpen {
            host: self.host.clone(),
            port,
            rounds,
            attempts: course.attempts.count,
            addresses: knocked,
            within: self.within,
            refused: course.attempts.refused,
            failure: course.attempts.failure,
            packet,
        }))
    }

    /// One round: all knocks, or a packet, then attempts to connect. Attempts of the round before are still looked at
    /// meanwhile.
    fn round(
        &self,
        round: Round,
        port: u16,
        targets: &[Target],
        course: &mut Course,
        sent: &mut impl FnMut(IpAddr, Knock),
    ) -> Result<Ended, Error> {
        let Course { deadline, attempts, kept } = course;
        let mut unsent = Vec::new();
        for number in 0..self.count() {
            if number > 0 {
                let until = Instant::now() + round.gap(self.gap);
                if let Some((stream, address)) = attempts.wait(until).map_err(Error::Wait)? {
                    return Ok(Ended::Open(stream, address));
                }
            }
            self.send(number, targets, &mut unsent, kept, sent)?;
        }
        *deadline += kept.take_signing_time();
        let addresses = addresses(targets, &unsent);
        if addresses.is_empty() && round.0 == 0 {
            return Err(Error::NotSent(unsent));
        }
        let last = Instant::now();
        let end = last + round.wait();
        // A round that does not fit any more is not begun: its time is spent on the attempts of this one.
        let end = if end + self.length(Round(round.0 + 1)) < *deadline { end } else { *deadline };
        let mut times = round.connects().map(|after| last + after).chain([end]).peekable();
        while let Some(at) = times.next() {
            // A busy machine can be late: several attempts at once would only replace each other.
            if times.peek().is_some_and(|next| *next <= Instant::now()) {
                continue;
            }
            if let Some((stream, address)) = attempts.wait(at.min(end)).map_err(Error::Wait)? {
                return Ok(Ended::Open(stream, address));
            }
            if at >= end {
                break;
            }
            for target in targets.iter().filter(|target| addresses.contains(&target.address.ip())) {
                attempts.begin(target, port);
            }
        }
        Ok(Ended::Shut(addresses))
    }

    /// How many knocks or packets a round has for each address.
    fn count(&self) -> usize {
        match &self.sends {
            Sends::Knocks(knocks) => knocks.len(),
            Sends::Packets(_) => 1,
        }
    }

    /// The time from the first knock of a round to its last.
    fn length(&self, round: Round) -> Duration {
        let gaps = u32::try_from(self.count().saturating_sub(1)).unwrap_or(u32::MAX);
        round.gap(self.gap).saturating_mul(gaps)
    }

    /// Sends one knock or packet to every target, and notes the first that fails for each.
    fn send(
        &self,
        number: usize,
        targets: &[Target],
        unsent: &mut Vec<Unsent>,
        kept: &mut Kept,
        sent: &mut impl FnMut(IpAddr, Knock),
    ) -> Result<(), Error> {
        for target in targets {
            let address = target.address.ip();
            let (knock, place, result) = match &self.sends {
                Sends::Knocks(knocks) => {
                    (knocks[number], Some((number + 1, knocks.len())), send::knock(target, knocks[number]))
                }
                Sends::Packets(packets) => {
                    let result = match packets.send(target, kept) {
                        Err(SendError::NotMade(error)) => return Err(error.into()),
                        Err(SendError::Io(error)) => Err(error),
                        Ok(()) => Ok(()),
                    };
                    (Knock::udp(packets.port()), None, result)
                }
            };
            match result {
                Ok(()) => sent(address, knock),
                Err(error) if !unsent.iter().any(|unsent| unsent.address == address) => {
                    unsent.push(Unsent { address, knock: place, error });
                }
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// What lasts longer than a round.
struct Course {
    deadline: Instant,
    attempts: Attempts,
    kept: Kept,
}

/// How a round ended.
enum Ended {
    Open(TcpStream, SocketAddr),
    /// Nothing opened at these addresses, which got every knock.
    Shut(Vec<IpAddr>),
}

/// The addresses of `targets` for which no knock failed.
fn addresses(targets: &[Target], unsent: &[Unsent]) -> Vec<IpAddr> {
    let all = targets.iter().map(|target| target.address.ip());
    all.filter(|address| !unsent.iter().any(|unsent| unsent.address == *address)).collect()
}
