//! The testkit from a shell, inside a network namespace that the caller made: what the demo and the benchmarks use.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use knock_testkit::{Echo, Flags, Flood, Latency, Namespace, Order, Packet, Reach, Result, Session, Transport, Wire};

/// Raw packets, scans, floods, probes and echo services for knockd's demo, tests and benchmarks.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Send one packet
    Send {
        #[command(flatten)]
        link: Link,
        #[command(flatten)]
        packet: Description,
    },
    /// Send a SYN to every port
    Scan {
        #[command(flatten)]
        link: Link,
        /// ascending, descending or random:SEED
        #[arg(long, default_value = "ascending")]
        order: Order,
        /// The source address and port
        #[arg(long)]
        from: SocketAddr,
        /// The scanned address
        #[arg(long)]
        to: IpAddr,
    },
    /// Send many packets from many sources
    Flood {
        #[command(flatten)]
        link: Link,
        #[command(flatten)]
        packet: Description,
        /// How many source addresses, counted up from the source
        #[arg(long, default_value_t = 65_536)]
        sources: u32,
        /// The destination ports, in turn; default: the packet's
        #[arg(long, value_delimiter = ',')]
        ports: Vec<u16>,
        /// How many packets; default: until it is ended
        #[arg(long)]
        count: Option<u64>,
        /// Packets a second; default: as fast as possible
        #[arg(long)]
        rate: Option<u32>,
        /// Of the random source ports and sequence numbers
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Run a TCP and a UDP echo service until standard input ends
    Serve {
        /// The port of both
        port: u16,
    },
    /// Tell what a client sees of a TCP port: open, refused or filtered
    Probe {
        /// The address and port
        to: SocketAddr,
        /// How long to wait for an answer, in milliseconds
        #[arg(long, default_value_t = 300)]
        patience: u64,
    },
    /// Hold a TCP session with an echo service; for each line of standard input, print whether it is alive
    Session {
        /// The address and port
        to: SocketAddr,
    },
    /// Wait until a TCP port is open or not, and print the milliseconds
    Await {
        /// The address and port
        to: SocketAddr,
        /// Wait until it does not answer any more
        #[arg(long)]
        closed: bool,
        /// Give up after that many seconds
        #[arg(long, default_value_t = 10)]
        patience: u64,
    },
    /// Measure the time from the last knock until the guarded port answers, in microseconds, a line for each round
    Latency {
        #[command(flatten)]
        link: Link,
        /// The server
        #[arg(long)]
        to: IpAddr,
        /// The TCP ports to knock
        #[arg(long, value_delimiter = ',')]
        sequence: Vec<u16>,
        /// The guarded TCP port
        #[arg(long)]
        port: u16,
        /// Microseconds between two probes
        #[arg(long, default_value_t = 20)]
        interval: u64,
        /// The source of the first round; each round has its own, and the server's answers to all must come here
        #[arg(long, default_value = "198.18.0.1")]
        first_source: Ipv4Addr,
        /// How many rounds
        #[arg(long, default_value_t = 100)]
        rounds: u32,
    },
}

#[derive(Args)]
struct Link {
    /// The interface
    #[arg(long, default_value = "eth0")]
    interface: String,
    /// The station on that link which the frames go to: the server, or the router towards it
    #[arg(long)]
    via: IpAddr,
}

#[derive(Args)]
struct Description {
    /// The source address and port
    #[arg(long)]
    from: SocketAddr,
    /// The destination address and port
    #[arg(long)]
    to: SocketAddr,
    /// A UDP datagram in place of a TCP segment
    #[arg(long)]
    udp: bool,
    /// TCP flags: any of the letters F S R P A U
    #[arg(long, default_value = "S", value_parser = flags)]
    flags: Flags,
    /// The TCP sequence number
    #[arg(long, default_value_t = 0)]
    sequence: u32,
}

impl Description {
    fn packet(&self) -> Packet {
        let mut packet = Packet::tcp(self.from, self.to, self.flags);
        packet.transport = if self.udp {
            Transport::Udp
        } else {
            Transport::Tcp { flags: self.flags, sequence: self.sequence, acknowledgment: 0 }
        };
        packet
    }
}

fn flags(letters: &str) -> std::result::Result<Flags, String> {
    letters.chars().try_fold(Flags::NONE, |flags, letter| match letter {
        'F' => Ok(flags | Flags::FIN),
        'S' => Ok(flags | Flags::SYN),
        'R' => Ok(flags | Flags::RST),
        'P' => Ok(flags | Flags::PSH),
        'A' => Ok(flags | Flags::ACK),
        'U' => Ok(flags | Flags::URG),
        other => Err(format!("`{other}` is no TCP flag; write any of F S R P A U")),
    })
}

impl Link {
    fn open(&self) -> Result<Wire> {
        Wire::towards(&self.interface, self.via)
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("knock-testkit: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::Send { link, packet } => link.open()?.send(&packet.packet())?,
        Action::Scan { link, order, from, to } => {
            let syn = |port| Packet::syn(from, SocketAddr::new(to, port), u32::from(port));
            link.open()?.send_all(&order.ports().into_iter().map(syn).collect::<Vec<_>>())?;
        }
        Action::Flood { link, packet, sources, ports, count, rate, seed } => {
            let flood = Flood { example: packet.packet(), sources, ports, count, rate, seed };
            let sent = flood.run(&link.open()?, &AtomicBool::new(false))?;
            println!("{} packets in {:.3} s: {:.0} a second", sent.packets, sent.elapsed.as_secs_f64(), sent.rate());
        }
        Action::Serve { port } => {
            let here = Namespace::current()?;
            let _services = (Echo::tcp(&here, port)?, Echo::udp(&here, port)?);
            println!("serving");
            for _ in std::io::stdin().lines() {}
        }
        Action::Probe { to, patience } => {
            println!("{}", shown(knock_testkit::tcp(to, Duration::from_millis(patience))?));
        }
        Action::Session { to } => {
            let mut session = Session::open(to, Duration::from_secs(2))?;
            println!("established");
            for _ in std::io::stdin().lines() {
                println!("{}", if session.is_alive() { "alive" } else { "dead" });
            }
        }
        Action::Await { to, closed, patience } => return await_port(to, closed, Duration::from_secs(patience)),
        Action::Latency { link, to, sequence, port, interval, first_source, rounds } => {
            let interval = Duration::from_micros(interval);
            let latency = Latency { server: to, sequence, port, interval, first_source };
            for round in latency.run(&link.open()?, rounds)? {
                println!("{}", round.probe.as_micros());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn await_port(to: SocketAddr, closed: bool, patience: Duration) -> Result<ExitCode> {
    let start = Instant::now();
    while start.elapsed() < patience {
        let probed = start.elapsed();
        // A port that is open answers within microseconds here; an unanswered try must not hide its opening.
        let reach = knock_testkit::tcp(to, Duration::from_millis(if closed { 200 } else { 2 }))?;
        if (reach == Reach::Open) != closed {
            println!("{:.1}", probed.as_secs_f64() * 1000.0);
            return Ok(ExitCode::SUCCESS);
        }
        // The service has to keep up with what is tried, or its full backlog looks like a closed port.
        std::thread::sleep(Duration::from_millis(if closed { 20 } else { 1 }));
    }
    eprintln!("knock-testkit: {to} is not {} after {} s", if closed { "closed" } else { "open" }, patience.as_secs());
    Ok(ExitCode::FAILURE)
}

fn shown(reach: Reach) -> &'static str {
    match reach {
        Reach::Open => "open",
        Reach::Refused => "refused",
        Reach::Filtered => "filtered",
    }
}
