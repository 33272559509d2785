//! A server and its clients on one Ethernet link, each in a namespace of its own.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::namespace::Namespace;
use crate::probe::{self, Reach};
use crate::wire::{FENCE_PORT, Mac, Wire};

/// How long a new link may take to carry packets on a busy machine.
const LINK_PATIENCE: Duration = Duration::from_secs(15);

/// The server's IPv4 address.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The server's IPv6 address.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

/// A namespace with one interface, `eth0`, on the network's link.
#[derive(Debug)]
pub struct Host {
    /// Where it is.
    pub namespace: Namespace,
    /// Its hardware address.
    pub mac: Mac,
    /// Its IPv4 address, in 10.77.0.0/24.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, in fd77::/64.
    pub v6: Ipv6Addr,
}

impl Host {
    fn new(number: u8) -> Result<Host> {
        let namespace = Namespace::new()?;
        for (key, value) in [
            // Addresses are usable at once, and spoofed sources are not refused before the daemon sees them.
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            // The answers to a scan are compared: none may be missing for the sake of a rate limit.
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv6/icmp/ratelimit", "0"),
        ] {
            namespace.sysctl(key, value)?;
        }
        Ok(Host {
            namespace,
            mac: Mac([2, 0, 0, 0, 0, number]),
            v4: Ipv4Addr::new(10, 77, 0, number),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()),
        })
    }

    /// Its address of the family that `like` has.
    pub fn address(&self, like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }

    /// Waits until packets get through to `address` and back: a link that has just been made loses some at first,
    /// until the kernel has seen its carrier, and a neighbour is not known yet.
    pub(crate) fn wait_for(&self, address: IpAddr) -> Result<()> {
        let start = Instant::now();
        let try_it = || probe::tcp((address, FENCE_PORT).into(), Duration::from_millis(100));
        loop {
            // Unreachable, as the kernel says for a neighbour that does not answer, is to be tried again too.
            if let Ok(Reach::Refused) = self.namespace.run(try_it)? {
                return Ok(());
            }
            if start.elapsed() > LINK_PATIENCE {
                return Err(Error::TimedOut {
                    what: format!("an answer from {address}"),
                    seconds: LINK_PATIENCE.as_secs_f32(),
                });
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// A packet socket on its `eth0`, whose frames go to `peer`.
    pub fn wire(&self, peer: &Host) -> Result<Wire> {
        self.namespace.run(|| Wire::open("eth0", self.mac, peer.mac))?
    }
}

/// A server and its clients, joined by a bridge in a namespace of its own.
///
/// Addresses outside 10.77.0.0/24 and fd77::/64 are routed to the first client, so that answers to spoofed sources
/// arrive there. All of it goes when this is dropped, and when the process dies.
#[derive(Debug)]
pub struct Network {
    /// The host that knockd runs on: [`SERVER_V4`] and [`SERVER_V6`].
    pub server: Host,
    /// Those that knock: 10.77.0.2 and fd77::2, and so on upward.
    pub clients: Vec<Host>,
    bridge: Namespace,
}

impl Network {
    /// A server and that many clients, at least one.
    pub fn new(clients: u8) -> Result<Network> {
        let bridge = Namespace::new()?;
        bridge.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br0 up")?;
        let network = Network {
            server: Host::new(1)?,
            clients: (0..clients.max(1)).map(|index| Host::new(index + 2)).collect::<Result<_>>()?,
            bridge,
        };
        let mut ports = String::new();
        for (index, host) in network.hosts().enumerate() {
            let (mac, pid) = (host.mac, host.namespace.pid());
            let _ = writeln!(ports, "link add p{index} type veth peer name eth0 address {mac} netns {pid}");
            let _ = writeln!(ports, "link set p{index} master br0 up");
        }
        network.bridge.ip(&ports)?;
        for host in network.hosts() {
            host.namespace.ip(&format!(
                "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up",
                host.v4, host.v6
            ))?;
        }
        let router = &network.clients[0];
        network
            .server
            .namespace
            .ip(&format!("route add default via {}\nroute add ::/0 via {}", router.v4, router.v6))?;
        for client in &network.clients {
            client.namespace.ip(&format!("route add default via {SERVER_V4}\nroute add ::/0 via {SERVER_V6}"))?;
        }
        for client in &network.clients {
            client.wait_for(SERVER_V4.into())?;
            client.wait_for(SERVER_V6.into())?;
        }
        Ok(network)
    }

    /// The first client.
    pub fn client(&self) -> &Host {
        &self.clients[0]
    }

    /// A link of its own between the server and the first client, beside the bridge: interface `name` at both ends,
    /// the server with `net`.1 and the client with `net`.2, /24.
    pub fn add_link(&self, name: &str, net: [u8; 3]) -> Result<()> {
        let [a, b, c] = net;
        let client = &self.client().namespace;
        self.server.namespace.ip(&format!(
            "link add {name} type veth peer name {name} netns {}\naddr add {a}.{b}.{c}.1/24 dev {name}\nlink set {name} up",
            client.pid()
        ))?;
        client.ip(&format!("addr add {a}.{b}.{c}.2/24 dev {name}\nlink set {name} up"))?;
        self.client().wait_for(Ipv4Addr::new(a, b, c, 1).into())
    }

    /// Drops packets between the hosts that match `rule`, in the language of nft for a bridge; of several calls all count.
    pub fn block(&self, rule: &str) -> Result<()> {
        let script = format!(
            "add table bridge t\nadd chain bridge t f {{ type filter hook forward priority 0; }}\nadd rule bridge t f {rule} drop\n"
        );
        self.bridge.nft(&script).map(|_| ())
    }

    /// Ends all of [`Network::block`].
    pub fn unblock(&self) -> Result<()> {
        self.bridge.nft("add table bridge t\ndelete table bridge t\n").map(|_| ())
    }

    fn hosts(&self) -> impl Iterator<Item = &Host> {
        std::iter::once(&self.server).chain(&self.clients)
    }
}
